"""A run's folder in a guest: made, and removed where the guest outlives the run."""

from __future__ import annotations

from vagrant_kiwi import remote
from vagrant_kiwi.errors import GuestError, LeftoverError
from vagrant_kiwi.guests import ConnectionLostError, Guest
from vagrant_kiwi.plan import GuestPaths
from vagrant_kiwi.process import CommandTimeoutError

_SHORT = 60.0
#: Seconds to remove an image's root, which can have a million files.
_LONG = 300.0

# The root folder is for root alone: synced keys and credentials lie below it. In a container KIWI
# needs a writable /sys (it packs its mount with tar, which fails on a read-only one), and device
# nodes for loop devices where the isolation lets it have them.
_MAKE = """
umask 077 && mkdir -p "$1" && mkdir -m 755 "$2" "$3" || exit 1
# The marks that Docker and Podman leave in a container.
[ -e /.dockerenv ] || [ -e /run/.containerenv ] || exit 0
mount -o remount,rw /sys || exit 1
# An image of a registry may lack it; then there are no disk images.
! command -v vagrant-kiwi-devices >/dev/null || vagrant-kiwi-devices
"""

# Mounts go first, the last one first, and loop devices after them. If one stays, nothing below the
# folder is removed: rm would go on into it, and what is mounted there may be the guest's own /dev.
_REMOVE = r"""
root=$1
[ -d "$root" ] || exit 0
# Without the octal signs that the kernel writes for spaces and the like; proc(5).
mounts() {
    cut -d' ' -f5 /proc/self/mountinfo | while IFS= read -r path; do
        path=$(printf '%b.' "$path")
        case ${path%.} in "$root" | "$root"/*) printf '%s\n' "${path%.}" ;; esac
    done
}
n=0
while [ -n "$(mounts)" ] && [ "$n" -lt 20 ]; do
    mounts | tac | while IFS= read -r path; do umount "$path" 2>/dev/null; done
    n=$((n + 1))
    sleep 0.1
done
losetup --list --noheadings --output NAME,BACK-FILE 2>/dev/null |
    while read -r loop file; do
        case $file in "$root"/*) losetup --detach "$loop" ;; esac
    done
if [ -n "$(mounts)" ]; then
    echo "still mounted:" >&2
    mounts >&2
    exit 1
fi
exec rm -rf --one-file-system "$root"
"""


def make(guest: Guest, paths: GuestPaths) -> None:
    """Make a run's folders.

    Raises:
        GuestError: the guest refuses.
        ConnectionLostError: it does not answer.
    """
    made = guest.exec(
        ["sh", "-c", _MAKE, "sh", paths.root, paths.files, paths.scripts],
        timeout=_SHORT,
        root=True,
    )
    if not made.ok:
        raise GuestError(
            "The guest cannot be prepared",
            details=made.tail(5),
            resolution="Does the template keep guest.create_args? KIWI needs these rights.",
        )


def remove_argv(root: str) -> list[str]:
    """Return the command that removes a run's folder with all that is mounted in it."""
    return ["sh", "-c", _REMOVE, "sh", root]


def remove(guest: Guest, root: str) -> None:
    """End the commands of a run, and remove its folder with all that is mounted in it.

    Args:
        guest: the guest.
        root: the run's folder.

    Raises:
        LeftoverError: something stays, or the guest does not answer.
    """
    try:
        remote.abort_all(guest, folder=f"{root}/commands")
        removed = guest.exec(remove_argv(root), timeout=_LONG, root=True)
    except (ConnectionLostError, CommandTimeoutError) as error:
        raise LeftoverError(
            f"{root} could not be removed from the guest", details=str(error)
        ) from error
    if not removed.ok:
        raise LeftoverError(
            f"{root} could not be removed from the guest",
            details=removed.tail(5),
            resolution="invoke down removes the guest with all of it.",
        )
