"""The state folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vagrant_kiwi import state
from vagrant_kiwi.errors import LockedError, SettingsError


def test_a_second_holder_is_refused_with_exit_11(tmp_path: Path) -> None:
    path = tmp_path / "builds" / "lock"
    with (
        state.lock(path, what="tarball"),
        pytest.raises(LockedError) as caught,
        state.lock(path, what="tarball"),
    ):
        pytest.fail("two holders")
    assert caught.value.code == 11
    assert "tarball" in caught.value.brief
    with state.lock(path, what="tarball"):
        pass


def test_other_variants_have_other_locks(tmp_path: Path) -> None:
    with state.lock(tmp_path / "a", what="a"), state.lock(tmp_path / "b", what="b"):
        pass


def test_write_is_atomic_and_leaves_nothing_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.json"
    state.write_json(path, {"a": "ü"})
    assert json.loads(path.read_text()) == {"a": "ü"}

    def broken(self: Path, target: Path) -> Path:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        state.write_json(path, {"a": "new"})
    assert json.loads(path.read_text()) == {"a": "ü"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.json"]


def test_a_symlink_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    link = tmp_path / "current"
    state.replace_symlink(link, "one")
    state.replace_symlink(link, "two")
    assert link.readlink() == Path("two")
    assert list((tmp_path / "one").iterdir()) == []


def test_an_impossible_folder_is_exit_3(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError) as caught:
        state.make_folder(tmp_path / "file" / "below")
    assert str(tmp_path / "file" / "below") in caught.value.brief


def test_a_check_for_writing_names_the_folder_in_the_way_and_makes_none(tmp_path: Path) -> None:
    state.check_writable(tmp_path / "new" / "below")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError) as caught:
        state.check_writable(tmp_path / "file" / "below")
    assert str(tmp_path / "file" / "below") in caught.value.brief
    assert str(tmp_path / "file") in (caught.value.details or "")
