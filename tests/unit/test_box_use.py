"""Boxes that builds hold are not removed, and the other way round."""

from __future__ import annotations

from pathlib import Path

import pytest

from vagrant_kiwi import box_use
from vagrant_kiwi.errors import BoxError


def test_a_box_that_builds_use_cannot_be_removed(tmp_path: Path) -> None:
    with box_use.using(tmp_path, "sha256:a"), box_use.using(tmp_path, "sha256:a"):
        with box_use.removing(tmp_path, "sha256:a") as free:
            assert not free
        with box_use.removing(tmp_path, "sha256:b") as free:
            assert free, "another box"
    with box_use.removing(tmp_path, "sha256:a") as free:
        assert free


def test_two_cannot_remove_one_box(tmp_path: Path) -> None:
    with box_use.removing(tmp_path, "x") as first, box_use.removing(tmp_path, "x") as second:
        assert (first, second) == (True, False)


def test_a_cache_that_cannot_be_used_is_5(tmp_path: Path) -> None:
    (tmp_path / "in-use").write_text("")
    with (
        pytest.raises(BoxError, match="cache folder cannot be used"),
        box_use.using(tmp_path, "x"),
    ):
        pass
