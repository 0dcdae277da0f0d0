"""What must not fail when nobody reads or nothing can be written."""

from __future__ import annotations

import errno
import io
from typing import IO, cast

from vagrant_kiwi.console import Console
from vagrant_kiwi.output import BuildLog, Tee, VagrantTee


class Broken(io.StringIO):
    """A terminal that was closed."""

    def write(self, text: str) -> int:
        """Fail as a closed terminal does."""
        raise OSError(errno.EIO, "Input/output error")


class Full(io.BytesIO):
    """A disk without room."""

    def write(self, data: object) -> int:
        """Fail as a full disk does."""
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_closed_terminal_ends_no_phase() -> None:
    console = Console(stream=Broken())
    with console.phase("destroy") as view:
        view.update("working", 50)
        console.warn("still here")
    assert [phase.name for phase in console.phases] == ["destroy"]


def test_a_closed_pipe_does_not_end_the_process() -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    Console(stream=Closed()).note("nobody reads this")


def test_a_full_disk_is_told_once_and_the_output_goes_on() -> None:
    said = io.StringIO()
    tee = Tee(BuildLog(cast(IO[bytes], Full()), Console(stream=said)), Console(stream=said))
    tee(b"one\n")
    tee(b"two\n")
    assert tee.seen == b"one\ntwo\n"
    assert said.getvalue().count("the log cannot be written any more") == 1


def test_what_vagrant_is_at_is_shown_and_all_it_says_is_logged() -> None:
    said, log = io.StringIO(), io.BytesIO()
    console = Console(stream=said)
    with console.phase("up") as view:
        tee = VagrantTee(BuildLog(log, console), console, view)
        tee(b"Bringing it up\n==> m: Creating domain...\n==> m:  -- Memory: 512M\n==> m: Wai")
        tee(b"ting for domain: soon\n")
    assert "up: Creating domain...\n" in said.getvalue()
    assert "up: Waiting for domain: soon\n" in said.getvalue()
    assert "Memory" not in said.getvalue()
    assert b"Memory" in log.getvalue()
