"""The fake of the unit tests, answering what this host answers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from tests.unit.fakes import FakeGuest
from vagrant_kiwi.process import CommandResult, CommandTimeoutError, OnOutput, Runner

_ROOT = () if os.geteuid() == 0 else ("sudo", "-n", "--")


@dataclass(frozen=True)
class LocalGuest:
    """A guest that is this host, whose every answer goes through a ``FakeGuest``.

    So the fake is held to the same contract as what it stands for.
    """

    runner: Runner

    def exec(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        root: bool = False,
        stdin: bytes | None = None,
        on_output: OnOutput | None = None,
    ) -> CommandResult:
        """Run a command here, and have the fake say what came of it."""
        answer: CommandResult | BaseException
        told = False
        try:
            answer = self.runner.run(
                [*(_ROOT if root else ()), *argv], timeout=timeout, stdin=stdin
            )
        except CommandTimeoutError as error:
            answer = error
        fake = FakeGuest([(argv[0], answer)])
        assert not told
        return fake.exec(argv, timeout=timeout, root=root, stdin=stdin, on_output=on_output)
