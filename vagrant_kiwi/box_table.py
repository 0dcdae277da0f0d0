"""The answer of ``box-list`` as a table for a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console as RichConsole
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

#: Wider than any line: a terminal breaks long lines by itself, and better than a table's cells.
_WIDE = 1000
_UNITS = ((86400, "day"), (3600, "hour"), (60, "minute"))


def print_boxes(answer: Mapping[str, Any]) -> None:
    """Print a line for each installed version, and for each box of the catalogue that is not there.

    Args:
        answer: of ``box_admin.overview``.
    """
    table = Table(box=None, pad_edge=False, show_edge=False, padding=(0, 2, 0, 0))
    for title in ("NAME", "PROVIDER", "FOR", "VERSION", "KIWI", "SIZE", "AGE", "STATE", "USED BY"):
        table.add_column(title, justify="right" if title in ("SIZE", "AGE") else "left")
    for row in answer["boxes"]:
        for cells in _lines(row):
            table.add_row(*(escape(cell) for cell in cells))
    console = RichConsole(width=_WIDE, color_system=None)
    with console.capture() as capture:
        console.print(table)
    for line in capture.get().splitlines():
        print(line.rstrip())


def _lines(row: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    builds = ", ".join(row["builds"]) or "-"
    known = "current" if row["about"] else "imported"
    if not row["installed"]:
        state = "damaged" if row["problem"] else "not installed"
        yield (row["name"], row["provider"], builds, "-", "-", "-", "-", state, "")
    for one in row["installed"]:
        state = "damaged" if row["problem"] else "outdated" if one["outdated"] else known
        yield (
            row["name"],
            row["provider"],
            builds,
            one["version"] or one["digest"][:12],
            one["kiwi"] or "-",
            decimal(one["size"]),
            age(one["age_seconds"]),
            state,
            ", ".join(one["used_by"]),
        )


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
