"""The script that gives Docker a data root on btrfs, as it is printed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.test_docker_storage import GOOD
from vagrant_kiwi import storage_script
from vagrant_kiwi.errors import UsageError
from vagrant_kiwi.guests.engine import Engine
from vagrant_kiwi.storage_script import Size, advise, parse_size, render

#: Docker knows no such context, so that no socket is opened.
NO_DAEMON = {"DOCKER_CONTEXT": "vagrant-kiwi-there-is-none"}
DOCKER = Engine("Docker 20.10.24", None, rootless=False)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("20g", Size("20G", 20 * 2**30)),
        ("5G", Size("5G", 5 * 2**30)),
        ("5120m", Size("5120M", 5 * 2**30)),
        ("1t", Size("1T", 2**40)),
    ],
)
def test_sizes(text: str, size: Size) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "20",
        "4g",
        "5119m",
        "20gb",
        "20 g",
        "-20g",
        "020g",
        "1.5t",
        "20g\n",
        "\u0662\u0660g",
        "20g;id",
    ],
)
def test_what_is_no_size_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        storage_script.script(text, NO_DAEMON)
    assert caught.value.code == 1
    assert "5g at least" in caught.value.resolution


def test_a_script_is_printed_although_no_daemon_answers() -> None:
    made = storage_script.script("20g", NO_DAEMON)
    assert "No Docker daemon answered" in made
    lines = made.splitlines()
    assert lines[0] == "#!/bin/sh"
    assert "SIZE=20G" in lines
    assert f"BYTES={20 * 2**30}" in lines
    assert "@{" not in made


def test_where_images_build_the_script_says_that_it_is_not_needed() -> None:
    assert "overlay2 on extfs" in advise(GOOD, DOCKER)
    for driver in ("overlay2", "overlayfs", "btrfs"):
        assert "do NOT need" in advise(replace(GOOD, driver=driver), DOCKER)


@pytest.mark.parametrize(
    ("driver", "backing"), [("vfs", "overlay"), ("devicemapper", "xfs"), ("fuse-overlayfs", None)]
)
def test_where_they_do_not_it_says_that_it_helps(driver: str, backing: str | None) -> None:
    said = advise(replace(GOOD, driver=driver, backing=backing), DOCKER)
    assert "this script helps" in said
    assert "NOT" not in said


def test_podman_has_no_use_for_it() -> None:
    assert "Docker alone" in advise(GOOD, Engine("Podman 4.3.1", (4, 3, 1), rootless=False))


def test_what_a_daemon_calls_itself_stays_in_the_comment() -> None:
    hostile = Engine("Docker 1\nrm -rf /\r@{size} $(id)", None, rootless=False)
    plain = render(parse_size("20g"), advise(GOOD, DOCKER))
    made = render(parse_size("20g"), advise(GOOD, hostile))
    assert "rm -rf /" in made

    def commands(script: str) -> list[str]:
        return [line for line in script.splitlines() if not line.startswith("#")]

    assert commands(made) == commands(plain)
