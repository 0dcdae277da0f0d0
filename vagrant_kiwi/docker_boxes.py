"""The boxes that a Docker daemon has: listed, found by name, removed.

What they are stands in labels of the images, so that every user of the daemon sees the same.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import docker
import docker.errors
import docker.utils

from vagrant_kiwi import box_use
from vagrant_kiwi.box_build import (
    LABEL_BOX,
    LABEL_KIWI,
    LABEL_ORIGIN,
    LABEL_RECIPE,
    LABEL_SOURCE,
    LABEL_VERSION,
)
from vagrant_kiwi.box_installed import Installed
from vagrant_kiwi.box_recipe import repository_of
from vagrant_kiwi.boxes import DockerBox, docker_errors, remove_tag, short_name
from vagrant_kiwi.guests.docker import RUN_LABEL


def installed(client: docker.DockerClient, name: str | None = None) -> list[Installed]:
    """Return the boxes of a daemon, the newest first.

    Args:
        client: the Docker daemon.
        name: of the box; all boxes if not given.

    Raises:
        BoxError: the daemon answers with an error.
        PreflightError: it does not answer.
    """
    wanted = f"{LABEL_BOX}={name}" if name is not None else LABEL_BOX
    with docker_errors():
        users = _users(client)
        # Not client.images, which asks for each image again, when it may be gone.
        found = [
            _as_installed(image, tag, users)
            for image in client.api.images(filters={"label": wanted})
            for tag in image.get("RepoTags") or ()
            # An image that was built on a box has its labels too, and another name.
            if short_name(tag).rpartition(":")[0] == repository_of(image["Labels"][LABEL_BOX])
        ]
    return sorted(found, key=lambda box: box.created, reverse=True)


def _users(client: docker.DockerClient) -> dict[str, list[str]]:
    """Return the guests, and other containers, by the id of their image."""
    users: dict[str, list[str]] = {}
    for one in client.api.containers(all=True):
        run = (one.get("Labels") or {}).get(RUN_LABEL)
        names = [name.lstrip("/") for name in one.get("Names") or ()]
        users.setdefault(str(one["ImageID"]), []).append(
            f"run {run}" if run else f"container {(*names, one['Id'][:12])[0]}"
        )
    return users


def _as_installed(
    image: Mapping[str, Any], tag: str, users: Mapping[str, Sequence[str]]
) -> Installed:
    labels = image["Labels"]
    return Installed(
        name=labels[LABEL_BOX],
        kind="docker",
        version=labels.get(LABEL_VERSION, ""),
        image=short_name(tag),
        content=str(image["Id"]),
        digest=labels.get(LABEL_SOURCE) or labels.get(LABEL_RECIPE, ""),
        size=int(image["Size"]),
        created=datetime.datetime.fromtimestamp(image["Created"], datetime.UTC),
        kiwi=labels.get(LABEL_KIWI) or None,
        origin=labels.get(LABEL_ORIGIN, "recipe"),
        users=tuple(sorted(users.get(str(image["Id"]), ()))),
    )


def as_box(one: Installed) -> DockerBox:
    """Return an installed box as what a build takes."""
    return DockerBox(
        name=one.name,
        version=one.version,
        image=one.image,
        image_id=one.content,
        digest=one.digest,
        size=one.size,
        kiwi=one.kiwi,
    )


def remove(
    client: docker.DockerClient,
    boxes: Sequence[Installed],
    cache: Path,
    *,
    force: bool,
    log: Callable[[str], None],
) -> list[Installed]:
    """Remove boxes that nothing uses.

    Args:
        client: the Docker daemon.
        boxes: those to remove; the caller holds the lock on making them.
        cache: the user's cache folder, where builds hold what they use.
        force: also those that containers use; these go on with what they have.
        log: told what stays, and why.

    Returns:
        Those that are gone.

    Raises:
        BoxError: the daemon answers with an error.
        PreflightError: it does not answer.
    """
    gone = []
    # While the lock was waited for, a name may have gone to another image, or a guest come.
    now = {(box.image, box.content): box for box in installed(client)}
    for box in boxes:
        found = now.get((box.image, box.content))
        with box_use.removing(cache, box.content) as free, docker_errors():
            if found is None:
                gone.append(box)
            elif not (free or force):
                log(f"{box.image} stays: a build is using it")
            elif found.users and not force:
                log(f"{box.image} stays: in use by {', '.join(found.users)}")
            elif remove_tag(client, box.image, force=force):
                gone.append(box)
            else:
                log(f"{box.image} stays: it is in use")
    return gone


def nameless(client: docker.DockerClient, *, older: float) -> list[tuple[str, tuple[str, ...]]]:
    """Return images of boxes that have lost their name, with who uses each.

    Args:
        client: the Docker daemon.
        older: seconds; younger ones may be a step of a box that is being made.
    """
    users = _users(client)
    found = client.api.images(filters={"label": LABEL_BOX, "dangling": True})
    return [
        (str(one["Id"]), tuple(users.get(str(one["Id"]), ())))
        for one in found
        if time.time() - one["Created"] > older
    ]
