"""The pipeline: one function of named steps, from a frozen plan to a published result.

``up`` and ``down`` are the parts of it that start a guest and leave it, and remove it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from vagrant_kiwi import mirrors, provide, results, standing, state, watchdog
from vagrant_kiwi.console import Console
from vagrant_kiwi.deadline import Deadline
from vagrant_kiwi.errors import GuestError, LeftoverError, UsageError
from vagrant_kiwi.guests import ConnectionLostError, Guest, backend, processes, vagrant, vagrantfile
from vagrant_kiwi.guests.record import GuestRecord, Status
from vagrant_kiwi.guests.vagrantfile import Box, Machine
from vagrant_kiwi.keys import InsecureKeys
from vagrant_kiwi.kiwi_log import KiwiLog, explain
from vagrant_kiwi.output import BuildLog, KiwiTee, RsyncPercent, Tee, VagrantTee
from vagrant_kiwi.plan import BuildPlan
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

    ``machine`` is there for virtual machines only: what their host decides.
    """

    box: Box
    insecure: InsecureKeys
    mirrors: tuple[mirrors.MirrorChoice, ...]
    machine: Machine | None


@dataclass(frozen=True)
class Built:
    """A published result."""

    folder: Path
    artifacts: tuple[results.Artifact, ...]


def run(
    plan: BuildPlan,
    inputs: Inputs,
    tools: Tools,
    *,
    reused: GuestRecord | None,
    published: Callable[[Built], None],
) -> None:
    """Build an image: guest, data, KIWI, results; and remove the guest on every path.

    The variant's lock is held by the caller.

    Args:
        plan: the frozen plan.
        inputs: box, keys and mirrors.
        tools: what acts.
        reused: the guest that ``up`` left, from ``usable_guest``; it stays. None: a fresh one.
        published: told of the result as soon as it is there; tear-down may still fail after it.

    Raises:
        VagrantKiwiError: the first failure; its class says which stage.
    """
    with _guest(
        plan,
        inputs,
        tools,
        reused=reused,
        wake=False,
        on_success="kept" if plan.keep == "always" else None,
        on_failure=None if plan.keep == "never" else "kept",
    ) as (guest, record, log):
        _fill(plan, inputs, tools, guest, record, log)
        _run_kiwi(plan, tools, guest, log)
        _results(plan, inputs, tools, guest, published)


def usable_guest(plan: BuildPlan, inputs: Inputs, tools: Tools) -> GuestRecord | None:
    """Return the guest of the variant that is up and is what a fresh one would be, or None.

    Raises:
        SettingsError: it was made from something else.
    """
    found = standing.find(plan)
    if found is None:
        return None
    record = found[1]
    if record.status == "suspended":
        tools.console.note("a suspended guest is left alone: invoke up wakes it")
        return None
    standing.check(record, standing.made_of(plan, inputs.box, inputs.machine))
    tools.console.note(f"using the guest of the run {record.run_id}, which is up")
    return record


def up(plan: BuildPlan, inputs: Inputs, tools: Tools) -> GuestRecord:
    """Start a guest for later builds, or wake the one that is there; synced and provisioned.

    The variant's lock is held by the caller.

    Raises:
        SettingsError: the one that is there was made from something else.
        VagrantKiwiError: it does not come up; a fresh one is removed then, another stays.
    """
    found = standing.find(plan)
    if found is None:
        with _guest(
            plan, inputs, tools, reused=None, wake=True, on_success="up", on_failure=None
        ) as (guest, record, log):
            _fill(plan, inputs, tools, guest, record, log)
        return record
    folder, left = found
    standing.check(left, standing.made_of(plan, inputs.box, inputs.machine))
    tools.console.note(f"the guest of the run {left.run_id} is there")
    with _guest(plan, inputs, tools, reused=left, wake=True, on_success=None, on_failure=None) as (
        guest,
        woken,
        _,
    ):
        _set_clock(guest)
        left = left.model_copy(
            update={"status": "up", "login": woken.login, "known_hosts": woken.known_hosts}
        )
        left.save(folder)
    return left


def down(plan: BuildPlan, tools: Tools, *, suspend: bool) -> tuple[str, ...]:
    """Remove, or put to sleep, all guests of the variant that were left.

    The variant's lock is held by the caller.

    Args:
        plan: tells the variant.
        tools: what acts.
        suspend: save the memory of the guest that is up, instead of removing anything.

    Returns:
        The run ids of the guests.

    Raises:
        GuestError: it cannot be suspended.
        LeftoverError: something cannot be removed.
    """
    done: list[str] = []
    # Those that only use a guest come after it: with the guest all of theirs is gone.
    for folder, record in sorted(
        standing.runs(plan), key=lambda entry: entry[1].reuses is not None
    ):
        if record.status == "removed" or (suspend and record.status != "up"):
            continue
        with tools.gate.shield():
            if suspend:
                with tools.console.phase("suspend"):
                    vagrant.suspend(
                        record,
                        tools.runner,
                        timeout=plan.timeouts.destroy,
                        on_output=tools.console.raw,
                    )
                vagrant.keep(record, folder, status="suspended")
            else:
                with tools.console.phase("destroy"):
                    _remove(plan, record, folder, tools)
        if record.reuses is None:
            done.append(record.run_id)
    return tuple(done)


@contextlib.contextmanager
def _guest(
    plan: BuildPlan,
    inputs: Inputs,
    tools: Tools,
    *,
    reused: GuestRecord | None,
    wake: bool,
    on_success: Status | None,
    on_failure: Status | None,
) -> Iterator[tuple[Guest, GuestRecord, BuildLog]]:
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
        The guest, its record, whose ``runtime`` is a private folder on the host, and the log.
    """
    # A template that cannot be rendered must fail before anything exists; a guest that was left
    # has its Vagrantfile.
    rendered = vagrantfile.render(plan, inputs.box, inputs.machine) if reused is None else ""
    planned = vagrant.record_of(plan, inputs.box.image, reused, asleep=wake)
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
                record = vagrant.prepare(planned, plan.paths.run, rendered)
            if reused is None or wake:
                with tools.console.phase("up") as view:
                    view.update(f"vagrant up --provider={plan.provider}")
                    record = vagrant.start(
                        record,
                        tools.runner,
                        timeout=plan.timeouts.up,
                        on_output=VagrantTee(log, tools.console, view),
                    )
                    record.save(plan.paths.run)
            with _connected(record, tools, inputs, reused) as guest:
                yield guest, record, log
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
    record: GuestRecord, tools: Tools, inputs: Inputs, reused: GuestRecord | None
) -> Iterator[Guest]:
    """Log in for the body; a fresh guest must refuse Vagrant's well-known keys."""
    with contextlib.ExitStack() as stack:
        try:
            guest = stack.enter_context(vagrant.connected(record, tools.runner))
        except GuestError as error:
            if reused is None:
                raise
            raise GuestError(
                "The guest that invoke up left does not answer",
                details=str(error),
                resolution="invoke up starts it again, invoke down removes it.",
            ) from error
        if reused is None:
            vagrant.check_keys(record, tools.runner, inputs.insecure)
        yield guest


def _fill(
    plan: BuildPlan,
    inputs: Inputs,
    tools: Tools,
    guest: Guest,
    record: GuestRecord,
    log: BuildLog,
) -> None:
    """Bring data in and run the site's scripts; a reused guest has had all but the description."""
    assert record.runtime is not None  # noqa: S101 - prepare() made it
    deadline = _deadline("provision", plan.timeouts.provision)
    provide.data(
        plan,
        inputs.mirrors,
        guest,
        record.runtime,
        tools.console,
        deadline,
        items=plan.sync if record.reuses is None else plan.sync[:1],
    )
    if record.reuses is None:
        provide.scripts(plan, guest, tools.console, log, deadline)


def _set_clock(guest: Guest) -> None:
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
    owner = backend.of(planned, tools.runner.environment).claimed()
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
        with tools.gate.shield():
            _remove(plan, found, folder, tools, runner=tools.watchdog_runner)


def _remove(
    plan: BuildPlan,
    record: GuestRecord,
    folder: Path,
    tools: Tools,
    *,
    runner: Runner | None = None,
    on_output: OnOutput | None = None,
) -> None:
    vagrant.remove(
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
    if stays is not None:
        vagrant.keep(record, plan.paths.run, status=stays)
        if stays == "kept":
            tools.console.note(
                f"the guest stays: cd {record.folder} && vagrant ssh; invoke down removes it"
            )
        return
    try:
        with tools.console.phase("destroy" if record.reuses is None else "clean"):
            _remove(plan, record, plan.paths.run, tools, on_output=Tee(log, tools.console))
    except LeftoverError as error:
        if failure is None:
            raise
        # The first failure decides the exit code; this one must still be seen.
        tools.console.error(error)


def _run_kiwi(plan: BuildPlan, tools: Tools, guest: Guest, log: BuildLog) -> None:
    """Run KIWI, and bundle its result."""
    deadline = _deadline("build", plan.timeouts.build)
    for name, argv in (("build", plan.kiwi_argv), ("bundle", plan.bundle_argv)):
        if argv is None:
            continue
        with tools.console.phase(name) as view:
            reader = KiwiLog()
            tee = KiwiTee(log, tools.console, reader, view, level=plan.loglevel)
            try:
                status = provide.command(
                    plan,
                    guest,
                    argv,
                    tools.console,
                    name=name,
                    deadline=deadline,
                    on_output=tee,
                )
            finally:
                tee.finish()
            failure = explain(
                status,
                reader,
                str(plan.paths.log),
                guest_full=status != 0 and _guest_is_full(plan, guest),
            )
            if failure is not None:
                raise failure


def _guest_is_full(plan: BuildPlan, guest: Guest) -> bool:
    """Tell whether less than 1 MiB is left where the build ran; a silent guest tells nothing."""
    question = ["df", "--output=avail", "--block-size=1M", plan.guest.root]
    try:
        answer = guest.exec(question, timeout=_SHORT, root=True)
    except (ConnectionLostError, CommandTimeoutError):
        return False
    words = answer.text.split()
    return answer.ok and bool(words) and words[-1] == "0"


def _deadline(phase: str, seconds: float) -> Deadline:
    return Deadline.after(seconds, what=f"The phase {phase}")


def _results(
    plan: BuildPlan,
    inputs: Inputs,
    tools: Tools,
    guest: Guest,
    published: Callable[[Built], None],
) -> None:
    with tools.console.phase("fetch") as view:
        view.update("checksums")
        deadline = _deadline("fetch", plan.timeouts.fetch)
        with deadline.named():
            listing = results.list_in_guest(guest, plan.result_folder, timeout=deadline.left())
            artifacts = results.fetch(
                guest,
                plan.result_folder,
                listing,
                plan.paths,
                timeout=deadline.left(),
                on_output=RsyncPercent(view, "copying"),
            )
        with tools.gate.shield():
            folder = results.publish(
                plan.paths,
                artifacts,
                {
                    "run_id": plan.run_id,
                    "name": plan.name,
                    "version": plan.version,
                    "type": plan.image_type,
                    "profiles": list(plan.profiles),
                    "provider": plan.provider,
                    "box": asdict(inputs.box),  # type: ignore[call-overload]
                    "mirrors": [choice.describe() for choice in inputs.mirrors],
                },
            )
            published(Built(folder, artifacts))


def marked(environment: dict[str, str], run_id: str) -> dict[str, str]:
    """Return an environment whose processes can be found again by their run."""
    return {**environment, processes.MARK: run_id}
