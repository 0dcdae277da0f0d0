"""box-add, box-list, box-remove and box-prune of boxes for virtual machines."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import struct
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import libvirt
import pytest

from tests.integration.cli import Finished, Project, finish, wait_until
from tests.integration.halting_proxy import halting
from tests.integration.http_files import serving
from tests.integration.machines.conftest import box_disk, overlay_on
from vagrant_kiwi import box_use

pytestmark = pytest.mark.usefixtures("machines_unchanged")

#: libvirt's own, where it listens; a person's may be elsewhere.
SOCKET = Path("/var/run/libvirt/libvirt-sock")
#: Of src/remote/remote_protocol.x, enum remote_procedure; of src/rpc/virnetprotocol.x, the types.
VOL_DELETE, VOL_UPLOAD = 94, 208
CALL, REPLY, STREAM = 0, 1, 3


def message(procedure: int, kind: int) -> bytes:
    """Return how a message of libvirt begins, after its length."""
    return struct.pack(">IIII", 0x20008086, 1, procedure, kind)


@dataclass
class Site:
    """A user with a cache and a Vagrant of his own, and a name for a box that nobody else has."""

    project: Project
    name: str
    pool: libvirt.virStoragePool

    def run(self, task: str, *words: str) -> Finished:
        return self.project.run(task, *words, "--provider=libvirt", "--json")

    def add(self, *words: str) -> Finished:
        return self.run("box-add", f"--name={self.name}", *words)

    def volumes(self) -> list[str]:
        self.pool.refresh(0)
        return sorted(one.name() for one in self.pool.listAllVolumes() if self.name in one.name())

    def versions(self) -> list[dict[str, Any]]:
        done = self.run("box-list")
        assert done.status == 0, done.errors
        rows = [row for row in done.json["boxes"] if row["name"] == self.name]
        return list(rows[0]["installed"]) if rows else []

    def box(self, *, metadata: object = None, backing: bool = False) -> Path:
        """Make a small box, each time with other bytes."""
        folder = self.project.folder / uuid.uuid4().hex
        folder.mkdir()
        box_disk(folder, backing=backing)
        usual = {"provider": "libvirt", "format": "qcow2", "virtual_size": 1}
        (folder / "metadata.json").write_text(json.dumps(metadata or usual))
        file = folder.with_suffix(".box")
        subprocess.run(["tar", "-czf", file, "metadata.json", "box.img"], cwd=folder, check=True)
        return file


@pytest.fixture
def site(tmp_path: Path, connection: libvirt.virConnect) -> Iterator[Site]:
    environment = {
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "VAGRANT_HOME": str(tmp_path / "vagrant"),
        "no_proxy": "127.0.0.1",
    }
    pool = connection.storagePoolLookupByName("default")
    made = Site(Project(tmp_path, environment=environment), f"vk-test-{uuid.uuid4().hex[:8]}", pool)
    yield made
    for name in made.volumes():
        pool.storageVolLookupByName(name).delete(0)


def test_a_box_is_imported_listed_replaced_and_removed(site: Site) -> None:
    with serving() as server:
        first = site.box()
        data = first.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        place = server.put("/first.box", data).removeprefix("http://")
        secrets = [f"{what}{uuid.uuid4().hex}" for what in ("pass", "token")]
        url = f"http://joe:{secrets[0]}@{place}?token={secrets[1]}"
        done = site.add(f"--url={url}", f"--sha256={digest}")
        assert done.status == 0, done.errors
        assert (done.json["sha256"], done.json["origin"]) == (digest, f"http://***@{place}?***")
        written = [path for path in site.project.folder.rglob("*") if path.is_file()]
        assert "box.json" in [path.name for path in written]
        for secret in secrets:
            assert secret not in done.output + done.errors
            assert [path for path in written if secret.encode() in path.read_bytes()] == []
        again = site.add(f"--url={url}", f"--sha256={digest}")
        assert again.json == done.json
        assert len(server.seen) == 1
    (volume,) = site.volumes()
    assert done.json["version"] in volume
    assert [one["version"] for one in site.versions()] == [done.json["version"]]

    # A guest on the first one; then the box is replaced.
    name = f"{site.name}-overlay.img"
    overlay = overlay_on(site.pool.storageVolLookupByName(volume), name)
    second = site.add(f"--file={site.box()}")
    assert second.status == 0, second.errors
    assert second.json["version"] != done.json["version"]
    newest, old = site.versions()
    assert (newest["version"], newest["outdated"]) == (second.json["version"], False)
    assert (old["outdated"], old["used_by"]) == (True, [f"volume {name}"])
    refused = site.run("box-remove", site.name)
    assert refused.status == 5
    assert name in refused.json["error"]["details"]
    overlay.delete(0)

    # Not those of the tests that run beside these.
    nowhere = site.project.beside(DOCKER_HOST="unix:///nowhere.sock")
    pruned = nowhere.run("box-prune", "--json")
    assert pruned.status == 0, pruned.errors
    assert "boxes for docker stay" in pruned.errors
    assert [one["version"] for one in site.versions()] == [second.json["version"]]
    assert len(site.volumes()) == 1
    removed = site.run("box-remove", site.name)
    assert removed.status == 0, removed.errors
    assert site.versions() == []
    assert site.volumes() == []
    assert list((site.project.folder / "vagrant/boxes").glob("*/*/*")) == []


def test_what_is_no_good_box_is_5_and_vagrant_never_sees_it(site: Site) -> None:
    other = {"provider": "virtualbox"}
    for file, said in (
        (site.box(metadata=other), "virtualbox"),
        (site.box(backing=True), "back"),
    ):
        done = site.add(f"--file={file}")
        assert done.status == 5, done.errors
        assert said in str(done.json["error"])
    assert site.versions() == []
    assert site.volumes() == []
    assert not (site.project.folder / "vagrant/boxes").exists()


# --- trouble ----------------------------------------------------------------------------------


def behind(site: Site, socket: Path) -> Site:
    """Return the site with another libvirt."""
    uri = f"qemu+unix:///system?socket={socket}"
    return replace(site, project=site.project.beside(INVOKE_VAGRANT_KIWI_LIBVIRT_URI=uri))


def test_without_libvirt_nothing_is_said_to_be_good_or_gone(site: Site) -> None:
    file = site.box()
    assert site.add(f"--file={file}").status == 0
    (volume,) = site.volumes()
    dead = behind(site, Path("/nowhere"))
    for task, words in (
        ("box-remove", (site.name,)),
        ("box-update", ()),
        ("box-verify", ()),
        ("box-add", (f"--name={site.name}", f"--file={file}")),
    ):
        done = dead.run(task, *words)
        assert done.status == 4, (task, done.errors)
        assert done.json.get("status") != "good"
        assert "libvirt does not answer" in str(done.json["error"])
    named = dead.project.run("box-verify", f"--name={site.name}", "--json")
    assert named.status == 4
    listed = dead.run("box-list")
    assert listed.status == 0, listed.errors
    assert "warning: libvirt cannot be asked" in listed.errors
    # It lies in the cache; who uses it is not known, so it stays.
    assert [row["name"] for row in listed.json["boxes"] if row["installed"]] == [site.name]
    nowhere = dead.project.beside(DOCKER_HOST="unix:///nowhere.sock")
    pruned = nowhere.run("box-prune", "--json")
    assert pruned.status == 0, pruned.errors
    assert "boxes for libvirt stay" in pruned.errors
    assert (site.volumes(), len(site.versions())) == ([volume], 1)


def test_after_a_killed_upload_the_next_import_succeeds(site: Site) -> None:
    file = site.box()
    # The first parts of the disk are on their way.
    with halting(SOCKET, message(VOL_UPLOAD, STREAM), count=3) as proxy:
        slow = behind(site, proxy.path).project
        words = ("box-add", f"--name={site.name}", f"--file={file}", "--provider=libvirt")
        running = slow.start(*words)
        proxy.wait_for_halt()
        (half,) = site.volumes()
        running.kill()
        finish(running)
    done = site.add(f"--file={file}")
    assert done.status == 0, done.errors
    assert site.volumes() == [half]
    image = next((site.project.folder / "vagrant/boxes").glob("*/*/libvirt/box.img"))
    volume = site.pool.storageVolLookupByName(half)
    size = volume.infoFlags(libvirt.VIR_STORAGE_VOL_GET_PHYSICAL)[2]
    assert size == image.stat().st_size
    assert len(site.versions()) == 1


def test_after_an_import_killed_while_vagrant_adds_the_next_one_succeeds(site: Site) -> None:
    file = site.box()
    programs, started = site.project.folder / "bin", site.project.folder / "started"
    programs.mkdir()
    (programs / "vagrant").write_text(
        f"#!/bin/sh\necho $$ >'{started}.new'\nmv '{started}.new' '{started}'\n"
        f'exec {shutil.which("vagrant")} "$@"\n'
    )
    (programs / "vagrant").chmod(0o755)
    running = site.project.beside(PATH=f"{programs}:{os.environ['PATH']}").start(
        "box-add", f"--name={site.name}", f"--file={file}", "--provider=libvirt"
    )
    wait_until(started.exists, what="Vagrant runs")
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -9
    # Vagrant, which does not know of it, goes on beside the next one.
    vagrant = Path("/proc", started.read_text().strip())
    try:
        done = site.add(f"--file={file}")
        assert done.status == 0, done.errors
    finally:
        wait_until(lambda: not vagrant.exists(), what="the other Vagrant ends")
        finish(running)
    assert [one["version"] for one in site.versions()] == [done.json["version"]]
    known = [path.parent.name for path in site.project.folder.glob("vagrant/boxes/*/*/libvirt")]
    assert known == [done.json["version"]]
    assert len(site.volumes()) == 1


def test_after_a_killed_removal_the_next_one_succeeds(site: Site) -> None:
    assert site.add(f"--file={site.box()}").status == 0
    # The disk is gone, the rest is there.
    with halting(SOCKET, message(VOL_DELETE, REPLY)) as proxy:
        slow = behind(site, proxy.path).project
        running = slow.start("box-remove", site.name, "--provider=libvirt")
        proxy.wait_for_halt()
        running.kill()
        finish(running)
    assert site.volumes() == []
    assert len(site.versions()) == 1
    done = site.run("box-remove", site.name)
    assert done.status == 0, done.errors
    assert (site.versions(), site.volumes()) == ([], [])
    assert list(site.project.folder.glob("vagrant/boxes/*/*/*")) == []


def test_a_box_that_a_build_holds_stays_although_there_is_no_guest(site: Site) -> None:
    first = site.add(f"--file={site.box()}")
    cache = site.project.folder / "cache/vagrant-kiwi"
    with box_use.using(cache, first.json["sha256"]):
        refused = site.run("box-remove", site.name)
        assert refused.status == 5
        assert "a build" in refused.json["error"]["details"]
        newer = site.add(f"--file={site.box()}")
        assert newer.status == 0, newer.errors
        versions = [newer.json["version"], first.json["version"]]
        assert [one["version"] for one in site.versions()] == versions
        assert len(site.volumes()) == 2
    # By now it may go; and so may what an import left that did not come to its end.
    half = cache / "libvirt" / site.name / "1.20200101000000.1"
    half.mkdir()
    (half / f"{site.name}.box").write_bytes(bytes(5000))
    nowhere = site.project.beside(DOCKER_HOST="unix:///nowhere.sock")
    for words in (["--dry-run"], []):
        assert half.exists()
        pruned = nowhere.run("box-prune", "--json", *words)
        assert pruned.status == 0, pruned.errors
        old, left = pruned.json["boxes"]
        assert versions[1] in old["what"]
        assert (left["what"], left["size"]) == (str(half), 5000)
    assert not half.exists()
    assert [one["version"] for one in site.versions()] == versions[:1]
    assert len(site.volumes()) == 1
