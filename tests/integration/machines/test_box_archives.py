"""Boxes with disks as QEMU writes them, packed by the tools that people pack boxes with."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from vagrant_kiwi import box_archive
from vagrant_kiwi.box_archive import MachineArchive
from vagrant_kiwi.errors import BoxError

METADATA = {"provider": "libvirt", "format": "qcow2", "virtual_size": 2}


def create(folder: Path, *options: str, size: str = "2G") -> None:
    """Have QEMU make the disk of a box."""
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", *options, "box.img", size]
    subprocess.run(argv, cwd=folder, check=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the metadata of a box."""
    made = tmp_path / "box"
    made.mkdir()
    (made / "metadata.json").write_text(json.dumps(METADATA))
    (made / "Vagrantfile").write_text("Vagrant.configure('2') { |config| }\n")
    return made


PACKERS = {
    "tar": ["tar", "-czf"],
    "tar -S": ["tar", "-czSf"],
    "tar -S, POSIX": ["tar", "--format=posix", "-cJSf"],
    "bsdtar": ["bsdtar", "-czf"],
}


def pack(folder: Path, how: str = "tar") -> Path:
    """Pack a box."""
    file = folder.with_suffix(".box")
    subprocess.run([*PACKERS[how], file, "-C", folder, "."], check=True)
    return file


@pytest.mark.parametrize("how", PACKERS)
def test_disks_of_qemu_in_all_kinds_of_archives(folder: Path, how: str) -> None:
    create(folder)
    with (folder / "box.img").open("r+b") as disk:
        # Holes inside of the file, and at its end.
        disk.seek(50_000_000)
        disk.write(b"x")
        disk.truncate(100_000_000)
    found = box_archive.inspect(pack(folder, how), room=1 << 30)
    assert isinstance(found, MachineArchive)
    assert (found.disks, found.virtual_size, found.has_vagrantfile) == (("box.img",), 2, True)
    assert found.unpacked > 100_000_000
    with pytest.raises(BoxError, match="room for"):
        box_archive.inspect(pack(folder, how), room=99_000_000)


@pytest.mark.parametrize(
    "options",
    ["compat=0.10", "compat=1.1", "extended_l2=on", "compression_type=zstd", "cluster_size=2M"],
)
def test_what_qemu_offers_within_one_file(folder: Path, options: str) -> None:
    create(folder, "-o", options)
    assert isinstance(box_archive.inspect(pack(folder), room=1 << 30), MachineArchive)


@pytest.mark.parametrize(
    ("options", "size", "match"),
    [
        (("-b", "/etc/hostname", "-F", "raw"), "1M", "backing file"),
        (("-o", "data_file=other.raw"), "1M", "external data file"),
        ((), "3G", "its metadata say 2 GiB"),
        (
            (
                *("--object", "secret,id=key,data=secret"),
                *("-o", "encrypt.format=aes,encrypt.key-secret=key"),
            ),
            "1M",
            "encrypted",
        ),
    ],
)
def test_a_disk_that_vagrant_should_not_get(
    folder: Path, options: tuple[str, ...], size: str, match: str
) -> None:
    create(folder, *options, size=size)
    with pytest.raises(BoxError, match=match):
        box_archive.inspect(pack(folder), room=1 << 30)
