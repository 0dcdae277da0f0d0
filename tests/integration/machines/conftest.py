"""Real virtual machines: one libvirt, one box, and one guest that most of the tests share."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

from tests.integration import host
from tests.integration.cli import Project
from tests.integration.conftest import have_box, need
from tests.integration.stand_in import STAND_IN, describe
from vagrant_kiwi import libvirt_api
from vagrant_kiwi.errors import PreflightError

URI = "qemu:///system"
IMAGE = ("--description=image", "--provider=libvirt")

#: Small, and with one processor: tests with docker guests run beside these.
SMALL = {"memory": 2048, "cpus": 1}

_OVERLAY = """<volume><name>{name}</name><capacity>1048576</capacity>
<target><format type='qcow2'/></target>
<backingStore><path>{backing}</path><format type='qcow2'/></backingStore></volume>"""


def overlay_on(backing: libvirt.virStorageVol, name: str) -> libvirt.virStorageVol:
    """Make a volume on top of a box's, as a guest of it has one."""
    pool = backing.storagePoolLookupByVolume()
    return pool.createXML(_OVERLAY.format(name=name, backing=backing.path()), 0)


def box_disk(folder: Path, *, backing: bool = False) -> None:
    """Make box.img in a folder, each time with other bytes.

    Args:
        backing: make an empty one that refers to a file with the bytes.
    """
    # Without zeros, so that half of the file is missing where half was sent.
    (folder / "raw").write_bytes(uuid.uuid4().bytes * 2**16)
    how = "create -q -f qcow2 -b raw -F raw" if backing else "convert -q -O qcow2 raw"
    subprocess.run(["qemu-img", *how.split(), "box.img"], cwd=folder, check=True)


@pytest.fixture(scope="session", autouse=True)
def _libvirt() -> None:
    """Skip on a person's machine without libvirt; fail in CI."""
    try:
        with libvirt_api.client(URI) as connection:
            connection.storagePoolLookupByName("default")
    except PreflightError as error:
        need(str(error))


@pytest.fixture
def connection() -> Iterator[libvirt.virConnect]:
    """Yield a connection to the real libvirt."""
    with libvirt_api.client(URI) as opened:
        yield opened


@pytest.fixture(scope="session")
def machine_box(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Have the box; it is made by KIWI in a docker guest if it is not in the cache."""
    return have_box(tmp_path_factory.mktemp("box"), "--provider=libvirt")


@pytest.fixture
def machines_unchanged(machine_box: dict[str, Any]) -> Iterator[None]:
    """Compare what libvirt has before and after the test."""
    before = host.take_machines()
    yield
    host.assert_machines_as_before(before)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Return a project with a description for the stand-in, and a path that needs quoting."""
    folder = tmp_path / 'it is a "site" $HOME'
    folder.mkdir()
    made = Project(folder)
    made.settings(provision=[str(STAND_IN)], mirrors="off", libvirt=SMALL)
    describe(folder / "image")
    return made
