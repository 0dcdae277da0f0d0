"""Where the output of tools goes: the build's log, the terminal, the phase's progress."""

from __future__ import annotations

from typing import IO

from vagrant_kiwi.console import Console, PhaseView
from vagrant_kiwi.kiwi_log import KiwiLog
from vagrant_kiwi.log_mask import LogMask


class BuildLog:
    """The build's log. When it cannot be written (a full disk) that is said once, and no failure.

    The guest must be removed all the same, and a build that can still publish its result may.
    """

    def __init__(self, stream: IO[bytes], console: Console) -> None:
        self._stream = stream
        self._console = console
        self._broken = False

    def write(self, chunk: bytes) -> None:
        """Append some bytes, unbuffered."""
        if self._broken:
            return
        try:
            while chunk:
                chunk = chunk[self._stream.write(chunk) :]
        except OSError as error:
            self._broken = True
            self._console.warn(f"the log cannot be written any more: {error}")


class Tee:
    """Writes a tool's output to the log, and to the terminal when verbose.

    Keeps the last of it for an error's details.
    """

    _KEPT = 65536

    def __init__(self, log: BuildLog, console: Console) -> None:
        self.seen = b""
        self._log = log
        self._console = console

    def __call__(self, chunk: bytes) -> None:
        self._record(chunk)
        self._console.raw(chunk)

    def _record(self, chunk: bytes) -> None:
        self._log.write(chunk)
        self.seen = (self.seen + chunk)[-self._KEPT :]


class KiwiTee(Tee):
    """Does the same for KIWI's log, which can hold credentials, and shows how far KIWI is."""

    def __init__(
        self,
        log: BuildLog,
        console: Console,
        reader: KiwiLog,
        view: PhaseView,
        *,
        level: int,
    ) -> None:
        super().__init__(log, console)
        self._reader = reader
        self._view = view
        # The log gets all, the terminal what the person wants to see.
        self._to_log = LogMask()
        self._to_terminal = LogMask(level=level)

    def __call__(self, chunk: bytes) -> None:
        self._record(self._to_log.feed(chunk))
        self._console.raw(self._to_terminal.feed(chunk))
        progress = self._reader.feed(chunk)
        if progress is not None:
            self._view.update(progress.phase, progress.percent)

    def finish(self) -> None:
        """Write what is left of an unfinished last line."""
        self._log.write(self._to_log.finish())
        self._console.raw(self._to_terminal.finish())
        self._reader.finish()


class VagrantTee(Tee):
    """Does the same for Vagrant's output, and shows what Vagrant is at."""

    def __init__(self, log: BuildLog, console: Console, view: PhaseView) -> None:
        super().__init__(log, console)
        self._view = view
        self._rest = b""

    def __call__(self, chunk: bytes) -> None:
        super().__call__(chunk)
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            # "==> default: Waiting for domain to get an IP address..."
            mark, _, text = line.decode("utf-8", "replace").strip().partition(": ")
            # vagrant-libvirt lists all its settings, each with a dash; the log has them.
            if mark.startswith("==> ") and text and not text.lstrip().startswith("--"):
                self._view.update(text)


class RsyncPercent:
    """Turns rsync's ``--info=progress2`` into a phase's percent."""

    def __init__(self, view: PhaseView, text: str) -> None:
        self._view = view
        self._text = text

    def __call__(self, chunk: bytes) -> None:
        for word in reversed(chunk.split()):
            if word.endswith(b"%") and word[:-1].isdigit():
                self._view.update(self._text, int(word[:-1]))
                return
