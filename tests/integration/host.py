"""Snapshots of the host: what a build must leave as it was."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass, fields
from pathlib import Path

import docker

#: What a build starts on the host; anything else belongs to somebody else.
_OURS = ("ssh", "vagrant", "docker", "rsync", "ruby", "python", "kiwi", "mmdebstrap", "qemu", "apt")

#: The daemons' own processes come and go with containers of others.
_DAEMONS = ("dockerd", "containerd", "docker-proxy", "libvirtd", "dbus-daemon", "dnsmasq")


@dataclass(frozen=True)
class Snapshot:
    """All that a build could leave behind on a host, not only what carries our labels."""

    containers: frozenset[str]
    volumes: frozenset[str]
    networks: frozenset[str]
    loops: frozenset[str]
    mounts: frozenset[str]
    processes: frozenset[str]
    listening: frozenset[str]
    runtime_folders: frozenset[str]


def take(client: docker.DockerClient) -> Snapshot:
    """Look at the host."""
    return Snapshot(
        containers=frozenset(
            f"{entry['Names']} {entry['State']}" for entry in client.api.containers(all=True)
        ),
        volumes=frozenset(str(volume.name) for volume in client.volumes.list()),
        networks=frozenset(str(network.name) for network in client.networks.list()),
        loops=frozenset(
            f"{path.parents[1].name} {path.read_text().strip()}"
            for path in Path("/sys/block").glob("loop*/loop/backing_file")
        )
        | frozenset(path.name for path in Path("/sys/block").glob("loop*/loop*p*")),
        mounts=frozenset(
            line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()
        ),
        processes=frozenset(_processes()),
        listening=frozenset(_listening()),
        runtime_folders=frozenset(str(path) for path in Path(tempfile.gettempdir()).glob("vk-*")),
    )


def _processes() -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            fields_ = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        zombie = fields_[0] == "Z"
        program = Path(command.split(" ")[0]).name
        mine = entry.stat().st_uid == os.geteuid() if entry.exists() else False
        if mine and not zombie and program.startswith(_OURS) and not program.startswith(_DAEMONS):
            found.append(f"{entry.name} {command}")
    return found


def _listening() -> list[str]:
    return [
        line.split()[1]
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        if line.split()[3] == "0A"
    ]


def assert_as_before(before: Snapshot, client: docker.DockerClient, *, within: float = 15) -> None:
    """Compare the host with a snapshot; new things fail, things that others ended do not."""
    deadline = time.monotonic() + within
    while True:
        left = _left(before, take(client))
        if not left:
            return
        if time.monotonic() > deadline:
            raise AssertionError("left behind:\n" + "\n".join(left))
        time.sleep(0.3)


def _left(before: Snapshot, after: Snapshot) -> list[str]:
    ours = f"{os.getpid()} "
    return [
        f"{field.name}: {item}"
        for field in fields(Snapshot)
        for item in sorted(getattr(after, field.name) - getattr(before, field.name))
        if not item.startswith(ours)
    ]
