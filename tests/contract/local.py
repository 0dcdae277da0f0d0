"""The fake of the unit tests, answering what this host answers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.unit.fakes import FakeGuest
from vagrant_kiwi.guests.rsync import Carrier
from vagrant_kiwi.process import CommandResult, OnOutput, Runner

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
        fake = FakeGuest(
            [
                (
                    argv[0],
                    lambda live: self.runner.run(
                        [*(_ROOT if root else ()), *argv],
                        timeout=timeout,
                        stdin=stdin,
                        on_output=live,
                    ),
                )
            ]
        )
        return fake.exec(argv, timeout=timeout, root=root, stdin=stdin, on_output=on_output)

    def push(
        self,
        source: Path,
        target: str,
        *,
        timeout: float,
        exclude: Sequence[str] = (),
        delete: bool = False,
        on_output: OnOutput | None = None,
    ) -> None:
        """Copy to another folder of this host, and have the fake note it."""
        fake = FakeGuest(pushes=[(target, None)])
        fake.push(source, target, timeout=timeout, exclude=exclude, delete=delete)
        (noted,) = fake.pushed
        self._carrier.push(
            noted.source,
            noted.target,
            timeout=timeout,
            exclude=noted.exclude,
            delete=noted.delete,
            on_output=on_output,
        )

    def pull(
        self,
        source: str,
        target: Path,
        *,
        timeout: float,
        exclude: Sequence[str] = (),
        on_output: OnOutput | None = None,
    ) -> None:
        """Copy from another folder of this host when the fake asks for it."""

        def bring(place: Path) -> None:
            self._carrier.pull(source, place, timeout=timeout, exclude=exclude, on_output=on_output)

        FakeGuest(pulled=bring).pull(source, target, timeout=timeout)

    @property
    def _carrier(self) -> Carrier:
        # env drops the name that rsync gives the remote shell, and runs the rest here.
        return Carrier(runner=self.runner, rsh=("env", "--unset"), program="rsync", peer="NOBODY")
