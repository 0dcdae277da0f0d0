"""Build boxes for virtual machines: kept in the cache, known to Vagrant, uploaded to libvirt.

A box that was made once never changes: each making has a version of its own. A version that came
back with other bytes would boot the volume of the old ones (vagrant-libvirt's issues 85 and 350).
"""

from __future__ import annotations

import contextlib
import datetime
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import libvirt
from lxml import etree
from pydantic import TypeAdapter

from vagrant_kiwi import libvirt_api, state
from vagrant_kiwi.box_recipe import Recipe
from vagrant_kiwi.errors import BoxError, GuestError
from vagrant_kiwi.guests.vagrant_command import RoutedVagrant
from vagrant_kiwi.keys import vagrant_home
from vagrant_kiwi.process import Runner

#: Bytes that one message to libvirt takes; its protocol has some 256 KiB.
_CHUNK = 256 * 1000

_RECORD = "box.json"
_METADATA = "metadata.json"


@dataclass(frozen=True)
class MachineBox:
    """A build box of Vagrant for libvirt.

    ``image`` is its name in Vagrant, ``version`` that of this making, ``digest`` that of the files
    it was made from, ``sha256`` and ``size`` in bytes of its file, ``kiwi`` the version of KIWI in
    it (None in records of boxes that were made before it was written down).
    """

    name: str
    version: str
    image: str
    digest: str
    file: str
    sha256: str
    size: int
    kiwi: str | None = None

    @property
    def content(self) -> str:
        """What differs where the box's bytes do."""
        return self.sha256


_BOX = TypeAdapter(MachineBox)


def find(recipe: Recipe, folder: Path) -> MachineBox | None:
    """Return the newest box that was made from a recipe as it is now, or None.

    Args:
        recipe: the box.
        folder: the recipe's folder in the cache.

    Raises:
        BoxError: the recipe is not for virtual machines.
    """
    digest = recipe.machine_digest()
    made = next((box for box in reversed(_kept(folder)) if box.digest == digest), None)
    # The same digest means the same KIWI, also where the record is too old to say so.
    return replace(made, kiwi=recipe.kiwi) if made is not None else None


def _kept(folder: Path) -> list[MachineBox]:
    records = sorted(folder.glob(f"*/{_RECORD}"))
    return [_BOX.validate_json(path.read_bytes()) for path in records]


def adopt(
    recipe: Recipe, folder: Path, file: Path, *, sha256: str, now: datetime.datetime
) -> MachineBox:
    """Take a box's file into the cache, under a version that no other one has.

    Args:
        recipe: what it was made from.
        folder: the recipe's folder in the cache; the file is moved to it.
        file: the verified file, on the same file system.
        sha256: its checksum.
        now: the time of the making, with a time zone.
    """
    while True:
        stamp = now.astimezone(datetime.UTC).strftime("%Y%m%d%H%M%S")
        version = f"{recipe.version}.{stamp}"
        try:
            (folder / version).mkdir(parents=True)
            break
        except FileExistsError:
            now += datetime.timedelta(seconds=1)
    kept = folder / version / file.name
    box = MachineBox(
        name=recipe.name,
        version=version,
        image=recipe.repository,
        digest=recipe.machine_digest(),
        file=file.name,
        sha256=sha256,
        size=file.stat().st_size,
        kiwi=recipe.kiwi,
    )
    file.rename(kept)
    # Vagrant takes versions from such a list only; a bare file would have version 0.
    state.write_json(
        folder / version / _METADATA,
        {
            "name": box.image,
            "versions": [
                {
                    "version": version,
                    "providers": [
                        {
                            "name": "libvirt",
                            "url": kept.as_uri(),
                            "checksum_type": "sha256",
                            "checksum": sha256,
                        }
                    ],
                }
            ],
        },
    )
    # It comes last: a folder that has one is whole.
    state.write_json(folder / version / _RECORD, asdict(box))
    return box


def register(box: MachineBox, folder: Path, runner: Runner, *, timeout: float) -> Path:
    """Let Vagrant know a box; nothing happens if it does already.

    Args:
        box: the box.
        folder: the recipe's folder in the cache.
        runner: starts Vagrant.
        timeout: seconds.

    Returns:
        The disk image in Vagrant's own folder.

    Raises:
        BoxError: Vagrant does not take it.
    """
    known = _registered(box, runner)
    if known is not None:
        return known
    here = folder / box.version
    try:
        RoutedVagrant(
            here, runner=runner, phase="box", timeout=timeout, on_output=lambda _: None
        ).add_box(box.image, here / _METADATA, provider="libvirt")
    except GuestError as error:
        raise BoxError(
            f"Vagrant does not take the box {box.image} {box.version}",
            details=error.details,
            resolution="invoke box-build makes it anew.",
        ) from error
    known = _registered(box, runner)
    if known is None:
        raise BoxError(
            f"Vagrant took the box {box.image} {box.version}, but it is not there",
            details=f"looked in {_vagrant_folder(box, runner)}",
        )
    return known


def _vagrant_folder(box: MachineBox, runner: Runner) -> Path:
    # lib/vagrant/box_collection.rb; from 2.4 on with a folder for the architecture in between.
    return vagrant_home(runner.environment) / "boxes" / _flat_name(box) / box.version


def _registered(box: MachineBox, runner: Runner) -> Path | None:
    folder = _vagrant_folder(box, runner)
    # Vagrant unpacks elsewhere and renames the folder: one that is there is whole.
    return next(iter(folder.glob("**/libvirt/box.img")), None)


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
            # Nobody can have started from a disk that is cut short.
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
    return f"{_flat_name(box)}_vagrant_box_image_{box.version}_box.img"


def _flat_name(box: MachineBox) -> str:
    """Return a box's name as Vagrant and its plugin write it in names of files."""
    return box.image.replace("/", "-VAGRANTSLASH-")


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


def remove_superseded(
    recipe: Recipe,
    folder: Path,
    current: MachineBox,
    runner: Runner,
    *,
    uri: str,
    say: Callable[[str], None],
) -> None:
    """Remove older makings of a box that no domain uses: volume, Vagrant's copy, file.

    Args:
        recipe: the box.
        folder: the recipe's folder in the cache; the caller holds its lock.
        current: the making that stays.
        runner: starts nothing; its environment says where Vagrant's boxes are.
        uri: where libvirt is.
        say: told what is removed, and what stays.

    Raises:
        PreflightError: libvirt does not answer.
    """
    older = [box for box in _kept(folder) if box.version != current.version]
    with libvirt_api.client(uri) as connection:
        for box in older:
            with _said(f"the box {box.image} {box.version} stays", say):
                if _in_use(connection, volume_name(box)):
                    say(f"the box {box.image} {box.version} stays: a guest uses it")
                    continue
                _delete_volumes(connection, volume_name(box))
                for path in (_vagrant_folder(box, runner), folder / box.version):
                    if path.exists():
                        shutil.rmtree(path)
                say(f"removed the superseded box {box.image} {box.version}")
    # What a killed making left; the lock says that none is under way.
    for path in folder.iterdir():
        if path.is_dir() and not (path / _RECORD).exists():
            with _said(f"{path} stays", say):
                shutil.rmtree(path)


@contextlib.contextmanager
def _said(what: str, say: Callable[[str], None]) -> Iterator[None]:
    """Go on after a failed clean-up: only room is lost by it."""
    try:
        yield
    except (OSError, libvirt.libvirtError) as error:
        say(f"{what}: {error}")


def _in_use(connection: libvirt.virConnect, name: str) -> bool:
    """Tell whether any volume, of whatever pool, is an overlay of one of a name."""
    for volume in libvirt_api.volumes(connection):
        xml = None
        with libvirt_api.gone_is_fine():
            xml = etree.fromstring(volume.XMLDesc(0).encode())
        if xml is not None and Path(xml.findtext("backingStore/path") or "").name == name:
            return True
    return False


def _delete_volumes(connection: libvirt.virConnect, name: str) -> None:
    for volume in libvirt_api.volumes(connection):
        if volume.name() == name:
            volume.delete(0)
