"""Makes the copy of a description that goes to the guest fit for KIWI there.

Only the copy is written, never what it was copied from: not even through a symlink or an include.
"""

from __future__ import annotations

import copy
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lxml import etree

from vagrant_kiwi import description, description_source
from vagrant_kiwi.description_model import FileChoice, MirrorChoice, Repository, same_host
from vagrant_kiwi.errors import DescriptionError


def name_in_guest(kiwi_file: str) -> str:
    """Return the name to give KIWI with ``--kiwi-file`` for a copied main file.

    Args:
        kiwi_file: the main file, relative to its folder.
    """
    # KIWI goes by some endings and would take our XML for YAML or the like.
    return f"{kiwi_file}.kiwi" if description_source.hides_xml(kiwi_file) else kiwi_file


def rewrite(
    folder: Path,
    kiwi_file: str | Path,
    choices: Sequence[MirrorChoice],
    *,
    original: Path | None = None,
    files: Sequence[FileChoice] = (),
) -> str:
    """Put the chosen mirrors, and all includes, into the main file of a copied description.

    The result is one XML file. KIWI reads other markups only where anymarkup-core and more are
    installed beside it, TOML and tabbed JSON not under the name ``*.kiwi``, and an include only
    from where the path means the same as here. A description that is one plain XML file and
    needs no mirror stays as it is, byte for byte.

    A repository that goes into the image becomes two: one with the mirror for the build, and one
    as it was for the image (``imageonly``). Both keep the alias: KIWI 11.1.6 writes the first to
    the cache of the build, the second into the image (``xml_state.py``,
    ``get_repository_sections_used_for_build`` and ``..._used_in_image``).

    Args:
        folder: the copy.
        kiwi_file: its main file, relative to the folder.
        choices: what ``mirrors.choose`` returned.
        original: the folder that was copied; includes and symlinks that lead out of it
            are followed from there. Without it they are followed from the copy.
        files: signing keys and archives that have another name in the guest.

    Returns:
        The main file to name to KIWI with ``--kiwi-file``: that of ``name_in_guest``.

    Raises:
        DescriptionError: the copy is not what the choices were made for, or cannot be written.
    """
    file = description_source.find(original or folder, str(kiwi_file))
    source = description_source.load(file)
    if source.plain and not choices and not files and not file.is_symlink():
        return Path(kiwi_file).as_posix()
    missing = list(choices)
    for element in source.root.findall("repository"):
        said = description.repository(file, element)
        choice = next((one for one in choices if _same(said, one.original)), None)
        if choice is not None:
            _move(element, said, choice.replacement)
            missing = [one for one in missing if one.original != choice.original]
    # After the repositories, which are known by their keys as well.
    lost = [f"repository {one.original.public_source}" for one in missing]
    lost += [one.original for one in files if not _rename(source.root, one)]
    if lost:
        raise DescriptionError(
            "The copy of the description is not the one that was planned",
            details=f"{file} has no {lost[0]}",
            resolution="Was the description edited meanwhile? Start again.",
        )
    folder = folder.absolute()
    target = folder / name_in_guest(str(kiwi_file))
    if (original or folder).joinpath(target.relative_to(folder)) != file and (
        (original or folder) / target.relative_to(folder)
    ).exists():
        raise DescriptionError(
            f"{target.name} is in the way",
            details=f"{kiwi_file} reaches KIWI as XML under that name",
            resolution="Rename one of the two.",
        )
    if not target.parent.resolve().is_relative_to(folder.resolve()):
        raise DescriptionError(
            f"{kiwi_file} lies outside of the description",
            details=f"A symlink leads to {target.parent.resolve()}",
            resolution="Put the file into the description.",
        )
    _write(target, description_source.as_xml(source.root), file.stat().st_mode & 0o777)
    return target.relative_to(folder).as_posix()


def _same(said: Repository, wanted: Repository) -> bool:
    # A selection fills in the kind where the description does not name it.
    return wanted in (said, dataclasses.replace(said, kind=said.kind or wanted.kind))


def _move(element: etree._Element, said: Repository, replacement: str) -> None:
    if said.image_include:
        kept = copy.deepcopy(element)
        del kept.attrib["imageinclude"]
        kept.set("imageonly", "true")
        element.addnext(kept)
    element.attrib.pop("imageinclude", "")
    for source in element.findall("source"):
        source.set("path", replacement)
    if not same_host(said.source, replacement):
        # They are meant for the server that is not asked now.
        element.attrib.pop("username", "")
        element.attrib.pop("password", "")


def _rename(root: etree._Element, choice: FileChoice) -> bool:
    """Name a file anew; tell whether it was named at all."""
    found = [
        (element, name)
        for path, name in (("repository/source/signing", "key"), ("packages/archive", "name"))
        for element in root.iterfind(path)
        if (element.get(name) or "").strip() == choice.original.strip()
    ]
    for element, name in found:
        element.set(name, choice.replacement)
    return bool(found)


def _write(target: Path, data: bytes, mode: int) -> None:
    try:
        # A new file takes the place of the old name, so that a symlink is not followed.
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".kiwi-", delete=False) as new:
            name = Path(new.name)
            try:
                new.write(data)
                new.close()
                name.chmod(mode)
                name.replace(target)
            except BaseException:
                name.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise DescriptionError(
            f"The copy of the description cannot be written: {target}",
            details=error.strerror or str(error),
        ) from error
