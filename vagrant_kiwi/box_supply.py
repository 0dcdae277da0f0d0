"""The box for docker guests: found, or made from its recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path

from vagrant_kiwi import boxes, docker_api, docker_storage, keys, mirrors
from vagrant_kiwi.box_recipe import Recipe
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

    @property
    def cache(self) -> Path:
        """The user's cache folder."""
        return user_cache_path("vagrant-kiwi")

    @property
    def machines(self) -> Path:
        """The folder in it of boxes for virtual machines, one folder a box."""
        return self.cache / "libvirt"


def docker_box(supply: Supply, recipe: Recipe, *, anew: bool = False) -> DockerBox:
    """Return the docker box of a recipe; make it if it is missing or stale.

    Only what must be asked for is asked for.

    Args:
        supply: what making it takes.
        recipe: the box, with the KIWI that it shall have.
        anew: make it even if it is current.

    Raises:
        BoxError: it cannot be made.
        PreflightError: the host lacks something for it.
    """
    settings = supply.settings
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
            cache=supply.cache,
            anew=anew,
            log=view.update,
        )
