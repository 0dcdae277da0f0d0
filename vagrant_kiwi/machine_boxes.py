"""Build boxes for virtual machines: kept in the cache, known to Vagrant.

A box that was made once never changes: each making has a version of its own. A version that came
back with other bytes would boot the volume of the old ones (vagrant-libvirt's issues 85 and 350).
"""

from __future__ import annotations

import contextlib
import datetime
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from vagrant_kiwi import state
from vagrant_kiwi.box_recipe import Recipe, repository_of
from vagrant_kiwi.errors import BoxError, GuestError
from vagrant_kiwi.guests.vagrant_command import RoutedVagrant
from vagrant_kiwi.keys import vagrant_home
from vagrant_kiwi.process import Runner

RECORD = "box.json"
_METADATA = "metadata.json"


@dataclass(frozen=True)
class MachineBox:
    """A build box of Vagrant for libvirt.

    ``image`` is its name in Vagrant, ``version`` that of this making, ``digest`` that of the files
    it was made from (of its own file, where somebody else made it), ``sha256`` and ``size`` in
    bytes of its file, ``kiwi`` the version of KIWI in it (None where nobody said), ``origin`` where
    it came from in words.
    """

    name: str
    version: str
    image: str
    digest: str
    file: str
    sha256: str
    size: int
    kiwi: str | None = None
    origin: str = "recipe"

    @property
    def content(self) -> str:
        """What differs where the box's bytes do."""
        return self.sha256


_BOX = TypeAdapter(MachineBox)


def find(folder: Path, digest: str) -> MachineBox | None:
    """Return the newest box that was made from what has a digest, or None.

    Args:
        folder: the box's folder in the cache.
        digest: of the recipe as it is now, or of an archive.
    """
    return next((box for box in reversed(kept(folder)) if box.digest == digest), None)


def kept(folder: Path) -> list[MachineBox]:
    """Return the versions of a box in its folder in the cache, oldest first."""
    found = []
    for path in folder.glob(f"*/{RECORD}"):
        # Who holds no lock may see one go.
        with contextlib.suppress(FileNotFoundError):
            found.append(_BOX.validate_json(path.read_bytes()))
    return sorted(found, key=lambda box: _stamp(box.version))


def _stamp(version: str) -> str:
    """Return the part of a version that says when the box was made."""
    # Its maker's own part may look alike.
    found = re.findall(r"(?:^|\.)([0-9]{14})(?=\.|$)", version)
    return found[-1] if found else ""


def unfinished(folder: Path) -> list[Path]:
    """Return what killed makings and imports left in a box's folder in the cache."""
    folders = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in folders if path.is_dir() and not (path / RECORD).exists()]


def forget(box: MachineBox, folder: Path) -> None:
    """Remove a version of a box from its folder in the cache; the caller holds the lock.

    Args:
        box: the version.
        folder: the box's folder.

    Raises:
        OSError: it cannot be removed.
    """
    # First of all what says that it is whole.
    (folder / box.version / RECORD).unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder / box.version)


@dataclass(frozen=True)
class Making:
    """What is known of a box beyond its file.

    ``version`` is whatever its maker calls it; the time of the making is added to it.
    """

    name: str
    version: str
    digest: str
    kiwi: str | None
    origin: str


def made_from(recipe: Recipe) -> Making:
    """Return what is known of a box that is made from a recipe.

    Raises:
        BoxError: the recipe is not for virtual machines.
    """
    return Making(recipe.name, recipe.version, recipe.machine_digest(), recipe.kiwi, "recipe")


def adopt(
    making: Making, folder: Path, file: Path, *, sha256: str, now: datetime.datetime
) -> MachineBox:
    """Take a box's file into the cache, under a version that no other one has.

    Args:
        making: what it is.
        folder: the box's folder in the cache; the file is moved to it.
        file: the verified file, on the same file system.
        sha256: its checksum.
        now: the time of the making, with a time zone.
    """
    # The time puts versions in order, the checksum tells those of one moment apart, of other users'
    # of the same libvirt, too: a disk there is known by its version.
    while True:
        stamp = now.astimezone(datetime.UTC).strftime("%Y%m%d%H%M%S")
        if not any(folder.glob(f"*.{stamp}.*")):
            break
        now += datetime.timedelta(seconds=1)
    version = f"{making.version}.{stamp}.{int(sha256[:8], 16)}"
    (folder / version).mkdir(parents=True)
    kept_file = folder / version / file.name
    box = MachineBox(
        name=making.name,
        version=version,
        image=repository_of(making.name),
        digest=making.digest,
        file=file.name,
        sha256=sha256,
        size=file.stat().st_size,
        kiwi=making.kiwi,
        origin=making.origin,
    )
    file.rename(kept_file)
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
                            "url": kept_file.as_uri(),
                            "checksum_type": "sha256",
                            "checksum": sha256,
                        }
                    ],
                }
            ],
        },
    )
    # It comes last: a folder that has one is whole.
    state.write_json(folder / version / RECORD, asdict(box))
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
        # That of an import which was killed goes on, and may have been faster.
        known = _registered(box, runner)
        if known is not None:
            return known
        raise BoxError(
            f"Vagrant does not take the box {box.image} {box.version}",
            details=error.details,
            resolution="invoke box-add --force brings it anew.",
        ) from error
    known = _registered(box, runner)
    if known is None:
        raise BoxError(
            f"Vagrant took the box {box.image} {box.version}, but it is not there",
            details=f"looked in {vagrant_folder(box, runner)}",
        )
    return known


def vagrant_folder(box: MachineBox, runner: Runner) -> Path:
    """Return where Vagrant keeps a box.

    Args:
        box: the box.
        runner: starts nothing; its environment says where Vagrant's own folder is.
    """
    # lib/vagrant/box_collection.rb; from 2.4 on with a folder for the architecture in between.
    return vagrant_home(runner.environment) / "boxes" / flat_name(box) / box.version


def _registered(box: MachineBox, runner: Runner) -> Path | None:
    folder = vagrant_folder(box, runner)
    # Vagrant unpacks elsewhere and renames the folder: one that is there is whole.
    return next(iter(folder.glob("**/libvirt/box.img")), None)


def flat_name(box: MachineBox) -> str:
    """Return a box's name as Vagrant and its plugin write it in names of files."""
    return box.image.replace("/", "-VAGRANTSLASH-")
