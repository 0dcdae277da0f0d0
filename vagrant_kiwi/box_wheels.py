"""KIWI's wheels for a build box, made on the host.

Inside the box pip may reach no index (a host with a proxy or a certificate authority of its own),
so the wheels are fetched here, for the box's Python, and installed there without a network. What
is published as source only becomes a wheel here: with build tools from the same lock file, so that
nothing is used whose hash is not in it.
"""

from __future__ import annotations

import hashlib
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from vagrant_kiwi.box_recipe import Recipe, half_made, wheel_arch
from vagrant_kiwi.deadline import Deadline
from vagrant_kiwi.errors import BoxError
from vagrant_kiwi.process import CommandNotFoundError, CommandTimeoutError, Runner, last_lines


def ensure_wheels(
    recipe: Recipe,
    runner: Runner,
    *,
    cache: Path,
    log: Callable[[str], None],
    deadline: Deadline,
) -> Path:
    """Return a folder with the wheels that the recipe's kiwi.lock names, fetching them if needed.

    Args:
        recipe: the box they are for.
        runner: starts pip.
        cache: where they are kept; the folder appears whole or not at all.
        log: takes the lines of what happens.
        deadline: when they must be there.

    Raises:
        BoxError: pip cannot fetch or build one, or a hash is wrong.
        PhaseTimeoutError: it takes too long.
    """
    facts = recipe.facts
    lock = (recipe.folder / "kiwi.lock").read_text("utf-8")
    key = f"{lock}\n{recipe.arch} {facts.python} {facts.glibc}"
    target = cache / "wheels" / hashlib.sha256(key.encode()).hexdigest()[:16]
    if target.is_dir():
        return target
    log("Fetching KIWI and what it needs")
    target.parent.mkdir(parents=True, exist_ok=True)
    pins = split_lock(lock)
    sources, tools = set(facts.source_packages), set(facts.build_packages)
    if missing := sorted((sources | tools) - pins.keys()):
        raise BoxError(
            f"The recipe of the build box {recipe.name} is damaged",
            details=f"kiwi.lock does not pin {', '.join(missing)}",
            resolution=f"Mend {recipe.folder}.",
        )
    with tempfile.TemporaryDirectory(prefix=half_made(recipe), dir=target.parent) as name:
        scratch = Path(name)
        pip = _Pip(runner, scratch, log, deadline)
        wheels = scratch / "wheels"
        wheels.mkdir()
        pip.run(
            "download",
            *("--dest", str(wheels), "--only-binary=:all:"),
            *_target_options(recipe),
            # The tools stay on the host.
            pins=[pin for package, pin in pins.items() if package not in sources | tools],
        )
        pip.run(
            "install",
            *("--target", str(scratch / "tools"), "--only-binary=:all:"),
            pins=[pins[package] for package in sorted(tools)],
        )
        pip.run(
            "wheel",
            *("--wheel-dir", str(wheels), "--no-build-isolation"),
            *("--use-pep517", "--no-cache-dir"),
            pins=[pins[package] for package in sorted(sources)],
            python_path=scratch / "tools",
        )
        if len(list(wheels.glob("*.whl"))) != len(pins.keys() - tools):
            raise BoxError(
                "pip did not make one wheel for each package in kiwi.lock",
                details=", ".join(sorted(path.name for path in wheels.iterdir())),
            )
        wheels.rename(target)
    return target


def split_lock(text: str) -> dict[str, str]:
    """Split a lock file into its requirements, each with its hashes, by package name."""
    # A requirement goes on over lines that end in a backslash.
    joined = re.sub(r"\\\n\s*", "", text)
    pins: dict[str, str] = {}
    for line in joined.splitlines():
        match = re.match(r"([A-Za-z0-9][A-Za-z0-9._-]*)==", line)
        if match is not None:
            pins[match[1].lower()] = line.strip()
    return pins


def _target_options(recipe: Recipe) -> tuple[str, ...]:
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


class _Pip:
    """Runs this Python's pip on pinned requirements."""

    def __init__(
        self, runner: Runner, scratch: Path, log: Callable[[str], None], deadline: Deadline
    ) -> None:
        self._runner = runner
        self._scratch = scratch
        self._log = log
        self._deadline = deadline

    def run(
        self,
        command: str,
        *options: str,
        pins: Sequence[str],
        python_path: Path | None = None,
    ) -> None:
        if not pins:
            return
        requirements = self._scratch / f"{command}.txt"
        requirements.write_text("\n".join(pins) + "\n", "utf-8")
        argv = [
            *(sys.executable, "-m", "pip", command, "--quiet", "--disable-pip-version-check"),
            *("--no-input", "--no-deps", "--require-hashes", *options, "-r", str(requirements)),
        ]
        try:
            result = self._runner.run(
                argv,
                timeout=self._deadline.left(),
                merge=True,
                environment={"PYTHONPATH": str(python_path)} if python_path is not None else None,
            )
        except CommandTimeoutError as error:
            raise self._deadline.missed(details=last_lines(error.output)) from error
        except CommandNotFoundError as error:
            raise BoxError("Python's own program is gone", details=str(error)) from error
        for line in result.text.splitlines():
            self._log(line)
        if not result.ok:
            raise BoxError(
                "KIWI's wheels for the build box cannot be fetched or made",
                details=result.tail(),
                resolution="See to it that pip reaches its index, then run: invoke box-add",
            )
