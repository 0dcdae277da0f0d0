"""What is where on a disk: its partitions, and the kinds of their content.

Pure: it asks for bytes and starts nothing. Only what is needed to find the file systems of a box,
or to say what else there is; whatever it does not know has a name, too.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

#: Returns so many bytes from an offset, fewer at the end of the disk.
ReadAt = Callable[[int, int], bytes]

EXT = "ext2, ext3 or ext4"
FAT = "FAT"
UNKNOWN = "an unknown file system"

_SECTOR = 512
#: A chain of logical partitions that is longer goes in a circle.
_LOGICAL = 128
#: Bytes of GPT's table; its usual size is 16 KiB.
_TABLE = 2**20

_EXTENDED = {0x05, 0x0F, 0x85}
_PROTECTIVE = 0xEE

#: Partitions of a boot loader: of its bytes, or of the firmware's files in FAT.
_BOOT_CODE = {"41", "21686148-6449-6e6f-744e-656564454649", "9e1a2d38-c612-4316-aa26-8b49521e5a8b"}
_FIRMWARE = {"ef", "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"}

#: Bytes that tell what a partition holds: offset, bytes, name.
_SIGNATURES = (
    (0x438, b"\x53\xef", EXT),
    (0, b"LUKS\xba\xbe", "LUKS"),
    (0x218, b"LVM2 001", "LVM"),
    (0x10040, b"_BHRfS_M", "btrfs"),
    (0, b"XFSB", "XFS"),
    (0x1000, b"\xfc\x4e\x2b\xa9", "a RAID of md"),
    (0, b"hsqs", "squashfs"),
    (0x8001, b"CD001", "ISO 9660"),
    (0x400, b"\x10\x20\xf5\xf2", "F2FS"),
    (0x400, b"\xe2\xe1\xf5\xe0", "EROFS"),
    (3, b"NTFS    ", "NTFS"),
    (3, b"EXFAT   ", "exFAT"),
    (0xFF6, b"SWAPSPACE2", "swap"),
    (0x36, b"FAT", FAT),
    (0x52, b"FAT32", FAT),
)


class LayoutError(Exception):
    """The table of partitions makes no sense; the text says how."""


@dataclass(frozen=True)
class Partition:
    """A partition; number 0 is a disk without a table. ``start`` and ``size`` in bytes.

    ``kind`` is what the table says it is for: MBR's two digits, GPT's UUID, "" without a table.
    """

    number: int
    start: int
    size: int
    kind: str

    @property
    def name(self) -> str:
        """What to call it."""
        return f"partition {self.number}" if self.number else "the disk"


def partitions(read: ReadAt, size: int) -> tuple[Partition, ...]:
    """Return the partitions of a disk, or the disk itself if it has no table.

    Args:
        read: reads the disk.
        size: its bytes.

    Raises:
        LayoutError: its table makes no sense.
    """
    whole = (Partition(0, 0, size, ""),)
    sector = read(0, _SECTOR)
    if len(sector) < _SECTOR or sector[510:] != b"\x55\xaa":
        return whole
    entries = _mbr_entries(sector)
    if any(kind == _PROTECTIVE for _, kind, _, _ in entries):
        found = tuple(_gpt(read))
    elif entries and all(status in (0, 0x80) for status, _, _, _ in entries):
        found = tuple(_mbr(read, sector))
    else:
        # A file system's own boot sector ends like a table.
        return whole
    for entry in found:
        if entry.start < _SECTOR or entry.size <= 0 or entry.start + entry.size > size:
            raise LayoutError(f"{entry.name} does not lie within the disk")
    return found


def content(read: ReadAt, partition: Partition) -> str:
    """Return what a partition holds: ``EXT``, "" for nothing that matters, or a name in words.

    What does not matter are boot loaders and swap.
    """
    for offset, signature, name in _SIGNATURES:
        if offset + len(signature) > partition.size:
            continue
        if read(partition.start + offset, len(signature)) == signature:
            if name == "swap" or (name == FAT and partition.kind in _FIRMWARE):
                return ""
            return name
    return "" if partition.kind in _BOOT_CODE else UNKNOWN


def has_open_journal(read: ReadAt, partition: Partition) -> bool:
    """Tell whether an ext file system has changes that are in its journal only."""
    # ext4's documentation, "The Super Block": s_feature_incompat, INCOMPAT_RECOVER.
    (features,) = struct.unpack("<I", read(partition.start + 1024 + 0x60, 4))
    return bool(features & 0x4)


def _mbr_entries(sector: bytes) -> list[tuple[int, int, int, int]]:
    """Return status, type, first sector and sectors of each entry that is in use."""
    entries = [struct.unpack_from("<B3xB3xII", sector, offset) for offset in range(446, 510, 16)]
    return [entry for entry in entries if entry[1] and entry[3]]


def _mbr(read: ReadAt, sector: bytes) -> Iterator[Partition]:
    for number, offset in enumerate(range(446, 510, 16), start=1):
        _, kind, start, count = struct.unpack_from("<B3xB3xII", sector, offset)
        if kind in _EXTENDED and count:
            yield from _logical(read, start)
        elif kind and count:
            yield Partition(number, start * _SECTOR, count * _SECTOR, f"{kind:02x}")


def _logical(read: ReadAt, first: int) -> Iterator[Partition]:
    """Follow the chain of an extended partition: each link has a partition and the next link."""
    here = first
    for number in range(5, 5 + _LOGICAL):
        sector = read(here * _SECTOR, _SECTOR)
        if len(sector) < _SECTOR or sector[510:] != b"\x55\xaa":
            raise LayoutError("the logical partitions are damaged")
        following = 0
        for _, kind, start, count in _mbr_entries(sector):
            if kind in _EXTENDED:
                following = first + start
            else:
                yield Partition(number, (here + start) * _SECTOR, count * _SECTOR, f"{kind:02x}")
        if not following:
            return
        here = following
    raise LayoutError("the logical partitions have no end")


def _gpt(read: ReadAt) -> Iterator[Partition]:
    header = read(_SECTOR, _SECTOR)
    if header[:8] != b"EFI PART":
        raise LayoutError("the GPT is missing")
    length, checksum = struct.unpack_from("<II", header, 12)
    if not 92 <= length <= _SECTOR:
        raise LayoutError("the GPT is damaged")
    if zlib.crc32(header[:16] + bytes(4) + header[20:length]) != checksum:
        raise LayoutError("the GPT is damaged")
    table, count, size, checksum = struct.unpack_from("<QIII", header, 72)
    if size < 128 or size * count > _TABLE:
        raise LayoutError("the GPT is damaged")
    entries = read(table * _SECTOR, size * count)
    if zlib.crc32(entries) != checksum:
        raise LayoutError("the GPT is damaged")
    for number in range(count):
        entry = entries[number * size : (number + 1) * size]
        kind = uuid.UUID(bytes_le=entry[:16])
        first, last = struct.unpack_from("<QQ", entry, 32)
        if kind.int:
            yield Partition(number + 1, first * _SECTOR, (last + 1 - first) * _SECTOR, str(kind))
