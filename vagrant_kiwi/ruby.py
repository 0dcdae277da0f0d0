"""What we know of Ruby's syntax: how to write a string, and where one is open."""

from __future__ import annotations

import re
from collections.abc import Iterator

from vagrant_kiwi.errors import TemplateError

#: Stands for an expression in the text given to ``marks_in_strings``.
MARK = "\0"

# Printable ASCII without ``#``: safe in single quotes. A string with ``#`` gets the other form,
# in which it is escaped, so that it stays dead even where Ruby would interpolate.
_PLAIN = re.compile(r"[ -\"$-~]*")
_ESCAPES = {'"': '\\"', "\\": "\\\\", "#": "\\#", "\n": "\\n", "\r": "\\r", "\t": "\\t"}

# <<~NAME, <<-"NAME", <<'NAME'; with neither sign nor quotes only in capitals, as `list <<item` is
# a call.
_HEREDOC = re.compile(r"<<(?:[~-](?P<q>[\"'`]?)(\w+)(?P=q)|(?P<p>[\"'`])(\w+)(?P=p)|([A-Z_]+)\b)")
_PERCENT = re.compile(r"%[qQwWiIxrs]?([(\[{<|!/])")
_CLOSING = {"(": ")", "[": "]", "{": "}", "<": ">"}


def string(text: str) -> str:
    """Return a string as a Ruby literal: one line of printable ASCII that never interpolates.

    It comes back from Ruby with the same bytes, also a file name that is not UTF-8: Python keeps
    such bytes as U+DC80 to U+DCFF (PEP 383), Ruby gets them as bytes again.

    Raises:
        TemplateError: the string holds another lone surrogate, so it is not text. The message
            does not show the string, which may be a secret.
    """
    if _PLAIN.fullmatch(text):
        return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return '"' + "".join(map(_character, text)) + '"'


def _character(char: str) -> str:
    point = ord(char)
    if char in _ESCAPES:
        return _ESCAPES[char]
    if 0x20 <= point < 0x7F:
        return char
    if 0xDC80 <= point <= 0xDCFF:
        return f"\\x{point - 0xDC00:02x}"
    if 0xD800 <= point <= 0xDFFF:
        raise TemplateError(
            f"A string with the lone surrogate U+{point:04X} is not text and has no Ruby literal",
            resolution="Correct the value in the settings or the description",
        )
    return f"\\u{{{point:x}}}"


def marks_in_strings(text: str) -> Iterator[int]:
    """Yield the number (from 0) of each ``MARK`` that stands within a Ruby string.

    A literal put there is no literal any more: its quotes end the string around it, or the text
    of a heredoc gets Ruby's quotes where another program reads them. This reads quotes, ``%w[]``,
    heredocs and comments, not all of Ruby: a quote in a regular expression (``/'/``, not ``%r``)
    counts as the beginning of a string.

    Args:
        text: Ruby, with a ``MARK`` for each expression.
    """
    count = 0
    closing = ""
    heredocs: list[str] = []
    for line in text.split("\n"):
        if heredocs:
            yield from range(count, count + line.count(MARK))
            count += line.count(MARK)
            if line.strip() == heredocs[0]:
                heredocs.pop(0)
            continue
        position = 0
        while position < len(line):
            char = line[position]
            if char == MARK:
                if closing:
                    yield count
                count += 1
            elif closing:
                if char == "\\" and line[position + 1 : position + 2] != MARK:
                    position += 1
                elif char == closing:
                    closing = ""
            elif char in "\"'`":
                closing = char
            elif char == "#":
                count += line.count(MARK, position)
                break  # a comment; literals have one line only, so they stay within it
            elif match := _PERCENT.match(line, position):
                closing = _CLOSING.get(match[1], match[1])
                position = match.end() - 1
            elif match := _HEREDOC.match(line, position):
                heredocs.append(next(filter(None, match.group(2, 4, 5))))
                position = match.end() - 1
            position += 1
