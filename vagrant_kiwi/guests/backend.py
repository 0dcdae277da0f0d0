"""What lies below Vagrant: the daemon that has a run's guest, asked where Vagrant is no help.

Vagrant starts and destroys guests. It tells no host keys, and does not remove what it only half
made; those who run the guests do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from vagrant_kiwi.errors import SettingsError
from vagrant_kiwi.guests.record import GuestRecord
from vagrant_kiwi.guests.ssh import Login
from vagrant_kiwi.process import Runner


class Backend(Protocol):
    """The daemon that runs a guest, as far as one run is concerned.

    All of it may be called for a guest that never started, or is gone.
    """

    def claimed(self) -> str | None:
        """Name what carries the run's id already; None if nothing does.

        Raises:
            PreflightError: the daemon does not answer.
        """
        ...

    def running(self) -> bool:
        """Tell whether the guest runs.

        Raises:
            VagrantKiwiError: the daemon does not say.
        """
        ...

    def wake(self) -> None:
        """Bring a suspended guest back, with an address that is still its own."""
        ...

    def host_keys(self, login: Login, *, timeout: float) -> tuple[str, ...]:
        """Read the guest's ssh host keys out of band: nobody on the network can forge them.

        Args:
            login: where Vagrant logs in.
            timeout: seconds until they must be there.

        Returns:
            Public key lines, "type key" each.

        Raises:
            GuestError: it has none, or does not answer.
        """
        ...

    def proxy(self) -> tuple[str, ...]:
        """Return the command through which ssh reaches the guest; nothing where it is direct."""
        ...

    def last_words(self) -> str:
        """Return the last lines that the guest wrote on its console, for an error's details."""
        ...

    def end(self) -> None:
        """End the guest where Vagrant's own way of destroying it leaves something behind."""
        ...

    def remove(self, *, say: Callable[[str], None]) -> None:
        """Remove whatever the run left with the daemon, half-made guests included.

        Args:
            say: told what had to be removed.

        Raises:
            VagrantKiwiError: the daemon refuses.
        """
        ...

    def leftovers(self) -> Sequence[str]:
        """Name what the run still has.

        Raises:
            VagrantKiwiError: the daemon does not say.
        """
        ...


def of(record: GuestRecord, runner: Runner) -> Backend:
    """Return the backend of a guest on record.

    Args:
        record: the guest.
        runner: its environment may hold DOCKER_HOST and its companions.

    Raises:
        SettingsError: none is known for the provider.
    """
    if record.vagrantfile is not None:
        from vagrant_kiwi.guests.own import OwnBackend

        return OwnBackend(record, runner)
    # Imported here: libvirt's bindings are there only where that provider is used.
    if record.provider == "docker":
        from vagrant_kiwi.guests.docker import DockerBackend

        return DockerBackend(record.guest_run, record.image, runner.environment)
    if record.provider == "libvirt":
        from vagrant_kiwi.guests.libvirt import LibvirtBackend

        return LibvirtBackend(record.guest_run, record.uri, record.console)
    raise SettingsError(
        f"Guests of the provider {record.provider} cannot be used yet",
        resolution="Choose docker or libvirt.",
    )
