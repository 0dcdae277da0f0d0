"""What the Docker daemon and its host must have for a build, checked before a guest is started.

Reading comes first (``docker_facts.read``: one answer of the daemon, a few files); the checks are
pure over what was read. What is not known, such as the disk of a daemon elsewhere, is not checked.

What is not refused here, because it breaks nothing: either version of cgroups; the driver btrfs;
overlay2 on ext4, xfs or btrfs; vfs, which only takes more room; few loop devices (the kernel makes
more as they are asked for). Who is root in a container, and what Podman lacks, ``guests.engine``
knows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

import docker

from vagrant_kiwi import docker_api
from vagrant_kiwi.description_model import ImageType
from vagrant_kiwi.docker_facts import DaemonFacts, read
from vagrant_kiwi.errors import PreflightError
from vagrant_kiwi.guests import engine
from vagrant_kiwi.isolation import FOLDER_TYPES, Isolation
from vagrant_kiwi.plan import GUEST_ROOT, BuildPlan

_MIB = 2**20
#: What a build writes at least, in bytes: the root tree, the packages, the image. Seen in the
#: guest's own layer, looking once a second (Debian 12, KIWI 11.1.6): examples/debian-tarball
#: 376 MiB, debian-container 453 MiB, debian-disk 1578 MiB. A disk's declared size hardly counts,
#: because it is sparse: debian-disk with 20 GiB in place of 1 GiB took 1708 MiB.
ROOM_FOLDER = 384 * _MIB
ROOM_DISK = 1536 * _MIB
#: The box: 457 MB for Debian 12, 463 MB for 13. Guests share it, but with drivers that copy.
ROOM_BOX = 512 * _MIB
#: Making a box saves this many layers that hold files: the base, the context, what setup.sh did.
_BOX_LAYERS = 3

#: The guest's folder /dev holds loop devices of these numbers at most: devices.sh of the boxes.
LOOP_NODES = 64
#: How many of them KIWI has bound at once: the disk, and a file system image within.
_LOOPS = 2

#: Storage drivers, and containerd's snapshotters (Docker 29), that copy the whole image.
COPYING = ("vfs", "native")
#: What KIWI sees as the file system of the guest, by `stat -f`, whatever lies below the driver.
_SEEN = {
    "overlay2": "overlayfs",
    "overlayfs": "overlayfs",
    "overlay": "overlayfs",
    "fuse-overlayfs": "fuse",
    "btrfs": "btrfs",
    "zfs": "zfs",
    "aufs": "aufs",
}
#: On which KIWI builds: 11.1.6, runtime_checker.py, check_target_dir_on_unsupported_filesystem;
#: in its words, in the kernel's, and in Docker's.
_BUILDS_ON = frozenset(
    {"btrfs", "ext2", "ext2/ext3", "ext3", "ext4", "extfs", "overlay", "overlayfs", "tmpfs", "xfs"}
)

#: XML Schema's boolean.
_TRUE = ("true", "1")

_ELSEWHERE = "Or build with --provider=libvirt or --provider=host."
_SCRIPT = "invoke docker-storage prints a script that gives Docker a data root on btrfs."


def preflight(plan: BuildPlan, image_type: ImageType, environment: Mapping[str, str]) -> None:
    """Ask the daemon of a build, and check what it says.

    Args:
        plan: the build; nothing is asked where its guest is no container of ours.
        image_type: what is built.
        environment: may hold DOCKER_HOST and its companions.

    Raises:
        PreflightError: the daemon does not answer, or cannot run this build.
    """
    if plan.provider not in docker_api.PROVIDERS or plan.isolation.kind == "own":
        return
    with docker_api.client(environment) as client, _answering():
        info = client.info()
        engine.check(engine.of(client.version(), info), plan.isolation)
        facts = read(client, info)
    check(facts, image_type=image_type, isolation=plan.isolation, provider=plan.provider)


def preflight_box(client: docker.DockerClient) -> None:
    """Ask the daemon in which a box is made whether there is room for it.

    Raises:
        PreflightError: the daemon does not answer, or has too little.
    """
    with _answering():
        facts = read(client, client.info())
    check_room_for_box(facts)


@contextlib.contextmanager
def _answering() -> Iterator[None]:
    """Say in our own words that a daemon does not answer any more."""
    try:
        yield
    except docker_api.FAILURES as error:
        raise docker_api.unreachable(error) from error


def check(
    facts: DaemonFacts, *, image_type: ImageType, isolation: Isolation, provider: str
) -> None:
    """See that a daemon can run a build.

    Args:
        facts: the daemon.
        image_type: what is built.
        isolation: of the guest.
        provider: docker or docker-direct.

    Raises:
        PreflightError: it cannot; all that stands in the way is named at once.
    """
    checks: tuple[Callable[[], None], ...] = (
        lambda: check_driver(facts, isolation),
        lambda: check_overlay(facts, image_type, isolation),
        lambda: check_mapper(image_type, isolation),
        lambda: check_loops(facts, image_type),
        lambda: check_cgroups(facts, isolation),
        lambda: check_security(facts, isolation, provider),
        lambda: check_room(facts, image_type),
    )
    found: list[PreflightError] = []
    for one in checks:
        try:
            one()
        except PreflightError as error:
            found.append(error)
    if len(found) == 1:
        raise found[0]
    if found:
        raise PreflightError(
            f"Docker cannot run this build, for {len(found)} reasons",
            details="\n".join(f"{error.brief}: {error.details}" for error in found),
            resolution="\n".join(error.resolution for error in found),
        )


def check_driver(facts: DaemonFacts, isolation: Isolation | None = None) -> None:
    """See that KIWI can build on what the storage driver gives a guest, one of ours or any.

    devicemapper: Docker 25 removed it. It cuts a container's disk to 10 GB, and maps devices
    where KIWI's kpartx and cryptsetup map theirs, for which Dice's guide warns of it. No d_type:
    what a guest removes shows up again (Docker's documentation, "OverlayFS storage driver"); Docker
    lets old installations run on so (moby 20.10, overlay2/overlay.go).

    Raises:
        PreflightError: it cannot.
    """
    if facts.driver == "devicemapper":
        raise PreflightError(
            "Docker's storage driver devicemapper is not for building images",
            details="it maps devices as KIWI's own tools do, and Docker 25 removed it",
            resolution=f"Use overlay2, on ext4 or xfs; or btrfs: {_SCRIPT}",
        )
    seen = _seen(facts)
    if seen is not None and seen not in _BUILDS_ON and not _own_place(isolation):
        raise PreflightError(
            f"KIWI does not build on the file system that Docker gives a guest: {seen}",
            details=f"the storage driver is {facts.driver}"
            + (f", on {facts.backing}" if facts.backing else "")
            + "; KIWI wants btrfs, ext4, overlayfs, tmpfs or xfs",
            resolution=f"Put Docker's data root on ext4 or xfs, with overlay2. Or: {_SCRIPT}",
        )
    if not facts.d_type:
        raise PreflightError(
            "Docker's data root does not tell the types of files in its folders",
            details=f"{facts.backing or 'the file system'} was made without d_type, so that in a "
            "guest removed files come back",
            resolution="Make it anew: mkfs.xfs -n ftype=1.",
        )


def _seen(facts: DaemonFacts) -> str | None:
    """Return the file system that a guest's own files are on, if that is known."""
    return facts.backing if facts.driver in COPYING else _SEEN.get(facts.driver)


def _own_place(isolation: Isolation | None) -> bool:
    """Tell whether the site gave the guest another file system, where builds are, than its own."""
    return isolation is not None and any(GUEST_ROOT in arg for arg in isolation.extra)


def check_overlay(facts: DaemonFacts, image_type: ImageType, isolation: Isolation) -> None:
    """See that KIWI can mount an overlay in the guest, if it wants to.

    It does so for containers with derived_from and delta_root alone (KIWI 11.1.6,
    system/prepare.py and system/root_import/oci.py), upon its target folder. An overlay cannot be
    the upper layer of another one: the kernel says so in its log, KIWI only "mount: wrong fs type,
    bad option". The same build succeeded with the folder on a volume, which lies beside the
    overlays in Docker's data root, and with the driver btrfs.

    Raises:
        PreflightError: it cannot.
    """
    attributes = image_type.attributes
    if (
        image_type.image not in ("docker", "oci")
        or "derived_from" not in attributes
        or attributes.get("delta_root") not in _TRUE
    ):
        return
    if _seen(facts) not in ("overlay", "overlayfs") or _own_place(isolation):
        return
    raise PreflightError(
        "KIWI cannot make an image with delta_root here",
        details="it mounts an overlay in the guest, whose own file system is one already "
        f"(storage driver {facts.driver})",
        resolution=f'Give the guest a volume: docker.create_args: ["--volume={GUEST_ROOT}"]. '
        + _ELSEWHERE,
    )


def check_mapper(image_type: ImageType, isolation: Isolation) -> None:
    """See that an image needs no devices but loop devices, unless the guest has all.

    cryptsetup and LVM open /dev/mapper/control, mdadm makes /dev/md*; a guest's devices are loop
    devices ("Cannot initialize device-mapper"). KIWI 11.1.6 calls them in builder/disk.py; it
    takes LVM as xml_state.py, get_volume_management, says.

    Raises:
        PreflightError: it needs others.
    """
    if isolation.kind != "disk":
        return
    attributes = image_type.attributes
    wanted = [
        what
        for what, needed in (
            ("luks", "luks" in attributes),
            ("mdraid", "mdraid" in attributes),
            ("standalone_integrity", attributes.get("standalone_integrity") in _TRUE),
            ("LVM (systemdisk)", image_type.lvm),
        )
        if needed
    ]
    if wanted:
        raise PreflightError(
            f"A docker guest cannot make an image with {', '.join(wanted)}",
            details="that takes the kernel's device mapper or its RAID devices; a guest may use "
            "loop devices only, because others could be this host's disks",
            resolution="Build with --provider=libvirt or --provider=host; or trust the description "
            "and build with --isolation=privileged.",
        )


def check_loops(facts: DaemonFacts, image_type: ImageType) -> None:
    """See that there are loop devices for an image type that needs them.

    The kernel loads its module as soon as /dev/loop-control is opened, and makes devices as they
    are asked for (its drivers/block/loop.c); the guest's /dev has a fixed number of nodes.

    Raises:
        PreflightError: there are not.
    """
    if image_type.image in FOLDER_TYPES or facts.loop is None:
        return
    if not facts.loop:
        raise PreflightError(
            "This host has no loop devices",
            details=f"{image_type.image} needs them; neither /sys/module/loop nor "
            "/dev/loop-control is there",
            resolution="Load the kernel's module: sudo modprobe loop. To have it after each "
            "start: echo loop | sudo tee /etc/modules-load.d/loop.conf",
        )
    busy = sum(1 for minor in facts.busy_loops if minor < LOOP_NODES)
    if LOOP_NODES - busy < _LOOPS:
        raise PreflightError(
            "No loop devices are free",
            details=f"{busy} of the {LOOP_NODES} that a guest has nodes for are bound to files",
            resolution="losetup --list shows to which; detach what is left over: sudo losetup "
            "--detach /dev/loopN.",
        )


def check_cgroups(facts: DaemonFacts, isolation: Isolation) -> None:
    """See that a guest that may make device nodes is held back from those of the host.

    By version 1's controller or, with version 2, by a program that runc attaches; it starts no
    container if it cannot. Docker does not start without either ("Devices cgroup isn't mounted",
    moby, daemon/daemon.go), other engines might.

    Raises:
        PreflightError: nothing does.
    """
    if isolation.kind != "disk":
        return
    without = facts.cgroup_version == "1" and facts.devices_cgroup is False
    if facts.cgroup_driver == "none" or without:
        raise PreflightError(
            "Nothing would keep a guest from this host's disks",
            details="control of devices by cgroups is off"
            + (" (cgroup driver none)" if facts.cgroup_driver == "none" else ""),
            resolution="Mount the cgroup controller devices, or start this host with cgroups "
            f"version 2. {_ELSEWHERE}",
        )


def check_security(facts: DaemonFacts, isolation: Isolation, provider: str) -> None:
    """See that the user that Vagrant logs in as can become root in the guest.

    Docker says from version 24 on whether it is set to no-new-privileges; sudo then refuses.

    Raises:
        PreflightError: he cannot.
    """
    mended = any("no-new-privileges" in arg for arg in isolation.extra)
    if provider == "docker" and facts.no_new_privileges and not mended:
        raise PreflightError(
            "Nobody becomes root in a guest of this Docker daemon",
            details="it is set to no-new-privileges, and sudo does not work then",
            resolution="Build with --provider=docker-direct, which needs no sudo; or allow it: "
            'docker.create_args: ["--security-opt=no-new-privileges=false"].',
        )


def check_room(facts: DaemonFacts, image_type: ImageType) -> None:
    """See that the least that a build writes finds room.

    Raises:
        PreflightError: it does not.
    """
    folder = image_type.image in FOLDER_TYPES
    need = ROOM_FOLDER if folder else ROOM_DISK
    copied = ROOM_BOX if facts.driver in COPYING else 0
    _check_free(facts, need + copied, f"a build of type {image_type.image}")


def check_room_for_box(facts: DaemonFacts) -> None:
    """See that a build box finds room.

    Raises:
        PreflightError: it does not.
    """
    times = _BOX_LAYERS if facts.driver in COPYING else 1
    _check_free(facts, ROOM_BOX * times, "a build box")


def _check_free(facts: DaemonFacts, need: int, what: str) -> None:
    if facts.free is None or facts.free >= need:
        return
    raise PreflightError(
        "There is no room where Docker keeps its data",
        details=f"{facts.free // _MIB} MiB are free in {facts.root}, {what} needs "
        f"{need // _MIB} MiB at least"
        + (f": the driver {facts.driver} copies the box" if facts.driver in COPYING else ""),
        resolution="docker system df shows what takes it, docker image prune and docker builder "
        "prune give some back; or have Docker's data-root on a larger disk.",
    )
