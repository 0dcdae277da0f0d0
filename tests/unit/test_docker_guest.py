"""The parts of docker-direct that need no Docker."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import docker
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit import plans
from vagrant_kiwi import box_images, docker_api
from vagrant_kiwi.errors import PreflightError
from vagrant_kiwi.guests import direct, docker_guest


@given(st.lists(st.text(), min_size=1))
def test_text_goes_as_it_is(argv: list[str]) -> None:
    assert docker_guest._as_text(argv) == argv


def test_other_bytes_are_put_together_by_a_shell() -> None:
    argv = docker_guest._as_text(["printf", "\udcff'"])
    assert argv[:2] == ["sh", "-c"]
    json.dumps(argv).encode("ascii")
    assert "\\0377\\0047" in argv[2]


def test_it_is_started_as_vagrant_would_but_for_sshd(tmp_path: Path) -> None:
    with_vagrant = plans.make(tmp_path, provider="docker").isolation.create_args
    plan = plans.make(tmp_path, provider="docker-direct")
    command = direct.command(plan, "box:1")
    assert set(with_vagrant) - set(command) == {"--publish=127.0.0.1::22"}
    assert command[:3] == ("docker", "run", "--detach")
    assert command[-3:] == ("box:1", "sleep", "infinity")
    assert "--name=vagrant-kiwi-r1" in command
    assert "--pull=never" in command


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("debian-bookworm", False),
        ("registry.example.com/kiwi", True),
        ("kiwi:1", True),
        ("kiwi@sha256:00", True),
    ],
)
def test_an_image_is_told_from_a_box_of_ours(name: str, is_one: bool) -> None:
    assert box_images.is_image(name) is is_one


def _context(folder: Path, host: str) -> Mapping[str, str]:
    """Write a context as Docker's client does, and choose it."""
    from docker.context.config import get_context_id

    meta = folder / "contexts" / "meta" / get_context_id("other") / "meta.json"
    meta.parent.mkdir(parents=True)
    meta.write_text(
        json.dumps({"Name": "other", "Metadata": {}, "Endpoints": {"docker": {"Host": host}}})
    )
    (folder / "config.json").write_text(json.dumps({"currentContext": "other"}))
    return {"DOCKER_CONFIG": str(folder)}


def test_a_context_tells_where_the_daemon_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = _context(tmp_path, "unix:///somewhere.sock")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert docker_api._where(environment)["base_url"] == "unix:///somewhere.sock"
    # As for Docker's client: DOCKER_HOST first, then DOCKER_CONTEXT.
    over = {**environment, "DOCKER_HOST": "tcp://127.0.0.1:1", "DOCKER_CONTEXT": "other"}
    assert docker_api._where(over)["base_url"] == "tcp://127.0.0.1:1"
    assert "base_url" not in docker_api._where({**environment, "DOCKER_CONTEXT": "default"})
    with pytest.raises(PreflightError, match="nobody"):
        docker_api._where({**environment, "DOCKER_CONTEXT": "nobody"})
    meta = next(tmp_path.glob("contexts/meta/*/meta.json"))
    meta.write_text("{")
    with pytest.raises(PreflightError) as caught:
        docker_api._where(environment)
    assert caught.value.code == 4


def test_ssh_is_openssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = _context(tmp_path, "ssh://me@build.example.com")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert docker_api._where(environment)["use_ssh_client"] is True


def test_a_site_s_authority_does_not_hide_docker_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/site.pem")
    session = docker_api._VerifyingClient(
        base_url="tcp://127.0.0.1:1", version=docker.constants.DEFAULT_DOCKER_API_VERSION
    )
    session.verify = "/docker.pem"
    merged = session.merge_environment_settings(  # type: ignore[no-untyped-call]
        "https://127.0.0.1:1/", {}, False, None, None
    )
    assert merged["verify"] == "/docker.pem"
    session.close()


@pytest.mark.parametrize(
    ("url", "devices", "refused"),
    [
        ("unix:///var/run/docker.sock", True, None),
        ("tcp://192.0.2.1:2376", False, None),
        ("tcp://192.0.2.1:2376", True, "Disk images"),
        ("ssh://me@build.example.com", False, "behind ssh"),
    ],
)
def test_where_a_daemon_may_be(url: str, devices: bool, refused: str | None) -> None:
    environment = {"DOCKER_HOST": url}
    if refused is None:
        docker_api.check_place(environment, devices=devices)
        return
    with pytest.raises(PreflightError, match=refused):
        docker_api.check_place(environment, devices=devices)


def test_the_daemon_of_a_guest_is_found_again_whatever_is_chosen_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    first = {"PATH": "/bin", "DOCKER_HOST": "tcp://192.0.2.1:2376", "DOCKER_TLS_VERIFY": "1"}
    pinned = docker_api.pinned(first)
    assert pinned == {"DOCKER_HOST": "tcp://192.0.2.1:2376", "DOCKER_TLS_VERIFY": "1"}
    later = docker_api.at({"PATH": "/bin", "DOCKER_CONTEXT": "other"}, pinned)
    assert later == {"PATH": "/bin", **pinned}
    assert docker_api.pinned({}) == {"DOCKER_CONTEXT": "default"}
    assert docker_api.pinned(_context(tmp_path, "unix:///x")) == {"DOCKER_CONTEXT": "other"}
    assert docker_api.at({"DOCKER_HOST": "x"}, {}) == {"DOCKER_HOST": "x"}


def test_a_tls_daemon_without_its_certificates_is_4(tmp_path: Path) -> None:
    environment = {
        "DOCKER_HOST": "tcp://192.0.2.1:2376",
        "DOCKER_TLS_VERIFY": "1",
        "DOCKER_CERT_PATH": str(tmp_path),
    }
    with pytest.raises(PreflightError), docker_api.client(environment):
        pass
