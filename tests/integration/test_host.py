"""--provider=host: builds on an existing machine, with real ssh, sudo and locks."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.integration import host, images
from tests.integration.cli import CHECKOUT, Project, finish, wait_until
from tests.integration.machine_by_ssh import FOLDER, Machine, machine
from tests.integration.stand_in import BUSY, STAND_IN, describe, start_busy
from vagrant_kiwi import keys
from vagrant_kiwi.process import Runner

IMAGE = ("--description=image", "--provider=host")


@pytest.fixture(scope="module")
def there(
    docker_client: docker.DockerClient,
    box: str,
    runner: Runner,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Machine]:
    """Have a machine whose kiwi-ng is the stand-in; its real one is beside it."""
    insecure = keys.ensure_insecure_keys(runner)
    folder = tmp_path_factory.mktemp("machine") / "it's here"
    with machine(docker_client, box, folder, insecure, talkative=True) as made:
        yield made


@pytest.fixture
def unchanged(docker_client: docker.DockerClient, there: Machine) -> Iterator[None]:
    """Compare this host and that machine before and after the test."""
    before = host.take(docker_client)
    yield
    host.assert_as_before(before, docker_client)
    wait_until(lambda: not there.left(), what=f"nothing is left: {there.left()}", timeout=25)


@pytest.fixture
def project(tmp_path: Path, there: Machine) -> Project:
    """Return a project that builds there, with the stand-in for kiwi-ng."""
    folder = tmp_path / 'it\'s a "site" $HOME'
    folder.mkdir()
    made = Project(folder)
    configure(made, there)
    describe(folder / "image")
    return made


def configure(project: Project, there: Machine, **more: object) -> None:
    """Write the settings; the stand-in answers to --version as KIWI does."""
    script = project.folder / "stand-in.sh"
    script.write_text(
        STAND_IN.read_text().replace(
            "command=build\n",
            'command=build\n[ "$1" != --version ] || { echo "KIWI (next generation) version '
            '11.1.6"; exit 0; }\n',
        )
    )
    project.settings(
        **{"mirrors": "off", "provision": [str(script)], "host": there.settings, **more}
    )


def test_the_example_builds_there_with_real_kiwi(
    there: Machine, tmp_path: Path, unchanged: None
) -> None:
    project = Project(tmp_path)
    project.settings(host=there.settings)
    done = project.run(
        "build",
        f"--description={CHECKOUT / 'examples/debian-tarball'}",
        "--provider=host",
        "--json",
        "--result-format=tar",
    )
    assert done.status == 0, done.errors
    folder = Path(done.json["result_dir"])
    (archive,) = folder.glob("*.tar.xz")
    built = images.read_from_tarball(archive, "/etc/vagrant-kiwi-built")
    assert built == b"debian-tarball 1.0.0\n"
    assert "build_results.tar" in [entry["path"] for entry in done.json["artifacts"]]
    listed = images.list_tarball(folder / "build_results.tar")
    assert {f"/{path.name}" for path in folder.iterdir()} - listed == {
        "/manifest.json",
        "/build_results.tar",
    }
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["host"] == f"vagrant@127.0.0.1 port {there.settings['port']}"
    names = [entry["name"] for entry in done.json["phases"]]
    assert names == ["up", "sync", "build", "bundle", "fetch", "destroy"]


def test_two_people_do_not_build_over_each_other(
    project: Project, there: Machine, tmp_path: Path, unchanged: None
) -> None:
    describe(project.folder / "image", behave=BUSY)
    running = start_busy(project, *IMAGE, "--run-id=first-1")
    other = Project(tmp_path / "other")
    other.folder.mkdir()
    configure(other, there)
    describe(other.folder / "image")
    refused = other.run("build", *IMAGE, "--json")
    assert refused.status == 11, refused.errors
    assert "run first-1" in refused.json["error"]["details"]
    assert " since 20" in refused.json["error"]["details"]
    assert running.poll() is None
    running.send_signal(signal.SIGTERM)
    assert finish(running).status == 143
    assert other.run("build", *IMAGE, "--json").status == 0


def test_the_first_free_machine_is_taken(
    project: Project,
    there: Machine,
    docker_client: docker.DockerClient,
    box: str,
    runner: Runner,
    tmp_path: Path,
    unchanged: None,
) -> None:
    describe(project.folder / "image", behave=BUSY)
    running = start_busy(project, *IMAGE)
    insecure = keys.ensure_insecure_keys(runner)
    with machine(docker_client, box, tmp_path / "spare", insecure) as spare:
        other = Project(tmp_path / "other")
        other.folder.mkdir()
        nobody = {**there.settings, "port": 1}
        configure(other, there, hosts=[nobody, there.settings, spare.settings], host={})
        describe(other.folder / "image")
        done = other.run("build", *IMAGE, "--json", "--verbose")
        assert done.status == 0, done.errors
        manifest = json.loads((Path(done.json["result_dir"]) / "manifest.json").read_text())
        assert manifest["host"].endswith(f"port {spare.settings['port']}")
        assert spare.left() == []
        configure(other, there, hosts=[nobody, there.settings], host={})
        done = other.run("build", *IMAGE, "--json")
        assert done.status == 11, done.errors
        assert "cannot be reached" in done.json["error"]["details"]
    running.send_signal(signal.SIGINT)
    assert finish(running).status == 130


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL], ids=["TERM", "KILL"])
def test_a_stopped_build_ends_its_own_processes_and_no_others(
    project: Project, there: Machine, unchanged: None, signum: signal.Signals
) -> None:
    # Somebody else's kiwi-ng, by hand.
    there.run(
        "printf '#!/bin/sh\\necho $$ >/tmp/other.pid\\nsleep 987\\n' >/tmp/kiwi-ng;"
        "chmod 755 /tmp/kiwi-ng"
    )
    there.container.exec_run(["setsid", "/tmp/kiwi-ng"], detach=True)
    try:
        describe(project.folder / "image", behave=BUSY)
        running = start_busy(project, *IMAGE)
        running.send_signal(signum)
        assert finish(running).status == (143 if signum == signal.SIGTERM else -9)
        wait_until(
            lambda: there.run(f"ls {FOLDER}").split() == [],
            what="the run's folder is gone",
            timeout=60,
        )
        there.run("kill -0 $(cat /tmp/other.pid)")
        assert there.run("pgrep -fc '[l]ocal/bin/kiwi-ng' || true").strip() == "0"
    finally:
        there.run("kill $(cat /tmp/other.pid); pkill -x sleep; rm /tmp/kiwi-ng /tmp/other.pid")
    describe(project.folder / "image")
    assert project.run("build", *IMAGE).status == 0


def test_a_lost_connection_is_no_failed_build(
    project: Project, there: Machine, unchanged: None
) -> None:
    describe(project.folder / "image", behave="echo busy; sleep 8; echo done with it")
    running = start_busy(project, *IMAGE)
    # The sessions of the login, as a broken network ends them.
    there.run("pkill -KILL -f '[s]shd: vagrant'")
    done = finish(running)
    assert done.status == 0, done.errors
    assert "connection to the guest was lost" in done.errors
    assert "done with it" in project.log()


@pytest.mark.full
def test_nobody_comes_back_and_the_machine_cleans_up_itself(
    project: Project, there: Machine, runner: Runner
) -> None:
    describe(project.folder / "image", behave=BUSY)
    running = start_busy(project, *IMAGE, "--run-id=gone-1")
    # All of our side at once, the watchdog too: a power failure.
    keeper = there.run("cut -d' ' -f2 /run/vagrant-kiwi/holder").strip()
    watchdogs = subprocess.run(
        ["pgrep", "-f", "vagrant_kiwi.watchdog .*gone-1"], capture_output=True, text=True
    ).stdout.split()
    for pid in watchdogs:
        subprocess.run(["kill", "-KILL", pid], check=True)
    running.kill()
    finish(running)
    subprocess.run(["pkill", "-KILL", "-f", "[s]sh -F /tmp/vk-"], check=False)
    there.run(f"kill -0 {keeper}")
    wait_until(
        lambda: there.run(f"ls {FOLDER}").split() == [],
        what="the keeper has cleaned up",
        timeout=240,
    )
    assert there.run("pgrep -fc '[l]ocal/bin/kiwi-ng' || true").strip() == "0"
    describe(project.folder / "image")
    assert project.run("build", *IMAGE).status == 0
    wait_until(lambda: not there.left(), what="nothing is left")


def test_what_is_missing_is_4_and_all_of_it_is_named(
    project: Project, there: Machine, unchanged: None
) -> None:
    there.run(
        "mv /usr/bin/rsync /usr/bin/rsync.away; mv /etc/sudoers.d/vagrant /root/sudoers;"
        "mv /usr/local/bin/kiwi-ng /usr/local/bin/kiwi-ng.away"
    )
    try:
        done = project.run("build", *IMAGE, "--json")
    finally:
        there.run(
            "mv /usr/bin/rsync.away /usr/bin/rsync; mv /root/sudoers /etc/sudoers.d/vagrant;"
            "mv /usr/local/bin/kiwi-ng.away /usr/local/bin/kiwi-ng"
        )
    assert done.status == 4, done.errors
    details = done.json["error"]["details"]
    assert "sudo without a password" in details
    assert "kiwi-ng, rsync" in details


def test_an_old_kiwi_and_a_wrong_file_system_are_4(
    project: Project, there: Machine, unchanged: None
) -> None:
    there.run(
        "mv /usr/local/bin/kiwi-ng /usr/local/bin/kiwi-ng.away;"
        "printf '#!/bin/sh\\necho KIWI version 9.24.56\\n' >/usr/local/bin/kiwi-ng;"
        "chmod 755 /usr/local/bin/kiwi-ng"
    )
    try:
        configure(project, there, host={**there.settings, "folder": "/proc/vagrant-kiwi"})
        done = project.run("build", *IMAGE, "--json")
    finally:
        there.run("mv /usr/local/bin/kiwi-ng.away /usr/local/bin/kiwi-ng")
    assert done.status == 4, done.errors
    details = done.json["error"]["details"]
    assert "9.24.56, and 10.2.27 is the oldest" in details
    assert "/proc/vagrant-kiwi is on proc" in details
    assert "0.0 GiB free" in details


def test_an_unknown_key_is_4_unless_it_may_be_new(
    project: Project, there: Machine, unchanged: None
) -> None:
    known = project.folder / "known hosts"
    settings = {**there.settings, "known_hosts": str(known)}
    configure(project, there, host=settings)
    done = project.run("build", *IMAGE, "--json")
    assert done.status == 4, done.errors
    assert "key of 127.0.0.1 is not known" in done.json["error"]["brief"]
    assert not known.exists()
    configure(project, there, host={**settings, "host_key": "accept-new"})
    assert project.run("build", *IMAGE).status == 0
    assert f"[127.0.0.1]:{there.settings['port']}" in known.read_text()
    configure(project, there, host=settings)
    assert project.run("build", *IMAGE).status == 0


def test_a_changed_key_is_6_whatever_is_allowed(
    project: Project, there: Machine, unchanged: None
) -> None:
    known = project.folder / "known"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", project.folder / "other"], check=True
    )
    other = (project.folder / "other.pub").read_text()
    known.write_text(f"[127.0.0.1]:{there.settings['port']} {other}")
    configure(
        project,
        there,
        host={**there.settings, "known_hosts": str(known), "host_key": "accept-new"},
    )
    done = project.run("build", *IMAGE, "--json")
    assert done.status == 6, done.errors
    assert "not the known one" in done.json["error"]["brief"]


def test_a_wrong_identity_is_4(project: Project, there: Machine, unchanged: None) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", project.folder / "key"], check=True
    )
    settings = {**there.settings, "identity_file": "key"}
    configure(project, there, host=settings)
    done = project.run("build", *IMAGE, "--json")
    assert done.status == 4, done.errors
    assert "does not let vagrant in" in done.json["error"]["brief"]


def test_a_machine_behind_another_one(project: Project, there: Machine, unchanged: None) -> None:
    port = there.settings["port"]
    # The machine itself is on the way: from there it is 127.0.0.1:22, under the same key.
    known = project.folder / "known"
    keys_ = [
        line.partition(" ")[2]
        for line in Path(there.settings["known_hosts"]).read_text().splitlines()
    ]
    known.write_text("".join(f"[127.0.0.1]:{port} {key}\n127.0.0.1 {key}\n" for key in keys_))
    configure(
        project,
        there,
        host={
            **there.settings,
            "known_hosts": str(known),
            "port": 22,
            "jump": f"vagrant@127.0.0.1:{port}",
        },
    )
    done = project.run("build", *IMAGE, "--json")
    assert done.status == 0, done.errors


def test_a_kept_folder_stays_until_down(project: Project, there: Machine, unchanged: None) -> None:
    done = project.run("build", *IMAGE, "--keep=always", "--run-id=kept-1", "--json")
    assert done.status == 0, done.errors
    assert f"{FOLDER}/kept-1 on vagrant@127.0.0.1" in done.errors
    wait_until(lambda: "holder" not in there.run("ls /run/vagrant-kiwi"), what="the lock is free")
    assert there.run(f"cat {FOLDER}/kept-1/target/image.tar") == "image\n"
    assert project.run("down", *IMAGE).status == 0


def test_no_machine_and_up_are_3(project: Project, there: Machine, unchanged: None) -> None:
    configure(project, there, host={})
    assert project.run("build", *IMAGE, "--json").status == 3
    configure(project, there)
    assert project.run("up", *IMAGE, "--json").status == 3
