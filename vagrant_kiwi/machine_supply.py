"""The box for virtual machines: KIWI makes it in a docker guest, by the pipeline of any image."""

from __future__ import annotations

import datetime
import shutil
import time
from pathlib import Path

from platformdirs import user_cache_path

from vagrant_kiwi import (
    box_recipe,
    boxes,
    build,
    description,
    holding,
    isolation,
    keys,
    kiwi,
    machine_boxes,
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


def machine_box(supply: Supply, name: str, *, anew: bool = False) -> MachineBox:
    """Return a box for libvirt, known to Vagrant and uploaded; make it if it is missing or stale.

    Its KIWI is that of the settings, and so is the KIWI that makes it.

    Args:
        supply: what making it takes.
        name: the recipe.
        anew: make it even if it is current, with the packages of today.

    Raises:
        BoxError: it cannot be made.
        PreflightError: the host lacks something for it.
    """
    console, settings = supply.console, supply.settings
    recipe = box_recipe.find_recipe(name, kiwi_version=settings.kiwi_version)
    recipe.machine_digest()
    deadline = Deadline.after(settings.timeouts.box, what=f"Making the build box {recipe.name}")
    cache = user_cache_path("vagrant-kiwi") / "libvirt"
    folder = cache / recipe.name
    with boxes.only_one(cache, recipe.name, console.note, deadline):
        state.make_folder(folder)
        box = None if anew else machine_boxes.find(recipe, folder)
        if box is None:
            started = time.monotonic()
            box = _make(supply, recipe, cache, folder)
            console.phases.append(PhaseTime("make box", round(time.monotonic() - started, 3)))
        with console.phase("box") as view:
            view.update(f"{box.image} {box.version}")
            image = machine_boxes.register(box, folder, supply.runner, timeout=deadline.left())
            machine_boxes.upload(
                box,
                image,
                uri=settings.libvirt.uri,
                pool=settings.libvirt.pool,
                progress=lambda percent: view.update("upload to libvirt", percent),
            )
            machine_boxes.remove_superseded(
                recipe,
                folder,
                box,
                supply.runner,
                uri=settings.libvirt.uri,
                say=console.note,
            )
        return box


def _make(supply: Supply, recipe: Recipe, cache: Path, folder: Path) -> MachineBox:
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
    decided, selection = _plan(supply, recipe, cache, insecure, plan.new_run_id(now))
    try:
        runner = Runner(holding.marked(dict(supply.environment), decided.run_id))
        made = Supply(supply.settings, supply.environment, runner, inner, supply.gate)
        box = docker_box(made, recipe.folder.name)
        choices = mirrors.choose(
            decided.remote(selection.repositories),
            supply.settings.mirrors,
            probe=mirrors.answers,
            host_mirrors=lambda: mirrors.host_mirrors(runner),
        )
        built: list[build.Built] = []
        with state.lock(decided.paths.lock, what=f"the build box {recipe.name}"):
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
                recipe, folder, result.folder / file.path, sha256=file.sha256, now=now
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
    supply: Supply, recipe: Recipe, cache: Path, insecure: InsecureKeys, run_id: str
) -> tuple[plan.BuildPlan, description.Selection]:
    """Decide the build of the box as that of any other image."""
    given = supply.settings
    # The same description makes them all: in one folder they would lock each other out.
    state_dir = cache / "builds" / recipe.name
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
