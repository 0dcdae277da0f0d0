"""A stream as it is without its compression: told by its first bytes, counted, read to its end."""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

#: Bytes that are read at once.
CHUNK = 256 * 1024
#: Bytes that a decompressor may hold; xz -9 takes 65 MiB, a header may ask for 4 GiB.
_MEMORY = 256 * 1024 * 1024


class ArchiveError(Exception):
    """What is wrong with an archive, as "it is empty"; who knows its name says the rest.

    Args:
        text: what is wrong.
        resolution: what can be done about it, if it is something special.
    """

    def __init__(self, text: str, *, resolution: str = "") -> None:
        super().__init__(text)
        self.resolution = resolution


@dataclass
class Budget:
    """What an archive may unpack to.

    Args:
        limit: bytes in all; if it is not given, more than there is: for what is not kept.
        why: what the limit is, as in "which is all there is room for".
        spent: bytes so far.
    """

    limit: int = 1 << 62
    why: str = "which cannot be"
    spent: int = 0

    def spend(self, size: int) -> None:
        """Count bytes.

        Raises:
            ArchiveError: they are too many.
        """
        self.spent += size
        if self.spent > self.limit:
            raise ArchiveError(f"it unpacks to more than {self.limit} bytes, {self.why}")


def unpacked(
    source: IO[bytes], budget: Budget, *, see: Callable[[bytes], object] | None = None
) -> io.BufferedReader:
    """Return a stream without its compression: none, gzip, bzip2 or xz.

    Reading raises ArchiveError where the compressed data is damaged, ends too early, has something
    else behind it, or exceeds the budget.

    Args:
        source: the stream, at its start.
        budget: what it is counted in.
        see: is shown all that is read, in order.

    Raises:
        ArchiveError: it is compressed in another way.
    """
    return io.BufferedReader(_Unpacked(source, budget, see), CHUNK)


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    """zlib's decompressor with the face that those of bz2 and lzma have."""

    def __init__(self) -> None:
        # 31: the largest window, in gzip's frame.
        self._inner = zlib.decompressobj(31)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


_KINDS: dict[bytes, Callable[[], _Decompressor]] = {
    b"\x1f\x8b": _Gzip,
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ\0": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY),
}
#: What may be given instead of an archive, by its first bytes, and what to do about it.
_OTHERS: dict[bytes, tuple[str, str]] = {
    b"\x28\xb5\x2f\xfd": ("it is compressed with zstd", "Unpack it first: zstd -d FILE"),
    b"\x04\x22\x4d\x18": ("it is compressed with lz4", "Unpack it first: lz4 -d FILE"),
    b"7z\xbc\xaf\x27\x1c": ("it is a 7z archive", "Unpack it first: 7z x FILE"),
    b"PK\x03\x04": ("it is a zip archive", "Unpack it first: unzip FILE"),
    b"QFI\xfb": (
        "it is the bare disk of a machine (qcow2)",
        "A box for libvirt is a tar archive of it, as box.img, with a metadata.json.",
    ),
    b"<": ("it looks like a web page", "Look at it: the server may have said why."),
}
_LONGEST = max(map(len, (*_KINDS, *_OTHERS)))


def _magic(start: bytes) -> bytes:
    """Return the mark of how a stream is compressed that starts like this; none if it is not."""
    for magic, (what, remedy) in _OTHERS.items():
        if start.startswith(magic):
            raise ArchiveError(what, resolution=remedy)
    return next((magic for magic in _KINDS if start.startswith(magic)), b"")


class _Unpacked(io.RawIOBase):
    """See ``unpacked``."""

    def __init__(
        self, source: IO[bytes], budget: Budget, see: Callable[[bytes], object] | None
    ) -> None:
        ahead = _Ahead(source)
        magic = _magic(ahead.start())
        self._read = _Packed(ahead, magic).read if magic else ahead.take
        self._budget = budget
        self._see = see

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        data = self._read(len(view))
        self._budget.spend(len(data))
        if self._see is not None:
            self._see(data)
        view[: len(data)] = data
        return len(data)


class _Ahead:
    """A stream that takes back what was read too much."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self._data = b""

    def take(self, size: int) -> bytes:
        """Return up to this many bytes; none at the end."""
        if not self._data:
            return self._source.read(size)
        data, self._data = self._data[:size], self._data[size:]
        return data

    def give_back(self, data: bytes) -> None:
        self._data = data + self._data

    def start(self) -> bytes:
        """Return what tells the kind of that which comes, without taking it."""
        self._data += self._source.read(max(0, _LONGEST - len(self._data)))
        return self._data[:_LONGEST]


class _Packed:
    """A compressed stream, or several in a row, as pigz and pxz write them."""

    def __init__(self, source: _Ahead, magic: bytes) -> None:
        self._source = source
        self._magic = magic
        self._open = _KINDS[magic]()

    def read(self, size: int) -> bytes:
        """Return up to this many bytes; none at the end."""
        while not self._open.eof or self._another():
            wanted = self._open.needs_input
            data = self._source.take(CHUNK) if wanted else b""
            try:
                made = self._open.decompress(data, size)
            except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as error:
                raise ArchiveError(f"its compressed data is damaged: {error}") from error
            if made:
                return made
            if wanted and not data and not self._open.eof:
                raise ArchiveError("its compressed data ends too early: it was cut off")
        return b""

    def _another(self) -> bool:
        """Begin with the stream that follows a finished one; tell whether there is one."""
        self._source.give_back(self._open.unused_data)
        # Tapes and xz pad with zeros.
        rest = b""
        while not rest:
            taken = self._source.take(CHUNK)
            if not taken:
                return False
            rest = taken.lstrip(b"\0")
        self._source.give_back(rest)
        if not self._source.start().startswith(self._magic):
            raise ArchiveError("something follows the end of its compressed data")
        self._open = _KINDS[self._magic]()
        return True
