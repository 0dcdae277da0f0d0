"""Verify and publish."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from tests.unit.fakes import FakeGuest, result
from vagrant_kiwi import results
from vagrant_kiwi.errors import ResultError
from vagrant_kiwi.guests import ConnectionLostError, TransferError
from vagrant_kiwi.plan import HostPaths

DATA = b"image"
SHA = hashlib.sha256(DATA).hexdigest()


def _paths(tmp_path: Path, run_id: str = "run1") -> HostPaths:
    folder = tmp_path / "result" / "slug"
    return HostPaths(
        state=tmp_path,
        lock=tmp_path / "lock",
        run=tmp_path,
        log=tmp_path / "build.log",
        record=tmp_path / "run.json",
        results=folder,
        result=folder / run_id,
        staging=folder / f".staging-{run_id}",
        current=folder / "current",
    )


def _write(target: Path) -> None:
    (target / "sub").mkdir()
    (target / "sub" / "image.tar").write_bytes(DATA)


def _fetch(
    paths: HostPaths, listing: results.Listing, guest: FakeGuest
) -> tuple[results.Artifact, ...]:
    return results.fetch(guest, "/t", listing, paths, copies=1, timeout=9, on_output=lambda _: None)


LISTING = results.Listing({"sub/image.tar": SHA}, len(DATA))


def test_listing_reads_names_with_newlines_and_bytes() -> None:
    output = b"\0".join(
        [f"{SHA}  ./a\nb".encode(), f"{SHA}  ./\xfc".encode("latin-1"), b"total 12", b""]
    )
    guest = FakeGuest([("sha256sum", result(output))])
    listing = results.list_in_guest(guest, "/t", timeout=9)
    assert set(listing.sha256) == {"a\nb", "\udcfc"}
    assert listing.size == 12


def test_an_empty_result_is_an_error() -> None:
    guest = FakeGuest([("sha256sum", result(b"total 4096\0"))])
    with pytest.raises(ResultError, match="no result"):
        results.list_in_guest(guest, "/t", timeout=9)


def test_a_silent_guest_is_exit_8() -> None:
    guest = FakeGuest([("sha256sum", ConnectionLostError("gone"))])
    with pytest.raises(ResultError) as caught:
        results.list_in_guest(guest, "/t", timeout=9)
    assert caught.value.code == 8


def test_publish_makes_it_current_with_the_manifest_last(tmp_path: Path) -> None:
    paths = _paths(tmp_path)
    artifacts = _fetch(paths, LISTING, FakeGuest(pulled=_write))
    assert artifacts == (results.Artifact("sub/image.tar", 5, SHA),)
    folder = results.publish(paths, artifacts, {"run_id": "run1"})
    assert paths.current.readlink() == Path("run1")
    assert (paths.current / "sub/image.tar").read_bytes() == DATA
    assert results.read_manifest(folder)["artifacts"] == [
        {"path": "sub/image.tar", "size": 5, "sha256": SHA}
    ]
    assert not paths.staging.exists()


@pytest.mark.parametrize("wrong", ["changed", "missing", "extra"])
def test_a_difference_leaves_the_last_result_whole(tmp_path: Path, wrong: str) -> None:
    first = _paths(tmp_path)
    results.publish(first, _fetch(first, LISTING, FakeGuest(pulled=_write)), {})

    def bad(target: Path) -> None:
        _write(target)
        file = target / "sub" / "image.tar"
        if wrong == "changed":
            file.write_bytes(b"imagE")
        elif wrong == "missing":
            file.unlink()
        else:
            (target / "extra").write_bytes(b"")

    second = _paths(tmp_path, "run2")
    with pytest.raises(ResultError) as caught:
        _fetch(second, LISTING, FakeGuest(pulled=bad))
    assert caught.value.details == ("extra" if wrong == "extra" else "sub/image.tar")
    assert first.current.readlink() == Path("run1")
    assert (first.current / "sub/image.tar").read_bytes() == DATA


def test_too_little_room_fails_before_anything_is_copied(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(ResultError, match="No room"):
        _fetch(_paths(tmp_path), results.Listing({"x": SHA}, free * 2), FakeGuest())


def test_a_broken_transfer_is_exit_8(tmp_path: Path) -> None:
    def broken(target: Path) -> None:
        raise TransferError("rsync exited with 12")

    with pytest.raises(ResultError) as caught:
        _fetch(_paths(tmp_path), LISTING, FakeGuest(pulled=broken))
    assert caught.value.code == 8
    assert "rsync exited with 12" in caught.value.details
