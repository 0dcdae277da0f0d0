"""Turns the text of a KIWI description, whatever its markup, into one XML tree.

KIWI reads YAML, TOML and JSON through anymarkup-core and xmltodict, when those are installed; the
rules here are theirs, learned by running kiwi-ng 11.1.6 with them. What KIWI's readers would do
with a hostile file (entities, aliases, depth) ends here as a ``DescriptionError``.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Final, Literal
from xml.sax.saxutils import escape, quoteattr

import yaml
from lxml import etree

from vagrant_kiwi.errors import DescriptionError

Markup = Literal["xml", "yaml", "toml", "json"]

#: A description is text written by a person; larger files are refused before they are parsed.
MAX_BYTES: Final = 4 * 1024 * 1024

#: Deepest nesting of a YAML, TOML or JSON description; KIWI's schema needs less than ten.
MAX_DEPTH: Final = 64

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*(?::[A-Za-z_][A-Za-z0-9_.-]*)?")
_TOML_LINE = re.compile(r"""\[|(?:[\w.@-]|"[^"]*"|'[^']*')+\s*=""")


def read_bytes(file: Path) -> bytes:
    """Return the content of a regular file of at most ``MAX_BYTES``.

    Raises:
        DescriptionError: it cannot be read, is too large, or is a pipe, device or folder.
    """
    try:
        # A pipe or device would block or never end; is_file follows symlinks, as KIWI does.
        if not file.is_file():
            raise DescriptionError(f"{file} is not a regular file")
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise DescriptionError(
            f"{file} cannot be read", details=error.strerror or str(error)
        ) from error
    if len(data) > MAX_BYTES:
        raise DescriptionError(
            f"{file} is too large for a description",
            details=f"The limit is {MAX_BYTES // 1024 // 1024} MiB",
        )
    return data


def markup_of(file: Path, data: bytes) -> Markup:
    """Tell the markup, by the content first and by the ending where that is not enough.

    KIWI's own rule is the other way round, and depends on what is installed beside it.
    """
    start = data.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith((b"<", b"\xff\xfe", b"\xfe\xff")):
        return "xml"
    if start.startswith(b"{"):
        return "json"
    if file.suffix == ".toml":
        return "toml"
    if file.suffix in {".yaml", ".yml"}:
        return "yaml"
    for line in start.decode("utf-8", "replace").splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            return "toml" if _TOML_LINE.match(line.lstrip()) else "yaml"
    return "yaml"


def parse(file: Path, data: bytes) -> etree._Element:
    """Return the root element of the document, ``<image>``.

    Args:
        file: where the bytes come from, for messages and for its ending.
        data: the content.

    Raises:
        DescriptionError: it is broken (with line and column), hostile, or no description.
    """
    markup = markup_of(file, data)
    root = _parse_xml(file, data) if markup == "xml" else _parse_mapping(file, data, markup)
    if root.tag != "image":
        raise DescriptionError(
            f"{file} is not a KIWI description",
            details=f"Its root element is <{root.tag!s}>, that of a description is <image>.",
        )
    return root


def _parse_xml(file: Path, data: bytes) -> etree._Element:
    # Entities are a way to read files of the host and to fill its memory; KIWI needs none.
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False
    )
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        if b"<!DOCTYPE" in data.replace(b"\0", b""):
            raise _doctype(file) from error
        line, column = error.position
        raise DescriptionError(
            f"{file} is not well-formed XML", details=f"Line {line}, column {column}: {error.msg}"
        ) from error
    except (ValueError, LookupError) as error:
        raise DescriptionError(f"{file} is not readable as XML", details=str(error)) from error
    if root.getroottree().docinfo.internalDTD is not None:
        raise _doctype(file)
    return root


def _doctype(file: Path) -> DescriptionError:
    return DescriptionError(
        f"{file} has a DOCTYPE, which is refused",
        details="Entities could read files of this host or fill its memory.",
        resolution="Remove the DOCTYPE; write text in place of entities and use <include>.",
    )


def _parse_mapping(file: Path, data: bytes, markup: Markup) -> etree._Element:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DescriptionError(
            f"{file} is not UTF-8 text", details=f"Byte {error.start} cannot be decoded"
        ) from error
    try:
        tree = _tree(text, markup)
    except RecursionError as error:
        raise DescriptionError(f"{file} is nested too deep") from error
    except yaml.YAMLError as error:
        raise DescriptionError(f"{file} is not valid YAML", details=_yaml_detail(error)) from error
    except tomllib.TOMLDecodeError as error:
        raise DescriptionError(f"{file} is not valid TOML", details=str(error)) from error
    except ValueError as error:  # also a date that does not exist, in YAML
        brief = f"{file} is not valid {markup.upper()}"
        raise DescriptionError(brief, details=str(error)) from error
    if not isinstance(tree, dict):
        raise DescriptionError(
            f"{file} is not a KIWI description",
            details=f"Its top level is {type(tree).__name__}, not a mapping with the key 'image'.",
        )
    try:
        document = _Unparser().document(tree)
    except RecursionError as error:
        raise DescriptionError(f"{file} is nested too deep") from error
    except ValueError as error:
        raise DescriptionError(f"{file} is not a KIWI description", details=str(error)) from error
    try:
        root = _parse_xml(file, document.encode("utf-8"))
    except (DescriptionError, UnicodeEncodeError) as error:
        raise DescriptionError(
            f"{file} holds characters that a description cannot have",
            details="KIWI turns it into XML, which has no control characters.",
        ) from error
    forget_lines(root)
    return root


def forget_lines(element: etree._Element) -> None:
    """Drop line numbers that are not those of the main file."""
    for inner in element.iter():
        inner.sourceline = 0  # type: ignore[misc]  # lxml can; its stubs do not know


def _tree(text: str, markup: Markup) -> object:
    if markup == "toml":
        return tomllib.loads(text)
    if markup == "json":
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            try:
                return yaml.safe_load(text)  # a YAML flow mapping starts alike
            except yaml.YAMLError:
                raise error from None
    return yaml.safe_load(text)


def _yaml_detail(error: yaml.YAMLError) -> str:
    """Say where YAML is wrong, without the words of the file: they may be a password."""
    mark = getattr(error, "problem_mark", None)
    problem = re.sub(r"'(?!<)[^']{2,}'", "'...'", str(getattr(error, "problem", "") or "")).strip()
    where = f"Line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return ": ".join(part for part in (where, problem) if part) or type(error).__name__


class _Unparser:
    """Writes a mapping as XML, by the rules of xmltodict, which KIWI's anymarkup uses.

    ``@name`` is an attribute, ``#text`` the text, a list repeats its element, true and false are
    written small, nothing is an empty element, an empty list is no element.
    """

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._spent = 0

    def document(self, tree: dict[object, object]) -> str:
        items = [(key, value) for key, value in tree.items() if key != "#comment"]
        if len(items) != 1 or isinstance(items[0][1], list):
            names = ", ".join(sorted(str(key) for key, _ in items)) or "nothing"
            raise ValueError(f"It needs exactly one top level key 'image'; found: {names}")
        self._element(*items[0], depth=0)
        return "".join(self._parts)

    def _spend(self, amount: int) -> None:
        # Aliases make a small YAML file stand for a huge tree, so count what is written.
        self._spent += amount
        if self._spent > MAX_BYTES:
            raise ValueError("It is too large when its aliases are written out")

    def _element(self, key: object, value: object, *, depth: int) -> None:
        if not isinstance(key, str) or not _NAME.fullmatch(key):
            raise ValueError(f"{key!r} cannot be the name of an element")
        if depth > MAX_DEPTH:
            raise ValueError("It is nested too deep")
        for item in value if isinstance(value, (list, set)) else [value]:
            content = item if isinstance(item, dict) else {"#text": item}
            self._spend(2 * len(key) + 5)
            self._parts.append(f"<{key}")
            for name, text in content.items():
                if isinstance(name, str) and name.startswith("@"):
                    self._attribute(name[1:], text)
            self._parts.append(">")
            for name, child in content.items():
                self._spend(16)  # an empty list writes nothing but costs time
                if name in ("#text", "#comment") or str(name).startswith("@"):
                    continue
                self._element(name, child, depth=depth + 1)
            self._text(content.get("#text"), key)
            self._parts.append(f"</{key}>")

    def _attribute(self, name: str, value: object) -> None:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot be the name of an attribute")
        text = quoteattr(_scalar(value, f"@{name}"))
        self._spend(len(name) + len(text) + 2)
        self._parts.append(f" {name}={text}")

    def _text(self, value: object, key: str) -> None:
        text = escape(_scalar(value, key))
        self._spend(len(text))
        self._parts.append(text)


def _scalar(value: object, name: str) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (dict, list, set)):
        raise ValueError(f"The value of '{name}' must be text, not {type(value).__name__}")
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
