"""Run the real command line in a project folder of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parents[2]
MAIN = "from vagrant_kiwi.program import main; main()"


@dataclass(frozen=True)
class Finished:
    """A command line that came to its end."""

    status: int
    output: str
    errors: str

    @property
    def json(self) -> dict[str, Any]:
        """Standard output, which must be exactly one JSON object."""
        loaded = json.loads(self.output)
        assert isinstance(loaded, dict)
        return loaded


@dataclass
class Project:
    """A user's folder with his invoke.yaml.

    Args:
        folder: the project; the command runs in it.
        python: the command that runs Python code given after it with ``-c``.
        environment: added to ours.
    """

    folder: Path
    python: Sequence[str] = (sys.executable,)
    environment: Mapping[str, str] = field(default_factory=dict)

    def beside(self, **variables: str) -> Project:
        """Return the same project with more in its environment."""
        return replace(self, environment={**self.environment, **variables})

    def settings(self, **values: object) -> None:
        """Write the project's invoke.yaml; JSON is YAML."""
        (self.folder / "invoke.yaml").write_text(json.dumps({"vagrant_kiwi": values}))

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a command line; who calls waits for it."""
        return subprocess.Popen(
            [*self.python, "-c", MAIN, *words],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT), **self.environment},
        )

    def run(self, *words: str, timeout: float = 900) -> Finished:
        """Run a command line to its end."""
        process = self.start(*words)
        return finish(process, timeout=timeout)

    def log(self) -> str:
        """Return the newest build log."""
        found = self.folder.glob(".vagrant-kiwi/builds/*/*/runs/*/build.log")
        logs = sorted(found, key=lambda path: path.stat().st_mtime)
        return logs[-1].read_text(errors="replace") if logs else ""


def finish(process: subprocess.Popen[str], *, timeout: float = 300) -> Finished:
    """Wait for a started command line."""
    try:
        output, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=120)
        raise AssertionError(f"did not end within {timeout} s:\n{output}\n{errors}") from None
    return Finished(process.returncode, output, errors)


def wait_until(condition: Callable[[], bool], *, what: str, timeout: float = 120) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout} s")
        time.sleep(0.1)
