"""The catalogue of build boxes: read, checked, chosen from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from vagrant_kiwi import catalog
from vagrant_kiwi.catalog import Catalog
from vagrant_kiwi.data import data_folder
from vagrant_kiwi.description import ImageType, Repository, Selection
from vagrant_kiwi.errors import SettingsError

SUM = "a" * 64


def selection(*suites: str, manager: str = "apt", image_only: bool = False) -> Selection:
    return Selection(
        profiles=(),
        image_type=ImageType("tbz", primary=True, profiles=(), attributes={}),
        repositories=tuple(
            Repository("http://example.org/", distribution=suite, image_only=image_only)
            for suite in suites
        ),
        packages=(),
        version="1",
        package_manager=manager,
    )


def write(path: Path, *entries: dict[str, Any]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"boxes": entries}))
    return path


def box(name: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "about": "a box",
        "package_managers": ["dnf5"],
        "sources": [{"provider": "docker", "image": "registry.example.com/kiwi:1"}],
        **more,
    }


@pytest.fixture
def ours() -> Catalog:
    return catalog.load(())


def test_our_catalogue_has_the_recipes_that_there_are(ours: Catalog) -> None:
    recipes = {path.parent for path in data_folder("boxes").glob("*/box.toml")}
    named = {source.recipe for entry in ours.entries for source in entry.sources}
    assert named == recipes
    entry = ours.find("debian-bookworm")
    assert entry is not None
    assert [entry.source("docker", arch) is None for arch in ("amd64", "arm64")] == [False, False]
    assert entry.source("libvirt", "arm64") is None


@pytest.mark.parametrize(
    ("suites", "wanted"),
    [
        (("bookworm",), "debian-bookworm"),
        (("trixie",), "debian-trixie"),
        (("trixie", "trixie-updates", "trixie-security"), "debian-trixie"),
        (("trixie-security",), "debian-trixie"),
        (("trixie/updates",), "debian-trixie"),
        (("trixie-backports-sloppy",), "debian-trixie"),
    ],
)
def test_the_box_is_that_of_the_distribution(
    ours: Catalog, suites: tuple[str, ...], wanted: str
) -> None:
    chosen = catalog.choose(ours, selection(*suites), "docker", "amd64", named=None)
    assert chosen == (wanted, None)


@pytest.mark.parametrize(
    ("wanted", "what"),
    [
        (selection("noble"), "noble (apt)"),
        (selection("trixie", image_only=True), "apt (apt)"),
        (selection(manager="zypper"), "zypper (zypper)"),
    ],
)
def test_where_no_box_fits_the_default_is_taken_and_said(
    ours: Catalog, wanted: Selection, what: str
) -> None:
    name, warning = catalog.choose(ours, wanted, "docker", "amd64", named=None)
    assert name == "debian-bookworm"
    assert warning == f"no box of the catalogue is for {what}; debian-bookworm is taken"


def test_a_box_for_another_distribution_is_taken_with_a_warning(ours: Catalog) -> None:
    name, warning = catalog.choose(
        ours, selection("trixie"), "docker", "amd64", named="debian-bookworm"
    )
    assert name == "debian-bookworm"
    assert warning is not None
    assert "is for bookworm, the description takes trixie" in warning
    assert "--box=debian-trixie" in warning
    for named, suite in (
        ("debian-trixie", "trixie"),
        ("debian-bookworm", "noble"),
        ("x", "trixie"),
    ):
        assert catalog.choose(ours, selection(suite), "docker", "amd64", named=named) == (
            named,
            None,
        )


def test_a_catalogue_of_the_users_goes_before_ours(tmp_path: Path) -> None:
    mine = write(
        tmp_path / "site" / "boxes.yaml",
        box("debian-bookworm", about="mine", package_managers=["apt"], distributions=["bookworm"]),
        box("fedora"),
        box("any-apt", package_managers=["apt"]),
    )
    loaded = catalog.load([mine])
    entry = loaded.find("debian-bookworm")
    assert entry is not None
    assert entry.about == "mine"
    assert [one.name for one in loaded.entries][:3] == ["debian-bookworm", "fedora", "any-apt"]
    assert loaded.find("debian-trixie") is not None

    def chosen(wanted: Selection, kind: catalog.Kind = "docker", arch: str = "amd64") -> str:
        return catalog.choose(loaded, wanted, kind, arch, named=None)[0]

    assert chosen(selection(manager="dnf5")) == "fedora"
    assert chosen(selection("bookworm")) == "debian-bookworm"
    assert chosen(selection("noble")) == "any-apt", "it is for all distributions"
    assert chosen(selection("trixie"), "libvirt") == "debian-trixie", "mine are not for libvirt"


def test_paths_count_from_the_catalogue(tmp_path: Path) -> None:
    path = write(
        tmp_path / "site" / "boxes.yaml",
        box("made", sources=[{"provider": "docker", "recipe": "made"}]),
        box("got", sources=[{"provider": "libvirt", "file": "a.box", "sha256": SUM}]),
    )
    made, got = catalog.load([path]).entries[:2]
    assert made.sources[0].recipe == tmp_path / "site" / "made"
    assert got.sources[0].file == tmp_path / "site" / "a.box"
    assert (made.sources[0].origin, got.sources[0].origin) == ("recipe", "file")


SOURCE: dict[str, Any] = {"provider": "docker", "url": "http://example.org/a.tar", "sha256": SUM}


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (box("x", abuot="?"), "did you mean boxes[0].about?"),
        (box("X"), "boxes[0].name"),
        (box("a..b"), "a box cannot be called a..b"),
        (box("debian-bookworm-kiwi-11.1.5"), "a box cannot be called"),
        (box("x", sources=[{"provider": "docker"}]), "one of recipe, image, url, file"),
        (box("x", sources=[{**SOURCE, "image": "a/b"}]), "and only one"),
        (box("x", sources=[{"provider": "docker", "url": "http://x/"}]), "needs its sha256"),
        (box("x", sources=[{**SOURCE, "sha256": "abc"}]), "64 hexadecimal digits"),
        (box("x", sources=[{**SOURCE, "signature": "http://x/s"}]), "go together"),
        (box("x", sources=[{**SOURCE, "provider": "podman"}]), "docker, libvirt"),
        (box("x", sources=[{"provider": "libvirt", "image": "a/b"}]), "an image is for docker"),
        (
            box("x", sources=[{"provider": "docker", "recipe": "y"}]),
            "must have the name of the box",
        ),
        (box("x", sources=[{**SOURCE, "size": 0}]), "a whole number above 0"),
    ],
)
def test_a_mistake_in_a_catalogue_is_3_with_its_place(
    tmp_path: Path, entry: dict[str, Any], said: str
) -> None:
    path = write(tmp_path / "boxes.yaml", entry)
    with pytest.raises(SettingsError) as caught:
        catalog.load([path])
    assert str(path) in caught.value.brief
    assert said in caught.value.details


@pytest.mark.parametrize("text", ["", "boxes: 1", "boxes: [", "- x", None])
def test_what_is_no_catalogue_is_3(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "boxes.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        catalog.load([path])
    assert str(path) in caught.value.brief


def test_no_message_shows_a_password(tmp_path: Path) -> None:
    url = "http://joe:s3cr3t@example.org/a.tar"
    path = write(tmp_path / "a.yaml", box("x", sources=[{"provider": "docker", "url": url}]))
    broken = tmp_path / "b.yaml"
    broken.write_text(f"boxes: [{{url: {url}: x]")
    for one in (path, broken):
        with pytest.raises(SettingsError) as caught:
            catalog.load([one])
        assert "s3cr3t" not in str(caught.value)
        assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "name",
    ["x", "debian-bookworm", "a.b", "a_b", "a__b", "a---b", "a-kiwi", "kiwi-11", "lock", "9"],
)
def test_names_that_a_box_may_have(name: str) -> None:
    assert catalog.is_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            "X",
            "a b",
            "a/b",
            "a:b",
            "ä",
            "-a",
            "a-",
            ".a",
            "a.",
            "a..b",
            "a___b",
            "a.-b",
            "a\n",
        ),
        # Docker's, Vagrant's and the cache's own.
        *("builds", "a.lock", "a.loading", "a.building", "a.pushing", "a.copy", "a.part"),
        *("a-kiwi-11", "a-kiwi-11.1.6", "debian-bookworm-kiwi-9"),
    ],
)
def test_names_that_no_box_may_have(name: str) -> None:
    assert not catalog.is_name(name)


def test_the_kiwi_of_a_box_is_in_its_name() -> None:
    assert catalog.split_variant("a-kiwi-b-kiwi-11.1.6") == ("a-kiwi-b", "11.1.6")
    assert catalog.split_variant("debian-bookworm") == ("debian-bookworm", None)
    assert catalog.split_variant("a-kiwi-") == ("a-kiwi-", None)


@pytest.mark.parametrize("version", ["0", "1.0", "20260101.1", "1.2.rc1", "9" * 18])
def test_versions_that_vagrant_takes(version: str) -> None:
    assert catalog.Source(**SOURCE, version=version).version == version


@pytest.mark.parametrize(
    "version",
    ["", "v1", "1.", ".1", "1..2", "1-2", "1_2", "1/2", "1 ", "1\n", "\u0661", "9" * 19, 1],
)
def test_versions_that_it_does_not_take(version: object) -> None:
    with pytest.raises(ValidationError):
        catalog.Source.model_validate({**SOURCE, "version": version})
