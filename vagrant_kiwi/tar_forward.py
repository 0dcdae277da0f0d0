"""Tar archives that come as a stream: read forward only, in little memory, whoever wrote them."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterable, Iterator
from typing import IO, cast

#: Bytes that are read at a time.
CHUNK = 2**20

#: Bytes that the headers of one member may have. Of extended ones tarfile keeps all in memory.
_HEADERS = 2**20

#: What reading a tar archive raises where it is damaged.
DAMAGES = (tarfile.TarError, EOFError)


class Forward:
    """What tarfile needs of a file, over a stream that cannot go back.

    Args:
        source: returns up to so many bytes; none at the end.
    """

    def __init__(self, source: Callable[[int], bytes]) -> None:
        self._source = source
        self._position = 0
        self._last = b""
        self.allowance = _HEADERS

    def read(self, size: int) -> bytes:
        """Return so many bytes, fewer only at the end.

        Raises:
            tarfile.ReadError: it is more than ``allowance`` has left.
        """
        if size > self.allowance:
            raise tarfile.ReadError("the headers of a member are too long")
        self.allowance -= size
        parts = []
        while size > 0 and (part := self._source(min(size, CHUNK))):
            parts.append(part)
            size -= len(part)
            self._position += len(part)
        self._last = b"".join(parts)
        return self._last

    @property
    def at_end(self) -> bool:
        """Whether what was read last is the end of an archive: a block of zeros, or nothing."""
        return self._last in (b"", bytes(tarfile.BLOCKSIZE))

    def tell(self) -> int:
        """Return how many bytes were passed."""
        return self._position

    def seek(self, position: int) -> int:
        """Pass over bytes until a position that lies ahead."""
        while self._position < position:
            part = self._source(min(position - self._position, CHUNK))
            if not part:
                break
            self._position += len(part)
        return self._position


def members(stream: Forward) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Yield the archive and each of its members, whose content may be read before the next one.

    Raises:
        tarfile.TarError: it is no tar archive, or a damaged one.
    """
    archive = tarfile.TarFile(
        fileobj=cast(IO[bytes], stream), mode="r", encoding="utf-8", errors="surrogateescape"
    )
    while True:
        stream.allowance = _HEADERS
        member = archive.next()
        if member is None:
            # It takes a damaged header for the end, too.
            if not stream.at_end:
                raise tarfile.ReadError("a header is damaged")
            return
        # It would keep them all.
        archive.members.clear()  # type: ignore[attr-defined] # typeshed hides it
        stream.allowance = member.size + tarfile.BLOCKSIZE
        yield archive, member


def from_chunks(chunks: Iterable[bytes]) -> Callable[[int], bytes]:
    """Return what reads chunks of any size as a ``Forward``'s source."""
    left = iter(chunks)
    rest = memoryview(b"")

    def read(size: int) -> bytes:
        nonlocal rest
        while not rest:
            chunk = next(left, None)
            if chunk is None:
                return b""
            rest = memoryview(chunk)
        part, rest = bytes(rest[:size]), rest[size:]
        return part

    return read
