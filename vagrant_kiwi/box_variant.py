"""The lock file of a build box with another version of KIWI than its recipe's.

Nobody recorded the hashes of that KIWI and of what it brings, so the first making takes what the
package index serves and writes a lock file of it; every later one requires just that. What the
recipe's own kiwi.lock pins stays as pinned there, where it fits.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from vagrant_kiwi import box_versions
from vagrant_kiwi.box_lock import normal_name, pinned_version
from vagrant_kiwi.box_pip import Pip, failed, target_options
from vagrant_kiwi.box_recipe import Recipe
from vagrant_kiwi.errors import BoxError
from vagrant_kiwi.process import CommandResult


def make_lock(recipe: Recipe, pins: dict[str, str], pip: Pip, scratch: Path) -> dict[str, str]:
    """Find out what a box's KIWI needs, and pin all of it by hash.

    Args:
        recipe: the box with another KIWI.
        pins: what the recipe's own lock file pins, by package.
        pip: its build tools are installed.
        scratch: a folder for what is fetched on the way.

    Returns:
        The pinned requirements by package, KIWI among them.

    Raises:
        BoxError: there is no such version (the nearest are named), or pip cannot get what it needs.
        PhaseTimeoutError: it takes too long.
    """
    sources = set(recipe.facts.source_packages) - {"kiwi"}
    links, found = scratch / "links", scratch / "found"
    links.mkdir()
    archive = _archive(recipe, pip, scratch / "kiwi")
    # pip takes no source from an index here, so it gets wheels of what is published as source only.
    pip.build_wheels(links, [pins[package] for package in sorted(sources)])
    _resolve(recipe, archive, pins, sources, links, found, pip)
    return dict(sorted(_pin(path, pins) for path in found.iterdir()))


def _archive(recipe: Recipe, pip: Pip, folder: Path) -> Path:
    """Fetch KIWI's source."""
    result = pip.attempt(
        *("download", "--quiet", "--dest", str(folder), "--no-deps"),
        *("--no-binary=kiwi", "--no-build-isolation"),
        *target_options(recipe),
        requirements=[f"kiwi=={recipe.kiwi}"],
    )
    if not result.ok:
        raise _unknown(recipe, result) or failed(result)
    return next(folder.iterdir())


def _unknown(recipe: Recipe, result: CommandResult) -> BoxError | None:
    """Return the error for a version that does not exist; None if pip failed for another reason.

    Where no index answers, pip says "from versions: none".
    """
    version = recipe.kiwi or ""
    match = re.search(rf"kiwi=={re.escape(version)} \(from versions: ([^)]*)\)", result.text)
    known = re.split(r",\s*", match[1]) if match is not None else []
    near = box_versions.nearest(version, known)
    if not near:
        return None
    return BoxError(
        f"There is no KIWI {version} for Python {recipe.facts.python}, which the build box has",
        details=f"the nearest that exist: {', '.join(near)}",
        resolution="Give one of these as --kiwi-version.",
    )


def _resolve(
    recipe: Recipe,
    archive: Path,
    pins: dict[str, str],
    sources: set[str],
    links: Path,
    found: Path,
    pip: Pip,
) -> None:
    """Have pip fetch all that KIWI needs, with the versions of the recipe's lock where they fit.

    pip asks this Python, not the box's, which conditional requirements hold; a difference shows
    when the box is made, by ``pip check`` in it.
    """
    constraints = {package: pinned_version(pin) for package, pin in pins.items()}
    constraints.pop("kiwi", None)
    limits = links / "constraints.txt"
    while True:
        lines = [f"{package}=={version}\n" for package, version in constraints.items()]
        limits.write_text("".join(lines), "utf-8")
        result = pip.attempt(
            *("download", "--progress-bar=off", "--dest", str(found)),
            *("--only-binary=:all:", "--no-build-isolation", f"--find-links={links}"),
            *(*target_options(recipe), f"--constraint={limits}"),
            # As in kiwi.lock: descriptions in YAML and the like take the extra.
            requirements=[f"kiwi[markup] @ {archive.as_uri()}"],
        )
        if result.ok:
            return
        # The line stands in pip's message about a conflict; a source has no other version here.
        named = re.findall(r"The user requested \(constraint\) ([A-Za-z0-9._-]+)==", result.text)
        unfit = {normal_name(name) for name in named} & constraints.keys() - sources
        if not unfit:
            raise failed(result)
        for package in unfit:
            del constraints[package]


def _pin(path: Path, pins: dict[str, str]) -> tuple[str, str]:
    """Return a fetched file's package and pinned requirement; the recipe's own where it is that."""
    # NAME-VERSION.tar.gz, or NAME-VERSION-PYTHON-ABI-PLATFORM.whl (PEP 427), no dash in either.
    name, version = path.name.removesuffix(".tar.gz").split("-")[:2]
    package = normal_name(name)
    ours = pins.get(package)
    if ours is not None and pinned_version(ours) == version:
        return package, ours
    return package, f"{package}=={version} --hash=sha256:{_sha256(path)}"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
