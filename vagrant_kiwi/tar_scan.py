"""Read a tar archive that somebody sent: forwards, in constant memory, nothing taken on trust.

tarfile reads headers of any size into memory, ends at a damaged header as if the archive ended
there, and follows a header that points backwards. What it reads from here does not let it.
"""

from __future__ import annotations

import contextlib
import functools
import io
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, Literal, cast

from vagrant_kiwi.unpacked import CHUNK, ArchiveError, Budget

#: Bytes of all headers of one member: its long names, and a sparse file's list of parts.
_HEADERS = 8 * 1024 * 1024
#: Bytes of a file that can be looked at before it is read.
HEAD = 512
#: Characters of a name; the kernel's own limit for a path.
_NAME = 4096

Kind = Literal["file", "folder", "symlink", "hard link", "character device", "block device", "fifo"]

_KINDS: dict[bytes, Kind] = {
    tarfile.REGTYPE: "file",
    tarfile.AREGTYPE: "file",
    tarfile.CONTTYPE: "file",
    tarfile.GNUTYPE_SPARSE: "file",
    tarfile.DIRTYPE: "folder",
    tarfile.SYMTYPE: "symlink",
    tarfile.LNKTYPE: "hard link",
    tarfile.CHRTYPE: "character device",
    tarfile.BLKTYPE: "block device",
    tarfile.FIFOTYPE: "fifo",
}


@dataclass(frozen=True)
class Member:
    """What an archive holds under one name.

    ``name`` has no detours in it and does not leave the archive, nor does ``target`` of a hard
    link; that of a symlink is as it was written. ``size`` counts a sparse file's holes, ``device``
    is major and minor number, ``open`` opens a file's content.
    """

    name: str
    kind: Kind
    size: int
    target: str
    device: tuple[int, int]
    open: Callable[[], io.BufferedReader]

    @functools.cached_property
    def _opened(self) -> tuple[bytes, io.BufferedReader]:
        content = self.open()
        return content.peek(HEAD)[:HEAD], content

    @property
    def head(self) -> bytes:
        """The first ``HEAD`` bytes of a file, or all if it has less."""
        return self._opened[0]

    @property
    def content(self) -> io.BufferedReader:
        """A file's content, to be read once, and before the next member is asked for."""
        return self._opened[1]


def members(
    stream: IO[bytes], budget: Budget, *, most: int, headers: int = _HEADERS
) -> Iterator[Member]:
    """Yield what a tar archive holds; read to the very end of the stream.

    Args:
        stream: the archive, without compression.
        budget: the holes of sparse files are counted in it.
        most: how many members it may have.
        headers: bytes that those of one member may have.

    Raises:
        ArchiveError: it is damaged, cut off, or has a member that no archive should have.
    """
    source = _Forwards(stream, headers)
    try:
        # By whatever locale, Linux has names in UTF-8.
        tar = tarfile.TarFile(fileobj=cast(IO[bytes], source), encoding="utf-8")
    except _DAMAGE as error:
        raise ArchiveError(f"it is no tar archive: {error}") from error
    count = 0
    while True:
        source.headers = headers
        with _damaged():
            entry = tar.next()
        source.headers = None
        if entry is None:
            break
        # It would remember them all.
        cast(Any, tar).members.clear()
        count += 1
        if count > most:
            raise ArchiveError(f"it has more than {most} members")
        yield _member(tar, entry, budget)
    source.end()


def inside(name: str) -> str:
    """Return a name of an archive without its detours; the archive's root is ".".

    Raises:
        ArchiveError: it leads out of the archive, or is no name.
    """
    if not name:
        raise ArchiveError("it has a member without a name")
    if "\0" in name or len(name) > _NAME:
        raise ArchiveError(f"the name {name[:80]!r} is not one that a file can have")
    if name.startswith("/"):
        raise ArchiveError(f"the name {name!r} is absolute: it leads out of the archive")
    parts: list[str] = []
    for part in name.split("/"):
        if part == "..":
            if not parts:
                raise ArchiveError(f"the name {name!r} leads out of the archive")
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts) or "."


#: What tarfile raises where a header makes no sense, besides its own errors.
_DAMAGE = (
    tarfile.TarError,
    ValueError,
    IndexError,
    OverflowError,
    RecursionError,
)


@contextlib.contextmanager
def _damaged() -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise ArchiveError(f"a header in it is damaged: {error}") from error


class _Forwards:
    """What tarfile reads from: it goes forwards only, and keeps headers small.

    Args:
        stream: the archive.
        limit: bytes of one member's headers.

    ``headers`` is how many of them may still be read; None while it is a member's content that is
    read.
    """

    def __init__(self, stream: IO[bytes], limit: int) -> None:
        self._stream = stream
        self._limit = limit
        self._position = 0
        self._last = b""
        self.headers: int | None = limit

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> int:
        if position < self._position:
            raise ArchiveError("members of it overlap")
        while left := position - self._position:
            self._position += len(self._some(min(left, CHUNK)))
        return position

    def read(self, size: int) -> bytes:
        if self.headers is None:
            data = self._some(size)
        else:
            if not 0 <= size <= self.headers:
                raise ArchiveError(f"a member's headers are larger than {self._limit} bytes")
            self.headers -= size
            self._last = data = self._stream.read(size)
        self._position += len(data)
        return data

    def _some(self, size: int) -> bytes:
        data = self._stream.read(size)
        if len(data) < size:
            raise ArchiveError("it ends in the middle of a member: it was cut off")
        return data

    def end(self) -> None:
        """See that the archive ends here as archives do: by blocks of zeros, and nothing else."""
        if not self._last:
            raise ArchiveError("the mark at its end is missing: it was cut off")
        if len(self._last) < tarfile.BLOCKSIZE:
            raise ArchiveError("it ends in the middle of a header: it was cut off")
        if self._last.strip(b"\0"):
            raise ArchiveError("a header in it is damaged")
        while rest := self._stream.read(CHUNK):
            if rest.strip(b"\0"):
                raise ArchiveError("something follows its end")


def _member(tar: tarfile.TarFile, entry: tarfile.TarInfo, budget: Budget) -> Member:
    name = inside(entry.name)
    kind = _KINDS.get(entry.type)
    if kind is None:
        raise ArchiveError(f"{name!r} is of a type that is not known: {entry.type!r}")
    if kind != "folder" and (name == "." or entry.name.endswith("/")):
        raise ArchiveError(f"{entry.name!r} is the name of a folder, but is a {kind}")
    # tarfile lets these rule all members that follow; what unpacks the archive need not.
    if any(key in tarfile.PAX_FIELDS or key.startswith("GNU.") for key in tar.pax_headers):
        raise ArchiveError("a global header in it renames or resizes its members")
    if entry.size < 0 or (kind == "hard link" and entry.size):
        raise ArchiveError(f"{name!r} is a {kind} of {entry.size} bytes")
    if entry.sparse is not None:
        budget.spend(_holes(tar, entry, name))
    return Member(
        name=name,
        kind=kind,
        size=entry.size if kind == "file" else 0,
        target=inside(entry.linkname) if kind == "hard link" else entry.linkname,
        device=(entry.devmajor, entry.devminor),
        open=lambda: _content(tar, entry),
    )


def _content(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> io.BufferedReader:
    return cast(io.BufferedReader, tar.extractfile(entry))


def _holes(tar: tarfile.TarFile, entry: tarfile.TarInfo, name: str) -> int:
    """Return the bytes of a sparse file that are not in the archive."""
    position = stored = 0
    for offset, size in cast(list[tuple[int, int]], entry.sparse):
        # GNU tar's marks for a place that is not used, and for the end.
        if size == 0 and offset in (0, entry.size):
            continue
        if offset < position or size < 0:
            raise ArchiveError(f"the parts of the sparse file {name!r} overlap")
        position = offset + size
        stored += size
    if position > entry.size or entry.offset_data + stored > tar.offset:
        raise ArchiveError(f"the parts of the sparse file {name!r} are larger than itself")
    return entry.size - stored
