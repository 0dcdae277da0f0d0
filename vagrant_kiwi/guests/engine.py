"""What answers at Docker's API, Docker or Podman, and what it lacks for a build."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vagrant_kiwi.errors import PreflightError
from vagrant_kiwi.isolation import Isolation

#: Podman hands --device-cgroup-rule on from here; its pull request 17114.
_PODMAN_RULES = (4, 4)

#: Words of Podman that do not say what to do, with what to do.
_REMEDIES = {
    # Seen with Podman 4.3.1, which only recommends that package.
    "container-init binary not found": "Install catatonit on Podman's host: sudo apt-get install "
    "catatonit.",
    # Podman's pull request 19768.
    "unknown server OS": "Podman before 4.7 does not tell Docker's client what it needs for "
    "--device: take a newer one, or take --device out of docker.create_args.",
}
_REMEDY = "Mend what it names; docker.create_args has a part in it, if set."


@dataclass(frozen=True)
class Engine:
    """An engine.

    ``name`` is for a person, ``podman`` its version if it is Podman, ``rootless`` whether root in
    its containers is an ordinary user of the host.
    """

    name: str
    podman: tuple[int, ...] | None
    rootless: bool


def of(version: Mapping[str, Any], info: Mapping[str, Any]) -> Engine:
    """Return what a daemon's answers say that it is.

    Args:
        version: its answer to ``daemon.version()``.
        info: its answer to ``daemon.info()``.
    """
    options = {
        part for option in info.get("SecurityOptions") or () for part in str(option).split(",")
    }
    podman = _podman(version)
    return Engine(
        name=f"{'Docker' if podman is None else 'Podman'} {version.get('Version', '')}".strip(),
        podman=podman,
        # The first is Podman's word, the others are Docker's; userns is its userns-remap.
        rootless=bool(info.get("Rootless"))
        or not options.isdisjoint({"name=rootless", "name=userns"}),
    )


def _podman(version: Mapping[str, Any]) -> tuple[int, ...] | None:
    for part in version.get("Components") or ():
        if part.get("Name") == "Podman Engine":
            numbers = str(part.get("Version", "")).partition("-")[0].split(".")
            return tuple(int(number) for number in numbers if number.isdecimal())
    return None


def check(engine: Engine, isolation: Isolation) -> None:
    """See that an engine gives a guest what the isolation asks for.

    Raises:
        PreflightError: it does not.
    """
    if engine.rootless:
        raise PreflightError(
            f"{engine.name} runs without root",
            details="root in its containers is an ordinary user of this host, who may neither "
            "mount nor make device nodes there; KIWI does both",
            resolution="Use an engine that runs as root: for Podman "
            "DOCKER_HOST=unix:///run/podman/podman.sock, as root.",
        )
    if isolation.kind == "disk" and engine.podman is not None and engine.podman < _PODMAN_RULES:
        raise PreflightError(
            f"{engine.name} cannot give a guest loop devices",
            details="through Docker's API it passes --device-cgroup-rule over; "
            "version 4.4 is the first that does not",
            resolution="Use Podman 4.4 or later, or Docker; or trust the description and build "
            "with --isolation=privileged.",
        )


def remedy(output: str) -> str:
    """Return what to do about a container that could not be started.

    Args:
        output: what Docker's client said.
    """
    return next((text for words, text in _REMEDIES.items() if words in output), _REMEDY)
