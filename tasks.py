"""The tasks of this checkout: vagrant-kiwi's own, and its tests."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from vagrant_kiwi import settings_sources
from vagrant_kiwi.invocation import PlainTask
from vagrant_kiwi.process import Runner
from vagrant_kiwi.tasks import namespace as tasks

_CHECKOUT = Path(__file__).resolve().parent
_SCRIPTS = (
    "bootstrap",
    ".ci/run",
    *sorted(str(path.relative_to(_CHECKOUT)) for path in _CHECKOUT.glob("boxes/*/*.sh")),
    *sorted(str(path.relative_to(_CHECKOUT)) for path in _CHECKOUT.glob("examples/*/*.sh")),
)
_QUICK = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("mypy",),
    ("pytest", "tests/unit"),
)
_REAL = (
    ("shellcheck", *_SCRIPTS),
    ("pytest", "-v", "tests/integration", "-m", "not full"),
)
_FULL = (("shellcheck", *_SCRIPTS), ("pytest", "-v", "tests/integration"))


@task(
    klass=PlainTask,
    help={
        "quick": "unit tests and checks only: no process, no guest, under a minute",
        "full": "every cell of every matrix, slower than CI allows",
    },
)
def test(c: Context, quick: bool = False, full: bool = False) -> None:
    """Run the project's tests."""
    environment = settings_sources.environment()
    tools = Path(sys.executable).parent
    runner = Runner({**environment, "PATH": f"{tools}:{environment['PATH']}"})
    for argv in _QUICK + (() if quick else _FULL if full else _REAL):
        started = time.monotonic()
        print(f"== {' '.join(argv)}", flush=True)
        result = runner.run(argv, timeout=3 * 3600, merge=True, cwd=_CHECKOUT, on_output=_show)
        print(f"== {time.monotonic() - started:.0f} s", flush=True)
        if not result.ok:
            raise Exit(f"failed: {' '.join(argv)}", code=result.status)


def _show(chunk: bytes) -> None:
    sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()


namespace = Collection()
for name, entry in tasks.tasks.items():
    namespace.add_task(entry, name=name)
namespace.add_task(test)
