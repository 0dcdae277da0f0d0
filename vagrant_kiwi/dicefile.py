"""Dice's own settings file, as a level of ours: it is read, and no Ruby runs.

What each key means was learned from Dice's sources (lib/config.rb, lib/build_system.rb,
lib/constants.rb) and its user guide.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from vagrant_kiwi.dicefile_syntax import Given, Source, assignments
from vagrant_kiwi.errors import SettingsError
from vagrant_kiwi.settings_model import HostSettings, Settings
from vagrant_kiwi.settings_problems import extra
from vagrant_kiwi.settings_sources import Level

NAME = "Dicefile"

#: Says which of Vagrant's providers a Dicefile means that names no other place.
PROVIDER_VARIABLE = "VAGRANT_DEFAULT_PROVIDER"

#: Real ones have ten lines.
_MOST_BYTES = 64 * 1024
# All but tab and newline: a lone carriage return hides what stands before it on a terminal, and at
# NUL, ^D and ^Z Ruby stops reading.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Dicefile:
    """What a Dicefile says.

    Args:
        path: the file, absolute.
        provider: the provider it means; None where it leaves that to Vagrant.
        address: the machine it names, for the provider ``host``.
        user: who logs in there, Dice's default included; None where there is no such machine.
        identity_file: the private key for it, absolute; None for ssh's own choice. Dice's default
            was Vagrant's insecure key, which is no key for a machine that lasts.
    """

    path: Path
    provider: str | None = None
    address: str | None = None
    user: str | None = None
    identity_file: Path | None = None

    def section(self, environ: Mapping[str, str]) -> dict[object, object]:
        """Return the settings that say the same.

        Args:
            environ: the process environment; ``VAGRANT_DEFAULT_PROVIDER`` counts as for Dice.

        Raises:
            SettingsError: that variable cannot be the name of a provider.
        """
        host = {
            name: value
            for name, value in (
                ("address", self.address),
                ("user", self.user),
                ("identity_file", self.identity_file),
            )
            if value is not None
        }
        provider = self.provider or environ.get(PROVIDER_VARIABLE) or "docker"
        allowed = _refused(Settings, "provider", provider)
        if allowed:
            raise SettingsError(
                f"{PROVIDER_VARIABLE} in the environment names no provider",
                details=f"{provider!r}. Allowed: {allowed}",
                resolution=f"Correct or unset it; {self.path} leaves the provider to it.",
            )
        return {"provider": provider, **({"host": host} if host else {})}


def level(description: Path, environ: Mapping[str, str]) -> Level | None:
    """Return the settings of the Dicefile that lies in the folder of a description.

    Args:
        description: the description's folder or main file, absolute.
        environ: the process environment.

    Returns:
        The level; None where there is no Dicefile.

    Raises:
        SettingsError: it cannot be read, or holds something that is not understood.
    """
    path = find(description)
    if path is None:
        return None
    found = read(path, environ)
    by_variable = found.provider is None and environ.get(PROVIDER_VARIABLE)
    return Level(
        origin=str(path),
        base=path.parent,
        data=found.section(environ),
        names={"provider": PROVIDER_VARIABLE} if by_variable else {},
    )


def find(description: Path) -> Path | None:
    """Return the Dicefile beside a description, if there is one.

    Args:
        description: the description's folder or main file, absolute.

    Raises:
        SettingsError: its folder cannot be looked into.
    """
    try:
        path = (description.parent if description.is_file() else description) / NAME
        return path if path.is_file() else None
    except OSError as error:
        raise _unreadable(description / NAME, error) from error


def read(path: Path, environ: Mapping[str, str]) -> Dicefile:
    """Read a Dicefile.

    Args:
        path: the file, absolute.
        environ: the process environment, for ``HOME``.

    Raises:
        SettingsError: it cannot be read, or holds something that is not understood.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(_MOST_BYTES + 1)
        # A link in a stranger's description may lead to a secret, which an error would show.
        shown = not path.is_symlink()
    except OSError as error:
        raise _unreadable(path, error) from error
    return parse(path, data, environ, shown=shown)


def parse(path: Path, data: bytes, environ: Mapping[str, str], *, shown: bool = True) -> Dicefile:
    """Return what the content of a Dicefile says.

    Args:
        path: the file, absolute; relative paths in it start from its folder.
        data: its content.
        environ: the process environment, for ``HOME``.
        shown: whether errors may repeat a line of it.

    Raises:
        SettingsError: it holds something that is not understood.
    """
    if len(data) > _MOST_BYTES:
        raise SettingsError(
            f"The Dicefile {path} is too long",
            details=f"It has more than {_MOST_BYTES} bytes.",
            resolution="Put what it means into invoke.yaml, and remove the Dicefile.",
        )
    source = Source(path, data.decode("utf-8-sig", "replace").replace("\r\n", "\n"), shown)
    _check_text(source, data)
    home = environ.get("HOME", "")
    found = assignments(source, home=home if home.startswith("/") else None)
    key = found.get("ssh_private_key")
    checked = {
        "user": _checked(source, "user", found.get("ssh_user")),
        "identity_file": _checked(source, "identity_file", key),
    }
    where = found.get("buildhost")
    if where is None or where.symbol:
        providers = {":DOCKER": "docker-direct", ":VAGRANT": None}
        if where is not None and where.value not in providers:
            raise source.refused(where.line, f"There is no {where.value}.")
        # Our own guests have their user and key from us, whatever the Dicefile says of these.
        return Dicefile(path, providers[where.value] if where is not None else None)
    return Dicefile(
        path,
        provider="host",
        address=_address(source, where),
        user=checked["user"] or "vagrant",
        identity_file=Path(key.value) if key is not None else None,
    )


def _check_text(source: Source, data: bytes) -> None:
    """Refuse what is no text: another encoding, and characters that hide what a line says."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise source.refused(line, "It is not encoded in UTF-8.") from error
    for number, text in enumerate(source.text.split("\n"), 1):
        if _CONTROL.search(text):
            raise source.refused(number, "There is a control character in it.")


def _address(source: Source, where: Given) -> str:
    if where.value.count(":") == 1:
        raise source.refused(
            where.line, "buildhost has no port: Dice uses 22. Set host.port in invoke.yaml."
        )
    return _checked(source, "address", where) or ""


def _checked(source: Source, name: str, given: Given | None) -> str | None:
    """Return a value that the setting ``host.<name>`` takes."""
    if given is None:
        return None
    allowed = _refused(HostSettings, name, given.value)
    if allowed:
        raise source.refused(given.line, f"It must be {allowed}.")
    return given.value


def _refused(model: type[BaseModel], name: str, value: str) -> str:
    """Return what a setting may be, if it does not take this value; else nothing."""
    try:
        model.model_validate({name: value})
    except ValidationError:
        return str(extra(model.model_fields[name])["allowed"])
    return ""


def _unreadable(path: Path, error: OSError) -> SettingsError:
    return SettingsError(
        f"Cannot read the Dicefile {path}",
        details=error.strerror or str(error),
        resolution="Correct its permissions, or remove it.",
    )
