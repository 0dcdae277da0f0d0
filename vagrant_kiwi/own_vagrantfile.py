"""Whether a Vagrantfile of the user's own is used: it runs code on this host, so he must say so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vagrant_kiwi.errors import SettingsError
from vagrant_kiwi.settings import Settings

#: Build systems that have no Vagrant in them.
WITHOUT_VAGRANT = frozenset({"docker-direct", "host"})

_NAME = "Vagrantfile"


def choose(settings: Settings, folder: Path, *, say: Callable[[str], None]) -> Path | None:
    """Return the user's own Vagrantfile if it is to be used.

    Args:
        settings: the merged settings.
        folder: the description's.
        say: told of one that is there and not used.

    Raises:
        SettingsError: the one that was named is not there, Vagrant has no part in the build, or
            another KIWI than its box has is asked for.
    """
    chosen = _choose(settings, folder, say)
    if chosen is not None and settings.kiwi_version is not None:
        raise SettingsError(
            "A Vagrantfile of your own has the KIWI of its box",
            details=f"{chosen}; kiwi_version is {settings.kiwi_version}",
            resolution="Leave one of the two out.",
        )
    return chosen


def _choose(settings: Settings, folder: Path, say: Callable[[str], None]) -> Path | None:
    beside = folder / _NAME
    wanted = settings.vagrantfile
    if wanted == "trust":
        use = beside.is_file() and settings.provider not in WITHOUT_VAGRANT
        return _where(beside) if use else None
    if wanted is None:
        if beside.is_file() and settings.provider not in WITHOUT_VAGRANT:
            say(
                f"{beside} is not used: a Vagrantfile runs code on this host. "
                "--vagrantfile=PATH, or vagrantfile: trust in the settings, uses it"
            )
        return None
    assert isinstance(wanted, Path)  # noqa: S101 - the model allows nothing else
    if settings.provider in WITHOUT_VAGRANT:
        raise SettingsError(
            f"--provider={settings.provider} uses no Vagrantfile",
            details=f"vagrantfile is {wanted}",
            resolution="Leave one of the two out.",
        )
    path = wanted / _NAME if wanted.is_dir() else wanted
    if not path.is_file():
        raise SettingsError(
            "There is no such Vagrantfile",
            details=str(path),
            resolution="Correct --vagrantfile, or the setting vagrantfile.",
        )
    return _where(path)


def _where(path: Path) -> Path:
    # Vagrant runs in the folder where it lies, also when it is a link to another place.
    return path.parent.resolve() / path.name
