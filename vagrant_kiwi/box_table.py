"""The answer of ``box-list`` as a table for a person."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console as RichConsole
from rich.filesize import decimal
from rich.table import Table

#: Columns of a stream that is no terminal: lines must not be broken there.
_WIDE = 400
_UNITS = ((86400, "day"), (3600, "hour"), (60, "minute"))


def print_boxes(answer: Mapping[str, Any]) -> None:
    """Print a line for each installed version, and for each box of the catalogue that is not there.

    Args:
        answer: of ``box_admin.overview``.
    """
    console = RichConsole(file=sys.stdout, highlight=False)
    if not console.is_terminal:
        console = RichConsole(file=sys.stdout, highlight=False, width=_WIDE)
    table = Table(box=None, pad_edge=False, show_edge=False)
    for title in ("NAME", "PROVIDER", "FOR", "VERSION"):
        table.add_column(title, no_wrap=title != "FOR")
    table.add_column("SIZE", justify="right", no_wrap=True)
    table.add_column("AGE", justify="right", no_wrap=True)
    for title in ("STATE", "USED BY"):
        table.add_column(title)
    for row in answer["boxes"]:
        for cells in _lines(row):
            table.add_row(*cells)
    console.print(table)


def _lines(row: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    builds = ", ".join(row["builds"]) or "-"
    known = bool(row["about"])
    if not row["installed"]:
        yield (row["name"], row["provider"], builds, "-", "-", "-", "not installed", "")
    for one in row["installed"]:
        state = "outdated" if one["outdated"] else "current" if known else "imported"
        yield (
            row["name"],
            row["provider"],
            builds,
            _version(one),
            decimal(one["size"]),
            age(one["age_seconds"]),
            state,
            ", ".join(one["used_by"]),
        )


def _version(one: Mapping[str, Any]) -> str:
    kiwi = f" (KIWI {one['kiwi']})" if one["kiwi"] else ""
    return f"{one['version'] or one['digest'][:12]}{kiwi}"


def age(seconds: int) -> str:
    """Return an age in the largest unit that fits.

    Args:
        seconds: how old something is.
    """
    for size, name in _UNITS:
        count = seconds // size
        if count:
            return f"{count} {name}{'s' if count > 1 else ''}"
    return "now"
