"""What a description refers to outside of its folder arrives in a real guest."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.cli import Project
from tests.integration.stand_in import STAND_IN, describe

#: Runs in the guest in the place of KIWI, with the description's folder in $description.
CHECK = """
set -x
test "$(cat "$description/data[1]/own")" = own
test "$(cat "$description/data[1]/far/deep")" = deep
test ! -L "$description/data[1]"
test "$(cat "$description/absolute")" = inside
test "$(readlink "$description/inside")" = sub/inside
test ! -L "$description/root"
test "$(readlink "$description/root/etc/localtime")" = /usr/share/zoneinfo/UTC
test "$(readlink "$description/root/dangling")" = /nowhere/at/all
test ! -e "$description/.vagrant-kiwi"
config=$description/config.xml
grep -q 'included-package' "$config"
! grep -q '<include' "$config"
repository=$(sed -n 's|.*<source path="dir://\\(/var/lib/vagrant-kiwi/[^"]*\\)".*|\\1|p' "$config")
test "$(cat "$repository/Packages")" = packages
test "$(cat "$repository/pool")" = deep
key=$(sed -n 's|.*<signing key="file://\\([^"]*\\)".*|\\1|p' "$config" | sort -u)
test "$(cat "$key")" = key
archive=$(sed -n 's|.*<archive name="\\([^"]*\\)".*|\\1|p' "$config")
test "$(cat "$archive")" = archive
grep -q 'imageonly="true"' "$config"
echo all of it is here
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Return a project whose description refers to all that it can, by a path with a space."""
    made = Project(tmp_path / "a site")
    image = describe(made.folder / "image", behave=CHECK)
    outside = made.folder / "out side"
    for name, text in {
        "repository/Packages": "packages",
        "shared/own": "own",
        "far/deep": "deep",
        "key.asc": "key",
        "archive.tar": "archive",
        "overlay/etc/motd": "motd",
    }.items():
        (outside / name).parent.mkdir(parents=True, exist_ok=True)
        (outside / name).write_text(text)
    (outside / "repository/pool").symlink_to(outside / "far/deep")
    (outside / "shared/far").symlink_to("../far")
    (outside / "overlay/etc/localtime").symlink_to("/usr/share/zoneinfo/UTC")
    (outside / "overlay/dangling").symlink_to("/nowhere/at/all")
    (outside / "more.xml").write_text(
        '<image><packages type="image"><package name="included-package"/></packages></image>'
    )
    (image / "sub").mkdir()
    (image / "sub/inside").write_text("inside")
    (image / "inside").symlink_to("sub/inside")
    (image / "absolute").symlink_to(image / "sub/inside")
    (image / "data[1]").symlink_to("../out side/shared")
    (image / "root").symlink_to(outside / "overlay")
    (image / "more.xml").symlink_to("../out side/more.xml")
    # KIWI's own order of elements.
    text = (image / "config.xml").read_text()
    text = text.replace(
        '    <packages type="image">',
        f"""    <include from="this://more.xml"/>
    <repository type="apt-deb" imageinclude="true"><source path="dir://{outside}/repository">
        <signing key="file://{outside}/key.asc"/>
    </source></repository>
    <packages type="image"><archive name="{outside}/archive.tar"/>""",
    )
    (image / "config.xml").write_text(text)
    made.settings(provision=[str(STAND_IN)], state_dir="image/.vagrant-kiwi")
    return made


def contents(folder: Path) -> dict[str, str]:
    """Return what lies in a description, without the tool's state."""
    return {
        str(path): str(path.readlink()) if path.is_symlink() else path.read_text()
        for path in folder.rglob("*")
        if ".vagrant-kiwi" not in path.parts and (path.is_symlink() or path.is_file())
    }


def test_what_a_description_refers_to_is_in_the_guest(project: Project, unchanged: None) -> None:
    before = contents(project.folder / "image")
    done = project.run("build", "--description=image", "--json")
    log = Path(str(done.json["log"])).read_text()
    assert done.status == 0, done.errors + log
    assert "all of it is here" in log
    assert contents(project.folder / "image") == before


def test_what_cannot_be_brought_in_fails_before_anything_starts(
    project: Project, unchanged: None
) -> None:
    (project.folder / "image/gone").symlink_to("../gone")
    (project.folder / "out side/repository").rename(project.folder / "moved")
    done = project.run("build", "--description=image", "--json")
    assert done.status == 3
    assert done.json["phases"] == []
    gone, moved = done.json["error"]["details"].splitlines()
    assert gone.startswith(f"{project.folder}/image/gone -> ../gone: there is no such file")
    assert moved.startswith(f"dir://{project.folder}/out side/repository: there is no such file")
