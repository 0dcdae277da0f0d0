"""Catalogue and installed boxes side by side: what is there, and whether it is current."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

from vagrant_kiwi import box_by_name, box_recipe, catalog, docker_api, docker_boxes
from vagrant_kiwi.box_installed import Installed
from vagrant_kiwi.box_supply import Supply
from vagrant_kiwi.catalog import Catalog, Kind, Source
from vagrant_kiwi.console import Console
from vagrant_kiwi.description_model import mask
from vagrant_kiwi.errors import BoxError, GuestError, PreflightError

KINDS: tuple[Kind, ...] = ("docker", "libvirt")


@dataclass(frozen=True)
class Row:
    """A box for one kind of guest.

    ``source`` is the catalogue's, if the box is in it; ``kiwi_version`` that of a box with another
    KIWI; ``current`` the digest that its newest version must have, where that is known;
    ``installed`` its versions, the newest first; ``problem`` why the catalogue's entry is useless.
    """

    name: str
    kind: Kind
    about: str
    builds: tuple[str, ...]
    source: Source | None
    kiwi_version: str | None
    current: str | None
    installed: tuple[Installed, ...]
    problem: str = ""

    @property
    def origin(self) -> str:
        """Where it comes from, in words and without credentials."""
        if self.source is None:
            return self.installed[0].origin
        if self.source.recipe is not None:
            return "recipe"
        return self.source.image or mask(self.source.url or str(self.source.file))

    def outdated(self, one: Installed) -> bool:
        """Tell whether a version of it is not the one that a build would take."""
        if self.problem:
            return False
        if self.current is not None:
            return one.digest != self.current
        return one != self.installed[0]


@dataclass(frozen=True)
class Boxes:
    """All rows, and what could not be asked, by kind of guest."""

    rows: tuple[Row, ...]
    silent: dict[Kind, str]

    def must_answer(self, wanted: Sequence[Kind]) -> None:
        """See that all that were asked have answered.

        Raises:
            PreflightError: one has not.
        """
        for kind in wanted:
            if kind in self.silent:
                raise self.unanswered(kind)

    def unanswered(self, kind: Kind) -> PreflightError:
        """Return the error for a kind of guest that could not be asked."""
        others = [one for one in KINDS if one not in self.silent]
        return PreflightError(
            f"What there is for {kind} cannot be found out",
            details=self.silent[kind],
            resolution="Mend that"
            + "".join(f", or leave it out: --provider={one}" for one in others)
            + ".",
        )

    def warn(self, console: Console) -> None:
        """Tell a person who could not be asked, and why."""
        for kind, why in self.silent.items():
            console.warn(f"{kind} cannot be asked: {why}")

    def named(self, name: str) -> list[Row]:
        """Return the rows of a name that have something installed."""
        return [row for row in self.rows if row.name == name and row.installed]

    def installed(self, name: str | None) -> list[Row]:
        """Return the rows that have something installed.

        Args:
            name: only those of this box.

        Raises:
            BoxError: there is none of that name.
        """
        there = [row for row in self.rows if row.installed]
        if name is None:
            return there
        chosen = self.named(name)
        if not chosen:
            names = sorted({row.name for row in there})
            details = [f"installed: {', '.join(names) or 'none'}"]
            details += [f"{kind} cannot be asked: {why}" for kind, why in self.silent.items()]
            raise BoxError(
                f"The box {name} is not installed",
                details="\n".join(details),
                resolution="invoke box-list shows what there is, invoke box-add installs one.",
            )
        return chosen


def kinds(provider: str | None) -> tuple[Kind, ...]:
    """Return the kinds of guest that a task shall look at.

    Args:
        provider: as it was typed; all kinds if it was not.

    Raises:
        BoxError: it has no boxes.
    """
    if provider is None:
        return KINDS
    kind = catalog.kind_of(provider)
    if kind is None:
        raise BoxError(
            f"The provider {provider} has no build boxes",
            resolution="Give --provider=docker or --provider=libvirt, or leave it out.",
        )
    return (kind,)


def look(supply: Supply, wanted: Sequence[Kind]) -> Boxes:
    """Look at the catalogue and at what is installed.

    Args:
        supply: how to reach Docker and libvirt.
        wanted: the kinds of guest.

    Raises:
        SettingsError: a catalogue is not valid.
        PreflightError: there are no boxes for this host's architecture.
    """
    known = catalog.load(supply.settings.catalogs)
    arch = box_recipe.host_arch()
    rows: list[Row] = []
    silent: dict[Kind, str] = {}
    for kind in wanted:
        found: list[Installed] = []
        try:
            found = _docker(supply) if kind == "docker" else _libvirt(supply, silent)
        except (PreflightError, BoxError, GuestError) as error:
            silent[kind] = str(error)
        names = [entry.name for entry in known.entries if entry.source(kind, arch) is not None]
        names += sorted({one.name for one in found} - set(names))
        rows += [_row(known, name, kind, arch, found) for name in names]
    return Boxes(tuple(rows), silent)


def _docker(supply: Supply) -> list[Installed]:
    with docker_api.client(supply.environment) as client:
        return docker_boxes.installed(client)


def _libvirt(supply: Supply, silent: dict[Kind, str]) -> list[Installed]:
    """Return the boxes in the cache; who uses them only libvirt knows."""
    if importlib.util.find_spec("libvirt") is None:
        if supply.machines.is_dir():
            silent["libvirt"] = "its Python package is not installed (./bootstrap does)"
        return []
    from vagrant_kiwi import libvirt_api, machine_pool

    try:
        with libvirt_api.client(supply.settings.libvirt.uri) as connection:
            return machine_pool.installed(supply.machines, connection)
    except (PreflightError, GuestError) as error:
        silent["libvirt"] = str(error)
        return machine_pool.installed(supply.machines, None)


def _row(known: Catalog, name: str, kind: Kind, arch: str, found: Sequence[Installed]) -> Row:
    base, kiwi = catalog.split_variant(name)
    entry = known.find(base)
    source = entry.source(kind, arch) if entry is not None else None
    if kiwi is not None and (source is None or source.recipe is None):
        entry = source = None
    current, problem = None, ""
    try:
        current = _current(source, kind, kiwi)
    except BoxError as error:
        # A damaged recipe, or a KIWI that is too old by now, must not hide all the others.
        problem = str(error)
    return Row(
        name=name,
        kind=kind,
        about=entry.about if entry is not None else "",
        builds=(entry.distributions or entry.package_managers) if entry is not None else (),
        source=source,
        kiwi_version=kiwi,
        current=current,
        installed=tuple(one for one in found if one.name == name),
        problem=problem,
    )


def _current(source: Source | None, kind: Kind, kiwi: str | None) -> str | None:
    if source is None:
        return None
    if source.recipe is None:
        return source.sha256
    recipe = box_by_name.recipe_of(source, kiwi)
    return recipe.digest if kind == "docker" else recipe.machine_digest()
