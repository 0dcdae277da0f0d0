"""Snapshots of the host: what a build must leave as it was."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import docker

#: What a build starts on the host; anything else belongs to somebody else.
_OURS = ("ssh", "vagrant", "docker", "rsync", "ruby", "python", "kiwi", "mmdebstrap", "qemu", "apt")

#: The daemons' own processes come and go with containers of others.
_DAEMONS = ("dockerd", "containerd", "docker-proxy", "libvirtd", "dbus-daemon", "dnsmasq")


@dataclass(frozen=True)
class Snapshot:
    """All that a build in a container could leave on a host, not only what carries our labels."""

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
        runtime_folders=_runtime_folders(),
    )


@dataclass(frozen=True)
class MachineSnapshot:
    """All that a build in a virtual machine could leave on a host."""

    domains: frozenset[str]
    volumes: frozenset[str]
    networks: frozenset[str]
    leases: frozenset[str]
    processes: frozenset[str]
    runtime_folders: frozenset[str]


def take_machines() -> MachineSnapshot:
    """Look at what libvirt has, and at our own processes; other tests may be using Docker."""
    # Imported here: the tests without machines run where libvirt is not.
    import libvirt

    from vagrant_kiwi import libvirt_api

    with libvirt_api.client("qemu:///system") as connection:
        pools = connection.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE)
        for pool in pools:
            pool.refresh(0)
        networks = connection.listAllNetworks()
        return MachineSnapshot(
            domains=frozenset(
                f"{entry.name()} {entry.state()[0]}" for entry in connection.listAllDomains()
            ),
            volumes=frozenset(volume.path() for pool in pools for volume in pool.listAllVolumes()),
            networks=frozenset(f"{entry.name()} {entry.isActive()}" for entry in networks),
            leases=frozenset(
                f"{lease['ipaddr']} {lease['mac']}"
                for entry in networks
                if entry.isActive()
                for lease in entry.DHCPLeases()
            ),
            processes=frozenset(_processes()),
            runtime_folders=_runtime_folders(),
        )


def _runtime_folders() -> frozenset[str]:
    return frozenset(str(path) for path in Path(tempfile.gettempdir()).glob("vk-*"))


def _of_other_tests(process: Path) -> bool:
    """Tell a process of tests that run beside these: their temporary folder is another one."""
    variables = (process / "environ").read_bytes().split(b"\0")
    theirs = next((entry for entry in variables if entry.startswith(b"TMPDIR=")), None)
    ours = os.environ.get("TMPDIR")
    # With none of our own, all that have none may be ours: such as what runs in containers.
    return theirs is not None if ours is None else theirs != f"TMPDIR={ours}".encode()


def _processes() -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            fields_ = (entry / "stat").read_text().rpartition(")")[2].split()
            if _of_other_tests(entry):
                continue
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
    _compare(before, lambda: take(client), within)


def assert_machines_as_before(before: MachineSnapshot, *, within: float = 15) -> None:
    """Compare libvirt and our processes with a snapshot; likewise."""
    _compare(before, take_machines, within)


def _compare(before: object, look: Callable[[], object], within: float) -> None:
    deadline = time.monotonic() + within
    while True:
        left = _left(before, look())
        if not left:
            return
        if time.monotonic() > deadline:
            raise AssertionError("left behind:\n" + "\n".join(left))
        time.sleep(0.3)


def _left(before: object, after: object) -> list[str]:
    ours = f"{os.getpid()} "
    return [
        f"{field.name}: {item}"
        for field in fields(type(after))  # type: ignore[arg-type]
        for item in sorted(getattr(after, field.name) - getattr(before, field.name))
        if not item.startswith(ours)
    ]
