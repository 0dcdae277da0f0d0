"""The checks of built images, against the smallest images there are; no KIWI here."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import shutil
import struct
import tarfile
import time
from pathlib import Path

import docker
import pytest

from tests.integration import images
from tests.integration.conftest import need
from vagrant_kiwi.process import Runner

_NAME = "example.org/vagrant-kiwi-test/hello:1"


@pytest.fixture(scope="module", autouse=True)
def _qemu() -> None:
    if platform.machine() != "x86_64":
        need("these images are for x86_64")
    if shutil.which("qemu-system-x86_64") is None:
        need("not installed: qemu-system-x86_64")


# An archive


def _tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
    return path


@pytest.mark.parametrize("prefix", ["", "./"])
def test_a_file_is_read_from_an_archive(tmp_path: Path, prefix: str) -> None:
    archive = _tar(
        tmp_path / "a.tar.xz", {f"{prefix}etc/a": b"1", f"{prefix}etc/b": b"\xff"}, "w:xz"
    )
    assert images.read_from_tarball(archive, "/etc/b") == b"\xff"
    assert images.list_tarball(archive) == {"/etc/a", "/etc/b"}


def test_a_missing_file_and_a_link_are_errors(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as tar:
        link = tarfile.TarInfo("etc/link")
        link.type, link.linkname = tarfile.SYMTYPE, "nowhere"
        tar.addfile(link)
    with pytest.raises(AssertionError, match="/etc/none is not in"):
        images.read_from_tarball(archive, "/etc/none")
    with pytest.raises(AssertionError, match="not a regular file"):
        images.read_from_tarball(archive, "/etc/link")


# A container


def _program(text: bytes, status: int) -> bytes:
    """Return an ELF program for Linux on x86_64 that writes a text and exits."""
    load, headers, size = 0x400000, 64 + 56, 34
    start = load + headers
    code = struct.pack(
        "<BIBIBIBI2s", 0xB8, 1, 0xBF, 1, 0xBE, start + size, 0xBA, len(text), b"\x0f\x05"
    )
    code += struct.pack("<BIBI2s", 0xB8, 60, 0xBF, status, b"\x0f\x05")
    whole = headers + size + len(text)
    elf = struct.pack("<4s4B8x", b"\x7fELF", 2, 1, 1, 0)
    elf += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, start, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, load, load, whole, whole, 0x1000)
    return elf + segment + code + text


def _container(folder: Path, text: bytes, status: int = 0) -> Path:
    """Write what ``docker save`` would write of an image with one program."""
    layer = _tar(folder / "layer.tar", {"hello": _program(text, status)}).read_bytes()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/hello"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [_NAME], "Layers": ["layer.tar"]}]
    members = {
        "layer.tar": layer,
        "config.json": json.dumps(config).encode(),
        "manifest.json": json.dumps(manifest).encode(),
    }
    return _tar(folder / f"{status}-{len(text)}.docker.tar.xz", members, "w:xz")


def _daemon(client: docker.DockerClient) -> tuple[set[str | None], set[str]]:
    """Return what this test could leave behind: its containers and its image's names."""
    containers = client.containers.list(all=True, ignore_removed=True)
    return (
        {container.id for container in containers if container.attrs["Path"] == "/hello"},
        {tag for image in client.images.list() for tag in image.tags if "hello" in tag},
    )


@pytest.mark.parametrize("command", [None, ["/hello", "ignored"]])
def test_a_container_image_runs_and_goes(
    docker_client: docker.DockerClient, tmp_path: Path, command: list[str] | None
) -> None:
    archive = _container(tmp_path, b"hello\n")
    assert images.run_container_image(docker_client, archive, command) == "hello\n"
    assert _daemon(docker_client) == (set(), set())


def test_a_failing_container_is_an_error_and_goes(
    docker_client: docker.DockerClient, tmp_path: Path
) -> None:
    archive = _container(tmp_path, b"trouble\n", status=3)
    with pytest.raises(AssertionError, match=r"exited 3:\ntrouble"):
        images.run_container_image(docker_client, archive)
    assert _daemon(docker_client) == (set(), set())


def test_an_image_that_was_there_before_stays(
    docker_client: docker.DockerClient, tmp_path: Path
) -> None:
    mine, same_name = _container(tmp_path, b"mine\n"), _container(tmp_path, b"other text\n")
    with mine.open("rb") as stream:
        (kept,) = docker_client.images.load(stream)
    try:
        assert images.run_container_image(docker_client, mine) == "mine\n"
        assert images.run_container_image(docker_client, same_name) == "other text\n"
        assert docker_client.images.get(_NAME).id == kept.id
    finally:
        docker_client.images.remove(str(kept.id), force=True)


# A disk


def _disk(path: Path, says: bytes) -> Path:
    """Write a boot sector that writes a text to the first serial port and halts."""
    code = bytes.fromhex("31c0 8ed8 fc baf803 be167c ac 84c0 7403 ee ebf8 f4 ebfd")
    sector = (code + says + b"\0").ljust(510, b"\0") + b"\x55\xaa"
    path.write_bytes(sector.ljust(1 << 20, b"\0"))
    return path


def test_the_console_up_to_the_prompt(runner: Runner, tmp_path: Path) -> None:
    disk = _disk(
        tmp_path / "a,b.raw", b"\x1b[0;32mStarting\x1b[0m\r\nno login: here\r\n\r\nhost login: "
    )
    before = disk.read_bytes()
    assert images.boot_to_login(disk, runner=runner, timeout=60).endswith(
        "Starting\nno login: here\n\nhost login: "
    )
    assert disk.read_bytes() == before


def test_no_prompt_in_time(runner: Runner, tmp_path: Path) -> None:
    disk = _disk(tmp_path / "slow.raw", b"still booting\r\n")
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=r"no login prompt after 3 s(.|\n)*still booting"):
        images.boot_to_login(disk, runner=runner, timeout=3)
    assert time.monotonic() - started < 10


def test_a_panic_is_not_waited_for(runner: Runner, tmp_path: Path) -> None:
    disk = _disk(tmp_path / "panic.raw", b"Kernel panic - not syncing: no init\r\n")
    with pytest.raises(AssertionError, match="not syncing: no init"):
        images.boot_to_login(disk, runner=runner, timeout=60)


def test_qemu_that_ends_says_why(runner: Runner, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="No such file"):
        images.boot_to_login(tmp_path / "none.raw", runner=runner, timeout=60)
