"""Reads KIWI's log while it grows: phase, percent, first error, repositories that failed.

The log is what ``kiwi-ng --loglevel 10 --logfile stdout`` writes to standard output and error. In
KIWI 11.1.6 (logger.py, tasks/base.py) a record is ``[ LEVEL   ]: HH:MM:SS | text``; its text may
have more lines, and a progress bar stands after a carriage return, with the next record behind it.
"""

from __future__ import annotations

import re
import signal
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from vagrant_kiwi import kiwi_words as words
from vagrant_kiwi.errors import KiwiError
from vagrant_kiwi.log_mask import ANSI, BAR, LONGEST_LINE, RECORD, mask_credentials

_BARS = re.compile(rf"\r{BAR}")
_KEPT = 40
_KEPT_OF_ERROR = 400
_SHOWN = 400

#: What the lines are that follow a record without one of their own.
_Kind = Literal["", "error", "update", "topic", "failed"]


@dataclass(frozen=True)
class Progress:
    """Where KIWI is: the phase in plain words, and the percent of it where KIWI tells one."""

    phase: str
    percent: int | None = None


class KiwiLog:
    """An incremental reader of KIWI's log; how the bytes are cut makes no difference."""

    def __init__(self) -> None:
        self.progress: Progress | None = None
        self._pending = b""
        self._phase = "preparing"
        self._kind: _Kind = ""
        self._in_script = False
        self._errors: list[list[str]] = []
        self._loose: deque[str] = deque(maxlen=_KEPT)
        self._tail: deque[str] = deque(maxlen=_KEPT)
        self._failed: deque[str] = deque(maxlen=_KEPT)
        self._script: deque[str] = deque(maxlen=_KEPT)
        self._invalid: deque[str] = deque(maxlen=_KEPT)
        self._problems: dict[str, None] = {}
        self._disk_full = False
        self._image_full = False
        self._has_result = False

    def feed(self, chunk: bytes) -> Progress | None:
        """Read on.

        Args:
            chunk: the next bytes, cut anywhere.

        Returns:
            Where KIWI is now, if that has changed; else None.
        """
        before = self.progress
        *lines, rest = (self._pending + chunk).split(b"\n")
        # Only the beginning of a monstrous line counts, in whatever pieces it arrives.
        self._pending = rest[:LONGEST_LINE]
        for line in lines:
            self._line(line[:LONGEST_LINE])
        return self.progress if self.progress != before else None

    def finish(self) -> None:
        """Read the last line too, where the log ends in the middle of it."""
        rest, self._pending = self._pending, b""
        if rest:
            self._line(rest)

    def first_error(self) -> str | None:
        """Return KIWI's own first error on one line, without time and credentials, or None.

        That is the one KIWI ended with, ``KiwiSomething: ...``: a clean-up that failed on the way
        out is logged as an error before it.
        """
        error = self._main_error()
        if error is None:
            return _short(_usage(self._loose) or _exception(self._loose))
        message = error[0].strip()
        if message == "Unexpected error:":
            return _short(f"{message} {_exception(error) or ''}")
        # With --logfile stdout KIWI begins the text of some errors with an empty line.
        following = [line for line in error[1:] if line.strip()]
        if message.endswith(":") and following:
            message = f"{message} {following[0]}"
        return _short(message)

    def error_lines(self, limit: int = 8) -> tuple[str, ...]:
        """Return what follows the first line of the first error, without KIWI's advice."""
        first = self.first_error() or ""
        lines: list[str] = []
        for line in (self._main_error() or [])[1:]:
            if line.startswith((words.ADVICE, words.TRACEBACK)):
                break
            shown = _short(line)
            if shown and shown != ":" and not first.endswith(shown):
                lines.append(shown)
        return tuple(lines[:limit])

    def context(self, limit: int = 8) -> tuple[str, ...]:
        """Return what tells more about the first error: a script's output, or schema errors."""
        message = (self._main_error() or [""])[0]
        kept = self._script if message.startswith("KiwiScriptFailed") else self._invalid
        return tuple(filter(None, (_short(line) for line in list(kept)[-limit:])))

    def failed(self) -> bool:
        """Tell whether KIWI logged an error and listed no result after all."""
        return bool(self._errors) and not self._has_result

    def disk_full(self) -> bool:
        """Tell whether KIWI failed because a disk of the guest is full.

        Not so for the file system of the image itself, nor for a script's command that failed
        without making KIWI fail.
        """
        if self._errors or self._disk_full:
            return self._disk_full
        # The log lies on that disk too, so KIWI's own last words may be missing.
        return any(
            words.DISK_FULL.search(line) and not words.IN_IMAGE.search(line)
            for line in self._failed
        )

    def image_full(self) -> bool:
        """Tell whether the file system of the image is too small for what goes into it."""
        return self._image_full and not self._disk_full

    def repository_problems(self) -> tuple[str, ...]:
        """Return the package managers' words about repositories not fetched or not verified.

        Also where KIWI went on and exited 0; not what the description's scripts said, and not a
        try that was repeated with success.
        """
        exact = [line for line in self._problems if not words.REPOSITORY_GENERIC.match(line)]
        return tuple(exact or self._problems)

    def tail(self, limit: int = 8) -> tuple[str, ...]:
        """Return the last lines of the log, without debug records and credentials."""
        return tuple(filter(None, (_short(line) for line in list(self._tail)[-limit:])))

    def _main_error(self) -> list[str] | None:
        for error in self._errors:
            if words.KIWI_FAILED.match(error[0]):
                return error
        return self._errors[0] if self._errors else None

    def _line(self, raw: bytes) -> None:
        line = ANSI.sub("", raw.decode("utf-8", "replace"))
        for bar in _BARS.finditer(line):
            self.progress = Progress(self._phase, min(int(bar[1]), 100))
        line = _BARS.sub("", line).strip("\r")
        record = RECORD.match(line)
        if record is None:
            self._continued(line)
            return
        self._kind = ""
        level, text = record[1], record[2]
        if level == "DEBUG":
            self._debug(text)
            return
        self._tail.append(line)
        self._in_script = False
        if level == "INFO":
            self._info(text)
        elif level == "WARNING":
            if words.REPOSITORY_SKIPPED.match(text):
                self._problem(text)
        else:
            self._kind = "error"
            self._errors.append([text])
            self._look(text)

    def _info(self, text: str) -> None:
        if text.startswith(("Result files:", "Finalizing ")):
            self._has_result = True
        elif text.startswith("Calling "):
            self._script.clear()
        elif ":ERROR:RELAXNG" in text:
            self._invalid.append(text.removeprefix("--> "))
        for pattern, phase in words.PHASES:
            if pattern.match(text):
                if phase != self._phase or self.progress is None:
                    self.progress = Progress(phase)
                self._phase = phase
                return

    def _debug(self, text: str) -> None:
        if words.SCRIPT_BEGIN.match(text):
            self._in_script = True
        elif words.SCRIPT_END.match(text):
            self._in_script = False
        elif self._in_script:
            self._script.append(text)
        elif match := words.APT_RECORD.match(text):
            self._kind = "update"
            self._look(match[1])
        elif match := words.TOPIC.match(text):
            self._kind = "topic"
            self._look(match[1])
        elif match := words.FAILED_RECORD.match(text):
            self._kind = "failed"
            self._look(match[1])

    def _continued(self, line: str) -> None:
        """Read a line that belongs to the record before it, or to none."""
        if self._kind == "error" and len(self._errors[-1]) < _KEPT_OF_ERROR:
            self._errors[-1].append(line)
        if self._kind in ("error", "") and line.strip():
            self._loose.append(line)
            self._tail.append(line)
        self._look(line)

    def _look(self, line: str) -> None:
        """Look for full disks and for repositories, in words that are not a script's."""
        if self._kind == "error":
            self._look_at_error(line)
        elif self._kind == "failed":
            self._failed.append(line)
        elif self._kind == "update":
            if words.REPOSITORY_IN_UPDATE.match(line.strip()):
                self._problem(line)
        elif self._kind == "topic":
            if words.REPOSITORY_IN_TOPIC.match(line):
                self._problem(line)
            if words.DISK_FULL_IN_TOPIC.match(line) and not words.IN_IMAGE.search(line):
                self._disk_full = True

    def _look_at_error(self, line: str) -> None:
        if words.DISK_FULL.search(line):
            if words.IN_IMAGE.search(line):
                self._image_full = True
            else:
                self._disk_full = True
        if self._errors[-1][0].startswith("KiwiScriptFailed"):
            return
        for said in (line, words.BEFORE_TOOL.sub("", line, count=1)):
            if words.REPOSITORY_IN_ERROR.match(said):
                self._problem(said)
                return

    def _problem(self, text: str) -> None:
        if len(self._problems) < _KEPT:
            self._problems.setdefault(_short(text) or "")


def explain(
    status: int, log: KiwiLog, log_path: str, *, guest_full: bool = False
) -> KiwiError | None:
    """Return what went wrong in a run of KIWI, or None where nothing did.

    Args:
        status: kiwi-ng's exit status; 128 + N where signal N ended it.
        log: what it said; it is read to its end.
        log_path: where a person finds all of it.
        guest_full: whether the guest's disk had no room left; then the log's end may be missing.

    Returns:
        The error to raise; also for status 0, where KIWI went on without a repository, or where it
        gave up without a word to its caller (``--set-type-attr`` of an unknown attribute).
    """
    log.finish()
    error = log.first_error()
    problems = log.repository_problems()
    if status == 0 and not problems and not log.failed():
        return None
    told = [*log.error_lines(), *log.context()]
    known = "\n".join([error or "", *told])
    repositories = (
        "Check the address and the signing key of the repository, and that the guest reaches it."
    )
    resolution = next((text for pattern, text in words.ADVICES if pattern.search(known)), "")
    signal_name = _signal_name(status)
    if status == 0 and not log.failed():
        brief = "KIWI went on although a repository could not be fetched or verified"
        told, resolution = [], repositories
    elif guest_full or log.disk_full():
        brief = "The disk of the guest is full"
        told = [error or "", *told]
        resolution = (
            "Make room: in a container on the host's disk, where the container engine keeps its "
            "data; in a virtual machine with a bigger disk of its box."
        )
    elif log.image_full():
        brief = "The image is too small for what goes into it"
        told = [error or "", *told]
        resolution = "Raise the <size> of its type, or leave it out: KIWI computes it then."
    elif status == 137:
        brief = "KIWI was killed, most likely because the guest ran out of memory"
        told, resolution = [error or "", *log.tail()], "Give the guest more memory."
    elif signal_name:
        brief = f"KIWI was ended by {signal_name}"
        told = [error or "", *log.tail()]
        if signal_name == "SIGILL":
            # Wheels such as lxml's are built for it; QEMU's model qemu64 lacks it.
            resolution = "The guest's processor model must offer x86-64-v2: not qemu64, but max."
    elif error:
        brief = f"KIWI failed: {error}"
        resolution = repositories if problems else resolution
        if status == 2:
            resolution = "Check the options after '--'."
    else:
        brief = f"KIWI failed with exit status {status}"
        told = list(log.tail())
    lines = dict.fromkeys(line for line in (*told, *problems) if line)
    return KiwiError(brief, details="\n".join([*lines, f"Log: {log_path}"]), resolution=resolution)


def _signal_name(status: int) -> str:
    try:
        return signal.Signals(status - 128).name if status > 128 else ""
    except ValueError:
        return ""


def _short(text: str | None) -> str | None:
    """Return a line that may be shown: not endless, credentials masked; None for nothing."""
    # Masked before it is cut, else the "@" that tells a password could be lost.
    text = mask_credentials(text).strip() if text else ""
    return (text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…") or None


def _usage(lines: Iterable[str]) -> str | None:
    """Return on one line what the command line parser says in its box."""
    return (
        " ".join(match[1].strip() for line in lines if (match := words.USAGE.match(line))) or None
    )


def _exception(lines: Iterable[str]) -> str | None:
    """Return the last line of a Python traceback."""
    found: str | None = None
    seen = False
    for line in lines:
        if line.startswith(words.TRACEBACK):
            seen = True
        elif seen and words.EXCEPTION.match(line):
            found = line
    return found
