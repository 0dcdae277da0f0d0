"""Finds what a description refers to outside of itself, and how the guest gets it.

Repositories, signing keys and archives that lie on this host are pushed and named anew in the
pushed copy; symlinks are followed. Includes need nothing: ``description_copy`` puts them into the
main file. What KIWI takes as local was read in kiwi-ng 11.1.6: ``system/uri.py``, ``xml_state.py``
(``resolve_this_path``) and ``system/setup.py`` (``import_overlay_files``).
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from vagrant_kiwi import links, mirrors
from vagrant_kiwi.description_model import (
    Description,
    FileChoice,
    MirrorChoice,
    Repository,
    Selection,
    mask,
)
from vagrant_kiwi.errors import DescriptionError
from vagrant_kiwi.links import Bounds, Push

_THIS = "this://"
#: Where a guest has signing keys of its own, from its box.
_OF_THE_GUEST = ("/etc", "/usr")


@dataclass(frozen=True)
class References:
    """What makes a description whole in the guest.

    ``exclude`` are the rsync patterns that stay out of the description's own push; ``pushes`` come
    after it, in this order. ``repositories`` and ``files`` are what the pushed copy names anew.
    """

    exclude: tuple[str, ...]
    pushes: tuple[Push, ...]
    repositories: tuple[MirrorChoice, ...]
    files: tuple[FileChoice, ...]


def find(
    description: Description,
    selection: Selection,
    *,
    guest: str,
    folder: str,
    state: Path,
    mapping: mirrors.MirrorSetting,
    synced: Sequence[str] = (),
) -> References:
    """Decide what a build's description needs from outside of its folder; changes nothing.

    Args:
        description: what was read.
        selection: the type and profiles to build.
        guest: the description's folder in the guest.
        folder: the guest folder for what is pushed besides it.
        state: our own folder on this host, which no guest gets.
        mapping: the setting ``mirrors``; what it maps a source to counts, local or not.
        synced: guest paths that the setting ``sync`` fills: what lies there is in the guest.

    Raises:
        DescriptionError: something is not on this host, or cannot be brought in; all are named.
    """
    root = description.folder.resolve()
    main = (root / description.kiwi_file).parent
    # Of all profiles: the links of one that is not built are an image's, too.
    names = ("root", *(one.name for one in description.profiles if one.name))
    overlays = {Path(os.path.realpath(main / name)) for name in names} - {root}
    bounds = Bounds(root, state.resolve(), frozenset(overlays))
    tree = links.scan(root, guest, bounds)
    found = _Finder(root, main, guest, folder, bounds, tuple(synced), list(tree.pushes))
    found.problems += tree.problems
    for one in selection.repositories:
        if not one.image_only:
            found.repository(one, mirrors.mapped_source(one.source, mapping) or one.source)
    # KIWI imports the keys of all, also of those that are only for the image.
    for key in dict.fromkeys(key for one in selection.repositories for key in one.signing_keys):
        found.key(key)
    for section in description.packages:
        if section.kind in ("bootstrap", "image", selection.image_type.image) and (
            not section.profiles or set(section.profiles) & set(selection.profiles)
        ):
            found.archives(section.archives)
            found.listed(section.files)
    if found.problems:
        raise DescriptionError(
            "The description refers to something that cannot be brought into the guest",
            details="\n".join(dict.fromkeys(found.problems)),
            resolution="Correct these, or put what they name into the description's folder. The "
            "setting mirrors can name another source for a repository, and the setting sync "
            "brings a folder to the path that the description names.",
        )
    return References(
        exclude=tree.exclude,
        pushes=tuple(found.pushes),
        repositories=tuple(found.repositories),
        files=tuple(dict.fromkeys(found.files)),
    )


@dataclass
class _Finder:
    """Collects what ``find`` returns, and the problems."""

    root: Path
    main: Path
    guest: str
    folder: str
    bounds: Bounds
    synced: tuple[str, ...]
    pushes: list[Push]
    repositories: list[MirrorChoice] = field(default_factory=list)
    files: list[FileChoice] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    placed: dict[Path, str] = field(default_factory=dict)

    def repository(self, one: Repository, source: str) -> None:
        """Bring in a local repository; ``source`` is where it is taken from."""
        name = mask(source)
        scheme = _scheme(source)
        if scheme == "iso":
            self.problems.append(
                f"{name}: KIWI reads no iso: any more; mount it, and name the folder with dir://"
            )
            return
        if scheme == "obsrepositories":
            self.problems.append(
                f"{name}: only a worker of the Open Build Service has it; name the repository's URL"
            )
            return
        path = self._lies(source)
        if path is None:
            return
        if not path.is_absolute():
            self.problems.append(f"{name}: KIWI takes no relative path here; write dir:///PATH")
            return
        real = self._real(name, path)
        if real is None:
            return
        if real.is_file():
            self.problems.append(f"{name}: {real} is a file, not the folder of a repository")
            return
        self.repositories.append(MirrorChoice(one, f"dir://{self._place_folder(real)}"))

    def key(self, key: str) -> None:
        """Bring in a signing key of this host; one that is not here may be the guest's."""
        path = self._lies(key)
        if path is None or not path.is_absolute() or not os.path.isfile(path):  # noqa: PTH113
            return
        if not key.startswith(_THIS) and any(path.is_relative_to(one) for one in _OF_THE_GUEST):
            return
        real = self._real(mask(key), path)
        if real is not None:
            self.files.append(FileChoice(key, f"file://{self._place_file(real)}"))

    def archives(self, names: Sequence[str]) -> None:
        """Bring in archives that are named by an absolute path."""
        for name in names:
            path = Path(name)
            if not path.is_absolute() or self._synced(path):
                continue
            real = self._real(f"<archive> {name}", path)
            if real is None:
                continue
            if real.is_file():
                self.files.append(FileChoice(name, self._place_file(real)))
            else:
                self.problems.append(f"<archive> {name}: it is no file")

    def listed(self, names: Sequence[str]) -> None:
        """Refuse ``<file>`` with an absolute path: KIWI copies it and then looks elsewhere."""
        self.problems += [
            f"<file> {name}: KIWI finds no absolute path; put the file, or a symlink to it, "
            f"into {self.main}, and name that"
            for name in names
            if name.startswith("/")
        ]

    def _lies(self, source: str) -> Path | None:
        """Return the path on this host that a source names, None where nothing is to be done.

        KIWI takes the path of the URL and forgets the host in it, and does not unquote.
        """
        if source.startswith(_THIS):
            path = source.replace(_THIS, "")
            if not path.startswith("/"):
                way = (self.main.relative_to(self.root) / path).as_posix()
                if links.stays(self.root, way, self.bounds.state) or self._in_place(way):
                    return None
                return self.main / path
        elif _scheme(source) in ("dir", "file", "/"):
            path = urlsplit(source).path
        else:
            return None
        lies = Path(posixpath.normpath(path))
        return None if self._synced(lies) else lies

    def _in_place(self, way: str) -> bool:
        """Tell whether a path is below a link in whose place its content is pushed."""
        path = f"{self.guest}/{way}"
        return ".." not in way.split("/") and any(
            path == one.target or path.startswith(f"{one.target}/") for one in self.pushes
        )

    def _synced(self, path: Path) -> bool:
        return any(path.is_relative_to(target) for target in self.synced)

    def _real(self, name: str, path: Path) -> Path | None:
        try:
            real = Path(os.path.realpath(path, strict=True))
        except OSError as error:
            hint = links.reason(error)
            host = urlsplit(name).netloc if _scheme(name) in ("dir", "file") else ""
            if host not in ("", "localhost"):
                hint = f"{hint}; to KIWI it means {path}: write three slashes"
            self.problems.append(f"{name}: {hint}")
            return None
        refused = links.refusal(real, self.bounds)
        if refused:
            self.problems.append(f"{name}: {refused}")
        return None if refused else real

    def _place_folder(self, real: Path) -> str:
        if real not in self.placed:
            target = self.placed[real] = f"{self.folder}/{len(self.placed)}"
            tree = links.scan(real, target, self.bounds)
            self.pushes += [Push(real, target, tree.exclude), *tree.pushes]
            self.problems += tree.problems
        return self.placed[real]

    def _place_file(self, real: Path) -> str:
        if real not in self.placed:
            # The ending says how an archive is packed; the rest could mean something to a URL.
            safe = re.sub(r"[^A-Za-z0-9._+-]", "_", real.name)
            self.placed[real] = f"{self.folder}/{len(self.placed)}/{safe}"
            self.pushes.append(Push(real, self.placed[real]))
        return self.placed[real]


def _scheme(source: str) -> str:
    """Return the scheme of a source, "/" for a bare absolute path."""
    if source.startswith("/"):
        return "/"
    try:
        return urlsplit(source).scheme
    except ValueError:
        return ""
