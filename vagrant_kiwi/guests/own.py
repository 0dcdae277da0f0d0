"""A guest of the user's own Vagrantfile: nothing in it carries our names or labels.

What Vagrant started is found by what it wrote down: ``machines/<name>/<provider>/id`` in its state,
which is a container's or a domain's id, and is gone once the machine is destroyed.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import docker
import docker.errors

from vagrant_kiwi import docker_api
from vagrant_kiwi.errors import GuestError, PreflightError, SettingsError
from vagrant_kiwi.guests import docker as docker_guests
from vagrant_kiwi.guests import ssh
from vagrant_kiwi.guests.record import GuestRecord
from vagrant_kiwi.guests.ssh import Login
from vagrant_kiwi.process import Runner

#: What Vagrant says of a container that it is about to make.
_NAME = re.compile(r"^    [^\s:]+:   Name: (\S+)$", re.MULTILINE)
#: Seconds that a machine has to tell its keys over the network.
_SCAN = 20


def read(path: Path) -> str:
    """Return the text of a Vagrantfile; only Vagrant runs it.

    Raises:
        SettingsError: it cannot be read.
    """
    try:
        return path.read_text("utf-8", "surrogateescape")
    except OSError as error:
        raise SettingsError(
            f"The Vagrantfile {path} cannot be read", details=error.strerror or str(error)
        ) from error


@dataclass(frozen=True)
class OwnBackend:
    """What lies below Vagrant for a user's own Vagrantfile; see ``Backend``.

    Args:
        record: the guest.
        runner: starts ssh-keyscan; its environment may hold DOCKER_HOST.
    """

    record: GuestRecord
    runner: Runner

    def claimed(self) -> str | None:
        """Return nothing: the run's id is in no name; see ``Backend``."""
        return None

    def running(self) -> bool:
        """Tell whether Vagrant has a machine; see ``Backend``."""
        return bool(self._ids())

    def wake(self) -> None:
        """Do nothing: Vagrant does it; see ``Backend``."""

    def host_keys(self, login: Login, *, timeout: float) -> tuple[str, ...]:
        """Read the guest's ssh host keys: a container's through Docker; see ``Backend``.

        Those of a machine come over the network that is between it and this host alone: a box of
        the user's need not have QEMU's agent.
        """
        container = self._ids("docker")
        if container:
            with (
                docker_guests.told("Docker does not tell the guest's host keys"),
                docker_api.client(self.runner.environment) as daemon,
            ):
                return docker_guests.host_keys(
                    [daemon.containers.get(container[0])], timeout=timeout
                )
        scanned = self.runner.run(
            ["ssh-keyscan", "-T", str(_SCAN), "-p", str(login.port), login.host],
            timeout=timeout + _SCAN,
        )
        keys = ssh.public_keys(
            "\n".join(line.partition(" ")[2] for line in scanned.text.splitlines())
        )
        if not keys:
            raise GuestError(
                "The guest does not tell its ssh host keys",
                details=scanned.tail(3),
                resolution="Does the Vagrantfile start sshd in it?",
            )
        return keys

    def proxy(self) -> tuple[str, ...]:
        """Return nothing: Vagrant reaches it; see ``Backend``."""
        return ()

    def last_words(self) -> str:
        """Return the last lines of a container's log; see ``Backend``."""
        with (
            contextlib.suppress(PreflightError, *docker_api.FAILURES),
            docker_api.client(self.runner.environment) as daemon,
        ):
            for identifier in self._ids("docker"):
                return docker_guests.last_words(daemon.containers.get(identifier))
        return ""

    def end(self) -> None:
        """Do nothing: Vagrant does it; see ``Backend``."""

    def remove(self, *, say: Callable[[str], None]) -> None:
        """Remove containers that Vagrant made and could not start; see ``Backend``.

        Vagrant does not know them (hashicorp/vagrant#9958), but said their names before it made
        them; plugins/providers/docker/action/create.rb.
        """
        log = self.record.folder.parent / "build.log"
        said = log.read_text(errors="replace") if log.exists() else ""
        names = set(_NAME.findall(said))
        if self.record.provider != "docker" or not names:
            return
        with (
            docker_guests.told("Docker could not clean up"),
            docker_api.client(self.runner.environment) as daemon,
        ):
            for container in daemon.containers.list(
                all=True, filters={"status": "created"}, ignore_removed=True
            ):
                if container.name in names:
                    say(f"removing the container {container.name} ({container.status})")
                    with contextlib.suppress(docker.errors.NotFound):
                        container.remove(force=True, v=True)

    def leftovers(self) -> Sequence[str]:
        """Name the machines that Vagrant still has; see ``Backend``."""
        if self.record.provider != "docker":
            return [f"Vagrant's machine {identifier}" for identifier in self._ids()]
        with (
            docker_guests.told("Docker does not say"),
            docker_api.client(self.runner.environment) as daemon,
        ):
            there = {str(entry["Id"]) for entry in daemon.api.containers(all=True)}
        return [f"container {identifier}" for identifier in self._ids() if identifier in there]

    def _ids(self, provider: str = "*") -> list[str]:
        return [
            path.read_text().strip()
            for path in sorted(self.record.folder.glob(f".vagrant/machines/*/{provider}/id"))
        ]
