"""The catalogue of build boxes: what each one builds, and where it comes from.

Ours is ``boxes/catalog.yaml``; the setting ``catalogs`` names the user's own, which go before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, Strict, StringConstraints, ValidationError, model_validator

from vagrant_kiwi import docker_api, settings_problems
from vagrant_kiwi.data import data_folder
from vagrant_kiwi.description import Selection
from vagrant_kiwi.errors import SettingsError
from vagrant_kiwi.settings_model import (
    HostPath,
    Model,
    Text,
    UrlOrPath,
    Word,
    setting,
)

#: The box where no other one fits better.
DEFAULT = "debian-bookworm"

#: What a box can be for: containers of Docker, whoever starts them, or machines of libvirt.
Kind = Literal["docker", "libvirt"]
Arch = Literal["amd64", "arm64"]

#: One part of an image's name in Docker: distribution/reference, "path-component". The name of a
#: box with another KIWI ends in -kiwi-VERSION, so no other box may be called so.
_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*", re.ASCII)
_VARIANT = re.compile(r"(.+)-kiwi-([0-9][0-9.]*)")
#: Suites that belong to another one: bookworm-updates, bookworm-security, bookworm/updates.
_PART_OF = re.compile(r"(-(updates|security|backports(-sloppy)?|proposed-updates)|/.*)$")

#: Vagrant compares versions as Ruby does (Gem::Version).
_VERSION = r"^[0-9]{1,18}(\.[0-9A-Za-z]{1,18})*$"
#: Endings of what lies beside the folders of boxes in the cache.
_RESERVED = (".lock", ".loading", ".building", ".pushing", ".copy", ".part")

Sha256 = Annotated[str, StringConstraints(strict=True, pattern=r"^[0-9a-f]{64}$")]
BoxName = Annotated[
    str,
    StringConstraints(strict=True, pattern=r"^[a-z0-9][a-z0-9._-]*$"),
]
_ORIGINS = ("recipe", "image", "url", "file")


def is_name(name: str) -> bool:
    """Tell whether a box may be called so."""
    return (
        _NAME.fullmatch(name) is not None
        and _VARIANT.fullmatch(name) is None
        # Those of folders and files in the cache.
        and name != "builds"
        and not name.endswith(_RESERVED)
    )


def split_variant(name: str) -> tuple[str, str | None]:
    """Return the name of a box, and its version of KIWI if that is not its recipe's own."""
    found = _VARIANT.fullmatch(name)
    return (found[1], found[2]) if found is not None else (name, None)


class Source(Model):
    """Where a box for one kind of guest comes from: one of recipe, image, url and file."""

    provider: Kind = setting(
        ..., "Kind of guest; docker serves docker-direct too", "docker, libvirt"
    )
    arch: tuple[Arch, ...] = setting(
        ("amd64", "arm64"), "Architectures of the host that it is for", "a list of amd64, arm64"
    )
    recipe: HostPath | None = setting(
        None, "Folder with box.toml, of the box's name: the box is made here", "a path on this host"
    )
    image: Text | None = setting(None, "Image of a registry", "a name with its registry and tag")
    url: Text | None = setting(None, "Archive on a web server", "an http or https URL")
    file: HostPath | None = setting(None, "Archive on this host", "a path on this host")
    version: Annotated[str, StringConstraints(strict=True, pattern=_VERSION)] | None = setting(
        None,
        "Version, in numbers of whoever made it",
        "numbers and letters with dots, a number first (in quotes where it looks like a number)",
    )
    size: Annotated[int, Strict(), Field(gt=0)] | None = setting(
        None, "Size of the archive in bytes", "a whole number above 0", kind="number"
    )
    sha256: Sha256 | None = setting(
        None,
        "SHA-256 of the archive, or of the image's manifest; an archive must have one",
        "64 hexadecimal digits",
    )
    signature: UrlOrPath | None = setting(
        None, "Detached GPG signature of the archive", "a URL or a path on this host"
    )
    keyring: HostPath | None = setting(
        None, "File with the keys that may sign it", "a path on this host"
    )
    kiwi: Word | None = setting(None, "Version of KIWI in it; box-verify checks it", "a version")

    @model_validator(mode="after")
    def _one_origin(self) -> Source:
        given = [name for name in _ORIGINS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"one of {', '.join(_ORIGINS)} is needed, and only one")
        archive = given[0] in ("url", "file")
        if archive and self.sha256 is None:
            raise ValueError("an archive needs its sha256")
        if not archive and (self.signature or self.size):
            raise ValueError("size and signature are for archives")
        if (self.signature is None) != (self.keyring is None):
            raise ValueError("signature and keyring go together")
        if self.image is not None and self.provider != "docker":
            raise ValueError("an image is for docker")
        return self

    @property
    def origin(self) -> str:
        """Which of recipe, image, url and file it is."""
        return next(name for name in _ORIGINS if getattr(self, name) is not None)


class Entry(Model):
    """A box, for all kinds of guest that it is there for."""

    name: BoxName = setting(..., "Name of the box", "lower-case letters, digits and single . _ -")
    about: Text = setting(..., "What it is, in a few words", "text on one line")
    package_managers: tuple[Word, ...] = setting(
        (), "Package managers of descriptions that it builds", "a list such as apt, dnf5, zypper"
    )
    distributions: tuple[Word, ...] = setting(
        (),
        "Distributions that it builds, as apt's repositories call them; none: all",
        "a list of names such as trixie",
    )
    sources: tuple[Source, ...] = setting(..., "Where it comes from", "a list of mappings")

    @model_validator(mode="after")
    def _fits(self) -> Entry:
        if not is_name(self.name):
            raise ValueError(f"a box cannot be called {self.name}")
        for source in self.sources:
            if source.recipe is not None and source.recipe.name != self.name:
                raise ValueError("the folder of its recipe must have the name of the box")
        return self

    def source(self, kind: Kind, arch: str) -> Source | None:
        """Return where it comes from for a kind of guest and an architecture, if it is for them."""
        return next(
            (one for one in self.sources if one.provider == kind and arch in one.arch), None
        )


class _File(Model):
    """A catalogue's file."""

    boxes: tuple[Entry, ...] = setting(..., "The boxes", "a list of mappings")


@dataclass(frozen=True)
class Catalog:
    """All catalogues, best first; of entries of one name the first one counts."""

    entries: tuple[Entry, ...]

    def find(self, name: str) -> Entry | None:
        """Return the entry of a name."""
        return next((entry for entry in self.entries if entry.name == name), None)

    def fitting(self, selection: Selection, kind: Kind, arch: str) -> Iterator[Entry]:
        """Yield the boxes that build a description, the best first."""
        suites = suites_of(selection)
        able = [
            entry
            for entry in self.entries
            if selection.package_manager in entry.package_managers
            and entry.source(kind, arch) is not None
        ]
        yield from (entry for entry in able if suites & set(entry.distributions))
        yield from (entry for entry in able if not entry.distributions)


def kind_of(provider: str) -> Kind | None:
    """Return the kind of box that a provider takes; None for those that have none of ours.

    Args:
        provider: the setting.
    """
    if provider in docker_api.PROVIDERS:
        return "docker"
    return "libvirt" if provider == "libvirt" else None


def load(paths: Sequence[Path]) -> Catalog:
    """Read the user's catalogues and ours.

    Args:
        paths: the setting ``catalogs``, best first.

    Raises:
        SettingsError: one is missing, or holds something invalid.
    """
    found: dict[str, Entry] = {}
    for path in (*paths, data_folder("boxes") / "catalog.yaml"):
        for entry in _read(path):
            found.setdefault(entry.name, entry)
    return Catalog(tuple(found.values()))


def _read(path: Path) -> tuple[Entry, ...]:
    try:
        data = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, str(error)) from error
    except yaml.YAMLError as error:
        # Its text repeats the line, which can hold a password.
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark is not None else ""
        raise _unreadable(path, f"{line}{getattr(error, 'problem', 'no YAML')}") from None
    try:
        read = _File.model_validate(data, context=path.parent.absolute())
    except ValidationError as error:
        # Not "from error": its text shows the values, and a URL can hold a password.
        raise SettingsError(
            f"The catalogue {path} is not valid",
            details="\n".join(settings_problems.problems(error, _File, {})),
            resolution="Correct what is named above; docs/boxes.md explains the keys.",
        ) from None
    return read.boxes


def _unreadable(path: Path, why: str) -> SettingsError:
    return SettingsError(
        f"The catalogue {path} cannot be read",
        details=why,
        resolution="Correct it, or the setting catalogs that names it.",
    )


def suites_of(selection: Selection) -> set[str]:
    """Return the distributions whose packages a description takes, by their code names."""
    return {
        _PART_OF.sub("", one.distribution)
        for one in selection.repositories
        if one.distribution and not one.image_only
    }


def choose(
    catalog: Catalog, selection: Selection, kind: Kind, arch: str, *, named: str | None
) -> tuple[str, str | None]:
    """Choose the box of a build.

    Args:
        catalog: the boxes there are.
        selection: what is built.
        kind: the kind of guest.
        arch: Debian's name of the host's architecture.
        named: the box that the settings name, if they do; it is taken, whatever it is.

    Returns:
        The box, and a warning where another one would be better, or none fits.
    """
    fitting = list(catalog.fitting(selection, kind, arch))
    what = " or ".join(sorted(suites_of(selection))) or selection.package_manager
    if named is None:
        if fitting:
            return fitting[0].name, None
        return DEFAULT, (
            f"no box of the catalogue is for {what} ({selection.package_manager}); "
            f"{DEFAULT} is taken"
        )
    entry = catalog.find(named)
    if entry is None or not fitting or entry in fitting:
        return named, None
    made_for = ", ".join(entry.distributions or entry.package_managers)
    # It may well build (bookworm and trixie do in each other's box), but KIWI makes file systems
    # with the box's mkfs, and checks packages by the keys that the box has.
    return named, (
        f"the box {named} is for {made_for}, the description takes {what}: tools and keys are "
        f"those of {made_for}; --box={fitting[0].name} is the better one"
    )
