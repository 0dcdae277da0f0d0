"""KIWI's wheels for a build box."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.unit.box_fakes import LOCK, NAME, Scripted, VariantPip, option, pip, said, soon
from vagrant_kiwi import box_lock, box_recipe, box_wheels
from vagrant_kiwi.errors import BoxError, PhaseTimeoutError
from vagrant_kiwi.process import (
    CommandResult,
    CommandTimeoutError,
    Runner,
)


def test_a_lock_is_split_with_its_hashes() -> None:
    assert box_lock.split_lock(LOCK) == {
        "kiwi": "kiwi==11.1.6 --hash=sha256:aa --hash=sha256:bb",
        "lxml": "lxml==6.1.3 --hash=sha256:cc",
        "poetry-core": "Poetry-Core==2.5.0 --hash=sha256:dd",
    }


def wheels(recipe: box_recipe.Recipe, runner: Runner, cache: Path, log: list[str]) -> Path:
    return box_wheels.ensure_wheels(recipe, runner, cache=cache, log=log.append, deadline=soon())


def test_wheels_are_made_once_for_the_boxes_python(
    recipe: box_recipe.Recipe, tmp_path: Path
) -> None:
    runner = Scripted({}, pip)
    made = wheels(recipe, runner, tmp_path / "cache", [])
    assert sorted(path.name for path in made.iterdir()) == [
        "kiwi-1-py3-none-any.whl",
        "lxml-1-py3-none-any.whl",
    ]
    install, download, wheel = runner.ran
    assert option(download, "--python-version") == "3.11"
    assert [word for word in download if word.startswith("--platform")] == [
        "--platform=manylinux_2_20_x86_64",
        "--platform=manylinux_2_19_x86_64",
        "--platform=manylinux_2_18_x86_64",
        "--platform=manylinux_2_17_x86_64",
        "--platform=manylinux2014_x86_64",
    ]
    assert install[3] == "install"
    assert "--no-build-isolation" in wheel
    assert wheels(recipe, runner, tmp_path / "cache", []) == made
    assert len(runner.ran) == 3
    assert [path.name for path in (tmp_path / "cache/wheels").iterdir()] == [made.name]


def test_another_lock_or_python_has_other_wheels(folder: Path, tmp_path: Path) -> None:
    made = set()
    for old, new in (("", ""), ('"3.11"', '"3.13"'), ('"2.20"', '"2.41"')):
        path = folder / "box.toml"
        path.write_text(path.read_text().replace(old, new))
        recipe = box_recipe.load_recipe(folder, arch="amd64")
        made.add(wheels(recipe, Scripted({}, pip), tmp_path, []))
    (folder / "kiwi.lock").write_text(LOCK.replace("6.1.3", "6.1.4"))
    recipe = box_recipe.load_recipe(folder, arch="amd64")
    made.add(wheels(recipe, Scripted({}, pip), tmp_path, []))
    assert len(made) == 4


def test_a_failing_pip_is_exit_5_and_leaves_nothing(
    recipe: box_recipe.Recipe, tmp_path: Path
) -> None:
    def fails(argv: Sequence[str], options: Mapping[str, Any]) -> CommandResult:
        if argv[3] == "wheel":
            return said("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES\n", 1)
        return pip(argv, options)

    log: list[str] = []
    with pytest.raises(BoxError, match="DO NOT MATCH THE HASHES") as caught:
        wheels(recipe, Scripted({}, fails), tmp_path, log)
    assert caught.value.code == 5
    assert "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES" in log
    assert list((tmp_path / "wheels").iterdir()) == []


def test_a_missing_wheel_is_noticed(recipe: box_recipe.Recipe, tmp_path: Path) -> None:
    with pytest.raises(BoxError, match="one wheel for each package"):
        wheels(recipe, Scripted({}, lambda argv, options: said("")), tmp_path, [])


def test_a_source_package_without_a_pin_is_noticed(folder: Path, tmp_path: Path) -> None:
    (folder / "kiwi.lock").write_text("lxml==1 --hash=sha256:aa\n")
    recipe = box_recipe.load_recipe(folder, arch="amd64")
    with pytest.raises(BoxError, match="does not pin kiwi, poetry-core"):
        wheels(recipe, Scripted({}), tmp_path, [])


def test_a_slow_pip_is_exit_124(recipe: box_recipe.Recipe, tmp_path: Path) -> None:
    def slow(argv: Sequence[str], options: Mapping[str, Any]) -> Exception:
        return CommandTimeoutError(argv, 60, b"Collecting lxml\n")

    with pytest.raises(PhaseTimeoutError, match="Collecting lxml") as caught:
        wheels(recipe, Scripted({}, slow), tmp_path, [])
    assert caught.value.code == 124


# --- Another version of KIWI -------------------------------------------------------------------


def variant(folder: Path, version: str = "11.0.5") -> box_recipe.Recipe:
    return box_recipe.find_recipe(NAME, kiwi_version=version, boxes=folder.parent, arch="amd64")


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_another_kiwi_is_pinned_once_and_required_from_then_on(
    folder: Path, tmp_path: Path
) -> None:
    said_by = VariantPip()
    runner = Scripted({}, said_by)
    made = wheels(variant(folder), runner, tmp_path, [])
    assert sorted(path.name for path in made.iterdir()) == [
        "docopt-ng-1-py3-none-any.whl",
        "kiwi-1-py3-none-any.whl",
        "lxml-1-py3-none-any.whl",
    ]
    assert said_by.constraints == ["lxml==6.1.3", "poetry-core==2.5.0"]
    record = made.with_name(f"{made.name}.lock")
    assert record.read_text().splitlines() == [
        f"docopt-ng==0.9.0 --hash=sha256:{digest(b'docopt')}",
        f"kiwi==11.0.5 --hash=sha256:{digest(b'source')}",
        # It is what the recipe's lock pins, so all hashes of that hold.
        "lxml==6.1.3 --hash=sha256:cc",
    ]
    assert wheels(variant(folder), Scripted({}), tmp_path, []) == made

    # Made again, it takes nothing but what the record says, as the default box does from its lock.
    for path in made.iterdir():
        path.unlink()
    made.rmdir()
    seen: dict[str, str] = {}

    def reads(argv: Sequence[str], options: Mapping[str, Any]) -> CommandResult:
        seen[argv[3]] = Path(option(argv, "-r")).read_text()
        return pip(argv, options)

    assert wheels(variant(folder), Scripted({}, reads), tmp_path, []) == made
    lines = record.read_text().splitlines()
    assert seen["download"].splitlines() == [lines[0], lines[2]]
    assert seen["wheel"].splitlines() == [lines[1]]


def test_each_kiwi_has_its_own_wheels(folder: Path, tmp_path: Path) -> None:
    default = box_recipe.load_recipe(folder, arch="amd64")
    made = {
        wheels(default, Scripted({}, pip), tmp_path, []),
        wheels(variant(folder), Scripted({}, VariantPip()), tmp_path, []),
        wheels(variant(folder, "11.0.4"), Scripted({}, VariantPip()), tmp_path, []),
    }
    assert len(made) == 3
    assert all(path.is_dir() for path in made)


def test_a_pin_that_does_not_fit_is_left_out(folder: Path, tmp_path: Path) -> None:
    said_by = VariantPip(unfit=["lxml"])
    made = wheels(variant(folder), Scripted({}, said_by), tmp_path, [])
    assert said_by.constraints == ["poetry-core==2.5.0"]
    record = made.with_name(f"{made.name}.lock").read_text()
    assert f"lxml==5.0 --hash=sha256:{digest(b'lxml')}\n" in record


def test_a_conflict_that_no_pin_causes_is_exit_5(folder: Path, tmp_path: Path) -> None:
    said_by = VariantPip()

    def conflicts(argv: Sequence[str], options: Mapping[str, Any]) -> CommandResult:
        if any(word.startswith("--constraint=") for word in argv):
            return said("ERROR: ResolutionImpossible\n", 1)
        return said_by(argv, options)

    with pytest.raises(BoxError, match="ResolutionImpossible"):
        wheels(variant(folder), Scripted({}, conflicts), tmp_path, [])
    assert list((tmp_path / "wheels").iterdir()) == []


def test_an_unknown_version_is_exit_5_with_the_nearest(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BoxError) as caught:
        wheels(variant(folder, "11.1.999"), Scripted({}, VariantPip()), tmp_path, [])
    assert caught.value.code == 5
    assert caught.value.brief == (
        "There is no KIWI 11.1.999 for Python 3.11, which the build box has"
    )
    # Not 9.9.9: a box cannot have it.
    assert caught.value.details == "the nearest that exist: 11.0.4, 11.0.5, 11.1.6"
    assert list((tmp_path / "wheels").iterdir()) == []


def test_without_an_index_no_version_is_called_unknown(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BoxError) as caught:
        wheels(variant(folder), Scripted({}, VariantPip(known="none")), tmp_path, [])
    assert caught.value.code == 5
    assert caught.value.brief == "KIWI's wheels for the build box cannot be fetched or made"
    assert "from versions: none" in caught.value.details
    assert "pip reaches its index" in caught.value.resolution
