"""python-vagrant, with its processes started by ``process``, and its ssh-config read with care."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import vagrant

from vagrant_kiwi.errors import GuestError, PhaseTimeoutError, PreflightError
from vagrant_kiwi.guests.ssh import Login
from vagrant_kiwi.process import (
    CommandResult,
    CommandTimeoutError,
    OnOutput,
    Runner,
    last_lines,
)

_BACKTRACE = re.compile(r"\s+(?:\d+: )?from /.+:in `")
#: hashicorp/vagrant, templates/locales/en.yml, provider_not_found.
_NO_PLUGIN = "could not be found, but was requested to"
#: Seconds that Vagrant has after SIGINT to end by itself; it finishes the step it is in.
_GRACE = 60.0


class RoutedVagrant(vagrant.Vagrant):
    """python-vagrant whose commands go through a ``Runner``.

    python-vagrant 1.0.0 starts its processes in our own process group, so a Ctrl-C in the terminal
    would stop Vagrant while we are destroying the guest, and has no time-outs.

    Args:
        root: folder of the Vagrantfile, in which Vagrant runs.
        runner: starts the processes.
        phase: names the phase in a time-out's error.
        timeout: seconds for each command.
        on_output: sees what Vagrant says while it says it.
        environment: variables that Vagrant gets besides the runner's.
    """

    def __init__(
        self,
        root: Path,
        *,
        runner: Runner,
        phase: str,
        timeout: float,
        on_output: OnOutput,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(root=str(root))  # type: ignore[no-untyped-call]
        self._runner = runner
        self._phase = phase
        self._timeout = timeout
        self._on_output = on_output
        self._environment = environment

    def bring_up(self, provider: str) -> None:
        """Run ``vagrant up``."""
        self.up(provider=provider)  # type: ignore[no-untyped-call]

    def login(self, *, alias: str) -> Login:
        """Return how to log in, from ``vagrant ssh-config``; see ``read_login``."""
        return read_login(self.ssh_config(), alias=alias)  # type: ignore[no-untyped-call]

    def add_box(self, name: str, url: Path, *, provider: str) -> None:
        """Run ``vagrant box add`` with a list of versions."""
        self.box_add(name, str(url), provider=provider)  # type: ignore[no-untyped-call]

    def put_to_sleep(self) -> None:
        """Run ``vagrant suspend``."""
        self.suspend()  # type: ignore[no-untyped-call]

    def remove(self) -> None:
        """Run ``vagrant destroy --force``."""
        self.destroy()  # type: ignore[no-untyped-call]

    def _run(self, args: Sequence[str | None], *, merge: bool) -> CommandResult:
        program = shutil.which("vagrant", path=self._runner.environment.get("PATH"))
        if program is None:
            raise PreflightError(
                "Vagrant is not installed",
                resolution="Run ./bootstrap from the checkout, or install the package vagrant.",
            )
        argv = [program, *(arg for arg in args if arg is not None)]
        try:
            result = self._runner.run(
                argv,
                timeout=self._timeout,
                merge=merge,
                on_output=self._on_output if merge else None,
                cwd=Path(self.root),
                environment=self._environment,
                stop_signal=signal.SIGINT,
                grace=_GRACE,
            )
        except CommandTimeoutError as error:
            raise PhaseTimeoutError(
                f"The phase {self._phase} took longer than {self._timeout:.0f} s",
                details=last_lines(error.output),
                resolution=f"Raise timeouts.{self._phase} in the settings if that is normal here.",
            ) from error
        if not result.ok and _NO_PLUGIN in result.text + result.error_text:
            raise PreflightError(
                "Vagrant does not know the provider",
                details=result.tail(4),
                resolution="Install its plugin: ./bootstrap does, or the package vagrant-libvirt.",
            )
        if not result.ok:
            raise GuestError(
                f"vagrant {argv[1]} failed with exit status {result.status}",
                details=_said(result),
                resolution="The log has all that Vagrant said.",
            )
        return result

    def _call_vagrant_command(self, args: Sequence[str | None]) -> None:
        self._run(args, merge=True)

    def _run_vagrant_command(self, args: Sequence[str | None]) -> str:
        return self._run(args, merge=False).text

    def _stream_vagrant_command(self, args: Sequence[str | None]) -> Iterator[str]:
        yield from self._run(args, merge=True).text.splitlines(keepends=True)


def _said(result: CommandResult) -> str:
    """Return the last that Vagrant said; where it broke down, without Ruby's way to that place."""
    said = (result.error_text.strip() or result.text.strip()).splitlines()
    return "\n".join([line for line in said if not _BACKTRACE.match(line)][-12:])


def read_login(ssh_config: str, *, alias: str) -> Login:
    """Take the four fields we need from the output of ``vagrant ssh-config``.

    The rest of it is not wanted: it switches host key checking off.

    Args:
        ssh_config: what Vagrant printed.
        alias: name under which the host's key will be pinned.

    Raises:
        GuestError: a field is missing, the answer is empty, or it has several machines.
    """
    machines = [line.split()[1] for line in ssh_config.splitlines() if line.startswith("Host ")]
    if len(machines) > 1:
        raise GuestError(
            "The Vagrantfile defines several machines",
            details=", ".join(machines),
            resolution="A build runs in one; use a Vagrantfile that defines only that.",
        )
    found: dict[str, str] = {}
    for line in ssh_config.splitlines():
        key, _, value = line.strip().partition(" ")
        # Vagrant names several keys on several lines; the first one is what it made itself.
        found.setdefault(key, value.strip().strip('"'))
    missing = [key for key in ("HostName", "Port", "User", "IdentityFile") if not found.get(key)]
    if missing or not found["Port"].isdecimal():
        raise GuestError(
            "vagrant ssh-config gave no usable answer",
            details=f"missing: {', '.join(missing) or 'a port number'}",
            resolution="Does the template start sshd in the guest? Try invoke with -v.",
        )
    return Login(
        host=found["HostName"],
        port=int(found["Port"]),
        user=found["User"],
        identity_file=Path(found["IdentityFile"]),
        alias=alias,
    )
