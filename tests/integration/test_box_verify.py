"""Boxes are looked into: the real docker box, and small ones with something planted in them.

Disks are looked into here, too: it takes no virtual machine.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.integration.conftest import need
from vagrant_kiwi import box_look_docker, box_look_machine, box_verify
from vagrant_kiwi.box_verify import Look
from vagrant_kiwi.deadline import Deadline
from vagrant_kiwi.errors import BoxError, PhaseTimeoutError
from vagrant_kiwi.process import Runner

MIB = 2**20
MACHINE_ID = "0123456789abcdef0123456789abcdef"
KIWI = "usr/lib/python3/dist-packages/kiwi-9.24.56.egg-info/PKG-INFO"


def soon(seconds: float = 300) -> Deadline:
    return Deadline.after(seconds, what="Looking into the box")


def sentences(look: Look) -> list[str]:
    return list(box_verify.problems(look, stated_kiwi="11.1.6", allowed_keys=()))


@pytest.fixture
def line(tmp_path: Path) -> str:
    """Return the public line of a new key."""
    key = tmp_path / "somebody's key"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "somebody", "-f", key], check=True
    )
    return key.with_name(f"{key.name}.pub").read_text().strip()


def fingerprint(line: str) -> str:
    done = subprocess.run(
        ["ssh-keygen", "-l", "-f", "-"], input=line, capture_output=True, text=True, check=True
    )
    return done.stdout.split()[1]


def plant(root: Path, line: str) -> None:
    """Write a system that has all that a box should not have."""
    files = {
        "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n"
        "joe:x:1000:1000::/home/joe\"s 'own':/bin/sh\n",
        "etc/machine-id": f"{MACHINE_ID}\n",
        "etc/ssh/ssh_host_rsa_key": "secret",
        "etc/ssh/sshd_config": "AuthorizedKeysFile .ssh/authorized_keys /etc/keys/%u\n",
        "root/.ssh/authorized_keys": f"# mine\n{line}\n",
        "home/joe\"s 'own'/.ssh/authorized_keys": f'no-pty,command="a \\"b" {line}\n',
        "etc/keys/joe": f"{line}\n",
        "var/lib/systemd/random-seed": "noise",
        KIWI: "Name: kiwi\nVersion: 9.24.56\n",
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


# --- Docker ------------------------------------------------------------------------------------


def test_our_docker_box_is_good(box: str, docker_client: docker.DockerClient) -> None:
    log: list[str] = []
    look = box_look_docker.look_docker(docker_client, box, deadline=soon(), log=log.append)
    assert sentences(look) == []
    assert look.kiwi == "11.1.6"
    assert [path for path, _ in look.authorized_keys] == ["/home/vagrant/.ssh/authorized_keys"]
    assert log[-1].startswith("looked into a layer of ")


@pytest.fixture
def planted(docker_client: docker.DockerClient, tmp_path: Path, line: str) -> Iterator[str]:
    """Yield an image of three layers: the last one deletes a host key of the first."""
    context = tmp_path / "context"
    plant(context / "root", line)
    os.link(context / "root/etc/ssh/ssh_host_rsa_key", context / "root/etc/ssh/ssh_host_key.bak")
    for source in _with_libraries("/bin/rm"):
        target = context / "root" / source.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    (context / "more/var/lib/dbus").mkdir(parents=True)
    (context / "more/var/lib/dbus/machine-id").symlink_to("../../../etc/machine-id")
    (context / "Dockerfile").write_text(
        "FROM scratch\nCOPY root/ /\nCOPY more/ /\n"
        'RUN ["/bin/rm", "-r", "/etc/ssh/ssh_host_rsa_key", "/var/lib/systemd"]\n'
    )
    tag = f"vk-test-{uuid.uuid4().hex[:8]}"
    docker_client.images.build(path=str(context), tag=tag, rm=True, forcerm=True)
    yield tag
    docker_client.images.remove(tag, force=True)


def _with_libraries(program: str) -> list[str]:
    """Return a program and the libraries that it is started with."""
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    return [program, *(word for word in said.split() if word.startswith("/"))]


def test_what_is_planted_in_an_image_is_named(
    planted: str, docker_client: docker.DockerClient, line: str
) -> None:
    look = box_look_docker.look_docker(docker_client, planted, deadline=soon(), log=lambda _: None)
    strange = f"lets in a key that is not Vagrant's: ssh-ed25519 {fingerprint(line)} (somebody)."
    assert sentences(look) == [
        "It carries SSH host keys, the same for all guests: /etc/ssh/ssh_host_key.bak.",
        "A layer below carries SSH host keys that a later one deletes, so whoever has the image "
        "has them: /etc/ssh/ssh_host_rsa_key.",
        f"It carries a machine-id, the same for all guests: {MACHINE_ID}.",
        f"/etc/keys/joe {strange}",
        f"/home/joe\"s 'own'/.ssh/authorized_keys {strange}",
        f"/root/.ssh/authorized_keys {strange}",
        "KIWI 9.24.56 is in it (/usr/lib/python3/dist-packages), but 11.1.6 is stated.",
    ]
    used = docker_client.containers.list(
        all=True, filters={"ancestor": planted}, ignore_removed=True
    )
    assert used == [], "nothing of it was started, and no container made"


def test_an_image_that_is_not_there_is_5(docker_client: docker.DockerClient) -> None:
    with pytest.raises(BoxError, match="There is no image") as caught:
        box_look_docker.look_docker(
            docker_client, "vk-test-none:1", deadline=soon(), log=lambda _: None
        )
    assert caught.value.code == 5


def test_a_look_that_takes_too_long_is_124(
    planted: str, docker_client: docker.DockerClient
) -> None:
    with pytest.raises(PhaseTimeoutError):
        box_look_docker.look_docker(
            docker_client, planted, deadline=soon(0.001), log=lambda _: None
        )


# --- Disks -------------------------------------------------------------------------------------

#: Makes disks with the tools of the build box. The first partition is left for the system, another
#: one (6 or 4) for what lies below /home; the last one of the GPT stays empty.
DISKS = r"""
set -eu
mkdir /tmp/disks
cd /tmp/disks
truncate -s 48M mbr.raw gpt.raw luks.raw
truncate -s 128M btrfs.raw
printf '%s\n' 'label: dos' 'start=2048, size=61440, type=83' 'type=5' 'size=4096, type=82' \
    'type=83' | sfdisk -q mbr.raw
truncate -s 2M swap
mkswap -q swap 2>/dev/null
start=$(sfdisk -q -l -o Device,Start mbr.raw | awk '/raw5/ {print $2}')
dd if=swap of=mbr.raw bs=512 seek="$start" conv=notrunc status=none
printf '%s\n' 'label: gpt' 'start=2048, size=61440, type=linux' 'size=2048, type=uefi' \
    'size=2048, type=21686148-6449-6E6F-744E-656564454649' 'size=20480, type=linux' \
    'type=linux' | sfdisk -q gpt.raw
mkfs.vfat --offset 63488 gpt.raw 1024 >/dev/null
printf 'boot code' | dd of=gpt.raw bs=512 seek=65536 conv=notrunc status=none
mkfs.btrfs -q btrfs.raw
printf secret | cryptsetup -q luksFormat --type luks1 --pbkdf-force-iterations 1000 luks.raw -
tar -cSzf /tmp/disks.tar.gz *.raw
"""
#: Bytes at which the partition for /home begins, as the tables above have it.
HOME = {"mbr": 71680 * 512, "gpt": 67584 * 512}


@pytest.fixture(scope="module")
def _disk_tools() -> None:
    missing = [name for name in ("qemu-img", "mke2fs", "debugfs") if _program(name) is None]
    if missing:
        need(f"not installed: {', '.join(missing)}")


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


@pytest.fixture(scope="module")
def disks(
    _disk_tools: None,
    box: str,
    docker_client: docker.DockerClient,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Return a folder with disks that have tables and no system yet."""
    container = docker_client.containers.create(box, ["sh", "-c", DISKS], network_mode="none")
    try:
        container.start()
        status = container.wait(timeout=120)["StatusCode"]
        assert status == 0, container.logs().decode()
        chunks, _ = container.get_archive("/tmp/disks.tar.gz")
        outer = io.BytesIO(b"".join(chunks))
    finally:
        container.remove(force=True, v=True)
    folder = tmp_path_factory.mktemp("disks")
    with tarfile.open(fileobj=outer) as saved:
        inner = saved.extractfile("disks.tar.gz")
        assert inner is not None
        subprocess.run(["tar", "-xzf", "-", "-C", folder], input=inner.read(), check=True)
    return folder


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """Yield a folder with a name that is hard to quote; it is empty again afterwards."""
    folder = tmp_path / 'it\'s a "site" $HOME, a?b=c'
    folder.mkdir()
    yield folder
    assert list(folder.iterdir()) == []


def make_ext4(disk: Path, offset: int, size: str, content: Path, *options: str) -> None:
    mke2fs = str(_program("mke2fs"))
    command = [mke2fs, "-q", "-F", "-t", "ext4", "-b", "4096", "-d", str(content)]
    command += ["-E", f"offset={offset}", *options, str(disk), size]
    subprocess.run(command, check=True)


def pack(raw: Path, file: Path, *options: str) -> Path:
    """Make a box of a raw disk, as vagrant-libvirt has it."""
    folder = file.parent
    convert = ["qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", *options]
    subprocess.run([*convert, raw, folder / "box.img"], check=True)
    (folder / "metadata.json").write_text('{"provider": "libvirt", "format": "qcow2"}')
    subprocess.run(["tar", "-cSzf", file, "box.img", "metadata.json"], cwd=folder, check=True)
    return file


def look_at(file: Path, runner: Runner, scratch: Path, *, deadline: Deadline | None = None) -> Look:
    return box_look_machine.look_machine(
        file, runner, scratch=scratch, deadline=deadline or soon(), update=lambda _: None
    )


@pytest.mark.parametrize(("table", "home"), [("mbr", 6), ("gpt", 4)])
def test_what_is_planted_in_a_disk_is_named(
    table: str, home: int, disks: Path, runner: Runner, scratch: Path, tmp_path: Path, line: str
) -> None:
    root, users = tmp_path / "root", tmp_path / "home"
    plant(root, line)
    (root / "srv/new\nline/\x1b[31m\udcff").mkdir(parents=True)
    (users / "amy/.ssh").mkdir(parents=True)
    (users / "amy/.ssh/authorized_keys2").write_text(f"{line}\n")
    raw = disks / f"{table}.raw"
    make_ext4(raw, MIB, "30M", root)
    make_ext4(raw, HOME[table], "10M", users, "-O", "inline_data")
    look = look_at(pack(raw, tmp_path / "a b.box", "-c"), runner, scratch)
    strange = f"lets in a key that is not Vagrant's: ssh-ed25519 {fingerprint(line)} (somebody)."
    assert sentences(look) == [
        "It carries SSH host keys, the same for all guests: "
        "partition 1: /etc/ssh/ssh_host_rsa_key.",
        f"It carries a machine-id, the same for all guests: {MACHINE_ID}.",
        "It carries a random seed, the same for all guests: /var/lib/systemd/random-seed.",
        f"partition 1: /etc/keys/joe {strange}",
        f"partition 1: /home/joe\"s 'own'/.ssh/authorized_keys {strange}",
        f"partition 1: /root/.ssh/authorized_keys {strange}",
        f"partition {home}: /amy/.ssh/authorized_keys2 {strange}",
        "KIWI 9.24.56 is in it (partition 1: /usr/lib/python3/dist-packages), "
        "but 11.1.6 is stated.",
    ]


@pytest.mark.parametrize(("kind", "name"), [("btrfs", "btrfs"), ("luks", "LUKS")])
def test_a_disk_of_another_kind_is_named_as_not_looked_into(
    kind: str, name: str, disks: Path, runner: Runner, scratch: Path, tmp_path: Path
) -> None:
    look = look_at(pack(disks / f"{kind}.raw", tmp_path / "x.box"), runner, scratch)
    assert sentences(look) == [f"It cannot be looked into: the disk: {name}."]


def test_damaged_file_systems_are_never_good(
    _disk_tools: None, runner: Runner, scratch: Path, tmp_path: Path, line: str
) -> None:
    root = tmp_path / "root"
    plant(root, line)
    whole = tmp_path / "whole.raw"
    make_ext4(whole, 0, "30M", root)
    with whole.open("rb") as stream:
        good = stream.read()
    table = good.index(b"ssh_host_rsa_key") & ~0xFFF
    for name, offset, data in (
        ("super block", 0x400, bytes(56)),
        ("a folder", table, b"\xff" * 16),
        ("its journal's state", 0x400 + 0x60, bytes([good[0x460] | 4])),
    ):
        whole.write_bytes(good[:offset] + data + good[offset + len(data) :])
        look = look_at(pack(whole, tmp_path / "x.box"), runner, scratch)
        assert look.unread, name


def test_a_disk_that_refers_to_another_file_is_5(
    _disk_tools: None, runner: Runner, scratch: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"of this host" * 10_000)
    disk = tmp_path / "box.img"
    for options in (
        ["-b", str(secret), "-F", "raw", str(disk)],
        ["-o", f"data_file={secret},data_file_raw=on", str(disk), "120000"],
    ):
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options], check=True)
        with pytest.raises(BoxError) as caught:
            look_at(disk, runner, scratch)
        assert caught.value.code == 5
        assert " file" in caught.value.details


def test_a_disk_that_takes_too_long_is_124(
    disks: Path, runner: Runner, scratch: Path, tmp_path: Path
) -> None:
    box = pack(disks / "luks.raw", tmp_path / "x.box")
    with pytest.raises(PhaseTimeoutError):
        look_at(box, runner, scratch, deadline=soon(0.001))
