"""Bring data into a guest, and run the site's scripts there."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from vagrant_kiwi import mirrors, overlay, remote
from vagrant_kiwi.console import Console, PhaseView
from vagrant_kiwi.deadline import Deadline
from vagrant_kiwi.errors import GuestError
from vagrant_kiwi.guests import ConnectionLostError, Guest, TransferError, run_folder
from vagrant_kiwi.output import BuildLog, RsyncPercent, Tee
from vagrant_kiwi.plan import BuildPlan, SyncItem
from vagrant_kiwi.process import CommandTimeoutError, last_lines


def data(
    plan: BuildPlan,
    choices: tuple[mirrors.MirrorChoice, ...],
    guest: Guest,
    scratch: Path,
    console: Console,
    deadline: Deadline,
    *,
    items: tuple[SyncItem, ...],
) -> None:
    """Push the description, the synced data and the files that options name.

    Args:
        plan: the build.
        choices: the mirrors in use, which the description's copy will name.
        guest: the guest.
        scratch: a private folder on the host.
        console: shows progress.
        deadline: for this phase.
        items: what of ``plan.sync`` is pushed.

    Raises:
        GuestError: something does not arrive.
        PhaseTimeoutError: it takes too long.
    """
    with console.phase("sync") as view, deadline.named():
        try:
            run_folder.make(guest, plan.guest)
            for number, item in enumerate((*items, *plan.references)):
                _push(plan, guest, item, number, view, deadline)
            _push_main_file(plan, choices, guest, scratch, deadline)
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


def _push_main_file(
    plan: BuildPlan,
    choices: tuple[mirrors.MirrorChoice, ...],
    guest: Guest,
    scratch: Path,
    deadline: Deadline,
) -> None:
    """Put a main file over the pushed one that needs no include, and names what the guest has."""
    original = plan.description / plan.kiwi_file
    with tempfile.TemporaryDirectory(prefix="description-", dir=scratch) as name:
        copy = Path(name)
        (copy / plan.kiwi_file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(original, copy / plan.kiwi_file)
        before = (copy / plan.kiwi_file).read_bytes()
        written = mirrors.rewrite(
            copy,
            plan.kiwi_file,
            (*plan.local_repositories, *choices),
            original=plan.description,
            files=plan.moved_files,
        )
        if (copy / written).read_bytes() != before:
            target = f"{plan.guest.description}/{written}"
            guest.push(copy / written, target, timeout=deadline.left())


def _push(
    plan: BuildPlan, guest: Guest, item: SyncItem, number: int, view: PhaseView, deadline: Deadline
) -> None:
    view.update(f"{item.source.name} -> {item.target}")
    # rsync would give the folders that are there the modes of the source's, and replace links to
    # folders by folders.
    target = f"{plan.guest.root}/overlay/{number}" if item.overlay else item.target
    guest.push(
        item.source,
        target,
        timeout=deadline.left(),
        exclude=item.exclude,
        delete=item.delete,
        on_output=RsyncPercent(view, item.target),
    )
    if item.overlay:
        overlay.unpack(guest, target, item.target, timeout=deadline.left())


def scripts(
    plan: BuildPlan, guest: Guest, console: Console, log: BuildLog, deadline: Deadline
) -> None:
    """Run the site's scripts, each as root, in order.

    They find the description's copy, which they may change, by VAGRANT_KIWI_DESCRIPTION.

    Raises:
        GuestError: one fails.
        PhaseTimeoutError: it takes too long.
    """
    if not plan.provision:
        return
    with console.phase("provision") as view:
        for number, script in enumerate(plan.provision):
            view.update(script.name)
            tee = Tee(log, console)
            target = f"{plan.guest.scripts}/{number}-{script.name}"
            try:
                with deadline.named():
                    guest.push(script, target, timeout=deadline.left())
            except TransferError as error:
                raise GuestError(
                    f"The script {script} could not be brought into the guest",
                    details=error.details,
                ) from error
            status = command(
                plan,
                guest,
                _script_argv(plan, script, target),
                console,
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


def _script_argv(plan: BuildPlan, script: Path, target: str) -> tuple[str, ...]:
    """Honour a script's interpreter line, executable or not; without one it is a shell script."""
    with script.open("rb") as stream:
        first = stream.readline(256)
    given = ("env", f"VAGRANT_KIWI_DESCRIPTION={plan.guest.description}")
    if not first.startswith(b"#!"):
        return (*given, "sh", target)
    # One argument at most, as the kernel does it; execve(2), "Interpreter scripts".
    interpreter = os.fsdecode(first[2:]).strip().split(maxsplit=1)
    return (*given, *interpreter, target)


def command(
    plan: BuildPlan,
    guest: Guest,
    argv: tuple[str, ...],
    console: Console,
    *,
    name: str,
    deadline: Deadline,
    on_output: Tee,
) -> int:
    """Run a long command of the run in its guest, and return its exit status.

    Args:
        plan: the build.
        guest: the guest.
        argv: program and arguments.
        console: told when the connection is lost.
        name: of the command's folder in the guest.
        deadline: when it must have ended.
        on_output: sees its output.

    Raises:
        GuestError: the guest does not answer.
        PhaseTimeoutError: it takes too long.
    """
    try:
        return remote.run(
            guest,
            argv,
            folder=f"{plan.guest.root}/commands/{name}",
            timeout=deadline.left(),
            on_output=on_output,
            on_trouble=console.warn,
        )
    except CommandTimeoutError as error:
        raise deadline.missed(details=last_lines(on_output.seen)) from error
    except ConnectionLostError as error:
        raise GuestError("The guest does not answer", details=error.details) from error
