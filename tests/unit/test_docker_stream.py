"""Long calls of the Docker API."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Callable, Iterator
from typing import cast

import docker
import docker.auth
import pytest
import requests
import requests.exceptions
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.box_fakes import BASE, BUILT, IMAGE, FakeDocker, FakeResponse, soon, stream
from vagrant_kiwi import docker_stream
from vagrant_kiwi.deadline import Deadline
from vagrant_kiwi.errors import PhaseTimeoutError


def run_build(
    fake: FakeDocker, log: Callable[[str], None], *, deadline: Deadline | None = None
) -> str:
    return docker_stream.build(
        fake.as_client(),
        io.BytesIO(b"context"),
        arguments={"BUILD": "b", "RECIPE": "r"},
        labels={"site": "l"},
        network="none",
        log=log,
        deadline=deadline or soon(),
    )


def test_a_build_is_followed_live_and_names_its_image() -> None:
    fake = FakeDocker(
        build=stream(
            {"stream": "Step 1/2 : FROM x\n"},
            {"stream": "\n"},
            {"stream": "\x1b[91mred\x1b[0m\r\nnext"},
            {"aux": {"ID": BASE}},
            {"aux": None},
            BUILT,
            {"stream": "Successfully built\n"},
        )
    )
    log: list[str] = []
    assert run_build(fake, log.append) == IMAGE
    assert log == ["Step 1/2 : FROM x", "red", "next", "Successfully built"]
    ((path, params, body),) = fake.posts
    assert (path, body) == ("build", b"context")
    assert params["networkmode"] == "none"
    assert params["rm"] == params["forcerm"] == "1"
    assert cast(FakeResponse, fake.streams["build"]).closed


@given(st.integers(min_value=1, max_value=200))
def test_objects_may_come_in_any_pieces(size: int) -> None:
    data = b"".join(
        json.dumps(event).encode() + b"\r\n"
        for event in ({"stream": "größer\n"}, {"stream": "b" * 80}, BUILT)
    ).rstrip()
    chunks = [data[start : start + size] for start in range(0, len(data), size)]
    log: list[str] = []
    assert run_build(FakeDocker(build=FakeResponse(chunks)), log.append) == IMAGE
    assert log == ["größer", "b" * 80]


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (stream({"stream": "said before\n"}, {"error": "it broke"}), "said before\nit broke"),
        (stream({"stream": "no id\n"}), "ended without naming an image"),
        (stream({"aux": {"ID": "latest"}}), "ended without naming an image"),
        (FakeResponse([b"<html>\n"]), "not JSON"),
        (FakeResponse([b'{"message": "dockerfile parse error"}'], 400), "dockerfile parse error"),
        (FakeResponse([b"proxy says no"], 502), "proxy says no"),
        (FakeResponse([b"[1]"], 500), "1"),
        (
            FakeResponse([requests.exceptions.ConnectionError("Read timed out.")]),
            "Read timed out",
        ),
    ],
)
def test_a_stream_that_ends_badly_is_an_error(response: FakeResponse, message: str) -> None:
    with pytest.raises(docker_stream.DockerStreamError, match=message):
        run_build(FakeDocker(build=response), lambda _: None)
    assert response.closed


def run_load(fake: FakeDocker, log: Callable[[str], None] = lambda _: None) -> str:
    return docker_stream.load(fake.as_client(), [b"arch", b"ive"], log=log, deadline=soon())


@pytest.mark.parametrize("said", [f"Loaded image ID: {IMAGE}\n", f"Loaded image: {IMAGE[7:]}"])
def test_a_load_names_its_image(said: str) -> None:
    progress = {"status": "Loading layer", "progressDetail": {"current": 1}, "id": "a"}
    fake = FakeDocker(load=stream(progress, {"stream": said}))
    log: list[str] = []
    assert run_load(fake, log.append) == IMAGE
    assert log == [said.strip()]
    # Quiet, it would look as if it stood still.
    assert fake.posts == [("images/load", {"quiet": "0"}, b"archive")]


@pytest.mark.parametrize(
    ("event", "match"),
    [
        ({"stream": "Loaded image: debian:bookworm\n"}, "without naming an image"),
        ({"stream": "nothing\n"}, "without naming an image"),
        ({"error": "no space left on device"}, "no space left"),
    ],
)
def test_a_load_that_ends_badly(event: dict[str, object], match: str) -> None:
    with pytest.raises(docker_stream.DockerStreamError, match=match):
        run_load(FakeDocker(load=stream(event)))


def test_an_archive_is_sent_only_while_there_is_time() -> None:
    late = Deadline(what="Loading", limit=1, at=time.monotonic() + 0.05)

    def slowly() -> Iterator[bytes]:
        yield b"one"
        time.sleep(0.1)
        yield b"two"

    with pytest.raises(PhaseTimeoutError):
        docker_stream.load(
            FakeDocker(load=stream()).as_client(), slowly(), log=lambda _: None, deadline=late
        )


def test_an_import_takes_further_instructions() -> None:
    fake = FakeDocker(load=stream({"status": IMAGE}))
    made = docker_stream.import_tar(
        fake.as_client(),
        io.BytesIO(b"t" * 1_000_000),
        labels={"a": 'b "c"'},
        changes=["EXPOSE 22"],
        deadline=soon(),
    )
    assert made == IMAGE
    ((path, params, body),) = fake.posts
    assert path == "images/create"
    assert params["changes"] == ['LABEL a="b \\"c\\""', "EXPOSE 22"]
    assert body == b"t" * 1_000_000


DIGEST = "sha256:" + "d" * 64


def run_push(fake: FakeDocker, image: str) -> str:
    return docker_stream.push(fake.as_client(), image, stall=9, log=lambda _: None, deadline=soon())


@pytest.mark.parametrize(
    ("image", "path", "tag"),
    [
        ("registry.example.com:5000/team/box:1", "registry.example.com:5000/team/box", "1"),
        ("registry.example.com/box", "registry.example.com/box", "latest"),
    ],
)
def test_a_push_returns_the_digest(image: str, path: str, tag: str) -> None:
    events = ({"status": "Preparing", "id": "a"}, {"aux": {"Tag": tag, "Digest": DIGEST}})
    fake = FakeDocker(push=stream(*events, {"aux": {"Size": 1}}))
    assert run_push(fake, image) == DIGEST
    # One tag, never all of them.
    assert fake.posts == [(f"images/{path}/push", {"tag": tag}, b"")]
    assert json.loads(base64.urlsafe_b64decode(fake.headers[0]["X-Registry-Auth"])) == {}


def test_a_push_brings_the_login() -> None:
    fake = FakeDocker(push=stream({"aux": {"Digest": DIGEST}}))
    login = {"username": "me", "password": "secret"}
    fake._auth_configs = docker.auth.AuthConfig({"auths": {"registry.example.com": login}})
    assert run_push(fake, "registry.example.com/box:1") == DIGEST
    assert json.loads(base64.urlsafe_b64decode(fake.headers[0]["X-Registry-Auth"])) == login


@pytest.mark.parametrize(
    ("events", "match"),
    [
        (({"errorDetail": {}, "error": "no basic auth credentials"},), "no basic auth credentials"),
        (({"status": "done"},), "without the image's digest"),
        (({"aux": {"Digest": "latest"}},), "without the image's digest"),
    ],
)
def test_a_push_that_ends_badly(events: tuple[dict[str, object], ...], match: str) -> None:
    with pytest.raises(docker_stream.DockerStreamError, match=match):
        run_push(FakeDocker(push=stream(*events)), "registry.example.com/box:1")


def test_a_login_that_cannot_be_had() -> None:
    fake = FakeDocker()
    fake._auth_configs = docker.auth.AuthConfig(
        {"credHelpers": {"registry.example.com": "not-installed"}}
    )
    # It says it on its own account, too.
    with (
        pytest.warns(UserWarning, match="docker-credential-not-installed"),
        pytest.raises(docker_stream.DockerStreamError, match=r"cannot be had.*not-installed"),
    ):
        run_push(fake, "registry.example.com/box:1")


def test_an_exception_in_the_middle_closes_the_connection() -> None:
    response = stream({"stream": "one\n"}, {"stream": "two\n"})

    def stop(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_build(FakeDocker(build=response), stop)
    assert response.closed


def test_a_stream_past_its_deadline_is_exit_124() -> None:
    response = FakeResponse([requests.exceptions.ConnectionError("Read timed out.")])
    fake = FakeDocker(build=response)
    late = Deadline(what="Making the box", limit=1, at=time.monotonic() + 0.05)

    def wait(chunk_size: None) -> Iterator[bytes]:
        time.sleep(0.1)
        raise requests.exceptions.ConnectionError("Read timed out.")
        yield b""

    response.iter_content = wait  # type: ignore[method-assign]
    with pytest.raises(PhaseTimeoutError):
        run_build(fake, lambda _: None, deadline=late)
