"""Boxes for virtual machines in the cache: each making has a version, which comes last or not."""

from __future__ import annotations

import datetime
import hashlib
import json
from pathlib import Path

import pytest

from vagrant_kiwi import machine_boxes
from vagrant_kiwi.machine_boxes import MachineBox, Making

NOON = datetime.datetime(2026, 5, 1, 12, 0, 0, tzinfo=datetime.UTC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "cache" / "x"
    made.mkdir(parents=True)
    return made


def adopt(
    folder: Path,
    content: bytes = b"box",
    *,
    version: str = "1",
    now: datetime.datetime = NOON,
) -> MachineBox:
    file = folder.parent / "arrived.box"
    file.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    making = Making("x", version, digest, "11.1.6", "/home/a.box")
    box = machine_boxes.adopt(making, folder, file, sha256=digest, now=now)
    assert not file.exists()
    return box


def test_a_box_is_kept_with_what_vagrant_needs(folder: Path) -> None:
    box = adopt(folder)
    digest = hashlib.sha256(b"box").hexdigest()
    assert box.version == f"1.20260501120000.{int(digest[:8], 16)}"
    assert (box.image, box.kiwi, box.origin, box.size) == (
        "vagrant-kiwi/x",
        "11.1.6",
        "/home/a.box",
        3,
    )
    here = folder / box.version
    assert (here / box.file).read_bytes() == b"box"
    (listed,) = json.loads((here / "metadata.json").read_text())["versions"]
    assert listed["version"] == box.version
    assert listed["providers"][0]["url"] == (here / box.file).as_uri()
    assert listed["providers"][0]["checksum"] == digest
    assert machine_boxes.kept(folder) == [box]
    assert machine_boxes.find(folder, digest) == box
    assert machine_boxes.find(folder, "0" * 64) is None


def test_no_two_makings_have_a_version_or_a_moment_in_common(folder: Path) -> None:
    zone = datetime.timezone(datetime.timedelta(hours=2))
    boxes = [
        adopt(folder, b"a"),
        adopt(folder, b"a"),
        adopt(folder, b"b", now=NOON.astimezone(zone)),
    ]
    stamps = [box.version.split(".")[1] for box in boxes]
    assert stamps == ["20260501120000", "20260501120001", "20260501120002"]
    assert machine_boxes.kept(folder) == boxes
    newest = machine_boxes.find(folder, boxes[0].digest)
    assert newest == boxes[1], "of the same digest the newest one counts"


def test_their_order_is_that_of_their_makings_whatever_their_makers_say(folder: Path) -> None:
    later = NOON + datetime.timedelta(hours=1)
    second = adopt(folder, b"2", version="1.20190101000000", now=later)
    first = adopt(folder, b"1", version="9.5")
    assert machine_boxes.kept(folder) == [first, second]


@pytest.mark.parametrize(
    ("version", "stamp"),
    [
        ("1.20260501120000", "20260501120000"),
        ("1.20260501120000.3075800149", "20260501120000"),
        ("20250101000000.20260501120000.7", "20260501120000"),
        ("1.202605011200001.7", ""),
        ("1.2", ""),
    ],
)
def test_the_moment_is_read_from_a_version(version: str, stamp: str) -> None:
    assert machine_boxes._stamp(version) == stamp


def test_a_forgotten_box_is_gone_and_forgetting_it_again_is_fine(folder: Path) -> None:
    box, other = adopt(folder, b"a"), adopt(folder, b"b")
    machine_boxes.forget(box, folder)
    assert machine_boxes.kept(folder) == [other]
    assert not (folder / box.version).exists()
    machine_boxes.forget(box, folder)
    assert machine_boxes.kept(folder) == [other]


def test_unfinished_is_what_has_no_record(folder: Path) -> None:
    box = adopt(folder)
    assert machine_boxes.unfinished(folder) == []
    (folder / "notes.txt").write_text("a file is no version")
    (folder / "arriving").mkdir()
    half = adopt(folder, b"half")
    (folder / half.version / machine_boxes.RECORD).unlink()
    assert machine_boxes.unfinished(folder) == [folder / half.version, folder / "arriving"]
    assert machine_boxes.kept(folder) == [box]
    assert machine_boxes.unfinished(folder / "none") == []


def test_a_record_that_vanishes_meanwhile_is_passed_over(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box, other = adopt(folder, b"a"), adopt(folder, b"b")
    listed = list(folder.glob(f"*/{machine_boxes.RECORD}"))
    machine_boxes.forget(other, folder)
    # As whoever looked a moment before it went would have it.
    monkeypatch.setattr(type(folder), "glob", lambda *_: iter(listed))
    assert machine_boxes.kept(folder) == [box]
