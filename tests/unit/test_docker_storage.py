"""What the Docker daemon and its host must have for a build."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import docker
import pytest

from tests.unit import plans
from vagrant_kiwi import docker_storage
from vagrant_kiwi.description_model import ImageType
from vagrant_kiwi.docker_facts import DaemonFacts, read
from vagrant_kiwi.errors import PreflightError
from vagrant_kiwi.isolation import OWN, HostFacts, Isolation, isolate

HERE = "http+docker://localhost"
GIB = 2**30

GOOD = DaemonFacts(
    driver="overlay2",
    backing="extfs",
    d_type=True,
    root=Path("/var/lib/docker"),
    cgroup_version="1",
    cgroup_driver="cgroupfs",
    no_new_privileges=False,
    local=True,
    free=50 * GIB,
    loop=True,
    devices_cgroup=True,
)
#: A daemon elsewhere: nothing is known of its host.
REMOTE = replace(GOOD, local=False, free=None, loop=None, devices_cgroup=None)


def image_type(image: str, *, lvm: bool = False, **attributes: str) -> ImageType:
    return ImageType(image, True, (), {"image": image, **attributes}, lvm=lvm)


def isolation(image: str, *extra: str, privileged: bool = False) -> Isolation:
    requested: Any = "privileged" if privileged else "auto"
    none = HostFacts(frozenset(), frozenset(), selinux=False)
    return isolate(image, requested=requested, facts=none, run_id="r", extra=extra, sshd=False)


def check(
    facts: DaemonFacts,
    what: ImageType,
    *extra: str,
    privileged: bool = False,
    provider: str = "docker",
) -> None:
    chosen = isolation(what.image, *extra, privileged=privileged)
    docker_storage.check(facts, image_type=what, isolation=chosen, provider=provider)


TARBALL = image_type("tbz")
DISK = image_type("oem")
DELTA = image_type("docker", derived_from="file:///srv/base.tar", delta_root="true")


# --- reading -----------------------------------------------------------------------------------


INFO: dict[str, Any] = {
    "ServerVersion": "20.10.24",
    "Driver": "overlay2",
    "DriverStatus": [["Backing Filesystem", "xfs"], ["Supports d_type", "true"]],
    "CgroupDriver": "systemd",
    "CgroupVersion": "2",
    "Name": "builder",
    "SecurityOptions": ["name=seccomp,profile=default", "name=no-new-privileges"],
}


def read_at(folder: Path, base_url: str = HERE, **info: Any) -> DaemonFacts:
    """Read a daemon whose host has its files in a folder."""
    client = SimpleNamespace(api=SimpleNamespace(base_url=base_url))
    for name in ("sys", "dev", "proc/self"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    mounts = folder / "proc/self/mountinfo"
    if not mounts.exists():
        mounts.write_text("1 0 8:1 / / rw - ext4 /dev/vda rw\n")
    return read(
        cast(docker.DockerClient, client),
        {"DockerRootDir": str(folder), **INFO, **info},
        nodename="builder",
        sys=folder / "sys",
        proc=folder / "proc",
        dev=folder / "dev",
    )


def test_a_daemon_of_this_host_is_read_with_its_host(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cgroups").write_text(
        "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t1\t2\t1\ndevices\t5\t2\t1\n"
    )
    (tmp_path / "sys/block/loop3/loop").mkdir(parents=True)
    (tmp_path / "sys/block/loop3/loop/backing_file").write_text("/x\n")
    (tmp_path / "sys/module/loop").mkdir(parents=True)
    found = read_at(tmp_path)
    room = os.statvfs(tmp_path)
    assert found.free is not None
    assert abs(found.free - room.f_bavail * room.f_frsize) < GIB
    assert replace(found, free=None) == DaemonFacts(
        driver="overlay2",
        backing="xfs",
        d_type=True,
        root=tmp_path,
        cgroup_version="2",
        cgroup_driver="systemd",
        no_new_privileges=True,
        local=True,
        loop=True,
        busy_loops=frozenset({3}),
        devices_cgroup=True,
    )


@pytest.mark.parametrize(
    ("base_url", "name"), [(HERE, "other"), ("http://192.0.2.1:2375", "builder")]
)
def test_of_a_daemon_elsewhere_the_host_is_not_known(
    tmp_path: Path, base_url: str, name: str
) -> None:
    # The first is a socket that ssh or a virtual machine passes on.
    found = read_at(tmp_path, base_url, Name=name)
    assert not found.local
    assert (found.free, found.loop, found.devices_cgroup) == (None, None, None)
    docker_storage.check_room(found, DISK)
    docker_storage.check_loops(found, DISK)
    docker_storage.check_room_for_box(found)


def test_what_the_kernel_lacks_is_seen(tmp_path: Path) -> None:
    found = read_at(tmp_path)
    assert found.loop is False
    assert found.devices_cgroup is None
    (tmp_path / "dev/loop-control").touch()
    (tmp_path / "proc/cgroups").write_text("devices\t0\t2\t1\n")
    found = read_at(tmp_path)
    assert found.loop is True
    assert found.devices_cgroup is False
    (tmp_path / "proc/cgroups").write_text("devices\t4\t2\t0\n")
    assert read_at(tmp_path).devices_cgroup is False


def test_the_file_system_below_vfs_is_that_of_the_nearest_mount(tmp_path: Path) -> None:
    # Docker 20.10 says nothing of it: "DriverStatus": null.
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text(
        "1 0 8:1 / / rw - ext4 /dev/vda rw\n"
        f"2 1 0:40 / {tmp_path} rw shared:1 - overlay overlay rw,lowerdir=/a\n"
        f"3 1 0:41 / {tmp_path}-other rw - zfs tank rw\n"
    )
    found = read_at(tmp_path, Driver="vfs", DriverStatus=None)
    assert found.backing == "overlay"


@pytest.mark.parametrize(
    ("containerd", "root"),
    [
        ({"Address": "/run/containerd/containerd.sock"}, "/var/lib/containerd"),
        ({"Address": "/var/run/docker/containerd/containerd.sock"}, "/data"),
        ({"Address": "/srv/own.sock"}, None),
        (None, None),
    ],
)
def test_images_that_containerd_keeps_take_its_room(
    tmp_path: Path, containerd: dict[str, str] | None, root: str | None
) -> None:
    found = read_at(
        tmp_path,
        Driver="overlayfs",
        DriverStatus=[["driver-type", "io.containerd.snapshotter.v1"]],
        DockerRootDir="/data",
        Containerd=containerd,
    )
    assert found.root == (None if root is None else Path(root))


def test_a_data_root_that_is_not_to_be_seen_has_unknown_room(tmp_path: Path) -> None:
    assert read_at(tmp_path, DockerRootDir=str(tmp_path / "nowhere")).free is None


# --- checking ----------------------------------------------------------------------------------


@pytest.mark.parametrize("what", [TARBALL, DISK, image_type("docker"), image_type("iso")])
@pytest.mark.parametrize(
    "facts",
    [
        GOOD,
        REMOTE,
        replace(GOOD, driver="btrfs", backing=None),
        replace(GOOD, driver="overlayfs", backing=None),
        replace(GOOD, driver="overlay", backing="xfs"),
        replace(GOOD, driver="vfs", backing="ext4"),
        replace(GOOD, driver="vfs", backing="overlay"),
        replace(GOOD, driver="vfs", backing=None),
        replace(GOOD, driver="something-new"),
        replace(GOOD, cgroup_version="2", devices_cgroup=None),
        replace(GOOD, cgroup_version="2", devices_cgroup=False),
        replace(GOOD, busy_loops=frozenset(range(40))),
    ],
)
def test_what_works_is_let_through(facts: DaemonFacts, what: ImageType) -> None:
    check(facts, what)


@pytest.mark.parametrize(
    ("driver", "backing", "words"),
    [
        ("devicemapper", "xfs", "devicemapper"),
        ("zfs", None, "a guest: zfs"),
        ("aufs", "extfs", "a guest: aufs"),
        ("fuse-overlayfs", "overlay", "a guest: fuse"),
        ("vfs", "zfs", "a guest: zfs"),
        ("native", "f2fs", "a guest: f2fs"),
    ],
)
def test_drivers_on_which_kiwi_does_not_build(driver: str, backing: str | None, words: str) -> None:
    with pytest.raises(PreflightError, match=words) as caught:
        check(replace(REMOTE, driver=driver, backing=backing), TARBALL)
    assert caught.value.code == 4
    assert "invoke docker-storage" in caught.value.resolution


def test_a_volume_for_builds_makes_up_for_the_driver() -> None:
    check(replace(GOOD, driver="zfs"), TARBALL, "--volume=/var/lib/vagrant-kiwi")


def test_folders_without_types_of_files_are_refused() -> None:
    with pytest.raises(PreflightError, match="types of files") as caught:
        check(replace(GOOD, backing="xfs", d_type=False), TARBALL)
    assert "ftype=1" in caught.value.resolution


@pytest.mark.parametrize(
    ("driver", "backing"), [("overlay2", "extfs"), ("overlayfs", None), ("vfs", "overlay")]
)
def test_an_overlay_in_the_guest_needs_another_file_system(
    driver: str, backing: str | None
) -> None:
    facts = replace(REMOTE, driver=driver, backing=backing)
    for privileged in (False, True):
        with pytest.raises(PreflightError, match="delta_root") as caught:
            check(facts, DELTA, privileged=privileged)
    assert "--volume=/var/lib/vagrant-kiwi" in caught.value.resolution
    # The remedy is one.
    check(facts, DELTA, "--volume=/var/lib/vagrant-kiwi")
    check(facts, DELTA, "--mount=type=volume,target=/var/lib/vagrant-kiwi")


def test_only_derived_containers_with_delta_root_mount_an_overlay() -> None:
    check(replace(GOOD, driver="btrfs", backing=None), DELTA)
    check(replace(GOOD, driver="vfs", backing="ext4"), DELTA)
    check(GOOD, image_type("docker", derived_from="file:///x"))
    check(GOOD, image_type("docker", derived_from="file:///x", delta_root="false"))
    check(GOOD, image_type("docker", delta_root="true"))
    check(GOOD, image_type("oem", derived_from="file:///x", delta_root="true"))
    with pytest.raises(PreflightError, match="delta_root"):
        check(GOOD, image_type("oci", derived_from="file:///x", delta_root="1"))


@pytest.mark.parametrize(
    ("what", "named"),
    [
        (image_type("oem", luks="secret"), "luks"),
        (image_type("oem", luks=""), "luks"),
        (image_type("oem", mdraid="mirroring"), "mdraid"),
        (image_type("oem", standalone_integrity="true"), "standalone_integrity"),
        (image_type("oem", lvm=True), "LVM"),
    ],
)
def test_disks_that_take_the_device_mapper_are_refused(what: ImageType, named: str) -> None:
    with pytest.raises(PreflightError, match=f"image with {named}") as caught:
        check(REMOTE, what)
    assert "secret" not in str(caught.value)
    assert "--provider=libvirt" in caught.value.resolution
    check(REMOTE, what, privileged=True)


def test_disks_need_loop_devices_and_folders_do_not() -> None:
    without = replace(GOOD, loop=False)
    check(without, TARBALL)
    for privileged in (False, True):
        with pytest.raises(PreflightError, match="has no loop devices") as caught:
            check(without, DISK, privileged=privileged)
    assert "modprobe loop" in caught.value.resolution


def test_busy_loop_devices_beyond_the_guests_nodes_take_none_of_them() -> None:
    check(replace(GOOD, busy_loops=frozenset(range(64, 200))), DISK)
    check(replace(GOOD, busy_loops=frozenset(range(62))), DISK)
    with pytest.raises(PreflightError, match="No loop devices are free"):
        check(replace(GOOD, busy_loops=frozenset(range(63))), DISK)
    check(replace(GOOD, busy_loops=frozenset(range(63))), TARBALL)


def test_the_boxes_make_as_many_nodes_as_are_counted_on() -> None:
    boxes = Path(__file__).parents[2] / "boxes"
    (script,) = {path.read_text() for path in boxes.glob("*/devices.sh")}
    found = re.search(r'while \[ "\$number" -lt (\d+) \]', script)
    assert found is not None
    assert int(found[1]) == docker_storage.LOOP_NODES


@pytest.mark.parametrize(
    "facts",
    [
        replace(GOOD, devices_cgroup=False),
        replace(GOOD, cgroup_driver="none", cgroup_version="2"),
        replace(REMOTE, cgroup_driver="none"),
    ],
)
def test_a_guest_that_nothing_holds_back_gets_no_devices(facts: DaemonFacts) -> None:
    check(facts, TARBALL)
    check(facts, DISK, privileged=True)
    with pytest.raises(PreflightError, match="from this host's disks"):
        check(facts, DISK)


def test_sudo_is_needed_with_vagrant_alone() -> None:
    facts = replace(GOOD, no_new_privileges=True)
    check(facts, TARBALL, provider="docker-direct")
    check(facts, TARBALL, "--security-opt=no-new-privileges=false")
    with pytest.raises(PreflightError, match="becomes root") as caught:
        check(facts, TARBALL)
    assert "docker-direct" in caught.value.resolution


@pytest.mark.parametrize(
    ("what", "driver", "need"),
    [
        (TARBALL, "overlay2", 384),
        (DISK, "overlay2", 1536),
        (TARBALL, "vfs", 384 + 512),
        (DISK, "vfs", 1536 + 512),
    ],
)
def test_the_least_that_a_build_writes_must_find_room(
    what: ImageType, driver: str, need: int
) -> None:
    facts = replace(GOOD, driver=driver, free=need * 2**20)
    check(facts, what)
    with pytest.raises(PreflightError, match="no room") as caught:
        check(replace(facts, free=need * 2**20 - 1), what)
    assert caught.value.code == 4
    assert f"{need - 1} MiB are free in /var/lib/docker" in caught.value.details
    assert f"needs {need} MiB" in caught.value.details
    assert "prune" in caught.value.resolution


@pytest.mark.parametrize(("driver", "need"), [("overlay2", 512), ("vfs", 1536)])
def test_a_box_must_find_room(driver: str, need: int) -> None:
    facts = replace(GOOD, driver=driver, free=need * 2**20)
    docker_storage.check_room_for_box(facts)
    with pytest.raises(PreflightError, match="no room"):
        docker_storage.check_room_for_box(replace(facts, free=need * 2**20 - 1))


def test_all_that_stands_in_the_way_is_named_at_once() -> None:
    with pytest.raises(PreflightError) as caught:
        check(replace(GOOD, driver="zfs", loop=False, free=0), image_type("oem", luks="x"))
    assert caught.value.brief == "Docker cannot run this build, for 4 reasons"
    for words in ("a guest: zfs", "luks", "no loop devices", "no room"):
        assert words in caught.value.details
    for words in ("overlay2", "--provider=libvirt", "modprobe", "prune"):
        assert words in caught.value.resolution


def test_nothing_is_asked_where_the_guest_is_no_container_of_ours(tmp_path: Path) -> None:
    # Docker knows no such context: asking raises.
    nowhere = {"DOCKER_CONTEXT": "vagrant-kiwi-there-is-none"}
    for provider in ("libvirt", "host"):
        made = plans.make(tmp_path, provider=provider, host={"address": "builder"})
        docker_storage.preflight(made, TARBALL, nowhere)
    ours = plans.make(tmp_path, provider="docker")
    docker_storage.preflight(replace(ours, isolation=OWN), TARBALL, nowhere)
    with pytest.raises(PreflightError, match="cannot be used"):
        docker_storage.preflight(ours, TARBALL, nowhere)
