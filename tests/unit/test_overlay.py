"""Data that goes over a system folder of the guest."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from tests.unit import plans
from tests.unit.fakes import FakeGuest, Push, result
from vagrant_kiwi import provide
from vagrant_kiwi.console import Console
from vagrant_kiwi.deadline import Deadline
from vagrant_kiwi.errors import GuestError, PhaseTimeoutError, SettingsError
from vagrant_kiwi.guests import ConnectionLostError, TransferError
from vagrant_kiwi.plan import BuildPlan
from vagrant_kiwi.process import CommandTimeoutError
from vagrant_kiwi.settings import SyncEntry

ROOT = "/var/lib/vagrant-kiwi/r1"


def made(
    tmp_path: Path, target: str, *, delete: bool = False, source: str = "boxroot"
) -> BuildPlan:
    """Decide a build with one synced entry."""
    folder = tmp_path / "boxroot"
    (folder / "etc").mkdir(parents=True, exist_ok=True)
    (tmp_path / "file").touch()
    entry = SyncEntry(source=tmp_path / source, target=target, exclude=("*.orig",), delete=delete)
    return plans.make(tmp_path / "state", sync=(entry,))


def push(plan: BuildPlan, guest: FakeGuest, tmp_path: Path) -> None:
    """Bring the plan's data into a guest."""
    provide.data(
        plan,
        (),
        guest,
        tmp_path,
        Console(stream=io.StringIO()),
        Deadline.after(30, what="The phase provision"),
        items=plan.sync,
    )


def pushes(plan: BuildPlan, target: str) -> list[tuple[str, BaseException | None]]:
    """Return what is pushed where all goes well: description, data, files that options name."""
    targets = (f"{ROOT}/description", target, *(file.target for file in plan.guest_files))
    return [(name, None) for name in targets]


@pytest.mark.parametrize(
    "target", ["/", "//", "/etc", "//etc/", "/usr/./lib/", "/lib", "/var/lib/vagrant-kiwi", "/tmp"]
)
def test_a_folder_over_a_system_folder_is_an_overlay(tmp_path: Path, target: str) -> None:
    (_, item) = made(tmp_path, target).sync
    assert item.overlay


@pytest.mark.parametrize(
    ("target", "source"), [("/srv", "boxroot"), ("/etc/app", "boxroot"), ("/etc", "file")]
)
def test_other_data_is_none(tmp_path: Path, target: str, source: str) -> None:
    assert not any(item.overlay for item in made(tmp_path, target, source=source).sync)


@pytest.mark.parametrize("target", ["/etc", "//etc", "//", "/home"])
def test_a_system_folder_is_not_emptied(tmp_path: Path, target: str) -> None:
    with pytest.raises(SettingsError, match="would empty a system folder"):
        made(tmp_path, target, delete=True)


def test_an_overlay_is_unpacked_from_a_folder_of_the_run(tmp_path: Path) -> None:
    plan = made(tmp_path, "/")
    guest = FakeGuest(
        [("mkdir", result()), ("tar --extract", result())],
        pushes=pushes(plan, f"{ROOT}/overlay/1"),
    )
    push(plan, guest, tmp_path)
    assert not guest.script
    assert guest.pushed[1] == Push(
        tmp_path / "boxroot", f"{ROOT}/overlay/1", ("*.orig",), delete=False
    )
    assert guest.commands[1][-2:] == (f"{ROOT}/overlay/1", "/")


def test_other_data_goes_straight_to_its_place(tmp_path: Path) -> None:
    plan = made(tmp_path, "/srv")
    guest = FakeGuest([("mkdir", result())], pushes=pushes(plan, "/srv"))
    push(plan, guest, tmp_path)
    assert not guest.pushes


def test_a_failing_tar_is_6_with_its_last_lines(tmp_path: Path) -> None:
    said = b"tar: ./file: Cannot open: File exists\n"
    guest = FakeGuest(
        [("mkdir", result()), ("tar", result(status=2, errors=said))],
        pushes=[(f"{ROOT}/description", None), (f"{ROOT}/overlay/1", None)],
    )
    with pytest.raises(GuestError) as caught:
        push(made(tmp_path, "/etc"), guest, tmp_path)
    assert caught.value.code == 6
    assert "/etc" in caught.value.brief
    assert caught.value.details == said.decode().strip()
    assert caught.value.resolution


def test_a_failing_push_is_6_and_nothing_is_unpacked(tmp_path: Path) -> None:
    guest = FakeGuest(
        [("mkdir", result())],
        pushes=[
            (f"{ROOT}/description", None),
            (f"{ROOT}/overlay/1", TransferError("no room left")),
        ],
    )
    with pytest.raises(GuestError) as caught:
        push(made(tmp_path, "/"), guest, tmp_path)
    assert caught.value.details == "no room left"


@pytest.mark.parametrize(
    ("failure", "code"),
    [(ConnectionLostError("broken pipe"), 6), (CommandTimeoutError(["ssh"], 1.0, b""), 124)],
)
def test_a_silent_guest_while_unpacking(tmp_path: Path, failure: Exception, code: int) -> None:
    guest = FakeGuest(
        [("mkdir", result()), ("tar", failure)],
        pushes=[(f"{ROOT}/description", None), (f"{ROOT}/overlay/1", None)],
    )
    with pytest.raises((GuestError, PhaseTimeoutError)) as caught:
        push(made(tmp_path, "/"), guest, tmp_path)
    assert caught.value.code == code
