"""Writes a first invoke.yaml, from a Dicefile."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import yaml

from vagrant_kiwi import dicefile, state
from vagrant_kiwi.errors import SettingsError
from vagrant_kiwi.invocation import FILE_NAMES
from vagrant_kiwi.settings_sources import SECTION

_VAGRANTFILE = "Vagrantfile"

# The section is a mapping, so this can stand at its end.
_HINT = """\
  # Vagrant runs the description's Vagrantfile as code on this host; if you trust it:
  # vagrantfile: trust
"""


def from_dicefile(path: Path, *, cwd: Path, environ: Mapping[str, str]) -> dict[str, object]:
    """Write the settings that say the same as a Dicefile into invoke.yaml of the current folder.

    Args:
        path: the Dicefile or its folder; a relative one starts from ``cwd``.
        cwd: the current folder, absolute.
        environ: the process environment, for ``HOME`` and ``VAGRANT_DEFAULT_PROVIDER``.

    Returns:
        ``written``, the file's path, and the section in it.

    Raises:
        SettingsError: there is no Dicefile, or it is not understood; or the folder has settings of
            Invoke's already, which stay as they are, or it cannot be written to.
    """
    home = environ.get("HOME", "")
    # Shells leave the sign alone in --from-dicefile=~/x.
    path = Path(home) / path.relative_to("~") if path.parts[:1] == ("~",) and home else cwd / path
    try:
        file = path if path.is_file() else dicefile.find(path)
    except OSError as error:
        raise SettingsError(
            f"Cannot look for a Dicefile in {path}", details=error.strerror or str(error)
        ) from error
    if file is None:
        raise SettingsError(
            f"There is no Dicefile {path}",
            resolution="Name a Dicefile, or the folder that holds one.",
        )
    section = _section(dicefile.read(file, environ), cwd, environ)
    text = yaml.safe_dump({SECTION: section}, sort_keys=False, allow_unicode=True)
    if (file.parent / _VAGRANTFILE).is_file():
        text += _HINT
    _check_free(cwd, text)
    try:
        state.write_text(cwd / FILE_NAMES[0], text)
    except OSError as error:
        raise SettingsError(
            f"Cannot write {cwd / FILE_NAMES[0]}",
            details=error.strerror or str(error),
            resolution="Change to a folder that you may write to.",
        ) from error
    return {"written": str(cwd / FILE_NAMES[0]), SECTION: section}


def _section(
    found: dicefile.Dicefile, cwd: Path, environ: Mapping[str, str]
) -> dict[object, object]:
    section = found.section(environ)
    host = section.get("host")
    if isinstance(host, dict) and found.identity_file is not None:
        host["identity_file"] = _written(found.identity_file, cwd, environ)
    return {"description": _written(found.path.parent, cwd, environ), **section}


def _written(path: Path, cwd: Path, environ: Mapping[str, str]) -> str:
    """Return a path as invoke.yaml says it: such that others can use the file, too."""
    relative = str(path.relative_to(cwd)) if path.is_relative_to(cwd) else ""
    # A name may begin with the sign that stands for the home folder.
    if relative and not relative.startswith("~"):
        return relative
    home = environ.get("HOME", "")
    if home.startswith("/") and path != Path(home) and path.is_relative_to(home):
        return f"~/{path.relative_to(home)}"
    return str(path)


def _check_free(cwd: Path, text: str) -> None:
    for name in FILE_NAMES:
        if os.path.lexists(cwd / name):
            raise SettingsError(
                f"There is {cwd / name} already, and it stays as it is",
                details=text,
                resolution="Put these settings into it yourself.",
            )
