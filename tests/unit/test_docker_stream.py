"""Long calls of the Docker API."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator
from typing import cast

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
