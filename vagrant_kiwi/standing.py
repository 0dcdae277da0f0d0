"""Guests that ``invoke up`` left for builds to use: found, and compared with what is wanted now."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from vagrant_kiwi.errors import SettingsError
from vagrant_kiwi.guests import record as records
from vagrant_kiwi.guests import system
from vagrant_kiwi.guests.record import GuestRecord
from vagrant_kiwi.guests.vagrantfile import Box, Machine
from vagrant_kiwi.plan import BuildPlan, SyncItem, Variant

_WORDS = {
    "guest": "what the guest itself is made from (box, template, its settings)",
    "sync": "the synced data (sync)",
    "provision": "the provision scripts (provision)",
}


def runs(plan: Variant) -> Iterator[tuple[Path, GuestRecord]]:
    """Yield the runs of the plan's variant that started a guest, the oldest first.

    Args:
        plan: the build; the variant's lock is held by the caller.
    """
    if not plan.paths.run.parent.is_dir():
        return
    for folder in sorted(plan.paths.run.parent.iterdir()):
        found = records.load(folder)
        if found is not None:
            yield folder, found


def find(plan: Variant) -> tuple[Path, GuestRecord] | None:
    """Return the run folder and the record of the guest that ``invoke up`` left, or None."""
    found = [entry for entry in runs(plan) if entry[1].status in ("up", "suspended")]
    return found[-1] if found else None


def made_of(plan: BuildPlan, box: Box, machine: Machine | None) -> Mapping[str, str]:
    """Return digests of all that a guest is made from, by its kind.

    The description is not among it: each build brings its own.

    Args:
        plan: the build.
        box: the box it runs in.
        machine: for a virtual machine, what its host decides.
    """
    # Without what differs from run to run: names, and the loop devices that are free today.
    neutral = dataclasses.replace(
        plan,
        run_id="0",
        paths=dataclasses.replace(plan.paths, run=Path("/")),
        isolation=dataclasses.replace(plan.isolation, create_args=plan.isolation.extra),
    )
    rendered = system.made_from(neutral, box, machine)
    return {
        "guest": _digest(plan.isolation.kind, rendered, box.content),
        "sync": _digest(*(part for item in plan.sync[1:] for part in _tree(item))),
        "provision": _digest(*(script.read_bytes().hex() for script in plan.provision)),
    }


def check(record: GuestRecord, wanted: Mapping[str, str]) -> None:
    """Make sure that a guest is what a new one would be.

    Raises:
        SettingsError: it was made from something else, with the way out.
    """
    changed = [_WORDS[name] for name in wanted if record.made_of.get(name) != wanted[name]]
    if changed:
        raise SettingsError(
            "The guest that is up was made from something else",
            details="\n".join(f"changed since: {what}" for what in changed),
            resolution="invoke down removes it; the next build then takes a fresh one, and "
            "invoke up leaves one again.",
        )


def _tree(item: SyncItem) -> Iterator[str]:
    """Yield what tells one state of a synced tree from another, without reading its files."""
    yield repr((item.target, item.exclude, item.delete))
    yield _entry(item.source)
    for folder, folders, files in os.walk(item.source):
        folders.sort()
        for name in sorted([*folders, *files]):
            path = Path(folder, name)
            yield str(path.relative_to(item.source))
            yield _entry(path)


def _entry(path: Path) -> str:
    status = path.lstat()
    if path.is_symlink():
        return f"-> {path.readlink()}"
    # A folder's own size and time change with what is excluded from the sync, too.
    return oct(status.st_mode) + (
        "" if path.is_dir() else f" {status.st_size} {status.st_mtime_ns}"
    )


def _digest(*parts: str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape")
        digest.update(f"{len(data)}\n".encode())
        digest.update(data)
    return digest.hexdigest()
