"""The Vagrant build system: up, log in, check the keys; destroy, half-starts included."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vagrant_kiwi.errors import GuestError, PhaseTimeoutError
from vagrant_kiwi.guests import backend, ssh
from vagrant_kiwi.guests.record import GuestRecord
from vagrant_kiwi.guests.ssh import SshGuest
from vagrant_kiwi.guests.troubles import noted
from vagrant_kiwi.guests.vagrant_command import RoutedVagrant
from vagrant_kiwi.keys import InsecureKeys
from vagrant_kiwi.plan import BuildPlan, guest_name
from vagrant_kiwi.process import OnOutput, Runner

#: Seconds that sshd in a started guest has to answer.
_LOGIN_TIMEOUT = 60.0


@dataclass(frozen=True)
class VagrantSystem:
    """Vagrant as a build system, of whatever provider; see ``System``.

    Args:
        record: the guest; what has to be there before ``start`` is laid out.
        runner: starts Vagrant and ssh.
    """

    record: GuestRecord
    runner: Runner

    def claimed(self) -> str | None:
        """Name what carries the run's id already; see ``System``."""
        return self._lower.claimed()

    def start(self, plan: BuildPlan, *, text: str, on_output: OnOutput) -> VagrantSystem:
        """Run `vagrant up` and find out how to log in; see ``System``.

        An error's details end with the last that the guest wrote on its console.
        """
        vagrant = self._vagrant("up", plan.timeouts.up, on_output)
        lower = self._lower
        try:
            lower.wake()
            vagrant.bring_up(self.record.provider)
            login = vagrant.login(alias=guest_name(self.record.guest_run))
            keys = lower.host_keys(login, timeout=_LOGIN_TIMEOUT)
        except (GuestError, PhaseTimeoutError) as error:
            raise type(error)(
                error.brief,
                details="\n".join(filter(None, (error.details, lower.last_words()))),
                resolution=error.resolution,
            ) from error
        login = dataclasses.replace(login, proxy=lower.proxy())
        known_hosts = "".join(f"{login.alias} {key}\n" for key in keys)
        started = self.record.model_copy(update={"login": login, "known_hosts": known_hosts})
        return VagrantSystem(started, self.runner)

    def suspend(self, *, timeout: float, on_output: OnOutput) -> None:
        """Save a guest's memory to disk and stop it.

        Raises:
            GuestError: the provider cannot do that.
            PhaseTimeoutError: it took too long.
        """
        self._vagrant("destroy", timeout, on_output).put_to_sleep()

    @contextlib.contextmanager
    def connected(self) -> Iterator[SshGuest]:
        """Log in for the body; see ``System``."""
        login, runtime = self.record.login, self.record.runtime
        assert login is not None and runtime is not None  # noqa: S101 - it was started
        config = ssh.write_config(runtime, login, known_hosts=self.record.known_hosts)
        with ssh.connected(
            self.runner, config, who=login.who, timeout=_LOGIN_TIMEOUT, far=bool(login.proxy)
        ) as guest:
            yield guest

    def running(self) -> bool:
        """Tell whether the guest runs and was ever logged in to; see ``System``."""
        return self.record.login is not None and self._lower.running()

    def leave(self) -> bool:
        """Return that it stays, which it does by itself; see ``System``."""
        return True

    def starting(self) -> str:
        """Return the command; see ``System``."""
        return f"vagrant up --provider={self.record.provider}"

    def entrance(self) -> str:
        """Return Vagrant's way in; see ``System``."""
        own = self.record.vagrantfile
        if own is None:
            return f"cd {shlex.quote(str(self.record.folder))} && vagrant ssh"
        words = (f"{key}={value}" for key, value in _elsewhere(self.record.folder, own).items())
        return f"cd {shlex.quote(str(own.parent))} && env {shlex.join(words)} vagrant ssh"

    def destroy(
        self, *, timeout: float, on_output: OnOutput, say: Callable[[str], None]
    ) -> tuple[Sequence[str], Sequence[str]]:
        """Run `vagrant destroy`, and remove what that leaves; see ``System``."""
        troubles: list[str] = []
        lower = self._lower
        with noted(troubles):
            lower.end()
        if (self.record.folder / ".vagrant").is_dir():
            with noted(troubles):
                self._vagrant("destroy", timeout, on_output).remove()
        with noted(troubles):
            lower.remove(say=say)
        unknown: list[str] = []
        with noted(unknown):
            return lower.leftovers(), troubles
        return [f"unknown: {error}" for error in unknown], troubles

    @property
    def _lower(self) -> backend.Backend:
        return backend.of(self.record, self.runner)

    def _vagrant(self, phase: str, timeout: float, on_output: OnOutput) -> RoutedVagrant:
        own = self.record.vagrantfile
        return RoutedVagrant(
            own.parent if own is not None else self.record.folder,
            runner=self.runner,
            phase=phase,
            timeout=timeout,
            on_output=on_output,
            environment=_elsewhere(self.record.folder, own) if own is not None else None,
        )


def _elsewhere(folder: Path, own: Path) -> Mapping[str, str]:
    """Return what has Vagrant use a Vagrantfile where it lies, and keep its own files with us."""
    return {
        "VAGRANT_VAGRANTFILE": own.name,
        "VAGRANT_DOTFILE_PATH": str(folder / ".vagrant"),
    }


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
