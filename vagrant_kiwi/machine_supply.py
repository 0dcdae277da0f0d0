"""The box for virtual machines: KIWI makes it in a docker guest, by the pipeline of any image."""

from __future__ import annotations

import contextlib
import datetime
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from vagrant_kiwi import (
    box_by_name,
    boxes,
    build,
    description,
    holding,
    isolation,
    keys,
    kiwi,
    machine_boxes,
    machine_pool,
    mirrors,
    plan,
    preflight,
    state,
)
from vagrant_kiwi.box_recipe import Recipe
from vagrant_kiwi.box_supply import Supply, docker_box
from vagrant_kiwi.console import Console, PhaseTime
from vagrant_kiwi.deadline import Deadline
from vagrant_kiwi.errors import BoxError, GuestError, KiwiError, ResultError
from vagrant_kiwi.keys import InsecureKeys
from vagrant_kiwi.machine_boxes import MachineBox
from vagrant_kiwi.process import Runner
from vagrant_kiwi.settings import KiwiSettings, Settings, SyncEntry

#: Where the box's description finds the key that lets Vagrant in.
_KEY_IN_GUEST = "/var/lib/vagrant-kiwi-box/authorized_keys"


def machine_box(supply: Supply, recipe: Recipe, *, anew: bool = False) -> MachineBox:
    """Return a box for libvirt, known to Vagrant and uploaded; make it if it is missing or stale.

    Its KIWI is that of the recipe, and so is the KIWI that makes it.

    Args:
        supply: what making it takes.
        recipe: the box.
        anew: make it even if it is current, with the packages of today.

    Raises:
        BoxError: it cannot be made.
        PreflightError: the host lacks something for it.
    """
    console, settings = supply.console, supply.settings
    digest = recipe.machine_digest()
    deadline = Deadline.after(settings.timeouts.box, what=f"Making the build box {recipe.name}")
    with folder_of(supply, recipe.name, deadline) as folder:
        box = None if anew else machine_boxes.find(folder, digest)
        if box is None:
            started = time.monotonic()
            box = _make(supply, recipe, folder)
            console.phases.append(PhaseTime("make box", round(time.monotonic() - started, 3)))
        bring(supply, box, folder, deadline)
        return box


def imported(supply: Supply, name: str) -> MachineBox | None:
    """Return the newest version of a box that others made, known to Vagrant and uploaded.

    Args:
        supply: what it takes.
        name: the box.

    Raises:
        BoxError: Vagrant or libvirt does not take it.
        PreflightError: libvirt does not answer.
    """
    if not machine_boxes.kept(supply.machines / name):
        return None
    deadline = Deadline.after(supply.settings.timeouts.box, what=f"Finding the box {name}")
    with folder_of(supply, name, deadline) as folder:
        there = machine_boxes.kept(folder)
        if there:
            bring(supply, there[-1], folder, deadline)
        return there[-1] if there else None


@contextlib.contextmanager
def folder_of(supply: Supply, name: str, deadline: Deadline) -> Iterator[Path]:
    """Hold the lock on a box for virtual machines, and yield its folder in the cache.

    Raises:
        BoxError: the cache cannot be used.
        PhaseTimeoutError: another process holds it for too long.
    """
    with boxes.only_one(supply.machines, name, supply.console.note, deadline):
        folder = supply.machines / name
        state.make_folder(folder)
        yield folder


def bring(supply: Supply, box: MachineBox, folder: Path, deadline: Deadline) -> None:
    """Let Vagrant and libvirt have a box, and remove older versions that nothing uses.

    Args:
        supply: what it takes.
        box: the box.
        folder: its folder in the cache; the caller holds the lock.
        deadline: when it must be done.

    Raises:
        BoxError: Vagrant or libvirt does not take it.
        PreflightError: libvirt does not answer.
    """
    settings = supply.settings.libvirt
    with supply.console.phase("box") as view:
        view.update(f"{box.image} {box.version}")
        image = machine_boxes.register(box, folder, supply.runner, timeout=deadline.left())
        machine_pool.upload(
            box,
            image,
            uri=settings.uri,
            pool=settings.pool,
            progress=lambda percent: view.update("upload to libvirt", percent),
        )
        machine_pool.remove_superseded(
            folder,
            box,
            supply.runner,
            cache=supply.cache,
            uri=settings.uri,
            say=supply.console.note,
        )


def _make(supply: Supply, recipe: Recipe, folder: Path) -> MachineBox:
    """Have KIWI make the box in a docker guest, and take it into the cache.

    Raises:
        BoxError: it cannot be made.
        PreflightError: the host lacks something for it.
    """
    preflight.installed("docker", supply.environment)
    console = supply.console
    console.note(f"making the build box {recipe.name} for libvirt, once: it takes some minutes")
    # Its phases are no phases of the build that needs the box.
    inner = Console(stream=console.stream, quiet=console.quiet, verbose=console.verbose)
    now = datetime.datetime.now(datetime.UTC)
    insecure = keys.ensure_insecure_keys(supply.runner)
    decided, selection = _plan(supply, recipe, insecure, plan.new_run_id(now))
    try:
        runner = Runner(holding.marked(dict(supply.environment), decided.run_id))
        made = Supply(supply.settings, supply.environment, runner, inner, supply.gate)
        choices = mirrors.choose(
            decided.remote(selection.repositories),
            supply.settings.mirrors,
            probe=mirrors.answers,
            host_mirrors=lambda: mirrors.host_mirrors(runner),
        )
        built: list[build.Built] = []
        with (
            box_by_name.kept(made, recipe.name, lambda: docker_box(made, recipe)) as box,
            state.lock(decided.paths.lock, what=f"the build box {recipe.name}"),
        ):
            build.run(
                decided,
                holding.Inputs(box, insecure, choices, None),
                holding.Tools(runner, Runner(dict(supply.environment)), inner, supply.gate),
                reused=None,
                published=built.append,
            )
        with supply.gate.shield():
            result = built[0]
            file = next(entry for entry in result.artifacts if entry.path.endswith(".box"))
            adopted = machine_boxes.adopt(
                machine_boxes.made_from(recipe),
                folder,
                result.folder / file.path,
                sha256=file.sha256,
                now=now,
            )
            shutil.rmtree(decided.paths.results)
    except (GuestError, KiwiError, ResultError, StopIteration) as error:
        raise BoxError(
            f"The build box {recipe.name} for libvirt cannot be made",
            details=str(error),
            resolution=f"The log is {decided.paths.log}.",
        ) from error
    shutil.rmtree(decided.paths.run)
    return adopted


def _plan(
    supply: Supply, recipe: Recipe, insecure: InsecureKeys, run_id: str
) -> tuple[plan.BuildPlan, description.Selection]:
    """Decide the build of the box as that of any other image."""
    given = supply.settings
    # The same description makes them all: in one folder they would lock each other out.
    state_dir = supply.machines / "builds" / recipe.name
    read = description.read(recipe.machine, kiwi_file=None)
    # One description serves the suites of a distribution, by a profile each.
    profiles = (recipe.facts.suite,)
    selection = description.select(read, profiles=profiles, image_type=None)
    key = state_dir / "authorized_keys"
    state.make_folder(state_dir)
    state.write_text(key, f"{insecure.rsa_line}\n")
    settings = Settings(
        provider="docker",
        description=recipe.machine,
        state_dir=state_dir,
        isolation=given.isolation,
        sync=(SyncEntry(source=key, target=_KEY_IN_GUEST),),
        provision=(
            recipe.machine / "provision.sh",
            *((recipe.additions / "provision.sh",) if recipe.variant else ()),
        ),
        mirrors=given.mirrors,
        template_dirs=given.template_dirs,
        timeouts=given.timeouts,
        docker=given.docker,
        kiwi=KiwiSettings(profiles=profiles),
    )
    decided = plan.make_plan(
        settings,
        read,
        selection,
        run_id=run_id,
        facts=isolation.read_facts(),
        kiwi_build=kiwi.parse_build_options(
            (), cwd=recipe.machine, files_dir=plan.GuestPaths.of(run_id).files
        ),
        box=recipe.name,
    )
    return decided, selection
