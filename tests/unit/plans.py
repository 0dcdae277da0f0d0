"""A plan for tests, made the way builds make theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vagrant_kiwi import description, kiwi, plan
from vagrant_kiwi.isolation import HostFacts
from vagrant_kiwi.settings import Settings

TARBALL = Path(__file__).parents[2] / "examples" / "debian-tarball"
FREE = HostFacts(block_devices=frozenset(), busy_loops=frozenset(), selinux=False)


def make(
    state: Path, *, run_id: str = "r1", facts: HostFacts = FREE, **given: Any
) -> plan.BuildPlan:
    """Decide a build of the tarball example with these settings."""
    settings = Settings(state_dir=state, **given)
    read = description.read(TARBALL, kiwi_file=None)
    selection = description.select(
        read, profiles=settings.kiwi.profiles, image_type=settings.kiwi.type
    )
    return plan.make_plan(
        settings,
        read,
        selection,
        run_id=run_id,
        facts=facts,
        kiwi_build=kiwi.parse_build_options((), cwd=state, files_dir="/files"),
        box="debian-bookworm",
    )
