"""The contract of all guests, for virtual machines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract import guests
from tests.contract.suite import *  # noqa: F403 - the tests
from tests.integration.machines.conftest import SMALL
from vagrant_kiwi.guests import Guest
from vagrant_kiwi.process import Runner


@pytest.fixture(scope="module")
def guest(
    tmp_path_factory: pytest.TempPathFactory, runner: Runner, machine_box: dict[str, Any]
) -> Iterator[Guest]:
    """Have the machine that most of the suite uses."""
    folder = tmp_path_factory.mktemp("first")
    with guests.left_up(folder, "libvirt", runner, libvirt=SMALL) as made:
        yield made


@pytest.fixture(scope="module")
def second(
    tmp_path_factory: pytest.TempPathFactory, runner: Runner, machine_box: dict[str, Any]
) -> Iterator[Guest]:
    """Have the other one."""
    folder = tmp_path_factory.mktemp("second")
    with guests.left_up(folder, "libvirt", runner, libvirt=SMALL) as made:
        yield made


@pytest.fixture
def apart() -> bool:
    """Tell that each has a disk of its own."""
    return True


@pytest.fixture
def big() -> int:
    """Return how many bytes go through."""
    return 64 * 2**20
