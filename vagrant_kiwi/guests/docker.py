"""A guest that Docker runs: its host keys, its orphans, the loop devices it leaves behind."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import docker
import docker.errors
from docker.models.containers import Container

from vagrant_kiwi import docker_api
from vagrant_kiwi.errors import GuestError, PreflightError
from vagrant_kiwi.guests import ssh
from vagrant_kiwi.guests.ssh import Login
from vagrant_kiwi.plan import GUEST_ROOT

RUN_LABEL = "vagrant-kiwi.run"


@dataclass(frozen=True)
class DockerBackend:
    """Docker below Vagrant; see ``Backend``.

    Args:
        run_id: the run; everything of it carries it in a label.
        image: the box, which also serves the clean-up.
        environment: may hold DOCKER_HOST and its companions.
    """

    run_id: str
    image: str
    environment: Mapping[str, str]

    def claimed(self) -> str | None:
        """Name what carries the run's id already; see ``Backend``."""
        with docker_api.client(self.environment) as daemon:
            return next(
                (f"the container {entry.name}" for entry in containers(daemon, self.run_id)), None
            )

    def running(self) -> bool:
        """Tell whether the guest runs; see ``Backend``."""
        with told("Docker does not say"), docker_api.client(self.environment) as daemon:
            return any(entry.status == "running" for entry in containers(daemon, self.run_id))

    def wake(self) -> None:
        """Do nothing: Vagrant cannot suspend a container; see ``Backend``."""

    def host_keys(self, login: Login, *, timeout: float) -> tuple[str, ...]:
        """Read the guest's ssh host keys through Docker; see ``Backend``."""
        brief = "Docker does not tell the guest's host keys"
        with told(brief), docker_api.client(self.environment) as daemon:
            return host_keys(containers(daemon, self.run_id), timeout=timeout)

    def proxy(self) -> tuple[str, ...]:
        """Return nothing: sshd is published on this host; see ``Backend``."""
        return ()

    def last_words(self) -> str:
        """Return the last lines of the container's log; see ``Backend``."""
        with (
            contextlib.suppress(PreflightError, *docker_api.FAILURES),
            docker_api.client(self.environment) as daemon,
        ):
            for container in containers(daemon, self.run_id):
                return last_words(container)
        return ""

    def end(self) -> None:
        """Do nothing: Vagrant does it well; see ``Backend``."""

    def remove(self, *, say: Callable[[str], None]) -> None:
        """Remove containers, volumes and loop devices of the run; see ``Backend``."""
        with told("Docker could not clean up"), docker_api.client(self.environment) as daemon:
            remove_run(daemon, self.run_id, image=self.image, say=say)

    def leftovers(self) -> Sequence[str]:
        """Name what the run still has; see ``Backend``."""
        with told("Docker does not say"), docker_api.client(self.environment) as daemon:
            return leftovers(daemon, self.run_id)


@contextlib.contextmanager
def told(brief: str) -> Iterator[None]:
    """Say in our own words what Docker refuses.

    Raises:
        GuestError: something, with the brief.
    """
    try:
        yield
    except (PreflightError, *docker_api.FAILURES) as error:
        raise GuestError(
            brief,
            details=str(error),
            resolution="Is the daemon in good order? Build again.",
        ) from error


def containers(daemon: docker.DockerClient, run_id: str) -> list[Container]:
    """Return the containers of a run, in whatever state they are."""
    return list(
        daemon.containers.list(
            all=True, filters={"label": f"{RUN_LABEL}={run_id}"}, ignore_removed=True
        )
    )


def last_words(container: Container) -> str:
    """Return the last lines of a container's log, for an error's details."""
    text = container.logs(tail=12).decode("utf-8", "replace").strip()
    return f"the guest's console:\n{text}" if text else ""


def host_keys(found: Sequence[Container], *, timeout: float) -> tuple[str, ...]:
    """Read the ssh host keys of a guest out of band: nobody on the network can forge them.

    Args:
        found: the containers of the run, in whatever state they are.
        timeout: seconds until sshd's keys must be there.

    Returns:
        Public key lines, "type key" each.

    Raises:
        GuestError: there is not exactly one running container, or it has no keys.
    """
    found = [entry for entry in found if entry.status == "running"]
    if len(found) != 1:
        raise GuestError(
            f"Expected one running container of the run, found {len(found)}",
            resolution="Did the template change guest.create_args? Its labels must stay.",
        )
    deadline = time.monotonic() + timeout
    while True:
        answer = found[0].exec_run(["sh", "-c", "cat /etc/ssh/ssh_host_*_key.pub"], stream=False)
        # Bytes, because it is not streamed.
        status, output = answer.exit_code, cast(bytes, answer.output)
        keys = ssh.public_keys(output.decode("ascii", "replace"))
        if status == 0 and keys:
            return keys
        if time.monotonic() > deadline:
            raise GuestError(
                "The guest has no ssh host keys",
                details=output.decode("utf-8", "replace")[-500:],
                resolution="Does its start-up make them (ssh-keygen -A)? Rebuild the box.",
            )
        time.sleep(0.1)


def remove_run(
    daemon: docker.DockerClient, run_id: str, *, image: str, say: Callable[[str], None]
) -> None:
    """Remove whatever a run left with Docker, half-made containers included.

    Args:
        daemon: the Docker daemon.
        run_id: the run.
        image: a box that has losetup, for loop devices that outlived their container.
        say: told what had to be removed.

    Raises:
        docker.errors.DockerException: the daemon refuses; see ``docker_api.FAILURES``.
    """
    for container in containers(daemon, run_id):
        say(f"removing the container {container.name} ({container.status})")
        # Gone already: Vagrant or another clean-up was faster.
        with contextlib.suppress(docker.errors.NotFound):
            container.remove(force=True, v=True)
    for volume in daemon.volumes.list(filters={"label": f"{RUN_LABEL}={run_id}"}):
        say(f"removing the volume {volume.name}")
        with contextlib.suppress(docker.errors.NotFound):
            volume.remove(force=True)
    loops = loop_devices(run_id)
    if loops:
        say(f"detaching {', '.join(f'/dev/loop{minor}' for minor in loops)}")
        detach(daemon, loops, image=image, run_id=run_id)


def leftovers(
    daemon: docker.DockerClient, run_id: str, *, patience: float = 10.0
) -> tuple[str, ...]:
    """Name what a run still has on this host.

    Args:
        daemon: the Docker daemon.
        run_id: the run.
        patience: seconds that a container being removed, or a loop device that udev still holds,
            has to go.
    """
    deadline = time.monotonic() + patience
    while (left := _left(daemon, run_id)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def _left(daemon: docker.DockerClient, run_id: str) -> tuple[str, ...]:
    return (
        *(f"container {entry.name} ({entry.status})" for entry in containers(daemon, run_id)),
        *(
            f"volume {volume.name}"
            for volume in daemon.volumes.list(filters={"label": f"{RUN_LABEL}={run_id}"})
        ),
        *(f"loop device /dev/loop{minor}" for minor in loop_devices(run_id)),
    )


def loop_devices(run_id: str, *, sys_block: Path = Path("/sys/block")) -> tuple[int, ...]:
    """Find loop devices that are bound to a file of a run; they outlive their container.

    Args:
        run_id: its folder in the guest begins every path of the run there.
        sys_block: sysfs' list of block devices.

    Returns:
        The minor numbers.
    """
    found = []
    for entry in sys_block.glob("loop[0-9]*"):
        try:
            backing = (entry / "loop/backing_file").read_text(errors="surrogateescape")
        except (FileNotFoundError, OSError):
            continue  # not bound, or unbound while we looked
        # The whole beginning: a run id alone could be a folder of the host, such as "lib".
        if backing.startswith(f"{GUEST_ROOT}/{run_id}/"):
            found.append(int(entry.name.removeprefix("loop")))
    return tuple(sorted(found))


def detach(
    daemon: docker.DockerClient, minors: tuple[int, ...], *, image: str, run_id: str
) -> None:
    """Detach loop devices from within a short-lived container; the caller need not be root.

    Args:
        daemon: the Docker daemon.
        minors: the loop devices; the container may touch these and no other device.
        image: a box with losetup.
        run_id: labels the container.

    Raises:
        docker.errors.DockerException: it did not work.
    """
    # Partitions first: those of a device that is bound to nothing cannot be told from others'.
    script = 'for loop; do /usr/bin/partx --delete "$loop"; losetup --detach "$loop"; done'
    # Not run(): that would pull a missing image from a registry, and start it with these rights.
    container = daemon.containers.create(
        image,
        ["sh", "-c", script, "sh", *(f"/dev/loop{minor}" for minor in minors)],
        entrypoint="",
        network_mode="none",
        cap_add=["SYS_ADMIN"],
        devices=[f"/dev/loop{minor}:/dev/loop{minor}:rw" for minor in minors],
        labels={RUN_LABEL: run_id},
    )
    try:
        container.start()
        container.wait()
    finally:
        container.remove(force=True)
