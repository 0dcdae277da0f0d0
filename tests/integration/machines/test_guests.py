"""Virtual machines as guests: started, used, suspended, stopped at bad moments, removed.

One guest is shared: under emulation a start takes a minute.
"""

from __future__ import annotations

import datetime
import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest
from lxml import etree
from platformdirs import user_cache_path

from tests.integration.cli import Project, finish, wait_until
from tests.integration.machines.conftest import IMAGE, SMALL
from tests.integration.stand_in import BUSY, STAND_IN, describe, start_busy
from vagrant_kiwi import box_recipe, libvirt_api, machine_boxes, machine_pool
from vagrant_kiwi.guests import agent
from vagrant_kiwi.guests.record import GuestRecord
from vagrant_kiwi.plan import GUEST_ROOT, guest_name


class Kept:
    """The shared guest: its project, and its run."""

    def __init__(self, project: Project, run_id: str) -> None:
        self.project = project
        self.run_id = run_id

    def domain(self, connection: libvirt.virConnect) -> libvirt.virDomain:
        """Return its domain."""
        return connection.lookupByName(guest_name(self.run_id))

    def ask(self, connection: libvirt.virConnect, *argv: str) -> str:
        """Run a command in it, past the network."""
        return agent.run(self.domain(connection), argv, timeout=60).strip()

    def build(self, *words: str) -> dict[str, Any]:
        """Build in it."""
        done = self.project.run("build", *IMAGE, "--json", *words)
        assert done.status == 0, done.errors
        return done.json

    def up(self) -> str:
        """Start it, or wake it; return what was said."""
        done = self.project.run("up", *IMAGE, "--json")
        assert done.status == 0, done.errors
        assert done.json["guest"] == self.run_id
        return done.errors


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, machine_box: dict[str, Any]) -> Iterator[Kept]:
    """Yield a guest that is up."""
    folder = tmp_path_factory.mktemp("kept") / 'it is a "site" $HOME'
    folder.mkdir()
    project = Project(folder)
    project.settings(provision=[str(STAND_IN)], mirrors="off", libvirt=SMALL)
    describe(folder / "image")
    done = project.run("up", *IMAGE, "--json")
    assert done.status == 0, done.errors
    yield Kept(project, done.json["guest"])
    done = project.run("down", *IMAGE, "--json")
    assert done.status == 0, done.errors


def test_it_is_a_machine_for_builds(kept: Kept, connection: libvirt.virConnect) -> None:
    xml = etree.fromstring(kept.domain(connection).XMLDesc(0).encode())
    assert xml.get("type") in ("kvm", "qemu")
    assert xml.find("devices/rng") is not None
    assert xml.find("devices/graphics") is None
    driver = xml.find("devices/disk/driver")
    assert driver is not None
    assert (driver.get("cache"), driver.get("discard")) == ("unsafe", "unmap")
    assert kept.ask(connection, "nproc") == "1"
    assert kept.ask(connection, "hostname") == "debian-bookworm-libvirt"
    assert int(kept.ask(connection, "sh", "-c", "df -BG --output=size / | tail -1")[:-1]) > 35
    assert re.fullmatch("[0-9a-f]{32}", kept.ask(connection, "cat", "/etc/machine-id"))
    assert kept.ask(connection, "sh", "-c", "systemctl --failed --quiet") == ""
    assert "Linux version" in console_of(kept.project)


def test_a_second_up_uploads_nothing(
    kept: Kept, connection: libvirt.virConnect, machine_box: dict[str, Any]
) -> None:
    pool = connection.storagePoolLookupByName("default")

    def volumes() -> dict[str, str | None]:
        pool.refresh(0)
        return {
            volume.name(): etree.fromstring(volume.XMLDesc(0).encode()).findtext(
                "target/timestamps/ctime"
            )
            for volume in pool.listAllVolumes()
            if "_vagrant_box_image_" in volume.name()
        }

    before = volumes()
    assert any(machine_box["version"] in name for name in before)
    assert "upload" not in kept.up()
    assert volumes() == before


def test_builds_use_it_and_leave_it(
    kept: Kept, connection: libvirt.virConnect, machines_unchanged: None
) -> None:
    describe(kept.project.folder / "image")
    answer = kept.build("--run-id=m-1")
    assert [entry["path"] for entry in answer["artifacts"]] == ["image.tar"]
    record = json.loads(Path(answer["log"]).with_name("run.json").read_text())
    assert record["reused"] == kept.run_id
    assert kept.ask(connection, "ls", GUEST_ROOT) == kept.run_id


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL], ids=["TERM", "KILL"])
def test_a_stopped_build_leaves_nothing_in_it(
    kept: Kept, connection: libvirt.virConnect, machines_unchanged: None, signum: signal.Signals
) -> None:
    describe(kept.project.folder / "image", behave=BUSY)
    running = start_busy(kept.project, *IMAGE)
    running.send_signal(signum)
    done = finish(running)
    assert done.status == (143 if signum == signal.SIGTERM else -9)
    wait_until(
        lambda: kept.ask(connection, "ls", GUEST_ROOT) == kept.run_id,
        what="the run's folder is gone",
    )
    assert kept.ask(connection, "sh", "-c", "pgrep -fc [k]iwi-ng || true") == "0"


def test_what_dead_runs_left_is_removed_by_the_next(
    kept: Kept, connection: libvirt.virConnect, machines_unchanged: None, tmp_path: Path
) -> None:
    describe(kept.project.folder / "image")
    folder = next(kept.project.folder.glob(".vagrant-kiwi/builds/*/libvirt/runs")) / "dead-1"
    folder.mkdir()
    GuestRecord(
        run_id="dead-1",
        provider="libvirt",
        image="vagrant-kiwi/debian-bookworm",
        uri="qemu:///system",
        folder=folder / "guest",
    ).save(folder)
    plant(connection, "dead-1", tmp_path / "nvram")
    kept.build()
    assert libvirt_api.lookup_domain(connection, guest_name("dead-1")) is None
    assert not (tmp_path / "nvram").exists()


def plant(connection: libvirt.virConnect, run_id: str, nvram: Path) -> libvirt.virDomain:
    """Define a domain with a volume, both named as a run's, as if its build had died.

    It has NVRAM, as a site's template for UEFI gives it: libvirt keeps such a domain unless told.
    """
    name = guest_name(run_id)
    nvram.touch()
    pool = connection.storagePoolLookupByName("default")
    pool.createXML(f"<volume><name>{name}.img</name><capacity>4096</capacity></volume>", 0)
    return connection.defineXML(
        f"<domain type='qemu'><name>{name}</name><memory>65536</memory><os><type>hvm</type>"
        f"<loader readonly='yes' type='pflash'>/nowhere.fd</loader><nvram>{nvram}</nvram></os>"
        "<features><acpi/></features></domain>"
    )


def test_a_name_that_is_taken_is_refused_and_left_alone(
    project: Project, connection: libvirt.virConnect, machines_unchanged: None, tmp_path: Path
) -> None:
    domain = plant(connection, "taken-1", tmp_path / "nvram")
    try:
        done = project.run("build", *IMAGE, "--json", "--run-id=taken-1")
        assert done.status == 1
        assert "domain vagrant-kiwi-taken-1" in done.json["error"]["details"]
        assert domain.name() == guest_name("taken-1")
    finally:
        domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)
        pool = connection.storagePoolLookupByName("default")
        pool.storageVolLookupByName(f"{guest_name('taken-1')}.img").delete(0)


def test_a_suspended_guest_comes_back_with_its_memory_and_the_time(
    kept: Kept, connection: libvirt.virConnect
) -> None:
    kept.ask(connection, "sh", "-c", "echo remembered >/dev/shm/mark")
    booted = kept.ask(connection, "cat", "/proc/sys/kernel/random/boot_id")
    done = kept.project.run("down", *IMAGE, "--suspend", "--json")
    assert done.status == 0, done.errors
    assert done.json == {"status": "suspended", "guests": [kept.run_id]}
    domain = kept.domain(connection)
    assert not domain.isActive()
    assert domain.hasManagedSaveImage(0)
    # Not for an event: the guest's clock must fall behind by more than is tolerated below.
    time.sleep(5)
    kept.up()
    assert kept.ask(connection, "cat", "/dev/shm/mark") == "remembered"
    assert kept.ask(connection, "cat", "/proc/sys/kernel/random/boot_id") == booted
    assert abs(int(kept.ask(connection, "date", "+%s")) - time.time()) < 4
    describe(kept.project.folder / "image")
    assert kept.build()["status"] == "built"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL], ids=["TERM", "KILL"])
def test_a_stopped_up_leaves_nothing(
    project: Project,
    connection: libvirt.virConnect,
    machines_unchanged: None,
    signum: signal.Signals,
) -> None:
    run_id = f"stop-{int(signum)}"
    running = project.start("build", *IMAGE, "--json", f"--run-id={run_id}")

    def runs() -> bool:
        domain = libvirt_api.lookup_domain(connection, guest_name(run_id))
        return domain is not None and bool(domain.isActive())

    wait_until(runs, what="the domain runs")
    running.send_signal(signum)
    done = finish(running)
    assert done.status == (143 if signum == signal.SIGTERM else -9), done.errors
    wait_until(
        lambda: libvirt_api.lookup_domain(connection, guest_name(run_id)) is None,
        what="the domain is gone",
    )


def test_a_guest_that_does_not_come_up_in_time_shows_its_console(
    project: Project, machines_unchanged: None
) -> None:
    # Emulated, it is not up before twice that time, and has said something by then.
    machine = {**SMALL, "accel": "tcg"}
    project.settings(mirrors="off", libvirt=machine, timeouts={"up": 18})
    done = project.run("build", *IMAGE, "--json")
    assert done.status == 124
    words = done.json["error"]["details"].partition("the guest's console:\n")[2]
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]|\x1bM", "", console_of(project))
    assert words
    assert all(line in plain for line in words.splitlines())
    assert "\x1b" not in words


def console_of(project: Project) -> str:
    """Return what the newest guest wrote on its console."""
    logs = sorted(project.folder.glob(".vagrant-kiwi/builds/*/libvirt/runs/*/console.log"))
    return logs[-1].read_text(errors="replace")


def test_a_box_that_was_made_anew_is_what_the_next_guest_boots(
    kept: Kept, project: Project, connection: libvirt.virConnect
) -> None:
    recipe = box_recipe.find_recipe("debian-bookworm")
    cache = user_cache_path("vagrant-kiwi") / "libvirt" / recipe.name
    old = machine_boxes.find(cache, recipe.machine_digest())
    assert old is not None
    # To make it takes minutes, and the bytes do not matter: it is another version.
    again = Path(shutil.copy(cache / old.version / old.file, cache))
    now = datetime.datetime.now(datetime.UTC)
    making = machine_boxes.made_from(recipe)
    new = machine_boxes.adopt(making, cache, again, sha256=old.sha256, now=now)

    done = project.run("up", *IMAGE, "--json")
    assert done.status == 0, done.errors
    pool = connection.storagePoolLookupByName("default")
    pool.refresh(0)
    disk = pool.storageVolLookupByName(f"{guest_name(done.json['guest'])}.img")
    backing = etree.fromstring(disk.XMLDesc(0).encode()).findtext("backingStore/path")
    assert Path(str(backing)).name == machine_pool.volume_name(new)
    assert project.run("down", *IMAGE).status == 0
    # The guest that runs on the old one keeps it, and is not what a build would get now.
    assert machine_pool.volume_name(old) in [volume.name() for volume in pool.listAllVolumes()]
    refused = kept.project.run("build", *IMAGE, "--json")
    assert refused.status == 3
    assert "box" in refused.json["error"]["details"]


def test_down_removes_it_and_gives_its_address_back(
    kept: Kept, connection: libvirt.virConnect
) -> None:
    network = connection.networkLookupByName("default")
    mac = etree.fromstring(kept.domain(connection).XMLDesc(0).encode()).find(
        "devices/interface/mac"
    )
    assert mac is not None
    assert network.DHCPLeases(mac.get("address")), "it has an address"
    done = kept.project.run("down", *IMAGE, "--json")
    assert done.json["guests"] == [kept.run_id], done.errors
    assert libvirt_api.lookup_domain(connection, guest_name(kept.run_id)) is None
    wait_until(lambda: not network.DHCPLeases(mac.get("address")), what="the lease is gone")
    left = subprocess.run(
        ["virsh", "-q", "vol-list", "default"], check=True, capture_output=True, text=True
    )
    assert guest_name(kept.run_id) not in left.stdout
    # Nothing uses the older box any more.
    assert kept.project.run("box-add", "--provider=libvirt").status == 0
    assert len(list((user_cache_path("vagrant-kiwi") / "libvirt/debian-bookworm").iterdir())) == 1
