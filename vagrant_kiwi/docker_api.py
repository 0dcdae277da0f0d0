"""The connection to the Docker daemon, and what can be wrong with it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import docker
import docker.errors
import requests.exceptions

from vagrant_kiwi.errors import PreflightError

#: What docker-py raises: its own errors, and those of the library below it.
FAILURES = (docker.errors.DockerException, requests.exceptions.RequestException)


@contextlib.contextmanager
def client(environment: Mapping[str, str], *, timeout: int = 120) -> Iterator[docker.DockerClient]:
    """Connect to the Docker daemon for the body.

    Args:
        environment: may hold DOCKER_HOST and its companions.
        timeout: seconds for one answer of the API.

    Raises:
        PreflightError: no daemon answers, or we may not ask it.
    """
    try:
        connected = docker.from_env(environment=dict(environment), timeout=timeout)
    except docker.errors.DockerException as error:
        raise unreachable(error) from error
    try:
        try:
            connected.ping()
        except FAILURES as error:
            raise unreachable(error) from error
        yield connected
    finally:
        connected.close()


def unreachable(error: Exception) -> PreflightError:
    """Return the error for a daemon that could not be asked, with the remedy."""
    if "Permission denied" in str(error):
        return PreflightError(
            "You may not use the Docker daemon",
            details=str(error),
            resolution="Join the group docker: sudo usermod -aG docker $USER, then log in again.",
        )
    return PreflightError(
        "The Docker daemon does not answer",
        details=str(error),
        resolution="Start it: sudo systemctl start docker, or run ./bootstrap from the checkout.",
    )
