"""--provider=docker-direct: the Docker Engine without Vagrant."""

from __future__ import annotations

import contextlib
import io
import json
import signal
import socket
import ssl
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.integration import host
from tests.integration.cli import Project, finish
from tests.integration.registry import free_port, registry
from tests.integration.stand_in import BUSY, STAND_IN, describe, start_busy
from vagrant_kiwi.guests import docker as docker_guests

IMAGE = ("--description=image", "--provider=docker-direct")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Return a project for the stand-in, whose path needs quoting."""
    folder = tmp_path / 'it\'s a "site" $HOME'
    folder.mkdir()
    made = Project(folder)
    made.settings(mirrors="off", provision=[str(STAND_IN)])
    describe(folder / "image")
    return made


@pytest.mark.parametrize("image_type", [pytest.param("tbz", marks=pytest.mark.full), "oem"])
def test_it_may_do_what_vagrants_guest_may_and_no_more(
    project: Project, docker_client: docker.DockerClient, unchanged: None, image_type: str
) -> None:
    describe(project.folder / "image", image_type=image_type)
    rights: list[dict[str, Any]] = []
    for provider in ("docker", "docker-direct"):
        done = project.run("up", "--description=image", f"--provider={provider}", "--json")
        assert done.status == 0, done.errors
        (container,) = docker_guests.containers(docker_client, done.json["guest"])
        found = dict(container.attrs["HostConfig"])
        published = found.pop("PortBindings")
        assert bool(published) is (provider == "docker")
        if provider == "docker-direct":
            assert "sshd" not in str(container.top()["Processes"])
            assert not container.attrs["NetworkSettings"]["Ports"]["22/tcp"]
        rights.append(found)
        assert project.run("down", "--description=image", f"--provider={provider}").status == 0
    assert rights[0] == rights[1]
    assert not rights[1]["Privileged"]
    assert sorted(rights[1]["CapAdd"]) == ["CAP_MKNOD", "CAP_SYS_ADMIN"]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL], ids=["TERM", "KILL"])
def test_a_stopped_build_leaves_nothing(
    project: Project, docker_client: docker.DockerClient, box: str, signum: signal.Signals
) -> None:
    before = host.take(docker_client)
    describe(project.folder / "image", behave=BUSY)
    running = start_busy(project, *IMAGE)
    running.send_signal(signum)
    assert finish(running).status == (143 if signum == signal.SIGTERM else -9)
    host.assert_as_before(before, docker_client, within=60)


def test_a_guest_that_is_up_is_used_and_stays(
    project: Project, docker_client: docker.DockerClient, unchanged: None
) -> None:
    done = project.run("up", *IMAGE, "--json")
    assert done.status == 0, done.errors
    (container,) = docker_guests.containers(docker_client, done.json["guest"])
    built = project.run("build", *IMAGE, "--json")
    assert built.status == 0, built.errors
    assert "up" not in [entry["name"] for entry in built.json["phases"]]
    record = json.loads(Path(built.json["log"]).with_name("run.json").read_text())
    assert record["reused"] == done.json["guest"]
    container.stop(timeout=1)
    assert project.run("build", *IMAGE, "--json").status == 6
    assert project.run("up", *IMAGE, "--json").json["guest"] == done.json["guest"]
    assert project.run("build", *IMAGE, "--json").status == 0
    assert project.run("down", *IMAGE, "--suspend").status == 3
    assert project.run("down", *IMAGE, "--json").json["guests"] == [done.json["guest"]]


def test_a_guest_that_was_removed_ends_the_build_at_once(
    project: Project, docker_client: docker.DockerClient, unchanged: None
) -> None:
    describe(project.folder / "image", behave=BUSY)
    running = start_busy(project, *IMAGE, "--run-id=removed-1")
    (container,) = docker_guests.containers(docker_client, "removed-1")
    started = time.monotonic()
    container.remove(force=True)
    done = finish(running)
    assert done.status == 6, done.errors
    assert "guest is gone" in done.json["error"]["brief"]
    assert time.monotonic() - started < 60


def test_what_docker_refuses_is_6_and_leaves_nothing(project: Project, unchanged: None) -> None:
    project.settings(mirrors="off", docker={"create_args": ["--device=/dev/not-there"]})
    done = project.run("build", *IMAGE, "--json")
    assert done.status == 6, done.errors
    assert "/dev/not-there" in done.json["error"]["details"]


def test_a_kept_guest_says_how_to_enter_it(
    project: Project, docker_client: docker.DockerClient, unchanged: None
) -> None:
    done = project.run("build", *IMAGE, "--keep=always", "--run-id=kept-1")
    assert done.status == 0, done.errors
    assert "docker exec -it vagrant-kiwi-kept-1 bash" in done.errors
    assert project.run("down", *IMAGE).status == 0


# --- images of a registry ---------------------------------------------------------------------


def test_images_of_a_registry_are_pulled_as_the_policy_says(
    project: Project, docker_client: docker.DockerClient, unchanged: None, tmp_path: Path
) -> None:
    port = free_port()
    name = f"127.0.0.1:{port}/team/no-box:1"
    empty = io.BytesIO()
    with tarfile.open(fileobj=empty, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("file"), io.BytesIO())
    project.settings(mirrors="off", docker={"pull": "never"})

    def build(*words: str) -> tuple[int, str]:
        done = project.run("build", *IMAGE, f"--box={name}", "--json", *words)
        return done.status, str(done.json["error"])

    try:
        docker_client.api.import_image_from_data(
            empty.getvalue(), repository=name.rpartition(":")[0], tag="1"
        )
        with registry(tmp_path, port):
            docker_client.images.push(name)
            docker_client.images.remove(name)
            assert build()[0] == 5
            # It is had, and shows that it is no box: there is not even a program in it.
            status, error = build("--pull=missing")
            assert (status, "guest does not run" in error) == (6, True), error
            docker_client.images.remove(name)
            assert build("--pull=always")[0] == 6
        assert build("--pull=missing")[0] == 6, "it is there"
        status, error = build("--pull=always")
        assert (status, "cannot be pulled" in error) == (5, True), error
        assert build()[0] == 6
    finally:
        with contextlib.suppress(docker.errors.ImageNotFound):
            docker_client.images.remove(name)


def test_a_box_of_a_registry_builds(
    project: Project, docker_client: docker.DockerClient, unchanged: None, box: str
) -> None:
    name = "registry.example.com/team/kiwi:1"
    docker_client.images.get(box).tag("registry.example.com/team/kiwi", "1")
    try:
        for provider in ("docker", "docker-direct"):
            done = project.run(
                "build", "--description=image", f"--provider={provider}", f"--box={name}", "--json"
            )
            assert done.status == 0, done.errors
            manifest = json.loads((Path(done.json["result_dir"]) / "manifest.json").read_text())
            assert manifest["box"]["image"] == name
    finally:
        docker_client.images.remove(name)


# --- other ways to the daemon -----------------------------------------------------------------


def test_dockers_own_contexts_are_respected(
    project: Project, tmp_path: Path, unchanged: None
) -> None:
    config = tmp_path / "docker-config"
    project.environment = {"DOCKER_CONFIG": str(config)}
    context = ["docker", "--config", str(config), "context", "create"]
    for name, where in (
        ("here", "unix:///var/run/docker.sock"),
        ("dead", "unix:///nowhere.sock"),
    ):
        subprocess.run(
            [*context, name, "--docker", f"host={where}"], check=True, capture_output=True
        )
    subprocess.run(["docker", "--config", str(config), "context", "use", "dead"], check=True)
    assert project.run("build", *IMAGE, "--json").status == 4
    project.environment = {**project.environment, "DOCKER_CONTEXT": "here"}
    done = project.run("build", *IMAGE, "--json")
    assert done.status == 0, done.errors
    project.environment = {**project.environment, "DOCKER_CONTEXT": "unknown"}
    done = project.run("build", *IMAGE, "--json")
    assert done.status == 4
    assert "docker context" in done.json["error"]["resolution"]


def certificates(folder: Path) -> None:
    """Make an authority, and certificates for a server and a client, under Docker's names."""

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    new = ("req", "-newkey", "rsa:2048", "-nodes", "-days", "2")
    openssl(*new, "-x509", "-subj", "/CN=authority", "-keyout", "ca-key.pem", "-out", "ca.pem")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    for name in ("server", "client"):
        openssl(*new[:-2], "-subj", f"/CN={name}", "-keyout", f"{name}-key.pem", "-out", "request")
        openssl(
            *("x509", "-req", "-in", "request", "-CA", "ca.pem", "-CAkey", "ca-key.pem"),
            *("-CAcreateserial", "-days", "2", "-extfile", "names", "-out", f"{name}.pem"),
        )
    (folder / "client.pem").rename(folder / "cert.pem")
    (folder / "client-key.pem").rename(folder / "key.pem")


@contextlib.contextmanager
def daemon_by_tls(folder: Path) -> Iterator[int]:
    """Offer the real daemon over TCP with TLS, to those who have a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server-key.pem")
    context.load_verify_locations(folder / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    listener = socket.create_server(("127.0.0.1", 0))

    def copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(65536):
                target.sendall(chunk)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve(plain: socket.socket) -> None:
        try:
            secured = context.wrap_socket(plain, server_side=True)
        except OSError:
            plain.close()
            return
        with secured, socket.socket(socket.AF_UNIX) as upstream:
            upstream.connect("/var/run/docker.sock")
            back = threading.Thread(target=copy, args=(upstream, secured), daemon=True)
            back.start()
            copy(secured, upstream)
            back.join()

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        # Wakes the thread that waits for the next one; closing alone would not.
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def test_a_daemon_behind_tls(project: Project, tmp_path: Path, unchanged: None) -> None:
    folder = tmp_path / "certificates"
    folder.mkdir()
    certificates(folder)
    with daemon_by_tls(folder) as port:
        project.environment = {
            "DOCKER_HOST": f"tcp://127.0.0.1:{port}",
            "DOCKER_TLS_VERIFY": "1",
            "DOCKER_CERT_PATH": str(folder),
        }
        done = project.run("build", *IMAGE, "--json")
        assert done.status == 0, done.errors
        (folder / "cert.pem").write_bytes((folder / "ca.pem").read_bytes())
        (folder / "key.pem").write_bytes((folder / "ca-key.pem").read_bytes())
        (folder / "ca.pem").write_bytes((folder / "server.pem").read_bytes())
        assert project.run("build", *IMAGE, "--json").status == 4
