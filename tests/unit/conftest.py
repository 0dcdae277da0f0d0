"""What the tests of build boxes share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.box_fakes import make_folder
from vagrant_kiwi import box_recipe, box_rootfs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a recipe in it."""
    return make_folder(tmp_path)


@pytest.fixture
def recipe(folder: Path) -> box_recipe.Recipe:
    """Return the recipe in that folder."""
    return box_recipe.load_recipe(folder, arch="amd64")


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that mmdebstrap's own temporary folder is made in."""
    path = tmp_path / "scratch"
    path.mkdir()
    monkeypatch.setattr(box_rootfs, "_scratch_parent", lambda environment: path)
    return path
