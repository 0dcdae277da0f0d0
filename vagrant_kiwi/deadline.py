"""A point in time that several steps share."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

from vagrant_kiwi.errors import PhaseTimeoutError
from vagrant_kiwi.process import CommandTimeoutError


@dataclass(frozen=True)
class Deadline:
    """When something must be done.

    Args:
        what: said in the error, as in "Making the box".
        limit: seconds from the start.
        at: the end on the clock ``time.monotonic``.
    """

    what: str
    limit: float
    at: float

    @classmethod
    def after(cls, seconds: float, *, what: str) -> Deadline:
        """Return the deadline that lies ``seconds`` ahead."""
        return cls(what=what, limit=seconds, at=time.monotonic() + seconds)

    def left(self) -> float:
        """Return the seconds that are left, more than 0.

        Raises:
            PhaseTimeoutError: there are none.
        """
        seconds = self.at - time.monotonic()
        if seconds <= 0:
            raise self.missed()
        return seconds

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Let a command of the body that ran out of time be the missed deadline.

        Raises:
            PhaseTimeoutError: one did.
        """
        try:
            yield
        except CommandTimeoutError as error:
            raise self.missed(details=str(error)) from error

    def missed(self, *, details: str = "") -> PhaseTimeoutError:
        """Return the error for having missed it."""
        return PhaseTimeoutError(
            f"{self.what} took longer than {self.limit:.0f} s",
            details=details,
            resolution="Raise the time-out of this phase in the settings (timeouts).",
        )
