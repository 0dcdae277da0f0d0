"""Versions of KIWI that a build box may have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vagrant_kiwi import box_versions
from vagrant_kiwi.errors import BoxError

NUMBERS = st.tuples(st.integers(8, 12), st.integers(0, 3), st.integers(0, 50))
VERSIONS = NUMBERS.map(lambda parts: ".".join(map(str, parts)))


@pytest.mark.parametrize("version", ["10.2.27", "10.3.0", "11.1.6", "12.0.0"])
def test_versions_that_a_box_may_have(version: str) -> None:
    box_versions.check(version)


@pytest.mark.parametrize("version", ["10.2.26", "10.1.99", "9.25.22", "0.0.0"])
def test_a_version_that_is_too_old_is_exit_5_with_the_oldest(version: str) -> None:
    with pytest.raises(BoxError, match="too old") as caught:
        box_versions.check(version)
    assert caught.value.code == 5
    assert caught.value.resolution == "The oldest that works is 10.2.27."


@pytest.mark.parametrize(
    "version",
    [
        *("", "11", "11.1", "11.1.6.0", "11.1.06", "v11.1.6", "11.1.6rc1", "11.1.*", ">=11.1.6"),
        *("11.1.6\n", " 11.1.6", "11.1.6 --pre", "11.1.6/..", "11.1.1234567", "11.1.\u0666"),
    ],
)
def test_other_words_are_no_versions(version: str) -> None:
    with pytest.raises(BoxError, match="is no version of KIWI"):
        box_versions.check(version)


@given(st.lists(NUMBERS))
def test_versions_are_ordered_by_number(parts: list[tuple[int, int, int]]) -> None:
    versions = [".".join(map(str, each)) for each in parts]
    assert sorted(versions, key=box_versions.order) == [
        ".".join(map(str, each)) for each in sorted(parts)
    ]


@pytest.mark.parametrize(
    ("version", "near"),
    [
        ("11.1.999", ["11.0.9", "11.0.10", "11.1.0", "11.1.1", "11.1.2"]),
        ("10.2.28", ["10.2.27", "10.2.30", "11.0.9", "11.0.10", "11.1.0"]),
        ("11.0.11", ["10.2.30", "11.0.9", "11.0.10", "11.1.0", "11.1.1"]),
    ],
)
def test_the_nearest_are_those_around_the_wanted_one(version: str, near: list[str]) -> None:
    known = ["10.2.26", "11.1.2", "11.0.10", "11.0.9", "10.2.27", "11.1.1rc1"]
    known += ["11.1.1", "10.2.30", "11.1.0", "none"]
    assert box_versions.nearest(version, known) == near


@given(VERSIONS, st.lists(VERSIONS), st.integers(1, 6))
def test_the_nearest_are_a_run_of_usable_versions(
    version: str, known: list[str], count: int
) -> None:
    found = box_versions.nearest(version, known, count=count)
    usable = sorted(
        {each for each in known if box_versions.order(each) >= (10, 2, 27)}, key=box_versions.order
    )
    assert len(found) == min(count, len(usable))
    start = usable.index(found[0]) if found else 0
    assert usable[start : start + count] == found
    # Nothing that was left out on one side is nearer than all that is named on that side.
    wanted = box_versions.order(version)
    below = [each for each in usable if box_versions.order(each) < wanted]
    if below and len(found) > 1:
        assert below[-1] in found
