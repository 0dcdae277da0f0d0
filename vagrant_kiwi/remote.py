"""Long commands in a guest: own session, pid on record, true exit status in a file.

A lost connection is then no failed command, and abort is a second command: killing ssh would leave
the remote process running, and no API can kill a docker exec.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence

from vagrant_kiwi.errors import GuestError
from vagrant_kiwi.guests import ConnectionLostError, Guest
from vagrant_kiwi.process import CommandTimeoutError, OnOutput

# $1 is the folder on disk for the output; $2 the one in memory for pid and status, so that the true
# status is known even when the command filled the disk. The trap keeps the shell alive while the
# group is being stopped, so that the status is written; a trap with a command, unlike an ignored
# signal, is not inherited.
_WRAPPER = """
dir=$1; control=$2; shift 2
trap : TERM INT HUP
echo $$ >"$control/pid"
"$@" >"$dir/output" 2>&1 </dev/null
echo "$?" >"$control/status.new"
mv "$control/status.new" "$control/status"
"""

# xargs takes the command from standard input: see where it is called.
_START = """
dir=$1; control=$2; wrapper=$3
mkdir -p "$dir" && rm -rf "$control" && mkdir -m 700 "$control" && : >"$dir/output" || exit 1
# Both streams: the command would hold them open, and with them the connection of this question.
if ! xargs -0 -x setsid --fork sh -c "$wrapper" vagrant-kiwi "$dir" "$control" \\
    >"$control/said" 2>&1; then
    cat "$control/said" >&2; exit 1
fi
n=0
while [ ! -s "$control/pid" ]; do
    [ "$n" -lt 300 ] || exit 1
    sleep 0.1; n=$((n + 1))
done
"""

# tail ends when the session leader has, after a last look at the file.
_FOLLOW = 'exec tail -c "+$3" --follow=descriptor -s 0.1 --pid="$(cat "$2/pid")" "$1/output"'

_STATUS = """
if [ -e "$2/status" ]; then cat "$2/status"
elif kill -0 "$(cat "$2/pid")" 2>/dev/null; then echo running
else echo gone; fi
"""

# The whole session is asked to stop, has time to unmount, and is killed then. Not by
# kill -TERM -- -PID: dash takes the "--" for a number and sends nothing.
_ABORT = """
[ -s "$2/pid" ] || exit 0
pid=$(cat "$2/pid")
pkill -TERM -s "$pid"
n=0
while [ ! -e "$2/status" ] && kill -0 "$pid" 2>/dev/null && [ "$n" -lt 50 ]; do
    sleep 0.2; n=$((n + 1))
done
pkill -KILL -s "$pid"
exit 0
"""

#: Seconds for each short question to the guest.
_ASK = 60.0

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
    try:
        _start(guest, argv, folder)
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
    guest.exec(_script(_ABORT, folder), timeout=_ASK, root=True)


def abort_all(guest: Guest, *, folder: str) -> None:
    """Stop the commands of all folders below one, whoever started them, and forget them.

    Args:
        guest: the guest.
        folder: what the folders given to ``run`` have in common.

    Raises:
        ConnectionLostError: the guest does not answer.
        CommandTimeoutError: the guest does not get on.
    """
    guest.exec(abort_all_argv(folder), timeout=_ASK, root=True)


def abort_all_argv(folder: str) -> list[str]:
    """Return the command that does what ``abort_all`` does, in the guest and as root."""
    stop = f'for control in "$2"-*; do set -- "$1" "$control"; ({_ABORT}); rm -rf "$2"; done'
    return _script(stop, folder)


def _script(text: str, folder: str, *more: str) -> list[str]:
    return ["sh", "-c", text, "sh", folder, _control(folder), *more]


def _control(folder: str) -> str:
    return "/dev/shm/" + folder.strip("/").replace("/", "-")  # noqa: S108 - in the guest, 0700


def _start(guest: Guest, argv: Sequence[str], folder: str) -> None:
    try:
        started = guest.exec(
            _script(_START, folder, _WRAPPER),
            timeout=_ASK,
            root=True,
            # Not as arguments: those of our ssh are for everybody on this host to see.
            stdin=b"".join(os.fsencode(word) + b"\0" for word in argv),
        )
    except CommandTimeoutError as error:
        raise GuestError(
            f"Cannot start {argv[0]} in the guest",
            details=f"no answer within {_ASK:.0f} s",
            resolution="Is this host overloaded? Build again.",
        ) from error
    if not started.ok:
        raise GuestError(
            f"Cannot start {argv[0]} in the guest",
            details=started.tail(5),
            resolution="Is its disk full, or does the box lack a program? Try invoke with -v.",
        )


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
            follow = _script(_FOLLOW, folder, str(seen + 1))
            guest.exec(follow, timeout=left, root=True, on_output=count)
            state = guest.exec(_script(_STATUS, folder), timeout=_ASK, root=True)
            if not state.ok:
                # A container that is being removed says "cannot exec in a stopped state" where the
                # answer would be; the next question tells whether it is gone.
                raise ConnectionLostError(state.tail(3))
        except (ConnectionLostError, CommandTimeoutError) as error:
            # A question that got no answer is a lost connection; the deadline is looked at above.
            now = time.monotonic()
            if now >= deadline:
                continue
            if silent_since is None:
                silent_since = now
                on_trouble(f"the connection to the guest was lost, trying again: {error}")
            elif now - silent_since > PATIENCE:
                raise GuestError(
                    "The guest does not answer any more",
                    details=str(error),
                    resolution="Look at the host's memory and at the guest's console.",
                ) from error
            time.sleep(min(1.0, deadline - now))
            continue
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
