"""What a guest may do on the host: as little as the image type lets it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

#: KIWI types that are packed from a folder: no block device takes part.
#: Source: KIWI's documentation, "Image Types", and its builder/archive.py, builder/container.py.
FOLDER_TYPES = frozenset({"tbz", "cpio", "docker", "oci", "appx", "wsl", "squashfs", "erofs"})

#: Linux' device numbers, Documentation/admin-guide/devices.txt.
_LOOP_MAJOR = 7
_BLOCK_EXT_MAJOR = 259
_LOOP_CONTROL = "10:237"
#: How many free loop devices and partition numbers a guest may use beyond those in use.
_LOOPS = 32
_PARTITIONS = 64


@dataclass(frozen=True)
class HostFacts:
    """What decides about isolation.

    ``block_devices`` are the (major, minor) numbers of all block devices of the host,
    ``busy_loops`` the minors of loop devices that are bound to a file, ``selinux`` whether SELinux
    is on.
    """

    block_devices: frozenset[tuple[int, int]]
    busy_loops: frozenset[int]
    selinux: bool


@dataclass(frozen=True)
class Isolation:
    """The isolation of a guest: a name, the reason in words, and Docker's arguments for it.

    ``extra`` are those of the arguments that are the site's own.
    """

    kind: Literal["folder", "disk", "privileged", "machine", "existing", "own"]
    reason: str
    create_args: tuple[str, ...]
    extra: tuple[str, ...] = ()

    def shown_args(self) -> list[str]:
        """Return the arguments as anybody may see them: the site's own can hold a password."""
        ours = self.create_args[: len(self.create_args) - len(self.extra)]
        return [*ours, *(["and those of docker.create_args"] if self.extra else [])]


MACHINE = Isolation("machine", "a machine with a kernel of its own", ())
EXISTING = Isolation("existing", "an existing machine: the build is root there", ())
OWN = Isolation("own", "a Vagrantfile of the user's own decides", ())


def read_facts(sys: Path = Path("/sys")) -> HostFacts:
    """Read the host's facts from sysfs (world-readable, no process is started).

    Args:
        sys: where sysfs is mounted.
    """
    devices = {
        (int(major), int(minor))
        for major, _, minor in (entry.name.partition(":") for entry in _entries(sys / "dev/block"))
    }
    busy = {
        int(entry.name.removeprefix("loop"))
        for entry in _entries(sys / "block")
        if entry.name.startswith("loop") and (entry / "loop" / "backing_file").exists()
    }
    return HostFacts(
        block_devices=frozenset(devices),
        busy_loops=frozenset(busy),
        selinux=(sys / "fs/selinux/enforce").exists(),
    )


def isolate(
    image_type: str,
    *,
    requested: Literal["auto", "privileged"],
    facts: HostFacts,
    run_id: str,
    extra: Sequence[str],
    sshd: bool,
) -> Isolation:
    """Choose the least privilege that builds an image type in a docker guest.

    Args:
        image_type: KIWI's type attribute.
        requested: ``privileged`` only where the user asked for it.
        facts: the host.
        run_id: the run, for the label by which everything is found again.
        extra: the site's own arguments for ``docker run``.
        sshd: publish the guest's sshd on this host alone.

    Returns:
        The isolation with all arguments for ``docker run``.
    """
    common = (
        "--init",
        f"--label=vagrant-kiwi.run={run_id}",
        # Docker picks a free port itself, so builds side by side cannot race for one.
        *(("--publish=127.0.0.1::22",) if sshd else ()),
    )
    if requested == "privileged":
        return Isolation(
            "privileged",
            "isolation: privileged was asked for: the guest can do anything on this host",
            # Docker fills a /dev of the guest's own with nodes; the host's is never bound.
            (*common, "--privileged", *extra),
            tuple(extra),
        )
    basic = (
        # KIWI mounts proc, sys and dev into the new root, and makes device nodes in it.
        "--cap-add=SYS_ADMIN",
        "--cap-add=MKNOD",
        # Docker's default profiles forbid mount(2) even with the capability.
        "--security-opt=seccomp=unconfined",
        "--security-opt=apparmor=unconfined",
        *(("--security-opt=label=disable",) if facts.selinux else ()),
    )
    if image_type in FOLDER_TYPES:
        return Isolation(
            "folder",
            f"{image_type} is packed from a folder: mounts and device nodes, no devices",
            (*common, *basic, *extra),
            tuple(extra),
        )
    return Isolation(
        "disk",
        f"{image_type} needs loop devices: only those that nothing on this host uses",
        (*common, *basic, *_device_rules(facts), *extra),
        tuple(extra),
    )


def _device_rules(facts: HostFacts) -> tuple[str, ...]:
    """Allow loop-control, free loop devices, and partition numbers no other device has.

    Major 259 is shared by loop partitions, NVMe disks and others (the kernel hands its minors out
    as they are needed), so a rule for the whole major would open the host's disks.
    """
    rules = [f"c {_LOOP_CONTROL} rmw"]
    loops = (minor for minor in range(max(facts.busy_loops, default=-1) + 1 + _LOOPS))
    rules += [f"b {_LOOP_MAJOR}:{minor} rmw" for minor in loops if minor not in facts.busy_loops]
    taken = {minor for major, minor in facts.block_devices if major == _BLOCK_EXT_MAJOR}
    partitions = (minor for minor in range(max(taken, default=-1) + 1 + _PARTITIONS))
    rules += [f"b {_BLOCK_EXT_MAJOR}:{minor} rmw" for minor in partitions if minor not in taken]
    return tuple(f"--device-cgroup-rule={rule}" for rule in rules)


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
