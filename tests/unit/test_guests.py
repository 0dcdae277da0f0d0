"""The small pure parts of the guests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vagrant_kiwi.errors import GuestError
from vagrant_kiwi.guests import docker, processes, record, ssh
from vagrant_kiwi.guests.vagrant_command import read_login

SSH_CONFIG = """Host default
  HostName 127.0.0.1
  User vagrant
  Port 32768
  UserKnownHostsFile /dev/null
  StrictHostKeyChecking no
  PasswordAuthentication no
  IdentityFile "/state dir/private_key"
  IdentityFile /home/me/.vagrant.d/insecure_private_key
  IdentitiesOnly yes
  LogLevel FATAL
"""


def test_only_four_fields_are_taken_and_the_first_key_counts() -> None:
    login = read_login(SSH_CONFIG, alias="vagrant-kiwi-r1")
    assert login == ssh.Login(
        "127.0.0.1", 32768, "vagrant", Path("/state dir/private_key"), "vagrant-kiwi-r1"
    )


@pytest.mark.parametrize("answer", ["", "Host default\n", SSH_CONFIG.replace("32768", "none")])
def test_an_unusable_answer_is_refused(answer: str) -> None:
    with pytest.raises(GuestError) as caught:
        read_login(answer, alias="x")
    assert caught.value.code == 6


def test_our_ssh_configuration_pins_the_host_key(tmp_path: Path) -> None:
    key = tmp_path / "odd % ~ ${HOME} name"
    key.write_text("private")
    runtime = tmp_path / "vk"
    runtime.mkdir()
    login = ssh.Login("127.0.0.1", 2222, "vagrant", key, "alias")
    config = ssh.write_config(runtime, login, known_hosts="alias ssh-ed25519 AAAA\n")
    text = config.read_text()
    assert "StrictHostKeyChecking yes" in text
    assert "HostKeyAlias alias" in text
    assert "/dev/null" not in text
    assert str(key) not in text, "ssh would expand the signs in it"
    assert (runtime / "key").read_text() == "private"
    assert (runtime / "known_hosts").read_text() == "alias ssh-ed25519 AAAA\n"


def test_the_runtime_folder_is_private_and_short() -> None:
    folder = ssh.runtime_folder()
    try:
        assert folder.stat().st_mode & 0o777 == 0o700
        assert len(str(folder / "s")) < 80
    finally:
        folder.rmdir()


def test_loop_devices_are_found_by_the_run_in_their_backing_file(tmp_path: Path) -> None:
    for minor, backing in (
        (0, "/var/lib/vagrant-kiwi/r1/target/x.raw\n"),
        (1, "/var/lib/vagrant-kiwi/r10/target/x.raw\n"),
        (2, "/other\n"),
        (3, None),
        (11, "/var/lib/vagrant-kiwi/r1/target/x.raw (deleted)\n"),
    ):
        (tmp_path / f"loop{minor}" / "loop").mkdir(parents=True)
        if backing is not None:
            (tmp_path / f"loop{minor}" / "loop/backing_file").write_text(backing)
    assert docker.loop_devices("r1", sys_block=tmp_path) == (0, 11)


def test_processes_are_found_by_their_mark_alone(tmp_path: Path) -> None:
    for pid, environment in (
        (4194301, b"A=1\0VAGRANT_KIWI_RUN=r1\0"),
        (4194302, b"VAGRANT_KIWI_RUN=r10\0"),
        (4194303, b"X=VAGRANT_KIWI_RUN=r1\0"),
        (os.getpid(), b"VAGRANT_KIWI_RUN=r1\0"),
    ):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "environ").write_bytes(environment)
    (tmp_path / "4194300").mkdir()
    assert processes.of_run("r1", proc=tmp_path) == (4194301,)


def test_a_record_survives_the_disk(tmp_path: Path) -> None:
    assert record.load(tmp_path) is None
    made = record.GuestRecord(
        run_id="r1", provider="docker", image="i", folder=tmp_path / "guest", runtime=tmp_path
    )
    made.save(tmp_path)
    assert record.load(tmp_path) == made


def test_a_run_id_that_is_a_folder_of_the_host_hits_nothing_else(tmp_path: Path) -> None:
    for minor, backing in enumerate(("/var/lib/snapd/snaps/core.snap\n", "/home/me/build/x\n")):
        (tmp_path / f"loop{minor}" / "loop").mkdir(parents=True)
        (tmp_path / f"loop{minor}" / "loop/backing_file").write_text(backing)
    assert docker.loop_devices("lib", sys_block=tmp_path) == ()
    assert docker.loop_devices("build", sys_block=tmp_path) == ()


def test_a_proxy_is_one_command_for_ssh(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("private")
    runtime = tmp_path / "vk"
    runtime.mkdir()
    proxy = ("ssh", "-l", "me", "-W", "[%h]:%p", "host")
    login = ssh.Login("192.168.122.2", 22, "vagrant", key, "alias", proxy)
    text = ssh.write_config(runtime, login, known_hosts="").read_text()
    assert "ProxyCommand ssh -l me -W '[%h]:%p' host" in text


def test_a_record_comes_back_with_its_login(tmp_path: Path) -> None:
    login = ssh.Login("127.0.0.1", 2222, "vagrant", Path("/k"), "alias", ("ssh", "-W"))
    written = record.GuestRecord(
        run_id="r2", provider="libvirt", image="i", folder=tmp_path, login=login, reuses="r1"
    )
    written.save(tmp_path)
    assert record.load(tmp_path) == written
    assert written.guest_run == "r1"
