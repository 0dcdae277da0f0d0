"""Guests: where a build runs. A build system is a context manager that yields a live guest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from vagrant_kiwi.process import CommandResult, OnOutput


class ConnectionLostError(Exception):
    """The guest did not answer; whether the command ran to its end there is not known.

    Args:
        details: what the transport said.
    """

    def __init__(self, details: str) -> None:
        super().__init__(details)
        self.details = details


class Guest(Protocol):
    """A guest that is up: run commands in it, bring data in, get data out."""

    def exec(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        root: bool = False,
        stdin: bytes | None = None,
        on_output: OnOutput | None = None,
    ) -> CommandResult:
        """Run a command to its end.

        Args:
            argv: program and arguments; they arrive unchanged.
            timeout: seconds; then the connection is cut (use ``remote`` for what must be killed).
            root: run it as root, through sudo.
            stdin: bytes for its standard input.
            on_output: sees standard output while it comes.

        Returns:
            The result with the command's own exit status, 255 included.

        Raises:
            ConnectionLostError: the guest did not answer.
            CommandTimeoutError: it did not finish in time.
        """
        ...

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
        """Copy a folder's content, or a file, into the guest; owner root.

        Args:
            source: folder or file on the host.
            target: absolute path in the guest; parents are made.
            timeout: seconds.
            exclude: rsync patterns that stay out.
            delete: remove what the source has not.
            on_output: sees rsync's progress.

        Raises:
            TransferError: it did not arrive whole.
            CommandTimeoutError: it did not finish in time.
        """
        ...

    def pull(
        self,
        source: str,
        target: Path,
        *,
        timeout: float,
        exclude: Sequence[str] = (),
        on_output: OnOutput | None = None,
    ) -> None:
        """Copy a guest folder's content to the host; owned by the caller.

        Raises:
            TransferError: it did not arrive whole.
            CommandTimeoutError: it did not finish in time.
        """
        ...


class TransferError(Exception):
    """Data did not arrive whole.

    Args:
        details: what rsync said.
    """

    def __init__(self, details: str) -> None:
        super().__init__(details)
        self.details = details
