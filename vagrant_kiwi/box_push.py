"""``box-push``: a docker box goes to a registry of the user's."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path

import docker
import docker.utils

from vagrant_kiwi import (
    box_admin,
    box_by_name,
    boxes,
    catalog,
    docker_api,
    docker_stream,
    state,
)
from vagrant_kiwi.app import Request
from vagrant_kiwi.box_supply import Supply
from vagrant_kiwi.console import Console
from vagrant_kiwi.deadline import Deadline
from vagrant_kiwi.errors import BoxError, UsageError

#: Seconds without progress after which a push has failed.
_STALL = 120.0
#: How the file's name ends that tells which name an image has for a push only.
JOURNAL = ".pushing"


def push(
    request: Request, console: Console, *, image: str, kiwi_version: str | None
) -> dict[str, object]:
    """Put a docker box into a registry, with the login that Docker's own client has there.

    Args:
        request: the task's input; its settings name the box, of which goes what a build would take.
        console: shows progress.
        image: its name there, with the registry; the tag is "latest" if there is none.
        kiwi_version: of the box with another KIWI.

    Raises:
        BoxError: there is no such box, or the registry does not take it.
        UsageError: the image's name has no registry.
        PreflightError: Docker does not answer.
    """
    repository, tag = docker.utils.parse_repository_tag(image)
    host = repository.partition("/")[0]
    if "@" in image or "/" not in repository or not (set(".:") & set(host) or host == "localhost"):
        raise UsageError(
            f"{image} names no place in a registry",
            resolution="Give it as in registry.example.com/kiwi:1, or docker.io/me/kiwi:1.",
        )
    reference = f"{repository}:{tag or 'latest'}"
    deadline = Deadline.after(request.settings.timeouts.box, what=f"Pushing {reference}")
    name = request.settings.box or catalog.DEFAULT
    settings = request.settings.model_copy(update={"kiwi_version": kiwi_version})
    asked = dataclasses.replace(request, settings=settings)
    with (
        box_admin.supply(asked, console, "docker") as supply,
        box_by_name.held(supply, name) as box,
        console.phase("push") as view,
        docker_api.client(supply.environment) as client,
        boxes.docker_errors(),
        _named(supply, client, box.content, reference, deadline),
    ):
        try:
            digest = docker_stream.push(
                client, reference, stall=_STALL, log=view.update, deadline=deadline
            )
        except docker_stream.DockerStreamError as error:
            raise BoxError(
                f"The registry does not take {reference}",
                details=str(error),
                resolution=f"Does it want a login? docker login {host}",
            ) from error
    return {"status": "pushed", "name": name, "image": reference, "digest": digest}


@contextlib.contextmanager
def _named(
    supply: Supply, client: docker.DockerClient, image: str, reference: str, deadline: Deadline
) -> Iterator[None]:
    """Give an image another name for the body; one that it had before stays.

    The name stands in a file meanwhile, so that one which a killed push left is known to be ours.
    """
    journal = supply.cache / f"{hashlib.sha256(reference.encode()).hexdigest()[:24]}{JOURNAL}"
    with boxes.only_one(supply.cache, journal.stem, supply.console.note, deadline):
        clear_up(client, journal)
        there = boxes.image_of(client, reference)
        if there not in (None, image):
            raise BoxError(
                f"{reference} is another image on this host",
                details=f"{there}, and the box is {image}",
                resolution=f"Remove that name (docker rmi {reference}), or choose another tag.",
            )
        if there is None:
            state.write_text(journal, f"{reference} {image}\n")
            client.api.tag(image, *docker.utils.parse_repository_tag(reference))
        try:
            yield
        finally:
            with supply.gate.shield():
                clear_up(client, journal)


def clear_up(client: docker.DockerClient, journal: Path) -> None:
    """Remove the name that a push gave to an image, unless it is another image's by now.

    Args:
        client: the Docker daemon.
        journal: the file that tells both; nothing happens without one. The caller holds the lock.
    """
    if journal.exists():
        reference, image = journal.read_text("ascii").split()
        if boxes.image_of(client, reference) == image:
            boxes.remove_tag(client, reference)
        journal.unlink()
