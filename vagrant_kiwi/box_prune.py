"""``box-prune``: what no build needs any more, and how much room it takes."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from vagrant_kiwi import box_admin, box_by_name, box_stores, box_upkeep, box_wheels
from vagrant_kiwi.app import Request
from vagrant_kiwi.box_stores import Boxes
from vagrant_kiwi.box_supply import Supply
from vagrant_kiwi.console import Console
from vagrant_kiwi.errors import BoxError


def prune(request: Request, console: Console, *, dry_run: bool) -> dict[str, object]:
    """Remove versions of boxes that no build needs, and what was fetched to make or import them.

    Args:
        request: the task's input.
        console: told what stays.
        dry_run: remove nothing; say what would be.

    Returns:
        What goes, and the bytes that it takes together.

    Raises:
        SettingsError: a catalogue is not valid.
        BoxError: something cannot be removed.
    """
    gone: list[dict[str, object]] = []
    with box_admin.supply(request, console) as supply:
        found = box_stores.look(supply, box_stores.KINDS)
        for kind, why in found.silent.items():
            console.warn(f"boxes for {kind} stay: {why}")
        for row in found.rows:
            if row.kind in found.silent:
                continue
            old = [one for one in row.installed if row.outdated(one) and not one.users]
            if old and not dry_run:
                old = box_upkeep.remove_versions(supply, row, old)
            gone += [
                {"what": f"{one.image} {one.version}", "provider": one.kind, "size": one.size}
                for one in old
            ]
        for path in (*_old_wheels(supply, found), *_downloads(supply)):
            gone.append({"what": str(path), "provider": None, "size": _size(path)})
            if not dry_run:
                _delete(path)
    return {
        "status": "would remove" if dry_run else "removed",
        "boxes": gone,
        "bytes": sum(int(str(one["size"])) for one in gone),
    }


def _old_wheels(supply: Supply, found: Boxes) -> Iterator[Path]:
    """Yield the folders of wheels that no box of the catalogue is made from."""
    needed = set()
    for row in found.rows:
        if row.source is not None and row.source.recipe is not None:
            recipe = box_by_name.recipe_of(row.source, row.kiwi_version)
            needed.add(box_wheels.folder_of(recipe, supply.cache))
    for path in sorted((supply.cache / "wheels").glob("*")):
        # What is being made has a dot in front; lock files are small and worth more than room.
        if path.is_dir() and not path.name.startswith(".") and path not in needed:
            yield path


def _downloads(supply: Supply) -> Iterator[Path]:
    """Yield what downloads left that nobody is at."""
    for lock in sorted((supply.cache / "downloads").glob("*.lock")):
        with contextlib.suppress(Timeout), FileLock(lock, blocking=False):
            target = lock.with_suffix("")
            yield from (path for path in lock.parent.glob(f"{target.name}*") if path != lock)


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(entry.lstat().st_size for entry in path.rglob("*"))
    return path.lstat().st_size


def _delete(path: Path) -> None:
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise BoxError(f"{path} cannot be removed", details=str(error)) from error
