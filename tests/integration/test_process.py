"""The process seam, with real processes."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from vagrant_kiwi.errors import StoppedError
from vagrant_kiwi.process import CommandNotFoundError, CommandTimeoutError, Runner
from vagrant_kiwi.signals import gate


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("status", [0, 1, 7, 255])
def test_exit_status_is_passed_on(runner: Runner, status: int) -> None:
    result = runner.run(["sh", "-c", f"exit {status}"], timeout=10)
    assert result.status == status
    assert result.ok == (status == 0)


def test_death_by_signal_is_128_plus_its_number(runner: Runner) -> None:
    assert runner.run(["sh", "-c", "kill -KILL $$"], timeout=10).status == 137


def test_streams_stay_apart_and_live_output_is_complete(runner: Runner) -> None:
    seen = bytearray()
    script = "head -c 10485760 /dev/zero; echo end; echo trouble >&2"
    result = runner.run(["sh", "-c", script], timeout=30, on_output=seen.extend)
    assert len(result.output) == 10485760 + 4
    assert result.errors == b"trouble\n"
    assert seen == result.output


def test_stdin_reaches_the_command_and_is_closed(runner: Runner) -> None:
    data = bytes(range(256)) * 4096
    assert runner.run(["cat"], timeout=10, stdin=data).output == data
    assert runner.run(["cat"], timeout=10).output == b""


def test_a_command_that_does_not_read_its_input_is_no_error(runner: Runner) -> None:
    assert runner.run(["true"], timeout=10, stdin=b"x" * 1_000_000).ok


def test_only_the_given_environment_is_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "do not leak")
    result = Runner({"PATH": os.environ["PATH"], "A": "1"}).run(
        ["env"], timeout=10, environment={"B": "2"}
    )
    lines = set(result.text.splitlines())
    assert {"A=1", "B=2"} <= lines
    assert not any(line.startswith("SECRET") for line in lines)


def test_arguments_arrive_unchanged(runner: Runner) -> None:
    hostile = ["a b", "'", '"', "$HOME", "`id`", "\n", "*", "", "\\", "ü", "-n"]
    script = "import sys, os; sys.stdout.buffer.write(b'\\0'.join(map(os.fsencode, sys.argv[1:])))"
    result = runner.run([sys.executable, "-c", script, *hostile], timeout=10)
    assert result.output.split(b"\0") == [os.fsencode(word) for word in hostile]


def test_time_out_kills_the_whole_group(runner: Runner, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    script = f"trap '' TERM; sleep 300 & echo $! > {pid_file}; echo started; wait"
    with pytest.raises(CommandTimeoutError) as caught:
        runner.run(["sh", "-c", script], timeout=0.5, grace=0.5)
    assert caught.value.output == b"started\n"
    assert not _alive(int(pid_file.read_text()))


def test_a_daemon_that_keeps_the_pipe_open_does_not_block(runner: Runner) -> None:
    started = time.monotonic()
    result = runner.run(["sh", "-c", "setsid sleep 3 & echo done"], timeout=60)
    assert result.output == b"done\n"
    assert time.monotonic() - started < 2.5


def test_missing_program(runner: Runner) -> None:
    with pytest.raises(CommandNotFoundError):
        runner.run(["no-such-program-anywhere"], timeout=5)


def test_a_signal_ends_the_child_and_unwinds_once(runner: Runner, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    ignored: list[str] = []
    cleaned = False
    killer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM))
    with gate(on_ignored=ignored.append):
        killer.start()
        with pytest.raises(StoppedError) as caught:
            try:
                runner.run(["sh", "-c", f"echo $$ > {pid_file}; sleep 300"], timeout=60)
            finally:
                os.kill(os.getpid(), signal.SIGINT)
                cleaned = True
    killer.join()
    assert caught.value.code == 143
    assert cleaned
    assert ignored == ["SIGINT: already stopping, please wait for the clean-up"]
    assert not _alive(int(pid_file.read_text()))


def test_the_terminal_s_ctrl_c_does_not_reach_children(runner: Runner) -> None:
    result = runner.run(["sh", "-c", "ps -o sid= -p $$"], timeout=10)
    assert int(result.text) != os.getsid(0)
