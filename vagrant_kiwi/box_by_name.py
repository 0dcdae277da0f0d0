"""The box of a name: of the catalogue, imported before, or an image of a registry."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from vagrant_kiwi import (
    box_arrival,
    box_images,
    box_import,
    box_recipe,
    box_supply,
    box_use,
    boxes,
    catalog,
    docker_api,
    docker_boxes,
)
from vagrant_kiwi.box_recipe import Recipe
from vagrant_kiwi.box_supply import Supply
from vagrant_kiwi.catalog import Kind, Source
from vagrant_kiwi.errors import BoxError, SettingsError
from vagrant_kiwi.guests.vagrantfile import Box
from vagrant_kiwi.machine_boxes import MachineBox

#: A box can be removed between the look at it and the hold on it; hardly ever twice.
_TRIES = 3


def held(supply: Supply, name: str) -> contextlib.AbstractContextManager[Box]:
    """Find or make a box, and keep it from being removed during the body.

    Args:
        supply: what making it takes; its settings name the provider.
        name: the box.

    Raises:
        BoxError: there is none, or it cannot be made.
        PreflightError: the host lacks something for it.
    """
    return kept(supply, name, lambda: find(supply, name))


@contextlib.contextmanager
def kept(supply: Supply, name: str, look: Callable[[], Box]) -> Iterator[Box]:
    """Keep a box from being removed during the body, however it is found or made.

    Args:
        supply: where locks and boxes are.
        name: the box.
        look: finds or makes it.

    Raises:
        BoxError: it is removed again and again.
    """
    for _ in range(_TRIES):
        box = look()
        with box_use.using(supply.cache, box.content):
            if _is_there(supply, box):
                yield box
                return
    raise BoxError(
        f"The box {name} is removed again and again",
        resolution="Something else on this host removes it; end that, then build again.",
    )


def _is_there(supply: Supply, box: Box) -> bool:
    if isinstance(box, boxes.DockerBox):
        with docker_api.client(supply.environment) as client:
            return boxes.image_of(client, box.image) == box.image_id
    return (supply.machines / box.name / box.version).is_dir()


def find(supply: Supply, name: str, *, anew: bool = False) -> Box:
    """Return a box, with the KIWI of the settings; make or fetch it if it is missing or stale.

    Args:
        supply: what making it takes; its settings name the provider.
        name: the box.
        anew: make or fetch it even if it is current.

    Raises:
        BoxError: there is none, or it cannot be made.
        PreflightError: the host lacks something for it.
        SettingsError: it cannot have another KIWI.
    """
    kind = catalog.kind_of(supply.settings.provider) or "docker"
    if kind == "docker" and box_images.is_image(name):
        return _image(supply, name)
    source = source_of(supply, name, kind)
    if source is None and anew:
        raise BoxError(
            f"The box {name} is not in the catalogue",
            details="where it came from is not asked again by itself",
            resolution="Import it again: invoke box-add --name=... with --url, --file or --image.",
        )
    if source is None:
        return _imported(supply, name, kind)
    if source.recipe is not None:
        recipe = recipe_of(source, supply.settings.kiwi_version)
        if kind == "docker":
            return box_supply.docker_box(supply, recipe, anew=anew)
        from vagrant_kiwi import machine_supply

        return machine_supply.machine_box(supply, recipe, anew=anew)
    _no_other_kiwi(supply, name, source.kiwi)
    return box_arrival.add(supply, box_import.wanted(name, kind, source), anew=anew)


def source_of(supply: Supply, name: str, kind: Kind) -> Source | None:
    """Return where the catalogue says that a box comes from; None if it does not know the box.

    Raises:
        BoxError: it knows it, but not for this kind of guest on this host.
        SettingsError: a catalogue is not valid.
        PreflightError: there are no boxes for this host's architecture.
    """
    entry = catalog.load(supply.settings.catalogs).find(name)
    if entry is None:
        return None
    arch = box_recipe.host_arch()
    source = entry.source(kind, arch)
    if source is None:
        there = [f"{one.provider} on {', '.join(one.arch)}" for one in entry.sources]
        raise BoxError(
            f"The build box {name} is not there for {kind} on {arch}",
            details=f"the catalogue has it for {'; '.join(there)}",
            resolution="Choose another box or provider; invoke box-list shows what there is.",
        )
    return source


def recipe_of(source: Source, kiwi_version: str | None) -> Recipe:
    """Return the recipe that a catalogue's entry names.

    Args:
        source: one with a recipe.
        kiwi_version: the version of KIWI in the box; the recipe's own if not given.

    Raises:
        BoxError: it is damaged, or cannot have such a KIWI.
    """
    assert source.recipe is not None  # noqa: S101 - the caller looked
    return box_recipe.find_recipe(
        source.recipe.name, kiwi_version=kiwi_version, boxes=source.recipe.parent
    )


def _imported(supply: Supply, name: str, kind: Kind) -> Box:
    """Return the newest version of a box that was imported under a name of its own."""
    found: boxes.DockerBox | MachineBox | None
    if kind == "docker":
        with docker_api.client(supply.environment) as client:
            there = docker_boxes.installed(client, name)
        found = docker_boxes.as_box(there[0]) if there else None
    else:
        from vagrant_kiwi import machine_supply

        found = machine_supply.imported(supply, name)
    if found is None:
        known = [entry.name for entry in catalog.load(supply.settings.catalogs).entries]
        raise BoxError(
            f"There is no build box named {name!r} for {kind}",
            details=f"the catalogue has {', '.join(known)}",
            resolution="Choose one of these, or import it: invoke box-add --name=... --url=...",
        )
    _no_other_kiwi(supply, name, found.kiwi)
    return found


def _image(supply: Supply, name: str) -> Box:
    settings = supply.settings
    _no_other_kiwi(supply, name, None)
    with supply.console.phase("box") as view, docker_api.client(supply.environment) as client:
        return box_images.find(
            client,
            name,
            policy=settings.docker.pull,
            timeout=settings.timeouts.box,
            log=view.update,
        )


def _no_other_kiwi(supply: Supply, name: str, stated: str | None) -> None:
    if supply.settings.kiwi_version not in (None, stated):
        raise SettingsError(
            f"The box {name} has the KIWI that it has",
            details=f"kiwi_version is {supply.settings.kiwi_version}, "
            + (f"stated for the box is {stated}" if stated else "nothing is stated for the box"),
            resolution="Leave kiwi_version out, or take a box of vagrant-kiwi.",
        )
