"""Signals unwind once."""

from __future__ import annotations

import signal

import pytest

from vagrant_kiwi.errors import StoppedError
from vagrant_kiwi.signals import SignalGate, gate


def test_the_first_signal_raises_with_the_shell_s_exit_code() -> None:
    for signum, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)):
        with pytest.raises(StoppedError) as caught:
            SignalGate(on_ignored=lambda _: None).handle(signum, None)
        assert caught.value.code == code


def test_later_signals_are_told_and_ignored() -> None:
    told: list[str] = []
    opened = SignalGate(on_ignored=told.append)
    with pytest.raises(StoppedError):
        opened.handle(signal.SIGTERM, None)
    opened.handle(signal.SIGINT, None)
    assert told == ["SIGINT: already stopping, please wait for the clean-up"]


def test_a_shield_holds_the_signal_back_until_the_body_is_done() -> None:
    opened = SignalGate(on_ignored=lambda _: None)
    done = False
    with pytest.raises(StoppedError) as caught, opened.shield():
        opened.handle(signal.SIGTERM, None)
        done = True
    assert done
    assert caught.value.code == 143


def test_nested_shields_raise_only_at_the_outermost_end() -> None:
    opened = SignalGate(on_ignored=lambda _: None)
    steps = []
    with pytest.raises(StoppedError), opened.shield():
        with opened.shield():
            opened.handle(signal.SIGINT, None)
        steps.append("inner done")
    assert steps == ["inner done"]


def test_a_failure_in_the_shield_wins_over_the_held_signal() -> None:
    opened = SignalGate(on_ignored=lambda _: None)
    with pytest.raises(ValueError, match="first"), opened.shield():
        opened.handle(signal.SIGINT, None)
        raise ValueError("first")


def test_the_gate_puts_former_handlers_back() -> None:
    before = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    with gate(on_ignored=lambda _: None) as opened:
        assert signal.getsignal(signal.SIGTERM) == opened.handle
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)] == before


def test_an_ignored_signal_stays_ignored() -> None:
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with gate(on_ignored=lambda _: None):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, former)
