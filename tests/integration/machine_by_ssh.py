"""An existing machine for --provider=host: a container with a real sshd, and the box's real KIWI.

It stands for a build host: nothing in it is ours but what a build brings and takes away again.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
from docker.models.containers import Container

from tests.integration.cli import wait_until
from vagrant_kiwi.guests import docker as docker_guests
from vagrant_kiwi.keys import InsecureKeys

FOLDER = "/var/lib/vagrant-kiwi"


@dataclass(frozen=True)
class Machine:
    """A machine that runs, and what the settings say of it."""

    container: Container
    settings: dict[str, Any]

    @property
    def flag(self) -> str:
        """It as --host takes it."""
        return f"--host=vagrant@127.0.0.1:{self.settings['port']}"

    def run(self, script: str) -> str:
        """Run a script there as root."""
        done = self.container.exec_run(["sh", "-c", script])
        output = done.output
        assert isinstance(output, bytes)
        assert done.exit_code == 0, output
        return output.decode(errors="replace")

    def left(self) -> list[str]:
        """Name what builds left: folders and processes."""
        folders = self.run(f"ls -A {FOLDER} 2>/dev/null || true").split()
        folders += self.run("ls -A /dev/shm").split()
        # None but the first process, sshd, and this question itself.
        mine = ("/sbin/docker-init", "sshd", "ps -e", "sh -c ps -e")
        processes = [
            line for line in self.run("ps -e -o args=").splitlines() if not line.startswith(mine)
        ]
        mounts = self.run(f"grep -c {FOLDER} /proc/self/mountinfo || true").split()
        return sorted(folders) + processes + sorted({*mounts} - {"0"})


@contextlib.contextmanager
def machine(
    client: docker.DockerClient,
    image: str,
    folder: Path,
    insecure: InsecureKeys,
    *,
    talkative: bool = False,
) -> Iterator[Machine]:
    """Yield a machine; its key is in a known_hosts file beside ours.

    A talkative one has something to say at each login, as sudo often has about its own name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    container = client.containers.create(
        image,
        name=f"machine-{secrets.token_hex(4)}",
        init=True,
        ports={"22/tcp": ("127.0.0.1", 0)},
        cap_add=["SYS_ADMIN", "MKNOD"],
        security_opt=["seccomp=unconfined", "apparmor=unconfined"],
    )
    try:
        container.start()
        container.reload()
        keys = docker_guests.host_keys([container], timeout=30)
        published = container.ports["22/tcp"]
        assert published
        port = int(published[0]["HostPort"])
        (folder / "known_hosts").write_text("".join(f"[127.0.0.1]:{port} {key}\n" for key in keys))
        shutil.copyfile(insecure.private[0], folder / "key")
        (folder / "key").chmod(0o600)
        made = Machine(
            container,
            {
                "address": "127.0.0.1",
                "port": port,
                "user": "vagrant",
                "identity_file": str(folder / "key"),
                "known_hosts": str(folder / "known_hosts"),
            },
        )
        if talkative:
            made.run("echo 'echo something to say at each login >&2' >/home/vagrant/.bashrc")
        wait_until(lambda: "sshd" in made.run("ps -e -o args="), what="sshd runs", timeout=30)
        yield made
    finally:
        container.remove(force=True, v=True)
