"""What a Docker daemon says of itself, and what its host says if that is this one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import docker

from vagrant_kiwi.isolation import read_facts


@dataclass(frozen=True)
class DaemonFacts:
    """A daemon, and its host as far as that can be seen from here.

    ``driver`` is the daemon's storage driver, ``backing`` the file system below that, ``d_type``
    whether it tells the types of files in its folders. ``root`` is where guests write, ``free`` the
    bytes that are left there. ``loop`` tells whether the kernel has loop devices, ``busy_loops``
    which are bound; ``devices_cgroup`` whether cgroups version 1 holds devices back. None is: not
    known.
    """

    driver: str
    backing: str | None
    d_type: bool
    root: Path | None
    cgroup_version: str
    cgroup_driver: str
    no_new_privileges: bool
    local: bool
    free: int | None = None
    loop: bool | None = None
    busy_loops: frozenset[int] = frozenset()
    devices_cgroup: bool | None = None


def read(
    client: docker.DockerClient,
    info: Mapping[str, Any],
    *,
    nodename: str | None = None,
    sys: Path = Path("/sys"),
    proc: Path = Path("/proc"),
    dev: Path = Path("/dev"),
) -> DaemonFacts:
    """Return what there is to know about a daemon.

    A Unix socket alone does not make it this host's: ssh and virtual machines pass sockets on, and
    a container may have been given one. The daemon's word for its host's name has to be ours, too.

    Args:
        client: the daemon.
        info: its answer to ``client.info()``.
        nodename: this host's name; None is the kernel's.
        sys: where sysfs is.
        proc: where procfs is.
        dev: where device nodes are.
    """
    status = {str(entry[0]): str(entry[1]) for entry in info.get("DriverStatus") or ()}
    name = os.uname().nodename if nodename is None else nodename
    local = str(client.api.base_url) == "http+docker://localhost" and info.get("Name") == name
    root = _root(info, status)
    backing = status.get("Backing Filesystem")
    facts = DaemonFacts(
        driver=str(info.get("Driver", "")),
        backing=backing,
        d_type=status.get("Supports d_type") != "false",
        root=root,
        cgroup_version=str(info.get("CgroupVersion", "")),
        cgroup_driver=str(info.get("CgroupDriver", "")),
        no_new_privileges="name=no-new-privileges" in (info.get("SecurityOptions") or ()),
        local=local,
    )
    return _with_host(facts, sys=sys, proc=proc, dev=dev) if local else facts


def _with_host(facts: DaemonFacts, *, sys: Path, proc: Path, dev: Path) -> DaemonFacts:
    return replace(
        facts,
        backing=facts.backing or _file_system(facts.root, proc),
        free=_free(facts.root),
        loop=(sys / "module/loop").exists() or (dev / "loop-control").exists(),
        busy_loops=read_facts(sys).busy_loops,
        devices_cgroup=_devices_cgroup(proc),
    )


def _root(info: Mapping[str, Any], status: Mapping[str, str]) -> Path | None:
    """Return where guests write: Docker's data root, or containerd's where that has the images.

    Docker 29 leaves images to containerd where it finds none of its own. A containerd that dockerd
    starts has its data in Docker's (moby, daemon/command/daemon.go, containerdRootDir), the
    system's in /var/lib/containerd; which of them it is, Docker says from version 27 on.
    """
    root = Path(str(info["DockerRootDir"])) if info.get("DockerRootDir") else None
    if status.get("driver-type") != "io.containerd.snapshotter.v1":
        return root
    address = str((info.get("Containerd") or {}).get("Address", ""))
    if address == "/run/containerd/containerd.sock":
        return Path("/var/lib/containerd")
    return root if address.endswith("/docker/containerd/containerd.sock") else None


def _free(root: Path | None) -> int | None:
    """Return the bytes that a folder's file system has left, without what is root's reserve."""
    try:
        return shutil.disk_usage(root).free if root is not None else None
    except OSError:
        return None  # Docker sees other mounts than we do


def _file_system(root: Path | None, proc: Path) -> str | None:
    """Return the type of the file system that a folder lies on, by the kernel's name."""
    if root is None:
        return None
    best: tuple[int, str] | None = None
    for line in (proc / "self/mountinfo").read_text(errors="replace").splitlines():
        # proc_pid_mountinfo(5): the mount point is the fifth word, the type the one behind " - ".
        place = Path(line.split()[4])
        kind = line.rpartition(" - ")[2].split()[0]
        if root.is_relative_to(place) and (best is None or len(place.parts) >= best[0]):
            best = (len(place.parts), kind)
    return None if best is None else best[1]


def _devices_cgroup(proc: Path) -> bool | None:
    """Tell whether version 1's controller of devices is in use: cgroups(7), /proc/cgroups."""
    try:
        lines = (proc / "cgroups").read_text().splitlines()
    except OSError:
        return None
    words = next((line.split() for line in lines if line.startswith("devices\t")), None)
    return words is not None and words[1] != "0" and words[3] == "1"
