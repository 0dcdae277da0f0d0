"""Catalogue and installed boxes side by side: which are outdated, and where they come from."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from vagrant_kiwi import box_stores, catalog
from vagrant_kiwi.box_installed import Installed
from vagrant_kiwi.box_stores import Boxes, Row
from vagrant_kiwi.errors import BoxError, PreflightError

DAY = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
SUM = "a" * 64


def installed(digest: str, *, age: int = 0, origin: str = "recipe") -> Installed:
    return Installed(
        name="x",
        kind="docker",
        version="1",
        image=f"vagrant-kiwi/x:{digest}",
        content=f"sha256:{digest}",
        digest=digest,
        size=1,
        created=DAY - datetime.timedelta(days=age),
        kiwi=None,
        origin=origin,
        users=(),
    )


def row(
    *boxes: Installed,
    source: catalog.Source | None = None,
    current: str | None = None,
    problem: str = "",
) -> Row:
    return Row("x", "docker", "", (), source, None, current, boxes, problem)


NEW, OLD = installed("new"), installed("old", age=1)


def test_outdated_is_what_a_build_would_not_take() -> None:
    # Where the newest version must have a digest, that counts, whatever is younger.
    assert [row(NEW, OLD, current="old").outdated(one) for one in (NEW, OLD)] == [True, False]
    assert [row(NEW, OLD, current="other").outdated(one) for one in (NEW, OLD)] == [True, True]
    # Where that is not known, all but the youngest one.
    assert [row(NEW, OLD).outdated(one) for one in (NEW, OLD)] == [False, True]


def test_of_a_damaged_entry_nothing_is_outdated() -> None:
    damaged = row(NEW, OLD, problem="no box.toml")
    assert [damaged.outdated(one) for one in (NEW, OLD)] == [False, False]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (catalog.Source(provider="docker", recipe=Path("/site/x")), "recipe"),
        (catalog.Source(provider="docker", image="r.example.com/x:1"), "r.example.com/x:1"),
        (
            catalog.Source(provider="docker", url="http://joe:pw@x/a.tar?t=pw", sha256=SUM),
            "http://***@x/a.tar?***",
        ),
        (catalog.Source(provider="docker", file=Path("/a.tar"), sha256=SUM), "/a.tar"),
    ],
)
def test_where_it_comes_from_is_what_the_catalogue_says(source: catalog.Source, said: str) -> None:
    assert row(installed("a", origin="elsewhere"), source=source).origin == said


def test_where_an_imported_box_came_from_is_what_it_says_itself() -> None:
    assert row(installed("a", origin="/home/a.tar")).origin == "/home/a.tar"


def test_who_was_asked_for_must_have_answered() -> None:
    boxes = Boxes((), {"docker": "no socket"})
    boxes.must_answer(("libvirt",))
    with pytest.raises(PreflightError) as caught:
        boxes.must_answer(box_stores.KINDS)
    assert caught.value.details == "no socket"
    assert caught.value.resolution == "Mend that, or leave it out: --provider=libvirt."
    neither = Boxes((), {"docker": "no socket", "libvirt": "no socket"})
    assert neither.unanswered("libvirt").resolution == "Mend that."


def test_what_is_not_installed_is_not_named() -> None:
    there, missing = row(NEW), row()
    assert Boxes((there, missing), {}).named("x") == [there]
    assert Boxes((there, missing), {}).named("y") == []


def test_the_kinds_of_guest_that_a_task_looks_at() -> None:
    assert box_stores.kinds(None) == ("docker", "libvirt")
    assert box_stores.kinds("docker-direct") == ("docker",)
    with pytest.raises(BoxError, match="host has no build boxes"):
        box_stores.kinds("host")
