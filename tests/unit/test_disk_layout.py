"""What is where on a disk: tables made by hand, as the standards have them."""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vagrant_kiwi import disk_layout
from vagrant_kiwi.disk_layout import EXT, UNKNOWN, LayoutError, Partition

MIB = 2**20
SIZE = 64 * MIB
LINUX = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")


def reader(parts: Mapping[int, bytes], size: int = SIZE) -> disk_layout.ReadAt:
    """Read a disk that has bytes at some offsets and zeros elsewhere."""

    def read(offset: int, count: int) -> bytes:
        data = bytearray(max(0, min(count, size - offset)))
        for start, part in parts.items():
            for index in range(max(start, offset), min(start + len(part), offset + len(data))):
                data[index - offset] = part[index - start]
        return bytes(data)

    return read


def mbr(*entries: tuple[int, int, int], status: int = 0) -> bytes:
    """Make a sector with a table: type, first sector, sectors."""
    table = b"".join(struct.pack("<B3xB3xII", status, *entry) for entry in entries)
    return bytes(446) + table.ljust(64, b"\0") + b"\x55\xaa"


def gpt(*entries: tuple[uuid.UUID, int, int], damage: bool = False) -> dict[int, bytes]:
    """Make a table: type, first and last sector."""
    table = b"".join(
        kind.bytes_le + uuid.uuid4().bytes + struct.pack("<QQ", first, last) + bytes(80)
        for kind, first, last in entries
    ).ljust(128 * 128, b"\0")
    header = bytearray(92)
    struct.pack_into("<8sIII", header, 0, b"EFI PART", 0x10000, 92, 0)
    struct.pack_into("<QIII", header, 72, 2, 128, 128, zlib.crc32(table))
    struct.pack_into("<I", header, 16, zlib.crc32(header))
    if damage:
        table = table[:40] + b"\0" + table[41:]
    return {0: mbr((0xEE, 1, 2**32 - 1)), 512: bytes(header), 1024: table}


def test_a_disk_without_a_table_is_one_file_system() -> None:
    for start in ({}, {0: b"hsqs"}, {510: b"\x55\xaa"}, {0: mbr((0x83, 2048, 100), status=7)}):
        found = disk_layout.partitions(reader(start), SIZE)
        assert found == (Partition(0, 0, SIZE, ""),)
    assert disk_layout.partitions(reader({}, 100), 100) == (Partition(0, 0, 100, ""),)
    assert found[0].name == "the disk"


def test_primary_and_logical_partitions() -> None:
    disk = {
        0: mbr((0x83, 2048, 2048), (0, 0, 0), (0x05, 8192, 20000)),
        8192 * 512: mbr((0x82, 2048, 1000), (0x05, 4096, 4000)),
        (8192 + 4096) * 512: mbr((0x83, 63, 500)),
    }
    assert disk_layout.partitions(reader(disk), SIZE) == (
        Partition(1, MIB, MIB, "83"),
        Partition(5, (8192 + 2048) * 512, 1000 * 512, "82"),
        Partition(6, (8192 + 4096 + 63) * 512, 500 * 512, "83"),
    )


def test_a_gpt() -> None:
    esp = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
    disk = gpt((esp, 2048, 4095), (uuid.UUID(int=0), 0, 0), (LINUX, 4096, 8191))
    found = disk_layout.partitions(reader(disk), SIZE)
    assert found == (
        Partition(1, MIB, MIB, str(esp)),
        Partition(3, 2 * MIB, 2 * MIB, str(LINUX)),
    )
    assert found[1].name == "partition 3"


def chain_in_a_circle() -> dict[int, bytes]:
    return {
        0: mbr((0x0F, 2048, 20000)),
        2048 * 512: mbr((0x83, 1, 1), (0x05, 2048, 1)),
        4096 * 512: mbr((0x83, 1, 1), (0x05, 2048, 1)),
    }


@pytest.mark.parametrize(
    ("disk", "message"),
    [
        (chain_in_a_circle(), "have no end"),
        ({0: mbr((0x0F, 2048, 20000))}, "logical partitions are damaged"),
        ({0: mbr((0x83, 2048, 2**31))}, "partition 1 does not lie within"),
        ({0: mbr((0x83, 0, 100))}, "partition 1 does not lie within"),
        (gpt((LINUX, 4096, 4094)), "partition 1 does not lie within"),
        (gpt((LINUX, 4096, 2**63)), "partition 1 does not lie within"),
        ({0: mbr((0xEE, 1, 100))}, "the GPT is missing"),
        (gpt((LINUX, 4096, 8191), damage=True), "the GPT is damaged"),
        ({**gpt(), 512: b"EFI PART" + bytes(84)}, "the GPT is damaged"),
        ({**gpt(), 512: b"EFI PART" + struct.pack("<II", 0, 92)}, "the GPT is damaged"),
    ],
)
def test_a_table_that_makes_no_sense(disk: Mapping[int, bytes], message: str) -> None:
    with pytest.raises(LayoutError, match=message):
        disk_layout.partitions(reader(disk), SIZE)


@given(st.binary(max_size=600), st.binary(max_size=600), st.booleans())
def test_no_table_does_more_than_make_no_sense(first: bytes, second: bytes, table: bool) -> None:
    start = mbr((0xEE, 1, 1)) if table else first[:510].ljust(510, b"\0") + b"\x55\xaa"
    try:
        found = disk_layout.partitions(reader({0: start, 512: second}), SIZE)
    except LayoutError:
        return
    assert all(part.start >= 0 and part.start + part.size <= SIZE for part in found)


@pytest.mark.parametrize(
    ("offset", "signature", "kind", "held"),
    [
        (0x438, b"\x53\xef", "83", EXT),
        (0x10040, b"_BHRfS_M", "83", "btrfs"),
        (0, b"XFSB", "83", "XFS"),
        (0, b"LUKS\xba\xbe", "83", "LUKS"),
        (0x218, b"LVM2 001", "8e", "LVM"),
        (0xFF6, b"SWAPSPACE2", "82", ""),
        (0x36, b"FAT16   ", "ef", ""),
        (0x52, b"FAT32   ", "c12a7328-f81f-11d2-ba4b-00a0c93ec93b", ""),
        (0x52, b"FAT32   ", "0b", "FAT"),
        (0, b"boot code", "21686148-6449-6e6f-744e-656564454649", ""),
        (0x438, b"\x53\xef", "21686148-6449-6e6f-744e-656564454649", EXT),
        (0, b"who knows", "83", UNKNOWN),
        (0, b"", "", UNKNOWN),
    ],
)
def test_what_a_partition_holds(offset: int, signature: bytes, kind: str, held: str) -> None:
    partition = Partition(1, MIB, MIB, kind)
    assert disk_layout.content(reader({MIB + offset: signature}), partition) == held


def test_a_signature_behind_the_end_of_a_partition_is_not_its_own() -> None:
    disk = reader({MIB + 0x438: b"\x53\xef"})
    assert disk_layout.content(disk, Partition(1, MIB, 1024, "83")) == UNKNOWN


@pytest.mark.parametrize(("features", "open_"), [(0x2C2, False), (0x2C6, True)])
def test_an_open_journal(features: int, open_: bool) -> None:
    disk = reader({MIB + 1024 + 0x60: struct.pack("<I", features)})
    assert disk_layout.has_open_journal(disk, Partition(1, MIB, MIB, "83")) is open_
