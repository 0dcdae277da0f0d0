"""Data over a guest's system folders: files arrive, and the folders there stay as they are."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.cli import Project
from tests.integration.stand_in import STAND_IN, describe
from tests.unit.fakes import FakeGuest
from vagrant_kiwi import overlay
from vagrant_kiwi.errors import GuestError
from vagrant_kiwi.process import CommandResult, OnOutput

SUDO = () if os.geteuid() == 0 else ("sudo", "-n")


@dataclass
class HereGuest(FakeGuest):
    """A guest whose commands run on this host, as root."""

    def exec(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        root: bool = False,
        stdin: bytes | None = None,
        on_output: OnOutput | None = None,
    ) -> CommandResult:
        """Run a command of the test's own folder."""
        assert root
        done = subprocess.run(
            [*SUDO, *argv], stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout
        )
        return CommandResult(tuple(argv), done.returncode, done.stdout, done.stderr)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Return a small system: a merged /usr, and folders with modes and times of their own."""
    folder = tmp_path / 'it\'s a "guest" $HOME'
    for name, mode in (("usr", 0o755), ("usr/lib", 0o755), ("etc", 0o751), ("tmp", 0o1777)):
        (folder / name).mkdir(parents=True)
        (folder / name).chmod(mode)
    for name in ("lib", "lib64"):
        (folder / name).symlink_to("usr/lib")
    (folder / "etc/replaced").write_text("old")
    (folder / "etc/stays").write_text("old")
    os.utime(folder / "tmp", (1_000_000_000, 1_000_000_000))
    return folder


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    """Return a folder to unpack, whose own folders have quite other modes."""
    folder = tmp_path / "staging"
    for name in ("etc", "tmp", "lib/new folder/deep", "empty", "-dash"):
        (folder / name).mkdir(parents=True)
        (folder / name).chmod(0o700)
    folder.chmod(0o700)
    (folder / "etc/replaced").write_text("new")
    (folder / "etc/marker").write_text("here")
    (folder / "etc/marker").chmod(0o600)
    (folder / "etc/hard").hardlink_to(folder / "etc/marker")
    (folder / "lib/x").write_text("x")
    (folder / "lib/new folder/deep/-f\n").write_text("odd")
    (folder / "absolute").symlink_to("/usr/share")
    (folder / "lib64").symlink_to("usr/lib")
    with (folder / "sparse").open("wb") as stream:
        stream.truncate(1 << 24)
    return folder


def test_files_arrive_and_folders_stay_as_they_are(target: Path, staging: Path) -> None:
    was = {name: (target / name).stat() for name in (".", "etc", "tmp", "usr/lib")}
    overlay.unpack(HereGuest(), str(staging), str(target), timeout=60)
    for name, before in was.items():
        now = (target / name).stat()
        assert (now.st_mode, now.st_uid, now.st_gid) == (
            before.st_mode,
            before.st_uid,
            before.st_gid,
        ), name
    assert (target / "tmp").stat().st_mtime == 1_000_000_000
    assert [str((target / name).readlink()) for name in ("lib", "lib64", "absolute")] == [
        "usr/lib",
        "usr/lib",
        "/usr/share",
    ]
    assert (target / "usr/lib/x").read_text() == "x"
    assert (target / "etc/replaced").read_text() == "new"
    assert (target / "etc/stays").read_text() == "old"
    marker = (target / "etc/marker").stat()
    assert (marker.st_mode & 0o7777, marker.st_nlink) == (0o600, 2)
    assert (target / "empty").stat().st_mode & 0o7777 == 0o700
    assert (target / "sparse").stat().st_blocks == 0
    odd = target / "usr/lib/new folder"
    ls = [*SUDO, "find", odd, "-printf", "%m %P|"]
    found = subprocess.run(ls, check=True, capture_output=True, text=True).stdout
    assert found.endswith("700 deep|644 deep/-f\n|")
    assert not staging.exists()
    assert sorted(path.name for path in staging.parent.iterdir()) == [target.name]


def test_a_folder_in_the_way_is_6_and_the_folders_stay_usable(target: Path, staging: Path) -> None:
    (target / "usr/lib/x/full").mkdir(parents=True)
    with pytest.raises(GuestError) as caught:
        overlay.unpack(HereGuest(), str(staging), str(target), timeout=60)
    assert "./lib/x: Cannot open" in caught.value.details
    assert (target / "etc").stat().st_mode & 0o7777 == 0o751
    assert not staging.exists()


def test_a_boxroot_in_a_real_guest(tmp_path: Path, unchanged: None) -> None:
    project = Project(tmp_path)
    describe(tmp_path / "image")
    boxroot = tmp_path / "image/boxroot"
    (boxroot / "etc").mkdir(parents=True)
    (boxroot / "lib").mkdir()
    (boxroot / "etc/marker").write_text("here")
    (boxroot / "etc/marker").chmod(0o600)
    (boxroot / "etc/left.orig").write_text("")
    (boxroot / "lib/x").write_text("x")
    for folder in (boxroot, boxroot / "etc", boxroot / "lib"):
        folder.chmod(0o700)
    script = tmp_path / "check.sh"
    script.write_text(
        "set -ex\n"
        'test "$(readlink /lib)" = usr/lib\n'
        'test "$(cat /usr/lib/x)" = x\n'
        'test "$(stat -c %a%u%g / /etc /usr/lib | sort -u)" = 75500\n'
        'test "$(stat -c %a:%U:%G /etc/marker)" = 600:root:root\n'
        "test ! -e /etc/left.orig\n"
        'test ! -e "${VAGRANT_KIWI_DESCRIPTION%/*}/overlay/1"\n'
    )
    project.settings(
        mirrors="off",
        sync=[{"source": "image/boxroot", "target": "/", "exclude": ["*.orig"]}],
        provision=[str(STAND_IN), str(script)],
    )
    done = project.run("build", "--description=image", "--json")
    assert done.status == 0, f"{done.errors}\n{project.log()}"
