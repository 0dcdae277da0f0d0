"""The last step of an import: a verified box comes to Docker."""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
import docker.errors

from vagrant_kiwi import (
    box_archive_streams,
    box_images,
    box_import,
    boxes,
    docker_api,
    docker_boxes,
    docker_facts,
    docker_stream,
    state,
)
from vagrant_kiwi.box_archive import DockerArchive
from vagrant_kiwi.box_build import (
    LABEL_BOX,
    LABEL_BUILD,
    LABEL_KIWI,
    LABEL_ORIGIN,
    LABEL_RECIPE,
    LABEL_SOURCE,
    LABEL_VERSION,
    add_file,
    swept,
)
from vagrant_kiwi.box_import import Wanted
from vagrant_kiwi.box_recipe import repository_of
from vagrant_kiwi.box_supply import Supply
from vagrant_kiwi.boxes import DockerBox
from vagrant_kiwi.console import PhaseView
from vagrant_kiwi.deadline import Deadline
from vagrant_kiwi.errors import BoxError
from vagrant_kiwi.guests.vagrantfile import Box

#: What starts a guest of a root file system, which cannot say it itself: as our own boxes do it, or
#: with sshd alone, as in Dice's guide.
_COMMAND = (
    "guest=/usr/local/sbin/vagrant-kiwi-guest; [ ! -x $guest ] || exec $guest; "
    "ssh-keygen -A >/dev/null; mkdir -p /run/sshd; exec /usr/sbin/sshd -D -e"
)
#: Bytes; more than any box takes.
_PLENTY = 1 << 40
#: How the file's name ends that names an image while it is loaded.
JOURNAL = ".loading"
_DOCKERFILE = b"ARG BASE\nFROM ${BASE}\n"


def add(supply: Supply, wanted: Wanted, *, anew: bool = False) -> Box:
    """Import a box; nothing happens if the very same is there.

    Args:
        supply: what it takes.
        wanted: the box.
        anew: also if it is there.

    Raises:
        BoxError: it cannot be had, or is not what it should be; nothing is left of it then.
        PreflightError: the host lacks something for it.
        PhaseTimeoutError: it takes too long.
    """
    deadline = Deadline.after(supply.settings.timeouts.box, what=f"Importing the box {wanted.name}")
    if wanted.kind == "libvirt":
        # Imported here: libvirt's bindings are there only where that provider is used.
        from vagrant_kiwi import machine_arrival

        return machine_arrival.add(supply, wanted, deadline, anew=anew)
    with (
        boxes.only_one(supply.cache, wanted.name, supply.console.note, deadline),
        docker_api.client(supply.environment) as client,
        boxes.docker_errors(),
    ):
        there = None if anew else _there(client, supply, wanted)
        return there or _to_docker(supply, wanted, client, deadline, anew=anew)


def _there(client: docker.DockerClient, supply: Supply, wanted: Wanted) -> DockerBox | None:
    """Return the box that is there, if nothing has to be asked to know that it is the one."""
    if wanted.sha256 is not None:
        return _installed(client, wanted.name, wanted.sha256)
    if wanted.image is None or supply.settings.docker.pull == "always":
        return None
    found = docker_boxes.installed(client, wanted.name)
    return next((docker_boxes.as_box(one) for one in found if one.origin == wanted.origin), None)


def _installed(client: docker.DockerClient, name: str, digest: str) -> DockerBox | None:
    found = docker_boxes.installed(client, name)
    return next((docker_boxes.as_box(one) for one in found if one.digest == digest), None)


def _to_docker(
    supply: Supply, wanted: Wanted, client: docker.DockerClient, deadline: Deadline, *, anew: bool
) -> DockerBox:
    note = supply.console.note
    with (
        supply.console.phase("box") as view,
        swept(client, wanted.name, supply.cache, supply.runner, note) as build,
    ):
        arriving = _Arriving(supply, wanted, client, view, deadline, build, anew)
        try:
            digest, image = _of_registry(arriving) if wanted.image else _of_archive(arriving)
        except docker_stream.DockerStreamError as error:
            raise BoxError(
                f"Docker does not take the box {wanted.name}",
                details=str(error),
                resolution=f"Is {wanted.origin} what docker save or docker export wrote?",
            ) from error
        if image is not None:
            repository = repository_of(wanted.name)
            before = boxes.image_of(client, f"{repository}:{digest[:12]}")
            with supply.gate.shield():
                client.api.tag(image, repository, digest[:12])
                if before is not None:
                    boxes.drop(client, before, supply.cache)
        box = _installed(client, wanted.name, digest)
        assert box is not None  # noqa: S101 - it was named just now, or found, under the lock
        boxes.remove_others(client, box, supply.cache, note)
    return box


@dataclass(frozen=True)
class _Arriving:
    """An import that is under way."""

    supply: Supply
    wanted: Wanted
    client: docker.DockerClient
    view: PhaseView
    deadline: Deadline
    build: str
    anew: bool

    def labels(self, digest: str) -> dict[str, str]:
        """Return what the image says of itself."""
        wanted = self.wanted
        return {
            LABEL_BOX: wanted.name,
            LABEL_BUILD: self.build,
            LABEL_VERSION: wanted.version,
            LABEL_KIWI: wanted.kiwi or "",
            LABEL_ORIGIN: wanted.origin,
            LABEL_SOURCE: digest,
            # One of our boxes that came this way is no box of a recipe any more.
            LABEL_RECIPE: "",
        }

    def is_there(self, digest: str) -> bool:
        """Tell whether the very same is there, and need not come again."""
        return not self.anew and _installed(self.client, self.wanted.name, digest) is not None


def _of_archive(arriving: _Arriving) -> tuple[str, str | None]:
    """Give an archive to Docker; return its checksum and the image's id, or None if it is there."""
    supply, client, view = arriving.supply, arriving.client, arriving.view
    free = docker_facts.read(client, client.info()).free
    with box_import.verified(
        supply,
        arriving.wanted,
        view,
        arriving.deadline,
        # Where it is not known, the daemon says when it is full.
        room=free if free is not None else _PLENTY,
    ) as found:
        if arriving.is_there(found.sha256):
            return found.sha256, None
        view.update("handing it to Docker")
        if isinstance(found.archive, DockerArchive):
            with _loaded(arriving, found.path, found.archive) as image:
                return found.sha256, _labelled(arriving, image, found.sha256)
        return found.sha256, docker_stream.import_tar(
            client,
            box_archive_streams.import_stream(found.path),
            labels=arriving.labels(found.sha256),
            changes=(f"CMD {json.dumps(['/bin/sh', '-c', _COMMAND])}", "EXPOSE 22"),
            deadline=arriving.deadline,
        )


@contextlib.contextmanager
def _loaded(arriving: _Arriving, path: Path, archive: DockerArchive) -> Iterator[str]:
    """Load an archive into Docker without any name, and yield its id.

    Such an image has no label of ours; its id stands in a file until it has a child that has, so
    that what a killed import left is found by the next one, or by ``box-prune``.
    """
    client, cache = arriving.client, arriving.supply.cache
    journal = cache / f"{arriving.wanted.name}{JOURNAL}"
    clear_up(client, journal, cache)
    if boxes.image_of(client, archive.image_id) is None:
        state.write_text(journal, f"{archive.image_id}\n")
    try:
        yield docker_stream.load(
            client,
            box_archive_streams.load_stream(path, archive),
            log=arriving.view.update,
            deadline=arriving.deadline,
        )
    except BaseException:
        clear_up(client, journal, cache)
        raise
    journal.unlink(missing_ok=True)


def clear_up(client: docker.DockerClient, journal: Path, cache: Path) -> None:
    """Remove the image that a load left which did not come to its end.

    Args:
        client: the Docker daemon.
        journal: the file that names it; nothing happens without one. The caller holds the lock on
            making the box.
        cache: the user's cache folder.
    """
    if journal.exists():
        boxes.drop(client, journal.read_text("ascii").strip(), cache)
        journal.unlink()


def _labelled(arriving: _Arriving, image: str, digest: str) -> str:
    """Make an image that is another one with our labels; return its id."""
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        add_file(tar, "Dockerfile", _DOCKERFILE)
    context.seek(0)
    return docker_stream.build(
        arriving.client,
        context,
        arguments={"BASE": image},
        labels=arriving.labels(digest),
        network="none",
        log=arriving.view.update,
        deadline=arriving.deadline,
    )


def _of_registry(arriving: _Arriving) -> tuple[str, str | None]:
    """Take an image; return the checksum of its manifest, or its id, and the id of our image.

    No name of the user's is moved: what comes from the registry comes by its checksum.
    """
    wanted, client, view = arriving.wanted, arriving.client, arriving.view
    assert wanted.image is not None  # noqa: S101 - the caller looked
    policy = "always" if arriving.anew else arriving.supply.settings.docker.pull
    local = boxes.image_of(client, wanted.image) if wanted.sha256 is None else None
    if local is not None and policy != "always":
        digest = local.removeprefix("sha256:")
        return digest, None if arriving.is_there(digest) else _labelled(arriving, local, digest)
    digest = wanted.sha256 or _asked(client, wanted.image, policy)
    if arriving.is_there(digest):
        return digest, None
    reference = box_images.pinned(wanted.image, digest)
    before = boxes.image_of(client, reference)
    pulled = box_images.find(
        client,
        reference,
        policy="never" if policy == "never" else "missing",
        timeout=arriving.deadline.left(),
        log=view.update,
    )
    try:
        return digest, _labelled(arriving, pulled.image_id, digest)
    finally:
        if before is None:
            # The layers stay, with our image.
            boxes.remove_tag(client, reference)


def _asked(client: docker.DockerClient, image: str, policy: str) -> str:
    """Ask the registry for the checksum of an image's manifest."""
    if policy == "never":
        raise BoxError(
            f"Docker has no image {image}",
            details="docker.pull is never",
            resolution="Pull or load the image yourself, or set docker.pull to missing.",
        )
    try:
        return str(client.images.get_registry_data(image).id).removeprefix("sha256:")
    except docker.errors.APIError as error:
        raise box_images.not_had(image, str(error)) from error
