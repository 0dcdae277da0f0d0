"""Strict fakes: they refuse whatever was not scripted."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vagrant_kiwi.process import CommandResult, OnOutput

#: What a command answers; a function is for answers that come while time goes by.
Answer = CommandResult | BaseException | Callable[[OnOutput | None], CommandResult]


def result(
    output: bytes = b"", *, status: int = 0, errors: bytes = b"", argv: Sequence[str] = ()
) -> CommandResult:
    """Return a finished command."""
    return CommandResult(tuple(argv), status, output, errors)


@dataclass(frozen=True)
class Push:
    """A push that was asked for."""

    source: Path
    target: str
    exclude: tuple[str, ...]
    delete: bool


@dataclass
class FakeGuest:
    """A guest that answers scripted commands in order, and copies on this host.

    Args:
        script: pairs of a word that the joined command must hold, and the answer.
        pushes: pairs of a target that is pushed to, in order, and None or what it raises.
        pulled: called with the target of each pull.
        slow: seconds before each answer.
    """

    script: list[tuple[str, Answer]] = field(default_factory=list)
    pushes: list[tuple[str, BaseException | None]] = field(default_factory=list)
    pulled: Callable[[Path], None] | None = None
    pushed: list[Push] = field(default_factory=list)
    commands: list[tuple[str, ...]] = field(default_factory=list)
    inputs: list[bytes | None] = field(default_factory=list)
    slow: float = 0.0

    def exec(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        root: bool = False,
        stdin: bytes | None = None,
        on_output: OnOutput | None = None,
    ) -> CommandResult:
        """Answer the next scripted command."""
        assert timeout > 0
        self.commands.append(tuple(argv))
        self.inputs.append(stdin)
        time.sleep(self.slow)
        assert self.script, f"unscripted command: {argv}"
        word, answer = self.script.pop(0)
        assert word in " ".join(argv), f"expected {word!r} in {argv}"
        if isinstance(answer, BaseException):
            raise answer
        if callable(answer):
            return answer(on_output)
        if on_output is not None and answer.output:
            on_output(answer.output)
        return answer

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
        """Answer the next scripted push."""
        assert timeout > 0
        assert self.pushes, f"unscripted push of {source}"
        expected, failure = self.pushes.pop(0)
        assert target == expected, f"push of {source} to {target}"
        if failure is not None:
            raise failure
        self.pushed.append(Push(source, target, tuple(exclude), delete))

    def pull(
        self,
        source: str,
        target: Path,
        *,
        timeout: float,
        exclude: Sequence[str] = (),
        on_output: OnOutput | None = None,
    ) -> None:
        """Let the test write what the guest would have sent."""
        assert self.pulled is not None, f"unscripted pull of {source}"
        self.pulled(target)
