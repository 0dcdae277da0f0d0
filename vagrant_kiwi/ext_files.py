"""The files of an ext2, ext3 or ext4 file system in a disk image, read by debugfs.

As an ordinary user and without mounting it: a box that may not be trusted gets no chance at the
kernel. debugfs reads only, unless it is told otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vagrant_kiwi.box_look import Entry, Kind
from vagrant_kiwi.deadline import Deadline
from vagrant_kiwi.process import Runner, at_most

#: The inode of the root folder.
_ROOT = 2

#: Folders that one debugfs lists.
_BATCH = 1000

#: As many entries a file system may have; ours has 16 000.
_ENTRIES = 5_000_000

#: Bytes that one debugfs may say.
_OUTPUT = 2**28

#: Names can have every character but a slash, line breaks included.
_LISTED = re.compile(rb"/(\d+)/(\d{6})/\d+/\d+/([^/]*)/(\d*)/\n")

_KINDS = {0o040000: Kind.FOLDER, 0o100000: Kind.FILE, 0o120000: Kind.LINK}

#: A shorter target stands in the inode itself: sizeof(i_block) in ext2_fs.h.
_FAST_LINK = 60


class ExtError(Exception):
    """The file system cannot be read; the text says why."""


@dataclass(frozen=True)
class Listed(Entry):
    """An entry of a folder with its inode; its name as debugfs has it."""

    inode: int = 0
    name: str = ""


@dataclass(frozen=True)
class Debugfs:
    """Runs debugfs on one file system.

    Args:
        runner: starts it.
        program: its path.
        image: the disk as a raw file.
        start: byte at which the file system begins.
        deadline: when all must be done.
    """

    runner: Runner
    program: str
    image: Path
    start: int
    deadline: Deadline

    def ask(self, *requests: str) -> tuple[bytes, str]:
        """Return what debugfs answers to some requests, and what it complains about.

        Raises:
            ExtError: it says too much.
            PhaseTimeoutError: the deadline has passed.
        """
        with self.deadline.named():
            # -c: without the bitmaps of what is free; -f: each request stands before its answer.
            result = self.runner.run(
                (
                    *(self.program, "-c", "-f", "-"),
                    # By its name alone: debugfs would look for options in the rest of a path.
                    f"{self.image.name}?offset={self.start}",
                ),
                stdin="".join(f"{request}\n" for request in requests).encode(),
                cwd=self.image.parent,
                timeout=self.deadline.left(),
                on_output=at_most(_OUTPUT, ExtError("it is too big")),
                environment={"DEBUGFS_PAGER": "__none__", "LC_ALL": "C.UTF-8"},
            )
        # Its first line is its version.
        complaints = [
            line for line in result.error_text.splitlines() if not line.startswith("debugfs 1.")
        ]
        if not result.ok:
            complaints.append(f"debugfs exited {result.status}")
        return result.output, "; ".join(complaints[:3])


@dataclass(frozen=True)
class ExtTree:
    """The files of a file system; ``damage`` says which folders could not be read, and why."""

    debugfs: Debugfs
    listed: Mapping[str, Listed]
    damage: tuple[str, ...]

    @property
    def entries(self) -> Mapping[str, Entry]:
        """All that is in it."""
        return self.listed

    def target(self, path: str) -> str | None:
        """Return where a link points to, or None if that cannot be read."""
        entry = self.listed[path]
        found = None
        if entry.size < _FAST_LINK:
            found = _fast_target(self._answer(f"stat <{entry.inode}>"), entry.size)
        if found is None:
            found = self.content(path)
        return None if found is None else found.decode("utf-8", "surrogateescape")

    def content(self, path: str) -> bytes | None:
        """Return what a file holds, or None if that cannot be read."""
        entry = self.listed[path]
        answer = self._answer(f"cat <{entry.inode}>")
        # Of a file that stands in its inode (inline_data) debugfs says all bytes that are there.
        return answer[: entry.size] if answer is not None and len(answer) >= entry.size else None

    def _answer(self, request: str) -> bytes | None:
        output, complaint = self.debugfs.ask(request)
        head = _echo(request)
        return output[len(head) :] if output.startswith(head) and not complaint else None


def read_tree(debugfs: Debugfs) -> ExtTree:
    """List all folders of a file system.

    Raises:
        ExtError: it cannot be read at all, or there is no end to it.
        PhaseTimeoutError: the deadline has passed.
    """
    found: dict[str, Listed] = {}
    damage: list[str] = []
    seen = {_ROOT}
    todo = [("", _ROOT)]
    while todo:
        batch, todo = todo[:_BATCH], todo[_BATCH:]
        output, complaint = debugfs.ask(*(f"ls -p <{inode}>" for _, inode in batch))
        listings = parse_listings(output, [inode for _, inode in batch])
        if listings is None:
            raise ExtError(complaint or "debugfs lists what makes no sense")
        for (folder, _), listing in zip(batch, listings, strict=True):
            # Each folder has itself in it; without that it was not read.
            if "." not in {entry.name for entry in listing}:
                damage.append(f"{folder or '/'}: {complaint}")
            for entry in listing:
                path = f"{folder}/{entry.name}"
                if entry.name in (".", ".."):
                    continue
                if path in found or (entry.kind is Kind.FOLDER and entry.inode in seen):
                    damage.append(f"{path} is there twice")
                    continue
                found[path] = entry
                if entry.kind is Kind.FOLDER:
                    seen.add(entry.inode)
                    todo.append((path, entry.inode))
            if len(found) > _ENTRIES:
                raise ExtError("it has too many files")
    if not found and damage:
        raise ExtError(damage[0].removeprefix("/: "))
    return ExtTree(debugfs, found, tuple(damage))


def parse_listings(output: bytes, inodes: Sequence[int]) -> list[list[Listed]] | None:
    """Split what debugfs says to ``ls -p <INODE>`` for some inodes.

    Returns:
        The entries of each; None if the output is another one. That names may have line breaks, and
        so look like lines of debugfs, misleads nobody: what must come next is always known.
    """
    listings = []
    at = 0
    for inode in inodes:
        head = _echo(f"ls -p <{inode}>")
        if not output.startswith(head, at):
            return None
        at += len(head)
        listing = []
        while (match := _LISTED.match(output, at)) is not None:
            # What was deleted has no inode.
            if match[1] != b"0":
                listing.append(_listed(match))
            at = match.end()
        listings.append(listing)
        if output.startswith(b"\n", at):
            at += 1
    return listings if at == len(output) else None


def _listed(match: re.Match[bytes]) -> Listed:
    mode = int(match[2], 8)
    return Listed(
        kind=_KINDS.get(mode & 0o170000, Kind.OTHER),
        size=int(match[4] or b"0"),
        inode=int(match[1]),
        name=match[3].decode("utf-8", "surrogateescape"),
    )


def _echo(request: str) -> bytes:
    return f"debugfs: {request}\n".encode()


def _fast_target(answer: bytes | None, size: int) -> bytes | None:
    """Return the target in what debugfs says to ``stat``, if it has it there."""
    if answer is None:
        return None
    _, mark, rest = answer.partition(b'Fast link dest: "')
    return rest[:size] if mark and len(rest) > size else None
