"""Boxes for libvirt before any program reads them: archives, headers, what was found in parts."""

from __future__ import annotations

import gzip
import json
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.archives import PACKERS, damaged, qcow2, tar_of
from tests.unit.box_fakes import Scripted, soon
from vagrant_kiwi import box_look_machine
from vagrant_kiwi.box_look_machine import Part, combine, look_machine
from vagrant_kiwi.box_verify import Look
from vagrant_kiwi.deadline import Deadline
from vagrant_kiwi.errors import BoxError, PhaseTimeoutError, PreflightError
from vagrant_kiwi.process import CommandResult

MIB = 2**20


@pytest.fixture
def programs(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which the programs are there; they are never started."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("qemu-img", "debugfs"):
        (folder / name).touch(mode=0o755)
    return {"PATH": str(folder)}


class QemuImg:
    """Answers as qemu-img does for a disk with some bytes of data."""

    def __init__(self, disk: bytes = b"", said: bytes | None = None) -> None:
        self.disk = disk
        extent = {"start": 0, "length": len(disk), "data": True, "zero": False}
        self.said = json.dumps([extent]).encode() if said is None else said
        self.seen: list[bytes] = []

    def __call__(self, argv: Sequence[str], options: Mapping[str, Any]) -> CommandResult:
        assert Path(argv[0]).name == "qemu-img"
        assert argv[2:4] == ("-f", "qcow2")
        if argv[1] == "map":
            self.seen.append(Path(argv[-1]).read_bytes())
            options["on_output"](self.said)
            return CommandResult(tuple(argv), 0, self.said)
        assert argv[1] == "convert"
        Path(argv[-1]).write_bytes(self.disk)
        return CommandResult(tuple(argv), 0)


@pytest.fixture
def look_at(tmp_path: Path, programs: Mapping[str, str]) -> Callable[..., Look]:
    """Return what writes a file and looks into it; nothing may stay in the scratch folder."""

    def look(data: bytes, answer: Any = None) -> Look:
        file, scratch = tmp_path / "x.box", tmp_path / "scratch"
        file.write_bytes(data)
        scratch.mkdir(exist_ok=True)
        try:
            return look_machine(
                file,
                Scripted(programs, answer=answer),
                scratch=scratch,
                deadline=soon(),
                update=lambda _: None,
            )
        finally:
            assert list(scratch.iterdir()) == []
            assert file.read_bytes() == data

    return look


@pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS)
def test_a_disk_is_found_by_its_first_bytes(
    look_at: Callable[..., Look], pack: Callable[[bytes], bytes]
) -> None:
    btrfs = bytes(0x10040) + b"_BHRfS_M" + bytes(100)
    qemu_img = QemuImg(btrfs)
    first, second = qcow2() + b"first" * 999, qcow2() + b"second"
    box = tar_of({"box.img": first, "metadata.json": b"{}", "Vagrantfile": b"", "other": second})
    found = look_at(pack(box), qemu_img)
    assert found == Look(unread=("the disk: btrfs", "disk 2, the disk: btrfs"))
    assert qemu_img.seen == [first, second]


def test_a_disk_may_come_without_an_archive(look_at: Callable[..., Look]) -> None:
    found = look_at(qcow2(), QemuImg(b"XFSB" + bytes(5000)))
    assert found.unread == ("the disk: XFS",)


def test_a_disk_with_nothing_is_no_good_box(look_at: Callable[..., Look]) -> None:
    found = look_at(qcow2(), QemuImg(b"", b"[]"))
    assert found.unread == ("no file system that could be read has /etc/passwd",)


def test_snapshots_are_said(look_at: Callable[..., Look]) -> None:
    found = look_at(qcow2(snapshots=2), QemuImg(b"XFSB" + bytes(5000)))
    assert found.unread[0] == "the disk: 2 snapshots of it"


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (qcow2(backing=512), "backing file"),
        (qcow2(version=2, backing=512), "backing file"),
        (qcow2(features=0x4), "external data file"),
        (qcow2(features=0x2), "marked as corrupt"),
        (qcow2(features=0x20), "features that are not known: 0x20"),
        (qcow2(encryption=2), "encrypted"),
        (qcow2(version=4), "version is 4, not 2 or 3"),
        (qcow2()[:40], "header is cut off"),
    ],
)
@pytest.mark.parametrize("pack", [bytes, lambda disk: tar_of({"box.img": disk})])
def test_a_disk_that_does_not_stand_alone_is_opened_by_no_program(
    look_at: Callable[..., Look], header: bytes, why: str, pack: Callable[[bytes], bytes]
) -> None:
    with pytest.raises(BoxError) as caught:
        look_at(pack(header))
    assert caught.value.code == 5
    assert why in caught.value.details


def test_the_bits_of_version_3_mean_nothing_in_version_2(look_at: Callable[..., Look]) -> None:
    assert look_at(qcow2(version=2, features=0xFF), QemuImg(b"", b"[]")).unread


BOX = tar_of({"metadata.json": b"{}", "box.img": qcow2() + b"x" * 99_999})


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty file"),
        (b"#!/bin/sh\n" * 100, "invalid header"),
        (tar_of({"metadata.json": b"{}"}), "no disk of the format qcow2"),
        (BOX[:20_000], "ends in the middle of a member"),
        (gzip.compress(BOX)[:-10], "compressed data ends too early"),
        (gzip.compress(BOX)[:60] + b"\xff" * 99, "invalid"),
        (gzip.compress(BOX) + b"more", "something follows"),
        (BOX + BOX, "something follows its end"),
        (tar_of({"../box.img": qcow2()}), "leads out of the archive"),
    ],
)
def test_what_is_no_box_is_5(look_at: Callable[..., Look], data: bytes, why: str) -> None:
    with pytest.raises(BoxError) as caught:
        look_at(data, QemuImg(b"", b"[]"))
    assert caught.value.code == 5
    assert why in caught.value.details


def test_what_can_be_done_about_another_compression_is_said(look_at: Callable[..., Look]) -> None:
    with pytest.raises(BoxError, match="no box") as caught:
        look_at(b"\x28\xb5\x2f\xfd" + BOX)
    assert "compressed with zstd" in caught.value.details
    assert caught.value.resolution == "Unpack it first: zstd -d FILE"


def test_headers_of_a_box_without_end_are_5(look_at: Callable[..., Look]) -> None:
    with pytest.raises(BoxError) as caught:
        look_at(gzip.compress(tar_of({"n" * 2**21: b"", "box.img": qcow2()})))
    assert "headers are larger than 1048576 bytes" in caught.value.details


def test_what_is_no_disk_takes_its_time_too(tmp_path: Path, programs: Mapping[str, str]) -> None:
    file = tmp_path / "x.box"
    file.write_bytes(tar_of({"zeros": bytes(MIB)}))
    with pytest.raises(PhaseTimeoutError):
        look_machine(
            file,
            Scripted(programs),
            scratch=tmp_path,
            deadline=Deadline.after(-1, what="Looking into the box"),
            update=lambda _: None,
        )


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_damage_is_a_crash(draw: st.DataObject) -> None:
    box = damaged(draw, tar_of({"metadata.json": b"{}", "box.img": qcow2()}))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "x.box").write_bytes(box)
        for program in ("qemu-img", "debugfs"):
            (folder / program).touch(mode=0o755)
        try:
            found = look_machine(
                folder / "x.box",
                Scripted({"PATH": name}, answer=QemuImg(b"", b"[]")),
                scratch=folder,
                deadline=soon(),
                update=lambda _: None,
            )
        except (BoxError, PreflightError):
            # It may claim to be larger than the room there is.
            return
        assert found.unread


@pytest.mark.parametrize("said", [b"", b'[{"start": 1}]', b"[1]"])
def test_a_strange_answer_of_qemu_img_is_5(look_at: Callable[..., Look], said: bytes) -> None:
    with pytest.raises(BoxError, match="no box"):
        look_at(qcow2(), QemuImg(b"", said))


def test_qemu_img_that_fails_or_talks_without_end_is_5(
    look_at: Callable[..., Look], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(argv: Sequence[str], options: Mapping[str, Any]) -> CommandResult:
        return CommandResult(tuple(argv), 1, b"", b"qemu-img: Image is corrupt\n")

    with pytest.raises(BoxError) as caught:
        look_at(qcow2(), fails)
    assert caught.value.details == "qemu-img: Image is corrupt"
    monkeypatch.setattr(box_look_machine, "_OUTPUT", 10)
    with pytest.raises(BoxError) as caught:
        look_at(qcow2(), QemuImg())
    assert "too many pieces" in caught.value.details


def test_no_room_is_4_before_anything_is_written(
    look_at: Callable[..., Look], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=300 * MIB)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    extent = {"start": 0, "length": 100 * MIB, "data": True, "zero": False}
    qemu_img = QemuImg(b"", json.dumps([extent, {**extent, "zero": True}]).encode())
    with pytest.raises(PreflightError, match="no room") as caught:
        look_at(qcow2(), qemu_img)
    assert "it takes 104 MB" in caught.value.details

    entry = tarfile.TarInfo("box.img")
    entry.size = 2**40
    with pytest.raises(PreflightError, match="no room"):
        look_at(entry.tobuf() + qcow2() + bytes(10_000))


def test_missing_programs_are_4_with_their_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(box_look_machine, "_SYSTEM", str(tmp_path))
    with pytest.raises(PreflightError) as caught:
        look_machine(
            tmp_path / "x.box",
            Scripted({"PATH": str(tmp_path)}),
            scratch=tmp_path,
            deadline=soon(),
            update=lambda _: None,
        )
    assert caught.value.code == 4
    assert caught.value.brief == "Not installed: qemu-img, debugfs"
    assert caught.value.resolution == "sudo apt-get install qemu-utils e2fsprogs"


def test_a_box_that_is_not_there_is_5(tmp_path: Path, programs: Mapping[str, str]) -> None:
    with pytest.raises(BoxError, match="cannot be looked into"):
        look_machine(
            tmp_path / "none.box",
            Scripted(programs),
            scratch=tmp_path,
            deadline=soon(),
            update=lambda _: None,
        )


def test_paths_say_in_which_part_they_are_if_several_have_something() -> None:
    root = Look(host_keys=("/key",), kiwis=(("/lib", "1"),), machine_id="1" * 32)
    home = Look(authorized_keys=(("/joe/.ssh/authorized_keys", "line"),), unread=("/x",))
    assert combine([Part("partition 1", root, has_users=True)]) == root
    assert combine([Part("partition 1", root, has_users=True), Part("partition 3", home)]) == Look(
        host_keys=("partition 1: /key",),
        machine_id="1" * 32,
        authorized_keys=(("partition 3: /joe/.ssh/authorized_keys", "line"),),
        kiwis=(("partition 1: /lib", "1"),),
        unread=("partition 3: /x",),
    )
