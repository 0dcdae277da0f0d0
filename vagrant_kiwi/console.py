"""What a person sees on standard error: phases, progress, notes, errors.

On a terminal the current phase is one live line; elsewhere each event is a plain line of its own.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TextIO, cast

from rich.console import Console as RichConsole
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from vagrant_kiwi.errors import VagrantKiwiError

#: Percents between two plain lines of one phase.
_PLAIN_STEP = 25


@dataclass(frozen=True)
class PhaseTime:
    """A finished phase and the seconds it took."""

    name: str
    seconds: float


@dataclass
class PhaseView:
    """The running phase, as ``Console.phase`` hands it out."""

    name: str
    _console: Console
    _task: int | None = None
    _said: tuple[str, int] = ("", -1)

    def update(self, text: str, percent: int | None = None) -> None:
        """Show what the phase is at.

        Args:
            text: a few words.
            percent: how far it is, 0 to 100, where that is known.
        """
        live = self._console.live
        if live is not None and self._task is not None:
            live.update(
                live.task_ids[self._task],
                text=text,
                total=100 if percent is not None else None,
                completed=percent or 0,
            )
            return
        step = -1 if percent is None else percent // _PLAIN_STEP
        if (text, step) != self._said:
            self._said = (text, step)
            self._console.line(
                f"  {self.name}: {text}" + (f" {percent} %" if percent is not None else "")
            )


class _Stream:
    """A text stream whose reader may go away: then it is silent, and never an error.

    A closed terminal gives EIO, a closed pipe EPIPE; a clean-up that dies of telling what it does
    would leave a guest behind. rich answers EPIPE by ending the process, so it must not see it.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lost = False
        self.encoding = getattr(stream, "encoding", "utf-8")

    def write(self, text: str) -> int:
        """Write, if anybody still reads."""
        if not self._lost:
            try:
                self._stream.write(text)
            except (OSError, ValueError):
                self._lose()
        return len(text)

    def flush(self) -> None:
        """Flush, if anybody still reads."""
        if not self._lost:
            try:
                self._stream.flush()
            except (OSError, ValueError):
                self._lose()

    def _lose(self) -> None:
        self._lost = True
        # What is left in the buffer would fail again when Python ends, which then exits with 120.
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            try:
                os.dup2(nowhere, self._stream.fileno())
            finally:
                os.close(nowhere)
            self._stream.flush()

    def isatty(self) -> bool:
        """Tell whether it is a terminal."""
        return self._stream.isatty()


@dataclass
class Console:
    """Writes progress to a stream, and never fails; a task's answer does not go through here.

    Args:
        stream: normally standard error.
        quiet: say only errors and warnings.
        verbose: pass the tools' own output through.
    """

    stream: TextIO = field(default_factory=lambda: sys.stderr)
    quiet: bool = False
    verbose: bool = False
    phases: list[PhaseTime] = field(default_factory=list)
    live: Progress | None = None

    def __post_init__(self) -> None:
        # rich honours NO_COLOR and TERM=dumb by itself.
        self._rich = RichConsole(
            file=cast(TextIO, _Stream(self.stream)), highlight=False, soft_wrap=True
        )

    @property
    def terminal(self) -> bool:
        """Whether a person looks at it live."""
        return self._rich.is_terminal and not self._rich.is_dumb_terminal

    def line(self, text: str) -> None:
        """Write one line, unless quiet."""
        if not self.quiet:
            self._rich.print(escape(text))

    def note(self, text: str) -> None:
        """Tell something worth knowing."""
        self.line(text)

    def warn(self, text: str) -> None:
        """Tell something that may go wrong later; also when quiet."""
        self._rich.print(f"[yellow]warning:[/yellow] {escape(text)}")

    def error(self, error: VagrantKiwiError) -> None:
        """Show a failure: what, why, and what to do."""
        self._rich.print(f"[bold red]error:[/bold red] {escape(error.brief)}")
        for part in error.details.splitlines():
            self._rich.print(f"  [dim]{escape(part)}[/dim]")
        if error.resolution:
            self._rich.print(escape(error.resolution))

    def raw(self, chunk: bytes) -> None:
        """Pass a tool's output through, when verbose."""
        if self.verbose and not self.quiet:
            self._rich.out(chunk.decode("utf-8", "replace"), end="", highlight=False)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[PhaseView]:
        """Show a phase while the body runs, and remember how long it took.

        Args:
            name: one word; it is also the phase's name in the JSON answer.
        """
        started = time.monotonic()
        view = PhaseView(name, self)
        try:
            with self._shown(view):
                yield view
        except BaseException:
            self._end(name, started, mark="failed", colour="red")
            raise
        self._end(name, started, mark="done", colour="green")

    def _end(self, name: str, started: float, *, mark: str, colour: str) -> None:
        seconds = time.monotonic() - started
        self.phases.append(PhaseTime(name, round(seconds, 3)))
        if not self.quiet:
            self._rich.print(f"[{colour}]{mark:>6}[/{colour}] {escape(name)} {seconds:.1f} s")

    @contextlib.contextmanager
    def _shown(self, view: PhaseView) -> Iterator[None]:
        if self.quiet or self.verbose or not self.terminal:
            self.line(f"       {view.name} ...")
            yield
            return
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._rich, transient=True) as self.live:
            self.live.add_task(view.name, text="", total=None)
            view._task = 0
            try:
                yield
            finally:
                self.live = None
