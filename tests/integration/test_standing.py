"""Guests that are kept up: started, used by builds, and removed; in real docker guests."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import docker
import pytest
from docker.models.containers import Container

from tests.integration.cli import Project, finish, wait_until
from tests.integration.stand_in import BUSY, STAND_IN, describe, start_busy
from vagrant_kiwi.guests import docker as docker_guests
from vagrant_kiwi.plan import GUEST_ROOT

IMAGE = "--description=image"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Return a project with a description for the stand-in."""
    made = Project(tmp_path)
    made.settings(provision=[str(STAND_IN)], mirrors="off")
    describe(tmp_path / "image")
    return made


def up(project: Project, client: docker.DockerClient) -> Container:
    """Start a guest and leave it."""
    done = project.run("up", IMAGE, "--json")
    assert done.status == 0, done.errors
    (container,) = docker_guests.containers(client, done.json["guest"])
    return container


def down(project: Project, *words: str) -> list[str]:
    """Remove what was left."""
    done = project.run("down", IMAGE, "--json", *words)
    assert done.status == 0, done.errors
    guests = done.json["guests"]
    assert isinstance(guests, list)
    return guests


def runs_in(container: Container) -> set[str]:
    """Return the folders of runs in a guest."""
    output = container.exec_run(["ls", GUEST_ROOT]).output
    assert isinstance(output, bytes)
    return set(output.decode().split())


def test_builds_use_the_guest_that_is_up_and_leave_it(
    project: Project, docker_client: docker.DockerClient, unchanged: None
) -> None:
    container = up(project, docker_client)
    before = runs_in(container)
    # What KIWI may leave when it is stopped: a mount with something dear in it.
    (project.folder / "image/behave").write_text(
        "test ! -e /srv/mark; touch /srv/mark\n"
        "mkdir -p $target/build/mnt; mount --bind /srv $target/build/mnt\n"
    )
    done = project.run("build", IMAGE, "--json", "--run-id=first")
    assert done.status == 0, done.errors
    names = [entry["name"] for entry in done.json["phases"]]
    assert names == ["box", "sync", "build", "bundle", "fetch", "clean"]
    record = json.loads(Path(done.json["log"]).with_name("run.json").read_text())
    assert record["reused"] in before
    assert runs_in(container) == before, "only the run's own folder is removed"
    assert container.exec_run(["test", "-e", "/srv/mark"]).exit_code == 0, "rm went through a mount"
    # The guest is not fresh, and that is what was asked for.
    assert project.run("build", IMAGE, "--json").status == 7
    assert runs_in(container) == before
    again = project.run("up", IMAGE, "--json")
    assert again.json["guest"] == record["reused"], again.errors
    assert down(project) == [record["reused"]]
    assert down(project) == []


def test_other_inputs_are_3_and_the_guest_stays(
    project: Project, docker_client: docker.DockerClient, unchanged: None
) -> None:
    container = up(project, docker_client)
    (project.folder / "data").mkdir()
    for command in ("build", "up"):
        done = project.run(command, IMAGE, "--json", "--sync=data:/srv/data")
        assert done.status == 3
        assert "synced data" in done.json["error"]["details"]
        assert "invoke down" in done.json["error"]["resolution"]
    container.reload()
    assert container.status == "running"
    assert project.run("build", IMAGE, "--json").status == 0
    assert len(down(project)) == 1


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL], ids=["TERM", "KILL"])
def test_a_stopped_build_leaves_the_guest_and_nothing_in_it(
    project: Project,
    docker_client: docker.DockerClient,
    unchanged: None,
    signum: signal.Signals,
) -> None:
    container = up(project, docker_client)
    before = runs_in(container)
    describe(project.folder / "image", behave=BUSY)
    running = start_busy(project, IMAGE)
    assert runs_in(container) != before
    running.send_signal(signum)
    finish(running)
    wait_until(lambda: runs_in(container) == before, what="the run's folder is gone", timeout=60)
    assert container.exec_run(["pgrep", "-f", "kiwi-ng"]).exit_code == 1
    describe(project.folder / "image")
    assert project.run("build", IMAGE, "--json").status == 0
    assert len(down(project)) == 1


def test_a_halted_guest_is_6_and_woken_by_up(
    project: Project, docker_client: docker.DockerClient, unchanged: None
) -> None:
    container = up(project, docker_client)
    container.stop(timeout=1)
    done = project.run("build", IMAGE, "--json")
    assert done.status == 6
    assert "invoke up" in done.json["error"]["resolution"]
    assert up(project, docker_client).id == container.id
    assert project.run("build", IMAGE, "--json").status == 0
    container.stop(timeout=1)
    assert len(down(project)) == 1


def test_a_guest_that_does_not_come_up_is_removed(project: Project, unchanged: None) -> None:
    script = project.folder / "fail.sh"
    script.write_text("exit 3\n")
    done = project.run("up", IMAGE, "--json", f"--provision={script}")
    assert done.status == 6
    assert down(project) == []


def test_a_kept_guest_is_not_used_but_removed_by_down(project: Project, unchanged: None) -> None:
    assert project.run("build", IMAGE, "--keep=always", "--run-id=kept-1").status == 0
    done = project.run("build", IMAGE, "--json")
    assert "up" in [entry["name"] for entry in done.json["phases"]]
    assert down(project) == ["kept-1"]


def test_a_docker_guest_cannot_be_suspended(project: Project, unchanged: None) -> None:
    done = project.run("down", IMAGE, "--suspend", "--json")
    assert done.status == 3
    assert done.json["error"]["resolution"]
