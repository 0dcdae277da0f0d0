"""Guests for the contract: started as builds start theirs, and reached as builds reach theirs."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.integration.cli import Project
from tests.integration.stand_in import describe
from tests.unit import plans
from vagrant_kiwi.guests import Guest, record, removal, ssh, system
from vagrant_kiwi.process import Runner


@contextlib.contextmanager
def left_up(folder: Path, provider: str, runner: Runner, **settings: Any) -> Iterator[Guest]:
    """Yield a guest that `invoke up` started."""
    folder.mkdir(parents=True, exist_ok=True)
    project = Project(folder)
    project.settings(mirrors="off", provider=provider, **settings)
    describe(folder / "image")
    done = project.run("up", "--description=image", "--json")
    assert done.status == 0, done.errors
    try:
        (found,) = folder.glob(f".vagrant-kiwi/builds/*/{provider}/runs/{done.json['guest']}")
        kept = record.load(found)
        assert kept is not None
        runtime = ssh.runtime_folder()
        try:
            again = kept.model_copy(update={"runtime": runtime})
            with system.of(again, runner).connected() as guest:
                yield guest
        finally:
            shutil.rmtree(runtime)
    finally:
        done = project.run("down", "--description=image", "--json")
        assert done.status == 0, done.errors


@contextlib.contextmanager
def existing(folder: Path, runner: Runner, **host: Any) -> Iterator[Guest]:
    """Yield an existing machine with our lock on it."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = plans.make(folder, run_id=folder.name, provider="host", host=host)
    plan.paths.run.mkdir(parents=True)
    planned = removal.record_of(plan, "", None, asleep=False, environment={})
    prepared = removal.prepare(planned, plan.paths.run, "")
    taken = system.of(prepared, runner).start(plan, text="", on_output=lambda _: None)
    try:
        with taken.connected() as guest:
            yield guest
    finally:
        said: list[str] = []
        removal.remove(
            taken.record,
            plan.paths.run,
            runner,
            timeout=60,
            on_output=lambda _: None,
            say=said.append,
        )
