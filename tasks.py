"""The tasks of this checkout: vagrant-kiwi's own, and its tests."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
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
    *sorted(str(path.relative_to(_CHECKOUT)) for path in _CHECKOUT.glob("boxes/**/*.sh")),
    *sorted(str(path.relative_to(_CHECKOUT)) for path in _CHECKOUT.glob("boxes/**/sbin/*")),
    *sorted(str(path.relative_to(_CHECKOUT)) for path in _CHECKOUT.glob("examples/*/*.sh")),
)
_QUICK = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("mypy",),
    ("pytest", "tests/unit"),
)
#: Both kinds of tests need the boxes, so they are made first.
_READY = (("shellcheck", *_SCRIPTS), ("invoke", "box-add", "--provider=libvirt"))
_MACHINES = str(_CHECKOUT / "tests/integration/machines")
#: These two run side by side: an emulated machine leaves one processor idle most of the time.
_CONTAINERS = ("pytest", "-v", "tests/contract", "tests/integration", f"--ignore={_MACHINES}")
_VIRTUAL = ("pytest", "-v", _MACHINES)


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
    for argv in _QUICK + (() if quick else _READY):
        _run(runner, argv)
    if not quick:
        chosen = () if full else ("-m", "not full")
        _run_both(runner, (*_CONTAINERS, *chosen), (*_VIRTUAL, *chosen))


def _run(runner: Runner, argv: Sequence[str]) -> None:
    started = time.monotonic()
    print(f"== {' '.join(argv)}", flush=True)
    result = runner.run(argv, timeout=3 * 3600, merge=True, cwd=_CHECKOUT, on_output=_show)
    print(f"== {time.monotonic() - started:.0f} s", flush=True)
    if not result.ok:
        raise Exit(f"failed: {' '.join(argv)}", code=result.status)


def _run_both(runner: Runner, first: Sequence[str], second: Sequence[str]) -> None:
    """Run two commands side by side; the second one's output comes after the first one's."""
    # By its own temporary folder each tells what it left behind from what the other is using.
    with tempfile.TemporaryDirectory(prefix="vkm-") as folder:
        log = Path(folder) / "log"
        started = time.monotonic()
        beside = runner.spawn(second, log=log, environment={"TMPDIR": folder})
        failure: Exit | None = None
        try:
            try:
                _run(runner, first)
            except Exit as error:
                # The other one cleans up after itself only if it comes to its end.
                failure = error
            beside.ended(within=3 * 3600)
        finally:
            beside.stop()
            print(f"== beside it: {' '.join(second)}", flush=True)
            _show(log.read_bytes())
            print(f"== {time.monotonic() - started:.0f} s in all", flush=True)
        if failure is not None:
            raise failure
        if beside.status:
            raise Exit(f"failed: {' '.join(second)}", code=beside.status)


def _show(chunk: bytes) -> None:
    sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()


namespace = Collection()
for name, entry in tasks.tasks.items():
    namespace.add_task(entry, name=name)
namespace.add_task(test)
