"""Recipes of build boxes, the data folders they lie in, and deadlines."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from tests.unit.box_fakes import NAME, soon
from vagrant_kiwi import box_lock, box_recipe, boxes, description
from vagrant_kiwi.data import data_folder
from vagrant_kiwi.deadline import Deadline
from vagrant_kiwi.errors import BoxError, PhaseTimeoutError, PreflightError, VagrantKiwiError

OURS = pytest.mark.parametrize("name", ["debian-bookworm", "debian-trixie"])


def test_these_are_our_own_recipes() -> None:
    with pytest.raises(BoxError) as caught:
        box_recipe.find_recipe("debian", arch="amd64")
    assert caught.value.details == "known: debian-bookworm, debian-trixie"


@OURS
def test_our_own_recipes_are_sound(name: str) -> None:
    ours = box_recipe.find_recipe(name, arch="amd64")
    assert f"debian-{ours.facts.suite}" == name
    assert ours.facts.base == f"debian:{ours.facts.suite}-slim"
    assert ours.repository == f"vagrant-kiwi/{name}"
    assert len(ours.packages) == len(set(ours.packages))
    assert {"openssh-server", "sudo", "rsync", "python3-venv", "qemu-utils"} <= set(ours.packages)
    pins = box_lock.split_lock(ours.lock.read_text())
    assert pins["kiwi"].startswith("kiwi==11.1.6 --hash=sha256:")
    assert {*ours.facts.source_packages, *ours.facts.build_packages} <= pins.keys()
    assert all("--hash=sha256:" in pin for pin in pins.values())
    # The Dockerfile has no defaults: one for another suite would go unnoticed.
    dockerfile = next(path for path in ours.files if path.name == "Dockerfile").read_text()
    assert re.findall(r"(?m)^ARG .*=", dockerfile) == []


def test_our_own_recipes_share_all_but_their_facts() -> None:
    bookworm, trixie = (
        box_recipe.find_recipe(f"debian-{suite}", arch="amd64") for suite in ("bookworm", "trixie")
    )
    differ = [
        (one.name, other.name)
        for one, other in zip(bookworm.files, trixie.files, strict=True)
        if one != other
    ]
    assert differ == [("box.toml", "box.toml")]
    assert bookworm.machine == trixie.machine
    assert bookworm.digest != trixie.digest
    assert bookworm.machine_digest() != trixie.machine_digest()
    differ_in = {
        key
        for key, value in bookworm.facts.model_dump().items()
        if value != trixie.facts.model_dump()[key]
    }
    assert differ_in == {"suite", "base", "python", "glibc"}


def test_a_recipe_is_read(recipe: box_recipe.Recipe, folder: Path) -> None:
    assert (recipe.name, recipe.version, recipe.arch) == (NAME, "7", "amd64")
    assert recipe.packages == ("sudo", "rsync")
    assert boxes.docker_tag(recipe) == f"vagrant-kiwi/{NAME}:{recipe.digest[:12]}"
    assert box_recipe.find_recipe(NAME, boxes=folder.parent, arch="amd64") == recipe


def test_the_digest_covers_each_file_and_the_architecture(folder: Path) -> None:
    seen = {box_recipe.load_recipe(folder, arch=arch).digest for arch in ("amd64", "arm64")}
    for path in box_recipe.recipe_files(folder):
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


@OURS
def test_the_box_for_machines_is_of_its_suite_and_has_all_that_the_docker_box_has(
    name: str,
) -> None:
    recipe = box_recipe.find_recipe(name, arch="amd64")
    suite, facts = recipe.facts.suite, recipe.facts
    read = description.read(recipe.machine, kiwi_file=None)
    selection = description.select(read, profiles=(suite,), image_type=None)
    assert [(one.source, one.distribution) for one in selection.repositories] == [
        (facts.mirror, suite),
        (facts.mirror, f"{suite}-updates"),
        (facts.security_mirror, f"{suite}-security"),
    ]
    assert all(one.repository_gpgcheck for one in selection.repositories)
    named = set(re.findall(r'<package name="([^"]+)"', read.file.read_text()))
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


# --- What recipes share ------------------------------------------------------------------------


@pytest.fixture
def shared(folder: Path) -> Path:
    """Move all of the recipe but its facts to a folder that it extends, and return that."""
    made = folder.with_name("shared")
    made.mkdir()
    for path in folder.iterdir():
        if path.name != "box.toml":
            path.rename(made / path.name)
    (made / "libvirt").mkdir()
    facts = folder / "box.toml"
    facts.write_text(f'extends = "shared"\n{facts.read_text()}')
    return made


def test_a_recipe_finds_what_it_shares(shared: Path, folder: Path) -> None:
    recipe = box_recipe.load_recipe(folder, arch="amd64")
    assert (recipe.name, recipe.kiwi, recipe.packages) == (NAME, "11.1.6", ("sudo", "rsync"))
    assert recipe.lock == shared / "kiwi.lock"
    assert recipe.machine == shared / "libvirt"
    assert recipe.additions == shared / "variant"
    assert recipe.files == [
        shared / "Dockerfile",
        folder / "box.toml",
        shared / "kiwi.lock",
        shared / "packages.txt",
    ]
    with pytest.raises(BoxError, match="There is no build box named 'shared'") as caught:
        box_recipe.find_recipe("shared", boxes=folder.parent)
    assert caught.value.details == f"known: {NAME}"


def test_what_is_a_recipe_s_own_goes_before_what_it_shares(shared: Path, folder: Path) -> None:
    (folder / "packages.txt").write_text("own\n")
    (folder / "kiwi.lock").write_text("kiwi==1.2.3 --hash=sha256:aa\n")
    (folder / "libvirt").mkdir()
    recipe = box_recipe.load_recipe(folder, arch="amd64")
    assert (recipe.packages, recipe.kiwi) == (("own",), "1.2.3")
    assert recipe.machine == folder / "libvirt"
    assert [path.parent.name for path in recipe.files] == ["shared", NAME, NAME, NAME]


def test_the_digest_covers_what_is_shared_and_what_is_not(shared: Path, folder: Path) -> None:
    def digests() -> tuple[str, str]:
        recipe = box_recipe.load_recipe(folder, arch="amd64")
        return recipe.digest, recipe.machine_digest()

    seen = {digests()}
    for path in (
        folder / "box.toml",
        shared / "packages.txt",
        shared / "new.sh",
        folder / "packages.txt",
    ):
        with path.open("a") as stream:
            stream.write("# more\n")
        seen.add(digests())
    assert len({docker for docker, _ in seen}) == len({machine for _, machine in seen}) == 5
    (shared / "libvirt" / "config.sh").write_text("true")
    assert digests() not in seen
    # It does not reach the box any more.
    before = digests()
    (shared / "packages.txt").write_text("other\n")
    assert digests() == before


@pytest.mark.parametrize(
    ("name", "details"),
    [
        ("../shared", "extends: String should match"),
        ("/etc", "extends: String should match"),
        ("..", "extends: String should match"),
        ("", "extends: String should match"),
        ("other", "there is no folder"),
        (NAME, "is a recipe by itself"),
    ],
)
def test_a_recipe_shares_one_plain_folder_beside_it(
    shared: Path, folder: Path, name: str, details: str
) -> None:
    facts = folder / "box.toml"
    facts.write_text(facts.read_text().replace('extends = "shared"', f'extends = "{name}"'))
    with pytest.raises(BoxError) as caught:
        box_recipe.load_recipe(folder, arch="amd64")
    assert caught.value.code == 5
    assert details in caught.value.details


# --- Another version of KIWI -------------------------------------------------------------------


def with_kiwi(folder: Path, version: str | None) -> box_recipe.Recipe:
    return box_recipe.find_recipe(NAME, kiwi_version=version, boxes=folder.parent, arch="amd64")


def test_a_box_with_another_kiwi_shares_no_name_with_the_default(
    recipe: box_recipe.Recipe, folder: Path, tmp_path: Path
) -> None:
    (folder / "libvirt").mkdir()
    entries = [with_kiwi(folder, version) for version in (None, "10.2.40", "10.2.400", "11.0.5")]
    assert entries[0] == recipe
    assert (recipe.kiwi, recipe.variant) == ("11.1.6", False)
    assert (entries[1].kiwi, entries[1].variant) == ("10.2.40", True)
    assert entries[1].repository == f"vagrant-kiwi/{NAME}-kiwi-10.2.40"
    assert len({entry.name for entry in entries}) == len(entries)
    assert len({entry.digest for entry in entries}) == len(entries)
    assert len({entry.repository for entry in entries}) == len(entries)
    assert len({entry.machine_digest() for entry in entries}) == len(entries)
    for entry in entries:
        # What one killed making left is found by its own pattern only.
        (tmp_path / f"{box_recipe.half_made(entry)}abc").mkdir()
    for entry in entries:
        assert len(list(tmp_path.glob(box_recipe.half_made(entry, "*")))) == 1


def test_the_pinned_version_is_the_default_box(recipe: box_recipe.Recipe, folder: Path) -> None:
    assert with_kiwi(folder, "11.1.6") == recipe


def test_what_only_other_versions_have_changes_only_their_digest(
    recipe: box_recipe.Recipe, folder: Path
) -> None:
    before = with_kiwi(folder, "11.0.5").digest
    (folder / "variant" / "Dockerfile").write_text("RUN other\n")
    assert with_kiwi(folder, "11.0.5").digest != before
    assert with_kiwi(folder, None) == recipe
    (folder / "packages.txt").write_text("other\n")
    assert with_kiwi(folder, "11.0.5").digest != before


def test_a_box_that_is_not_made_with_other_versions_says_so(folder: Path) -> None:
    (folder / "variant" / "Dockerfile").unlink()
    (folder / "variant").rmdir()
    with pytest.raises(BoxError, match="not made with other versions"):
        with_kiwi(folder, "11.0.5")


@pytest.mark.parametrize("version", ["", "latest", "11", "11.0", "11.0.5.1", "11.0.05", "../1.2.3"])
def test_what_is_no_version_is_exit_5(folder: Path, version: str) -> None:
    with pytest.raises(BoxError, match="is no version of KIWI") as caught:
        with_kiwi(folder, version)
    assert caught.value.code == 5


@OURS
def test_our_own_boxes_can_have_another_kiwi(name: str) -> None:
    ours = box_recipe.find_recipe(name, kiwi_version="10.2.40", arch="amd64")
    assert ours.name == f"{name}-kiwi-10.2.40"
    # The machine's description is made fit for it by name, so the name must be there.
    script = (ours.additions / "provision.sh").read_text()
    assert r'schemaversion="8\.5"' in script
    assert 'schemaversion="8.5"' in (ours.machine / "config.xml").read_text()
