"""Long commands in a guest: own session, pid on record, true exit status in a file.

A lost connection is then no failed command, and abort is a second command: killing ssh would leave
the remote process running, and no API can kill a docker exec.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence

from vagrant_kiwi.errors import GuestError
from vagrant_kiwi.guests import ConnectionLostError, Guest
from vagrant_kiwi.process import CommandTimeoutError, OnOutput

# The folder, then the command. The trap keeps the shell alive while the group is being stopped, so
# that the status is written; a trap with a command, unlike an ignored signal, is not inherited.
_WRAPPER = """
dir=$1; shift
trap : TERM INT HUP
echo $$ >"$dir/pid"
"$@" >"$dir/output" 2>&1 </dev/null &
child=$!
wait "$child"; status=$?
while kill -0 "$child" 2>/dev/null; do wait "$child"; status=$?; done
echo "$status" >"$dir/status.new"
mv "$dir/status.new" "$dir/status"
"""

_START = """
dir=$1; wrapper=$2; shift 2
mkdir -p "$dir" && rm -f "$dir"/pid "$dir"/status "$dir"/output && : >"$dir/output" || exit 1
setsid --fork sh -c "$wrapper" vagrant-kiwi "$dir" "$@" </dev/null >/dev/null 2>&1
for _ in 1 2 3 4 5 6 7 8 9 10; do [ -s "$dir/pid" ] && exit 0; sleep 0.1; done
exit 1
"""

# tail ends when the session leader has, after a last look at the file.
_FOLLOW = 'exec tail -c "+$2" --follow=descriptor -s 0.1 --pid="$(cat "$1/pid")" "$1/output"'

_STATUS = """
if [ -e "$1/status" ]; then cat "$1/status"
elif kill -0 "$(cat "$1/pid")" 2>/dev/null; then echo running
else echo gone; fi
"""

# KIWI's children may have sessions of their own only below the leader's group: stop the group,
# give it time to unmount, then kill the whole session.
_ABORT = """
[ -s "$1/pid" ] || exit 0
pid=$(cat "$1/pid")
kill -TERM -- "-$pid" 2>/dev/null
n=0
while [ ! -e "$1/status" ] && kill -0 "$pid" 2>/dev/null && [ "$n" -lt "$2" ]; do
    sleep 0.2; n=$((n + 1))
done
pkill -KILL -s "$pid"
exit 0
"""

#: Seconds without any answer from the guest after which it is given up.
PATIENCE = 120.0


def run(
    guest: Guest,
    argv: Sequence[str],
    *,
    folder: str,
    timeout: float,
    on_output: OnOutput,
    on_trouble: Callable[[str], None],
) -> int:
    """Run a long command as root in a guest and follow its output, across lost connections.

    Args:
        guest: the guest.
        argv: program and arguments.
        folder: guest folder that takes its pid, output and status.
        timeout: seconds; then it is aborted.
        on_output: sees its output, standard error included, as it comes.
        on_trouble: told when the connection was lost and is tried again.

    Returns:
        The command's own exit status; 128 + N where signal N ended it.

    Raises:
        CommandTimeoutError: it was aborted at its deadline.
        GuestError: it could not be started, or vanished, or the guest stays silent.
    """
    deadline = time.monotonic() + timeout
    started = guest.exec(["sh", "-c", _START, "sh", folder, _WRAPPER, *argv], timeout=60, root=True)
    if not started.ok:
        raise GuestError(
            f"Cannot start {argv[0]} in the guest",
            details=started.tail(5),
            resolution="Is its disk full, or does the box lack a program? Try invoke with -v.",
        )
    try:
        return _follow(guest, argv, folder, deadline, timeout, on_output, on_trouble)
    except BaseException:
        # Time-out, signal, lost guest: the command must not go on behind our back. Where the guest
        # is silent the removal of the guest ends it.
        with contextlib.suppress(ConnectionLostError, CommandTimeoutError):
            abort(guest, folder=folder)
        raise


def abort(guest: Guest, *, folder: str) -> None:
    """Stop the command of a folder: politely, and after 10 s its whole session for good.

    Args:
        guest: the guest.
        folder: the folder given to ``run``.

    Raises:
        ConnectionLostError: the guest does not answer.
        CommandTimeoutError: the guest does not get on.
    """
    guest.exec(["sh", "-c", _ABORT, "sh", folder, "50"], timeout=30, root=True)


def _follow(
    guest: Guest,
    argv: Sequence[str],
    folder: str,
    deadline: float,
    timeout: float,
    on_output: OnOutput,
    on_trouble: Callable[[str], None],
) -> int:
    seen = 0
    silent_since: float | None = None

    def count(chunk: bytes) -> None:
        nonlocal seen
        seen += len(chunk)
        on_output(chunk)

    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise CommandTimeoutError(argv, timeout, b"")
        try:
            follow = ["sh", "-c", _FOLLOW, "sh", folder, str(seen + 1)]
            guest.exec(follow, timeout=left, root=True, on_output=count)
            state = guest.exec(["sh", "-c", _STATUS, "sh", folder], timeout=60, root=True)
        except ConnectionLostError as error:
            now = time.monotonic()
            if silent_since is None:
                silent_since = now
                on_trouble(f"the connection to the guest was lost, trying again: {error.details}")
            elif now - silent_since > PATIENCE:
                raise GuestError(
                    "The guest does not answer any more",
                    details=error.details,
                    resolution="Look at the host's memory and at the guest's console.",
                ) from error
            time.sleep(min(1.0, max(0.0, deadline - now)))
            continue
        except CommandTimeoutError as error:
            raise CommandTimeoutError(argv, timeout, b"") from error
        silent_since = None
        word = state.text.strip()
        if word == "running":
            continue
        if word == "gone" or not word:
            raise GuestError(
                f"{argv[0]} vanished in the guest without an exit status",
                details=state.tail(3),
                resolution="It was killed from outside; does the host have enough memory?",
            )
        return int(word)
