"""The plain data of a KIWI description; how it is read and chosen from is in ``description``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from lxml import etree

from vagrant_kiwi.description_source import Include


def mask(url: str) -> str:
    """Return a URL that may be shown: user, password and query replaced by stars.

    A password may hold unescaped ``/``, ``@`` or ``?``, so in doubt more is hidden than needed.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in authority or (":" in authority and "@" in rest):
        rest = "***@" + rest.rpartition("@")[2]
    path, question, _ = rest.partition("?")
    return f"{scheme}://{path}{'?***' if question else ''}"


def same_host(one: str, other: str) -> bool:
    """Tell whether two URLs name the same server, so that credentials may go along."""
    left, right = _host(one), _host(other)
    return bool(left) and left == right


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


@dataclass(frozen=True, repr=False)
class Repository:
    """A ``<repository>``; ``None`` in a gpgcheck means that the description does not say."""

    source: str
    kind: str = ""
    alias: str = ""
    distribution: str = ""
    components: str = ""
    image_include: bool = False
    image_only: bool = False
    repository_gpgcheck: bool | None = None
    package_gpgcheck: bool | None = None
    signing_keys: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()
    arch: tuple[str, ...] = ()
    username: str = ""
    password: str = ""
    priority: str = ""
    source_type: str = ""

    @property
    def public_source(self) -> str:
        """The source without credentials, for messages and JSON."""
        return mask(self.source)

    @property
    def has_credentials(self) -> bool:
        """Whether the source, or the attributes beside it, hold credentials."""
        return bool(self.username or self.password) or self.public_source != self.source

    def __repr__(self) -> str:
        return (
            f"Repository(source={self.public_source!r}, kind={self.kind!r}, alias={self.alias!r}, "
            f"distribution={self.distribution!r}, components={self.components!r})"
        )


@dataclass(frozen=True, repr=False)
class MirrorChoice:
    """A repository and the source it is built from instead."""

    original: Repository
    replacement: str

    def describe(self) -> str:
        """Return one line for the user, without credentials."""
        suite = f" ({self.original.distribution})" if self.original.distribution else ""
        new = mask(self.replacement)
        return f"Mirror: {self.original.public_source}{suite} is taken from {new} for this build"

    def __repr__(self) -> str:
        return f"MirrorChoice({self.original!r}, {mask(self.replacement)!r})"


@dataclass(frozen=True)
class FileChoice:
    """A signing key or an archive as the main file names it, and its name in the guest."""

    original: str
    replacement: str


@dataclass(frozen=True)
class ImageType:
    """A ``<type>``; ``profiles`` and ``arch`` are those of its ``<preferences>``.

    ``attributes`` can hold a disk's passphrase (``luks``), so they are not in the ``repr``.
    ``lvm`` tells whether KIWI puts the disk's volumes into LVM.
    """

    image: str
    primary: bool
    profiles: tuple[str, ...]
    attributes: Mapping[str, str] = field(repr=False)
    arch: tuple[str, ...] = ()
    lvm: bool = False

    @property
    def format(self) -> str:
        """The disk format, such as ``qcow2`` or ``vagrant``; empty where none is given."""
        return self.attributes.get("format", "")


@dataclass(frozen=True)
class Profile:
    """A ``<profile>``; ``imported`` ones apply when the user names no profile at all."""

    name: str
    description: str
    imported: bool
    requires: tuple[str, ...]
    arch: tuple[str, ...] = ()


@dataclass(frozen=True)
class Package:
    """A ``<package>``; without ``arch`` it is for all."""

    name: str
    arch: tuple[str, ...] = ()


@dataclass(frozen=True)
class PackageSection:
    """A ``<packages>``; ``kind`` is image, bootstrap, uninstall, delete or the name of a type."""

    kind: str
    profiles: tuple[str, ...]
    packages: tuple[Package, ...]
    archives: tuple[str, ...] = ()
    collections: tuple[str, ...] = ()
    products: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Description:
    """A description as it lies on disk, before profiles and a type are chosen.

    ``folder`` is what is pushed to the guest; ``file`` is the main file inside it. ``version`` and
    ``package_manager`` are the first ones of all profiles; those of a build are in ``Selection``.
    ``document`` is the ``<image>`` element with all includes in place; it must not be changed.
    """

    folder: Path
    file: Path
    name: str
    displayname: str
    version: str
    package_manager: str
    types: tuple[ImageType, ...]
    profiles: tuple[Profile, ...]
    repositories: tuple[Repository, ...]
    packages: tuple[PackageSection, ...]
    includes: tuple[Include, ...]
    document: etree._Element = field(repr=False, compare=False)

    @property
    def kiwi_file(self) -> str:
        """The main file relative to the folder, as ``--kiwi-file`` takes it."""
        return self.file.relative_to(self.folder).as_posix()


@dataclass(frozen=True)
class Selection:
    """What KIWI uses of a description for certain profiles and one type.

    ``packages`` are the sorted names to install in bootstrap and image; ``repositories`` have
    their ``kind`` filled in from the package manager where the description does not name it.
    """

    profiles: tuple[str, ...]
    image_type: ImageType
    repositories: tuple[Repository, ...]
    packages: tuple[str, ...]
    version: str
    package_manager: str


def summary(description: Description) -> dict[str, object]:
    """Return the description for ``invoke info --json``: no credentials, same order every time.

    Of a type only what tells it apart is shown; its other attributes can be secret (``luks``).
    """
    return {
        "name": description.name,
        "displayname": description.displayname,
        "version": description.version,
        "package_manager": description.package_manager,
        "folder": str(description.folder),
        "kiwi_file": description.kiwi_file,
        "includes": [include.reference for include in description.includes],
        "types": [
            {
                "image": one.image,
                "primary": one.primary,
                "format": one.format,
                "filesystem": one.attributes.get("filesystem", ""),
                "profiles": list(one.profiles),
                "arch": list(one.arch),
            }
            for one in description.types
        ],
        "profiles": [
            {
                "name": one.name,
                "description": one.description,
                "import": one.imported,
                "requires": list(one.requires),
                "arch": list(one.arch),
            }
            for one in description.profiles
        ],
        "repositories": [
            {
                "source": one.public_source,
                "credentials": one.has_credentials,
                "type": one.kind,
                "alias": one.alias,
                "distribution": one.distribution,
                "components": one.components.split(),
                "imageinclude": one.image_include,
                "imageonly": one.image_only,
                "repository_gpgcheck": one.repository_gpgcheck,
                "package_gpgcheck": one.package_gpgcheck,
                "signing_keys": [mask(key) for key in one.signing_keys],
                "profiles": list(one.profiles),
                "arch": list(one.arch),
                "priority": one.priority,
            }
            for one in description.repositories
        ],
        "packages": [
            {
                "type": section.kind,
                "profiles": list(section.profiles),
                "packages": [
                    one.name + (f" ({','.join(one.arch)})" if one.arch else "")
                    for one in section.packages
                ],
                "archives": list(section.archives),
                "collections": list(section.collections),
                "products": list(section.products),
                "ignored": list(section.ignored),
                "files": list(section.files),
            }
            for section in description.packages
        ],
    }
