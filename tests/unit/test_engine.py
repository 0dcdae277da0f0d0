"""What an engine behind Docker's API can do for a build."""

from __future__ import annotations

from typing import Any

import pytest

from vagrant_kiwi.errors import PreflightError
from vagrant_kiwi.guests import engine
from vagrant_kiwi.guests.engine import Engine
from vagrant_kiwi.isolation import HostFacts, Isolation, isolate

NONE = HostFacts(frozenset(), frozenset(), selinux=False)


def read(version: dict[str, Any], **info: Any) -> Engine:
    """Return what an engine is that says what Docker 20.10 and Podman 4.3.1 did."""
    return engine.of(version, info)


def podman(version: str) -> dict[str, Any]:
    return {"Version": version, "Components": [{"Name": "Podman Engine", "Version": version}]}


def isolation(image_type: str, *, privileged: bool = False) -> Isolation:
    requested: Any = "privileged" if privileged else "auto"
    return isolate(image_type, requested=requested, facts=NONE, run_id="r", extra=(), sshd=False)


def test_what_engines_say_of_themselves() -> None:
    docker_version = {"Version": "20.10.24", "Components": [{"Name": "Engine"}]}
    options = ["name=seccomp,profile=default"]
    assert read(docker_version, SecurityOptions=options) == Engine("Docker 20.10.24", None, False)
    assert read({"Version": "18.09"}, SecurityOptions=None) == Engine("Docker 18.09", None, False)
    assert read(docker_version, SecurityOptions=[*options, "name=rootless"]).rootless
    assert read(docker_version, SecurityOptions=[*options, "name=userns"]).rootless
    assert read(podman("4.3.1"), Rootless=False) == Engine("Podman 4.3.1", (4, 3, 1), False)
    assert read(podman("5.0.0-rc1"), Rootless=True) == Engine("Podman 5.0.0-rc1", (5, 0, 0), True)


@pytest.mark.parametrize("image_type", ["tbz", "oem"])
def test_an_engine_without_root_is_refused(image_type: str) -> None:
    with pytest.raises(PreflightError, match=r"Podman 5\.1 runs without root") as caught:
        engine.check(Engine("Podman 5.1", (5, 1), rootless=True), isolation(image_type))
    assert "/run/podman/podman.sock" in caught.value.resolution


def test_an_old_podman_makes_no_disks() -> None:
    old = read(podman("4.3.1"))
    engine.check(old, isolation("tbz"))
    engine.check(old, isolation("oem", privileged=True))
    with pytest.raises(PreflightError, match=r"Podman 4\.3\.1 .* loop devices") as caught:
        engine.check(old, isolation("oem"))
    assert "--isolation=privileged" in caught.value.resolution
    for version in ("4.4", "4.10.0", "5.0"):
        engine.check(read(podman(version)), isolation("oem"))
    engine.check(Engine("Docker 20.10", None, rootless=False), isolation("oem"))


def test_podmans_words_get_their_remedy() -> None:
    assert "catatonit" in engine.remedy("create: container-init binary not found on the host: x")
    assert "4.7" in engine.remedy("docker: unknown server OS: \n")
    assert "docker.create_args" in engine.remedy("no such device")
