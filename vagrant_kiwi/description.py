"""What a KIWI description says: name, version, types, profiles, repositories, packages.

Selection follows kiwi-ng 11.1.6 (``xml_state.py``), so that what is planned here is what KIWI then
builds in the guest. Credentials never appear in a ``repr``, a message or a summary.
"""

from __future__ import annotations

import dataclasses
import difflib
import platform
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from lxml import etree

from vagrant_kiwi import description_source
from vagrant_kiwi.description_model import (
    Description,
    ImageType,
    Package,
    PackageSection,
    Profile,
    Repository,
    Selection,
    mask,
    summary,
)
from vagrant_kiwi.description_source import Source, place
from vagrant_kiwi.errors import DescriptionError

__all__ = [
    "DEFAULT_PACKAGE_MANAGER",
    "Description",
    "ImageType",
    "Package",
    "PackageSection",
    "Profile",
    "Repository",
    "Selection",
    "mask",
    "read",
    "repositories_of",
    "repository",
    "select",
    "summary",
]

#: KIWI's package manager when no ``<packagemanager>`` is given (kiwi ``defaults.py``).
DEFAULT_PACKAGE_MANAGER: Final = "dnf4"

# Characters of an image's name that KIWI's schema allows; the name becomes a file name.
_SAFE_NAME = re.compile(r"[a-zA-Z0-9_.-]+")
_REPOSITORY_KINDS: Final = {"apt": "apt-deb", "apk": "apk", "pacman": "mirrors"}


def read(folder: Path, *, kiwi_file: str | None = None) -> Description:
    """Read the description in a folder.

    Args:
        folder: the description, or its main file itself.
        kiwi_file: name of the main file where it is not ``config.xml`` or the only ``*.kiwi``.

    Raises:
        DescriptionError: there is none, KIWI could not read it, or it lacks what every image has.
    """
    file = description_source.find(folder, kiwi_file)
    source = description_source.load(file)
    root = source.root
    folder = folder.absolute()
    name = root.get("name") or ""
    if not _SAFE_NAME.fullmatch(name) or name in (".", ".."):
        raise DescriptionError(
            f"{file} gives the image no usable name",
            details=f"{place(file, root)}: name={name!r}",
            resolution="Letters, digits, '_', '-' and '.' are allowed.",
        )
    version = _first_text(root.findall("preferences"), "version")
    if not version:
        raise _no_version(file)
    if "/" in version or not version.isprintable():
        raise DescriptionError(
            f"{file} gives the image no usable version",
            details=f"<version>{version!r}</version> cannot be part of a file name.",
        )
    return Description(
        folder=file.parent if folder == file else folder,
        file=file,
        name=name,
        displayname=root.get("displayname") or "",
        version=version,
        package_manager=_package_manager(root.findall("preferences")),
        types=tuple(_types(file, root.findall("preferences"))),
        profiles=tuple(_profile(file, element) for element in root.iterfind("profiles/profile")),
        repositories=tuple(repositories_of(source)),
        packages=tuple(_packages(file, element) for element in root.findall("packages")),
        includes=source.includes,
        document=root,
    )


def select(
    description: Description,
    *,
    profiles: Sequence[str],
    image_type: str | None,
    arch: str | None = None,
) -> Selection:
    """Choose profiles and a type as KIWI does.

    Without profiles those with ``import="true"`` apply; named ones bring what they require. The
    type is the named one, else the first ``primary``, else the first.

    Args:
        description: what was read.
        profiles: names given by the user.
        image_type: ``image`` attribute of the wanted type.
        arch: architecture in the words of ``uname -m``; this host's where not given.

    Raises:
        DescriptionError: a profile or type does not exist, or KIWI would refuse the choice.
    """
    machine = arch or platform.machine()
    chosen = _effective_profiles(description, profiles, machine)

    def applies(element: etree._Element) -> bool:
        wanted = _listed(element, "profiles")
        return (not wanted or any(name in chosen for name in wanted)) and _fits(element, machine)

    preferences = [one for one in description.document.findall("preferences") if applies(one)]
    picked = _pick_type(
        description, _types(description.file, preferences), image_type, chosen, machine
    )
    version = _first_text(preferences, "version")
    if not version:
        raise _no_version(description.file, chosen)
    manager = _package_manager(preferences)
    sections = [one for one in description.document.findall("packages") if applies(one)]
    names = {
        (package.get("name") or "").strip()
        for section in sections
        if section.get("type") in ("bootstrap", "image", picked.image)
        for package in section.findall("package")
        if _fits(package, machine)
    }
    kind = _REPOSITORY_KINDS.get(manager, "rpm-md")
    return Selection(
        profiles=chosen,
        image_type=picked,
        repositories=tuple(
            one if one.kind else dataclasses.replace(one, kind=kind)
            for one in description.repositories
            if (not one.profiles or any(name in chosen for name in one.profiles))
            and (not one.arch or machine in one.arch)
        ),
        packages=tuple(sorted(names)),
        version=version,
        package_manager=manager,
    )


def repositories_of(source: Source) -> list[Repository]:
    """Return the repositories of a document, in the order of its ``<repository>`` elements.

    Raises:
        DescriptionError: one has no source, or a truth value that is none.
    """
    return [repository(source.file, element) for element in source.root.findall("repository")]


def repository(file: Path, element: etree._Element) -> Repository:
    """Read one ``<repository>`` element of ``file``.

    Raises:
        DescriptionError: it has no source, or a truth value that is none.
    """
    source = element.find("source")
    path = source.get("path") if source is not None else None
    if source is None or not path:
        raise DescriptionError(
            "A repository has no source",
            details=place(file, element),
            resolution='Add <source path="..."/> to it.',
        )
    return Repository(
        source=path,
        kind=element.get("type") or "",
        alias=element.get("alias") or "",
        distribution=element.get("distribution") or "",
        components=element.get("components") or "",
        image_include=_flag(file, element, "imageinclude") is True,
        image_only=_flag(file, element, "imageonly") is True,
        repository_gpgcheck=_flag(file, element, "repository_gpgcheck"),
        package_gpgcheck=_flag(file, element, "package_gpgcheck"),
        signing_keys=tuple(key.get("key") or "" for key in source.findall("signing")),
        profiles=_listed(element, "profiles"),
        arch=_listed(element, "arch"),
        username=element.get("username") or "",
        password=element.get("password") or "",
        priority=element.get("priority") or "",
        source_type=element.get("sourcetype") or "",
    )


def _effective_profiles(
    description: Description, wanted: Sequence[str], machine: str
) -> tuple[str, ...]:
    available = {
        element.get("name") or "": element
        for element in description.document.iterfind("profiles/profile")
        if _fits(element, machine)
    }
    if not wanted:
        # KIWI does not follow what an imported profile requires.
        imported = [one for one in description.profiles if one.imported and one.name in available]
        return tuple(one.name for one in imported)
    chosen: list[str] = []

    def add(name: str, asker: str) -> None:
        if name not in available:
            raise _no_profile(description, name, asker, sorted(available), machine)
        if name not in chosen:
            chosen.append(name)
            for required in available[name].findall("requires"):
                if _fits(required, machine):
                    add(required.get("profile") or "", f"profile {name}")

    for name in wanted:
        add(name, "")
    return tuple(chosen)


def _no_profile(
    description: Description, name: str, asker: str, available: list[str], machine: str
) -> DescriptionError:
    here = any(one.name == name for one in description.profiles)
    return DescriptionError(
        f"The description has no profile {name!r}"
        + (f" for {machine}" if here else "")
        + (f", which {asker} requires" if asker else ""),
        details=f"{description.file} has the profiles: {', '.join(available) or 'none'}",
        resolution=_nearest(name, available),
    )


def _pick_type(
    description: Description,
    types: list[ImageType],
    wanted: str | None,
    chosen: Sequence[str],
    machine: str,
) -> ImageType:
    with_profiles = f"with the profiles {', '.join(chosen)}" if chosen else "without a profile"
    names = [one.image for one in types]
    twice = sorted({name for name in names if names.count(name) > 1})
    matching = [one for one in types if one.image == wanted] if wanted else types
    if not matching:
        every = "; ".join(
            one.image
            + (f" (profiles {', '.join(one.profiles)})" if one.profiles else "")
            + (f" (only {', '.join(one.arch)})" if one.arch and machine not in one.arch else "")
            for one in description.types
        )
        raise DescriptionError(
            f"The description has no type {wanted!r} {with_profiles}"
            if wanted
            else f"The description has no type {with_profiles}",
            details=f"{description.file} has the types: {every or 'none'}",
            resolution=_nearest(wanted or "", names) or "Choose a type and the profiles it needs.",
        )
    if twice:
        # KIWI checks all types that apply, not only the wanted one (check_image_type_unique).
        raise DescriptionError(
            f"The type {twice[0]!r} is there more than once {with_profiles}",
            details=f"{description.file}: KIWI refuses to choose between them.",
            resolution="Put each into a <preferences> of its own profile, and name the profile.",
        )
    return next((one for one in matching if one.primary), matching[0])


def _nearest(name: str, choices: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(choices), n=1)
    return f"Did you mean {close[0]!r}?" if close else ""


def _no_version(file: Path, profiles: Sequence[str] = ()) -> DescriptionError:
    suffix = f" with the profiles {', '.join(profiles)}" if profiles else ""
    return DescriptionError(
        f"{file} gives the image no version{suffix}",
        resolution="Add <version>1.0.0</version> to a <preferences> element.",
    )


def _types(file: Path, preferences: Iterable[etree._Element]) -> list[ImageType]:
    return [
        ImageType(
            image=element.get("image") or "",
            primary=_flag(file, element, "primary") is True,
            profiles=_listed(section, "profiles"),
            attributes=MappingProxyType({str(key): str(text) for key, text in element.items()}),
            arch=_listed(section, "arch"),
            lvm=_lvm(file, element),
        )
        for section in preferences
        for element in section.findall("type")
    ]


def _lvm(file: Path, element: etree._Element) -> bool:
    """Tell whether a type's volumes are LVM's: KIWI 11.1.6, xml_state.py, get_volume_management."""
    disk = element.find("systemdisk")
    if disk is None:
        return False
    return _flag(file, disk, "preferlvm") is True or element.get("filesystem") != "btrfs"


def _profile(file: Path, element: etree._Element) -> Profile:
    return Profile(
        name=element.get("name") or "",
        description=element.get("description") or "",
        imported=_flag(file, element, "import") is True,
        requires=tuple(one.get("profile") or "" for one in element.findall("requires")),
        arch=_listed(element, "arch"),
    )


def _packages(file: Path, element: etree._Element) -> PackageSection:
    def names(tag: str) -> tuple[str, ...]:
        return tuple((one.get("name") or "").strip() for one in element.findall(tag))

    kind = element.get("type")
    if not kind:
        raise DescriptionError("A <packages> has no type", details=place(file, element))
    return PackageSection(
        kind=kind,
        profiles=_listed(element, "profiles"),
        packages=tuple(
            Package((one.get("name") or "").strip(), _listed(one, "arch"))
            for one in element.findall("package")
        ),
        archives=names("archive"),
        collections=names("namedCollection"),
        products=names("product"),
        ignored=names("ignore"),
        files=names("file"),
    )


def _flag(file: Path, element: etree._Element, name: str) -> bool | None:
    text = element.get(name)
    if text is None:
        return None
    if text not in ("true", "1", "false", "0"):
        raise DescriptionError(
            f"The attribute {name} must be true or false",
            details=f"{place(file, element)}: {name}={text!r}",
        )
    return text in ("true", "1")


def _listed(element: etree._Element, name: str) -> tuple[str, ...]:
    # KIWI splits at the comma and strips nothing: "a, b" is the profiles "a" and " b".
    text = element.get(name)
    return tuple(text.split(",")) if text else ()


def _fits(element: etree._Element, machine: str) -> bool:
    wanted = _listed(element, "arch")
    return not wanted or machine in wanted


def _first_text(sections: Iterable[etree._Element], tag: str) -> str:
    for section in sections:
        text = (section.findtext(tag) or "").strip()
        if text:
            return text
    return ""


def _package_manager(preferences: Iterable[etree._Element]) -> str:
    return _first_text(preferences, "packagemanager") or DEFAULT_PACKAGE_MANAGER
