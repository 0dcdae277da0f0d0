"""Recipes of build boxes, the data folders they lie in, and deadlines."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from tests.unit.box_fakes import NAME, soon
from vagrant_kiwi import box_recipe, box_wheels, boxes
from vagrant_kiwi.data import data_folder
from vagrant_kiwi.deadline import Deadline
from vagrant_kiwi.errors import BoxError, PhaseTimeoutError, PreflightError, VagrantKiwiError


def test_our_own_recipe_is_sound() -> None:
    ours = box_recipe.find_recipe("debian-bookworm", arch="amd64")
    assert ours.facts.suite == "bookworm"
    assert ours.repository == "vagrant-kiwi/debian-bookworm"
    assert len(ours.packages) == len(set(ours.packages))
    assert {"openssh-server", "sudo", "rsync", "python3-venv", "qemu-utils"} <= set(ours.packages)
    pins = box_wheels.split_lock((ours.folder / "kiwi.lock").read_text())
    assert pins["kiwi"].startswith("kiwi==11.1.6 --hash=sha256:")
    assert {*ours.facts.source_packages, *ours.facts.build_packages} <= pins.keys()
    assert all("--hash=sha256:" in pin for pin in pins.values())


def test_a_recipe_is_read(recipe: box_recipe.Recipe, folder: Path) -> None:
    assert (recipe.name, recipe.version, recipe.arch) == (NAME, "7", "amd64")
    assert recipe.packages == ("sudo", "rsync")
    assert boxes.docker_tag(recipe) == f"vagrant-kiwi/{NAME}:{recipe.digest[:12]}"
    assert box_recipe.find_recipe(NAME, boxes=folder.parent, arch="amd64") == recipe


def test_the_digest_covers_each_file_and_the_architecture(folder: Path) -> None:
    seen = {box_recipe.load_recipe(folder, arch=arch).digest for arch in ("amd64", "arm64")}
    for path in sorted(folder.iterdir()):
        before = path.read_text()
        path.write_text(before + "\n# more\n")
        seen.add(box_recipe.load_recipe(folder, arch="amd64").digest)
        path.write_text(before)
    (folder / "new.sh").write_text("")
    seen.add(box_recipe.load_recipe(folder, arch="amd64").digest)
    assert len(seen) == 2 + 4 + 1


def test_the_digest_keeps_names_and_contents_apart(folder: Path) -> None:
    def digest(**files: str) -> str:
        for name, content in files.items():
            (folder / name).write_text(content)
        found = box_recipe.load_recipe(folder, arch="amd64").digest
        for name in files:
            (folder / name).unlink()
        return found

    assert len({digest(a="bc", d="e"), digest(a="b", cd="e"), digest(a="", bcd="e")}) == 3


def test_what_does_not_belong_to_the_box_does_not_change_it(folder: Path) -> None:
    before = box_recipe.load_recipe(folder, arch="amd64").digest
    (folder / "Dockerfile~").write_text("old")
    (folder / ".swp").write_text("editor")
    (folder / "libvirt").mkdir()
    (folder / "libvirt" / "config.xml").write_text("<image/>")
    (folder / "Dockerfile").chmod(0o755)
    os.utime(folder / "Dockerfile", (1, 1))
    assert box_recipe.load_recipe(folder, arch="amd64").digest == before


@pytest.mark.parametrize(
    ("old", "new", "details"),
    [
        ('version = "7"', "", "version: Field required"),
        ('version = "7"', "version = 7", "version: Input should be a valid string"),
        ('version = "7"', 'version = "7"\ncolour = "red"', "colour: Extra inputs"),
        ('"bookworm"', '"bookworm; rm -rf /"', "suite: String should match"),
        ('"bookworm"', '"--option"', "suite: String should match"),
        ('"bookworm"', '"bookworm\\nother"', "suite: String should match"),
        ("http://official", "http://joe:pw@official", "mirror: String should match"),
        ('suite = "', "suite = [", "Unclosed array"),
    ],
)
def test_a_bad_box_toml_is_exit_5_with_the_place(
    folder: Path, old: str, new: str, details: str
) -> None:
    path = folder / "box.toml"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(BoxError) as caught:
        box_recipe.load_recipe(folder, arch="amd64")
    assert caught.value.code == 5
    assert details in caught.value.details or "Invalid value" in caught.value.details
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("name", ["box.toml", "Dockerfile", "packages.txt", "kiwi.lock"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BoxError, match=name):
        box_recipe.load_recipe(folder, arch="amd64")


@pytest.mark.parametrize("name", ["", "other", "../boxes/test-box", ".", "/etc"])
def test_an_unknown_box_is_exit_5_and_names_the_known(folder: Path, name: str) -> None:
    with pytest.raises(BoxError) as caught:
        box_recipe.find_recipe(name, boxes=folder.parent)
    assert caught.value.code == 5
    assert caught.value.details == f"known: {NAME}"


def test_an_architecture_without_boxes_is_exit_4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "s390x")
    with pytest.raises(PreflightError, match="s390x"):
        box_recipe.host_arch()
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert box_recipe.host_arch() == "arm64"
    assert box_recipe.wheel_arch("arm64") == "aarch64"


def test_the_wheels_data_comes_before_the_checkouts(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    with pytest.raises(VagrantKiwiError, match="lacks its boxes"):
        data_folder("boxes", package=package)
    (tmp_path / "boxes").mkdir()
    assert data_folder("boxes", package=package) == tmp_path / "boxes"
    (package / "data/boxes").mkdir(parents=True)
    assert data_folder("boxes", package=package) == package / "data/boxes"


def test_a_deadline_counts_down_and_says_what_was_late() -> None:
    assert 59 < soon(60).left() <= 60
    late = Deadline(what="Making the box", limit=30, at=time.monotonic())
    with pytest.raises(PhaseTimeoutError) as caught:
        late.left()
    assert caught.value.code == 124
    assert caught.value.brief == "Making the box took longer than 30 s"


def test_the_box_for_machines_has_all_that_the_docker_box_has() -> None:
    recipe = box_recipe.find_recipe("debian-bookworm", arch="amd64")
    text = (recipe.machine / "config.xml").read_text()
    named = set(re.findall(r'<package name="([^"]+)"', text))
    # KIWI itself adds apt, and all packages that Debian marks essential.
    essential = {"apt", "util-linux"}
    assert set(recipe.packages) - essential <= named


def test_whatever_a_machines_box_is_made_from_changes_its_digest(
    recipe: box_recipe.Recipe, folder: Path
) -> None:
    with pytest.raises(BoxError) as caught:
        recipe.machine_digest()
    assert "--provider=docker" in caught.value.resolution
    inner = folder / "libvirt" / "root" / "etc"
    inner.mkdir(parents=True)
    script = folder / "libvirt" / "config.sh"
    script.write_text("true")
    seen = {recipe.machine_digest()}
    for change in (
        lambda: script.chmod(0o755),
        lambda: script.write_text("false"),
        lambda: (inner / "file").write_text(""),
        lambda: (inner / "link").symlink_to("nowhere"),
        lambda: (folder / "packages.txt").write_text("other\n"),
    ):
        change()
        changed = box_recipe.load_recipe(folder, arch="amd64").machine_digest()
        assert changed not in seen
        seen.add(changed)
    (inner / "file~").write_text("a back-up")
    assert box_recipe.load_recipe(folder, arch="amd64").machine_digest() in seen
