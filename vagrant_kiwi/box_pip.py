"""pip on the host, fetching and making wheels for a build box."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from vagrant_kiwi.box_recipe import Recipe, wheel_arch
from vagrant_kiwi.deadline import Deadline
from vagrant_kiwi.errors import BoxError
from vagrant_kiwi.process import (
    CommandNotFoundError,
    CommandResult,
    CommandTimeoutError,
    Runner,
    last_lines,
)


class Pip:
    """Runs this Python's pip.

    Args:
        runner: starts it.
        scratch: a folder for its files; whoever made it removes it.
        log: takes what it says.
        deadline: when all of it must have ended.
    """

    def __init__(
        self, runner: Runner, scratch: Path, log: Callable[[str], None], deadline: Deadline
    ) -> None:
        self._runner = runner
        self._scratch = scratch
        self._log = log
        self._deadline = deadline
        self._tools = scratch / "tools"

    def install_tools(self, pins: Sequence[str]) -> None:
        """Install the build tools that source packages take; they stay on the host.

        Raises:
            BoxError: pip cannot, or a hash is wrong.
            PhaseTimeoutError: it takes too long.
        """
        self.pinned("install", "--target", str(self._tools), "--only-binary=:all:", pins=pins)

    def build_wheels(self, folder: Path, pins: Sequence[str]) -> None:
        """Make wheels of source packages with the tools that were installed.

        Raises:
            BoxError: pip cannot, or a hash is wrong.
            PhaseTimeoutError: it takes too long.
        """
        self.pinned(
            "wheel",
            *("--wheel-dir", str(folder), "--no-build-isolation"),
            *("--use-pep517", "--no-cache-dir"),
            pins=pins,
        )

    def pinned(self, command: str, *options: str, pins: Sequence[str]) -> None:
        """Run pip on requirements that are all pinned by hash, and on nothing that they require.

        Raises:
            BoxError: pip cannot, or a hash is wrong.
            PhaseTimeoutError: it takes too long.
        """
        if not pins:
            return
        result = self.attempt(
            *(command, "--quiet", "--no-deps", "--require-hashes", *options), requirements=pins
        )
        for line in result.text.splitlines():
            self._log(line)
        if not result.ok:
            raise failed(result)

    def attempt(self, command: str, *options: str, requirements: Sequence[str]) -> CommandResult:
        """Run pip and return what came of it, good or bad.

        Raises:
            BoxError: there is no pip.
            PhaseTimeoutError: it takes too long.
        """
        path = self._scratch / f"{command}.txt"
        path.write_text("\n".join(requirements) + "\n", "utf-8")
        argv = [
            *(sys.executable, "-m", "pip", command, "--disable-pip-version-check", "--no-input"),
            *(*options, "-r", str(path)),
        ]
        # Before the tools are there pip must not look among them.
        tools = {"PYTHONPATH": str(self._tools)} if self._tools.is_dir() else None
        try:
            return self._runner.run(
                argv, timeout=self._deadline.left(), merge=True, environment=tools
            )
        except CommandTimeoutError as error:
            raise self._deadline.missed(details=last_lines(error.output)) from error
        except CommandNotFoundError as error:
            raise BoxError("Python's own program is gone", details=str(error)) from error


def failed(result: CommandResult) -> BoxError:
    """Return the error for a pip that failed."""
    return BoxError(
        "KIWI's wheels for the build box cannot be fetched or made",
        details=result.tail(),
        resolution="See to it that pip reaches its index, then run: invoke box-add",
    )


def target_options(recipe: Recipe) -> tuple[str, ...]:
    """Return pip's options for the box's Python and glibc, newest platform tag first (PEP 600)."""
    machine = wheel_arch(recipe.arch)
    minor = int(recipe.facts.glibc.partition(".")[2])
    platforms = [f"manylinux_2_{level}_{machine}" for level in range(minor, 16, -1)]
    # glibc 2.17 by its older name (PEP 599).
    platforms.append(f"manylinux2014_{machine}")
    return (
        *("--implementation", "cp", "--python-version", recipe.facts.python),
        *(f"--platform={name}" for name in platforms),
    )
