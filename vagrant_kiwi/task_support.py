"""What all tasks do alike: merge the settings, report a failure, print an answer."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from invoke.context import Context
from invoke.exceptions import Exit

from vagrant_kiwi import invocation, settings
from vagrant_kiwi.console import Console
from vagrant_kiwi.errors import VagrantKiwiError

if TYPE_CHECKING:
    from vagrant_kiwi import app

COMMON = {
    "description": "folder of the KIWI description, or its config.xml or .kiwi file",
    "json": "print one JSON object on standard output, and nothing else there",
    "quiet": "show only warnings and errors",
    "verbose": "show what the tools say, while they say it",
}
KIWI_VERSION = "version of KIWI in the box; such a box is made once and kept"


def common_help(*names: str) -> dict[str, str]:
    """Return the help of arguments that many tasks have.

    Args:
        names: those that the task has; Invoke refuses help for others.
    """
    return {name: COMMON[name] for name in names}


def request(c: Context, flags: Mapping[str, object], *, run_id: str | None = None) -> app.Request:
    """Merge the settings of all levels.

    Args:
        c: the task's context.
        flags: what its arguments hold, by dotted key.
        run_id: the run's name, if one was given.

    Raises:
        SettingsError: a level holds something invalid.
    """
    from vagrant_kiwi import app

    environment = settings.environment()
    loaded = settings.load(c.config, environment=environment, flags=flags, cwd=Path.cwd())
    return app.Request(
        settings=loaded.settings,
        cwd=Path.cwd(),
        environment=settings.child_environment(
            environment, agent=loaded.settings.provider == "host"
        ),
        arguments=invocation.remainder(sys.argv)[1],
        run_id=run_id,
    )


@contextlib.contextmanager
def reported(console: Console, *, as_json: bool) -> Iterator[None]:
    """Turn an expected failure of the body into its message and its exit code.

    Raises:
        Exit: there was one.
    """
    try:
        yield
    except VagrantKiwiError as error:
        console.error(error)
        if as_json:
            show({"status": "failed", "error": error.as_json()}, as_json=True)
        raise Exit(code=error.code) from error


def show(answer: Mapping[str, object], *, as_json: bool) -> None:
    """Print an answer on standard output."""
    if as_json:
        print(json.dumps(answer, indent=2))
    else:
        print(yaml.safe_dump(dict(answer), sort_keys=False, allow_unicode=True), end="")
