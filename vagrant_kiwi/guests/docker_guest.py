"""A guest that is reached by Docker's exec: commands through the API, data through rsync."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import docker
import docker.errors
import requests
import requests.exceptions
import urllib3.exceptions

from vagrant_kiwi import docker_api
from vagrant_kiwi.errors import GuestError
from vagrant_kiwi.guests import ConnectionLostError
from vagrant_kiwi.guests.rsync import Carrier
from vagrant_kiwi.process import CommandResult, CommandTimeoutError, OnOutput, Runner

# Docker's API, "Attach to a container", stream format: 1 is standard output, 2 standard error.
_HEADER = struct.Struct(">BxxxL")
_STDERR = 2
#: What standard input is read by, when there is one: the command sees its end, although the
#: connection stays open; not every transport can close one direction.
_FED = 'n=$1; shift; head -c "$n" | "$@"'
_TIMEOUTS = (TimeoutError, requests.exceptions.Timeout, urllib3.exceptions.TimeoutError)
#: Seconds in which Docker knows how a command ended that has closed its output.
_VERDICT = 10.0


@dataclass(frozen=True, kw_only=True)
class DockerGuest(Carrier):
    """A live container; see ``Guest`` for its verbs, of which rsync does two.

    Commands run as the image's own user, which is root in the boxes; nobody logs in.

    Args:
        daemon: the Docker daemon; ``peer`` is the container's name there.
    """

    daemon: docker.DockerClient

    @classmethod
    def of(cls, runner: Runner, daemon: docker.DockerClient, name: str) -> DockerGuest:
        """Return the guest that is a container.

        Args:
            runner: starts rsync.
            daemon: the Docker daemon.
            name: the container.
        """
        return cls(
            runner=runner,
            rsh=("docker", "exec", "--interactive", "--user=0"),
            program="rsync",
            peer=name,
            daemon=daemon,
        )

    def exec(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        root: bool = False,
        stdin: bytes | None = None,
        on_output: OnOutput | None = None,
    ) -> CommandResult:
        """Run a command to its end; see ``Guest.exec``."""
        started = time.monotonic()
        fed = list(argv) if stdin is None else ["sh", "-c", _FED, "sh", str(len(stdin)), *argv]
        fed = _as_text(fed)
        output, errors = bytearray(), bytearray()
        with self._errors(argv, timeout, output):
            made = self.daemon.api.exec_create(
                self.peer, fed, stdin=stdin is not None, user="0" if root else ""
            )
            with self._stream(made["Id"], timeout, stdin or b"") as frames:
                for kind, chunk in frames:
                    if kind == _STDERR:
                        errors += chunk
                        continue
                    output += chunk
                    if on_output is not None:
                        on_output(chunk)
            status = self._status(made["Id"])
        seconds = time.monotonic() - started
        return CommandResult(tuple(argv), status, bytes(output), bytes(errors), seconds)

    @contextlib.contextmanager
    def _stream(
        self, command: str, timeout: float, stdin: bytes
    ) -> Iterator[Iterator[tuple[int, bytes]]]:
        """Start a command, and yield the frames of its output as they come.

        Without the headers that ask for another protocol, so that the answer is one that the
        library below reads, buffers and all; docker-py's own reader passes its buffer by.
        """
        api = self.daemon.api
        response = api.post(
            f"{api.base_url}/v{api.api_version}/exec/{command}/start",
            json={"Detach": False, "Tty": False},
            stream=True,
            timeout=timeout,
        )
        with contextlib.closing(response):
            try:
                response.raise_for_status()
            except requests.exceptions.HTTPError as error:
                docker.errors.create_api_error_from_http_exception(error)
            wire = _wire(api, response)
            if stdin:
                wire.sendall(stdin)
            yield _frames(response, wire, time.monotonic() + timeout)

    def _status(self, command: str) -> int:
        """Return how a command ended whose output is closed.

        Raises:
            ConnectionLostError: it runs on: the connection broke.
        """
        deadline = time.monotonic() + _VERDICT
        while True:
            state = self.daemon.api.exec_inspect(command)
            if not state["Running"] and state["ExitCode"] is not None:
                return int(state["ExitCode"])
            if time.monotonic() > deadline:
                raise ConnectionLostError("Docker closed the connection to a command that runs on")
            time.sleep(0.02)

    @contextlib.contextmanager
    def _errors(self, argv: Sequence[str], timeout: float, output: bytearray) -> Iterator[None]:
        """Say in the words of ``Guest`` what the API and the connection below it raise."""
        try:
            yield
        except _TIMEOUTS as error:
            raise CommandTimeoutError(argv, timeout, bytes(output)) from error
        except docker.errors.APIError as error:
            # A stopped container does not come back: nobody needs to wait for it.
            if error.status_code in (404, 409):
                raise GuestError(
                    "The guest is gone",
                    details=str(error.explanation or error),
                    resolution="It was stopped or removed from outside, or had no memory left.",
                ) from error
            raise ConnectionLostError(str(error)) from error
        except (*docker_api.FAILURES, urllib3.exceptions.HTTPError, OSError) as error:
            raise ConnectionLostError(str(error)) from error


def _as_text(argv: list[str]) -> list[str]:
    """Return a command whose arguments are text, as the API's JSON needs it.

    Where one is not, a shell puts the bytes together from printf's octal numbers. The sign behind
    them keeps what the shell would drop: newlines at the end.
    """
    try:
        "".join(argv).encode()
    except UnicodeEncodeError:
        words = ["".join(f"\\0{byte:03o}" for byte in os.fsencode(word)) for word in argv]
        lines = [f"a=$(printf '%b.' '{word}')\nset -- \"$@\" \"${{a%.}}\"" for word in words]
        return ["sh", "-c", "\n".join(["set --", *lines, 'exec "$@"'])]
    return argv


def _wire(api: Any, response: requests.Response) -> socket.socket:
    """Return the socket that a response comes from; only docker-py's own insides know it."""
    raw = api._get_raw_response_socket(response)
    inner = getattr(raw, "_sock", raw)
    assert isinstance(inner, socket.socket)  # noqa: S101 - unix and TCP, with or without TLS
    return inner


def _frames(
    response: requests.Response, wire: socket.socket, deadline: float
) -> Iterator[tuple[int, bytes]]:
    """Yield stream and bytes of each frame.

    Raises:
        TimeoutError: the deadline passed.
        ConnectionLostError: a frame broke off.
    """
    while header := _read(response, wire, _HEADER.size, deadline):
        kind, size = _HEADER.unpack(header)
        yield kind, _read(response, wire, size, deadline)


def _read(response: requests.Response, wire: socket.socket, size: int, deadline: float) -> bytes:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    wire.settimeout(left)
    data = bytes(response.raw.read(size)) if size else b""
    if data and len(data) != size:
        raise ConnectionLostError(f"{len(data)} bytes of {size} came, then nothing")
    return data
