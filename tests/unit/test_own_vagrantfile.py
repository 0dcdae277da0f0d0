"""When a Vagrantfile of the user's own is used."""

from __future__ import annotations

from pathlib import Path

import pytest

from vagrant_kiwi import own_vagrantfile
from vagrant_kiwi.errors import GuestError, SettingsError
from vagrant_kiwi.guests.vagrant_command import read_login
from vagrant_kiwi.settings import Settings


def _choose(folder: Path, **given: object) -> tuple[Path | None, list[str]]:
    said: list[str] = []
    settings = Settings(**given)
    return own_vagrantfile.choose(settings, folder, say=said.append), said


def test_nothing_is_said_where_there_is_none(tmp_path: Path) -> None:
    assert _choose(tmp_path) == (None, [])
    assert _choose(tmp_path, vagrantfile="trust") == (None, [])


def test_one_beside_the_description_needs_somebody_s_word(tmp_path: Path) -> None:
    path = tmp_path / "Vagrantfile"
    path.write_text("")
    found, said = _choose(tmp_path)
    assert found is None
    assert str(path) in said[0]
    assert _choose(tmp_path, vagrantfile="trust") == (path, [])
    for provider in ("docker-direct", "host"):
        assert _choose(tmp_path, provider=provider) == (None, [])
        assert _choose(tmp_path, provider=provider, vagrantfile="trust") == (None, [])


def test_a_path_is_used_wherever_it_lies(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "Vagrantfile").write_text("")
    for given in (other, other / "Vagrantfile"):
        assert _choose(tmp_path, vagrantfile=given)[0] == other / "Vagrantfile"


@pytest.mark.parametrize("provider", ["docker", "docker-direct"])
def test_a_path_that_cannot_be_used_is_3(tmp_path: Path, provider: str) -> None:
    with pytest.raises(SettingsError):
        _choose(tmp_path, vagrantfile=tmp_path / "nowhere", provider=provider)


def test_several_machines_are_refused_by_name() -> None:
    one = "Host {}\n  HostName 127.0.0.1\n  User v\n  Port 22\n  IdentityFile /k\n"
    with pytest.raises(GuestError) as caught:
        read_login(one.format("web") + one.format("db"), alias="x")
    assert caught.value.details == "web, db"
