"""Build boxes: found, made, and nothing left of a half one."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import docker
import docker.auth
import docker.errors
import pytest
import requests
import requests.exceptions

from tests.unit.box_fakes import (
    BASE,
    BUILT,
    IMAGE,
    NAME,
    PUBLIC,
    SECRET,
    FakeContainer,
    FakeDocker,
    FakeImage,
    FakeResponse,
    Scripted,
    VariantPip,
    pip,
    said,
    soon,
    stream,
)
from vagrant_kiwi import box_build, box_recipe, boxes
from vagrant_kiwi.errors import BoxError, PhaseTimeoutError, PreflightError
from vagrant_kiwi.process import (
    CommandResult,
    Runner,
)


def ensure(
    recipe: box_recipe.Recipe,
    fake: FakeDocker,
    tmp_path: Path,
    *,
    runner: Runner | None = None,
    mirror: str = PUBLIC.packages,
    log: list[str] | None = None,
    timeout: float = 60,
) -> boxes.DockerBox:
    return boxes.ensure_docker_box(
        recipe,
        fake.as_client(),
        runner or Scripted({"http_proxy": "http://proxy.example.org:3128"}, pip),
        mirror=mirror,
        security_mirror=PUBLIC.security,
        public_key="ssh-rsa AAAA vagrant",
        log=(log if log is not None else []).append,
        timeout=timeout,
        cache=tmp_path / "cache",
    )


def current(recipe: box_recipe.Recipe) -> FakeImage:
    return FakeImage([boxes.docker_tag(recipe)], {box_build.LABEL_RECIPE: recipe.digest})


def test_a_current_box_is_found_and_nothing_happens(
    recipe: box_recipe.Recipe, tmp_path: Path
) -> None:
    fake = FakeDocker()
    assert boxes.find_docker_box(fake.as_client(), recipe) is None
    fake.held = [current(recipe)]
    wanted = boxes.DockerBox(
        NAME, "7", boxes.docker_tag(recipe), IMAGE, recipe.digest, 4321, "11.1.6"
    )
    assert boxes.find_docker_box(fake.as_client(), recipe) == wanted
    assert ensure(recipe, fake, tmp_path, runner=Scripted({})) == wanted
    assert fake.posts == []
    assert not (tmp_path / "cache").exists()


def test_a_name_without_the_right_label_is_no_box(recipe: box_recipe.Recipe) -> None:
    fake = FakeDocker()
    fake.held = [FakeImage([boxes.docker_tag(recipe)], {box_build.LABEL_RECIPE: "0" * 64})]
    assert boxes.find_docker_box(fake.as_client(), recipe) is None


@pytest.mark.parametrize("registry", ["localhost/", "docker.io/"])
def test_podmans_names_of_boxes_are_known(
    recipe: box_recipe.Recipe, tmp_path: Path, registry: str
) -> None:
    fake = FakeDocker(pull=stream({"status": "Downloaded"}), build=stream(BUILT))
    old = FakeImage([f"{registry}vagrant-kiwi/{NAME}:old", "mine:1"], {}, "sha256:old")
    current = FakeImage([f"{registry}{boxes.docker_tag(recipe)}"], {}, "sha256:now")
    fake.held = [old, current]
    ensure(recipe, fake, tmp_path)
    assert old.tags == ["mine:1"]
    assert current.tags == [f"{registry}{boxes.docker_tag(recipe)}"]


def test_a_box_is_made_on_a_pulled_base(recipe: box_recipe.Recipe, tmp_path: Path) -> None:
    fake = FakeDocker(pull=stream({"status": "Downloaded"}), build=stream(BUILT))
    old = FakeImage([f"vagrant-kiwi/{NAME}:old", "mine:1"], {}, "sha256:old")
    used = FakeImage([f"vagrant-kiwi/{NAME}:used"], {}, "sha256:used")
    fake.held = [old, used]
    fake.running = [FakeContainer(used)]
    box = ensure(recipe, fake, tmp_path)
    assert box.image == boxes.docker_tag(recipe)
    (pulled, built) = fake.posts
    assert pulled[1]["fromImage"] == "debian"
    assert pulled[1]["tag"] == "bookworm-slim"
    arguments = json.loads(built[1]["buildargs"])
    assert arguments == {
        "BASE": "debian:bookworm-slim",
        "BOX": NAME,
        "RECIPE": recipe.digest,
        "BUILD": fake.build_label,
        "SUITE": "bookworm",
        "MIRROR": PUBLIC.packages,
        "SECURITY_MIRROR": PUBLIC.security,
        "http_proxy": "http://proxy.example.org:3128",
    }
    assert built[1]["networkmode"] == "default"
    # The person's own second name for an old box stays, and so does what a container uses.
    assert old.tags == ["mine:1"]
    assert used.tags == [f"vagrant-kiwi/{NAME}:used"]
    assert (tmp_path / f"cache/{NAME}.building").read_text() == ""


def test_the_context_holds_recipe_wheels_and_key(
    recipe: box_recipe.Recipe, folder: Path, tmp_path: Path
) -> None:
    (folder / "libvirt").mkdir()
    fake = FakeDocker(pull=stream(), build=stream(BUILT))
    ensure(recipe, fake, tmp_path)
    with tarfile.open(fileobj=io.BytesIO(fake.posts[-1][2])) as tar:
        assert tar.getnames() == [
            "Dockerfile",
            "box.toml",
            "kiwi.lock",
            "packages.txt",
            "wheels/kiwi-1-py3-none-any.whl",
            "wheels/lxml-1-py3-none-any.whl",
            "authorized_key",
        ]
        assert {(member.uid, member.mode) for member in tar} == {(0, 0o644)}
        key = tar.extractfile("authorized_key")
        assert key is not None
        assert key.read() == b"ssh-rsa AAAA vagrant\n"


def debian(argv: Sequence[str], options: Mapping[str, Any]) -> CommandResult:
    """Do what pip and mmdebstrap would."""
    if "mmdebstrap" not in argv:
        return pip(argv, options)
    Path(argv[-2]).write_bytes(b"root file system")
    return said("")


@pytest.mark.usefixtures("scratch")
def test_boxes_with_different_kiwis_do_not_replace_each_other(
    recipe: box_recipe.Recipe, folder: Path, tmp_path: Path
) -> None:
    variant = box_recipe.find_recipe(NAME, kiwi_version="11.0.5", boxes=folder.parent, arch="amd64")
    old = FakeImage([f"{variant.repository}:old"], {}, "sha256:old")
    other = FakeImage([f"vagrant-kiwi/{NAME}-kiwi-11.0.50:1"], {}, "sha256:other")
    default = current(recipe)
    default.id = "sha256:default"
    fake = FakeDocker(pull=stream(), build=stream(BUILT))
    fake.held = [old, other, default]
    box = ensure(variant, fake, tmp_path, runner=Scripted({}, VariantPip()))
    assert (box.name, box.kiwi) == (f"{NAME}-kiwi-11.0.5", "11.0.5")
    assert boxes.find_docker_box(fake.as_client(), variant) == box
    assert json.loads(fake.posts[-1][1]["buildargs"])["BOX"] == variant.name
    with tarfile.open(fileobj=io.BytesIO(fake.posts[-1][2])) as tar:
        content = tar.extractfile("Dockerfile")
        assert content is not None
        assert content.read() == b"FROM scratch\nRUN more\n"
        assert "variant" not in tar.getnames()
    assert old.tags == []
    assert boxes.find_docker_box(fake.as_client(), recipe) is not None
    assert len(other.tags) == 1

    # And the other way round.
    fake.held.remove(default)
    fake.streams = {"pull": stream(), "build": stream(BUILT)}
    ensure(recipe, fake, tmp_path)
    assert boxes.find_docker_box(fake.as_client(), variant) == box


def test_mmdebstrap_steps_in_where_the_base_cannot_be_pulled(
    recipe: box_recipe.Recipe, tmp_path: Path
) -> None:
    fake = FakeDocker(
        pull=FakeResponse([b'{"message": "no such host"}'], 500),
        load=stream({"status": BASE}),
        build=stream(BUILT),
    )
    log: list[str] = []
    ensure(recipe, fake, tmp_path, runner=Scripted({"http_proxy": "x"}, debian), log=log)
    assert "debian:bookworm-slim cannot be pulled (no such host)" in log
    _, loaded, built = fake.posts
    assert loaded[2] == b"root file system"
    assert loaded[1]["changes"] == [
        f'LABEL {box_build.LABEL_BOX}="{NAME}"',
        f'LABEL {box_build.LABEL_BUILD}="{fake.build_label}"',
    ]
    arguments = json.loads(built[1]["buildargs"])
    assert arguments["BASE"] == BASE
    assert "http_proxy" not in arguments
    assert built[1]["networkmode"] == "none"


@pytest.mark.usefixtures("scratch")
def test_a_mirror_with_credentials_goes_to_mmdebstrap_only(
    recipe: box_recipe.Recipe, tmp_path: Path
) -> None:
    fake = FakeDocker(load=stream({"status": BASE}), build=stream(BUILT))
    runner = Scripted({}, debian)
    log: list[str] = []
    ensure(recipe, fake, tmp_path, runner=runner, mirror=SECRET.packages, log=log)
    arguments = json.loads(fake.posts[-1][1]["buildargs"])
    assert arguments["MIRROR"] == "http://official.example.org/debian"
    assert arguments["SECURITY_MIRROR"] == "http://official.example.org/security"
    assert "p%40ss" not in repr((fake.posts, runner.ran, log))


def test_loopback_proxies_are_of_no_use_in_a_container(
    recipe: box_recipe.Recipe, tmp_path: Path
) -> None:
    fake = FakeDocker(pull=stream(), build=stream(BUILT))
    environment = {
        "http_proxy": "http://127.0.0.1:3128",
        "HTTPS_PROXY": "http://localhost:1",
        "no_proxy": "localhost,.example.org",
    }
    ensure(recipe, fake, tmp_path, runner=Scripted(environment, pip))
    arguments = json.loads(fake.posts[-1][1]["buildargs"])
    assert [name for name in arguments if "proxy" in name.lower()] == ["no_proxy"]


def test_a_failing_dockerfile_is_exit_5_and_swept(
    recipe: box_recipe.Recipe, tmp_path: Path
) -> None:
    fake = FakeDocker(
        pull=stream(), build=stream({"stream": "E: no such package\n"}, {"error": "code: 100"})
    )
    old = FakeImage([f"vagrant-kiwi/{NAME}:old"], {}, "sha256:old")
    fake.held = [old]
    with pytest.raises(BoxError) as caught:
        ensure(recipe, fake, tmp_path)
    assert caught.value.code == 5
    assert caught.value.details == "E: no such package\ncode: 100"
    assert fake.held == [old]
    assert (tmp_path / f"cache/{NAME}.building").read_text() == ""


def test_the_next_build_sweeps_after_one_that_was_killed(
    recipe: box_recipe.Recipe, tmp_path: Path
) -> None:
    fake = FakeDocker(pull=stream(), build=stream(BUILT))
    half = FakeImage([], {box_build.LABEL_BUILD: "dead"}, "sha256:half")
    fake.held = [half]
    fake.running = [FakeContainer(half)]
    (tmp_path / "cache/wheels" / f".making-{NAME}.x").mkdir(parents=True)
    (tmp_path / "cache" / f".making-{NAME}.y").mkdir()
    (tmp_path / "cache" / ".making-other.z").mkdir()
    (tmp_path / f"cache/{NAME}.building").write_text("dead\n")
    ensure(recipe, fake, tmp_path)
    assert half not in fake.held
    assert fake.running[0].removed
    assert [path.name for path in sorted(tmp_path.glob("cache/**/.making-*"))] == [
        ".making-other.z"
    ]


def test_guests_of_a_box_that_was_finished_before_the_kill_are_left_alone(
    recipe: box_recipe.Recipe, tmp_path: Path
) -> None:
    fake = FakeDocker(pull=stream(), build=stream(BUILT))
    done = FakeImage([f"vagrant-kiwi/{NAME}:old"], {box_build.LABEL_BUILD: "dead"}, "sha256:d")
    fake.held = [done]
    fake.running = [FakeContainer(done)]
    (tmp_path / "cache").mkdir()
    (tmp_path / f"cache/{NAME}.building").write_text("dead\n")
    ensure(recipe, fake, tmp_path)
    assert not fake.running[0].removed
    assert done in fake.held


def test_what_cannot_be_swept_is_tried_again_next_time(
    recipe: box_recipe.Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeDocker(pull=stream(), build=stream({"error": "broken"}))

    def gone(client: docker.DockerClient, label: str) -> bool:
        raise requests.exceptions.ConnectionError("daemon gone")

    monkeypatch.setattr(box_build, "_sweep", gone)
    log: list[str] = []
    with pytest.raises(BoxError, match="broken"):
        ensure(recipe, fake, tmp_path, log=log)
    assert (tmp_path / f"cache/{NAME}.building").read_text() == f"{fake.build_label}\n"
    assert "daemon gone" in log[-1]


def test_a_daemon_that_goes_on_with_a_build_is_swept_again_next_time(
    recipe: box_recipe.Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeDocker(pull=stream(), build=stream({"error": "broken"}))
    monkeypatch.setattr(box_build, "_SWEEP", 0.0)
    log: list[str] = []
    with pytest.raises(BoxError, match="broken"):
        ensure(recipe, fake, tmp_path, log=log)
    assert (tmp_path / f"cache/{NAME}.building").read_text() == f"{fake.build_label}\n"
    assert "still at a half-made box" in log[-1]


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (
            requests.exceptions.ConnectionError("PermissionError(13, 'Permission denied')"),
            "usermod",
        ),
        (requests.exceptions.ConnectionError("ConnectionRefusedError(111)"), "systemctl start"),
        (docker.errors.DockerException("Error while fetching server API version"), "./bootstrap"),
    ],
)
def test_an_unreachable_daemon_is_exit_4_with_the_remedy(
    recipe: box_recipe.Recipe, tmp_path: Path, error: Exception, word: str
) -> None:
    fake = FakeDocker()
    fake.down = error
    with pytest.raises(PreflightError) as caught:
        ensure(recipe, fake, tmp_path)
    assert caught.value.code == 4
    assert word in caught.value.resolution
    assert caught.value.__cause__ is error


def test_an_error_of_the_daemon_is_exit_5(recipe: box_recipe.Recipe) -> None:
    fake = FakeDocker()
    fake.down = docker.errors.APIError("500 Server Error: disk full")
    with pytest.raises(BoxError, match="disk full"):
        boxes.find_docker_box(fake.as_client(), recipe)


def test_makers_wait_for_each_other_and_not_forever(
    recipe: box_recipe.Recipe, tmp_path: Path
) -> None:
    log: list[str] = []
    with (
        boxes.only_one(tmp_path / "cache", NAME, log.append, soon()),
        pytest.raises(PhaseTimeoutError, match="another process"),
    ):
        ensure(recipe, FakeDocker(), tmp_path, log=log, timeout=0.3)
    assert log == [f"Waiting: the build box {NAME} is being made by another process"]


def test_a_cache_that_cannot_be_made_is_exit_5(recipe: box_recipe.Recipe, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(BoxError, match="cache folder"):
        ensure(recipe, FakeDocker(), tmp_path)
