"""Removes a run's guest when the build that owns it was killed with SIGKILL.

The build starts this as a process of its own and holds the other end of its standard input. A word
on it means that the build has cleaned up itself; an end of file without it means that the build
is dead.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from vagrant_kiwi import settings
from vagrant_kiwi.errors import VagrantKiwiError
from vagrant_kiwi.guests import record as records
from vagrant_kiwi.guests import vagrant
from vagrant_kiwi.process import Runner

_DONE = b"done\n"


@contextlib.contextmanager
def watching(run_folder: Path, runner: Runner, *, destroy_timeout: float) -> Iterator[None]:
    """Have a watchdog for the body.

    Args:
        run_folder: the run's folder; the guest's record will be in it.
        runner: starts the watchdog; without the run's mark, which would let it end itself.
        destroy_timeout: seconds it gives ``vagrant destroy``.
    """
    process = runner.spawn(
        [sys.executable, "-m", "vagrant_kiwi.watchdog", str(run_folder), str(destroy_timeout)],
        log=run_folder / "watchdog.log",
        pipe=True,
        # The package may lie in a checkout that is not installed.
        environment={"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    try:
        yield
    finally:
        process.dismiss(_DONE)


def main() -> int:
    """Wait for the build's end; clean up after it where it could not."""
    # A Ctrl-C or a service manager's stop is for the build, which tells us.
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    run_folder, timeout = Path(sys.argv[1]), float(sys.argv[2])
    if _DONE in sys.stdin.buffer.read():
        return 0
    record = records.load(run_folder)
    if record is None or record.status != "live":
        return 0
    _say(f"the build {record.run_id} died without cleaning up")
    try:
        vagrant.remove(
            record,
            run_folder,
            Runner(settings.child_environment(settings.environment())),
            timeout=timeout,
            on_output=_write,
            say=_say,
        )
    except VagrantKiwiError as error:
        _say(str(error))
        return error.code
    _say("all of it is removed")
    return 0


def _say(text: str) -> None:
    _write(f"{text}\n".encode("utf-8", "surrogateescape"))


def _write(chunk: bytes) -> None:
    sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
