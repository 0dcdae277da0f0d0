"""box-add, box-list, box-remove and box-prune of boxes for virtual machines."""

from __future__ import annotations

import hashlib
import json
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt
import pytest

from tests.integration.cli import Finished, Project
from tests.integration.http_files import serving

pytestmark = pytest.mark.usefixtures("machines_unchanged")

OVERLAY = """<volume><name>{name}</name><capacity>1048576</capacity>
<target><format type='qcow2'/></target>
<backingStore><path>{backing}</path><format type='qcow2'/></backingStore></volume>"""


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
        (folder / "raw").write_bytes(uuid.uuid4().bytes * 2**16)
        command = ["qemu-img", "convert", "-q", "-O", "qcow2", "raw", "box.img"]
        if backing:
            command = [
                "qemu-img",
                "create",
                "-q",
                "-f",
                "qcow2",
                "-b",
                "raw",
                "-F",
                "raw",
                "box.img",
            ]
        subprocess.run(command, cwd=folder, check=True)
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
        url = server.put("/first.box", data)
        done = site.add(f"--url={url}", f"--sha256={digest}")
        assert done.status == 0, done.errors
        assert (done.json["sha256"], done.json["origin"]) == (digest, url)
        again = site.add(f"--url={url}", f"--sha256={digest}")
        assert again.json == done.json
        assert len(server.seen) == 1
    (volume,) = site.volumes()
    assert done.json["version"] in volume
    assert [one["version"] for one in site.versions()] == [done.json["version"]]

    # A guest on the first one; then the box is replaced.
    backing = site.pool.storageVolLookupByName(volume).path()
    name = f"{site.name}-overlay.img"
    overlay = site.pool.createXML(OVERLAY.format(name=name, backing=backing), 0)
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
    nowhere = {**site.project.environment, "DOCKER_HOST": "unix:///nowhere.sock"}
    pruned = Project(site.project.folder, environment=nowhere).run("box-prune", "--json")
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
