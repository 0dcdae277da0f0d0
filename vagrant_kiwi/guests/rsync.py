"""rsync into and out of a guest, whatever carries it there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vagrant_kiwi.guests import TransferError
from vagrant_kiwi.process import OnOutput, Runner

#: rsync's exit code for "error in file I/O", which a full disk is; rsync(1), "EXIT VALUES".
_FULL_DISK = 11


@dataclass(frozen=True, kw_only=True)
class Carrier:
    """What rsync talks through: two of a guest's verbs, whatever the third one is.

    Args:
        runner: starts rsync.
        rsh: the remote shell's command line; rsync splits it at spaces, so no word has any.
        program: rsync in the guest, with what makes it root there.
        peer: the guest's name for the remote shell.
        compress: whether what is not compressed already is, on its way.
    """

    runner: Runner
    rsh: Sequence[str]
    program: str
    peer: str
    compress: bool = False

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
        """Copy a folder's content, or a file, into the guest; see ``Guest.push``."""
        slash = "/" if source.is_dir() else ""
        self._run(
            [
                "--mkpath",
                "--chown=root:root",
                *(["--delete"] if delete else []),
                *(f"--exclude={pattern}" for pattern in exclude),
                "--",
                f"{source}{slash}",
                f"{self.peer}:{target}{slash}",
            ],
            timeout=timeout,
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
        """Copy a guest folder's content to the host; see ``Guest.pull``."""
        self._run(
            [
                # Owner and group are the caller's: what the guest's root made belongs to him.
                "--no-owner",
                "--no-group",
                "--chmod=Du+rwx,Fu+rw",
                *(f"--exclude={pattern}" for pattern in exclude),
                "--",
                f"{self.peer}:{source}/",
                f"{target}/",
            ],
            timeout=timeout,
            on_output=on_output,
        )

    def _run(self, arguments: Sequence[str], *, timeout: float, on_output: OnOutput | None) -> None:
        # No compression on a local link, where it only costs; rsync itself knows the suffixes of
        # what is compressed already. Arguments are protected from the remote shell; hard links and
        # sparse files stay such.
        argv = [
            "rsync",
            "--archive",
            "--hard-links",
            "--sparse",
            "--numeric-ids",
            "--protect-args",
            *(["--compress"] if self.compress else []),
            "--info=progress2",
            f"--rsh={' '.join(self.rsh)}",
            f"--rsync-path={self.program}",
            *arguments,
        ]
        result = self.runner.run(argv, timeout=timeout, on_output=on_output)
        if not result.ok:
            room = "no room left: " if result.status == _FULL_DISK else ""
            raise TransferError(f"{room}rsync exited with {result.status}: {result.tail(5)}")
