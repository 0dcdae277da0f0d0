"""What box-list shows a person."""

from __future__ import annotations

from typing import Any

import pytest

from vagrant_kiwi import box_table


def installed(**more: Any) -> dict[str, Any]:
    return {
        "version": "1",
        "digest": "a" * 64,
        "kiwi": "11.1.6",
        "size": 454_300_000,
        "age_seconds": 200_000,
        "outdated": False,
        "used_by": [],
        **more,
    }


def row(name: str, *boxes: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "provider": "docker",
        "about": "a box",
        "builds": ["bookworm"],
        "problem": None,
        "installed": list(boxes),
        **more,
    }


def test_a_line_for_each_version_and_one_for_what_is_not_there(
    capsys: pytest.CaptureFixture[str],
) -> None:
    used = ["run 20260101-000000-abcdef", "container with a name that is really long"]
    box_table.print_boxes(
        {
            "boxes": [
                row("one", installed(), installed(outdated=True, used_by=used)),
                row("two"),
                row("three", installed(version="", kiwi=None), about="", builds=[]),
            ]
        }
    )
    out, errors = capsys.readouterr()
    assert errors == ""
    lines = out.splitlines()
    assert lines == [line.rstrip() for line in lines]
    assert [line.split()[0] for line in lines] == ["NAME", "one", "one", "two", "three"]
    words = "one docker bookworm 1 11.1.6 454.3 MB 2 days current"
    assert lines[1].split() == words.split()
    assert lines[2].endswith(f"outdated       {', '.join(used)}"), "one line, however long"
    assert lines[3].split() == ["two", "docker", "bookworm", "-", "-", "-", "-", "not", "installed"]
    words = "three docker - aaaaaaaaaaaa - 454.3 MB 2 days imported"
    assert lines[4].split() == words.split()


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "now"),
        (59, "now"),
        (60, "1 minute"),
        (7200, "2 hours"),
        (86399, "23 hours"),
        (86400, "1 day"),
    ],
)
def test_an_age_has_the_largest_unit_that_fits(seconds: int, said: str) -> None:
    assert box_table.age(seconds) == said
