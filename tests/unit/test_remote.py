"""Long commands in a guest: lost connections, aborts, vanished commands."""

from __future__ import annotations

import pytest

from tests.unit.fakes import FakeGuest, result
from vagrant_kiwi import remote
from vagrant_kiwi.errors import GuestError
from vagrant_kiwi.guests import ConnectionLostError
from vagrant_kiwi.process import CommandTimeoutError


def _run(
    guest: FakeGuest, *, timeout: float = 60, trouble: list[str] | None = None
) -> tuple[int, bytes]:
    seen = bytearray()
    status = remote.run(
        guest,
        ["kiwi-ng"],
        folder="/run/x",
        timeout=timeout,
        on_output=seen.extend,
        on_trouble=(trouble if trouble is not None else []).append,
    )
    return status, bytes(seen)


def test_output_and_true_exit_status() -> None:
    guest = FakeGuest(
        [("setsid", result()), ("tail", result(b"hello\n")), ("status", result(b"255\n"))]
    )
    assert _run(guest) == (255, b"hello\n")
    assert not guest.script


def test_a_lost_connection_goes_on_where_it_was() -> None:
    trouble: list[str] = []
    guest = FakeGuest(
        [
            ("setsid", result()),
            ("tail", result(b"12345")),
            ("status", ConnectionLostError("broken pipe")),
            ("tail", result(b"678")),
            ("status", result(b"0\n")),
        ]
    )
    assert _run(guest, trouble=trouble) == (0, b"12345678")
    assert guest.commands[3][-1] == "6", "it must ask for the sixth byte on"
    assert trouble == ["the connection to the guest was lost, trying again: broken pipe"]


def test_a_deadline_aborts_the_remote_command() -> None:
    guest = FakeGuest(
        [
            ("setsid", result()),
            ("tail", CommandTimeoutError(["ssh"], 0.05, b"")),
            ("pkill", result()),
        ],
        slow=0.1,
    )
    with pytest.raises(CommandTimeoutError) as caught:
        _run(guest, timeout=0.15)
    assert caught.value.argv == ("kiwi-ng",)
    assert not guest.script, "the abort did not run"


def test_a_question_without_an_answer_is_a_lost_connection_not_a_long_build() -> None:
    trouble: list[str] = []
    guest = FakeGuest(
        [
            ("setsid", result()),
            ("tail", result(b"abc")),
            ("status", CommandTimeoutError(["ssh"], 60, b"")),
            ("tail", result()),
            ("status", result(b"0\n")),
        ]
    )
    assert _run(guest, timeout=600, trouble=trouble) == (0, b"abc")
    assert len(trouble) == 1


def test_the_command_is_in_nobody_s_arguments() -> None:
    guest = FakeGuest([("setsid", result()), ("tail", result()), ("status", result(b"0\n"))])
    remote.run(
        guest,
        ["kiwi-ng", "--setenv", "TOKEN=s3cret"],
        folder="/run/x",
        timeout=9,
        on_output=lambda _: None,
        on_trouble=lambda _: None,
    )
    assert "s3cret" not in str(guest.commands)
    assert guest.inputs[0] == b"kiwi-ng\0--setenv\0TOKEN=s3cret\0"


def test_a_guest_that_dies_at_the_question_is_no_answer() -> None:
    words = b"OCI runtime exec failed: cannot exec in a stopped state: unknown\n"
    guest = FakeGuest(
        [
            ("setsid", result()),
            ("tail", result(b"abc")),
            ("status", result(words, status=126)),
            ("tail", GuestError("The guest is gone")),
            ("pkill", ConnectionLostError("gone")),
        ]
    )
    trouble: list[str] = []
    with pytest.raises(GuestError, match="is gone"):
        _run(guest, trouble=trouble)
    assert "stopped state" in trouble[0]


def test_a_vanished_command_is_no_success() -> None:
    guest = FakeGuest(
        [
            ("setsid", result()),
            ("tail", result()),
            ("status", result(b"gone\n")),
            ("pkill", result()),
        ]
    )
    with pytest.raises(GuestError, match="without an exit status"):
        _run(guest)


def test_a_failed_start_says_why() -> None:
    guest = FakeGuest(
        [
            ("setsid", result(status=1, errors=b"mkdir: No space left on device")),
            ("pkill", result()),
        ]
    )
    with pytest.raises(GuestError) as caught:
        _run(guest)
    assert "No space left" in caught.value.details


def test_a_guest_that_stays_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PATIENCE", -1.0)
    lost = ConnectionLostError("no route")
    guest = FakeGuest([("setsid", result()), ("tail", lost), ("tail", lost), ("pkill", lost)])
    with pytest.raises(GuestError, match="does not answer any more"):
        _run(guest)
