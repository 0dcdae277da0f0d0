"""A docker box that is an image of a registry, or whatever image the Docker daemon has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import docker
import docker.errors
import docker.utils

from vagrant_kiwi import box_recipe, boxes, docker_api, docker_stream
from vagrant_kiwi.boxes import DockerBox
from vagrant_kiwi.deadline import Deadline
from vagrant_kiwi.errors import BoxError

#: Seconds without progress after which a pull has failed.
_STALL = 120.0


def is_image(name: str) -> bool:
    """Tell whether the name of a box is that of an image; those of our boxes have no such sign."""
    return "/" in name or ":" in name


def pinned(image: str, sha256: str | None) -> str:
    """Return the reference by which Docker takes one manifest of an image and no other.

    Args:
        image: repository and tag.
        sha256: of the manifest; without it, what the tag names is taken.
    """
    if sha256 is None:
        return image
    # A reference with both is not understood by the API of Docker 20.10.
    return f"{docker.utils.parse_repository_tag(image)[0]}@sha256:{sha256}"


def find(
    client: docker.DockerClient,
    name: str,
    *,
    policy: Literal["missing", "always", "never"],
    timeout: float,
    log: Callable[[str], None],
) -> DockerBox:
    """Return an image as a box, pulled as the policy says.

    Args:
        client: the Docker daemon.
        name: repository and tag or digest; the tag is "latest" if there is none.
        policy: ``always`` asks the registry each time; ``never`` takes what is there.
        timeout: seconds for the pull.
        log: takes the lines of what happens.

    Raises:
        BoxError: it is not there, and cannot be had.
        PreflightError: the daemon does not answer.
        PhaseTimeoutError: the pull takes too long.
    """
    repository, tag = docker.utils.parse_repository_tag(name)
    full = name if tag else f"{repository}:latest"
    try:
        image = None if policy == "always" else boxes.local_image(client, full)
        if image is None and policy != "never":
            log(f"pulling {full}")
            docker_stream.pull(
                client,
                full,
                arch=box_recipe.host_arch(),
                stall=_STALL,
                log=log,
                deadline=Deadline.after(timeout, what=f"Pulling the box {full}"),
            )
            image = boxes.local_image(client, full)
    except docker_stream.DockerStreamError as error:
        raise not_had(full, str(error)) from error
    except docker.errors.APIError as error:
        raise BoxError(f"Docker has no box {full}", details=str(error)) from error
    except docker_api.FAILURES as error:
        raise docker_api.unreachable(error) from error
    if image is None:
        raise BoxError(
            f"Docker has no box {full}",
            details="docker.pull is never",
            resolution="Pull or load the image yourself, or set docker.pull to missing.",
        )
    return DockerBox(
        name=name,
        version=tag or "latest",
        image=full,
        image_id=str(image.id),
        digest="",
        size=int(image.attrs["Size"]),
    )


def not_had(image: str, why: str) -> BoxError:
    """Return the error for an image that its registry does not give."""
    return BoxError(
        f"The box {image} cannot be pulled",
        details=why,
        resolution="Is the name right? Does the registry want a login (docker login)?",
    )
