"""Looks into a libvirt box: into the file systems of its disks.

As an ordinary user: nothing is mounted and no machine started, because the box may not be trusted.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from vagrant_kiwi import box_look, disk_layout, qcow2, tar_scan
from vagrant_kiwi.box_verify import Look
from vagrant_kiwi.deadline import Deadline
from vagrant_kiwi.disk_layout import LayoutError, Partition, ReadAt
from vagrant_kiwi.errors import BoxError, PreflightError
from vagrant_kiwi.ext_files import Debugfs, ExtError, read_tree
from vagrant_kiwi.process import Runner, at_most
from vagrant_kiwi.unpacked import CHUNK, ArchiveError, Budget, unpacked

#: Each program with the Debian package that has it.
_PROGRAMS = {"qemu-img": "qemu-utils", "debugfs": "e2fsprogs"}
#: Debian keeps programs for file systems where an ordinary user's PATH does not lead to.
_SYSTEM = "/usr/local/sbin:/usr/sbin:/sbin"

_PASSWD = "/etc/passwd"  # noqa: S105 # no password

#: Members that a box may have, and bytes of one's headers; ours has three, of a block each.
_MEMBERS, _HEADERS = 2_000_000, 2**20
#: Bytes that stay free on the disk we work on.
_SPARE = 2**28
#: Bytes that one qemu-img may say.
_OUTPUT = 2**26


@dataclass(frozen=True)
class _Work:
    """What looking takes: the tools, a folder of our own, and when it must be done."""

    runner: Runner
    programs: Mapping[str, str]
    folder: Path
    deadline: Deadline
    update: Callable[[str], None]


@dataclass(frozen=True)
class Part:
    """What was found in a part of a box; ``has_users`` if the system's users are there."""

    name: str
    look: Look
    has_users: bool = False


def look_machine(
    file: Path,
    runner: Runner,
    *,
    scratch: Path,
    deadline: Deadline,
    update: Callable[[str], None],
) -> Look:
    """Look into a box for libvirt.

    Args:
        file: the box as Vagrant packs it (a tar archive, as it is or with gzip, bzip2 or xz), or
            one of its disks (qcow2).
        runner: starts qemu-img and debugfs.
        scratch: a folder with room for a disk of the box, unpacked; nothing of ours stays there.
        deadline: when it must be done.
        update: told what happens.

    Returns:
        What is in its file systems. One that is not ext2, ext3 or ext4 is ``unread``.

    Raises:
        BoxError: it is no box, or a damaged one, or one that refers to files outside of it.
        PreflightError: a program is missing, or room.
        PhaseTimeoutError: it takes too long.
    """
    programs = _programs(runner.environment)
    try:
        with tempfile.TemporaryDirectory(prefix="look-", dir=scratch.absolute()) as folder:
            work = _Work(runner, programs, Path(folder), deadline, update)
            with contextlib.closing(_disks(file.absolute(), work)) as disks:
                parts = [
                    part
                    for number, disk in enumerate(disks, start=1)
                    for part in _look_disk(disk, number, work)
                ]
    except ArchiveError as error:
        raise BoxError(
            f"{file} is no box that can be looked into",
            details=f"neither a disk nor a whole archive with disks: {error}",
            resolution=error.resolution,
        ) from error
    except OSError as error:
        raise BoxError(f"{file} cannot be looked into", details=str(error)) from error
    if not parts:
        raise _unusable(file, "no disk of the format qcow2 is in it")
    return combine(parts)


def combine(parts: Sequence[Part]) -> Look:
    """Return what was found in several parts as one.

    Paths say in which part they are, where more than one has something.
    """
    several = sum(replace(part.look, unread=()) != Look() for part in parts) > 1

    def name(part: Part, path: str) -> str:
        return f"{part.name}: {path}" if several else path

    looks = [part.look for part in parts]
    unread = [f"{part.name}: {reason}" for part in parts for reason in part.look.unread]
    if not unread and not any(part.has_users for part in parts):
        unread.append(f"no file system that could be read has {_PASSWD}")
    return Look(
        host_keys=tuple(name(part, key) for part in parts for key in part.look.host_keys),
        machine_id=next((look.machine_id for look in looks if look.machine_id is not None), None),
        authorized_keys=tuple(
            (name(part, file), line) for part in parts for file, line in part.look.authorized_keys
        ),
        key_sources=tuple(line for look in looks for line in look.key_sources),
        kiwis=tuple(
            (name(part, folder), version) for part in parts for folder, version in part.look.kiwis
        ),
        random_seed=any(look.random_seed for look in looks),
        unread=tuple(unread),
    )


def _unusable(file: Path, why: str) -> BoxError:
    return BoxError(f"{file} is no box that can be looked into", details=why)


def _programs(environment: Mapping[str, str]) -> dict[str, str]:
    path = f"{environment.get('PATH', os.defpath)}:{_SYSTEM}"
    found = {name: shutil.which(name, path=path) for name in _PROGRAMS}
    missing = [name for name, place in found.items() if place is None]
    if missing:
        raise PreflightError(
            f"Not installed: {', '.join(missing)}",
            details=f"looked for in {path}",
            resolution=f"sudo apt-get install {' '.join(_PROGRAMS[name] for name in missing)}",
        )
    return {name: place for name, place in found.items() if place is not None}


# --- The box -----------------------------------------------------------------------------------


def _disks(file: Path, work: _Work) -> Generator[Path, None, None]:
    """Yield the disks of a box one after the other; those from an archive are gone afterwards."""
    with file.open("rb") as stream:
        head = stream.read(len(qcow2.MAGIC))
        stream.seek(0)
        if head == qcow2.MAGIC:
            yield file
            return
        work.update("unpacking the box")
        budget = Budget()
        # Not all that is read is a disk, and takes its time all the same.
        with unpacked(stream, budget, see=lambda _: work.deadline.left()) as box:
            for member in tar_scan.members(box, budget, most=_MEMBERS, headers=_HEADERS):
                # By its first bytes, not by its name: metadata.json may come after the disks.
                if member.kind != "file" or not member.head.startswith(qcow2.MAGIC):
                    continue
                _check_room(work.folder, member.size)
                disk = work.folder / "disk.qcow2"
                with disk.open("wb") as target:
                    _copy(member.content, target, work.deadline)
                yield disk
                disk.unlink()


def _copy(source: IO[bytes], target: IO[bytes], deadline: Deadline) -> None:
    while chunk := source.read(CHUNK):
        deadline.left()
        target.write(chunk)


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free - _SPARE < needed:
        raise PreflightError(
            "There is no room to look into the box",
            details=f"{folder.parent}: it takes {needed // 10**6} MB, {free // 10**6} MB are free",
            resolution="Make room there.",
        )


# --- A disk ------------------------------------------------------------------------------------


def _look_disk(disk: Path, number: int, work: _Work) -> Iterator[Part]:
    # Most boxes have one disk: of that, nothing needs to be said.
    prefix = f"disk {number}, " if number > 1 else ""
    snapshots = _header(disk).snapshots
    yield Part(
        f"{prefix}the disk", Look(unread=(f"{snapshots} snapshots of it",) if snapshots else ())
    )
    used = _used(disk, work)
    _check_room(work.folder, sum(end - start for start, end in used))
    work.update("unpacking its disk")
    raw = work.folder / "disk.raw"
    # Sparse, and with the format given: it is nobody's guess.
    _qemu_img(disk, work, "convert", "-f", "qcow2", "-O", "raw", str(disk), str(raw))
    with raw.open("rb") as stream:
        read = functools.partial(_read_at, stream.fileno())
        try:
            found = disk_layout.partitions(read, raw.stat().st_size)
        except LayoutError as error:
            yield Part(f"{prefix}the disk", Look(unread=(str(error),)))
            found = ()
        for partition in found:
            start, end = partition.start, partition.start + partition.size
            if any(first < end and start < last for first, last in used):
                part = _look_partition(read, partition, raw, work)
                yield replace(part, name=f"{prefix}{part.name}")
    raw.unlink()


def _header(disk: Path) -> qcow2.Disk:
    """Read a disk's header, before QEMU's programs open it."""
    try:
        with disk.open("rb") as stream:
            return qcow2.read(stream.read(qcow2.HEADER))
    except ArchiveError as error:
        raise _unusable(disk, f"its disk is refused: {error}") from error


def _used(disk: Path, work: _Work) -> list[tuple[int, int]]:
    """Return where a disk has data, as pairs of first byte and end; the rest are zeros."""
    said = _qemu_img(disk, work, "map", "-f", "qcow2", "--output=json", str(disk))
    try:
        return [
            (int(extent["start"]), int(extent["start"]) + int(extent["length"]))
            for extent in json.loads(said)
            if extent["data"] and not extent["zero"]
        ]
    except (ValueError, TypeError, KeyError) as error:
        raise _unusable(disk, f"qemu-img map: {error}") from error


def _qemu_img(disk: Path, work: _Work, *words: str) -> bytes:
    with work.deadline.named():
        result = work.runner.run(
            (work.programs["qemu-img"], *words),
            timeout=work.deadline.left(),
            on_output=at_most(_OUTPUT, _unusable(disk, "its disk is in too many pieces")),
        )
    if not result.ok:
        raise _unusable(disk, result.tail())
    return result.output


def _read_at(handle: int, offset: int, size: int) -> bytes:
    return os.pread(handle, size, offset)


def _look_partition(read: ReadAt, partition: Partition, raw: Path, work: _Work) -> Part:
    held = disk_layout.content(read, partition)
    if held != disk_layout.EXT:
        return Part(partition.name, Look(unread=(held,) if held else ()))
    work.update(f"looking into {partition.name}")
    debugfs = Debugfs(work.runner, work.programs["debugfs"], raw, partition.start, work.deadline)
    try:
        tree = read_tree(debugfs)
        look = box_look.look_into(tree)
    except ExtError as error:
        return Part(partition.name, Look(unread=(str(error),)))
    unread = [*tree.damage[:10], *look.unread]
    if disk_layout.has_open_journal(read, partition):
        unread.insert(0, "it was in use when the box was made: its journal holds changes")
    return Part(partition.name, replace(look, unread=tuple(unread)), _PASSWD in tree.entries)
