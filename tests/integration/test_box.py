"""The real build box, and how boxes are made: real mmdebstrap, pip and dockerd.

How they are made is tried with a small recipe: the same Dockerfile around next to nothing.
"""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import os
import re
import shutil
import signal
import socketserver
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import docker
import docker.errors
import pytest
import requests

from tests.integration.cli import CHECKOUT, Project, finish, wait_until
from tests.integration.conftest import need
from vagrant_kiwi import box_recipe, box_wheels, boxes, keys, mirrors
from vagrant_kiwi.deadline import Deadline
from vagrant_kiwi.errors import BoxError
from vagrant_kiwi.guests.docker import RUN_LABEL
from vagrant_kiwi.process import Runner

#: Makes a box in a process of its own, as ``invoke box-add`` would.
DRIVER = """
import dataclasses, json, os, sys
from pathlib import Path
import docker
from vagrant_kiwi import box_recipe, boxes
from vagrant_kiwi.errors import VagrantKiwiError
from vagrant_kiwi.process import Runner
given = json.loads(sys.stdin.readline())
recipe = box_recipe.load_recipe(Path(given["folder"]), arch=box_recipe.host_arch())
try:
    box = boxes.ensure_docker_box(
        recipe, docker.from_env(timeout=120), Runner(dict(os.environ)),
        mirror=given["mirror"], security_mirror=None, public_key="ssh-rsa AAAA test",
        log=lambda line: print(line, flush=True), timeout=600, cache=Path(given["cache"]),
    )
except VagrantKiwiError as error:
    print(error)
    sys.exit(error.code)
print(json.dumps(dataclasses.asdict(box)))
"""
SETUP = """\
set -eu
printf 'deb %s %s main\\n' "$MIRROR" "$SUITE" >/etc/apt/sources.list
echo 'setup runs'
"""
PASSWORD = "s3cr3t-and-long"

#: A version of KIWI that is not the recipe's, and that needs a package which its lock has not.
ANOTHER = "10.2.40"


@dataclass(frozen=True)
class Small:
    """A small recipe, and what it takes to make its box."""

    folder: Path
    cache: Path
    mirror: str

    @property
    def name(self) -> str:
        return self.folder.name

    def setup(self, more: str = "") -> None:
        (self.folder / "setup.sh").write_text(SETUP + more)

    def start(self, *before: str, mirror: str | None = None) -> subprocess.Popen[str]:
        given = {
            "folder": str(self.folder),
            "cache": str(self.cache),
            "mirror": mirror or self.mirror,
        }
        # By its standard input: a password in the driver's own arguments would also show in those
        # of a child, between its fork and its exec.
        maker = subprocess.Popen(
            [*before, sys.executable, "-c", DRIVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT), "PYTHONDONTWRITEBYTECODE": "1"},
        )
        assert maker.stdin is not None
        maker.stdin.write(json.dumps(given) + "\n")
        maker.stdin.close()
        maker.stdin = None
        return maker

    def make(self, *before: str, mirror: str | None = None) -> boxes.DockerBox:
        done = finish(self.start(*before, mirror=mirror), timeout=600)
        assert done.status == 0, done.output
        return made(done.output)

    def recipe(self) -> box_recipe.Recipe:
        return box_recipe.load_recipe(self.folder, arch=box_recipe.host_arch())


def made(output: str) -> boxes.DockerBox:
    return boxes.DockerBox(**json.loads(output.splitlines()[-1]))


@pytest.fixture(scope="module")
def mirror(runner: Runner) -> str:
    """Return a mirror of Debian that this host reaches."""
    facts = box_recipe.find_recipe("debian-bookworm").facts
    return mirrors.pick_mirror(
        facts.mirror,
        facts.suite,
        setting="auto",
        probe=mirrors.answers,
        host_mirrors=lambda: mirrors.host_mirrors(runner),
    )


@pytest.fixture
def small(tmp_path: Path, mirror: str, docker_client: docker.DockerClient) -> Iterator[Small]:
    """Yield a small recipe; its images are gone afterwards."""
    if shutil.which("mmdebstrap") is None:
        need("not installed: mmdebstrap")
    real = box_recipe.find_recipe("debian-bookworm")
    folder = tmp_path / f"vk-test-{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    lines = (real.folder / "box.toml").read_text().splitlines()
    changed = {
        # Refuses at once, on every host: the base is to come from mmdebstrap.
        "base": 'base = "127.0.0.1:1/none:latest"',
        "source_packages": "source_packages = []",
        "build_packages": "build_packages = []",
    }
    # Whole in its own folder.
    kept = [line for line in lines if not line.startswith("extends")]
    text = "\n".join(changed.get(line.partition(" ")[0], line) for line in kept)
    (folder / "box.toml").write_text(text)
    (folder / "kiwi.lock").write_text("# nothing\n")
    (folder / "packages.txt").write_text("")
    shutil.copy(next(path for path in real.files if path.name == "Dockerfile"), folder)
    entry = Small(folder, tmp_path / "cache", mirror)
    entry.setup()
    yield entry
    for image in docker_client.images.list(name=f"vagrant-kiwi/{entry.name}"):
        docker_client.images.remove(str(image.id), force=True)


@pytest.fixture
def nothing_left(docker_client: docker.DockerClient) -> Iterator[None]:
    """Fail if there is more in the daemon or in the temporary folders than before."""

    def look() -> set[str]:
        images = docker_client.images.list(all=True)
        containers = docker_client.containers.list(all=True, ignore_removed=True)
        scratch = Path("/var/tmp").glob("vagrant-kiwi-box-*")
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        return {
            *(f"image {image.id}" for image in images),
            # Not the guests of others: a box is made without any.
            *(f"container {item.name}" for item in containers if RUN_LABEL not in item.labels),
            *(str(path) for path in scratch),
            *(line for line in mounts if "vagrant-kiwi-box-" in line),
        }

    before = look()
    yield
    deadline = time.monotonic() + 20
    while (left := look() - before) and time.monotonic() < deadline:
        time.sleep(0.3)
    assert left == set()


# --- The real boxes ----------------------------------------------------------------------------

LOOK = r"""
set -eu
echo "suite: $(. /etc/os-release && echo "$VERSION_CODENAME")"
echo "python: $(python3 -c 'import sys; print(*sys.version_info[:2], sep=".")')"
echo "glibc: $(getconf GNU_LIBC_VERSION)"
echo "sources: $(grep -ho '^deb [^ ]* [^ ]*' /etc/apt/sources.list | cut -d' ' -f3 | paste -sd ' ')"
echo "language: $(. /etc/default/locale && echo "$LANG")"
echo "host keys: $(ls /etc/ssh/ssh_host_* 2>/dev/null | wc -l)"
echo "machine-id: $(wc -c </etc/machine-id)"
echo "kiwi: $(kiwi-ng --version)"
echo "uid: $(id -u vagrant)"
echo "sudo: $(runuser -u vagrant -- sudo -n id -u)"
echo "apt lists: $(ls /var/lib/apt/lists | wc -l)"
echo "archives: $(find /var/cache/apt -type f | wc -l)"
echo "context: $(ls -d /box 2>/dev/null | wc -l)"
echo "modes: $(stat -c %a:%U /home/vagrant/.ssh /home/vagrant/.ssh/authorized_keys | paste -sd ' ')"
echo "password: $(getent shadow vagrant | cut -d: -f2)"
for tool in sgdisk sfdisk parted kpartx lvm mdadm cryptsetup veritysetup qemu-img mkfs.ext4 \
    mkfs.btrfs mkfs.xfs mkdosfs mksquashfs mkfs.erofs mcopy mlabel xorriso implantisomd5 strings \
    umoci skopeo file zsyncmake rpmbuild gpg openssl xz rsync patch lsof xmlcatalog; do
    command -v "$tool" >/dev/null || echo "missing: $tool"
done
ssh-keygen -A >/dev/null
mkdir -p /run/sshd
/usr/sbin/sshd -T | grep -E '^(usedns|permitrootlogin|passwordauth|kbdinteractive|allowusers)'
"""


@pytest.mark.parametrize(
    ("name", "fixture"), [("debian-bookworm", "box"), ("debian-trixie", "trixie_box")]
)
def test_a_box_holds_what_it_should_and_nothing_that_is_one_guests(
    request: pytest.FixtureRequest,
    docker_client: docker.DockerClient,
    insecure_public_key: str,
    name: str,
    fixture: str,
) -> None:
    box: str = request.getfixturevalue(fixture)
    facts = box_recipe.find_recipe(name).facts
    said = docker_client.containers.run(box, ["sh", "-c", LOOK], remove=True).decode()
    assert said.splitlines() == [
        f"suite: {facts.suite}",
        # KIWI's wheels were fetched for these.
        f"python: {facts.python}",
        f"glibc: glibc {facts.glibc}",
        f"sources: {facts.suite} {facts.suite}-updates {facts.suite}-security",
        "language: C.UTF-8",
        "host keys: 0",
        "machine-id: 0",
        "kiwi: KIWI (next generation) version 11.1.6",
        "uid: 1000",
        "sudo: 0",
        "apt lists: 0",
        "archives: 0",
        "context: 0",
        "modes: 700:vagrant 600:vagrant",
        "password: *",
        "permitrootlogin no",
        "passwordauthentication no",
        "kbdinteractiveauthentication no",
        "usedns no",
        "allowusers vagrant",
    ]
    key = docker_client.containers.run(
        box, ["cat", "/home/vagrant/.ssh/authorized_keys"], remove=True
    )
    assert key.decode() == f"{insecure_public_key}\n"


def test_no_layer_of_the_box_holds_host_keys(
    box: str, docker_client: docker.DockerClient, tmp_path: Path
) -> None:
    names = layer_names(docker_client, box, tmp_path)
    assert "usr/sbin/sshd" in names
    assert [name for name in names if name.startswith("etc/ssh/ssh_host_")] == []


def layer_names(client: docker.DockerClient, image: str, folder: Path) -> set[str]:
    """Return the names of all files in all layers of an image."""
    saved = folder / "saved.tar"
    with saved.open("wb") as stream:
        for chunk in client.images.get(image).save():
            stream.write(chunk)
    names: set[str] = set()
    with tarfile.open(saved) as outer:
        for member in outer:
            # layer.tar from older daemons, a blob of unknown content from newer ones.
            content = outer.extractfile(member) if member.isfile() else None
            if content is not None and not member.name.endswith(".json"):
                names |= _names(content)
    saved.unlink()
    return names


def _names(content: IO[bytes]) -> set[str]:
    try:
        with tarfile.open(fileobj=content) as layer:
            return {name.removeprefix("./") for name in layer.getnames()}
    except tarfile.ReadError:
        return set()


def test_each_guest_has_its_own_host_keys_and_lets_in_vagrants_key_only(
    box: str, docker_client: docker.DockerClient, runner: Runner, tmp_path: Path
) -> None:
    insecure = keys.ensure_insecure_keys(runner).private[0]
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True)
    guests = [
        docker_client.containers.run(
            box, detach=True, init=True, ports={"22/tcp": ("127.0.0.1", 0)}
        )
        for _ in range(2)
    ]
    try:
        found = []
        for guest in guests:
            guest.reload()
            (published,) = guest.ports["22/tcp"] or []
            port = published["HostPort"]
            found.append(scan(port))
        assert len(found[0]) == 3
        assert not found[0] & found[1]
        known = tmp_path / "known_hosts"
        known.write_text("".join(f"[127.0.0.1]:{port} {key}\n" for key in found[1]))
        assert login(port, known, insecure, "vagrant", "sudo -n id -u; printenv LANG") == (
            0,
            "0\nC.UTF-8\n",
        )
        for key, user in ((other, "vagrant"), (insecure, "root")):
            status, said = login(port, known, key, user, "id")
            assert status == 255
            assert "Permission denied (publickey)" in said
    finally:
        for guest in guests:
            guest.remove(force=True)


def scan(port: str) -> set[str]:
    """Return the host keys that sshd on a port shows as soon as it answers."""
    found: set[str] = set()

    def look() -> bool:
        done = subprocess.run(
            ["ssh-keyscan", "-p", port, "127.0.0.1"], capture_output=True, text=True, check=False
        )
        lines = [line.split() for line in done.stdout.splitlines() if not line.startswith("#")]
        found.update(" ".join(words[1:]) for words in lines if len(words) == 3)
        return bool(found)

    wait_until(look, what="sshd", timeout=30)
    return found


def login(port: str, known_hosts: Path, key: Path, user: str, command: str) -> tuple[int, str]:
    options = (
        "IdentitiesOnly=yes",
        "IdentityAgent=none",
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        f"UserKnownHostsFile={known_hosts}",
        "LogLevel=ERROR",
    )
    done = subprocess.run(
        [
            *("ssh", "-F", "none", "-p", port, "-i", key),
            *(f"-o{option}" for option in options),
            *(f"{user}@127.0.0.1", command),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def test_a_current_box_costs_nothing(
    box: str, docker_client: docker.DockerClient, runner: Runner, tmp_path: Path
) -> None:
    recipe = box_recipe.find_recipe("debian-bookworm")
    log: list[str] = []
    started = time.monotonic()
    found = boxes.ensure_docker_box(
        recipe,
        docker_client,
        runner,
        mirror="http://nowhere.example.org",
        security_mirror=None,
        public_key="",
        log=log.append,
        timeout=1,
        cache=tmp_path / "cache",
    )
    assert time.monotonic() - started < 1
    assert found.image == box == boxes.docker_tag(recipe)
    assert log == []
    assert not (tmp_path / "cache").exists()


# --- Another version of KIWI -------------------------------------------------------------------


def test_a_version_that_does_not_exist_is_exit_5_with_the_nearest(tmp_path: Path) -> None:
    project = Project(tmp_path, environment={"XDG_CACHE_HOME": str(tmp_path / "cache")})
    done = project.run("box-add", "--kiwi-version=11.1.999", "--json")
    assert done.status == 5, done.errors
    error = done.json["error"]
    assert error["code"] == 5
    assert error["brief"].startswith("There is no KIWI 11.1.999")
    named = error["details"].partition(": ")[2].split(", ")
    assert len(named) == 5
    assert "11.1.6" in named
    assert list(tmp_path.glob("cache/vagrant-kiwi/wheels/*")) == []


@pytest.mark.full
def test_a_box_with_another_kiwi_is_made_once_beside_the_default_one(
    box: str, docker_client: docker.DockerClient, runner: Runner, tmp_path: Path
) -> None:
    # A cache of its own, so that the wheels are really made.
    cache = tmp_path / "cache"
    project = Project(tmp_path, environment={"XDG_CACHE_HOME": str(cache)})
    recipe = box_recipe.find_recipe("debian-bookworm", kiwi_version=ANOTHER)
    default = docker_client.images.get(box).id
    try:
        first = project.run("box-add", f"--kiwi-version={ANOTHER}", "--json", timeout=1200)
        assert first.status == 0, first.errors
        assert first.json["kiwi"] == ANOTHER
        assert first.json["image"] == boxes.docker_tag(recipe)
        said = docker_client.containers.run(
            first.json["image"], ["kiwi-ng", "--version"], remove=True
        )
        assert said.decode().strip() == f"KIWI (next generation) version {ANOTHER}"

        started = time.monotonic()
        second = project.run("box-add", f"--kiwi-version={ANOTHER}", "--json")
        assert (second.status, second.json) == (0, first.json)
        assert time.monotonic() - started < 10

        assert project.run("box-add", "--json").json["image_id"] == default
        assert docker_client.images.get(box).id == default
        assert docker_client.images.get(first.json["image"]).id == first.json["image_id"]
    finally:
        for image in docker_client.images.list(name=recipe.repository):
            docker_client.images.remove(str(image.id), force=True)

    # What the first making wrote down is all that a second one takes.
    folder = cache / "vagrant-kiwi"
    (wheels,) = folder.glob(f"wheels/*-kiwi-{ANOTHER}")
    names = sorted(path.name for path in wheels.iterdir())
    record = wheels.with_name(f"{wheels.name}.lock")
    text = record.read_text()
    shutil.rmtree(wheels)

    def again() -> Path:
        deadline = Deadline.after(300, what="Making the wheels")
        return box_wheels.ensure_wheels(
            recipe, runner, cache=folder, log=lambda line: None, deadline=deadline
        )

    record.write_text(re.sub(r"(?m)^(docopt-ng==\S+ --hash=sha256:).*", rf"\g<1>{'0' * 64}", text))
    with pytest.raises(BoxError, match="HASHES"):
        again()
    assert not wheels.exists()
    record.write_text(text)
    assert again() == wheels
    assert sorted(path.name for path in wheels.iterdir()) == names


# --- Making boxes ------------------------------------------------------------------------------


class _Guarded(http.server.BaseHTTPRequestHandler):
    """Hands out what the real mirror has, to those who know the password."""

    upstream: str

    def do_GET(self) -> None:
        wanted = "Basic " + base64.b64encode(f"joe:{PASSWORD}".encode()).decode()
        if self.headers.get("Authorization") != wanted:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="mirror"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        answer = requests.get(self.upstream + self.path, timeout=60)
        self.send_response(answer.status_code)
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    def log_message(self, format: str, *args: object) -> None:
        """Be quiet."""


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True


@pytest.fixture
def guarded_mirror(mirror: str) -> Iterator[str]:
    """Yield the URL of a mirror that asks for a password, with the password."""

    class Handler(_Guarded):
        upstream = mirror.rstrip("/")

    with _Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://joe:{PASSWORD}@127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_two_makers_make_one_box_and_a_mirrors_password_stays_secret(
    small: Small,
    guarded_mirror: str,
    docker_client: docker.DockerClient,
    tmp_path: Path,
) -> None:
    (small.folder / "packages.txt").write_text("openssh-server\n")
    seen: set[str] = set()
    makers = [small.start(mirror=guarded_mirror) for _ in range(2)]
    watcher = threading.Thread(target=watch_arguments, args=(makers, seen))
    watcher.start()
    ended = [finish(maker, timeout=600) for maker in makers]
    watcher.join()
    assert [done.status for done in ended] == [0, 0], ended
    first, second = (made(done.output) for done in ended)
    assert first == second
    outputs = sorted((done.output for done in ended), key=len)
    assert outputs[0].splitlines()[0].startswith("Waiting: the build box")
    assert "Making the base of the box with mmdebstrap" in outputs[1]
    # Not in what is said, not in any argument, not in the image.
    assert PASSWORD not in "".join(outputs)
    assert seen == set()
    assert PASSWORD not in json.dumps(docker_client.images.get(first.image).history())
    assert not image_holds(docker_client, first.image, PASSWORD.encode())
    names = layer_names(docker_client, first.image, tmp_path)
    assert [name for name in names if name.startswith("etc/ssh/ssh_host_")] == []
    assert "etc/ssh/sshd_config" in names
    sources = docker_client.containers.run(
        first.image, ["cat", "/etc/apt/sources.list"], remove=True
    )
    assert sources.decode() == f"deb {small.recipe().facts.mirror} bookworm main\n"


def watch_arguments(makers: list[subprocess.Popen[str]], seen: set[str]) -> None:
    """Collect the processes whose arguments hold the password."""
    while any(maker.poll() is None for maker in makers):
        seen |= {line for line in command_lines() if PASSWORD in line}
        time.sleep(0.05)


def command_lines() -> Iterator[str]:
    """Yield the arguments of every process."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it ended
            yield path.read_bytes().decode("utf-8", "replace")


def image_holds(client: docker.DockerClient, image: str, secret: bytes) -> bool:
    """Tell whether the bytes stand anywhere in an image, its history and configuration included."""
    rest = b""
    for chunk in client.images.get(image).save():
        if secret in rest + chunk:
            return True
        rest = chunk[-len(secret) :]
    return False


def test_a_failing_recipe_keeps_the_older_boxes_and_a_good_one_replaces_them(
    small: Small, docker_client: docker.DockerClient, nothing_left: None
) -> None:
    repository = f"vagrant-kiwi/{small.name}"
    for tag in ("older", "used"):
        with tempfile.TemporaryFile() as stream:
            with tarfile.open(fileobj=stream, mode="w") as tar:
                tar.addfile(tarfile.TarInfo(tag))
            stream.seek(0)
            docker_client.api.import_image_from_data(stream.read(), repository, tag)
    user = docker_client.containers.create(f"{repository}:used", ["none"])
    try:
        images = {image.id for image in docker_client.images.list(all=True)}
        small.setup("echo going wrong; exit 7\n")
        done = finish(small.start(), timeout=600)
        assert done.status == 5
        assert "going wrong" in done.output
        assert "returned a non-zero code: 7" in done.output
        assert {image.id for image in docker_client.images.list(all=True)} == images
        small.setup("echo mended\n")
        box = small.make()
        assert boxes.find_docker_box(docker_client, small.recipe()) == box
        with pytest.raises(docker.errors.ImageNotFound):
            docker_client.images.get(f"{repository}:older")
        docker_client.images.get(f"{repository}:used")
    finally:
        user.remove()
    docker_client.images.remove(f"{repository}:used")
    docker_client.images.remove(box.image)


@pytest.mark.parametrize(
    "moment",
    [
        "I: extracting archives",
        pytest.param("Handing it to Docker", marks=pytest.mark.full),
        "setup runs",
    ],
)
def test_an_interrupted_build_leaves_nothing(small: Small, nothing_left: None, moment: str) -> None:
    small.setup("sleep 60\n")
    output = stop_at(small, moment, signal.SIGINT)
    assert "KeyboardInterrupt" in output
    assert sorted(path.name for path in small.cache.iterdir()) == sorted(
        ["wheels", f"{small.name}.building", f"{small.name}.lock"]
    )
    assert (small.cache / f"{small.name}.building").read_text() == ""


@pytest.mark.parametrize(
    "moment",
    [pytest.param("I: extracting archives", marks=pytest.mark.full), "setup runs"],
)
def test_after_a_killed_build_the_next_one_succeeds_and_clears_up(
    small: Small, docker_client: docker.DockerClient, nothing_left: None, moment: str
) -> None:
    small.setup("sleep 3\n")
    before = container_ids(docker_client)
    stop_at(small, moment, signal.SIGKILL)

    def ended() -> bool:
        return container_ids(docker_client) <= before and not any(
            "mmdebstrap" in line and str(small.cache) in line for line in command_lines()
        )

    wait_until(ended, what="the end of the orphaned mmdebstrap, or of the daemon's step")
    box = small.make()
    assert (small.cache / f"{small.name}.building").read_text() == ""
    docker_client.images.remove(box.image)


def container_ids(client: docker.DockerClient) -> set[str]:
    return {str(item.id) for item in client.containers.list(all=True, ignore_removed=True)}


def stop_at(small: Small, moment: str, signum: signal.Signals) -> str:
    """Start to make a box, send it a signal soon after it said something, return all it said."""
    lines = []
    with small.start() as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if moment in line:
                time.sleep(0.3)
                process.send_signal(signum)
                break
        lines.append(process.stdout.read())
        assert process.wait(timeout=120) == -signum, "".join(lines)
    return "".join(lines)


def test_an_ordinary_user_makes_a_box(small: Small, nothing_left: None) -> None:
    if os.geteuid() != 0:
        # Then all the tests above have shown it.
        return
    user = f"vk{uuid.uuid4().hex[:8]}"
    home = Path(tempfile.mkdtemp(prefix=f"{user}-"))
    subprocess.run(
        ["useradd", "--home-dir", home, "--groups", "docker", user],
        check=True,
    )
    try:
        recipe = home / small.name
        shutil.copytree(small.folder, recipe)
        subprocess.run(["chown", "-R", f"{user}:", home], check=True)
        # Nobody else may look into it, as Debian's adduser makes homes.
        home.chmod(0o700)
        theirs = Small(recipe, home / "cache", small.mirror)
        box = theirs.make("runuser", "-u", user, "--", "env", f"HOME={home}")
        assert box.name == small.name
        assert not list(theirs.cache.glob(".making-*"))
        docker.from_env().images.remove(box.image)
    finally:
        subprocess.run(["userdel", user], check=True)
        shutil.rmtree(home)
