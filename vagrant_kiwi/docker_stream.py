"""Long calls of the Docker API, live: pull, push, import, load and build.

docker-py offers these too, but most of its own wait without end, and none of them says when the
connection is closed, which is what makes the daemon give up.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

import docker
import docker.auth
import docker.errors
import docker.utils
import requests.exceptions

from vagrant_kiwi.deadline import Deadline

#: Seconds until a daemon on this host must have taken the connection.
_CONNECT = 10.0
#: Bytes that are sent at once.
_CHUNK = 256 * 1024
#: A login that is none, {} in base64.
_NO_LOGIN = "e30="
#: Colours and cursor movements have no place in a log.
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class DockerStreamError(Exception):
    """The daemon refused or broke off; the last lines of what it said are the text."""


@dataclass(frozen=True)
class Call:
    """A POST to the Docker API that answers with a stream of JSON objects.

    Args:
        path: below the API's version, as in "images/create".
        params: its query; a list of values repeats the key.
        body: is sent as it is read.
        headers: of the request.
        stall: seconds without a sign of life after which it is broken off.
    """

    path: str
    params: Mapping[str, str | list[str]]
    body: IO[bytes] | Iterable[bytes] | None = None
    headers: Mapping[str, str] | None = None
    stall: float = 300.0


def pull(
    client: docker.DockerClient,
    image: str,
    *,
    arch: str,
    stall: float,
    log: Callable[[str], None],
    deadline: Deadline,
) -> None:
    """Pull an image; leaving early makes the daemon stop.

    Args:
        client: the Docker daemon.
        image: with its tag or digest, as in "debian:bookworm-slim".
        arch: the architecture to take, in Docker's words.
        stall: seconds without progress after which it has failed.
        log: takes what happens, a line a layer and step.
        deadline: when it must be done.

    Raises:
        DockerStreamError: it cannot be had.
        PhaseTimeoutError: the deadline has passed.
    """
    repository, tag = docker.utils.parse_repository_tag(image)
    login = _login(client, repository)
    call = Call(
        "images/create",
        {"fromImage": repository, "tag": tag or "latest", "platform": f"linux/{arch}"},
        headers={"X-Registry-Auth": login} if login else None,
        stall=stall,
    )
    _drain(client, call, log, deadline)


def push(
    client: docker.DockerClient,
    image: str,
    *,
    stall: float,
    log: Callable[[str], None],
    deadline: Deadline,
) -> str:
    """Push an image to the registry that is in its name; leaving early makes the daemon stop.

    Args:
        client: the Docker daemon, which has the image under that name.
        image: with its registry and tag, as in "registry.example.com/team/box:1".
        stall: seconds without progress after which it has failed.
        log: takes what happens, a line a layer and step.
        deadline: when it must be done.

    Returns:
        The digest that the registry knows it by, as in "sha256:...".

    Raises:
        DockerStreamError: the registry does not take it.
        PhaseTimeoutError: the deadline has passed.
    """
    repository, tag = docker.utils.parse_repository_tag(image)
    call = Call(
        f"images/{repository}/push",
        # Without a tag it would push them all.
        {"tag": tag or "latest"},
        # The daemon wants this header also where there is no login.
        headers={"X-Registry-Auth": _login(client, repository) or _NO_LOGIN},
        stall=stall,
    )
    said = _drain(client, call, log, deadline)
    return _digest(said.aux.get("Digest"), "the push ended without the image's digest")


def load(
    client: docker.DockerClient,
    archive: IO[bytes] | Iterable[bytes],
    *,
    log: Callable[[str], None],
    deadline: Deadline,
) -> str:
    """Load the one image of an archive, which gives it no name, and return its id.

    The image may have been there before, with names of its own.

    Args:
        client: the Docker daemon.
        archive: as ``box_archive_streams.load_stream`` makes it.
        log: takes the lines of what happens.
        deadline: when it must be done.

    Raises:
        DockerStreamError: the daemon does not take it.
        PhaseTimeoutError: the deadline has passed.
    """
    call = Call(
        "images/load",
        # Else it says nothing until it is done.
        {"quiet": "0"},
        body=archive,
        headers={"Content-Type": "application/x-tar"},
    )
    found = ""

    def read(line: str) -> None:
        nonlocal found
        # Podman says it without "ID"; a name in its place is none of ours.
        match = re.fullmatch(r"Loaded image(?: ID)?: (?:sha256:)?([0-9a-f]{64})", line)
        found = f"sha256:{match[1]}" if match is not None else found
        log(line)

    _drain(client, call, read, deadline)
    return _digest(found, "the load ended without naming an image")


def import_tar(
    client: docker.DockerClient,
    tar: IO[bytes] | Iterable[bytes],
    *,
    labels: Mapping[str, str],
    changes: Sequence[str] = (),
    deadline: Deadline,
) -> str:
    """Make an image without a name from a root file system and return its id.

    Args:
        client: the Docker daemon.
        tar: the root file system.
        labels: of the image.
        changes: further instructions of a Dockerfile, as in 'CMD ["/bin/sh"]'.
        deadline: when it must be done.

    Raises:
        DockerStreamError: the daemon does not take it.
        PhaseTimeoutError: the deadline has passed.
    """
    call = Call(
        "images/create",
        {
            "fromSrc": "-",
            "changes": [
                *(f"LABEL {name}={json.dumps(value)}" for name, value in labels.items()),
                *changes,
            ],
        },
        body=tar,
        headers={"Content-Type": "application/tar"},
    )
    said = _drain(client, call, lambda _: None, deadline)
    return _digest(said.status, "the import ended without naming an image")


def build(
    client: docker.DockerClient,
    context: IO[bytes],
    *,
    arguments: Mapping[str, str],
    labels: Mapping[str, str],
    network: str,
    log: Callable[[str], None],
    deadline: Deadline,
) -> str:
    """Build the Dockerfile of a context into an image without a name and return its id.

    Args:
        client: the Docker daemon.
        context: a tar archive.
        arguments: the ARGs.
        labels: of the image; what is made on the way has those of the Dockerfile only.
        network: "default" or "none".
        log: takes what the build says, line by line.
        deadline: when it must be done.

    Raises:
        DockerStreamError: a step failed.
        PhaseTimeoutError: the deadline has passed.
    """
    call = Call(
        "build",
        {
            "buildargs": json.dumps(dict(arguments)),
            "labels": json.dumps(dict(labels)),
            "networkmode": network,
            # What an interrupted step left is removed, too.
            "rm": "1",
            "forcerm": "1",
            "nocache": "1",
        },
        body=context,
        headers={"Content-Type": "application/x-tar"},
    )
    said = _drain(client, call, log, deadline)
    return _digest(said.aux.get("ID"), "the build ended without naming an image")


def _login(client: docker.DockerClient, repository: str) -> str | None:
    """Return the person's own login at the registry of a repository, if there is one."""
    try:
        registry, _ = docker.auth.resolve_repository_name(repository)
        header = docker.auth.get_config_header(client.api, registry)
    except docker.errors.DockerException as error:
        raise DockerStreamError(f"the login for {repository} cannot be had: {error}") from error
    return header.decode("ascii") if header else None


@dataclass(frozen=True)
class _Said:
    """The last word of a stream: its status line, and all that its ``aux`` held."""

    status: str
    aux: Mapping[str, object]


def _digest(text: object, otherwise: str) -> str:
    if not isinstance(text, str) or re.fullmatch(r"sha256:[0-9a-f]{64}", text) is None:
        raise DockerStreamError(otherwise)
    return text


def _drain(
    client: docker.DockerClient, call: Call, log: Callable[[str], None], deadline: Deadline
) -> _Said:
    """Follow a call to its end."""
    last: deque[str] = deque(maxlen=15)
    status = ""
    aux: dict[str, object] = {}
    with contextlib.closing(_events(client, call, deadline)) as events:
        for event in events:
            if "error" in event:
                raise DockerStreamError("\n".join((*last, str(event["error"]).strip())))
            if isinstance(detail := event.get("aux"), dict):
                aux |= detail
            status = str(event.get("status", status))
            for line in _lines(event):
                last.append(line)
                log(line)
    return _Said(status, aux)


def _lines(event: Mapping[str, object]) -> Iterator[str]:
    # Events with a progress bar come many times a second.
    if event.get("progressDetail"):
        return
    name = f"{event['id']}: " if "id" in event else ""
    text = str(event.get("stream") or event.get("status") or "")
    for line in _ESCAPES.sub("", text).replace("\r", "\n").splitlines():
        if line.strip():
            yield name + line.rstrip()


def _events(
    client: docker.DockerClient, call: Call, deadline: Deadline
) -> Generator[dict[str, object], None, None]:
    api = client.api
    stall = min(call.stall, deadline.left())
    try:
        response = api.post(
            f"{api.base_url}/v{api.api_version}/{call.path}",
            params=call.params,
            data=_paced(call.body, deadline) if call.body is not None else None,
            headers=call.headers,
            stream=True,
            # The first one is also for each piece that is sent: the daemon may be busy writing.
            timeout=(_CONNECT if call.body is None else stall, stall),
        )
        # Closing it is what tells the daemon to stop.
        with contextlib.closing(response):
            if response.status_code >= 400:
                raise DockerStreamError(_message(response.content))
            for event in _objects(response.iter_content(chunk_size=None)):
                deadline.left()
                yield event
    except requests.exceptions.RequestException as error:
        deadline.left()
        raise DockerStreamError(f"no answer for {stall:.0f} s, or cut off: {error}") from error


def _paced(body: IO[bytes] | Iterable[bytes], deadline: Deadline) -> Iterator[bytes]:
    """Yield what is to be sent, as long as there is time."""
    chunks = body if not hasattr(body, "read") else iter(lambda: body.read(_CHUNK), b"")
    for chunk in chunks:
        deadline.left()
        yield chunk


def _objects(chunks: Iterable[bytes]) -> Iterator[dict[str, object]]:
    """Split a stream into the JSON objects that it holds, one a line."""
    buffer = b""
    for chunk in chunks:
        *lines, buffer = (buffer + chunk).split(b"\n")
        for line in lines:
            if line.strip():
                yield _object(line)
    if buffer.strip():
        yield _object(buffer)


def _object(line: bytes) -> dict[str, object]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise DockerStreamError("the daemon's answer is not JSON") from error
    return value if isinstance(value, dict) else {}


def _message(content: bytes) -> str:
    try:
        return str(json.loads(content)["message"])
    except (ValueError, KeyError, TypeError):
        return content.decode("utf-8", "replace").strip()
