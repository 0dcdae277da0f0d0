"""The printed storage script, run for a second Docker daemon, which then builds an example."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
import docker.errors
import pytest

from tests.integration import images
from tests.integration.cli import Project, wait_until
from tests.integration.conftest import need
from tests.integration.stand_in import describe
from vagrant_kiwi import docker_api, docker_storage
from vagrant_kiwi.docker_facts import read
from vagrant_kiwi.guests import docker as docker_guests
from vagrant_kiwi.plan import GUEST_ROOT

ROOT = () if os.geteuid() == 0 else ("sudo", "-n")


@dataclass(frozen=True)
class Second:
    """A second Docker daemon of this host: all of it is in a folder, but for a network bridge."""

    folder: Path
    bridge: str

    @property
    def config(self) -> Path:
        return self.folder / "daemon.json"

    @property
    def fstab(self) -> Path:
        return self.folder / "fstab"

    @property
    def data(self) -> Path:
        return self.folder / "btrfs"

    @property
    def host(self) -> str:
        return f"unix://{self.folder}/docker.sock"

    @property
    def restart(self) -> Path:
        return self.folder / "restart.sh"

    @property
    def pid(self) -> int | None:
        try:
            return int((self.folder / "docker.pid").read_text())
        except FileNotFoundError:
            return None

    def answers(self) -> bool:
        """Tell whether the daemon can be used."""
        asked = ["docker", f"--host={self.host}", "version"]
        return subprocess.run(asked, capture_output=True, check=False).returncode == 0

    def prepare(self) -> None:
        """Write the daemon's settings, and what starts it anew with them."""
        # Never "bridge": "none": with that, dockerd removes the first daemon's docker0.
        self.config.write_text(
            json.dumps(
                {
                    "bridge": self.bridge,
                    "data-root": str(self.folder / "old"),
                    "ip-forward": False,
                    "ip-masq": False,
                    "iptables": False,
                    "storage-driver": "vfs",
                }
            )
        )
        # No newline at its end: an entry behind it must not become part of the line.
        self.fstab.write_text("# somebody's own\n/dev/none /none ext4 noauto 0 0")
        # A containerd that the host already has is shared by the daemons: hence the name spaces.
        start = [
            *("dockerd", f"--config-file={self.config}", f"--host={self.host}"),
            *(f"--pidfile={self.folder}/docker.pid", f"--exec-root={self.folder}/exec"),
            *("--containerd-namespace=second", "--containerd-plugins-namespace=second-plugins"),
        ]
        self.restart.write_text(
            f"cd {self.folder}\n"
            'if [ -e docker.pid ]; then kill "$(cat docker.pid)"; fi\n'
            "while [ -e docker.pid ]; do sleep 0.1; done\n"
            f"setsid {shlex.join(start)} </dev/null >>log 2>&1 &\n"
        )

    def run(self, script: Path, *, restart: str) -> tuple[int, str]:
        """Run the printed script as root, with this daemon's places."""
        places = {
            "DAEMON_JSON": str(self.config),
            "DATA_ROOT": str(self.data),
            "DOCKER_HOST": self.host,
            "FSTAB": str(self.fstab),
            "RESTART": restart,
            "STORAGE_FILE": str(self.folder / "file.btrfs"),
        }
        done = subprocess.run(
            [*ROOT, "env", *(f"{name}={value}" for name, value in places.items()), "sh", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        return done.returncode, done.stdout

    def remove(self) -> None:
        """Stop the daemon, and take everything away."""
        if (pid := self.pid) is not None:
            subprocess.run([*ROOT, "kill", str(pid)], check=False)
            wait_until(lambda: self.pid is None, what="the end of the second daemon", timeout=60)
        # The data root, and the network name space that dockerd leaves.
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        places = {Path(line.split()[4]) for line in mounts}
        for place in sorted(places, reverse=True):
            if place.is_relative_to(self.folder):
                subprocess.run([*ROOT, "umount", place], check=True)
        subprocess.run([*ROOT, "rm", "-rf", "--one-file-system", self.folder], check=True)
        subprocess.run([*ROOT, "ip", "link", "delete", self.bridge], check=True)


@pytest.fixture
def second(unchanged: None) -> Iterator[Second]:
    """Yield a daemon that is not started yet."""
    missing = [name for name in ("dockerd", "ip", "mkfs.btrfs") if shutil.which(name) is None]
    if missing:
        need(f"not installed: {', '.join(missing)}")
    # A socket's path must be short, and the script's own places plain.
    folder = Path(tempfile.mkdtemp(prefix="storage-")).resolve()
    made = Second(folder, f"vk-{uuid.uuid4().hex[:8]}")
    others = Path("/sys/class/net/docker0/ifindex")
    before = others.read_text() if others.exists() else None
    subprocess.run([*ROOT, "ip", "link", "add", made.bridge, "type", "bridge"], check=True)
    try:
        # Of RFC 5737, for documentation: nobody is there.
        address = ("addr", "add", "198.51.100.1/24", "dev", made.bridge)
        subprocess.run([*ROOT, "ip", *address], check=True)
        made.prepare()
        yield made
    finally:
        made.remove()
    assert (others.read_text() if others.exists() else None) == before


def daemon_of(made: Second) -> contextlib.AbstractContextManager[docker.DockerClient]:
    return docker_api.client({"DOCKER_HOST": made.host})


def mounts_an_overlay(client: docker.DockerClient, box: str) -> bool:
    """Tell whether a guest can do what KIWI does for delta_root."""
    folders = f"mkdir -p {GUEST_ROOT} && cd {GUEST_ROOT} && mkdir lower upper work root"
    mount = "mount -t overlay overlay root -o lowerdir=lower,upperdir=upper,workdir=work"
    try:
        client.containers.run(
            box,
            ["sh", "-c", f"{folders} || exit 9; {mount}"],
            entrypoint="",
            cap_add=["SYS_ADMIN"],
            security_opt=["seccomp=unconfined", "apparmor=unconfined"],
            network_mode="none",
            remove=True,
        )
    except docker.errors.ContainerError as error:
        assert error.exit_status != 9, error
        return False
    return True


def check_room(project: Project, second: Second, checkout: Path) -> None:
    """See that with little room neither a box nor a guest is begun with."""
    room = os.statvfs(second.data)
    filler = second.data / "filler"
    taken = room.f_bavail * room.f_frsize - 300 * 2**20
    subprocess.run([*ROOT, "fallocate", f"--length={taken}", filler], check=True)
    try:
        build = ("build", f"--description={checkout}/examples/debian-tarball")
        for words in (("box-add",), (*build, "--provider=docker-direct")):
            done = project.run(*words, "--json")
            assert done.status == 4, done.errors
            assert f"free in {second.data}" in done.json["error"]["details"]
    finally:
        subprocess.run([*ROOT, "rm", filler], check=True)
        subprocess.run([*ROOT, "sync", "--file-system", second.data], check=True)


def check_delta(project: Project, folder: Path) -> None:
    """See that an image which KIWI could not make is refused before a guest starts."""
    describe(folder, image_type="docker")
    config = folder / "config.xml"
    attributes = 'derived_from="file:///srv/base.tar" delta_root="true"'
    config.write_text(config.read_text().replace('"docker"', f'"docker" {attributes}'))
    for provider in docker_api.PROVIDERS:
        done = project.run("build", f"--description={folder}", f"--provider={provider}", "--json")
        assert done.status == 4, done.errors
        assert f"--volume={GUEST_ROOT}" in done.json["error"]["resolution"]
        assert done.json["phases"] == []


def test_the_script_gives_a_daemon_btrfs_on_which_an_example_builds(
    second: Second, docker_client: docker.DockerClient, box: str, checkout: Path, tmp_path: Path
) -> None:
    project = Project(tmp_path, environment={"DOCKER_HOST": second.host})
    subprocess.run([*ROOT, "sh", second.restart], check=True)
    wait_until(second.answers, what="the second daemon", timeout=60)
    with daemon_of(second) as daemon:
        daemon.volumes.create("kept")

    printed = project.run("docker-storage", "--size=5g", "--json").json["script"]
    script = second.folder / "script.sh"
    script.write_text(printed)
    assert "this script helps" in printed
    assert "NOT need" in Project(tmp_path).run("docker-storage", "--size=5g").output
    subprocess.run(["shellcheck", script], check=True)

    # A daemon that does not come up again gets its settings back.
    before, pid = second.config.read_text(), second.pid
    status, said = second.run(script, restart="false")
    assert (status, second.config.read_text()) == (1, before), said
    assert second.pid == pid

    status, said = second.run(script, restart=f"sh {second.restart}")
    assert status == 0, said
    assert json.loads(second.config.read_text()) == {
        **json.loads(before),
        "storage-driver": "btrfs",
        "data-root": str(second.data),
    }
    assert Path(f"{second.config}.before-docker-storage").read_text() == before
    entries = second.fstab.read_text().splitlines()
    assert entries[:2] == ["# somebody's own", "/dev/none /none ext4 noauto 0 0"]
    assert [line.split()[1] for line in entries[2:]] == [str(second.data)]
    # Sparse: it takes what is in it.
    assert (second.folder / "file.btrfs").stat().st_blocks * 512 < 2**30
    subprocess.run([*ROOT, "test", "-d", second.folder / "old/volumes/kept"], check=True)

    files = (second.config, second.fstab)
    state = [(file.read_text(), file.stat().st_mtime_ns) for file in files]
    pid = second.pid
    status, said = second.run(script, restart=f"sh {second.restart}")
    assert (status, "nothing is left to do" in said) == (0, True), said
    assert [(file.read_text(), file.stat().st_mtime_ns) for file in files] == state
    assert second.pid == pid

    check_room(project, second, checkout)
    # The daemon that all other tests use; a person's may have something else.
    overlays = docker_client.info()["Driver"] in ("overlay2", "overlayfs")
    if overlays:
        check_delta(Project(tmp_path), tmp_path / "delta")

    with daemon_of(second) as daemon:
        facts = read(daemon, daemon.info())
        assert (facts.driver, facts.root, facts.local) == ("btrfs", second.data, True)
        docker_storage.check_driver(facts)
        with subprocess.Popen(["docker", "save", box], stdout=subprocess.PIPE) as saved:
            load = ["docker", f"--host={second.host}", "load", "--quiet"]
            subprocess.run(load, stdin=saved.stdout, capture_output=True, check=True)
        assert mounts_an_overlay(daemon, box)
        # The reason for refusing it there.
        assert mounts_an_overlay(docker_client, box) is not overlays

    # Nothing forwards for its bridge. xz at its fastest: how small the result is is not the matter.
    project.settings(docker={"create_args": ["--network=host"]})
    (tmp_path / "kiwi.yml").write_text("xz:\n  options: -0 --threads=0\n")
    done = project.run(
        "build",
        f"--description={checkout}/examples/debian-tarball",
        "--provider=docker-direct",
        "--config=kiwi.yml",
        "--json",
    )
    assert done.status == 0, done.errors
    (archive,) = Path(done.json["result_dir"]).glob("*.tar.xz")
    assert images.read_from_tarball(archive, "/etc/vagrant-kiwi-example")
    with daemon_of(second) as daemon:
        assert docker_guests.containers(daemon, done.json["run_id"]) == []
        assert [image.tags for image in daemon.images.list()] == [[box]], (
            "the box was not made anew"
        )


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("daemon.json", "{", "is no JSON"),
        ("daemon.json", "[]", "no JSON object"),
        ("daemon.json", '{"features": {"containerd-snapshotter": true}}', "containerd"),
        ("daemon.json", '{"graph": "/srv"}', "old word for data-root"),
        ("daemon.json", '{"storage-opts": ["overlay2.size=9g"]}', "another driver's"),
        ("fstab", "/dev/none {folder}/btrfs ext4 noauto 0 0\n", "mounts /dev/none"),
        ("file.btrfs", "somebody's data", "holds no btrfs"),
        ("btrfs/data", "somebody's data", "holds data"),
    ],
)
def test_what_the_script_refuses_it_leaves_alone(
    tmp_path: Path, file: str, content: str, words: str
) -> None:
    with refusing() as made:
        path = made.folder / file
        path.parent.mkdir(exist_ok=True)
        path.write_text(content.replace("{folder}", str(made.folder)))
        script = made.folder / "script.sh"
        script.write_text(Project(tmp_path).run("docker-storage", "--size=5g").output)
        before = tree(made.folder)
        status, said = made.run(script, restart="no")
        assert status == 1, said
        assert words in said
        assert tree(made.folder) == before


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


@contextlib.contextmanager
def refusing() -> Iterator[Second]:
    """Yield the places of a daemon that is never started."""
    with tempfile.TemporaryDirectory(prefix="storage-") as folder:
        made = Second(Path(folder).resolve(), "none")
        made.fstab.write_text("")
        yield made
