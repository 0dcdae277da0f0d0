"""Existing machines: which are tried, ssh's configuration, and what is found missing there."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from tests.unit.fakes import FakeGuest, result
from vagrant_kiwi import hosts
from vagrant_kiwi.errors import PreflightError, SettingsError
from vagrant_kiwi.guests import host_check, host_ssh
from vagrant_kiwi.hosts import HostTarget
from vagrant_kiwi.settings import HostEntry, HostSettings, Settings

FIT = b"kiwi KIWI (next generation) version 11.1.6\ndisk ext4     50000000000\n"


def _target(**given: object) -> HostTarget:
    usual: dict[str, object] = {
        "address": "build.example.com",
        "port": 22,
        "user": "me",
        "identity_file": None,
        "known_hosts": None,
        "jump": None,
        "accept_new": False,
    }
    return HostTarget(**{**usual, **given})  # type: ignore[arg-type]


def test_one_machine_with_its_defaults() -> None:
    (target,) = hosts.targets(Settings(host=HostSettings(address="build.example.com")))
    assert target == _target(user=pwd.getpwuid(os.getuid()).pw_name)
    assert "build.example.com port 22" in target.who


def test_several_machines_take_from_host_what_they_leave_out() -> None:
    settings = Settings(
        host=HostSettings(
            address="unused", user="me", port=2222, jump="way", host_key="accept-new"
        ),
        hosts=(HostEntry(address="a"), HostEntry(address="b", user="you", port=22, jump="other")),
    )
    assert hosts.targets(settings) == (
        _target(address="a", port=2222, jump="way", accept_new=True),
        _target(address="b", user="you", jump="other", accept_new=True),
    )


def test_no_machine_is_3() -> None:
    with pytest.raises(SettingsError) as caught:
        hosts.targets(Settings())
    assert "--host" in caught.value.resolution


@pytest.mark.parametrize(
    "value",
    ["-oProxyCommand=x", "a b", "a\nb", "", "me@host", "host:22 x", "a;b", "$(x)", "a/b", "a:22"],
)
def test_an_address_is_no_way_into_ssh_s_options(value: str) -> None:
    for given in ({"address": value}, {"address": "a", "user": f"-{value}"}):
        with pytest.raises(ValueError, match=r"pattern|port"):
            HostEntry(**given)


def test_the_configuration_checks_the_key_and_quotes_no_path(tmp_path: Path) -> None:
    odd = tmp_path / "odd % ~ ${HOME} name"
    odd.mkdir()
    text = host_ssh.write_config(
        tmp_path, _target(identity_file=odd / "key", known_hosts=odd / "known")
    ).read_text()
    assert "StrictHostKeyChecking yes" in text
    assert "GlobalKnownHostsFile none" in text
    assert "IdentitiesOnly yes" in text
    assert "odd" not in text
    assert (tmp_path / "key").readlink() == odd / "key"
    assert "Host jump" not in text


def test_new_keys_only_when_asked_for_and_the_way_is_checked_too(tmp_path: Path) -> None:
    target = _target(accept_new=True, jump="you@way.example.com:2222")
    text = host_ssh.write_config(tmp_path, target).read_text()
    here, _, way = text.partition("Host jump\n")
    assert "StrictHostKeyChecking accept-new" in here
    assert f"ProxyCommand ssh -F {tmp_path}/config -W [%h]:%p jump" in here
    for line in (
        "HostName way.example.com",
        "Port 2222",
        "User you",
        "accept-new",
        "BatchMode yes",
    ):
        assert line in way
    assert "IdentityFile" not in text, "ssh chooses, with the agent"


def test_a_fit_machine_tells_its_kiwi() -> None:
    guest = FakeGuest([("sudo", result()), ("kiwi-ng", result(FIT))])
    assert host_check.check(guest, "it", folder="/srv", kiwi=None) == "11.1.6"


@pytest.mark.parametrize(
    ("sudo", "said", "wanted", "found"),
    [
        (1, FIT, None, ["sudo without a password does not work"]),
        (0, b"missing kiwi-ng\nmissing rsync\n" + FIT, None, ["not there: kiwi-ng, rsync"]),
        (0, FIT.replace(b"11.1.6", b"9.24.56"), None, ["9.24.56, and 10.2.27 is the oldest"]),
        (0, FIT.replace(b"11.1.6", b""), None, ["does not tell its version"]),
        (0, FIT, "11.1.5", ["kiwi_version asks for 11.1.5"]),
        (0, FIT.replace(b"ext4", b"nfs4"), None, ["/srv is on nfs4", "KIWI needs one of btrfs"]),
        (0, FIT.replace(b"50000000000", b"1000"), None, ["/srv has 0.0 GiB free"]),
        (0, b"readonly /srv\n" + FIT, None, ["root cannot write to /srv"]),
        (0, b"", None, ["does not tell its version", "unknown file system", "0.0 GiB"]),
    ],
)
def test_what_is_missing_is_named_all_at_once(
    sudo: int, said: bytes, wanted: str | None, found: list[str]
) -> None:
    guest = FakeGuest(
        [("sudo", result(status=sudo, errors=b"a password is required")), ("kiwi", result(said))]
    )
    with pytest.raises(PreflightError) as caught:
        host_check.check(guest, "it", folder="/srv", kiwi=wanted)
    for words in found:
        assert words in caught.value.details
    assert caught.value.code == 4


@pytest.mark.parametrize(
    "folder", ["/", "relative", "/with space", "/srv/c++", "/a/../b", "/a//b", "/a/.hidden"]
)
def test_the_folder_of_the_runs_has_a_plain_name(folder: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        HostSettings(folder=folder)


def test_a_link_local_address_keeps_its_interface(tmp_path: Path) -> None:
    text = host_ssh.write_config(tmp_path, _target(address="fe80::1%eth0")).read_text()
    assert "HostName fe80::1%%eth0" in text
