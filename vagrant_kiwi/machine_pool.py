"""What libvirt has of build boxes: the disks that machines start from, and who uses them."""

from __future__ import annotations

import contextlib
import datetime
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import libvirt
from lxml import etree

from vagrant_kiwi import box_use, libvirt_api
from vagrant_kiwi.box_installed import Installed
from vagrant_kiwi.errors import BoxError
from vagrant_kiwi.machine_boxes import (
    RECORD,
    MachineBox,
    flat_name,
    forget,
    kept,
    unfinished,
    vagrant_folder,
)
from vagrant_kiwi.process import Runner

#: Bytes that one message to libvirt takes; its protocol has some 256 KiB.
_CHUNK = 256 * 1000


def upload(
    box: MachineBox,
    image: Path,
    *,
    uri: str,
    pool: str,
    progress: Callable[[int], None],
) -> None:
    """Put a box's disk into libvirt's storage pool, if it is not there, whole.

    vagrant-libvirt would do it too, but it takes what an upload that was killed left for the whole
    volume, and does not know of an upload that is under way in another process. The caller holds a
    lock.

    Args:
        box: the box.
        image: the disk image in Vagrant's folder.
        uri: where libvirt is.
        pool: name of the storage pool.
        progress: told the percent.

    Raises:
        BoxError: it cannot be uploaded; nothing is left of it.
        PreflightError: libvirt does not answer.
    """
    size = image.stat().st_size
    with libvirt_api.client(uri) as connection:
        target = connection.storagePoolLookupByName(pool)
        target.refresh(0)
        name = volume_name(box)
        with contextlib.suppress(libvirt.libvirtError):
            volume = target.storageVolLookupByName(name)
            if _length(volume) == size:
                return
            if users := _overlays(connection).get(name):
                raise BoxError(
                    f"libvirt has another disk named {name}",
                    details=f"in use by {', '.join(users)}",
                    resolution="invoke box-add --force brings the box under a new version.",
                )
            # An upload that was cut short; nobody can have started from it.
            volume.delete(0)
        volume = None
        try:
            volume = target.createXML(_volume_xml(name, image), 0)
            _send(connection, volume, image, size, progress)
        except BaseException as error:
            if volume is not None:
                with contextlib.suppress(libvirt.libvirtError):
                    volume.delete(0)
            if isinstance(error, libvirt.libvirtError | OSError):
                raise BoxError(
                    f"The box {box.image} {box.version} could not be uploaded to libvirt",
                    details=f"{uri}, pool {pool}: {error}",
                    resolution="Is there room in the pool, and may libvirt write there?",
                ) from error
            raise


def volume_name(box: MachineBox) -> str:
    """Return the name of a box's volume, as vagrant-libvirt has it.

    Source: vagrant-libvirt 0.11.2, action/handle_box_image.rb, get_volume_name.
    """
    return f"{flat_name(box)}_vagrant_box_image_{box.version}_box.img"


def _length(volume: libvirt.virStorageVol) -> int:
    return int(volume.infoFlags(libvirt.VIR_STORAGE_VOL_GET_PHYSICAL)[2])


def _volume_xml(name: str, image: Path) -> str:
    root = etree.Element("volume")
    etree.SubElement(root, "name").text = name
    # The upload brings its own qcow2 header; this is only what libvirt believes until then.
    etree.SubElement(root, "capacity").text = str(image.stat().st_size)
    etree.SubElement(root, "allocation").text = "0"
    etree.SubElement(etree.SubElement(root, "target"), "format").set("type", "qcow2")
    return etree.tostring(root, encoding="unicode")


def _send(
    connection: libvirt.virConnect,
    volume: libvirt.virStorageVol,
    image: Path,
    size: int,
    progress: Callable[[int], None],
) -> None:
    stream = connection.newStream(0)
    volume.upload(stream, 0, size, 0)
    sent = 0
    try:
        with image.open("rb") as source:
            while chunk := source.read(_CHUNK):
                while chunk:
                    taken = stream.send(chunk)
                    chunk = chunk[taken:]
                    sent += taken
                progress(100 * sent // size)
        stream.finish()
    except BaseException:
        with contextlib.suppress(libvirt.libvirtError):
            stream.abort()
        raise


def installed(cache: Path, connection: libvirt.virConnect | None) -> list[Installed]:
    """Return the boxes in the cache, the newest of each name first.

    Args:
        cache: the folder that holds one for each box.
        connection: libvirt, which knows the guests of each; None where it does not answer.
    """
    found = []
    overlays = _overlays(connection) if connection is not None else {}
    for folder in sorted(path for path in cache.iterdir()) if cache.is_dir() else ():
        for box in reversed(kept(folder)):
            try:
                made = (folder / box.version / RECORD).stat().st_mtime
            except FileNotFoundError:
                continue
            found.append(
                Installed(
                    name=box.name,
                    kind="libvirt",
                    version=box.version,
                    image=box.image,
                    content=box.content,
                    digest=box.digest,
                    size=box.size,
                    created=datetime.datetime.fromtimestamp(made, datetime.UTC),
                    kiwi=box.kiwi,
                    origin=box.origin,
                    users=tuple(sorted(overlays.get(volume_name(box), ()))),
                )
            )
    return found


def _overlays(connection: libvirt.virConnect) -> dict[str, list[str]]:
    """Return the guests, or else the volumes, that are based on a volume, by that one's name."""
    domains: dict[str, str] = {}
    for domain in connection.listAllDomains():
        with libvirt_api.gone_is_fine():
            xml = etree.fromstring(domain.XMLDesc(0).encode())
            for path in xml.xpath("devices/disk/source/@file"):
                domains[str(path)] = f"domain {domain.name()}"
    found: dict[str, list[str]] = {}
    for volume in libvirt_api.volumes(connection):
        with libvirt_api.gone_is_fine():
            xml = etree.fromstring(volume.XMLDesc(0).encode())
            if backing := xml.findtext("backingStore/path"):
                user = domains.get(volume.path(), f"volume {volume.name()}")
                found.setdefault(Path(backing).name, []).append(user)
    return found


def remove(
    boxes: Sequence[MachineBox],
    folder: Path,
    runner: Runner,
    *,
    cache: Path,
    uri: str,
    force: bool,
    say: Callable[[str], None],
) -> list[MachineBox]:
    """Remove versions of a box that no guest uses: volume, Vagrant's copy, file.

    Args:
        boxes: those to remove.
        folder: the box's folder in the cache; the caller holds its lock.
        runner: starts nothing; its environment says where Vagrant's boxes are.
        cache: the user's cache folder, where builds hold what they use.
        uri: where libvirt is.
        force: also those that guests use, which lose their disk.
        say: told what is removed, and what stays.

    Returns:
        Those that are gone.

    Raises:
        PreflightError: libvirt does not answer.
    """
    gone = []
    with libvirt_api.client(uri) as connection:
        for box in boxes:
            stays = f"the box {box.image} {box.version} stays"
            with _said(stays, say), box_use.removing(cache, box.content) as free:
                users = _overlays(connection).get(volume_name(box), [])
                if not force and not free:
                    say(f"{stays}: a build is using it")
                elif not force and users:
                    say(f"{stays}: a guest uses it ({', '.join(users)})")
                else:
                    # What lies in the cache comes last: from it the rest can be had again.
                    _delete_volumes(connection, volume_name(box))
                    known = vagrant_folder(box, runner)
                    if known.exists():
                        shutil.rmtree(known)
                    forget(box, folder)
                    say(f"removed the box {box.image} {box.version}")
                    gone.append(box)
    return gone


def remove_superseded(
    folder: Path,
    current: MachineBox,
    runner: Runner,
    *,
    cache: Path,
    uri: str,
    say: Callable[[str], None],
) -> None:
    """Remove older makings of a box that no domain uses, and what a killed making left.

    Args:
        folder: the box's folder in the cache; the caller holds its lock.
        current: the making that stays.
        runner: starts nothing; its environment says where Vagrant's boxes are.
        cache: the user's cache folder, where builds hold what they use.
        uri: where libvirt is.
        say: told what is removed, and what stays.

    Raises:
        PreflightError: libvirt does not answer.
    """
    older = [box for box in kept(folder) if box.version != current.version]
    if older:
        remove(older, folder, runner, cache=cache, uri=uri, force=False, say=say)
    sweep(folder, say)


def sweep(folder: Path, say: Callable[[str], None]) -> None:
    """Remove what a killed making or import left in a box's folder.

    Args:
        folder: the box's folder in the cache; the caller holds its lock, so none is under way.
        say: told what stays.
    """
    for path in unfinished(folder):
        with _said(f"{path} stays", say):
            shutil.rmtree(path)


@contextlib.contextmanager
def _said(what: str, say: Callable[[str], None]) -> Iterator[None]:
    """Go on after a failed clean-up: only room is lost by it."""
    try:
        yield
    except (OSError, libvirt.libvirtError) as error:
        say(f"{what}: {error}")


def _delete_volumes(connection: libvirt.virConnect, name: str) -> None:
    for volume in libvirt_api.volumes(connection):
        if volume.name() == name:
            volume.delete(0)


def room(box: MachineBox, folder: Path, runner: Runner) -> int:
    """Return the bytes that a box takes: its file, and the disk, which Vagrant and libvirt have.

    Args:
        box: the box.
        folder: its folder in the cache.
        runner: starts nothing; its environment says where Vagrant's boxes are.
    """
    disks = [path.stat().st_size for path in vagrant_folder(box, runner).glob("**/box.img")]
    file = folder / box.version / box.file
    return (file.stat().st_size if file.exists() else 0) + 2 * sum(disks)
