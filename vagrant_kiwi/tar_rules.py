"""What a tar archive that somebody sent may have in it, besides what ``tar_scan`` refuses."""

from __future__ import annotations

from collections.abc import Collection

from vagrant_kiwi.tar_scan import Member
from vagrant_kiwi.unpacked import ArchiveError

#: What every Linux has under /dev; numbers by the kernel's Documentation/admin-guide/devices.txt.
_DEVICES = {
    "dev/null": (1, 3),
    "dev/zero": (1, 5),
    "dev/full": (1, 7),
    "dev/random": (1, 8),
    "dev/urandom": (1, 9),
    "dev/tty": (5, 0),
    "dev/console": (5, 1),
    "dev/ptmx": (5, 2),
}


def check_in_root(member: Member) -> None:
    """See that a member may be in a root file system, or in a layer of one.

    Symlinks may say what they like: Docker unpacks in a chroot.

    Raises:
        ArchiveError: it may not.
    """
    if member.kind in ("file", "folder", "symlink", "hard link"):
        return
    if member.kind == "character device" and _DEVICES.get(member.name) == member.device:
        return
    major, minor = member.device
    numbers = f" {major}:{minor}" if member.kind.endswith("device") else ""
    raise ArchiveError(f"{member.name!r} is a {member.kind}{numbers}")


def check_another(name: str, names: Collection[str], *, most: int) -> None:
    """See that an archive may have one more file.

    Args:
        name: its name.
        names: the names of those before; which of two with the same name counts, nobody knows.
        most: how many files it may have.

    Raises:
        ArchiveError: it may not.
    """
    if name in names:
        raise ArchiveError(f"it has two members with the name {name!r}")
    if len(names) == most:
        raise ArchiveError(f"it has more than {most} files")
