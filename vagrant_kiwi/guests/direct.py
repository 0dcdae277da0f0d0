"""A guest of the Docker Engine without Vagrant: no sshd, no keys, started in a second."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from docker import DockerClient

from vagrant_kiwi import docker_api
from vagrant_kiwi.errors import GuestError, PhaseTimeoutError
from vagrant_kiwi.guests import ConnectionLostError, docker, engine
from vagrant_kiwi.guests.docker_guest import DockerGuest
from vagrant_kiwi.guests.record import GuestRecord
from vagrant_kiwi.guests.troubles import noted
from vagrant_kiwi.plan import BuildPlan, guest_name
from vagrant_kiwi.process import CommandTimeoutError, OnOutput, Runner, last_lines

#: What a guest does by itself; --init reaps what builds leave.
_IDLE = ("sleep", "infinity")
#: A build in an image of a registry needs these; ours have them.
_NEEDED = ("kiwi-ng", "rsync", "setsid", "pkill", "tar", "xargs")
_LOOK = 'for name; do command -v "$name" >/dev/null || echo "$name"; done'
_SHORT = 60.0


def command(plan: BuildPlan, image: str) -> tuple[str, ...]:
    """Return the command that makes and starts a guest: as Vagrant's, but for sshd.

    Args:
        plan: the build.
        image: the box; it is there already.
    """
    return (
        *("docker", "run", "--detach", "--pull=never", f"--name={plan.guest_name}"),
        *plan.isolation.create_args,
        "--entrypoint=",
        image,
        *_IDLE,
    )


@dataclass(frozen=True)
class DirectSystem:
    """The Docker Engine as a build system; see ``System``.

    Docker's client makes the container, so that ``docker.create_args`` means the same with and
    without Vagrant; all else goes through the API.

    Args:
        record: the guest.
        runner: starts Docker's client and rsync.
    """

    record: GuestRecord
    runner: Runner

    def claimed(self) -> str | None:
        """Name what carries the run's id already; see ``System``."""
        return self._daemon.claimed()

    def start(self, plan: BuildPlan, *, text: str, on_output: OnOutput) -> DirectSystem:
        """Start the container, or start it again; see ``System``."""
        with docker_api.client(self.runner.environment) as daemon:
            known = self._names(daemon)
            if not known and not text:
                raise GuestError(
                    "The guest is gone",
                    details=f"Docker has no {guest_name(self.record.guest_run)}",
                    resolution="invoke down forgets it; then invoke up starts another one.",
                )
        argv = ["docker", "start", *known] if known else shlex.split(text)
        try:
            done = self.runner.run(argv, timeout=plan.timeouts.up, merge=True, on_output=on_output)
        except CommandTimeoutError as error:
            raise PhaseTimeoutError(
                f"The phase up took longer than {plan.timeouts.up:.0f} s",
                details=last_lines(error.output),
                resolution="Raise timeouts.up in the settings if that is normal here.",
            ) from error
        if not done.ok:
            raise GuestError(
                "Docker cannot start the guest",
                details=done.tail(5),
                resolution=engine.remedy(done.text),
            )
        if not known:
            self._check()
        return self

    def _check(self) -> None:
        """See that the image has what a build needs.

        Raises:
            GuestError: it has not; all of it is named.
        """
        try:
            with self.connected() as guest:
                answer = guest.exec(["sh", "-c", _LOOK, "sh", *_NEEDED], timeout=_SHORT, root=True)
        except (ConnectionLostError, CommandTimeoutError) as error:
            raise GuestError("The guest does not answer", details=str(error)) from error
        except GuestError as error:
            # It may have ended between two looks at it; what it said last is the reason.
            if self.running():
                raise
            raise self._not_running() from error
        if not answer.ok or answer.text.strip():
            raise GuestError(
                f"The image {self.record.image} is no build box",
                details=f"it lacks {', '.join(answer.text.split())}"
                if answer.ok
                else answer.tail(3),
                resolution="Use a box of vagrant-kiwi, or one that was made from it.",
            )

    def _not_running(self) -> GuestError:
        return GuestError(
            "The guest does not run",
            details=self._daemon.last_words(),
            resolution=f"Is {self.record.image} a build box, with sleep in it? Or was the "
            "container stopped by hand? docker ps --all shows it.",
        )

    @contextlib.contextmanager
    def connected(self) -> Iterator[DockerGuest]:
        """Reach the container for the body; see ``System``."""
        with docker_api.client(self.runner.environment) as daemon:
            names = self._names(daemon, running=True)
            if len(names) != 1:
                raise self._not_running()
            yield DockerGuest.of(self.runner, daemon, names[0])

    def running(self) -> bool:
        """Tell whether the guest runs; see ``System``."""
        return self._daemon.running()

    def leave(self) -> bool:
        """Return that it stays, which it does by itself; see ``System``."""
        return True

    def starting(self) -> str:
        """Return the command's beginning; see ``System``."""
        return f"docker run {self.record.image}"

    def entrance(self) -> str:
        """Return Docker's way in; see ``System``."""
        return f"docker exec -it {guest_name(self.record.guest_run)} bash"

    def destroy(
        self, *, timeout: float, on_output: OnOutput, say: Callable[[str], None]
    ) -> tuple[Sequence[str], Sequence[str]]:
        """Remove the container with all that is the run's; see ``System``."""
        troubles: list[str] = []
        with noted(troubles):
            self._daemon.remove(say=lambda text: on_output(f"{text}\n".encode()))
        left: list[str] = []
        with noted(left):
            left += self._daemon.leftovers()
        return left, troubles

    @property
    def _daemon(self) -> docker.DockerBackend:
        return docker.DockerBackend(
            self.record.guest_run, self.record.image, self.runner.environment
        )

    def _names(self, daemon: DockerClient, *, running: bool = False) -> list[str]:
        """Return the names of the run's containers that are guests."""
        return [
            str(entry.name)
            for entry in docker.containers(daemon, self.record.guest_run)
            if entry.name == guest_name(self.record.guest_run)
            and (not running or entry.status == "running")
        ]
