"""The pipeline: one function of named steps, from a frozen plan to a published result."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from vagrant_kiwi import docker_api, mirrors, remote, results, state, watchdog
from vagrant_kiwi.boxes import DockerBox
from vagrant_kiwi.console import Console, PhaseView
from vagrant_kiwi.deadline import Deadline
from vagrant_kiwi.errors import (
    GuestError,
    LeftoverError,
    UsageError,
)
from vagrant_kiwi.guests import ConnectionLostError, Guest, TransferError, processes, vagrant
from vagrant_kiwi.guests import docker as docker_guests
from vagrant_kiwi.guests import record as records
from vagrant_kiwi.keys import InsecureKeys
from vagrant_kiwi.kiwi_log import KiwiLog, explain
from vagrant_kiwi.output import BuildLog, KiwiTee, RsyncPercent, Tee
from vagrant_kiwi.plan import BuildPlan, SyncItem
from vagrant_kiwi.process import CommandTimeoutError, Runner, last_lines
from vagrant_kiwi.signals import SignalGate

_SHORT = 60.0


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
    """What was made ready before the guest: the box, the keys, the mirrors in use."""

    box: DockerBox
    insecure: InsecureKeys
    mirrors: tuple[mirrors.MirrorChoice, ...]


@dataclass(frozen=True)
class Built:
    """A published result."""

    folder: Path
    artifacts: tuple[results.Artifact, ...]


def run(
    plan: BuildPlan, inputs: Inputs, tools: Tools, *, published: Callable[[Built], None]
) -> None:
    """Build an image: guest, data, KIWI, results; and remove the guest on every path.

    The variant's lock is held by the caller.

    Args:
        plan: the frozen plan.
        inputs: box, keys and mirrors.
        tools: what acts.
        published: told of the result as soon as it is there; tear-down may still fail after it.

    Raises:
        VagrantKiwiError: the first failure; its class says which stage.
    """
    # A template that cannot be rendered must fail before anything exists.
    vagrantfile = vagrant.render(
        plan, vagrant.BoxView(inputs.box.name, inputs.box.image, inputs.box.version)
    )
    state.make_folder(plan.paths.run)
    state.check_writable(plan.paths.results)
    _reap_dead_runs(plan, tools)
    _refuse_used_run_id(plan, tools)
    with plan.paths.log.open("wb", buffering=0) as stream:
        log = BuildLog(stream, tools.console)
        with _guest(plan, inputs, tools, vagrantfile, log) as (guest, scratch):
            deadline = _deadline("provision", plan.timeouts.provision)
            _provide_data(plan, inputs, tools, guest, scratch, deadline)
            _provision(plan, tools, guest, log, deadline)
            _run_kiwi(plan, tools, guest, log)
            _results(plan, inputs, tools, guest, published)


def _refuse_used_run_id(plan: BuildPlan, tools: Tools) -> None:
    """Make sure that nobody else's guest has our run id: what has it is removed at the end.

    Raises:
        UsageError: a container has it.
        PreflightError: Docker does not answer.
    """
    with docker_api.client(tools.runner.environment) as daemon:
        if docker_guests.containers(daemon, plan.run_id):
            raise UsageError(
                f"--run-id={plan.run_id} is in use",
                details=f"a container with the label {docker_guests.RUN_LABEL} has it",
                resolution="Every run has an id of its own; leave --run-id out to have one made.",
            )


def _reap_dead_runs(plan: BuildPlan, tools: Tools) -> None:
    """Remove what earlier builds of this variant left when they and their watchdog died.

    Whoever holds the variant's lock knows that no other run of it is alive.

    Raises:
        LeftoverError: something cannot be removed.
    """
    for folder in sorted(plan.paths.run.parent.iterdir()):
        found = records.load(folder)
        if found is None or found.status != "live" or found.run_id == plan.run_id:
            continue
        tools.console.note(f"cleaning up after the run {found.run_id}, which died")
        with tools.gate.shield():
            vagrant.remove(
                found,
                folder,
                tools.watchdog_runner,
                timeout=plan.timeouts.destroy,
                on_output=tools.console.raw,
                say=tools.console.note,
            )


@contextlib.contextmanager
def _guest(
    plan: BuildPlan, inputs: Inputs, tools: Tools, vagrantfile: str, log: BuildLog
) -> Iterator[tuple[Guest, Path]]:
    """Hold a live guest, and a private folder on the host, for the body.

    The removal of both is on record before the guest's start begins.
    """
    log_up = Tee(log, tools.console)
    with watchdog.watching(
        plan.paths.run,
        tools.watchdog_runner,
        destroy_timeout=plan.timeouts.destroy,
        warn=tools.console.warn,
    ):
        record: records.GuestRecord | None = None
        failure: BaseException | None = None
        try:
            with tools.gate.shield():
                record = vagrant.prepare(plan, inputs.box.image, vagrantfile)
            assert record.runtime is not None  # noqa: S101 - prepare() made it
            with tools.console.phase("up") as view:
                view.update(f"vagrant up --provider={plan.provider}")
                login, known_hosts = vagrant.start(plan, record, tools.runner, on_output=log_up)
            with vagrant.connected(
                record, login, tools.runner, known_hosts=known_hosts, insecure=inputs.insecure
            ) as guest:
                yield guest, record.runtime
        except BaseException as error:
            failure = error
            raise
        finally:
            # A signal right here, before the shield, leaves the record live: the watchdog does it.
            with tools.gate.shield(raise_after=failure is None):
                if record is not None:
                    _tear_down(plan, record, tools, log_up, failure)


def _tear_down(
    plan: BuildPlan,
    record: records.GuestRecord,
    tools: Tools,
    on_output: Tee,
    failure: BaseException | None,
) -> None:
    if plan.keep == "always" or (plan.keep == "failed" and failure is not None):
        vagrant.keep(record, plan.paths.run)
        tools.console.note(
            f"the guest stays: cd {record.folder} && vagrant ssh; vagrant destroy -f removes it"
        )
        return
    try:
        with tools.console.phase("destroy"):
            vagrant.remove(
                record,
                plan.paths.run,
                tools.runner,
                timeout=plan.timeouts.destroy,
                on_output=on_output,
                say=tools.console.note,
            )
    except LeftoverError as error:
        if failure is None:
            raise
        # The first failure decides the exit code; this one must still be seen.
        tools.console.error(error)


def _provide_data(
    plan: BuildPlan, inputs: Inputs, tools: Tools, guest: Guest, scratch: Path, deadline: Deadline
) -> None:
    """Push the description, the synced data and the files that options name."""
    with tools.console.phase("sync") as view, deadline.named():
        try:
            _prepare_folders(plan, guest)
            for item in plan.sync:
                _push(guest, item, view, deadline)
            _push_main_file(plan, inputs, guest, scratch, deadline)
            for file in plan.guest_files:
                with file.on_host(scratch) as path:
                    guest.push(path, file.target, timeout=deadline.left())
        except TransferError as error:
            raise GuestError(
                "Data could not be brought into the guest",
                details=error.details,
                resolution="Is the guest's disk full? See the log.",
            ) from error
        except ConnectionLostError as error:
            raise GuestError("The guest does not answer", details=str(error)) from error


def _prepare_folders(plan: BuildPlan, guest: Guest) -> None:
    # The root folder is for root alone: synced keys and credentials lie below it. In a container
    # KIWI needs a writable /sys (it packs its mount with tar, which fails on a read-only one), and
    # device nodes for loop devices where the isolation lets it have them.
    script = (
        'umask 077 && mkdir -p "$1" && mkdir -m 755 "$2" "$3" || exit 1; '
        "[ -e /.dockerenv ] || exit 0; "
        "mount -o remount,rw /sys && vagrant-kiwi-devices"
    )
    made = guest.exec(
        ["sh", "-c", script, "sh", plan.guest.root, plan.guest.files, plan.guest.scripts],
        timeout=_SHORT,
        root=True,
    )
    if not made.ok:
        raise GuestError(
            "The guest cannot be prepared",
            details=made.tail(5),
            resolution="Does the template keep guest.create_args? KIWI needs these rights.",
        )


def _push_main_file(
    plan: BuildPlan, inputs: Inputs, guest: Guest, scratch: Path, deadline: Deadline
) -> None:
    """Put a main file over the pushed one that names the mirrors in use and needs no include."""
    original = plan.description / plan.kiwi_file
    with tempfile.TemporaryDirectory(prefix="description-", dir=scratch) as name:
        copy = Path(name)
        (copy / plan.kiwi_file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(original, copy / plan.kiwi_file)
        before = (copy / plan.kiwi_file).read_bytes()
        written = mirrors.rewrite(copy, plan.kiwi_file, inputs.mirrors, original=plan.description)
        if (copy / written).read_bytes() != before:
            target = f"{plan.guest.description}/{written}"
            guest.push(copy / written, target, timeout=deadline.left())


def _push(guest: Guest, item: SyncItem, view: PhaseView, deadline: Deadline) -> None:
    view.update(f"{item.source.name} -> {item.target}")
    guest.push(
        item.source,
        item.target,
        timeout=deadline.left(),
        exclude=item.exclude,
        delete=item.delete,
        on_output=RsyncPercent(view, item.target),
    )


def _provision(
    plan: BuildPlan, tools: Tools, guest: Guest, log: BuildLog, deadline: Deadline
) -> None:
    """Run the site's scripts, each as root, in order."""
    if not plan.provision:
        return
    with tools.console.phase("provision") as view:
        for number, script in enumerate(plan.provision):
            view.update(script.name)
            tee = Tee(log, tools.console)
            target = f"{plan.guest.scripts}/{number}-{script.name}"
            try:
                with deadline.named():
                    guest.push(script, target, timeout=deadline.left())
            except TransferError as error:
                raise GuestError(
                    f"The script {script} could not be brought into the guest",
                    details=error.details,
                ) from error
            status = _run_in_guest(
                plan,
                tools,
                guest,
                _script_argv(script, target),
                name=f"provision-{number}",
                deadline=deadline,
                on_output=tee,
            )
            if status != 0:
                raise GuestError(
                    f"The provision script {script} failed with exit status {status}",
                    details=last_lines(tee.seen),
                    resolution=f"All it said is in {plan.paths.log}.",
                )


def _script_argv(script: Path, target: str) -> tuple[str, ...]:
    """Honour a script's interpreter line, executable or not; without one it is a shell script."""
    with script.open("rb") as stream:
        first = stream.readline(256)
    if not first.startswith(b"#!"):
        return ("sh", target)
    # One argument at most, as the kernel does it; execve(2), "Interpreter scripts".
    interpreter = os.fsdecode(first[2:]).strip().split(maxsplit=1)
    return (*interpreter, target)


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
                status = _run_in_guest(
                    plan,
                    tools,
                    guest,
                    argv,
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


def _run_in_guest(
    plan: BuildPlan,
    tools: Tools,
    guest: Guest,
    argv: tuple[str, ...],
    *,
    name: str,
    deadline: Deadline,
    on_output: Tee,
) -> int:
    try:
        return remote.run(
            guest,
            argv,
            folder=f"{plan.guest.root}/commands/{name}",
            timeout=deadline.left(),
            on_output=on_output,
            on_trouble=tools.console.warn,
        )
    except CommandTimeoutError as error:
        raise deadline.missed(details=last_lines(on_output.seen)) from error
    except ConnectionLostError as error:
        raise GuestError("The guest does not answer", details=error.details) from error


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
                    "box": asdict(inputs.box),
                    "mirrors": [choice.describe() for choice in inputs.mirrors],
                },
            )
            published(Built(folder, artifacts))


def marked(environment: dict[str, str], run_id: str) -> dict[str, str]:
    """Return an environment whose processes can be found again by their run."""
    return {**environment, processes.MARK: run_id}
