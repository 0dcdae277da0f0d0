"""Hides credentials in KIWI's log on its way to a file or a terminal."""

from __future__ import annotations

import re

#: The longest line that is read as one, in bytes.
LONGEST_LINE = 1 << 20

ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
#: A record of KIWI's log (logger.py of 11.1.6): level and text.
RECORD = re.compile(r"\[ (DEBUG|INFO|WARNING|ERROR|CRITICAL) *\]: \d\d:\d\d:\d\d \| (.*)")
#: A progress bar of KIWI's; it stands after a carriage return and has no line feed before 100%.
BAR = r"\[ INFO    \]: Processing: \[[# ]*\] (\d+)%"

_LEVELS = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}
_ONE_BAR = re.compile(BAR)
_PIECE_ENDS = re.compile(rb"(?<=[\r\n])")

# In doubt more is hidden than needed: a password may hold an unescaped "/" or "@", and a query may
# be a token. The attribute is that of a description's <source>, which KIWI logs when it does not
# fit the schema. Bounded, so that no line takes quadratic time.
_MASKS = (
    (
        re.compile(rb"://(?:[^\s:/@'\"]{0,256}:[^\s'\"]{0,512}|[^\s/@'\"]{0,512})@"),
        rb"://***@",
    ),
    (re.compile(rb"(://[^\s'\"?]{0,512}\?)[^\s'\"]+"), rb"\1***"),
    (re.compile(rb"(\bpassword=[\"'])[^\"']*"), rb"\1***"),
    # KIWI logs each --setenv with its value (tasks/base.py of 11.1.6).
    (re.compile(rb"(\bSet Env\[[^\]\n]{0,256}\]=)[^\n]*"), rb"\1***"),
)


def mask_credentials(text: str) -> str:
    """Return a text with stars for users, passwords and queries of its URLs."""
    return _mask(text.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")


def _mask(data: bytes) -> bytes:
    for pattern, shown in _MASKS:
        data = pattern.sub(shown, data)
    return data


class LogMask:
    """Masks a stream of bytes.

    KIWI's debug records hold repository URLs as they are (zypper addrepo). A line is held back
    until it is whole, so that no secret slips through where a chunk ends; a progress bar is a line
    of its own here.

    Args:
        level: leave out records below it (10 debug, 20 info, 30 warning, 40 error) and the lines
            that belong to them, as ``kiwi-ng --loglevel`` does; 0 leaves out nothing.
    """

    def __init__(self, *, level: int = 0) -> None:
        self._level = level
        self._pending = b""
        self._keep = True

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes, cut anywhere; return what can be shown now."""
        *whole, self._pending = _PIECE_ENDS.split(self._pending + chunk)
        if len(self._pending) > LONGEST_LINE:
            whole, self._pending = [*whole, self._pending], b""
        return b"".join(self._shown(line) for line in whole)

    def finish(self) -> bytes:
        """Return the last line, where the log ends in the middle of it."""
        rest, self._pending = self._pending, b""
        return self._shown(rest)

    def _shown(self, line: bytes) -> bytes:
        if self._level:
            text = ANSI.sub("", line.decode("utf-8", "replace"))
            bar = _ONE_BAR.match(text)
            record = RECORD.match(text[bar.end() :] if bar else text)
            if record or bar:
                self._keep = _LEVELS[record[1] if record else "INFO"] >= self._level
            if not self._keep:
                return b""
        return _mask(line)
