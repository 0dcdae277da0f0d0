"""The Vagrant build system: up, log in, check the key; and remove it all."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from filelock import FileLock

from vagrant_kiwi import state
from vagrant_kiwi.errors import (
    GuestError,
    LeftoverError,
    PhaseTimeoutError,
    StoppedError,
    VagrantKiwiError,
)
from vagrant_kiwi.guests import backend, processes, run_folder, ssh
from vagrant_kiwi.guests.record import GuestRecord, Status
from vagrant_kiwi.guests.ssh import SshGuest
from vagrant_kiwi.guests.vagrant_command import RoutedVagrant
from vagrant_kiwi.keys import InsecureKeys
from vagrant_kiwi.plan import BuildPlan, guest_name
from vagrant_kiwi.process import OnOutput, Runner

#: Seconds that sshd in a started guest has to answer.
_LOGIN_TIMEOUT = 60.0


def record_of(
    plan: BuildPlan, image: str, reused: GuestRecord | None, *, asleep: bool
) -> GuestRecord:
    """Return what will have to be removed of a run; nothing is written.

    Args:
        plan: the build.
        image: the box's name with the provider.
        reused: the guest that the run will use; None: one of its own.
        asleep: how to log in to that is not known before it is awake.
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
        console=plan.console,
        folder=plan.paths.run / "guest",
        staging=plan.paths.staging,
    )


def prepare(planned: GuestRecord, run_folder: Path, vagrantfile: str) -> GuestRecord:
    """Put on record what will have to be removed, and lay out the folder of a fresh guest.

    Args:
        planned: what ``record_of`` returned.
        run_folder: the run's folder, which takes the record.
        vagrantfile: the rendered Vagrantfile.

    Returns:
        The record as it is on disk: with the folder for the connection.
    """
    if planned.reuses is None:
        state.make_folder(planned.folder)
        state.write_text(planned.folder / "Vagrantfile", vagrantfile)
        if planned.console is not None:
            # libvirt's log daemon appends to what is there, whoever's it is.
            planned.console.touch(mode=0o600)
    record = planned.model_copy(update={"runtime": ssh.runtime_folder()})
    try:
        record.save(run_folder)
    except BaseException:
        # Nobody would find it again.
        _remove_folder(record.runtime)
        raise
    return record


def start(
    record: GuestRecord, runner: Runner, *, timeout: float, on_output: OnOutput
) -> GuestRecord:
    """Bring the guest up, or wake it, and find out how to log in.

    Args:
        record: what ``prepare`` returned.
        runner: starts Vagrant.
        timeout: seconds for ``vagrant up``.
        on_output: sees what Vagrant says.

    Returns:
        The record with the login and the guest's host keys.

    Raises:
        GuestError: it did not come up; with the last that it wrote on its console.
        PhaseTimeoutError: it took too long; likewise.
    """
    vagrant = RoutedVagrant(
        record.folder, runner=runner, phase="up", timeout=timeout, on_output=on_output
    )
    lower = backend.of(record, runner.environment)
    try:
        lower.wake()
        vagrant.bring_up(record.provider)
        login = vagrant.login(alias=guest_name(record.guest_run))
        keys = lower.host_keys(timeout=_LOGIN_TIMEOUT)
    except (GuestError, PhaseTimeoutError) as error:
        raise type(error)(
            error.brief,
            details="\n".join(filter(None, (error.details, lower.last_words()))),
            resolution=error.resolution,
        ) from error
    login = dataclasses.replace(login, proxy=lower.proxy())
    known_hosts = "".join(f"{login.alias} {key}\n" for key in keys)
    return record.model_copy(update={"login": login, "known_hosts": known_hosts})


def suspend(record: GuestRecord, runner: Runner, *, timeout: float, on_output: OnOutput) -> None:
    """Save a guest's memory to disk and stop it.

    Raises:
        GuestError: the provider cannot do that.
        PhaseTimeoutError: it took too long.
    """
    RoutedVagrant(
        record.folder, runner=runner, phase="destroy", timeout=timeout, on_output=on_output
    ).put_to_sleep()


@contextlib.contextmanager
def connected(record: GuestRecord, runner: Runner) -> Iterator[SshGuest]:
    """Log in for the body.

    Args:
        record: what ``start`` returned.
        runner: starts ssh.

    Raises:
        GuestError: the login does not work.
    """
    assert record.runtime is not None  # noqa: S101 - prepare() made it
    assert record.login is not None  # noqa: S101 - start() found it
    with ssh.connected(
        runner,
        record.login,
        record.runtime,
        known_hosts=record.known_hosts,
        timeout=_LOGIN_TIMEOUT,
    ) as guest:
        yield guest


def check_keys(record: GuestRecord, runner: Runner, insecure: InsecureKeys) -> None:
    """Make sure that nobody with a well-known key can log in to a connected guest.

    Raises:
        GuestError: somebody can.
    """
    login, runtime = record.login, record.runtime
    assert login is not None and runtime is not None  # noqa: S101 - it is connected
    for key in insecure.private:
        if not ssh.refuses_key(runner, login, key, runtime, known_hosts=record.known_hosts):
            raise GuestError(
                "The guest accepts Vagrant's well-known insecure key",
                details=f"{login.user}@{login.host} let the key {key} in, which anybody has",
                resolution="Remove that key from the box, or leave config.ssh.insert_key on.",
            )


def remove(
    record: GuestRecord,
    run_folder: Path,
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
        run_folder: where the record lies.
        runner: starts Vagrant.
        timeout: seconds for ``vagrant destroy``.
        on_output: sees what Vagrant says.
        say: told what Vagrant had left behind.

    Raises:
        LeftoverError: something is still there.
    """
    with FileLock(run_folder / "removal.lock"):
        troubles: list[str] = []
        with _noted(troubles):
            processes.end_run(record.run_id, say=say)
        left: list[str] = []
        if record.reuses is not None:
            with _noted(left):
                _leave(record, runner)
        else:
            left += _destroy(record, runner, timeout, on_output, say, troubles)
        folder = None if left or record.reuses is not None else record.folder
        for path in (record.runtime, record.staging, folder):
            with _noted(left):
                _remove_folder(path)
        if left:
            raise LeftoverError(
                f"The guest of run {record.run_id} could not be removed completely",
                details="\n".join(dict.fromkeys([*left, *troubles])),
                resolution="Remove it by hand; the next build of this variant tries again too.",
            )
        record.model_copy(update={"status": "removed"}).save(run_folder)


def _leave(record: GuestRecord, runner: Runner) -> None:
    """End what a run started in a guest that stays, and remove its folder there.

    One that was never logged in to has nothing of it; one that does not run has nothing of it at
    work.

    Raises:
        LeftoverError: the guest does not answer, or something cannot be removed.
    """
    if record.login is None or not backend.of(record, runner.environment).running():
        return
    # The connection of the run may be gone with it, and its folder must not be used twice.
    folder = ssh.runtime_folder()
    try:
        with connected(record.model_copy(update={"runtime": folder}), runner) as guest:
            run_folder.remove(guest, record.run_id)
    finally:
        _remove_folder(folder)


def _destroy(
    record: GuestRecord,
    runner: Runner,
    timeout: float,
    on_output: OnOutput,
    say: Callable[[str], None],
    troubles: list[str],
) -> Sequence[str]:
    """Destroy the guest; return what is left of it, and note what went wrong on the way."""
    lower = backend.of(record, runner.environment)
    with _noted(troubles):
        lower.end()
    if (record.folder / ".vagrant").is_dir():
        vagrant = RoutedVagrant(
            record.folder, runner=runner, phase="destroy", timeout=timeout, on_output=on_output
        )
        with _noted(troubles):
            vagrant.remove()
    with _noted(troubles):
        lower.remove(say=say)
    unknown: list[str] = []
    with _noted(unknown):
        return lower.leftovers()
    return [f"unknown: {error}" for error in unknown]


@contextlib.contextmanager
def _noted(troubles: list[str]) -> Iterator[None]:
    """Note a failure of one step and let the next one have its turn; a stop is no failure."""
    try:
        yield
    except StoppedError:
        raise
    except (VagrantKiwiError, OSError) as error:
        troubles.append(str(error))


def _remove_folder(folder: Path | None) -> None:
    if folder is not None and folder.exists():
        shutil.rmtree(folder)


def keep(record: GuestRecord, run_folder: Path, *, status: Status) -> GuestRecord:
    """Put on record that the user wants the guest to stay; nothing else of the run does.

    Args:
        record: the guest.
        run_folder: where the record lies.
        status: what for: ``kept``, ``up`` or ``suspended``.
    """
    _remove_folder(record.runtime)
    _remove_folder(record.staging)
    kept = record.model_copy(update={"status": status, "runtime": None})
    kept.save(run_folder)
    return kept
