"""Real virtual machines: one libvirt, one box, and one guest that most of the tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

from tests.integration import host
from tests.integration.cli import Project
from tests.integration.conftest import need
from tests.integration.stand_in import STAND_IN, describe
from vagrant_kiwi import libvirt_api
from vagrant_kiwi.errors import PreflightError

URI = "qemu:///system"
IMAGE = ("--description=image", "--provider=libvirt")

#: Small, and with one processor: tests with docker guests run beside these.
SMALL = {"memory": 2048, "cpus": 1}


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
    done = Project(tmp_path_factory.mktemp("box")).run(
        "box-add", "--provider=libvirt", "--json", timeout=3600
    )
    assert done.status == 0, done.errors
    return done.json


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
