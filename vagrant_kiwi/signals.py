"""Signals unwind the build once.

Python's default for SIGTERM skips every ``finally``, and a second Ctrl-C during tear-down would
leave a guest behind. Here the first SIGINT, SIGTERM or SIGHUP raises ``StoppedError`` in the main
thread; any later one is only remembered, because the removal it asks for is already under way.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

from vagrant_kiwi.errors import StoppedError

HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class SignalGate:
    """Turns signals into one exception, and holds it back while something is shielded."""

    def __init__(self, *, on_ignored: Callable[[str], None]) -> None:
        self._on_ignored = on_ignored
        self._raised = False
        self._shields = 0
        self._held: int | None = None

    def handle(self, signum: int, _frame: FrameType | None) -> None:
        """Be the handler of a signal.

        Raises:
            StoppedError: on the first signal, unless a shield holds it back.
        """
        name = signal.Signals(signum).name
        if self._raised or self._held is not None:
            self._on_ignored(f"{name}: already stopping, please wait for the clean-up")
        elif self._shields:
            self._held = signum
            self._on_ignored(f"{name}: will stop as soon as the clean-up is done")
        else:
            self._raised = True
            raise StoppedError(signum, name)

    @contextlib.contextmanager
    def shield(self, *, raise_after: bool = True) -> Iterator[None]:
        """Let the body finish; a signal that came meanwhile is raised after it.

        Args:
            raise_after: False where a failure is on its way already and must not be replaced.

        Raises:
            StoppedError: after the body, if a first signal came during it and the body succeeded.
        """
        self._shields += 1
        try:
            yield
        finally:
            self._shields -= 1
        if not self._shields and self._held is not None:
            signum, self._held = self._held, None
            self._raised = True
            if raise_after:
                raise StoppedError(signum, signal.Signals(signum).name)


@contextlib.contextmanager
def gate(*, on_ignored: Callable[[str], None]) -> Iterator[SignalGate]:
    """Install the handlers for the body and put the former ones back.

    Args:
        on_ignored: told in words when a signal does nothing because the stop is under way.
    """
    installed = SignalGate(on_ignored=on_ignored)
    # A handler that was SIG_IGN (nohup) stays: who started us asked for it.
    former = {
        signum: signal.signal(signum, installed.handle)
        for signum in HANDLED
        if signal.getsignal(signum) is not signal.SIG_IGN
    }
    try:
        yield installed
    finally:
        for signum, handler in former.items():
            signal.signal(signum, handler)
