"""How far a download is, how fast, and when it will be done."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

#: Bytes a second below which a download will never end: as good as none.
SLOWEST = 1024
#: Seconds of which the shown rate is the mean.
_SHOWN = 10.0
#: Seconds between two texts.
_PAUSE = 0.3
_UNITS = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"))


@dataclass
class Meter:
    """Watches bytes arrive; the caller tells the time, in seconds of any clock.

    Args:
        started: now.
        have: bytes that are there already.
        total: bytes in all, if that is known.
        stall: seconds that the slowest rate is judged over.
    """

    started: float
    have: int
    total: int | None
    stall: float
    _marks: deque[tuple[float, int]] = field(default_factory=deque)
    _told: float | None = None

    def __post_init__(self) -> None:
        self._marks.append((self.started, self.have))

    def add(self, size: int, now: float) -> None:
        """Count bytes that came."""
        self.have += size
        longest = max(self.stall, _SHOWN)
        # A few hundred marks are enough, however many pieces come.
        if now - self._marks[-1][0] >= longest / 256:
            self._marks.append((now, self.have))
        while len(self._marks) > 2 and now - self._marks[1][0] >= longest:
            self._marks.popleft()

    def too_slow(self, now: float) -> bool:
        """Tell whether less than the slowest rate came, as long as a stall is."""
        then, had = self._mark(now - self.stall)
        return now - then >= self.stall and self.have - had < SLOWEST * self.stall

    def due(self, now: float) -> bool:
        """Tell whether it is time for another text; a few times a second it is."""
        if self._told is not None and now - self._told < _PAUSE:
            return False
        self._told = now
        return True

    @property
    def percent(self) -> int | None:
        """How far it is, 0 to 100, where that can be known."""
        return min(100, self.have * 100 // self.total) if self.total else None

    def text(self, now: float) -> str:
        """Return something like "1.2 of 3.4 GB, 12.3 MB/s, 3 min left"."""
        then, had = self._mark(now - _SHOWN)
        rate = (self.have - had) / (now - then) if now > then else 0.0
        parts = [amount(self.have, of=self.total), f"{amount(rate)}/s"]
        if self.total is not None and rate >= 1:
            parts.append(f"{_span((self.total - self.have) / rate)} left")
        return ", ".join(parts)

    def _mark(self, since: float) -> tuple[float, int]:
        """Return the newest mark from before a time, or the oldest there is."""
        return next((mark for mark in reversed(self._marks) if mark[0] <= since), self._marks[0])


def amount(size: float, *, of: int | None = None) -> str:
    """Return a number of bytes for people, as in "3.4 GB" or "1.2 of 3.4 GB"."""
    largest = size if of is None else of
    factor, unit = next((pair for pair in _UNITS if largest >= pair[0]), (1, "bytes"))
    digits = 0 if factor == 1 else 1
    whole = f"{largest / factor:.{digits}f} {unit}"
    return whole if of is None else f"{size / factor:.{digits}f} of {whole}"


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
