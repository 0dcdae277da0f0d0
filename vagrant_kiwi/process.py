"""The only place that starts a process.

Every process gets its own session, so that a Ctrl-C in the terminal reaches us alone and we decide
what happens to it; and its whole process group is gone when the call returns, whatever the reason.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

#: Called with each chunk of output as it arrives, undecoded.
OnOutput = Callable[[bytes], None]

#: Seconds that a process group has between the polite signal and SIGKILL.
GRACE = 10.0


@dataclass(frozen=True)
class CommandResult:
    """What a finished command left.

    ``status`` is the exit status; a process ended by signal N has 128 + N, as in a shell.
    ``output`` is standard output, ``errors`` standard error (empty where they were merged).
    """

    argv: tuple[str, ...]
    status: int
    output: bytes = b""
    errors: bytes = b""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the command exited 0."""
        return self.status == 0

    @property
    def text(self) -> str:
        """Standard output as text; bytes that are not UTF-8 become replacement characters."""
        return self.output.decode("utf-8", "replace")

    @property
    def error_text(self) -> str:
        """Standard error as text, decoded like ``text``."""
        return self.errors.decode("utf-8", "replace")

    def tail(self, lines: int = 10) -> str:
        """Return the last lines of what the command said, for an error's details."""
        said = (self.error_text.strip() or self.text.strip()).splitlines()
        return "\n".join(said[-lines:])


class CommandTimeoutError(Exception):
    """A command was still running at its deadline; its process group has been killed.

    Args:
        argv: the command.
        seconds: the limit that passed.
        output: what it had said until then.
    """

    def __init__(self, argv: Sequence[str], seconds: float, output: bytes) -> None:
        super().__init__(f"{shlex.join(argv)} did not finish within {seconds:.0f} s")
        self.argv = tuple(argv)
        self.seconds = seconds
        self.output = output


class CommandNotFoundError(Exception):
    """The program is not installed, or may not be executed."""

    def __init__(self, program: str) -> None:
        super().__init__(f"{program}: not found")
        self.program = program


@dataclass(frozen=True)
class Background:
    """A process that goes on beside us; who holds this owns it."""

    _process: subprocess.Popen[bytes]

    def ended(self, *, within: float) -> bool:
        """Wait some seconds for its end, and tell whether that came."""
        try:
            self._process.wait(timeout=within)
        except subprocess.TimeoutExpired:
            return False
        return True

    @property
    def status(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        return self._process.poll()

    def stop(self) -> None:
        """Close its pipe and end it: politely, and after 5 s for good."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        for signum in (signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is None:
                self._process.send_signal(signum)
            if self.ended(within=5):
                return

    def dismiss(self) -> int:
        """Close its pipe, wait for its end, and return its exit status."""
        assert self._process.stdin is not None  # noqa: S101 - started with pipe=True
        self._process.stdin.close()
        return self._process.wait()


@dataclass(frozen=True)
class Runner:
    """Starts processes; a value, so that tests can pass another one.

    Args:
        environment: the complete environment of every child; nothing else is inherited.
    """

    environment: Mapping[str, str] = field(default_factory=dict)

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        stdin: bytes | None = None,
        on_output: OnOutput | None = None,
        merge: bool = False,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        grace: float = GRACE,
    ) -> CommandResult:
        """Run a command to its end.

        Args:
            argv: program and arguments; never a shell line.
            timeout: seconds until its process group is stopped.
            stdin: bytes for its standard input; without them it reads from nothing.
            on_output: sees standard output while it comes, and standard error too when merged.
            merge: write standard error into standard output.
            cwd: the working directory.
            environment: variables added to the runner's.
            stop_signal: how to ask its group to stop, on time-out or when we are interrupted.
            grace: seconds it has after ``stop_signal`` before SIGKILL.

        Returns:
            The result; a non-zero status is no exception.

        Raises:
            CommandTimeoutError: it had to be stopped.
            CommandNotFoundError: there is no such program.
        """
        started = time.monotonic()
        deadline = started + timeout
        with self._started(
            argv,
            merge=merge,
            cwd=cwd,
            environment=environment,
            stdin=stdin is not None,
            stop_signal=stop_signal,
            grace=grace,
        ) as process:
            output, errors = bytearray(), bytearray()
            if not _pump(process, stdin or b"", output, errors, on_output, deadline):
                _stop_group(process, stop_signal, grace)
                raise CommandTimeoutError(argv, timeout, bytes(output))
            status = process.wait()
        return CommandResult(
            argv=tuple(argv),
            status=status if status >= 0 else 128 - status,
            output=bytes(output),
            errors=bytes(errors),
            seconds=time.monotonic() - started,
        )

    def spawn(
        self,
        argv: Sequence[str],
        *,
        log: Path,
        pipe: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> Background:
        """Start a process that outlives the call, in a session of its own.

        Args:
            argv: program and arguments.
            log: file that takes its output.
            pipe: give it a pipe as standard input; its end of file tells it that we are gone.
            environment: variables added to the runner's.

        Returns:
            The process; who calls owns it.

        Raises:
            CommandNotFoundError: there is no such program.
        """
        with log.open("ab") as stream:
            try:
                return Background(
                    subprocess.Popen(
                        list(argv),
                        stdin=subprocess.PIPE if pipe else subprocess.DEVNULL,
                        stdout=stream,
                        stderr=subprocess.STDOUT,
                        env={**self.environment, **(environment or {})},
                        start_new_session=True,
                    )
                )
            except (FileNotFoundError, PermissionError) as error:
                raise CommandNotFoundError(argv[0]) from error

    @contextlib.contextmanager
    def _started(
        self,
        argv: Sequence[str],
        *,
        merge: bool,
        cwd: Path | None,
        environment: Mapping[str, str] | None,
        stdin: bool,
        stop_signal: signal.Signals,
        grace: float,
    ) -> Iterator[subprocess.Popen[bytes]]:
        try:
            process = subprocess.Popen(
                list(argv),
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT if merge else subprocess.PIPE,
                env={**self.environment, **(environment or {})},
                cwd=cwd,
                start_new_session=True,
            )
        except (FileNotFoundError, PermissionError) as error:
            if cwd is not None and not cwd.is_dir():
                raise
            raise CommandNotFoundError(argv[0]) from error
        with process:
            try:
                yield process
            except BaseException:
                # Also when a signal handler raised: the child must not outlive the call.
                _stop_group(process, stop_signal, grace)
                raise


def _pump(
    process: subprocess.Popen[bytes],
    stdin: bytes,
    output: bytearray,
    errors: bytearray,
    on_output: OnOutput | None,
    deadline: float,
) -> bool:
    """Move bytes until the process has exited and its pipes are drained; False at the deadline."""
    pending = memoryview(stdin)
    with selectors.DefaultSelector() as selector:
        for stream, sink, told in (
            (process.stdout, output, on_output),
            (process.stderr, errors, None),
        ):
            if stream is not None:
                os.set_blocking(stream.fileno(), False)
                selector.register(stream, selectors.EVENT_READ, (sink, told))
        if process.stdin is not None:
            os.set_blocking(process.stdin.fileno(), False)
            selector.register(process.stdin, selectors.EVENT_WRITE)
        drain_until: float | None = None
        while selector.get_map():
            now = time.monotonic()
            if now >= deadline:
                return False
            if process.poll() is not None and drain_until is None:
                # A daemon it left behind (ssh's ControlPersist master) may hold the pipes open.
                drain_until = now + 0.5
            if drain_until is not None and now >= drain_until:
                break
            for key, _ in selector.select(timeout=min(0.2, deadline - now)):
                if key.data is None:
                    pending = _write(selector, key, pending)
                else:
                    _read(selector, key)
        while process.poll() is None:
            # It closed its output but still runs.
            try:
                process.wait(timeout=max(0.0, min(0.2, deadline - time.monotonic())))
            except subprocess.TimeoutExpired:
                if time.monotonic() >= deadline:
                    return False
    return True


def _write(
    selector: selectors.BaseSelector, key: selectors.SelectorKey, pending: memoryview
) -> memoryview:
    try:
        pending = pending[os.write(key.fd, pending[:65536]) :]
    except BlockingIOError:
        return pending
    except BrokenPipeError:
        pending = pending[len(pending) :]
    if not pending:
        selector.unregister(key.fileobj)
        key.fileobj.close()  # type: ignore[union-attr]
    return pending


def _read(selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
    sink, on_output = key.data
    try:
        chunk = os.read(key.fd, 65536)
    except BlockingIOError:
        return
    if not chunk:
        selector.unregister(key.fileobj)
        return
    sink.extend(chunk)
    if on_output is not None:
        on_output(chunk)


def _stop_group(
    process: subprocess.Popen[bytes], stop_signal: signal.Signals, grace: float
) -> None:
    """Stop the whole process group: politely first, then for good."""
    for signum, patience in ((stop_signal, grace), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signum)
        try:
            process.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            continue
        break
    # Its children may be left; SIGKILL takes effect a moment after the call.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        for _ in range(20):
            os.killpg(process.pid, signal.SIGKILL)
            time.sleep(0.01)


def at_most(size: int, error: Exception) -> OnOutput:
    """Return what watches a command's output, and ends the command where it says too much.

    Args:
        size: bytes that it may say.
        error: raised when it says more.
    """
    said = 0

    def watch(chunk: bytes) -> None:
        nonlocal said
        said += len(chunk)
        if said > size:
            raise error

    return watch


def last_lines(data: bytes, count: int = 10) -> str:
    """Return the last non-empty lines of some output as text."""
    lines = [line for line in data.decode("utf-8", "replace").splitlines() if line.strip()]
    return "\n".join(lines[-count:])
