"""The part of Ruby that Dicefiles are written in: one block of assignments, read and never run.

    Dice.configure do |config|
      config.ssh_private_key = File.join(ENV["HOME"], ".ssh/id")
    end

A Dicefile comes with a description, so perhaps from a stranger. What is accepted here means the
same to Ruby (which only refuses a few names of the block's variable); all else is refused, also
where Ruby would understand it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vagrant_kiwi.errors import SettingsError
from vagrant_kiwi.settings_sources import unknown

#: What can be set, in every version of Dice (lib/config.rb there).
KEYS = ("buildhost", "ssh_user", "ssh_private_key")

_UNDERSTOOD = """\
Understood are comments, and one block with these lines:
  Dice.configure do |config|
    config.buildhost = :DOCKER, :VAGRANT or "name-or-address"
    config.ssh_user = "name"
    config.ssh_private_key = "path", "~/path", File.join(ENV["HOME"], "path"),
      ENV["HOME"] + "/path", "#{ENV['HOME']}/path" or File.expand_path("~/path")
  end"""

_HOME = r"ENV\[[ \t]*(?:\"HOME\"|'HOME')[ \t]*\]"
# No space before "[" and "(": Ruby reads ENV ["HOME"] as a call. Each repeated alternative begins
# with a character of its own, so no text makes them slow. Names are cut at a length that no message
# minds; the rest of a longer one is then in nobody's place.
_TOKEN = re.compile(
    rf"""(?P<space>[ \t]+|\#[^\n]*)
    |(?P<line>\n)
    |(?P<home>{_HOME})
    |(?P<call>File\.(?:join|expand_path)\()
    |'(?P<single>(?:[^'\\\n]|\\[^\n])*)'
    |"(?P<double>(?:[^"\\\#\n]|\\["'\\\#]|\#(?![{{$@])|\#{{[ \t]*{_HOME}[ \t]*}})*)"
    |(?P<symbol>:[A-Za-z_]\w{{0,99}})
    |(?P<name>[^\W\d]\w{{0,99}})
    |(?P<mark>[.=|+,)])""",
    re.VERBOSE,
)
_PART = re.compile(rf"\\(?P<escaped>.)|(?P<home>\#{{[ \t]*{_HOME}[ \t]*}})")

#: How deep calls may lie in each other; nobody needs more than two.
_DEEPEST = 8
#: The longest line that a message repeats.
_LONGEST = 120


@dataclass(frozen=True)
class Source:
    """A Dicefile's text, and how an error tells where in it.

    Args:
        path: the file.
        text: its content, with "\\n" at the end of lines.
        shown: whether errors may repeat a line of it.
    """

    path: Path
    text: str
    shown: bool = True

    def refused(self, line: int, why: str) -> SettingsError:
        """Return the error for a line.

        Args:
            line: its number, from 1.
            why: what is wrong with it.
        """
        text = self.text.split("\n")[line - 1].strip() if self.shown else "(not shown)"
        text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
        text = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
        return SettingsError(
            f"Cannot use the Dicefile {self.path}",
            details=f"{self.path}, line {line}: {text}\n{why}\n{_UNDERSTOOD}",
            resolution="A Dicefile is read without running Ruby. Write the line in one of these "
            "ways; or put what it means into invoke.yaml, and remove the Dicefile.",
        )


@dataclass(frozen=True)
class Given:
    """The value of an assignment, where it stands, and whether it is a symbol such as :DOCKER."""

    value: str
    line: int
    symbol: bool = False


def assignments(source: Source, *, home: str | None) -> dict[str, Given]:
    """Return what a Dicefile assigns, by key.

    Args:
        source: the Dicefile; without control characters but tab and newline.
        home: what ``ENV["HOME"]`` stands for; None where there is no such folder.

    Raises:
        SettingsError: there is something in it that is not understood.
    """
    return _Parser(source, home, tuple(_tokens(source))).file()


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    line: int


def _tokens(source: Source) -> Iterator[_Token]:
    at, line = 0, 1
    while at < len(source.text):
        match = _TOKEN.match(source.text, at)
        if match is None:
            raise source.refused(line, _unread(source.text[at]))
        kind = str(match.lastgroup)
        if kind != "space":
            yield _Token(kind, match[kind], line)
        line += kind == "line"
        at = match.end()
    # The last line may lack its newline.
    yield _Token("line", "", source.text.count("\n") + 1)
    yield _Token("end of file", "", source.text.count("\n") + 1)


def _unread(char: str) -> str:
    if char in "\"'":
        return "This string has no end, or more in it than plain text and #{ENV['HOME']}."
    return f"{char if char.isprintable() else ascii(char)[1:-1]} is not understood here."


@dataclass
class _Parser:
    """Reads tokens from left to right; each method takes those of what it is named after."""

    source: Source
    home: str | None
    tokens: tuple[_Token, ...]
    at: int = 0
    found: dict[str, Given] = field(default_factory=dict)

    def file(self) -> dict[str, Given]:
        self.lines()
        if self.next.kind != "end of file":
            self.block()
            self.lines()
        if self.next.kind != "end of file":
            raise self.refused("Nothing may follow the block.")
        return self.found

    def block(self) -> None:
        first = self.next.line
        for kind, text in (("name", "Dice"), ("mark", "."), ("name", "configure"), ("name", "do")):
            self.take(kind, text, "Dice.configure do |config|")
        self.take("mark", "|", "Dice.configure do |config|")
        variable = self.take("name", None, "the block's variable").text
        self.take("mark", "|", "Dice.configure do |config|")
        self.take("line", None, "a new line")
        self.lines()
        while (self.next.kind, self.next.text) != ("name", "end"):
            if self.next.kind == "end of file":
                raise self.refused(f"The block that begins in line {first} has no end.")
            self.assignment(variable)
            self.lines()
        self.at += 1
        self.take("line", None, "nothing after end")

    def assignment(self, variable: str) -> None:
        self.take("name", variable, f"{variable}. or end")
        self.take("mark", ".", f"{variable}.")
        key = self.take("name", None, "the name of a setting")
        if key.text not in KEYS:
            raise self.source.refused(key.line, unknown(key.text, KEYS))
        if key.text in self.found:
            before = self.found[key.text].line
            raise self.source.refused(key.line, f"{key.text} was set in line {before} already.")
        self.take("mark", "=", f"{key.text} =")
        self.lines()
        self.found[key.text] = self.value(key.text)
        self.take("line", None, "nothing after the value")

    def value(self, key: str) -> Given:
        first = self.next
        if key == "ssh_private_key":
            return Given(self.path(self.sum(), first), first.line)
        if first.kind == "symbol" and key == "buildhost":
            self.at += 1
            return Given(first.text, first.line, symbol=True)
        # A stranger's file must not carry what our environment holds into the name of a machine.
        if first.kind == "double" and any(part["home"] for part in _PART.finditer(first.text)):
            raise self.refused(f"{key} must be plain text.")
        if first.kind not in ("single", "double"):
            raise self.refused(f"{key} must be text in quotes.")
        return Given(self.term(0), first.line)

    def sum(self, depth: int = 0) -> str:
        text = self.term(depth)
        while (self.next.kind, self.next.text) == ("mark", "+"):
            self.at += 1
            self.lines()
            text += self.term(depth)
        return text

    def term(self, depth: int) -> str:
        token = self.next
        self.at += 1
        if token.kind == "single":
            return re.sub(r"\\(['\\])", r"\1", token.text)
        if token.kind == "double":
            return _PART.sub(
                lambda part: self.home_folder(token) if part["home"] else part["escaped"],
                token.text,
            )
        if token.kind == "home":
            return self.home_folder(token)
        if token.kind == "call" and depth < _DEEPEST:
            return self.call(token, depth + 1)
        raise self.source.refused(token.line, "Here must be a path.")

    def call(self, token: _Token, depth: int) -> str:
        self.lines()
        parts = [self.sum(depth)]
        while (self.next.kind, self.next.text) == ("mark", ",") and "join" in token.text:
            self.at += 1
            self.lines()
            parts.append(self.sum(depth))
        self.lines()
        self.take("mark", ")", ")")
        if "join" in token.text:
            return _joined(parts)
        return os.path.normpath(self.path(parts[0], token))

    def path(self, text: str, token: _Token) -> str:
        """Return what a path in the Dicefile stands for; ssh reads "~/" as Ruby does."""
        if text == "~" or text.startswith("~/"):
            return self.home_folder(token) + text[1:]
        if not text or text.startswith("~"):
            raise self.source.refused(token.line, "Here must be a path.")
        return str(self.source.path.parent / text)

    def home_folder(self, token: _Token) -> str:
        if self.home is None:
            raise self.source.refused(token.line, "HOME in the environment is no absolute path.")
        return self.home

    def lines(self) -> None:
        while self.next.kind == "line":
            self.at += 1

    @property
    def next(self) -> _Token:
        return self.tokens[self.at]

    def take(self, kind: str, text: str | None, expected: str) -> _Token:
        token = self.next
        if token.kind != kind or text not in (None, token.text):
            raise self.refused(f"Expected here: {expected}")
        self.at += 1
        return token

    def refused(self, why: str) -> SettingsError:
        return self.source.refused(self.next.line, why)


def _joined(parts: list[str]) -> str:
    """Join as Ruby's ``File.join`` does: one slash between two parts, whatever they bring."""
    whole = parts[0]
    for part in parts[1:]:
        whole = f"{whole.rstrip('/')}/{part.lstrip('/')}"
    return whole
