"""``box-prune``: what no build needs any more, and how much room it takes."""

from __future__ import annotations

import contextlib
import functools
import itertools
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import docker
from filelock import FileLock, Timeout

from vagrant_kiwi import (
    box_admin,
    box_arrival,
    box_by_name,
    box_import,
    box_push,
    box_stores,
    box_upkeep,
    box_wheels,
    boxes,
    docker_api,
    docker_boxes,
)
from vagrant_kiwi.app import Request
from vagrant_kiwi.box_installed import Installed
from vagrant_kiwi.box_stores import Boxes, Row
from vagrant_kiwi.box_supply import Supply
from vagrant_kiwi.catalog import Kind
from vagrant_kiwi.console import Console
from vagrant_kiwi.errors import BoxError

#: Seconds after which what is in no list is not a part of what is being made right now.
_SETTLED = 2 * 3600.0


def prune(request: Request, console: Console, *, dry_run: bool) -> dict[str, object]:
    """Remove versions of boxes that no build needs, and what making and importing them left.

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
        if "docker" not in found.silent:
            with docker_api.client(supply.environment) as client, boxes.docker_errors():
                gone += _docker(supply, client, found, dry_run=dry_run)
        if "libvirt" not in found.silent:
            gone += _libvirt(supply, found, dry_run=dry_run)
        # One by one: what was downloaded is only ours to remove while _downloads holds its lock.
        for path in itertools.chain(_old_wheels(supply, found), _downloads(supply)):
            gone.append(_entry(str(path), None, _size(path)))
            if not dry_run:
                _delete(path)
    return {
        "status": "would remove" if dry_run else "removed",
        "boxes": gone,
        "bytes": sum(int(str(one["size"])) for one in gone),
    }


def _entry(what: str, provider: str | None, size: int) -> dict[str, object]:
    return {"what": what, "provider": provider, "size": size}


def _old(found: Boxes, kind: Kind) -> Iterator[tuple[Row, list[Installed]]]:
    """Yield the boxes with versions that no build would take and no guest uses."""
    for row in found.rows:
        old = [one for one in row.installed if row.outdated(one) and not one.users]
        if row.kind == kind and old:
            yield row, old


def _docker(
    supply: Supply, client: docker.DockerClient, found: Boxes, *, dry_run: bool
) -> Iterator[dict[str, object]]:
    # Docker measures everything that it has to tell them: only where something goes.
    sizes = functools.cache(lambda: _own_sizes(client))
    for row, old in _old(found, "docker"):
        sizes()  # what is gone has none
        going = old if dry_run else box_upkeep.remove_versions(supply, row, old)
        for one in going:
            yield _entry(f"{one.image} {one.version}", "docker", sizes().get(one.content, one.size))
    for image, used in docker_boxes.nameless(client, older=_SETTLED):
        if not used:
            yield _entry(f"{image[:19]} without a name", "docker", sizes().get(image, 0))
            if not dry_run:
                boxes.drop(client, image, supply.cache)
    for journal in sorted(supply.cache.glob(f"*{box_arrival.JOURNAL}")):
        with _free(supply.cache / f"{journal.stem}.lock") as free:
            if free and journal.exists():
                image = journal.read_text("ascii").strip()
                yield _entry(f"{image[:19]} of a broken import", "docker", sizes().get(image, 0))
                if not dry_run:
                    box_arrival.clear_up(client, journal, supply.cache)
    for journal in sorted(supply.cache.glob(f"*{box_push.JOURNAL}")):
        with _free(supply.cache / f"{journal.stem}.lock") as free:
            if free and journal.exists():
                # A name takes no room.
                reference = journal.read_text("ascii").split()[0]
                yield _entry(f"{reference} of a broken push", "docker", 0)
                if not dry_run:
                    box_push.clear_up(client, journal)


def _own_sizes(client: docker.DockerClient) -> dict[str, int]:
    """Return the bytes of each image's own layers; those that it shares with others stay."""
    return {
        str(one["Id"]): int(one["Size"]) - max(int(one.get("SharedSize", 0)), 0)
        for one in client.df()["Images"] or ()
    }


def _libvirt(supply: Supply, found: Boxes, *, dry_run: bool) -> Iterator[dict[str, object]]:
    if not supply.machines.is_dir():
        return
    from vagrant_kiwi import machine_boxes, machine_pool

    for row, old in _old(found, "libvirt"):
        folder = supply.machines / row.name
        sizes = {
            box.version: machine_pool.room(box, folder, supply.runner)
            for box in machine_boxes.kept(folder)
        }
        going = old if dry_run else box_upkeep.remove_versions(supply, row, old)
        for one in going:
            what = f"{one.image} {one.version}"
            yield _entry(what, "libvirt", sizes.get(one.version, one.size))
    for lock in sorted(supply.machines.glob("*.lock")):
        folder = lock.with_suffix("")
        with _free(lock) as free:
            left = machine_boxes.unfinished(folder) if free else []
            for path in left:
                yield _entry(str(path), "libvirt", _size(path))
            if left and not dry_run:
                machine_pool.sweep(folder, supply.console.note)


@contextlib.contextmanager
def _free(lock: Path) -> Iterator[bool]:
    """Tell the body whether nobody else holds a lock; it is held until its end."""
    try:
        with FileLock(lock, blocking=False):
            yield True
    except Timeout:
        yield False


def _old_wheels(supply: Supply, found: Boxes) -> Iterator[Path]:
    """Yield the folders of wheels that no box of the catalogue is made from."""
    needed = set()
    for row in found.rows:
        if row.source is not None and row.source.recipe is not None and not row.problem:
            recipe = box_by_name.recipe_of(row.source, row.kiwi_version)
            needed.add(box_wheels.folder_of(recipe, supply.cache))
    for path in sorted((supply.cache / "wheels").glob("*")):
        # What is being made has a dot in front; lock files are small and worth more than room. A
        # box that is made for the first time is in no list yet.
        if (
            path.is_dir()
            and not path.name.startswith(".")
            and path not in needed
            and time.time() - path.stat().st_mtime > _SETTLED
        ):
            yield path


def _downloads(supply: Supply) -> Iterator[Path]:
    """Yield what downloads and copies left that nobody is at."""
    for lock in sorted((supply.cache / box_import.DOWNLOADS).glob("*.lock")):
        with _free(lock) as free:
            if free:
                others = sorted(lock.parent.glob(f"{lock.stem}*"))
                yield from (path for path in others if path != lock)


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
