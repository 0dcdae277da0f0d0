"""Recipes of build boxes: the folders in ``boxes/``, read and digested."""

from __future__ import annotations

import hashlib
import os
import platform
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from vagrant_kiwi import box_versions
from vagrant_kiwi.box_lock import pinned_version, split_lock
from vagrant_kiwi.data import data_folder
from vagrant_kiwi.errors import BoxError, PreflightError

#: Debian's (and Docker's) name of an architecture for the kernel's.
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

# These end up in shell scripts, apt's files and pip's arguments.
_Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+:_/-]*$")]
_Version = Annotated[str, StringConstraints(pattern=r"^[0-9]+\.[0-9]+$")]
_Url = Annotated[str, StringConstraints(pattern=r"^https?://[A-Za-z0-9.:/_~-]+$")]
_File = Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9./_-]+$")]
# A folder beside the recipe's own, never one elsewhere.
_Sibling = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class BoxFacts(BaseModel):
    """What a recipe's box.toml says; the file itself explains each."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: _Word
    extends: _Sibling | None = None
    distribution: _Word
    suite: _Word
    base: _Word
    python: _Version
    glibc: _Version
    mirror: _Url
    security_mirror: _Url
    keyring: _File
    source_packages: list[_Word]
    build_packages: list[_Word]


@dataclass(frozen=True)
class Recipe:
    """How a build box is made.

    ``folders`` hold its files, its own folder first: what lies there goes before what has the same
    name in the folder that it shares with other recipes. ``arch`` is Debian's name of the
    architecture it is made for; ``digest`` changes with every file of the recipe, with the
    architecture and with the version of KIWI. ``kiwi`` is that version; None where a recipe has no
    KIWI. A ``variant`` has another KIWI than kiwi.lock pins, and a ``name`` of its own. All other
    names are made from that, so boxes with different KIWIs never replace each other.
    """

    folders: tuple[Path, ...]
    name: str
    arch: str
    facts: BoxFacts
    packages: tuple[str, ...]
    digest: str
    kiwi: str | None
    variant: bool = False

    @property
    def version(self) -> str:
        """The recipe's own version."""
        return self.facts.version

    @property
    def repository(self) -> str:
        """The name of its images in Docker, without the tag; and of its boxes in Vagrant."""
        return repository_of(self.name)

    @property
    def folder(self) -> Path:
        """Its own folder, which holds box.toml."""
        return self.folders[0]

    @property
    def files(self) -> list[Path]:
        """The files its docker box is made from, in a fixed order."""
        return recipe_files(*self.folders)

    @property
    def lock(self) -> Path:
        """The file that pins KIWI and what it needs."""
        return _find(self.folders, "kiwi.lock")

    @property
    def machine(self) -> Path:
        """The folder of the KIWI description that makes it a virtual machine's box."""
        return _find(self.folders, "libvirt")

    @property
    def additions(self) -> Path:
        """The folder of what boxes with another KIWI have besides: a Dockerfile, a provision.sh."""
        return _find(self.folders, "variant")

    def machine_digest(self) -> str:
        """Return what changes with every file that a virtual machine's box is made from.

        Raises:
            BoxError: it is not made for virtual machines.
        """
        if not self.machine.is_dir():
            raise BoxError(
                f"The build box {self.name} is not made for libvirt",
                details=f"there is no {self.machine}",
                resolution="Choose another box, or --provider=docker.",
            )
        digest = hashlib.sha256(f"{self.digest}\n".encode())
        for path in sorted(self.machine.rglob("*")):
            if path.is_dir() or path.name.endswith("~"):
                continue
            content = os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes()
            executable = path.stat().st_mode & 0o100 if path.is_file() else 0
            name = path.relative_to(self.machine)
            digest.update(f"{name}\n{executable}\n{len(content)}\n".encode())
            digest.update(content)
        return digest.hexdigest()

    @property
    def tag(self) -> str:
        """The tag of its image in Docker."""
        return self.digest[:12]


def repository_of(name: str) -> str:
    """Return the name of a box's images in Docker, without the tag; and of its boxes in Vagrant."""
    return f"vagrant-kiwi/{name}"


def find_recipe(
    name: str,
    *,
    kiwi_version: str | None = None,
    boxes: Path | None = None,
    arch: str | None = None,
) -> Recipe:
    """Return the recipe of a build box.

    Args:
        name: a folder in ``boxes``.
        kiwi_version: the version of KIWI in the box; the recipe's own if not given.
        boxes: holds recipes; our own if not given.
        arch: Debian's name of an architecture; this host's if not given.

    Raises:
        BoxError: there is no such box, its recipe is damaged, or it cannot have such a KIWI.
        PreflightError: boxes are not made for this host's architecture.
    """
    folder = boxes if boxes is not None else data_folder("boxes")
    known = sorted(path.parent.name for path in folder.glob("*/box.toml"))
    if name not in known:
        raise BoxError(
            f"There is no build box named {name!r}",
            details=f"known: {', '.join(known) or 'none'}",
            resolution="Choose one of these.",
        )
    recipe = load_recipe(folder / name, arch=arch or host_arch())
    if kiwi_version is None or kiwi_version == recipe.kiwi:
        return recipe
    return _with_kiwi(recipe, kiwi_version)


def _with_kiwi(recipe: Recipe, version: str) -> Recipe:
    """Return the recipe of the same box with another version of KIWI."""
    box_versions.check(version)
    if not recipe.additions.is_dir():
        raise BoxError(
            f"The build box {recipe.name} is not made with other versions of KIWI",
            details=f"there is no {recipe.additions}",
            resolution="Leave --kiwi-version out.",
        )
    more = _digest((recipe.additions,), recipe.arch)
    return replace(
        recipe,
        name=f"{recipe.name}-kiwi-{version}",
        digest=hashlib.sha256(f"{recipe.digest}\n{more}\n{version}\n".encode()).hexdigest(),
        kiwi=version,
        variant=True,
    )


def load_recipe(folder: Path, *, arch: str) -> Recipe:
    """Read a recipe from its folder.

    Only the files right in a folder make the docker box; sub-folders belong to other providers.

    Args:
        folder: holds box.toml; Dockerfile, packages.txt, kiwi.lock and what they need lie there
            too, or in the folder beside it that box.toml extends.
        arch: Debian's name of an architecture.

    Raises:
        BoxError: a file is missing or cannot be read, or box.toml says something unknown.
    """
    path = folder / "box.toml"
    try:
        facts = BoxFacts.model_validate(tomllib.loads(path.read_text("utf-8")))
        folders = (folder,) if facts.extends is None else (folder, _shared(folder, facts.extends))
        packages = _packages(_find(folders, "packages.txt").read_text("utf-8"))
        _find(folders, "Dockerfile").stat()
        kiwi = split_lock(_find(folders, "kiwi.lock").read_text("utf-8")).get("kiwi")
        digest = _digest(folders, arch)
    except ValidationError as error:
        # Not the error's own text: it links to a web page for each line.
        details = "\n".join(
            f"{path}: {'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()
        )
        raise _damaged(folder, details) from error
    except (OSError, ValueError) as error:
        raise _damaged(folder, str(error)) from error
    return Recipe(
        folders=folders,
        name=folder.name,
        arch=arch,
        facts=facts,
        packages=packages,
        digest=digest,
        kiwi=pinned_version(kiwi) if kiwi is not None else None,
    )


def recipe_files(*folders: Path) -> list[Path]:
    """Return the files of a recipe in the order of their names; no hidden ones, no back-ups.

    Args:
        folders: of files with the same name, the one in the earliest folder counts.
    """
    found = {
        path.name: path
        for folder in reversed(folders)
        for path in folder.iterdir()
        if path.is_file() and not path.name.startswith(".") and not path.name.endswith("~")
    }
    return [found[name] for name in sorted(found)]


def host_arch() -> str:
    """Return Debian's name of this host's architecture.

    Raises:
        PreflightError: no box is made for it.
    """
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        raise PreflightError(
            f"There is no build box for the architecture {machine}",
            resolution=f"Use a host with {' or '.join(_ARCHITECTURES)}.",
        )
    return _ARCHITECTURES[machine]


def wheel_arch(arch: str) -> str:
    """Return the name that wheels use for Debian's name of an architecture."""
    return {debian: kernel for kernel, debian in _ARCHITECTURES.items()}[arch]


def half_made(recipe: Recipe, suffix: str = "") -> str:
    """Return how names of files begin that are there only while a box is made."""
    return f".making-{recipe.name}.{suffix}"


def _packages(text: str) -> tuple[str, ...]:
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return tuple(line for line in lines if line)


def _shared(folder: Path, name: str) -> Path:
    """Return the folder that a recipe extends."""
    shared = folder.with_name(name)
    if not shared.is_dir():
        raise ValueError(f"box.toml extends {name!r}, but there is no folder {shared}")
    if (shared / "box.toml").exists():
        # Its own facts, and what it extends itself, would be passed over in silence.
        raise ValueError(f"box.toml extends {name!r}, which is a recipe by itself")
    return shared


def _find(folders: Sequence[Path], name: str) -> Path:
    """Return the first file or folder of a name, or where the last one should be."""
    paths = [folder / name for folder in folders]
    return next((path for path in paths if path.exists()), paths[-1])


def _digest(folders: Sequence[Path], arch: str) -> str:
    digest = hashlib.sha256(f"{arch}\n".encode())
    for path in recipe_files(*folders):
        content = path.read_bytes()
        # The size keeps "ab" and "c" apart from "a" and "bc".
        digest.update(f"{path.name}\n{len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def _damaged(folder: Path, details: str) -> BoxError:
    return BoxError(
        f"The recipe of the build box {folder.name} is damaged",
        details=details,
        resolution=f"Mend {folder}, or install vagrant-kiwi again.",
    )
