"""What an archive is, and what makes it one that nobody should unpack."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import posixpath
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit import archives
from tests.unit.archives import PACKERS, ROOT, Entry, hard_link, inspect, root, symlink, tar
from vagrant_kiwi import box_archive, box_archive_streams, tar_scan
from vagrant_kiwi.box_archive import Limits, MachineArchive, RootFileSystem
from vagrant_kiwi.errors import BoxError
from vagrant_kiwi.unpacked import ArchiveError, Budget

DEVICE = tarfile.CHRTYPE


def refused(place: Path, data: bytes, match: str, **options: object) -> None:
    """See that an archive is refused, with exit code 5."""
    with pytest.raises(BoxError, match=match) as caught:
        inspect(place, data, **options)  # type: ignore[arg-type]
    assert caught.value.code == 5


# --- Root file systems --------------------------------------------------------------------------


@pytest.mark.parametrize("packer", PACKERS)
def test_a_root_file_system_is_told_by_its_content(tmp_path: Path, packer: str) -> None:
    data = root(
        Entry("./usr/bin/su", b"x", mode=0o4755),
        symlink("./bin", "/usr/bin"),
        symlink("./usr/out", "../../../../etc"),
        hard_link("./usr/bin/sg", "./usr/bin/su"),
        Entry("./dev/null", kind=DEVICE, device=(1, 3)),
        Entry("./dev/ptmx", kind=DEVICE, device=(5, 2)),
        Entry("./usr/manifest.json", b"[]"),
        Entry("./etc/../usr/x"),
        Entry("./usr/" + "long" * 60),
    )
    assert inspect(tmp_path, PACKERS[packer](data)) == RootFileSystem(13, len(data))
    file = tmp_path / "inner" / "file"
    assert b"".join(box_archive_streams.import_stream(file)) == data


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_format_of_tar_is_read(tmp_path: Path, form: int) -> None:
    data = tar(*ROOT, Entry("usr/" + "a" * 90, b"b" * 1000), form=form)
    assert inspect(tmp_path, data) == RootFileSystem(5, len(data))


@pytest.mark.parametrize("name", ["manifest.json", "metadata.json"])
@pytest.mark.parametrize("content", [b"not JSON", b"{}", b"[" * 100_000, b"null", b"\xff"])
def test_a_root_file_system_may_have_files_with_such_names(
    tmp_path: Path, name: str, content: bytes
) -> None:
    data = root(Entry(name, content), symlink("x", "/y"))
    assert isinstance(inspect(tmp_path, data), RootFileSystem)


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        (Entry("/etc/passwd"), "'/etc/passwd' is absolute"),
        (Entry("../outside"), "'../outside' leads out"),
        (Entry("etc/../../outside"), "leads out"),
        (Entry("etc/./..//../outside"), "leads out"),
        (Entry(""), "without a name"),
        (Entry("etc/x", pax={"path": "etc/\0x"}), "not one that a file can have"),
        (Entry("n" * 5000), "not one that a file can have"),
        (Entry("./"), "name of a folder"),
        (hard_link("etc/x", "/etc/passwd"), "absolute"),
        (hard_link("etc/x", "../passwd"), "leads out"),
        (hard_link("etc/x", ""), "without a name"),
        (Entry("etc/x", b"y", kind=tarfile.LNKTYPE, target="etc/y"), "hard link of 1 bytes"),
        (Entry("etc/fifo", kind=tarfile.FIFOTYPE), "'etc/fifo' is a fifo"),
        (Entry("dev/sda", kind=tarfile.BLKTYPE, device=(8, 0)), "'dev/sda' is a block device 8:0"),
        (Entry("dev/null", kind=tarfile.BLKTYPE, device=(1, 3)), "block device"),
        (Entry("dev/null", kind=DEVICE, device=(1, 1)), "'dev/null' is a character device 1:1"),
        (Entry("etc/null", kind=DEVICE, device=(1, 3)), "'etc/null' is a character device 1:3"),
        (Entry("etc/x", kind=b"V"), "type that is not known"),
    ],
)
def test_a_member_that_no_root_file_system_should_have(
    tmp_path: Path, entry: Entry, match: str
) -> None:
    refused(tmp_path, root(entry), match)


def test_a_global_header_that_renames(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", pax_headers={"path": "etc/shadow"}) as archive:
        archive.addfile(tarfile.TarInfo("etc/x"))
    refused(tmp_path, stream.getvalue(), "global header")


def test_a_harmless_global_header(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", pax_headers={"comment": "by git"}) as archive:
        for name in ("etc/x", "usr/y"):
            archive.addfile(tarfile.TarInfo(name))
    assert isinstance(inspect(tmp_path, stream.getvalue()), RootFileSystem)


# --- What is none of the three ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "it is empty"),
        (b"hello", "no tar archive"),
        (bytes(10240), "begins with: nothing"),
        (gzip.compress(b""), "no tar archive"),
        (gzip.compress(b"hello"), "no tar archive"),
        (tar(Entry("photos/1.jpg"), Entry("notes")), "begins with: 'photos', 'notes'"),
        (tar(Entry("manifest.json", b"{}")), "'manifest.json' is not as Docker writes it"),
        (tar(Entry("metadata.json", b"{")), "'metadata.json' is no JSON"),
        (tar(Entry("metadata.json", b"{}")), "names no provider"),
        (tar(Entry("metadata.json", b"[" * 100_000)), "'metadata.json' is no JSON"),
        (tar(Entry("metadata.json", b" " * 5_000_000)), "'metadata.json' is larger"),
        (b"\x28\xb5\x2f\xfd" + bytes(100), "zstd -d"),
        (b"PK\x03\x04" + bytes(100), "zip archive"),
        (b"<!DOCTYPE html><html>404", "web page"),
        (archives.qcow2(), "bare disk of a machine"),
        (tar(Entry("oci-layout"), Entry("index.json")), "skopeo copy oci-archive:"),
    ],
)
def test_what_is_no_box_is_named(tmp_path: Path, data: bytes, match: str) -> None:
    refused(tmp_path, data, match)


def test_two_kinds_at_once(tmp_path: Path) -> None:
    data = tar(*archives.saved(), archives.metadata(), Entry("box.img", archives.qcow2()))
    refused(tmp_path, data, "Docker's and a Vagrant box at once")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BoxError, match="cannot be read"):
        box_archive.inspect(tmp_path / "missing", room=1)
    with pytest.raises(BoxError, match="cannot be read"):
        list(box_archive_streams.import_stream(tmp_path / "missing"))


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(BoxError, match="no ordinary file"):
        box_archive.inspect(tmp_path, room=1)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BoxError, match="no ordinary file"):
        box_archive.inspect(tmp_path / "pipe", room=1)


# --- Cut off, damaged, with something behind ----------------------------------------------------


@pytest.mark.parametrize("packer", ["gzip", "bzip2", "xz"])
@pytest.mark.parametrize("missing", [1, 10, 200])
def test_a_compressed_archive_that_was_cut_off(tmp_path: Path, packer: str, missing: int) -> None:
    # Past the end of the tar archive, too: only its checksum would be missing.
    data = PACKERS[packer](root(Entry("usr/x", bytes(range(256)) * 40)))
    refused(tmp_path, data[:-missing], "cut off")


@pytest.mark.parametrize("packer", ["gzip", "bzip2", "xz"])
def test_a_compressed_archive_that_is_damaged(tmp_path: Path, packer: str) -> None:
    data = bytearray(PACKERS[packer](root(Entry("usr/x", bytes(range(256)) * 40))))
    data[len(data) // 2] ^= 0xFF
    refused(tmp_path, bytes(data), "damaged|cut off|no tar archive")
    with pytest.raises(BoxError):
        list(box_archive_streams.import_stream(tmp_path / "inner" / "file"))


def test_xz_that_wants_all_memory(tmp_path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 29}]
    refused(tmp_path, lzma.compress(root(), filters=filters), "[Mm]emory")


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize(
    ("keep", "match"),
    [
        (lambda data: archives.without_end(data), "mark at its end is missing"),
        (lambda data: archives.without_end(data)[:-512], "in the middle of a member"),
        (lambda data: archives.without_end(data)[:-700], "in the middle of a member"),
        (lambda data: archives.without_end(data) + bytes(100), "in the middle of a header"),
        (lambda data: archives.without_end(data)[:-1500], "in the middle of a header"),
    ],
)
def test_a_tar_archive_that_was_cut_off(
    tmp_path: Path, packer: str, keep: object, match: str
) -> None:
    assert callable(keep)
    data = keep(root(Entry("usr/x", b"y" * 1000)))
    refused(tmp_path, PACKERS[packer](data), match)


def test_a_damaged_header_is_not_the_end(tmp_path: Path) -> None:
    data = bytearray(root(Entry("usr/x"), Entry("usr/y")))
    at = data.index(b"usr/x")
    data[at] ^= 1
    refused(tmp_path, bytes(data), "header in it is damaged")


@pytest.mark.parametrize("packer", ["gzip", "bzip2", "xz"])
def test_several_compressed_streams_in_a_row(tmp_path: Path, packer: str) -> None:
    data, pack = root(Entry("usr/x", b"y" * 3000)), PACKERS[packer]
    pieces = [pack(data[start : start + 1000]) for start in range(0, len(data), 1000)]
    joined = bytes(4).join((*pieces, b""))
    assert inspect(tmp_path, joined) == RootFileSystem(5, len(data))
    refused(tmp_path, joined + b"something", "follows the end of its compressed data")


@pytest.mark.parametrize("packer", PACKERS)
def test_what_follows_the_end_of_an_archive(tmp_path: Path, packer: str) -> None:
    one_block = archives.without_end(root()) + bytes(512)
    assert isinstance(inspect(tmp_path, PACKERS[packer](one_block)), RootFileSystem)
    padded = root() + bytes(1_000_000)
    assert isinstance(inspect(tmp_path, PACKERS[packer](padded)), RootFileSystem)
    refused(tmp_path, PACKERS[packer](root() + root()), "something follows its end")


# --- Bombs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("packer", ["gzip", "bzip2", "xz"])
def test_a_bomb(tmp_path: Path, packer: str) -> None:
    data = PACKERS[packer](root(Entry("usr/zeros", bytes(20_000_000))))
    small = Limits(unpacked=1_000_000, ratio=50)
    refused(tmp_path, data, "more than 1000000 bytes, far more than its own", limits=small)
    refused(tmp_path, data, "more than 15000000 bytes.* room for", room=15_000_000)
    assert isinstance(inspect(tmp_path, data), RootFileSystem)


def test_a_large_archive_may_unpack_to_its_ratio(tmp_path: Path) -> None:
    data = PACKERS["gzip"](root(Entry("usr/zeros", bytes(1_000_000))))
    allowed = Limits(unpacked=0, ratio=1_100_000 // len(data))
    assert isinstance(inspect(tmp_path, data, limits=allowed), RootFileSystem)
    refused(tmp_path, data, "more than", limits=Limits(unpacked=0, ratio=allowed.ratio // 2))


def test_too_many_members(tmp_path: Path) -> None:
    refused(tmp_path, root(), "more than 3 members", limits=Limits(members=3))
    assert isinstance(inspect(tmp_path, root(), limits=Limits(members=4)), RootFileSystem)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_name_that_fills_the_memory(tmp_path: Path, form: int) -> None:
    data = tar(*ROOT, Entry("usr/" + "n" * 9_000_000), form=form)
    refused(tmp_path, PACKERS["gzip"](data), "headers are larger than")


def test_headers_without_end(tmp_path: Path) -> None:
    # Each one is a header of the next; tarfile calls itself for each.
    long = archives.without_end(tar(Entry("a" * 200), form=tarfile.GNU_FORMAT))[:1024]
    refused(tmp_path, root()[:1024] + long * 5000, "damaged|headers are larger")


def test_a_sparse_file_that_claims_too_much(tmp_path: Path) -> None:
    start = archives.without_end(root())
    huge = archives.sparse("usr/x", [(0, 512)], 1 << 50)
    refused(tmp_path, start + huge + bytes(1024), "more than")
    fair = archives.sparse("usr/x", [(1024, 512), (4096, 100), (0, 0)], 100_000)
    assert isinstance(inspect(tmp_path, start + fair + bytes(1024)), RootFileSystem)


@pytest.mark.parametrize(
    "parts",
    [
        [(1024, 512), (1000, 512)],
        [(5000, 0), (1000, 512)],
        [(0, 512), (90_000, 20_000)],
        [(1 << 40, 512)],
    ],
)
def test_a_sparse_file_that_makes_no_sense(tmp_path: Path, parts: list[tuple[int, int]]) -> None:
    data = archives.without_end(root()) + archives.sparse("usr/x", parts, 100_000) + bytes(1024)
    refused(tmp_path, data, "parts of the sparse file 'usr/x'")


@pytest.mark.parametrize(
    "pax",
    [
        {"GNU.sparse.map": "0,512,x"},
        {"GNU.sparse.map": "0,512,600,1000000", "GNU.sparse.size": "2000000"},
        {"GNU.sparse.map": "0,-5", "GNU.sparse.size": "100"},
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "5"},
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "x"},
        {"GNU.sparse.size": "1" + "0" * 5000},
        {"size": "-512"},
        {"size": "1" + "0" * 30},
    ],
)
def test_numbers_that_make_no_sense(tmp_path: Path, pax: dict[str, str]) -> None:
    data = root(Entry("usr/x", b"1\n0\n512\n" * 300, pax=pax), Entry("usr/y"))
    refused(tmp_path, data, "damaged|parts of the sparse|overlap|cut off|-512 bytes")


def test_a_size_below_zero(tmp_path: Path) -> None:
    data = bytearray(root(Entry("usr/x")))
    at = data.index(b"usr/x")
    data[at + 124 : at + 136] = b"\xff" * 10 + b"\xfe\x00"
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    refused(tmp_path, bytes(data), "overlap|bytes|damaged")


def test_it_goes_forwards_only() -> None:
    (member,) = tar_scan.members(io.BytesIO(tar(Entry("x", b"y"))), Budget(1 << 20, ""), most=9)
    with pytest.raises(ArchiveError, match="overlap"):
        member.content.read()


# --- For any archive ----------------------------------------------------------------------------

PARTS = st.sampled_from(["..", ".", "", "a", "etc", "...", "..a", "\\", "ä", " ", "\n"])
NAMES = st.lists(PARTS, min_size=1, max_size=8).map("/".join)


def stays(name: str) -> bool:
    """Tell, by other means, whether a name stays below a folder."""
    path = posixpath.normpath(f"/r/{name}")
    return path == "/r" or path.startswith("/r/")


@given(NAMES)
def test_no_name_leads_out(name: str) -> None:
    try:
        found = tar_scan.inside(name)
    except ArchiveError:
        assert not name or name.startswith("/") or not stays(name)
    else:
        assert stays(name)
        assert posixpath.normpath(f"/r/{name}") == posixpath.normpath(f"/r/{found}")
        assert ".." not in found.split("/")


@given(
    NAMES,
    NAMES,
    st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE]),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_no_member_is_outside(name: str, target: str, kind: bytes, form: int) -> None:
    data = tar(Entry(name, kind=kind, target=target), form=form)
    try:
        found = list(tar_scan.members(io.BytesIO(data), Budget(1 << 20, ""), most=9))
    except ArchiveError:
        return
    (member,) = found
    assert not name.startswith("/")
    assert stays(name)
    assert stays(member.name)
    assert member.kind != "hard link" or stays(target)


BOXES = (
    root(Entry("usr/" + "n" * 200, b"x"), Entry("manifest.json", b"[]")),
    tar(*archives.saved(), form=tarfile.GNU_FORMAT),
    tar(archives.metadata(), Entry("box.img", archives.qcow2())),
    archives.without_end(root()) + archives.sparse("usr/x", [(0, 9)], 99) + bytes(1024),
)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_damage_is_a_crash(data: st.DataObject) -> None:
    content = archives.damaged(data, data.draw(st.sampled_from(BOXES)))
    with tempfile.TemporaryDirectory() as name:
        file = Path(name, "file")
        file.write_bytes(content)
        try:
            found = box_archive.inspect(file, room=1 << 30)
        except BoxError:
            return
        assert not isinstance(found, MachineArchive) or found.disks == ("box.img",)
