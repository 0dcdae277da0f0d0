"""Boxes of virtual machines: uploaded whole, replaced by other versions, removed when unused."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import libvirt
import pytest

from tests.integration.machines.conftest import URI, box_disk, overlay_on
from vagrant_kiwi import box_recipe, machine_boxes, machine_pool
from vagrant_kiwi.box_recipe import Recipe
from vagrant_kiwi.errors import BoxError
from vagrant_kiwi.machine_boxes import MachineBox
from vagrant_kiwi.process import Runner

pytestmark = pytest.mark.usefixtures("machines_unchanged")

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """Return a recipe of a box that nobody has."""
    ours = box_recipe.find_recipe("debian-bookworm")
    return dataclasses.replace(ours, name=f"vk-test-{uuid.uuid4().hex[:8]}")


@pytest.fixture
def pool(connection: libvirt.virConnect) -> libvirt.virStoragePool:
    """Return the default pool."""
    return connection.storagePoolLookupByName("default")


@pytest.fixture
def private(runner: Runner, tmp_path: Path) -> Runner:
    """Return a runner whose Vagrant has a home of its own."""
    return Runner({**runner.environment, "VAGRANT_HOME": str(tmp_path / "vagrant home")})


@pytest.fixture
def make(recipe: Recipe, tmp_path: Path) -> Iterator[Callable[[], MachineBox]]:
    """Yield what makes a small box, each time with other bytes."""
    folder = tmp_path / "cache"

    def made() -> MachineBox:
        parts = tmp_path / "parts"
        parts.mkdir(exist_ok=True)
        box_disk(parts)
        (parts / "metadata.json").write_text(
            '{"provider": "libvirt", "format": "qcow2", "virtual_size": 1}'
        )
        (parts / "Vagrantfile").write_text("")
        file = folder / "a b.box"
        folder.mkdir(exist_ok=True)
        names = ["box.img", "metadata.json", "Vagrantfile"]
        subprocess.run(["tar", "-czf", file, *names], cwd=parts, check=True)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        return machine_boxes.adopt(
            machine_boxes.made_from(recipe), folder, file, sha256=digest, now=NOW
        )

    yield made


def names(pool: libvirt.virStoragePool) -> set[str]:
    """Return the names of the volumes in a pool."""
    pool.refresh(0)
    return {volume.name() for volume in pool.listAllVolumes()}


def test_each_making_has_a_version_of_its_own(
    make: Callable[[], MachineBox], recipe: Recipe, tmp_path: Path
) -> None:
    first, second = make(), make()
    assert first.version.startswith(f"{recipe.version}.20260101000000.")
    assert second.version.startswith(f"{recipe.version}.20260101000001."), "other bytes"
    assert machine_boxes.find(tmp_path / "cache", recipe.machine_digest()) == second


def test_a_box_comes_to_libvirt_and_goes_when_nobody_uses_it(
    make: Callable[[], MachineBox],
    recipe: Recipe,
    pool: libvirt.virStoragePool,
    private: Runner,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "cache"
    said: list[str] = []

    def bring(box: MachineBox) -> list[int]:
        percents: list[int] = []
        image = machine_boxes.register(box, folder, private, timeout=120)
        machine_pool.upload(box, image, uri=URI, pool="default", progress=percents.append)
        machine_pool.remove_superseded(
            folder, box, private, cache=tmp_path, uri=URI, say=said.append
        )
        return percents

    first = make()
    try:
        assert bring(first)[-1] == 100
        assert bring(first) == [], "it is there"
        volume = pool.storageVolLookupByName(machine_pool.volume_name(first))
        assert volume.info()[1] == 2**20, "the capacity is that of the disk in it"

        # A guest on the first one; then the box is made anew.
        overlay = overlay_on(volume, "vk-test-overlay.img")
        second = make()
        bring(second)
        assert {machine_pool.volume_name(box) for box in (first, second)} <= names(pool)
        assert any("a guest uses it" in line for line in said)
        overlay.delete(0)
        bring(second)
        assert machine_pool.volume_name(first) not in names(pool)
        assert [path.name for path in folder.iterdir()] == [second.version]
        known = tmp_path / "vagrant home/boxes"
        assert [path.name for path in known.glob("*/1.*")] == [second.version]
    finally:
        for name in names(pool):
            if recipe.name in name or name == "vk-test-overlay.img":
                pool.storageVolLookupByName(name).delete(0)


def test_half_an_upload_is_replaced(
    make: Callable[[], MachineBox],
    pool: libvirt.virStoragePool,
    private: Runner,
    tmp_path: Path,
) -> None:
    box = make()
    image = machine_boxes.register(box, tmp_path / "cache", private, timeout=120)

    def stop(percent: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        machine_pool.upload(box, image, uri=URI, pool="default", progress=stop)
    assert machine_pool.volume_name(box) not in names(pool), "an interrupted one goes at once"

    # What a killed one leaves, which vagrant-libvirt would take for the whole.
    half = tmp_path / "half.img"
    half.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    machine_pool.upload(box, half, uri=URI, pool="default", progress=lambda _: None)
    percents: list[int] = []
    machine_pool.upload(box, image, uri=URI, pool="default", progress=percents.append)
    volume = pool.storageVolLookupByName(machine_pool.volume_name(box))
    try:
        assert percents[-1] == 100
        sent = tmp_path / "sent.img"
        subprocess.run(
            ["virsh", "-q", "-c", URI, "vol-download", "--pool", "default", volume.name(), sent],
            check=True,
        )
        assert sent.read_bytes() == image.read_bytes()
    finally:
        volume.delete(0)


def test_a_damaged_box_is_5(
    make: Callable[[], MachineBox], private: Runner, tmp_path: Path
) -> None:
    box = make()
    file = tmp_path / "cache" / box.version / box.file
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(BoxError) as caught:
        machine_boxes.register(box, tmp_path / "cache", private, timeout=120)
    assert caught.value.code == 5
    assert "checksum" in caught.value.details
