"""Build systems: how a run's guest is started, reached and removed, whatever it is.

There are three: Vagrant, the Docker Engine without it, and an existing machine over ssh.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from vagrant_kiwi import docker_api
from vagrant_kiwi.guests import Guest, direct, host, own, vagrant, vagrantfile
from vagrant_kiwi.guests.record import GuestRecord
from vagrant_kiwi.guests.vagrantfile import Box, Machine
from vagrant_kiwi.plan import BuildPlan
from vagrant_kiwi.process import OnOutput, Runner


class System(Protocol):
    """What runs a guest on record, as far as one run is concerned.

    All but ``start``, ``connected`` and ``leave`` may be called for a guest that never started, or
    is gone.
    """

    @property
    def record(self) -> GuestRecord:
        """The guest on record."""
        ...

    def claimed(self) -> str | None:
        """Name what carries the run's id already; None if nothing does.

        Raises:
            PreflightError: who would run the guest does not answer.
        """
        ...

    def start(self, plan: BuildPlan, *, text: str, on_output: OnOutput) -> System:
        """Bring the guest up, or wake it.

        Args:
            plan: the build; ``timeouts.up`` is the limit.
            text: what ``made_from`` returned.
            on_output: sees what the tools say.

        Returns:
            The system, its record with all that ``connected`` needs.

        Raises:
            GuestError: it did not come up.
            PhaseTimeoutError: it took too long.
            PreflightError: an existing machine lacks something.
            LockedError: somebody else builds on it.
        """
        ...

    def connected(self) -> AbstractContextManager[Guest]:
        """Reach the guest for the body.

        Raises:
            GuestError: it does not answer.
        """
        ...

    def running(self) -> bool:
        """Tell whether the guest runs.

        Raises:
            VagrantKiwiError: who runs it does not say.
        """
        ...

    def leave(self) -> bool:
        """See to it that the guest stays when the connection ends.

        Returns:
            Whether there is anything that stays.

        Raises:
            VagrantKiwiError: it cannot be reached for that.
        """
        ...

    def starting(self) -> str:
        """Return in a few words what ``start`` will do."""
        ...

    def entrance(self) -> str:
        """Return what a person types to enter the guest."""
        ...

    def destroy(
        self, *, timeout: float, on_output: OnOutput, say: Callable[[str], None]
    ) -> tuple[Sequence[str], Sequence[str]]:
        """Destroy the guest with all that is the run's, half-made things included.

        Args:
            timeout: seconds for the tool that does it.
            on_output: sees what the tool says.
            say: told what was left behind by it.

        Returns:
            What is still there, and what went wrong on the way.
        """
        ...


def of(record: GuestRecord, runner: Runner) -> System:
    """Return the build system of a guest on record.

    Args:
        record: the guest.
        runner: starts the tools; its environment may hold DOCKER_HOST and its companions.

    Raises:
        SettingsError: none is known for the provider.
    """
    runner = Runner(docker_api.at(runner.environment, record.daemon))
    if record.provider == "docker-direct":
        return direct.DirectSystem(record, runner)
    if record.provider == "host":
        return host.HostSystem(record, runner)
    return vagrant.VagrantSystem(record, runner)


def made_from(plan: BuildPlan, box: Box, machine: Machine | None) -> str:
    """Return what a fresh guest is made from: a Vagrantfile, a command line, or nothing.

    Args:
        plan: the build.
        box: the box it runs in.
        machine: for a virtual machine, what its host decides.

    Raises:
        TemplateError: a template is unsafe, or cannot be rendered.
        SettingsError: the user's own Vagrantfile cannot be read.
    """
    if plan.provider == "host":
        return ""
    if plan.provider == "docker-direct":
        return shlex.join(direct.command(plan, box.image))
    if plan.vagrantfile is not None:
        return own.read(plan.vagrantfile)
    return vagrantfile.render(plan, box, machine)
