"""The Vagrant build system: render, up, log in, check the key; and remove it all."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from vagrant_kiwi import docker_api, state, templates
from vagrant_kiwi.errors import GuestError, LeftoverError, StoppedError, VagrantKiwiError
from vagrant_kiwi.guests import docker as docker_guests
from vagrant_kiwi.guests import processes, ssh
from vagrant_kiwi.guests.record import GuestRecord
from vagrant_kiwi.guests.ssh import Login, SshGuest
from vagrant_kiwi.guests.vagrant_command import RoutedVagrant
from vagrant_kiwi.keys import InsecureKeys
from vagrant_kiwi.plan import BuildPlan
from vagrant_kiwi.process import OnOutput, Runner

#: Seconds that sshd in a started guest has to answer.
_LOGIN_TIMEOUT = 60.0


@dataclass(frozen=True)
class PlanView:
    """``plan`` in the templates."""

    run_id: str
    name: str


@dataclass(frozen=True)
class BoxView:
    """``box`` in the templates."""

    name: str
    image: str
    version: str


@dataclass(frozen=True)
class GuestView:
    """``guest`` in the templates."""

    name: str
    user: str
    create_args: tuple[str, ...]
    command: tuple[str, ...]
    boot_timeout: int


def render(plan: BuildPlan, box: BoxView) -> str:
    """Return the Vagrantfile of a build.

    Raises:
        TemplateError: a template is unsafe, or cannot be rendered.
    """
    return templates.render(
        f"Vagrantfile.{plan.provider}.j2",
        {
            "plan": PlanView(plan.run_id, plan.name),
            "box": box,
            "guest": GuestView(
                name=plan.guest_name,
                user="vagrant",
                create_args=plan.isolation.create_args,
                command=(),
                boot_timeout=int(plan.timeouts.up),
            ),
            "site": {},
        },
        search=plan.template_dirs,
    )


def prepare(plan: BuildPlan, image: str, vagrantfile: str) -> GuestRecord:
    """Lay the guest's folder out and put on record what will have to be removed.

    Args:
        plan: the build.
        image: the box's image, which also serves the clean-up.
        vagrantfile: its rendered Vagrantfile.

    Returns:
        The record; it is on disk, in the run's folder.
    """
    folder = plan.paths.run / "guest"
    state.make_folder(folder)
    state.write_text(folder / "Vagrantfile", vagrantfile)
    record = GuestRecord(
        run_id=plan.run_id,
        provider=plan.provider,
        image=image,
        folder=folder,
        runtime=ssh.runtime_folder(),
        staging=plan.paths.staging,
    )
    try:
        record.save(plan.paths.run)
    except BaseException:
        # Nobody would find it again.
        if record.runtime is not None:
            record.runtime.rmdir()
        raise
    return record


def start(
    plan: BuildPlan, record: GuestRecord, runner: Runner, *, on_output: OnOutput
) -> tuple[Login, str]:
    """Bring the guest up and find out how to log in.

    Args:
        plan: the build.
        record: what ``prepare`` returned.
        runner: starts Vagrant.
        on_output: sees what Vagrant says.

    Returns:
        The login, and the guest's host keys as known_hosts lines.

    Raises:
        GuestError: it did not come up.
        PhaseTimeoutError: it took too long.
    """
    vagrant = RoutedVagrant(
        record.folder, runner=runner, phase="up", timeout=plan.timeouts.up, on_output=on_output
    )
    vagrant.bring_up(plan.provider)
    login = vagrant.login(alias=plan.guest_name)
    try:
        with docker_api.client(runner.environment) as daemon:
            keys = docker_guests.host_keys(daemon, plan.run_id, timeout=_LOGIN_TIMEOUT)
    except docker_api.FAILURES as error:
        raise GuestError(
            "Docker does not tell the guest's host keys",
            details=str(error),
            resolution="Is the daemon in good order? Build again.",
        ) from error
    return login, "".join(f"{login.alias} {key}\n" for key in keys)


@contextlib.contextmanager
def connected(
    record: GuestRecord, login: Login, runner: Runner, *, known_hosts: str, insecure: InsecureKeys
) -> Iterator[SshGuest]:
    """Log in for the body, after making sure that nobody with the well-known key can.

    Raises:
        GuestError: the login does not work, or a well-known key is accepted.
    """
    assert record.runtime is not None  # noqa: S101 - prepare() made it
    with ssh.connected(
        runner, login, record.runtime, known_hosts=known_hosts, timeout=_LOGIN_TIMEOUT
    ) as guest:
        for key in insecure.private:
            if not ssh.refuses_key(runner, login, key, record.runtime, known_hosts=known_hosts):
                raise GuestError(
                    "The guest accepts Vagrant's well-known insecure key",
                    details=f"{login.user}@{login.host} let the key {key} in, which anybody has",
                    resolution="Remove that key from the box, or leave config.ssh.insert_key on.",
                )
        yield guest


def remove(
    record: GuestRecord,
    run_folder: Path,
    runner: Runner,
    *,
    timeout: float,
    on_output: OnOutput,
    say: Callable[[str], None],
) -> None:
    """Remove a guest and all that belongs to it; safe to call twice, and at the same time.

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
        if (record.folder / ".vagrant").is_dir():
            vagrant = RoutedVagrant(
                record.folder,
                runner=runner,
                phase="destroy",
                timeout=timeout,
                on_output=on_output,
            )
            with _noted(troubles):
                vagrant.remove()
        # Docker tells whether what Vagrant could not remove is gone; of others we know nothing.
        left = [] if record.provider == "docker" else list(troubles)
        left += _remove_by_label(record, runner, say=say, troubles=troubles)
        for folder in (record.runtime, record.staging, None if left else record.folder):
            with _noted(left):
                _remove_folder(folder)
        if left:
            raise LeftoverError(
                f"The guest of run {record.run_id} could not be removed completely",
                details="\n".join(dict.fromkeys([*left, *troubles])),
                resolution="Remove it by hand; the next build of this variant tries again too.",
            )
        record.model_copy(update={"status": "removed"}).save(run_folder)


@contextlib.contextmanager
def _noted(troubles: list[str]) -> Iterator[None]:
    """Note a failure of one step and let the next one have its turn; a stop is no failure."""
    try:
        yield
    except StoppedError:
        raise
    except (VagrantKiwiError, OSError, *docker_api.FAILURES) as error:
        troubles.append(str(error))


def _remove_by_label(
    record: GuestRecord, runner: Runner, *, say: Callable[[str], None], troubles: list[str]
) -> Sequence[str]:
    unknown: list[str] = []
    with _noted(unknown), docker_api.client(runner.environment) as daemon:
        with _noted(troubles):
            docker_guests.remove_run(daemon, record.run_id, image=record.image, say=say)
        return docker_guests.leftovers(daemon, record.run_id)
    return [f"unknown, because Docker does not say: {error}" for error in unknown]


def _remove_folder(folder: Path | None) -> None:
    if folder is not None and folder.exists():
        shutil.rmtree(folder)


def keep(record: GuestRecord, run_folder: Path) -> None:
    """Put on record that the user wants the guest to stay; nothing else of the run does."""
    _remove_folder(record.runtime)
    _remove_folder(record.staging)
    record.model_copy(update={"status": "kept", "runtime": None}).save(run_folder)
