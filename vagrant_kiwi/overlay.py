"""Unpack a folder over one of the guest's system folders, whose own folders stay as they are."""

from __future__ import annotations

from vagrant_kiwi.errors import GuestError
from vagrant_kiwi.guests import Guest

# Folders that are there already are not in the archive, so nobody's mode, owner or link (/lib ->
# usr/lib) changes. tar's own --no-overwrite-dir is no way: while GNU tar 1.34 extracts, it has the
# existing folders, / among them, at mode 0700, where nobody but root can log in (seen by strace).
# --absolute-names: else tar makes links only at its end, and an empty file in their place till
# then, which a link such as /lib64 must never be. The list goes when its archive is not whole,
# which the status of a pipe does not say.
_UNPACK = r"""
staging=$1 target=$2 list=$1.list
unpack() {
    mkdir -p "$target" && cd "$staging" || return
    find . -mindepth 1 \( ! -type d -o ! -exec test -d "$target/{}" ';' \) -print0 >"$list" ||
        return
    { tar --create --sparse --no-recursion --null --files-from="$list" || rm "$list"; } |
        tar --extract --absolute-names --directory="$target" && [ -e "$list" ]
}
unpack
status=$?
rm -rf "$staging" "$list"
exit "$status"
"""


def unpack(guest: Guest, staging: str, target: str, *, timeout: float) -> None:
    """Move a guest folder's content over another folder; what is there and is no folder gives way.

    Folders that are new in the target, and files, keep the modes they have in ``staging``.

    Args:
        guest: the guest.
        staging: absolute path in the guest; it is removed, after a failure of tar, too.
        target: absolute path in the guest.
        timeout: seconds.

    Raises:
        GuestError: it cannot be unpacked; a part may be there then.
        ConnectionLostError: the guest does not answer.
        CommandTimeoutError: it did not finish in time.
    """
    done = guest.exec(["sh", "-c", _UNPACK, "sh", staging, target], timeout=timeout, root=True)
    if not done.ok:
        raise GuestError(
            f"Data could not be unpacked over {target} in the guest",
            details=done.tail(5),
            resolution="Is the guest's disk full, or has it a folder where the data has a file?",
        )
