"""The box for Debian trixie: made by KIWI in the docker box of that suite, and booted."""

from __future__ import annotations

from typing import Any

import libvirt
import pytest

from tests.integration.cli import Project
from tests.integration.conftest import have_box
from tests.integration.machines.conftest import IMAGE, SMALL
from vagrant_kiwi import box_recipe
from vagrant_kiwi.guests import agent
from vagrant_kiwi.plan import guest_name

pytestmark = pytest.mark.full

NAME = "debian-trixie"
LOOK = r"""
. /etc/os-release && echo "$VERSION_CODENAME"
hostname
kiwi-ng --version
/opt/kiwi/bin/python -c 'import sys; print(*sys.version_info[:2], sep=".")'
sed -n 's/^Suites: //p' /etc/apt/sources.list.d/*.sources | sort
findmnt -n -o SOURCE -T /tmp
. /etc/default/locale && echo "$LANG"
systemctl --failed --quiet
"""


@pytest.fixture(scope="module")
def trixie(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Have the box; it is made if it is not in the cache."""
    return have_box(tmp_path_factory.mktemp("box"), f"--name={NAME}", "--provider=libvirt")


def test_the_box_boots_and_is_what_its_facts_say(
    project: Project,
    trixie: dict[str, Any],
    machines_unchanged: None,
    connection: libvirt.virConnect,
) -> None:
    recipe = box_recipe.find_recipe(NAME)
    assert trixie["image"] == f"vagrant-kiwi/{NAME}"
    assert trixie["file"].startswith(f"{NAME}-libvirt.")
    # The real KIWI, not the stand-in.
    project.settings(mirrors="off", libvirt=SMALL)
    up = project.run("up", *IMAGE, f"--box={NAME}", "--json")
    assert up.status == 0, up.errors
    try:
        domain = connection.lookupByName(guest_name(up.json["guest"]))
        said = agent.run(domain, ["sh", "-c", LOOK], timeout=120)
    finally:
        down = project.run("down", *IMAGE, "--json")
    assert down.json["guests"] == [up.json["guest"]], down.errors
    assert said.splitlines() == [
        "trixie",
        "debian-trixie-libvirt",
        f"KIWI (next generation) version {recipe.kiwi}",
        recipe.facts.python,
        "trixie",
        "trixie-security",
        "trixie-updates",
        "/dev/vda1",
        "C.UTF-8",
    ]
