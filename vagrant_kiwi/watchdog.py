"""Removes a run's guest when the build that owns it was killed with SIGKILL.

The build starts this as a process of its own and holds the other end of its standard input. At the
end of file the build is over, however it ended; a guest that is still on record as live is removed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from vagrant_kiwi import settings
from vagrant_kiwi.errors import VagrantKiwiError
from vagrant_kiwi.guests import record as records
from vagrant_kiwi.guests import removal
from vagrant_kiwi.process import Runner


@contextlib.contextmanager
def watching(
    run_folder: Path,
    runner: Runner,
    *,
    destroy_timeout: float,
    warn: Callable[[str], None],
) -> Iterator[None]:
    """Have a watchdog for the body.

    Args:
        run_folder: the run's folder; the guest's record will be in it.
        runner: starts the watchdog; without the run's mark, which would let it end itself.
        destroy_timeout: seconds it gives ``vagrant destroy``.
        warn: told when it failed.
    """
    # The packages may come from a checkout or a PYTHONPATH that it does not inherit; -P and the
    # filter keep the current folder out of where Python looks for them.
    path = [str(Path(__file__).parents[1])]
    path += [entry for entry in sys.path if Path(entry).is_absolute() and entry != str(Path.cwd())]
    process = runner.spawn(
        [
            *(sys.executable, "-P", "-m", "vagrant_kiwi.watchdog"),
            *(str(run_folder), str(destroy_timeout)),
        ],
        log=run_folder / "watchdog.log",
        pipe=True,
        environment={"PYTHONPATH": os.pathsep.join(path)},
    )
    try:
        yield
    finally:
        status = process.dismiss()
        if status:
            warn(f"the watchdog failed ({status}): see {run_folder / 'watchdog.log'}")


def main() -> int:
    """Wait for the build's end; clean up after it where it could not."""
    # A Ctrl-C or a service manager's stop is for the build, which tells us.
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    run_folder, timeout = Path(sys.argv[1]), float(sys.argv[2])
    sys.stdin.buffer.read()
    # Whether the guest is gone is on record; nothing that the build says counts for more.
    record = records.load(run_folder)
    if record is None or record.status != "live":
        return 0
    _say(f"the build {record.run_id} ended without cleaning up")
    try:
        removal.remove(
            record,
            run_folder,
            Runner(
                settings.child_environment(settings.environment(), agent=record.provider == "host")
            ),
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
    # A full disk must not keep it from its work.
    with contextlib.suppress(OSError):
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
