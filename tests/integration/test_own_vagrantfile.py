"""A Vagrantfile of the user's own, beside the description or elsewhere; and Dicefiles."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import docker
import pytest

from tests.integration import host
from tests.integration.cli import Project, finish
from tests.integration.machine_by_ssh import machine
from tests.integration.stand_in import BUSY, STAND_IN, describe, start_busy
from vagrant_kiwi import keys
from vagrant_kiwi.guests import docker as docker_guests
from vagrant_kiwi.process import Runner

IMAGE = "--description=it is an image"
VAGRANTFILE = """
Vagrant.configure('2') do |config|
  config.vm.provision 'shell', path: 'prepare.sh'
  %(more)s
  config.vm.provider 'docker' do |d|
    d.image = '%(image)s'
    d.create_args = ['--init', '--cap-add=SYS_ADMIN', '--cap-add=MKNOD',
      '--security-opt=seccomp=unconfined', '--security-opt=apparmor=unconfined'%(args)s]
    d.has_ssh = true
  end
end
"""


@pytest.fixture
def project(tmp_path: Path, box: str) -> Project:
    """Return a project whose description has a Vagrantfile beside it."""
    made = Project(tmp_path)
    made.settings(provision=[str(STAND_IN)], mirrors="off")
    folder = describe(tmp_path / "it is an image", behave="cat /srv/prepared; ls -a /vagrant")
    (folder / "prepare.sh").write_text("echo prepared it >/srv/prepared\n")
    write(folder, box)
    return made


def write(folder: Path, image: str, *, args: str = "", more: str = "") -> Path:
    """Write a Vagrantfile as somebody from Dice has it."""
    path = folder / "Vagrantfile"
    path.write_text(VAGRANTFILE % {"image": image, "args": args, "more": more})
    return path


def test_it_is_named_and_not_used_unless_somebody_says_so(
    project: Project, unchanged: None
) -> None:
    describe(project.folder / "it is an image", behave="test ! -e /srv/prepared")
    done = project.run("build", IMAGE)
    assert done.status == 0, done.errors
    assert "Vagrantfile is not used: a Vagrantfile runs code on this host" in done.errors
    assert "vagrantfile: trust" in done.errors
    silent = project.run("build", IMAGE, "--provider=docker-direct", "--dry-run")
    assert "not used" not in silent.errors


def test_it_is_used_where_it_lies(project: Project, unchanged: None) -> None:
    folder = project.folder / "it is an image"
    before = sorted(path.name for path in folder.iterdir())
    done = project.run("build", IMAGE, "--vagrantfile=trust", "--json")
    assert done.status == 0, done.errors
    assert "prepared it" in project.log(), "its relative path did not work"
    assert "prepare.sh" in project.log(), "its own folder is shared as ever"
    assert sorted(path.name for path in folder.iterdir()) == before, "Vagrant wrote into it"
    assert [entry["path"] for entry in done.json["artifacts"]] == ["image.tar"]
    names = [entry["name"] for entry in done.json["phases"]]
    assert names == ["up", "sync", "provision", "build", "bundle", "fetch", "destroy"]


def test_another_folders_vagrantfile(project: Project, box: str, unchanged: None) -> None:
    other = project.folder / "site's own"
    other.mkdir()
    (other / "prepare.sh").write_text("echo from the other >/srv/prepared\n")
    write(other, box)
    done = project.run("build", IMAGE, f"--vagrantfile={other}", "--json")
    assert done.status == 0, done.errors
    assert "from the other" in project.log()


def test_it_must_not_let_the_well_known_key_in(project: Project, box: str, unchanged: None) -> None:
    write(project.folder / "it is an image", box, more="config.ssh.insert_key = false")
    done = project.run("build", IMAGE, "--vagrantfile=trust", "--json")
    assert done.status == 6, done.errors
    assert "insecure key" in done.json["error"]["brief"]


def test_a_container_that_does_not_start_is_removed(
    project: Project, box: str, unchanged: None
) -> None:
    write(project.folder / "it is an image", box, args=", '--device=/dev/not-there'")
    done = project.run("build", IMAGE, "--vagrantfile=trust", "--json")
    assert done.status == 6, done.errors
    assert "removing the container itisanimage_default_" in done.errors


@pytest.mark.parametrize(
    "signum",
    [pytest.param(signal.SIGTERM, id="TERM", marks=pytest.mark.full), signal.SIGKILL],
)
def test_a_stopped_build_leaves_nothing(
    project: Project, docker_client: docker.DockerClient, box: str, signum: signal.Signals
) -> None:
    before = host.take(docker_client)
    describe(project.folder / "it is an image", behave=BUSY)
    running = start_busy(project, IMAGE, "--vagrantfile=trust")
    running.send_signal(signum)
    assert finish(running).status == (143 if signum == signal.SIGTERM else -9)
    host.assert_as_before(before, docker_client, within=60)


def test_it_stays_up_for_builds_and_goes(project: Project, box: str, unchanged: None) -> None:
    project.settings(provision=[str(STAND_IN)], mirrors="off", vagrantfile="trust")
    done = project.run("up", IMAGE, "--json")
    assert done.status == 0, done.errors
    built = project.run("build", IMAGE, "--json")
    assert built.status == 0, built.errors
    assert "up" not in [entry["name"] for entry in built.json["phases"]]
    write(project.folder / "it is an image", box, more="# another one")
    assert project.run("build", IMAGE, "--json").status == 3
    down = project.run("down", IMAGE, "--json")
    assert down.json["guests"] == [done.json["guest"]], down.errors


def test_a_kept_guest_says_how_to_enter_it(project: Project, unchanged: None) -> None:
    done = project.run("build", IMAGE, "--vagrantfile=trust", "--keep=always")
    assert done.status == 0, done.errors
    way = done.errors.partition("the guest stays: ")[2].partition("; invoke down")[0]
    entered = subprocess.run(
        ["bash", "-c", f"{way} -c 'cat /srv/prepared'"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert "prepared it" in entered.stdout, entered.stderr
    assert project.run("down", IMAGE).status == 0


@pytest.mark.parametrize(
    ("words", "brief"),
    [
        (("--vagrantfile=nowhere",), "no such Vagrantfile"),
        (("--vagrantfile=it is an image", "--provider=docker-direct"), "uses no Vagrantfile"),
    ],
)
def test_mistakes_are_3(
    project: Project, unchanged: None, words: tuple[str, ...], brief: str
) -> None:
    done = project.run("build", IMAGE, "--json", *words)
    assert done.status == 3
    assert brief in done.json["error"]["brief"]


# --- the Dicefile -----------------------------------------------------------------------------


def dicefile(project: Project, *lines: str) -> None:
    """Write a Dicefile beside the description."""
    body = "".join(f"  config.{line}\n" for line in lines)
    path = project.folder / "it is an image" / "Dicefile"
    path.write_text(f"Dice.configure do |config|\n{body}end\n")


def test_docker_in_a_dicefile_is_docker_without_vagrant(
    project: Project, docker_client: docker.DockerClient, unchanged: None
) -> None:
    describe(project.folder / "it is an image", behave="test ! -e /srv/prepared")
    dicefile(project, "buildhost = :DOCKER")
    done = project.run("build", IMAGE, "--json")
    assert done.status == 0, done.errors
    assert done.json["provider"] == "docker-direct"
    assert "Vagrantfile" not in done.errors


def test_a_dicefile_without_a_host_is_vagrant(project: Project, unchanged: None) -> None:
    project.settings(provision=[str(STAND_IN)], mirrors="off", vagrantfile="trust")
    dicefile(project, 'ssh_user = "vagrant"')
    done = project.run("build", IMAGE, "--json")
    assert done.status == 0, done.errors
    assert done.json["provider"] == "docker"
    assert "prepared it" in project.log()
    project.environment = {"VAGRANT_DEFAULT_PROVIDER": "libvirt"}
    plan = project.run("build", IMAGE, "--dry-run", "--json").json
    assert plan["provider"] == "libvirt"
    plan = project.run("build", IMAGE, "--dry-run", "--json", "--provider=docker-direct").json
    assert plan["provider"] == "docker-direct"


def test_an_address_in_a_dicefile_is_a_known_machine_or_4(
    project: Project,
    docker_client: docker.DockerClient,
    box: str,
    runner: Runner,
    tmp_path: Path,
    unchanged: None,
) -> None:
    insecure = keys.ensure_insecure_keys(runner)
    describe(project.folder / "it is an image")
    with machine(docker_client, box, tmp_path / "machine", insecure) as there:
        key = Path(there.settings["identity_file"])
        dicefile(
            project,
            'buildhost = "127.0.0.1"',
            'ssh_user = "vagrant"',
            f'ssh_private_key = File.join(ENV["HOME"], "{key.name}")',
        )
        project.environment = {"HOME": str(key.parent)}
        known = {"port": there.settings["port"], "known_hosts": there.settings["known_hosts"]}
        script = project.folder / "stand-in.sh"
        script.write_text(
            STAND_IN.read_text().replace("rm -f /usr/local/bin/kiwi-ng", "cd /usr/local/bin")
        )
        # It trusts whom it meets, but not on a Dicefile's word.
        unknown = {**known, "known_hosts": str(tmp_path / "empty"), "host_key": "accept-new"}
        project.settings(provision=[str(script)], mirrors="off", host=unknown)
        done = project.run("build", IMAGE, "--json")
        assert done.status == 4, done.errors
        assert "is not known" in done.json["error"]["brief"]
        project.settings(provision=[str(script)], mirrors="off", host=known)
        done = project.run("build", IMAGE, "--json")
        assert done.status == 0, done.errors
        manifest = json.loads((Path(done.json["result_dir"]) / "manifest.json").read_text())
        assert manifest["host"] == f"vagrant@127.0.0.1 port {known['port']}"


def test_what_a_dicefile_may_not_say_is_3_and_runs_nothing(
    project: Project, unchanged: None, tmp_path: Path
) -> None:
    dicefile(project, f"buildhost = `touch {tmp_path}/ran`")
    done = project.run("build", IMAGE, "--json")
    assert done.status == 3
    assert "line 2" in done.json["error"]["details"] + done.json["error"]["brief"]
    assert not (tmp_path / "ran").exists()


def test_the_settings_that_init_writes_build_the_same(
    project: Project, docker_client: docker.DockerClient, unchanged: None
) -> None:
    dicefile(project, "buildhost = :DOCKER")
    (project.folder / "invoke.yaml").unlink()
    done = project.run("init", "--from-dicefile=it is an image")
    assert done.status == 0, done.errors
    (project.folder / "it is an image" / "Dicefile").unlink()
    plan = project.run("build", "--dry-run", "--json").json
    assert plan["provider"] == "docker-direct"
    assert plan["description"] == str(project.folder / "it is an image")
    assert not docker_guests.containers(docker_client, plan["run_id"])
