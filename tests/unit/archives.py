"""Archives for the tests of build boxes, made in memory."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import struct
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

from vagrant_kiwi import box_archive
from vagrant_kiwi.box_archive import BoxArchive, Limits

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "none": lambda data: data,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}
ROOM = 1 << 40


@dataclass(frozen=True)
class Entry:
    """A member of an archive; ``pax`` are fields of its extended header."""

    name: str
    content: bytes = b""
    kind: bytes = tarfile.REGTYPE
    target: str = ""
    device: tuple[int, int] = (0, 0)
    mode: int = 0o644
    pax: Mapping[str, str] | None = None


def tar(*entries: Entry, form: int = tarfile.PAX_FORMAT) -> bytes:
    """Return a tar archive."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for entry in entries:
            info = tarfile.TarInfo(entry.name)
            info.type, info.linkname, info.mode = entry.kind, entry.target, entry.mode
            info.devmajor, info.devminor = entry.device
            info.size = len(entry.content)
            info.pax_headers = dict(entry.pax or {})
            archive.addfile(info, io.BytesIO(entry.content))
    return stream.getvalue()


def tar_of(files: Mapping[str, bytes]) -> bytes:
    """Return a tar archive of some files."""
    return tar(*(Entry(name, content) for name, content in files.items()))


def without_end(data: bytes) -> bytes:
    """Return a tar archive without the zeros at its end."""
    return data.rstrip(b"\0") + bytes(-len(data.rstrip(b"\0")) % 512)


def folder(name: str) -> Entry:
    return Entry(name, kind=tarfile.DIRTYPE, mode=0o755)


def symlink(name: str, target: str) -> Entry:
    return Entry(name, kind=tarfile.SYMTYPE, target=target)


def hard_link(name: str, target: str) -> Entry:
    return Entry(name, kind=tarfile.LNKTYPE, target=target)


#: The least that is a root file system.
ROOT = (folder("./"), folder("./usr/"), folder("./etc/"), Entry("./etc/passwd", b"root"))


def root(*entries: Entry) -> bytes:
    """Return a root file system with more in it."""
    return tar(*ROOT, *entries)


def sparse(name: str, parts: Sequence[tuple[int, int]], size: int) -> bytes:
    """Return a header of a sparse file in GNU tar's old format, with content; no archive's end."""
    stored = sum(length for _, length in parts)
    header = bytearray(512)
    header[0 : len(name)] = name.encode()
    header[100:108] = b"0000644\0"
    header[108:116] = header[116:124] = b"0000000\0"
    header[124:136] = b"%011o\0" % stored
    header[136:148] = b"%011o\0" % 0
    header[156:157] = b"S"
    header[257:265] = b"ustar  \0"
    for number, (offset, length) in enumerate(parts):
        struct.pack_into("12s12s", header, 386 + 24 * number, _octal(offset), _octal(length))
    header[483:495] = _octal(size)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + b"x" * stored + bytes(-stored % 512)


def _octal(number: int) -> bytes:
    if number < 8**11:
        return b"%011o\0" % number
    return b"\x80" + number.to_bytes(11, "big")


def damaged(draw: st.DataObject, data: bytes) -> bytes:
    """Return a tar archive with some bytes changed."""
    content = bytearray(data)
    changes = st.tuples(st.integers(0, len(content) - 1), st.binary(min_size=1, max_size=12))
    for at, change in draw.draw(st.lists(changes, max_size=4)):
        content[at : at + len(change)] = change
    # A header whose checksum is right is looked at more closely.
    for start in range(0, len(content) - 511, 512):
        if content[start + 257 : start + 262] == b"ustar":
            content[start + 148 : start + 156] = b" " * 8
            total = sum(content[start : start + 512])
            content[start + 148 : start + 156] = b"%06o\0 " % total
    return bytes(content)


# --- Docker's -----------------------------------------------------------------------------------


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


LAYER = tar(Entry("etc/one", b"1"), Entry("usr/.wh.gone"))


def config_of(*layers: bytes, **more: object) -> bytes:
    """Return an image's configuration."""
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{sha256(layer)}" for layer in layers]}
    return json.dumps({"architecture": "arm64", "os": "linux", "rootfs": rootfs} | more).encode()


CONFIG = config_of(LAYER)
CONFIG_NAME = f"{sha256(CONFIG)}.json"


def manifest(
    config: str = CONFIG_NAME,
    layers: Sequence[str] = ("a1/layer.tar",),
    tags: Sequence[str] | None = ("debian:bookworm",),
) -> Entry:
    """Return a manifest with one image."""
    entry = {"Config": config, "RepoTags": tags, "Layers": list(layers)}
    return Entry("manifest.json", json.dumps([entry]).encode())


def saved(*, layer: bytes = LAYER, config: bytes = CONFIG) -> tuple[Entry, ...]:
    """Return what Docker saved until version 24."""
    name = f"{sha256(config)}.json"
    return (
        Entry(name, config),
        folder("a1/"),
        Entry("a1/VERSION", b"1.0"),
        Entry("a1/json", b'{"id": "a1"}'),
        Entry("a1/layer.tar", layer),
        manifest(name),
        Entry("repositories", b'{"debian": {"bookworm": "a1"}}'),
    )


# --- Vagrant's ----------------------------------------------------------------------------------


def qcow2(
    *,
    version: int = 3,
    backing: int = 0,
    size: int = 1 << 30,
    encryption: int = 0,
    features: int = 0,
    cluster_bits: int = 16,
    snapshots: int = 0,
) -> bytes:
    """Return the start of a qcow2 file."""
    head = struct.pack(">4sIQIIQI", b"QFI\xfb", version, backing, 9, cluster_bits, size, encryption)
    head = head.ljust(60, b"\0") + struct.pack(">IQQ", snapshots, 0, features)
    return head.ljust(1024, b"\0")


def metadata(**values: object) -> Entry:
    """Return the metadata of a box for libvirt."""
    values = {"provider": "libvirt", "format": "qcow2", "virtual_size": 20} | values
    return Entry("./metadata.json", json.dumps(values).encode())


# --- Looking at them ----------------------------------------------------------------------------


def inspect(
    place: Path, data: bytes, *, room: int = ROOM, limits: Limits | None = None
) -> BoxArchive:
    """Write an archive, look into it, and see that nothing else came to be.

    Args:
        place: a folder that holds nothing yet; the archive is in one below it.
    """
    file = place / "inner" / "file"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(data)
    try:
        return box_archive.inspect(file, room=room, limits=limits or Limits())
    finally:
        assert sorted(place.rglob("*")) == [file.parent, file]
        assert file.read_bytes() == data
