"""What an existing machine must have before anything is built on it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vagrant_kiwi import box_versions
from vagrant_kiwi.errors import PreflightError
from vagrant_kiwi.guests import ConnectionLostError, Guest
from vagrant_kiwi.process import CommandTimeoutError

#: Bytes that a small build takes; a big one says itself what it lacks.
_ROOM = 2 * 2**30
#: Source: KIWI 11.1.6, defaults.py, get_... for the target dir; df(1) names them so.
_FILE_SYSTEMS = ("btrfs", "ext2", "ext3", "ext4", "overlay", "tmpfs", "xfs")
_SHORT = 60.0

# $1 is the folder of all runs, which need not be there yet.
_LOOK = r"""
folder=$1; shift
for name; do command -v "$name" >/dev/null 2>&1 || echo "missing $name"; done
echo "kiwi $(kiwi-ng --version 2>/dev/null)"
[ -d /dev/shm ] && [ -w /dev/shm ] || echo "missing /dev/shm"
while [ ! -e "$folder" ]; do folder=$(dirname "$folder"); done
[ -w "$folder" ] || echo "readonly $folder"
echo "disk $(df --output=fstype,avail --block-size=1 "$folder" | tail -n 1)"
"""
_NEEDED = (
    *("kiwi-ng", "rsync", "tar", "flock", "setsid", "pkill", "xargs", "sha256sum", "du", "losetup"),
)


@dataclass(frozen=True)
class _Seen:
    missing: tuple[str, ...]
    kiwi: str
    file_system: str
    room: int
    read_only: str


def check(guest: Guest, where: str, *, folder: str, kiwi: str | None) -> str:
    """Look whether a machine can build, and return the version of its KIWI.

    Args:
        guest: the machine.
        where: its name in words.
        folder: where its runs will be.
        kiwi: the version that is wanted; None for any that works.

    Raises:
        PreflightError: it lacks something, all of which is named; or it does not answer.
    """
    try:
        sudo = guest.exec(["sudo", "-n", "true"], timeout=_SHORT)
        seen = _read(
            guest.exec(
                ["sh", "-c", _LOOK, "sh", folder, *_NEEDED], timeout=_SHORT, root=sudo.ok
            ).text
        )
    except (ConnectionLostError, CommandTimeoutError) as error:
        raise PreflightError(f"{where} does not answer", details=str(error)) from error
    problems = []
    if not sudo.ok:
        problems.append(f"sudo without a password does not work: {sudo.tail(1)}")
    if seen.missing:
        problems.append(f"not there: {', '.join(seen.missing)}")
    if "kiwi-ng" not in seen.missing:
        problems += _kiwi_problems(seen.kiwi, kiwi)
    if seen.read_only and sudo.ok:
        problems.append(f"root cannot write to {seen.read_only}")
    if seen.file_system not in _FILE_SYSTEMS:
        problems.append(
            f"{folder} is on {seen.file_system or 'an unknown file system'}; KIWI needs one of "
            f"{', '.join(_FILE_SYSTEMS)}"
        )
    if seen.room < _ROOM:
        problems.append(
            f"{folder} has {seen.room / 2**30:.1f} GiB free, and {_ROOM / 2**30:.0f} are needed"
        )
    if problems:
        raise PreflightError(
            f"{where} cannot build images",
            details="\n".join(problems),
            resolution="Install or mend that there; host.folder is the folder of the builds.",
        )
    return seen.kiwi


def _kiwi_problems(found: str, wanted: str | None) -> list[str]:
    numbers = tuple(int(part) for part in re.findall(r"\d+", found)[:3])
    if not numbers:
        return ["kiwi-ng does not tell its version"]
    if numbers < box_versions.order(box_versions.OLDEST):
        return [f"kiwi-ng is {found}, and {box_versions.OLDEST} is the oldest that works"]
    if wanted is not None and found != wanted:
        return [f"kiwi-ng is {found}, and kiwi_version asks for {wanted}"]
    return []


def _read(said: str) -> _Seen:
    missing, kiwi, file_system, room, read_only = [], "", "", 0, ""
    for line in said.splitlines():
        word, _, rest = line.partition(" ")
        if word == "missing":
            missing.append(rest)
        elif word == "kiwi":
            # "KIWI (next generation) version 11.1.6"
            kiwi = rest.rpartition(" ")[2]
        elif word == "readonly":
            read_only = rest
        elif word == "disk" and len(rest.split()) == 2:
            file_system, free = rest.split()
            room = int(free) if free.isdecimal() else 0
    return _Seen(tuple(missing), kiwi, file_system, room, read_only)
