"""The contract, for all guests but virtual machines, which have it among their own tests."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import docker
import pytest

from tests.contract import guests
from tests.contract.local import LocalGuest
from tests.contract.suite import *  # noqa: F403 - the tests
from tests.integration import host
from tests.integration.machine_by_ssh import machine
from vagrant_kiwi import keys
from vagrant_kiwi.guests import Guest
from vagrant_kiwi.process import Runner

MIB = 2**20


@dataclass(frozen=True)
class Pair:
    """Two guests of one kind."""

    kind: str
    first: Guest
    second: Guest


@pytest.fixture(scope="module", params=["fake", "docker-direct", "docker", "host"])
def pair(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    docker_client: docker.DockerClient,
    runner: Runner,
    box: str,
) -> Iterator[Pair]:
    """Have two guests of each kind, and nothing of them afterwards."""
    folder = tmp_path_factory.mktemp("pair")
    before = host.take(docker_client)
    with contextlib.ExitStack() as stack:
        both: list[Guest] = []
        for name in ("first", "second"):
            if request.param == "fake":
                both.append(LocalGuest(runner))
            elif request.param == "host":
                there = stack.enter_context(
                    machine(docker_client, box, folder / name, keys.ensure_insecure_keys(runner))
                )
                both.append(
                    stack.enter_context(
                        guests.existing(folder / f"{name}-run", runner, **there.settings)
                    )
                )
            else:
                both.append(
                    stack.enter_context(guests.left_up(folder / name, request.param, runner))
                )
        yield Pair(request.param, *both)
    host.assert_as_before(before, docker_client)


@pytest.fixture
def guest(pair: Pair) -> Guest:
    """Return the one that most of the suite uses."""
    return pair.first


@pytest.fixture
def second(pair: Pair) -> Guest:
    """Return the other one."""
    return pair.second


@pytest.fixture
def apart(pair: Pair) -> bool:
    """Tell whether each has a disk of its own; the fake's is this host's."""
    return pair.kind != "fake"


@pytest.fixture
def big(pair: Pair) -> int:
    """Return how many bytes go through."""
    return 1024 * MIB if pair.kind == "docker-direct" else 64 * MIB
