"""Put a run on record before anything of it is started, and remove all of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from filelock import FileLock

from vagrant_kiwi import docker_api, own_vagrantfile, state
from vagrant_kiwi.errors import LeftoverError
from vagrant_kiwi.guests import processes, run_folder, ssh, system
from vagrant_kiwi.guests.record import GuestRecord, Status
from vagrant_kiwi.guests.troubles import noted
from vagrant_kiwi.plan import BuildPlan, runs_in
from vagrant_kiwi.process import OnOutput, Runner


def record_of(
    plan: BuildPlan,
    image: str,
    reused: GuestRecord | None,
    *,
    asleep: bool,
    environment: Mapping[str, str],
) -> GuestRecord:
    """Return what will have to be removed of a run; nothing is written.

    Args:
        plan: the build.
        image: the box's name with the provider.
        reused: the guest that the run will use; None: one of its own.
        asleep: how to log in to that is not known before it is awake.
        environment: names the Docker daemon.
    """
    if reused is not None:
        return reused.model_copy(
            update={
                **({"login": None} if asleep else {}),
                "run_id": plan.run_id,
                "reuses": reused.run_id,
                "staging": plan.paths.staging,
                "made_of": {},
                "status": "live",
            }
        )
    return GuestRecord(
        run_id=plan.run_id,
        provider=plan.provider,
        image=image,
        uri=plan.libvirt.uri if plan.provider == "libvirt" else "",
        daemon=docker_api.pinned(environment) if plan.provider in docker_api.PROVIDERS else {},
        console=plan.console,
        guest_root=runs_in(plan),
        vagrantfile=plan.vagrantfile,
        folder=plan.paths.run / "guest",
        staging=plan.paths.staging,
    )


def prepare(planned: GuestRecord, run: Path, text: str) -> GuestRecord:
    """Put on record what will have to be removed, and lay out the folder of a fresh guest.

    Args:
        planned: what ``record_of`` returned.
        run: the run's folder, which takes the record.
        text: what ``system.made_from`` returned.

    Returns:
        The record as it is on disk: with the folder for the connection.
    """
    if planned.reuses is None:
        state.make_folder(planned.folder)
        if planned.provider not in own_vagrantfile.WITHOUT_VAGRANT and not planned.vagrantfile:
            state.write_text(planned.folder / "Vagrantfile", text)
        if planned.console is not None:
            # libvirt's log daemon appends to what is there, whoever's it is.
            planned.console.touch(mode=0o600)
    record = planned.model_copy(update={"runtime": ssh.runtime_folder()})
    try:
        record.save(run)
    except BaseException:
        # Nobody would find it again.
        _remove_folder(record.runtime)
        raise
    return record


def remove(
    record: GuestRecord,
    run: Path,
    runner: Runner,
    *,
    timeout: float,
    on_output: OnOutput,
    say: Callable[[str], None],
) -> None:
    """Remove what a run has: its guest, or its folder in a guest that it only used.

    Safe to call twice, and at the same time.

    Args:
        record: what was started.
        run: the run's folder, where the record lies.
        runner: starts the tools.
        timeout: seconds for the tool that destroys the guest.
        on_output: sees what that says.
        say: told what had been left behind.

    Raises:
        LeftoverError: something is still there.
    """
    with FileLock(run / "removal.lock"):
        troubles: list[str] = []
        with noted(troubles):
            processes.end_run(record.run_id, say=say)
        left: list[str] = []
        if record.reuses is not None:
            with noted(left):
                _leave(record, runner)
        else:
            still, more = system.of(record, runner).destroy(
                timeout=timeout, on_output=on_output, say=say
            )
            left += still
            troubles += more
        folder = None if left or record.reuses is not None else record.folder
        for path in (record.runtime, record.staging, folder):
            with noted(left):
                _remove_folder(path)
        if left:
            raise LeftoverError(
                f"The guest of run {record.run_id} could not be removed completely",
                details="\n".join(dict.fromkeys([*left, *troubles])),
                resolution="Remove it by hand; the next build of this variant tries again too.",
            )
        record.model_copy(update={"status": "removed"}).save(run)


def _leave(record: GuestRecord, runner: Runner) -> None:
    """End what a run started in a guest that stays, and remove its folder there.

    One that does not run has nothing of it at work.

    Raises:
        LeftoverError: the guest does not answer, or something cannot be removed.
    """
    if not system.of(record, runner).running():
        return
    # The connection of the run may be gone with it, and its folder must not be used twice.
    folder = ssh.runtime_folder()
    try:
        again = record.model_copy(update={"runtime": folder})
        with system.of(again, runner).connected() as guest:
            run_folder.remove(guest, record.run_root)
    finally:
        _remove_folder(folder)


def _remove_folder(folder: Path | None) -> None:
    if folder is not None and folder.exists():
        shutil.rmtree(folder)


def keep(record: GuestRecord, run: Path, *, status: Status) -> GuestRecord:
    """Put on record that the user wants the guest to stay; nothing else of the run does.

    Args:
        record: the guest.
        run: the run's folder, where the record lies.
        status: what for: ``kept``, ``up`` or ``suspended``.
    """
    _remove_folder(record.runtime)
    _remove_folder(record.staging)
    kept = record.model_copy(update={"status": status, "runtime": None})
    kept.save(run)
    return kept
