"""The pipeline: one function of named steps, from a frozen plan to a published result.

``up`` and ``down`` are the parts of it that start a guest and leave it, and remove it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from vagrant_kiwi import holding, provide, results, standing
from vagrant_kiwi.deadline import Deadline
from vagrant_kiwi.guests import ConnectionLostError, Guest, removal
from vagrant_kiwi.guests.record import GuestRecord
from vagrant_kiwi.guests.vagrant import VagrantSystem
from vagrant_kiwi.holding import Held, Inputs, Tools
from vagrant_kiwi.kiwi_log import KiwiLog, explain
from vagrant_kiwi.output import BuildLog, KiwiTee, RsyncPercent
from vagrant_kiwi.plan import BuildPlan, Variant
from vagrant_kiwi.process import CommandTimeoutError

_SHORT = 60.0


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
    with holding.hold(
        plan,
        inputs,
        tools,
        reused=reused,
        wake=False,
        on_success="kept" if plan.keep == "always" else None,
        on_failure=None if plan.keep == "never" else "kept",
    ) as held:
        _fill(plan, inputs, tools, held)
        _run_kiwi(plan, tools, held.guest, held.log)
        _results(plan, inputs, tools, held, published)


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
        with holding.hold(
            plan, inputs, tools, reused=None, wake=True, on_success="up", on_failure=None
        ) as held:
            _fill(plan, inputs, tools, held)
        return held.record
    folder, left = found
    standing.check(left, standing.made_of(plan, inputs.box, inputs.machine))
    tools.console.note(f"the guest of the run {left.run_id} is there")
    with holding.hold(
        plan, inputs, tools, reused=left, wake=True, on_success=None, on_failure=None
    ) as held:
        holding.set_clock(held.guest)
        login, keys = held.record.login, held.record.known_hosts
        left = left.model_copy(update={"status": "up", "login": login, "known_hosts": keys})
        left.save(folder)
    return left


def down(plan: Variant, tools: Tools, *, suspend: bool) -> tuple[str, ...]:
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
                    VagrantSystem(record, tools.runner).suspend(
                        timeout=plan.timeouts.destroy, on_output=tools.console.raw
                    )
                removal.keep(record, folder, status="suspended")
            else:
                with tools.console.phase("destroy"):
                    holding.remove(plan, record, folder, tools)
        if record.reuses is None:
            done.append(record.run_id)
    return tuple(done)


def _fill(plan: BuildPlan, inputs: Inputs, tools: Tools, held: Held) -> None:
    """Bring data in and run the site's scripts; a reused guest has had all but the description."""
    assert held.record.runtime is not None  # noqa: S101 - removal.prepare() made it
    deadline = _deadline("provision", plan.timeouts.provision)
    fresh = held.record.reuses is None
    provide.data(
        plan,
        inputs.mirrors,
        held.guest,
        held.record.runtime,
        tools.console,
        deadline,
        items=plan.sync if fresh else plan.sync[:1],
    )
    if fresh:
        provide.scripts(plan, held.guest, tools.console, held.log, deadline)


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
    held: Held,
    published: Callable[[Built], None],
) -> None:
    guest = held.guest
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
                copies=2 if plan.result_format == "tar" else 1,
                timeout=deadline.left(),
                on_output=RsyncPercent(view, "copying"),
            )
            if plan.result_format == "tar":
                view.update(results.ARCHIVE)
                archive = results.pack(plan.paths.staging, tools.runner, timeout=deadline.left())
                artifacts = (*artifacts, archive)
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
                    "host": held.record.host.who if held.record.host else None,
                    "mirrors": [choice.describe() for choice in inputs.mirrors],
                },
            )
            published(Built(folder, artifacts))
