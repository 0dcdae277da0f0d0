"""What we change about Invoke, and the only place that knows its insides.

Tasks without automatic short flags, what follows ``--`` with its quoting, the levels of Invoke's
configuration one by one, and a Config that leaves our section of it alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from invoke.config import AmbiguousMergeError, Config
from invoke.exceptions import (
    AmbiguousEnvVar,
    Exit,
    UncastableEnvVar,
    UnknownFileType,
    UnpicklableConfigMember,
)
from invoke.tasks import Task
from invoke.util import yaml  # type: ignore[attr-defined] # its own copy, or the system's

from vagrant_kiwi.errors import SettingsError
from vagrant_kiwi.settings_sources import SECTION, Level

Body = TypeVar("Body", bound=Callable[..., Any])

#: The names of the files Invoke looks for in a folder, best first.
FILE_NAMES = ("invoke.yaml", "invoke.yml", "invoke.json", "invoke.py")

# Invoke 3.0.3 keeps each level in the private attribute "_<name>" of its Config, and a file's path
# in "_<name>_path"; there is no public way to see one level alone. tests/unit/test_invocation.py
# fails when that changes.
_FILE_LEVELS = ("system", "user", "project", "runtime")
_LEVELS = ("defaults", "collection", *_FILE_LEVELS, "overrides")


class PlainTask(Task[Body]):
    """A task whose arguments have no short flags, but for ``-v`` of an argument ``verbose``.

    Invoke makes one of the first free letter of each name, and a task's flag wins over Invoke's
    own: ``--description`` would take ``-d`` (debug). Use: ``@task(klass=PlainTask)``.
    """

    def arg_opts(self, name: str, default: str, taken_names: set[str]) -> dict[str, Any]:
        """Return what Invoke makes an argument from, without the short name."""
        options = super().arg_opts(name, default, taken_names)
        options["names"] = [options["names"][0], *(["v"] if name == "verbose" else [])]
        return options


def remainder(argv: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split a command line at its first ``--``, where Invoke's parser splits it too.

    ``Context.remainder`` joins what follows with spaces, so ``-- --set-repo 'a b'`` is lost on it.

    Args:
        argv: a command line, ``sys.argv``.

    Returns:
        What stands before the ``--``, and what stands after it; neither holds the ``--`` itself.
    """
    at = argv.index("--") if "--" in argv else len(argv)
    return tuple(argv[:at]), tuple(argv[at + 1 :])


def project_dir(config: Config, *, cwd: Path) -> Path:
    """Return the folder of the project's invoke.yaml or tasks.py.

    Args:
        config: Invoke's configuration.
        cwd: the current folder; the answer where Invoke knows no project.
    """
    prefix: str | None = config._project_prefix
    return cwd / prefix if prefix else cwd


def file_levels(config: Config, *, cwd: Path) -> tuple[Level, ...]:
    """Return the section of each of Invoke's levels that has one, lowest first.

    This and ``SettingsConfig`` are the only places that know Invoke's private attributes.

    Args:
        config: Invoke's configuration, with its files loaded.
        cwd: the current folder; Invoke keeps ``-r`` and ``-f`` paths as they were typed.

    Raises:
        SettingsError: a file or its section is no mapping, or the file of ``-f`` does not exist.
    """
    runtime = config._runtime_path
    if runtime and not config._runtime_found and not (cwd / Path(runtime).expanduser()).exists():
        # Invoke goes on without it.
        raise SettingsError(
            "The settings file named on the command line does not exist",
            details=str(runtime),
            resolution="Correct the path after -f (or in INVOKE_RUNTIME_CONFIG).",
        )
    found = [
        # What a tasks file gave to Collection.configure; Invoke ranks it below all files.
        (
            "collection",
            "the tasks file (Collection.configure)",
            project_dir(config, cwd=cwd),
            config._collection,
        )
    ]
    for name in _FILE_LEVELS:
        if getattr(config, f"_{name}_found"):
            path = cwd / Path(getattr(config, f"_{name}_path")).expanduser()
            found.append((name, str(path), path.parent, getattr(config, f"_{name}")))
    return tuple(
        Level(origin=origin, base=base, data=section, runtime=name == "runtime")
        for name, origin, base, data in found
        if (section := _section(data, origin))
    )


def _section(data: object, origin: str) -> Mapping[object, object]:
    if not data:
        return {}
    if not isinstance(data, dict):
        raise _not_a_mapping(origin)
    for key in data:
        # An unknown section belongs to somebody else, but this one is ours with a slip of the pen.
        if key != SECTION and re.sub(r"[\W_]", "", str(key)).lower() == "vagrantkiwi":
            raise SettingsError(
                f"Invalid settings: {origin}",
                details=f"{key}: no such section; did you mean {SECTION}?",
                resolution=f"Name the section {SECTION}.",
            )
    section = data.get(SECTION)
    if section is None:
        return {}
    if not isinstance(section, dict):
        raise SettingsError(
            f"Invalid settings: {origin}",
            details=f"{SECTION}: must be a mapping of settings",
            resolution=f"Write the settings below {SECTION}:, each on its own indented line.",
        )
    return section


def _not_a_mapping(origin: str) -> SettingsError:
    return SettingsError(
        f"{origin} is not a settings file",
        details="It must hold a mapping of section names to settings.",
        resolution="Correct the file.",
    )


class SettingsConfig(Config):
    """Invoke's Config with our section kept out of its merge, and with clear errors.

    Invoke 3.0.3 merges all levels into one dictionary and then crawls that for keys that the
    environment may set. With our section in it, valid settings end in a traceback:

    - ``mirrors: auto`` in one file and a map in another: AmbiguousMergeError; likewise
      ``vagrant_kiwi: 5`` in one and a mapping in another, with no word about which file is wrong;
    - a list in a file and the same key in the environment: UncastableEnvVar; a number in a file
      and something else in the environment: ValueError without the variable's name;
    - two keys that differ only in case, or in "." and "_": AmbiguousEnvVar, even with nothing set;
      a key that is not text: TypeError.

    So the merge never sees the section; ``settings.load`` reads the levels themselves. The other
    way, taking our variables out of os.environ, was rejected: it cures only the second of these,
    and an ``invoke`` that a task of the user's starts would lose the settings.
    """

    def load_system(self, merge: bool = True) -> None:
        """Load the system-wide file, as Invoke does."""
        with _readable(self, "system"):
            super().load_system(merge)

    def load_user(self, merge: bool = True) -> None:
        """Load the user's file, as Invoke does."""
        with _readable(self, "user"):
            super().load_user(merge)

    def load_project(self, merge: bool = True) -> None:
        """Load the project's file, as Invoke does."""
        with _readable(self, "project"):
            super().load_project(merge)

    def load_runtime(self, merge: bool = True) -> None:
        """Load the file of ``-f``, as Invoke does."""
        with _readable(self, "runtime"):
            super().load_runtime(merge)

    def load_shell_env(self) -> None:
        """Let Invoke read its own variables; ours are unknown to it, so it leaves them alone."""
        try:
            super().load_shell_env()
        except (UncastableEnvVar, AmbiguousEnvVar, ValueError) as error:
            # Invoke names the type but not the variable; a ValueError would show the value.
            names = sorted(n for n in os.environ if n.startswith("INVOKE_"))
            raise _exit(
                SettingsError(
                    "Invoke cannot use one of its environment variables",
                    details=f"{type(error).__name__}; set are: {', '.join(names)}",
                    resolution="Unset the one that stands for a list, or does not fit the number "
                    "that a settings file has in its place.",
                )
            ) from error

    def merge(self) -> None:
        """Merge all levels but for our section, which stays in the levels."""
        whole = {name: getattr(self, f"_{name}") for name in _LEVELS}
        for name, data in whole.items():
            if data and not isinstance(data, dict):
                raise _exit(_not_a_mapping(_path(self, name)))
        try:
            for name, data in whole.items():
                if data and SECTION in data:
                    rest = {key: value for key, value in data.items() if key != SECTION}
                    self._set(f"_{name}", rest)
            super().merge()
        except AmbiguousMergeError as error:
            # Its text shows the values, which can be passwords.
            files = [_path(self, name) for name in _FILE_LEVELS if whole[name]]
            raise _exit(
                SettingsError(
                    "Two settings files do not fit together",
                    details=f"{_clash(list(whole.values()))}: a mapping in one level and a single "
                    f"value in another. Files read: {', '.join(files) or 'none'}",
                    resolution="Give it the same form in each file.",
                )
            ) from error
        finally:
            for name, data in whole.items():
                self._set(f"_{name}", data)


def _exit(error: SettingsError) -> Exit:
    """Return what makes an Invoke program print the error and end with its code."""
    return Exit(str(error), error.code)


@contextmanager
def _readable(config: Config, level: str) -> Iterator[None]:
    """Turn what Invoke's readers raise into one message with the file's name."""
    try:
        yield
    except (
        OSError,
        ValueError,  # JSON, a wrong encoding, an impossible date
        SyntaxError,
        yaml.YAMLError,
        UnknownFileType,
        UnpicklableConfigMember,
    ) as error:
        raise _exit(
            SettingsError(
                f"Cannot read the settings file {_path(config, level)}",
                details=str(error),
                resolution="Correct the file, or its permissions.",
            )
        ) from error


def _path(config: Config, level: str) -> str:
    """Return the file of a level, also where Invoke failed before it noted which it was."""
    known: str | None = getattr(config, f"_{level}_path", None)
    if known is None and level in _FILE_LEVELS:
        prefix: str = getattr(config, f"_{level}_prefix")
        candidates = [str(Path(prefix + name).expanduser()) for name in FILE_NAMES]
        known = next((path for path in candidates if os.path.lexists(path)), None)
    return known or f"Invoke's {level} level"


def _clash(levels: list[Mapping[object, object]], at: str = "") -> str:
    """Return the first dotted key that is a mapping in one level and something else in another."""
    for key in {key: None for level in levels for key in level or {}}:
        values = [level[key] for level in levels if level and key in level]
        maps = [value for value in values if isinstance(value, dict)]
        if maps and len(maps) < len(values):
            return f"{at}{key}"
        if maps and (inner := _clash(list(maps), f"{at}{key}.")):
            return inner
    return ""


def adopt_running_invoke() -> None:
    """Give the plain ``invoke`` that is importing a tasks file our ``SettingsConfig``.

    To be called once, where ``vagrant_kiwi.tasks`` is imported. Invoke has read the system and the
    user file by then and reads the project's next, through ``program.config``; ``Config.clone`` is
    its documented way to change the class of a loaded configuration. Nothing happens when another
    program (ours, a test, Fabric) imports the tasks, or on a second call.

    What cannot be helped from here: a system or user file that Invoke itself cannot read or merge
    ends plain ``invoke`` with Invoke's traceback before any tasks file is looked at. The console
    command ``vagrant-kiwi`` has no such gap.
    """
    from invoke.main import program

    config = getattr(program, "config", None)
    if type(config) is Config:
        program.config = config.clone(into=SettingsConfig)
