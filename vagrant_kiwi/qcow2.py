"""The header of a qcow2 disk: what QEMU would open because of it.

QEMU's programs would read whatever file of this host a disk names as what lies below it, and take
its content for the disk's own.

Source: QEMU, docs/interop/qcow2.rst, "Header".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from vagrant_kiwi.unpacked import ArchiveError

#: Bytes of a file that hold all that is looked at.
HEADER = 104

#: What every such file begins with.
MAGIC = b"QFI\xfb"
#: Up to the method of encryption.
_START = struct.Struct(">4sIQIIQI")
_SNAPSHOTS = struct.Struct(">I")
_SNAPSHOTS_AT = 60
_FEATURES = struct.Struct(">Q")
_FEATURES_AT = 72

_CORRUPT, _EXTERNAL_DATA = 1 << 1, 1 << 2
#: These and the dirty bit, the type of compression and subclusters: all inside the file.
_KNOWN = 0b11111
#: Bytes of the largest disk that anybody means: 64 TiB.
_LARGEST = 1 << 46


@dataclass(frozen=True)
class Disk:
    """A disk that is in its own file as a whole.

    ``virtual_size`` in bytes is what a guest sees; there are so many ``snapshots`` of it inside.
    """

    virtual_size: int
    snapshots: int


def read(head: bytes) -> Disk:
    """Read a header.

    Args:
        head: the first bytes of the file, ``HEADER`` of them if it has as many.

    Raises:
        ArchiveError: it is none, or it names other files, or QEMU would not open it.
    """
    if not head.startswith(MAGIC):
        raise ArchiveError("it is no qcow2 file")
    if len(head) < HEADER:
        raise ArchiveError("its header is cut off")
    _, version, backing, _, cluster_bits, size, encryption = _START.unpack_from(head)
    if version not in (2, 3):
        raise ArchiveError(f"its version is {version}, not 2 or 3")
    if backing:
        raise ArchiveError("it has a backing file: QEMU would read any file that it names")
    if encryption:
        raise ArchiveError("it is encrypted")
    # In version 2 other things begin there.
    features = _FEATURES.unpack_from(head, _FEATURES_AT)[0] if version == 3 else 0
    if features & _EXTERNAL_DATA:
        raise ArchiveError("it has an external data file: QEMU would read any file that it names")
    if features & ~_KNOWN:
        raise ArchiveError(f"it has features that are not known: {features:#x}")
    if features & _CORRUPT:
        raise ArchiveError("it is marked as corrupt")
    if not 9 <= cluster_bits <= 21:
        raise ArchiveError(f"its clusters have 2^{cluster_bits} bytes, which QEMU does not take")
    if not 0 < size <= _LARGEST:
        raise ArchiveError(f"its size is {size} bytes")
    return Disk(size, snapshots=_SNAPSHOTS.unpack_from(head, _SNAPSHOTS_AT)[0])
