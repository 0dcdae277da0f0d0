"""Find and end processes of a run whose parent died.

Every process of a build carries the run id in its environment, so that nothing else is ever hit.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

#: The variable that marks the processes of a run.
MARK = "VAGRANT_KIWI_RUN"


def of_run(run_id: str, *, proc: Path = Path("/proc")) -> tuple[int, ...]:
    """Return the ids of our own user's processes that carry a run's mark, not ourselves.

    Args:
        run_id: the run.
        proc: where procfs is mounted.
    """
    mark = f"{MARK}={run_id}".encode()
    found = []
    for entry in proc.glob("[0-9]*"):
        if int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue  # it ended, or it is another user's
        if mark in environment.split(b"\0"):
            found.append(int(entry.name))
    return tuple(sorted(found))


def end_run(run_id: str, *, say: Callable[[str], None], grace: float = 10.0) -> None:
    """End what is left of a run's processes: politely first, then for good.

    Args:
        run_id: the run.
        say: told how many there were.
        grace: seconds between the two signals.
    """
    left = of_run(run_id)
    if left:
        say(f"ending {len(left)} process(es) of the run {run_id}")
    for signum in (signal.SIGINT, signal.SIGKILL):
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signum)
        deadline = time.monotonic() + grace
        while left and time.monotonic() < deadline:
            time.sleep(0.1)
            left = of_run(run_id)
