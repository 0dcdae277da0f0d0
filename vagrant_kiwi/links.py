"""Finds the symlinks of a tree that would lead astray in a copy of it, and what to put there.

A link means the same in a copy where every step of it stays inside the tree. In the place of any
other goes what it leads to. Nothing is changed here.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Final

#: Folders that are no data of anybody's; a copy of one would be most of this host.
_SYSTEM: Final = frozenset(
    {"/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/root", "/run", "/sbin"}
    | {"/tmp", "/usr", "/usr/bin", "/usr/lib", "/usr/sbin", "/usr/share", "/var", "/var/lib"}  # noqa: S108 # named, not used
)
#: Below these is what the kernel says of this host, not files.
_KERNEL: Final = (Path("/proc"), Path("/sys"))
#: Means the same in every guest.
_NULL: Final = Path("/dev/null")
#: Links in a row that Linux follows; path_resolution(7).
_PATIENCE: Final = 40


@dataclass(frozen=True)
class Push:
    """A folder's content, or a file, that goes into the guest; ``exclude`` are rsync patterns."""

    source: Path
    target: str
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bounds:
    """What holds for all trees of a build; the paths are resolved.

    ``description`` is its folder, ``state`` that of the tool, and ``overlays`` are the folders
    that KIWI copies into the image: links in them belong to the image and stay as they are.
    """

    description: Path
    state: Path
    overlays: frozenset[Path]


@dataclass(frozen=True)
class Scanned:
    """What a tree needs to be whole in the guest.

    ``exclude`` stays out of the tree's own push, ``pushes`` come after it, in this order.
    ``problems`` are lines that name what cannot be brought in.
    """

    exclude: tuple[str, ...]
    pushes: tuple[Push, ...]
    problems: tuple[str, ...]


def scan(
    root: Path, target: str, bounds: Bounds, *, above: tuple[tuple[Path, Path], ...] = ()
) -> Scanned:
    """Look at all symlinks of a tree that is to be copied.

    Args:
        root: the tree; resolved.
        target: where its copy will be in the guest.
        bounds: what holds for all trees.
        above: the links, and what they lead to, by which this tree was reached.
    """
    exclude = [_pattern(bounds.state, root)] if _below(bounds.state, root) else []
    pushes: list[Push] = []
    problems: list[str] = []
    for link in _links(root, bounds, problems):
        try:
            real = Path(os.path.realpath(link, strict=True))
        except OSError as error:
            missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
            # KIWI would see such a link here as it does there.
            if not (missing and stays(root, str(link.relative_to(root)), bounds.state)):
                problems.append(_said(link, reason(error)))
            continue
        if stays(root, str(link.relative_to(root)), bounds.state) or real == _NULL:
            continue
        through = (*above, (link, real))
        refused = refusal(real, bounds)
        if not refused and any(one.is_relative_to(real) for pair in above for one in pair):
            refused = "it would be copied into itself without end"
        if refused or link.is_relative_to(real):
            problems.append(_said(link, refused or "it would be copied into itself without end"))
            continue
        exclude.append(_pattern(link, root))
        place = f"{target}/{link.relative_to(root).as_posix()}"
        if real.is_file():
            pushes.append(Push(real, place))
        elif real in bounds.overlays:
            state = (_pattern(bounds.state, real),) if _below(bounds.state, real) else ()
            pushes.append(Push(real, place, state))
        else:
            inner = scan(real, place, bounds, above=through)
            pushes += [Push(real, place, inner.exclude), *inner.pushes]
            problems += inner.problems
    return Scanned(tuple(exclude), tuple(pushes), tuple(problems))


def refusal(real: Path, bounds: Bounds) -> str:
    """Say why a path is not copied into a guest; empty where it may be.

    Args:
        real: a resolved path that exists.
        bounds: what holds for all trees.
    """
    if str(real) in _SYSTEM or any(real.is_relative_to(one) for one in _KERNEL):
        return f"{real} is a folder of the system"
    if bounds.description.is_relative_to(real):
        return f"{real} holds the description itself"
    if real == bounds.state:
        return f"{real} is the state folder of this tool"
    if not (real.is_dir() or real.is_file()):
        return f"{real} is neither a folder nor a file"
    if not os.access(real, os.R_OK):
        return f"{real} cannot be read"
    return ""


def stays(root: Path, way: str, hidden: Path) -> bool:
    """Tell whether a way into a tree never leaves it, so that it means the same in a copy.

    Args:
        root: the tree; resolved.
        way: a path from there, which may lead over symlinks; what it names need not exist.
        hidden: a folder that the copy lacks.
    """
    here = root
    todo = way.split("/")[::-1]
    followed = 0
    while todo:
        part = todo.pop()
        if part in ("", "."):
            continue
        if part == "..":
            if here == root:
                return False
            here = here.parent
            continue
        here = here / part
        if here == hidden:
            return False
        if os.path.islink(here):  # noqa: PTH114 # not to fail where it cannot be read
            text = str(here.readlink())
            followed += 1
            if text.startswith("/") or followed > _PATIENCE:
                return False
            todo += text.split("/")[::-1]
            here = here.parent
    return True


def _links(root: Path, bounds: Bounds, problems: list[str]) -> Iterator[Path]:
    """Yield the symlinks of a tree outside of the overlay trees and of our own state."""
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            problems.append(f"{folder}: {reason(error)}")
            continue
        for entry in entries:
            path = folder / entry.name
            if entry.is_symlink():
                yield path
            elif (
                entry.is_dir(follow_symlinks=False)
                and path != bounds.state
                and path not in bounds.overlays
            ):
                folders.append(path)


def _said(link: Path, why: str) -> str:
    return f"{link} -> {link.readlink()}: {why}"


def reason(error: OSError) -> str:
    """Say in plain words why a path cannot be followed."""
    if error.errno == errno.ELOOP:
        return "the links lead in a circle"
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return "there is no such file or folder on this host"
    return f"it cannot be read ({error.strerror})"


def _below(path: Path, root: Path) -> bool:
    return path != root and path.is_relative_to(root)


def _pattern(path: Path, root: Path) -> str:
    """Return the rsync pattern for one path of a tree and nothing else.

    A backslash is one unless the pattern has a wildcard; rsync(1), "PATTERN MATCHING RULES".
    """
    text = PurePath(path).relative_to(root).as_posix()
    if re.search(r"[*?\[]", text):
        text = re.sub(r"([*?\[\\])", r"\\\1", text)
    return f"/{text}"
