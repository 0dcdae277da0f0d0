"""The box for docker guests: found, or made from its recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vagrant_kiwi import box_recipe, boxes, docker_api, docker_storage, keys, mirrors
from vagrant_kiwi.boxes import DockerBox
from vagrant_kiwi.console import Console
from vagrant_kiwi.process import Runner
from vagrant_kiwi.settings import Settings
from vagrant_kiwi.signals import SignalGate


@dataclass(frozen=True)
class Supply:
    """What making a box takes.

    ``environment`` is that of the processes we start, ``runner`` starts them.
    """

    settings: Settings
    environment: Mapping[str, str]
    runner: Runner
    console: Console
    gate: SignalGate


def docker_box(supply: Supply, name: str, *, anew: bool = False) -> DockerBox:
    """Return a docker box with the KIWI of the settings; make it if it is missing or stale.

    Only what must be asked for is asked for.

    Args:
        supply: what making it takes.
        name: the recipe.
        anew: make it even if it is current.

    Raises:
        BoxError: it cannot be made.
        PreflightError: the host lacks something for it.
    """
    settings = supply.settings
    recipe = box_recipe.find_recipe(name, kiwi_version=settings.kiwi_version)
    with supply.console.phase("box") as view, docker_api.client(supply.environment) as client:
        box = None if anew else boxes.find_docker_box(client, recipe)
        if box is not None:
            return box
        docker_storage.preflight_box(client)
        facts = recipe.facts
        mirror, security_mirror = (
            mirrors.pick_mirror(
                official,
                suite,
                setting=settings.mirrors,
                probe=mirrors.answers,
                host_mirrors=lambda: mirrors.host_mirrors(supply.runner),
            )
            for official, suite in (
                (facts.mirror, facts.suite),
                (facts.security_mirror, f"{facts.suite}-security"),
            )
        )
        return boxes.ensure_docker_box(
            recipe,
            client,
            supply.runner,
            mirror=mirror,
            security_mirror=security_mirror,
            public_key=keys.RSA_LINE,
            timeout=settings.timeouts.box,
            anew=anew,
            log=view.update,
        )
