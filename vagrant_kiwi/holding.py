"""Hold a guest for a build: started or found, on record all the time, removed on every path."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vagrant_kiwi import mirrors, standing, state, watchdog
from vagrant_kiwi.console import Console
from vagrant_kiwi.errors import GuestError, LeftoverError, PreflightError, UsageError
from vagrant_kiwi.guests import (
    ConnectionLostError,
    Guest,
    processes,
    removal,
    system,
    vagrant,
)
from vagrant_kiwi.guests.record import GuestRecord, Status
from vagrant_kiwi.guests.vagrantfile import Box, Machine
from vagrant_kiwi.keys import InsecureKeys
from vagrant_kiwi.output import BuildLog, Tee, VagrantTee
from vagrant_kiwi.plan import BuildPlan, Variant
from vagrant_kiwi.process import CommandTimeoutError, OnOutput, Runner
from vagrant_kiwi.signals import SignalGate

_SHORT = 60.0
#: Seconds that a guest's clock may be off before it is set.
_CLOCK_SLACK = 2.0


@dataclass(frozen=True)
class Tools:
    """What acts: process starter, display, signal gate.

    ``watchdog_runner`` starts the watchdog, ``runner`` everything else, with the run's mark.
    """

    runner: Runner
    watchdog_runner: Runner
    console: Console
    gate: SignalGate


@dataclass(frozen=True)
class Inputs:
    """What was made ready before the guest: the box, the keys, the mirrors in use.

    ``insecure`` are the keys that the guest must refuse; None where Vagrant has no part in it.
    ``machine`` is there for virtual machines only: what their host decides.
    """

    box: Box
    insecure: InsecureKeys | None
    mirrors: tuple[mirrors.MirrorChoice, ...]
    machine: Machine | None


@dataclass(frozen=True)
class Held:
    """A guest that is there for the body of ``hold``.

    ``record`` is what will be removed; its ``runtime`` is a private folder on the host.
    """

    guest: Guest
    record: GuestRecord
    log: BuildLog


@contextlib.contextmanager
def hold(
    plan: BuildPlan,
    inputs: Inputs,
    tools: Tools,
    *,
    reused: GuestRecord | None,
    wake: bool,
    on_success: Status | None,
    on_failure: Status | None,
) -> Iterator[Held]:
    """Hold a live guest for the body.

    What will have to be removed is on record before the guest's start begins.

    Args:
        plan: the build.
        inputs: box and keys.
        tools: what acts.
        reused: a guest that was left; None: a fresh one is made.
        wake: start the one that was left, if it sleeps or is halted.
        on_success: what the guest stays for when the body ends well; None: it is removed.
        on_failure: likewise when it does not.

    Yields:
        The guest.
    """
    # A template that cannot be rendered must fail before anything exists; a guest that was left
    # was made from it.
    text = system.made_from(plan, inputs.box, inputs.machine) if reused is None else ""
    planned = removal.record_of(
        plan, inputs.box.image, reused, asleep=wake, environment=tools.runner.environment
    )
    if on_success == "up":
        made_of = standing.made_of(plan, inputs.box, inputs.machine)
        planned = planned.model_copy(update={"made_of": made_of})
    state.make_folder(plan.paths.run)
    state.check_writable(plan.paths.results)
    _reap_dead_runs(plan, tools)
    if reused is None:
        _refuse_used_run_id(planned, tools)
    with (
        plan.paths.log.open("wb", buffering=0) as stream,
        watchdog.watching(
            plan.paths.run,
            tools.watchdog_runner,
            destroy_timeout=plan.timeouts.destroy,
            warn=tools.console.warn,
        ),
    ):
        log = BuildLog(stream, tools.console)
        record: GuestRecord | None = None
        failure: BaseException | None = None
        try:
            with tools.gate.shield():
                record = removal.prepare(planned, plan.paths.run, text)
            build_system = system.of(record, tools.runner)
            if reused is None or wake:
                with tools.console.phase("up") as view:
                    view.update(build_system.starting())
                    build_system = build_system.start(
                        plan, text=text, on_output=VagrantTee(log, tools.console, view)
                    )
                    record = build_system.record
                    record.save(plan.paths.run)
                if record.host is not None:
                    tools.console.note(f"building on {record.host.who}")
            with _connected(build_system, tools, inputs, reused) as guest:
                yield Held(guest, record, log)
        except BaseException as error:
            failure = error
            raise
        finally:
            # A signal right here, before the shield, leaves the record live: the watchdog does it.
            with tools.gate.shield(raise_after=failure is None):
                if record is not None:
                    stays = on_success if failure is None else on_failure
                    _tear_down(plan, record, tools, log, failure, stays)


@contextlib.contextmanager
def _connected(
    build_system: system.System, tools: Tools, inputs: Inputs, reused: GuestRecord | None
) -> Iterator[Guest]:
    """Reach the guest for the body; a fresh one of Vagrant's must refuse its well-known keys."""
    with contextlib.ExitStack() as stack:
        try:
            guest = stack.enter_context(build_system.connected())
        except GuestError as error:
            if reused is None:
                raise
            raise GuestError(
                "The guest that invoke up left does not answer",
                details=str(error),
                resolution="invoke up starts it again, invoke down removes it.",
            ) from error
        if reused is None and inputs.insecure is not None:
            vagrant.check_keys(build_system.record, tools.runner, inputs.insecure)
        yield guest


def set_clock(guest: Guest) -> None:
    """Set a guest's clock that stood still while it was suspended.

    Raises:
        GuestError: it cannot be set.
    """
    try:
        asked = time.time()
        answer = guest.exec(["date", "+%s.%N"], timeout=_SHORT)
        if not answer.ok or abs(float(answer.text) - asked) < _CLOCK_SLACK:
            return
        done = guest.exec(["date", "--set", f"@{time.time():.3f}"], timeout=_SHORT, root=True)
    except (ConnectionLostError, CommandTimeoutError) as error:
        raise GuestError("The guest does not answer", details=str(error)) from error
    if not done.ok:
        raise GuestError("The guest's clock cannot be set", details=done.tail(3))


def _refuse_used_run_id(planned: GuestRecord, tools: Tools) -> None:
    """Make sure that nobody else's guest has our run id: what has it is removed at the end.

    Raises:
        UsageError: something has it.
        PreflightError: who runs the guests does not answer.
    """
    owner = system.of(planned, tools.runner).claimed()
    if owner is not None:
        raise UsageError(
            f"--run-id={planned.run_id} is in use",
            details=f"{owner} has it",
            resolution="Every run has an id of its own; leave --run-id out to have one made.",
        )


def _reap_dead_runs(plan: BuildPlan, tools: Tools) -> None:
    """Remove what earlier builds of this variant left when they and their watchdog died.

    Whoever holds the variant's lock knows that no other run of it is alive.

    Raises:
        LeftoverError: something cannot be removed.
    """
    for folder, found in standing.runs(plan):
        if found.status != "live" or found.run_id == plan.run_id:
            continue
        tools.console.note(f"cleaning up after the run {found.run_id}, which died")
        try:
            with tools.gate.shield():
                remove(plan, found, folder, tools, runner=tools.watchdog_runner)
        except LeftoverError as error:
            if found.host is None:
                raise
            # That machine may be gone for good, and others be free: its record stays.
            tools.console.warn(f"{found.host.who} is not cleaned up: {error.details}")


def remove(
    plan: Variant,
    record: GuestRecord,
    folder: Path,
    tools: Tools,
    *,
    runner: Runner | None = None,
    on_output: OnOutput | None = None,
) -> None:
    """Remove all of a run; see ``removal.remove``.

    Args:
        plan: has the time-out.
        record: the run's.
        folder: the run's folder.
        tools: what acts.
        runner: starts the tools in place of that in ``tools``.
        on_output: sees what they say in place of the terminal.

    Raises:
        LeftoverError: something is still there.
    """
    removal.remove(
        record,
        folder,
        runner or tools.runner,
        timeout=plan.timeouts.destroy,
        on_output=on_output or tools.console.raw,
        say=tools.console.note,
    )


def _tear_down(
    plan: BuildPlan,
    record: GuestRecord,
    tools: Tools,
    log: BuildLog,
    failure: BaseException | None,
    stays: Status | None,
) -> None:
    try:
        if stays is not None and _leave(plan, record, tools, stays):
            return
        with tools.console.phase("destroy" if record.reuses is None else "clean"):
            remove(plan, record, plan.paths.run, tools, on_output=Tee(log, tools.console))
    except (LeftoverError, GuestError, PreflightError) as error:
        if failure is None:
            raise
        # The first failure decides the exit code; this one must still be seen.
        tools.console.error(error)


def _leave(plan: BuildPlan, record: GuestRecord, tools: Tools, stays: Status) -> bool:
    build_system = system.of(record, tools.runner)
    if not build_system.leave():
        return False
    removal.keep(record, plan.paths.run, status=stays)
    if stays == "kept":
        tools.console.note(f"the guest stays: {build_system.entrance()}; invoke down removes it")
    return True


def marked(environment: dict[str, str], run_id: str) -> dict[str, str]:
    """Return an environment whose processes can be found again by their run."""
    return {**environment, processes.MARK: run_id}
