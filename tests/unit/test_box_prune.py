"""What box-prune does beside the daemons."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from vagrant_kiwi import box_import, box_prune, box_stores
from vagrant_kiwi.app import Request
from vagrant_kiwi.box_stores import Boxes
from vagrant_kiwi.console import Console
from vagrant_kiwi.settings import Settings


def test_nobody_begins_a_download_while_what_it_left_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "vagrant-kiwi" / box_import.DOWNLOADS
    folder.mkdir(parents=True)
    for name in ("a.box.part", "a.box.json", "a.box.lock"):
        (folder / name).touch()
    removed = []

    def delete(path: Path) -> None:
        with pytest.raises(Timeout):
            FileLock(folder / "a.box.lock", blocking=False).acquire()
        path.unlink()
        removed.append(path.name)

    silent = Boxes((), {"docker": "not here", "libvirt": "not here"})
    monkeypatch.setattr(box_stores, "look", lambda *_: silent)
    monkeypatch.setattr(box_prune, "_delete", delete)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    request = Request(settings=Settings(), cwd=tmp_path, environment={})
    box_prune.prune(request, Console(quiet=True), dry_run=False)
    assert removed == ["a.box.json", "a.box.part"]
    FileLock(folder / "a.box.lock", blocking=False).acquire()
