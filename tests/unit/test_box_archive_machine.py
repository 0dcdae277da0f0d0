"""Vagrant boxes for libvirt, and the headers of their disks."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from tests.unit import archives
from tests.unit.archives import PACKERS, Entry, folder, hard_link, inspect, metadata, symlink, tar
from vagrant_kiwi import box_archive_machine
from vagrant_kiwi.box_archive import MachineArchive
from vagrant_kiwi.errors import BoxError

DISK = Entry("box.img", archives.qcow2())
GIB = 1 << 30


@pytest.mark.parametrize("packer", PACKERS)
def test_a_box_is_told_by_its_content(tmp_path: Path, packer: str) -> None:
    data = tar(
        Entry("./Vagrantfile", b"puts 1"),
        Entry("./box.img", archives.qcow2()),
        Entry("./info.json", b"{}"),
        folder("./include/"),
        Entry("./include/_Vagrantfile", b"puts 2"),
        metadata(),
    )
    assert inspect(tmp_path, PACKERS[packer](data)) == MachineArchive(
        disk_format="qcow2",
        virtual_size=20,
        disks=("box.img",),
        has_vagrantfile=True,
        others=("include/_Vagrantfile",),
        unpacked=len(data),
    )


def test_a_sparse_disk(tmp_path: Path) -> None:
    # As vagrant-libvirt's create_box.sh makes them, by tar -S.
    data = archives.without_end(tar(metadata()))
    disk = archives.qcow2().ljust(4096, b"\0")
    packed = archives.sparse("box.img", [(0, 1024), (100_000, 0)], 100_000)
    data += packed[:512] + disk[:1024] + bytes(1024)
    found = inspect(tmp_path, data)
    assert isinstance(found, MachineArchive)
    assert not found.has_vagrantfile


def disks(*paths: str, **more: object) -> Entry:
    return metadata(disks=[{"path": path} | more for path in paths], virtual_size=None)


def test_a_box_with_several_disks(tmp_path: Path) -> None:
    found = inspect(
        tmp_path,
        tar(
            disks("one.img", "two.img", name="root"),
            Entry("one.img", archives.qcow2(size=2 * GIB + 512)),
            Entry("two.img", archives.qcow2(size=9 * GIB)),
        ),
    )
    assert isinstance(found, MachineArchive)
    assert (found.disks, found.virtual_size) == (("one.img", "two.img"), 3)


def test_a_disk_as_large_as_stated(tmp_path: Path) -> None:
    data = tar(metadata(virtual_size=3), Entry("box.img", archives.qcow2(size=3 * GIB)))
    assert isinstance(inspect(tmp_path, data), MachineArchive)


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        ((metadata(provider="virtualbox"), DISK), "provider 'virtualbox', not for libvirt"),
        ((metadata(provider=["libvirt"]), DISK), "not for libvirt"),
        ((metadata(format="raw"), DISK), "format 'raw'"),
        ((metadata(format=None), DISK), "format None"),
        ((metadata(virtual_size=None), DISK), "virtual_size is None"),
        ((metadata(virtual_size=0), DISK), "virtual_size is 0"),
        ((metadata(virtual_size=-1), DISK), "virtual_size is -1"),
        ((metadata(virtual_size=1.5), DISK), "virtual_size is 1.5"),
        ((metadata(virtual_size="20"), DISK), "virtual_size is '20'"),
        ((metadata(virtual_size=True), DISK), "virtual_size is True"),
        ((metadata(virtual_size=10**6), DISK), "virtual_size is 1000000"),
        (
            (metadata(virtual_size=1), Entry("box.img", archives.qcow2(size=GIB + 512))),
            "1073742336 bytes, its metadata say 1 GiB",
        ),
        ((metadata(),), "'box.img' is not there"),
        ((metadata(), folder("box.img")), "'box.img' is not there"),
        ((metadata(), Entry("sub/box.img", archives.qcow2())), "'box.img' is not there"),
        # Disks in a list.
        ((disks("gone.img"), DISK), "'gone.img' is not there"),
        ((disks("/etc/passwd"), DISK), "absolute"),
        ((disks("../../x"), DISK), "leads out"),
        ((disks("./box.img"), DISK), "has the path './box.img'"),
        ((disks("box.img", "box.img"), DISK), "'box.img' twice"),
        ((disks("box.img", name=1), DISK), "name that is no text"),
        ((metadata(disks=[1]), DISK), "has the path None"),
        ((metadata(disks={"path": "box.img"}), DISK), "are no list"),
        # Members.
        ((metadata(), DISK, symlink("x", "box.img")), "'x' is a symlink"),
        ((metadata(), Entry("x"), hard_link("box.img", "x")), "'box.img' is a hard link"),
        ((metadata(), symlink("box.img", "/dev/sda")), "'box.img' is a symlink"),
        (
            (metadata(), Entry("box.img", kind=tarfile.BLKTYPE, device=(8, 0))),
            "'box.img' is a block device",
        ),
        ((metadata(), DISK, Entry("n", kind=tarfile.FIFOTYPE)), "'n' is a fifo"),
        # Vagrant has bsdtar turn these into slashes.
        ((metadata(), DISK, Entry("..\\..\\x")), "has characters"),
        ((metadata(), DISK, Entry("\x1b[2J")), "has characters"),
        ((metadata(), DISK, DISK), "two members with the name 'box.img'"),
        ((metadata(), DISK, metadata()), "two members with the name 'metadata.json'"),
        ((metadata(), DISK, Entry("metadata.json")), "two members with the name 'metadata.json'"),
    ],
)
def test_a_box_that_vagrant_should_not_get(
    tmp_path: Path, entries: tuple[Entry, ...], match: str
) -> None:
    with pytest.raises(BoxError, match=match) as caught:
        inspect(tmp_path, tar(*entries))
    assert caught.value.code == 5


@pytest.mark.parametrize(
    ("disk", "match"),
    [
        (b"", "no qcow2 file"),
        (bytes(1024), "no qcow2 file"),
        (b"KDMV" + bytes(1024), "no qcow2 file"),
        (archives.qcow2()[:90], "header is cut off"),
        (archives.qcow2(version=1), "version is 1"),
        (archives.qcow2(version=4), "version is 4"),
        (archives.qcow2(backing=512), "backing file"),
        (archives.qcow2(version=2, backing=512), "backing file"),
        (archives.qcow2(features=1 << 2), "external data file"),
        (archives.qcow2(features=1 << 1), "marked as corrupt"),
        (archives.qcow2(features=1 << 5), "features that are not known: 0x20"),
        (archives.qcow2(features=1 << 63), "features that are not known"),
        (archives.qcow2(encryption=1), "encrypted"),
        (archives.qcow2(encryption=2), "encrypted"),
        (archives.qcow2(size=0), "size is 0"),
        (archives.qcow2(size=1 << 60), "size is"),
        (archives.qcow2(cluster_bits=8), "clusters"),
        (archives.qcow2(cluster_bits=22), "clusters"),
    ],
)
def test_a_disk_that_qemu_should_not_get(tmp_path: Path, disk: bytes, match: str) -> None:
    with pytest.raises(BoxError, match=f"'box.img' is refused: .*{match}"):
        inspect(tmp_path, tar(metadata(), Entry("box.img", disk)))


@pytest.mark.parametrize(
    "disk",
    [
        archives.qcow2(version=2),
        # Version 2 has no features; what stands there is something else.
        archives.qcow2(version=2, features=1 << 40),
        archives.qcow2(features=0b11001),
    ],
)
def test_a_disk_that_is_all_there(tmp_path: Path, disk: bytes) -> None:
    assert isinstance(inspect(tmp_path, tar(metadata(), Entry("box.img", disk))), MachineArchive)


def test_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box_archive_machine, "_MEMBERS", 2)
    assert isinstance(inspect(tmp_path, tar(metadata(), DISK)), MachineArchive)
    with pytest.raises(BoxError, match="more than 2 files"):
        inspect(tmp_path, tar(metadata(), DISK, Entry("x")))
