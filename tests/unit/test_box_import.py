"""What is asked for when a box is imported: words, sums, and where it comes from."""

from __future__ import annotations

from pathlib import Path

import pytest

from vagrant_kiwi import box_import, catalog
from vagrant_kiwi.box_import import Wanted
from vagrant_kiwi.errors import UsageError

SUM = "0123456789abcdef" * 4


def words(kind: catalog.Kind = "docker", kiwi: str | None = None, **given: str) -> Wanted:
    usual = dict.fromkeys(("url", "file", "image", "sha256", "signature", "keyring"))
    return box_import.from_words("x", kind, cwd=Path("/site"), kiwi=kiwi, **{**usual, **given})


def test_paths_count_from_where_the_person_is() -> None:
    wanted = words(file="a.tar", signature="../a.asc", keyring="/keys.gpg", kiwi="11.1.6")
    assert wanted == Wanted(
        "x",
        "docker",
        file=Path("/site/a.tar"),
        signature=Path("/site/../a.asc"),
        keyring=Path("/keys.gpg"),
        kiwi="11.1.6",
    )
    assert words(file="~/a.tar").file == Path.home() / "a.tar"
    remote = words(url="http://x/a", signature="https://x/a.asc", keyring="k")
    assert remote.signature == "https://x/a.asc"


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        ("docker", {"url": "http://x/a"}, "must be checked"),
        ("docker", {"url": "http://x/a", "signature": "a.asc"}, "go together"),
        ("docker", {"file": "a", "keyring": "k"}, "go together"),
        ("docker", {"image": "a/b", "signature": "s", "keyring": "k"}, "--signature is for"),
        ("libvirt", {"image": "a/b"}, "--image is for docker"),
        ("docker", {"file": "a", "sha256": SUM[1:]}, "is no SHA-256"),
    ],
)
def test_words_that_do_not_go_together_are_a_usage_error(
    kind: catalog.Kind, given: dict[str, str], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        words(kind, **given)


@pytest.mark.parametrize("text", [SUM, SUM.upper(), f"sha256:{SUM}", f" {SUM}\n"])
def test_a_sum_may_be_written_in_several_ways(text: str) -> None:
    assert box_import.checksum(text) == SUM
    assert words(file="a", sha256=text).sha256 == SUM


@pytest.mark.parametrize(
    "text", ["", SUM[:-1], f"{SUM}0", SUM.replace("a", "g"), f"md5:{SUM}", "\u0663" * 64]
)
def test_what_is_no_sum_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="is no SHA-256"):
        box_import.checksum(text)


def test_without_a_sum_there_is_none() -> None:
    assert box_import.checksum(None) is None


def test_where_it_comes_from_is_said_without_credentials() -> None:
    url = "https://joe:s3cret@example.org:8443/a.tar?token=t0ken"
    assert words(url=url, sha256=SUM).origin == "https://***@example.org:8443/a.tar?***"
    assert words(file="a.tar").origin == "/site/a.tar"
    assert words(image="registry.example.com/kiwi:1").origin == "registry.example.com/kiwi:1"


def test_the_catalogues_entry_says_what_is_wanted() -> None:
    source = catalog.Source(
        provider="libvirt", url="http://x/a", sha256=SUM, size=7, version="3.1", kiwi="11.1.6"
    )
    assert box_import.wanted("x", "libvirt", source) == Wanted(
        "x", "libvirt", url="http://x/a", sha256=SUM, size=7, version="3.1", kiwi="11.1.6"
    )
    image = catalog.Source(provider="docker", image="a/b:1")
    assert box_import.wanted("x", "docker", image).version == "1", "nobody said another one"
