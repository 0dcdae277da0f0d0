"""The mistakes people make: a clear message, its exit code, nothing started."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.cli import CHECKOUT, Project

TARBALL = f"--description={CHECKOUT / 'examples/debian-tarball'}"


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("build",), 3, "No description was given"),
        (("build", "--description=nowhere"), 3, "nowhere"),
        (("build", TARBALL, "--provider=dokcer"), 3, "There is no provider dokcer"),
        (("build", TARBALL, "--type=oem"), 3, "tbz"),
        (("build", TARBALL, "--profile=big"), 3, "big"),
        (("build", TARBALL, "--keep=sometimes"), 3, "never, failed, always"),
        (("build", TARBALL, "--sync=a"), 3, "sync"),
        (("build", TARBALL, "--provision=no.sh"), 3, "no.sh"),
        (("build", TARBALL, "--run-id=Not Good"), 1, "--run-id"),
        (("build", TARBALL, "--no-such-flag"), 1, "no-such-flag"),
        (("build", TARBALL, "--", "--no-such-option"), 1, "no-such-option"),
        (("build", TARBALL, "--", "--description=x"), 1, "--description"),
        (("build", TARBALL, "--", "--signing-key=nowhere.asc"), 3, "nowhere.asc"),
        (("build", TARBALL, "--box=windows"), 5, "debian-bookworm"),
        (("info", "--description=/etc/passwd"), 3, "/etc/passwd"),
    ],
)
def test_a_mistake(project: Project, words: tuple[str, ...], status: int, said: str) -> None:
    done = project.run(*words)
    assert done.status == status, done.errors
    assert said in done.errors
    assert "Traceback" not in done.errors
    assert done.output == ""
    assert not (project.folder / ".vagrant-kiwi/result").exists()


def test_settings_name_file_key_and_nearest_name(project: Project) -> None:
    project.settings(provder="docker", timeouts={"build": "long"})
    done = project.run("build", TARBALL)
    assert done.status == 3
    for word in ("invoke.yaml", "provder", "provider", "timeouts.build"):
        assert word in done.errors


def test_unknown_environment_names_are_errors(tmp_path: Path) -> None:
    done = Project(tmp_path, environment={"INVOKE_VAGRANT_KIWI_KEEPS": "never"}).run(
        "build", TARBALL
    )
    assert done.status == 3
    assert "INVOKE_VAGRANT_KIWI_KEEP?" in done.errors


def test_no_docker_daemon_is_exit_4(tmp_path: Path) -> None:
    done = Project(tmp_path, environment={"DOCKER_HOST": "unix:///nowhere.sock"}).run(
        "build", TARBALL, "--json"
    )
    assert done.status == 4
    assert done.json["error"]["code"] == 4
    assert "Docker daemon" in done.errors


def test_a_repository_that_nobody_has_is_exit_4(project: Project) -> None:
    folder = project.folder / "image"
    folder.mkdir()
    config = (CHECKOUT / "examples/debian-tarball/config.xml").read_text()
    (folder / "config.xml").write_text(
        config.replace("ftp.de.debian.org/debian", "user:secret@mirror.invalid/nothing")
    )
    done = project.run("build", "--description=image")
    assert done.status == 4
    assert "mirror.invalid/nothing" in done.errors
    assert "secret" not in done.errors


def test_info_prints_json(project: Project) -> None:
    done = project.run("info", TARBALL, "--json")
    assert done.status == 0
    assert done.json["name"] == "debian-tarball"


def test_every_task_has_help(project: Project) -> None:
    listed = project.run("--list")
    assert listed.status == 0
    for name in ("build", "info", "box-add", "key-setup"):
        assert name in listed.output
        assert project.run(name, "--help").status == 0
