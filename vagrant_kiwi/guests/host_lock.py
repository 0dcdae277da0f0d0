"""The lock on an existing machine: one build at a time, whoever's it is.

A keeper process holds a kernel lock there for as long as its ssh session lives. So the lock is gone
with a crash of that machine, and soon after one of ours: the keeper sees the end of its input, or,
when not even that arrives, TCP gives the connection up at the latest a quarter of an hour later
(Linux, tcp_retries2), since the keeper writes something now and then. It waits a while for a build
that only lost its connection, ends what is left of the run, and goes.
"""

from __future__ import annotations

import os
import platform
import pwd
import shlex
import time
from pathlib import Path

from vagrant_kiwi import remote
from vagrant_kiwi.errors import GuestError, LockedError, UsageError
from vagrant_kiwi.guests import ConnectionLostError, run_folder
from vagrant_kiwi.process import Background, Runner

#: Seconds that a build has to come back after a lost connection; see ``remote.PATIENCE``.
_PATIENCE = int(remote.PATIENCE) + 30
#: Seconds for the keeper's answer.
_ANSWER = 60.0

# One lock for the whole machine, whatever the folder of the runs: KIWI's package cache is shared. A
# reboot empties this folder, so no process id in it is ever another boot's.
_LOCKS = "/run/vagrant-kiwi"
#: Marks the answer: what a login or sudo has to say may stand around it.
_MARK = "vagrant-kiwi-lock: "

# $1 folder, $2 run, $3 who, $4 whether it takes over from a keeper of the same run, $5 patience in
# tenths of a second, $6 and $7 what ends the run's commands and removes its folder, $8 the locks'
# folder, $9 the answers' mark. File 9 is the lock; no child that outlives this shell may have it.
_KEEPER = r"""
folder=$1 run=$2 who=$3 again=$4 patience=$5 abort=$6 remove=$7 locks=$8 mark=$9
answer() { printf '\n%s%s\n' "$mark" "$*"; }
mkdir -p -m 755 "$locks" && mkdir -p "$folder" && exec 9>>"$locks/lock" || exit 1
if [ "$again" = yes ]; then
    [ -d "$folder/$run" ] || { answer gone; exit 0; }
    if ! flock -n 9; then
        read -r owner keeper <"$locks/holder"
        [ "$owner" != "$run" ] || kill "$keeper" 2>/dev/null
        flock -w 20 9 || { answer gone; exit 0; }
    fi
else
    flock -n 9 || { answer "busy $(cat "$locks/owner" 2>/dev/null)"; exit 0; }
    [ ! -e "$folder/$run" ] || { answer used; exit 0; }
    printf '%s since %s\n' "$who" "$(date '+%F %T %Z')" >"$locks/owner"
fi
echo "$run $$" >"$locks/holder"
exec 3<&0
beat() {
    trap 'kill "$nap" 2>/dev/null; exit' TERM
    while echo .; do
        sleep 20 &
        nap=$!
        wait "$nap"
    done
}
cat <&3 >/dev/null 9>&- &
feed=$!
answer locked
beat 9>&- 3<&- &
beat=$!
trap 'kill $beat $feed 2>/dev/null; exit 0' TERM HUP INT
wait $feed
kill $beat
n=0
while [ -d "$folder/$run" ] && [ ! -e "$folder/$run/left" ] && [ "$n" -lt "$patience" ]; do
    sleep 0.1 9>&-
    n=$((n + 1))
done
if [ -d "$folder/$run" ] && [ ! -e "$folder/$run/left" ]; then
    eval "$abort"
    eval "$remove"
fi
rm -f "$locks/holder"
"""

_WAIT = r"""
n=0
while [ "$n" -lt 150 ] && read -r owner keeper <"$1/holder" && [ "$owner" = "$2" ] &&
    kill -0 "$keeper"
do
    sleep 0.1
    n=$((n + 1))
done 2>/dev/null
exit 0
"""


def wait_argv(run_id: str) -> list[str]:
    """Return the command that waits until a run's keeper has gone, 15 s at most."""
    return ["sh", "-c", _WAIT, "sh", _LOCKS, run_id]


class Keeper:
    """Our end of the lock on a machine.

    Args:
        runner: starts ssh, with the run's mark.
        config: ssh's configuration; the machine is "guest" in it.
        folder: that of all runs on the machine.
        run_id: the run.
        where: the machine in words.
    """

    def __init__(
        self, runner: Runner, config: Path, *, folder: str, run_id: str, where: str
    ) -> None:
        self._runner = runner
        self._config = config
        self._folder = folder
        self._run_id = run_id
        self._where = where
        self._session: Background | None = None
        self._sessions = 0

    def take(self) -> None:
        """Lock the machine.

        Raises:
            LockedError: somebody else builds on it.
            UsageError: the run id was used there.
            GuestError: there is no answer.
        """
        word, _, rest = self._begin(again="no").partition(" ")
        if word == "busy":
            raise LockedError(
                f"{self._where} is in use",
                details=rest or "somebody else builds on it",
                resolution="Wait for that build, or name more machines (hosts).",
            )
        if word == "used":
            raise UsageError(
                f"--run-id={self._run_id} is in use",
                details=f"{self._where} has a folder {self._folder}/{self._run_id}",
                resolution="Every run has an id of its own; leave --run-id out.",
            )

    def renew(self) -> None:
        """Take the lock again if its session broke off; nothing otherwise.

        Raises:
            ConnectionLostError: there is no answer yet.
            GuestError: the run was given up there meanwhile.
        """
        if self._session is None or not self._session.ended(within=0):
            return
        try:
            answer = self._begin(again="yes")
        except GuestError as error:
            raise ConnectionLostError(error.details) from error
        if answer != "locked":
            raise GuestError(
                f"{self._where} has given the run up",
                details=f"its connection was lost for more than {_PATIENCE} s",
                resolution="Look at the network between here and there, and build again.",
            )

    def release(self) -> None:
        """End our side of it; the keeper goes as soon as the run's folder there is gone."""
        if self._session is not None:
            self._session.stop()
            self._session = None

    def _begin(self, *, again: str) -> str:
        """Start a keeper, and return its answer."""
        root = f"{self._folder}/{self._run_id}"
        command = [
            *("sudo", "-n", "--", "sh", "-c", _KEEPER, "sh"),
            *(self._folder, self._run_id, _ourselves(self._run_id), again, str(_PATIENCE * 10)),
            shlex.join(remote.abort_all_argv(f"{root}/commands")),
            shlex.join(run_folder.remove_argv(root)),
            *(_LOCKS, _MARK),
        ]
        self._sessions += 1
        log = self._config.parent / f"keeper-{self._sessions}.log"
        session = self._runner.spawn(
            ["ssh", "-F", str(self._config), "guest", shlex.join(command)], log=log, pipe=True
        )
        deadline = time.monotonic() + _ANSWER
        while not (answer := _answer(log)) and time.monotonic() < deadline:
            if session.ended(within=0.05):
                answer = _answer(log)
                break
        if answer == "locked":
            self._session = session
            return answer
        session.stop()
        if answer.partition(" ")[0] in ("busy", "used", "gone"):
            return answer
        raise GuestError(
            f"{self._where} cannot be locked",
            details=log.read_text(errors="replace").strip() or f"no answer in {_ANSWER:.0f} s",
            resolution="Can root write to the folder of host.folder there?",
        )


def _answer(log: Path) -> str:
    """Return the keeper's answer among all that was said; nothing if it has not come yet."""
    lines = log.read_text(errors="replace").splitlines(keepends=True)
    found = [line for line in lines if line.startswith(_MARK) and line.endswith("\n")]
    return found[0].removeprefix(_MARK).strip() if found else ""


def _ourselves(run_id: str) -> str:
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = f"user {os.getuid()}"
    return f"{user} on {platform.node()}, run {run_id},"
