"""KIWI's wheels for a build box, made on the host.

Inside the box pip may reach no index (a host with a proxy or a certificate authority of its own),
so the wheels are fetched here, for the box's Python, and installed there without a network. What
is published as source only becomes a wheel here: with build tools from the same lock file, so that
nothing is used whose hash is not in it.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path

from vagrant_kiwi import box_variant, state
from vagrant_kiwi.box_lock import split_lock
from vagrant_kiwi.box_pip import Pip, target_options
from vagrant_kiwi.box_recipe import Recipe, half_made
from vagrant_kiwi.deadline import Deadline
from vagrant_kiwi.errors import BoxError
from vagrant_kiwi.process import Runner


def ensure_wheels(
    recipe: Recipe,
    runner: Runner,
    *,
    cache: Path,
    log: Callable[[str], None],
    deadline: Deadline,
) -> Path:
    """Return a folder with the wheels of a box, fetching them if needed.

    They are those that the recipe's kiwi.lock names. A box with another version of KIWI has a lock
    file of its own, which is made once, in the cache.

    Args:
        recipe: the box they are for.
        runner: starts pip.
        cache: where they are kept; the folder appears whole or not at all.
        log: takes the lines of what happens.
        deadline: when they must be there.

    Raises:
        BoxError: pip cannot fetch or build one, a hash is wrong, or there is no such KIWI.
        PhaseTimeoutError: it takes too long.
    """
    facts = recipe.facts
    target = folder_of(recipe, cache)
    if target.is_dir():
        return target
    log("Fetching KIWI and what it needs")
    target.parent.mkdir(parents=True, exist_ok=True)
    pins = split_lock(recipe.lock.read_text("utf-8"))
    sources, tools = set(facts.source_packages), set(facts.build_packages)
    if missing := sorted((sources | tools) - pins.keys()):
        raise BoxError(
            f"The recipe of the build box {recipe.name} is damaged",
            details=f"kiwi.lock does not pin {', '.join(missing)}",
            resolution=f"Mend {recipe.lock}.",
        )
    with tempfile.TemporaryDirectory(prefix=half_made(recipe), dir=target.parent) as made:
        scratch = Path(made)
        pip = Pip(runner, scratch, log, deadline)
        pip.install_tools([pins[package] for package in sorted(tools)])
        if recipe.variant:
            wanted = _variant_pins(
                recipe, pins, pip, scratch, target.with_name(f"{target.name}.lock")
            )
        else:
            # The tools stay on the host.
            wanted = {package: pin for package, pin in pins.items() if package not in tools}
        wheels = scratch / "wheels"
        wheels.mkdir()
        pip.pinned(
            "download",
            *("--dest", str(wheels), "--only-binary=:all:"),
            *target_options(recipe),
            pins=[pin for package, pin in wanted.items() if package not in sources],
        )
        pip.build_wheels(wheels, [wanted[name] for name in sorted(sources & wanted.keys())])
        if len(list(wheels.glob("*.whl"))) != len(wanted):
            raise BoxError(
                "pip did not make one wheel for each package in the lock file",
                details=", ".join(sorted(path.name for path in wheels.iterdir())),
            )
        wheels.rename(target)
    return target


def folder_of(recipe: Recipe, cache: Path) -> Path:
    """Return where the wheels of a box are kept.

    Args:
        recipe: the box they are for.
        cache: the user's cache folder.
    """
    lock, facts = recipe.lock.read_text("utf-8"), recipe.facts
    key = hashlib.sha256(f"{lock}\n{recipe.arch} {facts.python} {facts.glibc}".encode())
    variant = f"-kiwi-{recipe.kiwi}" if recipe.variant else ""
    return cache / "wheels" / f"{key.hexdigest()[:16]}{variant}"


def _variant_pins(
    recipe: Recipe, pins: dict[str, str], pip: Pip, scratch: Path, record: Path
) -> dict[str, str]:
    """Return what a box with another KIWI takes; once it was found out, it stays so."""
    if record.exists():
        return split_lock(record.read_text("utf-8"))
    wanted = box_variant.make_lock(recipe, pins, pip, scratch)
    state.write_text(record, "".join(f"{pin}\n" for pin in wanted.values()))
    return wanted
