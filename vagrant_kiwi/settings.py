"""Merge all levels of settings into one frozen object.

Levels, lowest first: defaults, libvirt's own LIBVIRT_DEFAULT_URI, the description's Dicefile,
Invoke's ``Collection.configure``, the system, user and project file, the environment, the file of
``-f``, flags. Each is validated from its own source before they are merged, so that an error can
name the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from invoke.config import Config
from pydantic import BaseModel, ValidationError

from vagrant_kiwi import dicefile, invocation
from vagrant_kiwi.errors import SettingsError
from vagrant_kiwi.settings_model import (
    BundleSettings,
    DockerSettings,
    HostEntry,
    HostSettings,
    KiwiSettings,
    LibvirtSettings,
    Settings,
    SyncEntry,
    Timeouts,
)
from vagrant_kiwi.settings_problems import extra, leaves, problems
from vagrant_kiwi.settings_sources import (
    FLAGS,
    Kind,
    Level,
    child_environment,
    environment,
    environment_level,
    flags_level,
    libvirt_level,
    nested,
)

__all__ = [
    "KEYS",
    "BundleSettings",
    "DockerSettings",
    "HostEntry",
    "HostSettings",
    "Key",
    "KiwiSettings",
    "LibvirtSettings",
    "LoadedSettings",
    "Settings",
    "SyncEntry",
    "Timeouts",
    "child_environment",
    "environment",
    "load",
]


@dataclass(frozen=True)
class Key:
    """One setting, for the documentation and for reading text.

    Args:
        name: its dotted key.
        about: what it does.
        allowed: what it may be, in words.
        default: its default.
        kind: how text from the environment or a flag stands for it.
        secret: whether it may hold a password.
    """

    name: str
    about: str
    allowed: str
    default: object
    kind: Kind
    secret: bool


def _keys() -> Iterator[Key]:
    for name, info in leaves(Settings):
        said = extra(info)
        yield Key(
            name=name,
            about=info.description or "",
            allowed=said["allowed"],
            default=info.default,
            kind=said["kind"],
            secret=said["secret"],
        )


#: What flags add to, where all other settings are replaced.
_ADDED = frozenset({"sync", "provision"})

#: All settings by dotted key, in the order of the models.
KEYS: Mapping[str, Key] = MappingProxyType({key.name: key for key in _keys()})


@dataclass(frozen=True)
class LoadedSettings:
    """The merged settings and where they come from.

    Args:
        settings: the merged settings; all host paths are absolute.
        project_dir: absolute folder of the project's invoke.yaml or tasks.py.
        origins: for each dotted key "default", a file's path, a variable's name or
            "the command line".
    """

    settings: Settings
    project_dir: Path
    origins: Mapping[str, str] = field(default_factory=dict)


def load(
    config: Config,
    *,
    environment: Mapping[str, str],
    flags: Mapping[str, object],
    cwd: Path,
) -> LoadedSettings:
    """Read and validate every level of settings, and merge them.

    A higher level's value replaces a lower one's, setting by setting; lists and the map of
    ``mirrors`` are replaced whole, but for the flags ``--sync`` and ``--provision``, which add.
    Paths are relative to the file that holds them; in the environment and in flags to the current
    folder. A null in a file, where it is allowed, gives the default back.

    The Dicefile beside the description is read for the tasks that have a description, which are
    those with a flag for it. A machine that it names must be known already, whatever
    ``host.host_key`` is in other levels: it comes with the description, perhaps from a stranger.

    Args:
        config: Invoke's configuration, as a task's context has it.
        environment: the process environment, from ``environment()``.
        flags: what the task's arguments hold, by dotted key; None, False and an empty list mean
            "not given", and a key "not bundle.enabled" is for a flag that turns a setting off.
        cwd: the current folder, absolute.

    Raises:
        SettingsError: a level holds something invalid; its details have a line for each such thing.
        ValueError: a flag's key is no setting, which is a mistake in the task.
    """
    project = invocation.project_dir(config, cwd=cwd)
    kinds = {name: key.kind for name, key in KEYS.items()}
    values: dict[str, object] = {}
    origins: dict[str, str] = dict.fromkeys(KEYS, "default")
    files = invocation.file_levels(config, cwd=cwd)
    levels = [
        (level, dict(_given(_validated(level))))
        for level in (
            libvirt_level(environment, cwd=cwd),
            *(level for level in files if not level.runtime),
            environment_level(environment, kinds=kinds, cwd=cwd),
            *(level for level in files if level.runtime),
            flags_level(flags, kinds=kinds, cwd=cwd),
        )
    ]
    # Only the other levels say where it is; it cannot name a description itself.
    dice = _dicefile(levels, environment) if "description" in flags else None
    if dice is not None:
        said = dict(_given(_validated(dice)))
        if any({"hosts", "host.address"} & given.keys() for _, given in levels):
            # Who names a machine himself means neither the Dicefile's user nor its key.
            said = {name: value for name, value in said.items() if not name.startswith("host.")}
        levels.insert(1, (dice, said))
    for level, given in levels:
        for name, value in given.items():
            if level.origin == FLAGS and name in _ADDED and isinstance(value, tuple):
                # Who types --sync for one build still wants what the site's settings bring.
                below = values.get(name, ())
                value = (*(below if isinstance(below, tuple) else ()), *value)
            values[name] = value
            origins[name] = level.names.get(name, level.origin)
    if dice is not None and origins["host.address"] == dice.origin:
        values["host.host_key"] = "known"
        origins["host.host_key"] = dice.origin
    values.setdefault("state_dir", project / Settings().state_dir)
    return LoadedSettings(
        settings=Settings.model_validate(nested(values)),
        project_dir=project,
        origins=MappingProxyType(origins),
    )


def _dicefile(
    levels: Sequence[tuple[Level, Mapping[str, object]]], environment: Mapping[str, str]
) -> Level | None:
    """Return the level of the Dicefile beside the description that the other levels name."""
    named = [given["description"] for _, given in levels if "description" in given]
    return dicefile.level(named[-1], environment) if named and isinstance(named[-1], Path) else None


def _validated(level: Level) -> Settings:
    """Validate one level alone: all settings have defaults, so any part of them is complete."""
    try:
        settings = Settings.model_validate(level.data, context=level.base)
    except ValidationError as error:
        # Not "from error": its text names the keys, and a key of mirrors can hold a password.
        raise _invalid(level, problems(error, Settings, level.names)) from None
    if level.problems:
        raise _invalid(level, ())
    return settings


def _invalid(level: Level, found: tuple[str, ...]) -> SettingsError:
    return SettingsError(
        f"Invalid settings: {level.origin}",
        details="\n".join((*level.problems, *found)),
        resolution="Correct what is named above.",
    )


def _given(model: BaseModel, at: str = "") -> Iterator[tuple[str, object]]:
    """Yield the dotted key and value of what was set, and not of defaults."""
    for name in model.model_fields_set:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _given(value, f"{at}{name}.")
        else:
            yield f"{at}{name}", value
