"""The last step of an import: a verified box comes to Vagrant and libvirt."""

from __future__ import annotations

import datetime
import shutil
from pathlib import Path

from vagrant_kiwi import box_import, machine_boxes, machine_supply
from vagrant_kiwi.box_archive import MachineArchive
from vagrant_kiwi.box_import import Verified, Wanted
from vagrant_kiwi.box_supply import Supply
from vagrant_kiwi.deadline import Deadline
from vagrant_kiwi.errors import BoxError
from vagrant_kiwi.machine_boxes import MachineBox, Making

#: In the box's folder: a folder without a record, which is removed if an import died.
_ARRIVING = "arriving"


def add(supply: Supply, wanted: Wanted, deadline: Deadline, *, anew: bool) -> MachineBox:
    """Import a box for virtual machines; nothing happens if the very same is there.

    Args:
        supply: what it takes.
        wanted: the box.
        deadline: when it must be done.
        anew: also if it is there.

    Raises:
        BoxError: it cannot be had, or is not what it should be; nothing is left of it then.
        PreflightError: the host lacks something for it.
        PhaseTimeoutError: it takes too long.
    """
    with machine_supply.folder_of(supply, wanted.name, deadline) as folder:
        box = None
        if wanted.sha256 is not None and not anew:
            box = machine_boxes.find(folder, wanted.sha256)
        fresh = box is None
        if box is None:
            box, fresh = _arrived(supply, wanted, folder, deadline, anew=anew)
        try:
            machine_supply.bring(supply, box, folder, deadline)
        except BoxError:
            if fresh:
                # Else it would be found, and refused, again and again.
                machine_boxes.forget(box, folder)
            raise
        return box


def _arrived(
    supply: Supply, wanted: Wanted, folder: Path, deadline: Deadline, *, anew: bool
) -> tuple[MachineBox, bool]:
    """Return the box, and whether it came just now."""
    with supply.console.phase("import") as view:
        # Vagrant unpacks it, and libvirt gets the disk.
        room = shutil.disk_usage(folder).free // 2
        with box_import.verified(supply, wanted, view, deadline, room=room) as found:
            there = None if anew else machine_boxes.find(folder, found.sha256)
            return (there, False) if there else (_adopt(supply, wanted, found, folder), True)


def _adopt(supply: Supply, wanted: Wanted, found: Verified, folder: Path) -> MachineBox:
    """Take a verified file into the cache."""
    assert isinstance(found.archive, MachineArchive)  # noqa: S101 - verified() looked
    if found.archive.has_vagrantfile:
        supply.console.note(
            f"{wanted.origin} brings a Vagrantfile, which Vagrant runs on this host with each guest"
        )
    arriving = folder / _ARRIVING
    try:
        arriving.mkdir(exist_ok=True)
        # On the same file system: all of it is the user's cache folder.
        file = found.path.rename(arriving / f"{wanted.name}.box")
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
