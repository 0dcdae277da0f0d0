"""The connection to the Docker daemon, and what can be wrong with it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import docker
import docker.constants
import docker.context
import docker.context.config as _config
import docker.errors
import docker.utils
import requests.exceptions

from vagrant_kiwi.errors import PreflightError

#: The build systems whose guests are its containers.
PROVIDERS = ("docker", "docker-direct")
#: All by which Docker's client finds its daemon.
_VARIABLES = ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH")
#: What docker-py raises: its own errors, and those of the library below it.
FAILURES = (docker.errors.DockerException, requests.exceptions.RequestException)


@contextlib.contextmanager
def client(environment: Mapping[str, str], *, timeout: int = 120) -> Iterator[docker.DockerClient]:
    """Connect to the Docker daemon for the body: the one that Docker's own client would take.

    Args:
        environment: may hold DOCKER_HOST and its companions, or DOCKER_CONTEXT.
        timeout: seconds for one answer of the API.

    Raises:
        PreflightError: no daemon answers, or we may not ask it.
    """
    try:
        where = _where(environment)
        connected = _client(where, timeout)
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


class _VerifyingClient(docker.APIClient):
    """A client that checks a TLS daemon's certificate with the authority that the daemon has.

    requests 2.32 lets REQUESTS_CA_BUNDLE win over a session's own authority
    (psf/requests#3829), so that a site's authority for the web would hide Docker's.
    """

    def merge_environment_settings(self, url, proxies, stream, verify, cert):  # type: ignore[no-untyped-def]
        """Do what requests does, after the session's own word."""
        own = self.verify if verify is None else verify
        return super().merge_environment_settings(url, proxies, stream, own, cert)


def _client(where: dict[str, Any], timeout: int) -> docker.DockerClient:
    if not where.get("tls"):
        return docker.DockerClient(timeout=timeout, **where)
    # With a version given, nothing is asked yet.
    version = docker.constants.DEFAULT_DOCKER_API_VERSION
    made = docker.DockerClient(version=version, timeout=timeout, **where)
    made.api.close()
    made.api = _VerifyingClient(timeout=timeout, **where)
    return made


def _where(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return docker-py's arguments for the daemon that Docker's client takes.

    DOCKER_HOST goes before DOCKER_CONTEXT, and that before the context that `docker context use`
    chose: docker/cli, cli/command/cli.go, resolveContextName. docker-py heeds the first alone.

    Raises:
        PreflightError: there is no such context.
    """
    if environment.get("DOCKER_HOST"):
        return _with_ssh({**docker.utils.kwargs_from_env(environment=dict(environment))})
    name = environment.get("DOCKER_CONTEXT") or None
    try:
        context = docker.context.ContextAPI.get_context(name)
    except Exception as error:  # docker-py raises bare ones for a damaged file
        raise _no_context(name, str(error)) from error
    if context is None:
        raise _no_context(name, "it is not among those of `docker context ls`")
    if context.name == "default":
        return {**docker.utils.kwargs_from_env(environment=dict(environment))}
    return _with_ssh({"base_url": context.Host, "tls": context.TLSConfig or False})


def pinned(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that name the daemon, so that it is found again by anybody, later.

    Args:
        environment: may hold DOCKER_HOST and its companions, or DOCKER_CONTEXT.
    """
    if environment.get("DOCKER_HOST"):
        return {name: environment[name] for name in _VARIABLES if environment.get(name)}
    name = environment.get("DOCKER_CONTEXT") or _config.get_current_context_name()
    return {"DOCKER_CONTEXT": str(name)}


def at(environment: Mapping[str, str], daemon: Mapping[str, str]) -> dict[str, str]:
    """Return an environment with the daemon that ``pinned`` named, if it named one."""
    if not daemon:
        return dict(environment)
    return {k: v for k, v in environment.items() if k not in _VARIABLES} | dict(daemon)


def check_place(environment: Mapping[str, str], *, devices: bool) -> None:
    """See that the daemon is where a guest of it can be used.

    Args:
        environment: names the daemon, as for ``client``.
        devices: the guest needs loop devices, chosen by what this host's kernel says.

    Raises:
        PreflightError: it is not.
    """
    try:
        url = str(_where(environment).get("base_url") or "unix://")
    except docker.errors.DockerException as error:
        raise unreachable(error) from error
    if url.startswith("ssh://"):
        raise PreflightError(
            "Guests of a Docker daemon behind ssh cannot be used",
            details=f"the daemon is {url}; its connection has no time-outs",
            resolution="Build on that machine: --provider=host --host=USER@ADDRESS. Or bring "
            "its socket here: ssh -L /tmp/docker.sock:/var/run/docker.sock, then "
            "DOCKER_HOST=unix:///tmp/docker.sock.",
        )
    if devices and not url.startswith(("unix://", "http+unix://")):
        raise PreflightError(
            "Disk images need a Docker daemon of this host",
            details=f"the daemon is {url}; which of its host's loop devices are free is not known "
            "here, and a wrong one could be somebody's disk",
            resolution="Use --provider=libvirt or --provider=host, or build on that host.",
        )


def _with_ssh(where: dict[str, Any]) -> dict[str, Any]:
    # OpenSSH, as Docker's own client does; docker-py's other way needs a library of its own.
    ssh = str(where.get("base_url", "")).startswith("ssh://")
    return {**where, "use_ssh_client": True} if ssh else where


def _no_context(name: str | None, why: str) -> PreflightError:
    return PreflightError(
        f"Docker's context {name or 'in use'} cannot be used",
        details=why,
        resolution="Choose another one: docker context use default, or unset DOCKER_CONTEXT.",
    )


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
