"""Versions of KIWI that a build box may have."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable

from vagrant_kiwi.errors import BoxError

#: The first whose ``kiwi-ng`` has ``--setenv``, without which our command line means nothing to it.
#: Source: kiwi/cli.py in KIWI 10.2.26 and 10.2.27.
OLDEST = "10.2.27"

# Other spellings of the same version (10.2.040) would be boxes of their own; and it becomes part
# of names in Docker, in Vagrant and on disk.
_VERSION = re.compile(r"(?:0|[1-9][0-9]{0,5})(?:\.(?:0|[1-9][0-9]{0,5})){2}", re.ASCII)


def check(version: str) -> None:
    """Refuse what cannot be a version of KIWI in a box; whether it exists is not asked.

    Args:
        version: what a person wrote.

    Raises:
        BoxError: it is none, or too old.
    """
    if _VERSION.fullmatch(version) is None:
        raise BoxError(
            f"{version!r} is no version of KIWI",
            details="a version of KIWI is three numbers with dots between them",
            resolution=f"Give one such as --kiwi-version={OLDEST}.",
        )
    if order(version) < order(OLDEST):
        raise BoxError(
            f"KIWI {version} is too old for a build box",
            details="its kiwi-ng does not know --setenv, which builds need",
            resolution=f"The oldest that works is {OLDEST}.",
        )


def order(version: str) -> tuple[int, ...]:
    """Return what versions are sorted by; only for dotted numbers."""
    return tuple(int(number) for number in version.split("."))


def nearest(version: str, known: Iterable[str], *, count: int = 5) -> list[str]:
    """Return the known versions around one that does not exist, oldest first.

    Args:
        version: the one that does not exist.
        known: those that do; what a box cannot have is left out.
        count: how many are returned, if there are so many.
    """
    usable = {each for each in known if _VERSION.fullmatch(each) and order(each) >= order(OLDEST)}
    ordered = sorted(usable, key=order)
    place = bisect.bisect_left(ordered, order(version), key=order)
    first = max(0, min(place - (count + 1) // 2, len(ordered) - count))
    return ordered[first : first + count]
