"""Finds the main file of a KIWI description and puts its includes in their places.

What KIWI takes as a description was learned by running kiwi-ng 11.1.6 and reading its
``tasks/base.py``, ``markup/base.py`` and ``xsl/include.xsl``. What the elements mean is not looked
at here.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lxml import etree

from vagrant_kiwi.description_markup import Markup, forget_lines, markup_of, parse, read_bytes
from vagrant_kiwi.errors import DescriptionError

# What libxslt's document() takes as a URI; anything else it refuses, and it drops a "#" silently.
_REFERENCE = re.compile(r"[A-Za-z0-9._~:/@!$&'()*+,;=%-]+")


@dataclass(frozen=True)
class Include:
    """An ``<include>`` of a description: the reference as written and the file it names."""

    reference: str
    path: Path


@dataclass(frozen=True)
class Source:
    """A description file that was read.

    ``root`` is the ``<image>`` element with the content of every include in its place.
    ``plain`` says that KIWI reads the file as it is: XML, in one file, that its name does not hide.
    """

    file: Path
    markup: Markup
    root: etree._Element = field(repr=False, compare=False)
    includes: tuple[Include, ...]
    plain: bool


def find(folder: Path, kiwi_file: str | None) -> Path:
    """Find the main file of a description, in the order of KIWI's ``load_xml_description``.

    Args:
        folder: the description, or its main file itself.
        kiwi_file: name of the main file, relative to the folder.

    Returns:
        Absolute path of an existing regular file.

    Raises:
        DescriptionError: no such folder or file, or KIWI would have to choose between several.
    """
    folder = folder.absolute()
    try:
        if folder.is_file():
            return _main_file(folder, kiwi_file)
        return _search(folder, kiwi_file, sorted(entry.name for entry in folder.iterdir()))
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise DescriptionError(
            f"There is no description {folder}",
            resolution="Name the folder that holds config.xml or a *.kiwi file.",
        ) from error
    except OSError as error:
        raise DescriptionError(
            f"The description {folder} cannot be read", details=error.strerror or str(error)
        ) from error


def load(file: Path) -> Source:
    """Read a description file and put the content of its includes in their places.

    As in KIWI 11.1.6 the markup of the main file is free, an included file is XML with the root
    ``<image>``, and an included file cannot include another one.

    Args:
        file: absolute path of the main file.

    Raises:
        DescriptionError: the file cannot be read, or KIWI could not read it either.
    """
    data = read_bytes(file)
    markup = markup_of(file, data)
    root = parse(file, data)
    includes = []
    for element in root.findall("include"):
        include = _resolve(file, element)
        for child in _included(file, include).iterchildren(tag=etree.Element):
            inlined = copy.deepcopy(child)
            forget_lines(inlined)
            element.addprevious(inlined)
        _drop(element)
        includes.append(include)
    plain = markup == "xml" and not includes and not hides_xml(file.name)
    plain = plain and data.lstrip().startswith(b"<")  # a byte order mark confuses anymarkup
    return Source(file=file, markup=markup, root=root, includes=tuple(includes), plain=plain)


def as_xml(root: etree._Element) -> bytes:
    """Return the document as XML that KIWI reads under the names ``*.xml`` and ``*.kiwi``."""
    return etree.tostring(root.getroottree(), encoding="utf-8", xml_declaration=True)


def hides_xml(name: str) -> bool:
    """Tell whether KIWI may take XML under this name for something else.

    anymarkup-core 0.8.1, KIWI's reader for other markups, goes by these endings first.
    """
    return Path(name).suffix in {".yaml", ".yml", ".json", ".json5", ".toml", ".ini"}


def place(file: Path, element: etree._Element) -> str:
    """Return where an element stands, for an error's details."""
    line = element.sourceline
    return f"{file}, <{element.tag!s}>" + (f" in line {line}" if line else "")


def _search(folder: Path, kiwi_file: str | None, names: Sequence[str]) -> Path:
    if kiwi_file is not None:
        return _named_file(folder, kiwi_file, names)
    for name in ("config.xml", "image/config.xml"):
        if (folder / name).is_file():
            return folder / name
    matches = [name for name in names if name.endswith(".kiwi") and not name.startswith(".")]
    matches = [name for name in matches if (folder / name).is_file()]
    if not matches:
        raise DescriptionError(
            f"{folder} holds no KIWI description",
            details=_listing(names),
            resolution="KIWI looks for config.xml, image/config.xml or *.kiwi; "
            "name another file with --kiwi-file.",
        )
    if len(matches) > 1:
        raise DescriptionError(
            f"{folder} holds several descriptions",
            details=_listing(matches),
            resolution="Choose one with --kiwi-file, for instance "
            f"--kiwi-file={matches[0]}; KIWI alone would take the first.",
        )
    return folder / matches[0]


def _main_file(file: Path, kiwi_file: str | None) -> Path:
    if kiwi_file not in (None, file.name):
        raise DescriptionError(
            f"{file} is a file, and --kiwi-file names another one",
            details=f"--kiwi-file={kiwi_file}",
            resolution="Name the folder, or leave --kiwi-file out.",
        )
    return file


def _named_file(folder: Path, kiwi_file: str, names: Sequence[str]) -> Path:
    if not kiwi_file or Path(kiwi_file).is_absolute() or ".." in Path(kiwi_file).parts:
        raise DescriptionError(
            f"--kiwi-file={kiwi_file} is not a file name",
            resolution=f"Name a file inside {folder}, without '..'.",
        )
    if not (folder / kiwi_file).is_file():
        raise DescriptionError(
            f"{folder} holds no file {kiwi_file}",
            details=_listing(names),
            resolution="Correct --kiwi-file.",
        )
    return folder / kiwi_file


def _listing(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) if not name.isprintable() else name for name in names[:20])
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return f"Found: {shown}{more}" if names else "The folder is empty"


def _resolve(file: Path, element: etree._Element) -> Include:
    """Find the file of an include, by the rules of KIWI's ``FileResolver``.

    ``this://`` and a bare path start at the folder of the main file. ``file://a/b`` starts at the
    folder KIWI runs in; we take the description's. An absolute path is a file, whatever its scheme.
    """
    reference = element.get("from") or ""
    where = place(file, element)
    if not _REFERENCE.fullmatch(reference):
        raise DescriptionError(
            "An include names no file that KIWI can read",
            details=f"{where}: {reference!r}",
            resolution="Write this:// and a path of letters, digits, '.', '_', '/' and '-'.",
        )
    scheme, separator, rest = reference.partition("://")
    if not separator:
        path = Path(re.sub(r"^[A-Za-z][A-Za-z0-9+.-]*:(?=/)", "", reference))
    elif scheme == "this" or rest.startswith("/") or (scheme == "file" and "/" in rest):
        path = Path(rest)
    else:
        raise DescriptionError(
            f"KIWI cannot find the include {reference}",
            details=where,
            resolution=f"Write this://{rest} for a file beside {file.name}.",
        )
    return Include(reference=reference, path=(file.parent / path).resolve())


def _included(file: Path, include: Include) -> etree._Element:
    if not include.path.is_file():
        raise DescriptionError(
            f"The included file {include.path} does not exist",
            details=f"{file}: {include.reference}",
            resolution="this:// starts at the folder of the main file.",
        )
    data = read_bytes(include.path)
    if markup_of(include.path, data) != "xml":
        raise DescriptionError(
            f"The included file {include.path} is not XML",
            details=f"{file}: {include.reference}; KIWI includes only XML, "
            "whatever the markup of the main file is.",
        )
    part = parse(include.path, data)
    nested = part.find("include")
    if nested is not None:
        same = (include.path.parent / (nested.get("from") or "").removeprefix("this://")).resolve()
        raise DescriptionError(
            "An include includes itself"
            if same in (include.path, file.resolve())
            else "KIWI does not support an include inside an included file",
            details=f"{place(include.path, nested)}: {nested.get('from')}",
            resolution=f"Put every <include> into {file.name}.",
        )
    return part


def _drop(element: etree._Element) -> None:
    """Remove an element but keep the text after it."""
    parent = element.getparent()
    if parent is not None:
        before = element.getprevious()
        tail = element.tail or ""
        if before is not None:
            before.tail = (before.tail or "") + tail
        else:
            parent.text = (parent.text or "") + tail
        parent.remove(element)
