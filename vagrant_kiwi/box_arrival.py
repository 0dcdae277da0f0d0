"""The last step of an import: a verified box comes to Docker, or to Vagrant and libvirt."""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import docker
import docker.errors

from vagrant_kiwi import (
    box_archive_streams,
    box_images,
    box_import,
    box_recipe,
    boxes,
    docker_api,
    docker_boxes,
    docker_stream,
    machine_boxes,
    state,
)
from vagrant_kiwi.box_archive import DockerArchive, MachineArchive
from vagrant_kiwi.box_build import (
    LABEL_BOX,
    LABEL_BUILD,
    LABEL_KIWI,
    LABEL_ORIGIN,
    LABEL_RECIPE,
    LABEL_SOURCE,
    LABEL_VERSION,
    swept,
)
from vagrant_kiwi.box_import import Verified, Wanted
from vagrant_kiwi.box_supply import Supply
from vagrant_kiwi.boxes import DockerBox
from vagrant_kiwi.console import PhaseView
from vagrant_kiwi.deadline import Deadline
from vagrant_kiwi.errors import BoxError
from vagrant_kiwi.guests.vagrantfile import Box
from vagrant_kiwi.machine_boxes import MachineBox, Making

#: What starts a guest of a root file system, which cannot say it itself: as our own boxes do it, or
#: with sshd alone, as in Dice's guide.
_COMMAND = (
    "guest=/usr/local/sbin/vagrant-kiwi-guest; [ ! -x $guest ] || exec $guest; "
    "ssh-keygen -A >/dev/null; mkdir -p /run/sshd; exec /usr/sbin/sshd -D -e"
)
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
        return _to_libvirt(supply, wanted, deadline, anew=anew)
    with (
        boxes.only_one(supply.cache, wanted.name, supply.console.note, deadline),
        docker_api.client(supply.environment) as client,
        boxes.docker_errors(),
    ):
        there = None if anew else _in_docker(client, wanted.name, wanted.sha256)
        return there if there is not None else _to_docker(supply, wanted, client, deadline)


def _in_docker(client: docker.DockerClient, name: str, digest: str | None) -> DockerBox | None:
    found = docker_boxes.installed(client, name) if digest is not None else []
    return next((docker_boxes.as_box(one) for one in found if one.digest == digest), None)


def _to_docker(
    supply: Supply, wanted: Wanted, client: docker.DockerClient, deadline: Deadline
) -> DockerBox:
    note = supply.console.note
    with (
        supply.console.phase("box") as view,
        swept(client, wanted.name, supply.cache, supply.runner, note) as build,
    ):
        labels = {
            LABEL_BOX: wanted.name,
            LABEL_BUILD: build,
            LABEL_VERSION: wanted.version,
            LABEL_KIWI: wanted.kiwi or "",
            LABEL_ORIGIN: wanted.origin,
            # One of our boxes that came this way is no box of a recipe any more.
            LABEL_RECIPE: "",
        }
        try:
            if wanted.image is not None:
                digest, image = _of_registry(supply, wanted, client, labels, view, deadline)
            else:
                digest, image = _of_archive(supply, wanted, client, labels, view, deadline)
        except docker_stream.DockerStreamError as error:
            raise BoxError(
                f"Docker does not take the box {wanted.name}",
                details=str(error),
                resolution=f"Is {wanted.origin} what docker save or docker export wrote?",
            ) from error
        repository = boxes.repository_of(wanted.name)
        before = boxes.image_of(client, f"{repository}:{digest[:12]}")
        with supply.gate.shield():
            client.api.tag(image, repository, digest[:12])
            if before is not None:
                boxes.drop(client, before, supply.cache)
        box = _in_docker(client, wanted.name, digest)
        assert box is not None  # noqa: S101 - it was named just now, under the lock
        boxes.remove_others(client, box, supply.cache, note)
    return box


def _of_archive(
    supply: Supply,
    wanted: Wanted,
    client: docker.DockerClient,
    labels: Mapping[str, str],
    view: PhaseView,
    deadline: Deadline,
) -> tuple[str, str]:
    """Give an archive to Docker; return its checksum and the image's id."""
    room = _room(client)
    with box_import.verified(supply, wanted, view, deadline, room=room) as found:
        labels = {**labels, LABEL_SOURCE: found.sha256}
        view.update("handing it to Docker")
        if not isinstance(found.archive, DockerArchive):
            return found.sha256, docker_stream.import_tar(
                client,
                box_archive_streams.import_stream(found.path),
                labels=labels,
                changes=(f"CMD {json.dumps(['/bin/sh', '-c', _COMMAND])}", "EXPOSE 22"),
                log=view.update,
                deadline=deadline,
            )
        arch = box_recipe.host_arch()
        if found.archive.architecture != arch:
            raise BoxError(
                f"The box {wanted.name} is for another architecture",
                details=f"it is for {found.archive.architecture}, this host is {arch}",
            )
        with _loaded(supply, client, found, found.archive, wanted.name, view, deadline) as image:
            return found.sha256, _labelled(client, image, labels, view, deadline)


@contextlib.contextmanager
def _loaded(
    supply: Supply,
    client: docker.DockerClient,
    found: Verified,
    archive: DockerArchive,
    name: str,
    view: PhaseView,
    deadline: Deadline,
) -> Iterator[str]:
    """Load an archive into Docker without any name, and yield its id.

    Such an image has no label of ours; its id stands in a file until it has a child that has, so
    that what a killed import left is found by the next one.
    """
    journal = supply.cache / f"{name}.loading"
    if journal.exists():
        boxes.drop(client, journal.read_text("ascii").strip(), supply.cache)
    if boxes.image_of(client, archive.image_id) is None:
        state.write_text(journal, f"{archive.image_id}\n")
    try:
        image = docker_stream.load(
            client,
            box_archive_streams.load_stream(found.path, archive),
            log=view.update,
            deadline=deadline,
        )
        yield image
    except BaseException:
        if journal.exists():
            boxes.drop(client, archive.image_id, supply.cache)
        raise
    finally:
        journal.unlink(missing_ok=True)


def _labelled(
    client: docker.DockerClient,
    image: str,
    labels: Mapping[str, str],
    view: PhaseView,
    deadline: Deadline,
) -> str:
    """Make an image that is another one with our labels; return its id."""
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        member = tarfile.TarInfo("Dockerfile")
        member.size = len(_DOCKERFILE)
        tar.addfile(member, io.BytesIO(_DOCKERFILE))
    context.seek(0)
    return docker_stream.build(
        client,
        context,
        arguments={"BASE": image},
        labels=labels,
        network="none",
        log=view.update,
        deadline=deadline,
    )


def _of_registry(
    supply: Supply,
    wanted: Wanted,
    client: docker.DockerClient,
    labels: Mapping[str, str],
    view: PhaseView,
    deadline: Deadline,
) -> tuple[str, str]:
    """Pull an image; return the checksum of its manifest, or its id, and the id of our image."""
    assert wanted.image is not None  # noqa: S101 - the caller looked
    reference = box_images.pinned(wanted.image, wanted.sha256)
    before = boxes.image_of(client, reference)
    pulled = box_images.find(
        client,
        reference,
        policy=supply.settings.docker.pull,
        timeout=deadline.left(),
        log=view.update,
    )
    digest = wanted.sha256 or pulled.image_id.removeprefix("sha256:")
    image = _labelled(client, pulled.image_id, {**labels, LABEL_SOURCE: digest}, view, deadline)
    if before is None:
        # The layers stay, with our image.
        boxes.remove_tag(client, pulled.image)
    return digest, image


def _room(client: docker.DockerClient) -> int:
    """Return the bytes that are free where Docker keeps images; plenty if that is not known."""
    root = Path(str(client.info().get("DockerRootDir") or ""))
    try:
        return shutil.disk_usage(root).free
    except OSError:
        # Its host is another one, or only root may look.
        return 1 << 40


def _to_libvirt(supply: Supply, wanted: Wanted, deadline: Deadline, *, anew: bool) -> Box:
    # Imported here: libvirt's bindings are there only where that provider is used.
    from vagrant_kiwi import machine_supply

    with machine_supply.folder_of(supply, wanted.name, deadline) as folder:
        box = None
        if wanted.sha256 is not None and not anew:
            box = machine_boxes.find(folder, wanted.sha256)
        if box is None:
            with supply.console.phase("import") as view:
                # Vagrant unpacks it, and libvirt gets the disk.
                room = shutil.disk_usage(folder).free // 2
                with box_import.verified(supply, wanted, view, deadline, room=room) as found:
                    box = _adopt(supply, wanted, found, folder)
        machine_supply.bring(supply, box, folder, deadline)
        return box


def _adopt(supply: Supply, wanted: Wanted, found: Verified, folder: Path) -> MachineBox:
    """Take a verified file into the cache; a person's own file is copied."""
    assert isinstance(found.archive, MachineArchive)  # noqa: S101 - verified() looked
    if found.archive.disks != ("box.img",):
        raise BoxError(
            f"{wanted.origin} is no box that can be used here",
            details=f"its disks are {', '.join(found.archive.disks)}; there must be box.img alone",
            resolution="Have its maker pack it as a box with one disk.",
        )
    if found.archive.has_vagrantfile:
        supply.console.note(
            f"{wanted.origin} brings a Vagrantfile, which Vagrant runs on this host with each guest"
        )
    # A folder without a record is what a killed import leaves; it is removed with older versions.
    arriving = folder / "arriving"
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(arriving)
    arriving.mkdir()
    file = arriving / f"{wanted.name}.box"
    try:
        if wanted.url is not None:
            found.path.rename(file)
        else:
            shutil.copyfile(found.path, file)
            if box_import.sha256_of(file, lambda _: None) != found.sha256:
                raise BoxError(
                    f"{wanted.origin} changed while it was looked at",
                    resolution="Try again when nobody writes to it.",
                )
        with supply.gate.shield():
            return machine_boxes.adopt(
                Making(wanted.name, wanted.version, found.sha256, wanted.kiwi, wanted.origin),
                folder,
                file,
                sha256=found.sha256,
                now=datetime.datetime.now(datetime.UTC),
            )
    except OSError as error:
        raise BoxError(
            f"The box {wanted.name} cannot be kept",
            details=str(error),
            resolution=f"See to it that there is room in {folder}.",
        ) from error
    finally:
        shutil.rmtree(arriving, ignore_errors=True)
