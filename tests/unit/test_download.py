"""What a download decides without a server: names, versions, rates, words."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests

from vagrant_kiwi import download
from vagrant_kiwi.deadline import Deadline
from vagrant_kiwi.download_http import AgainError, Answer, explain
from vagrant_kiwi.download_meter import Meter, amount
from vagrant_kiwi.download_part import Place, version_of
from vagrant_kiwi.errors import BoxError, UsageError

URL = "https://example.org/boxes/a.box"
LATER = "Tue, 14 Nov 2023 22:13:21 GMT"
DATE = "Tue, 14 Nov 2023 22:13:20 GMT"


@pytest.mark.parametrize(
    "url",
    [
        "ftp://user:secret@example.org/a.box",
        "file:///tmp/a.box",
        "/tmp/a.box",
        "user:secret@example.org/a.box",
        "https:/user:secret@example.org/a.box",
        "https://user:secret@/a.box",
        "https://user:secret@[::1/a.box",
        "https://user:secret@example.org:port/a.box",
        "https://user:secret@example.org/a\n.box",
        "",
    ],
)
def test_what_is_no_url_to_download_from(tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError) as caught:
        _fetch(download.Source(url), tmp_path / "new")
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("digest", ["", "0" * 63, "0" * 65, "g" * 64, f"sha256:{'0' * 64}"])
def test_what_is_no_sum(tmp_path: Path, digest: str) -> None:
    with pytest.raises(UsageError, match="Not a SHA-256 sum"):
        _fetch(download.Source(URL, digest), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def _fetch(source: download.Source, folder: Path) -> None:
    download.fetch(
        source,
        folder,
        update=lambda text, percent: None,
        log=lambda line: None,
        deadline=Deadline.after(1, what="It"),
    )


@pytest.mark.parametrize(
    ("path", "ending"),
    [
        ("a.tar.xz", "-a.tar.xz"),
        ("boxes/%2e%2e%2Fetc%2Fpasswd", "-passwd"),
        ("boxes/..", "-.."),
        ("boxes/%00%0a$(x) '", "-____x___"),
        ("boxes/", "-boxes"),
        ("", "-file"),
        ("%C3%BC", "-_"),
        ("x" * 300 + ".tar.xz", f"-{'x' * 93}.tar.xz"),
    ],
)
def test_the_name_of_a_download_is_safe(path: str, ending: str) -> None:
    place = Place.of(f"https://example.org/{path}", Path("/folder"))
    assert place.target.parent == Path("/folder")
    assert place.target.name[12:] == ending
    assert place.part.name == f"{place.target.name}.part"
    assert len(place.part.name) < 130


def test_each_url_has_a_name_of_its_own_and_credentials_make_none() -> None:
    def name(url: str) -> str:
        return Place.of(url, Path()).target.name

    assert name(URL) == name("https://user:secret@example.org/boxes/a.box#fragment")
    others = (f"{URL}?v=2", URL.replace("https", "http"), URL.replace("boxes", "other"))
    assert len({name(url) for url in (URL, *others)}) == 4


@pytest.mark.parametrize(
    ("headers", "validator"),
    [
        ({"ETag": '"a"', "Last-Modified": DATE, "Date": LATER}, '"a"'),
        ({"ETag": 'W/"a"', "Last-Modified": DATE, "Date": LATER}, DATE),
        ({"ETag": "bare", "Last-Modified": DATE, "Date": LATER}, DATE),
        ({"Last-Modified": DATE, "Date": DATE}, None),
        ({"Last-Modified": DATE}, None),
        ({"Last-Modified": "yesterday", "Date": LATER}, None),
        ({"Last-Modified": DATE.replace("GMT", "-0000"), "Date": LATER}, None),
        ({}, None),
    ],
)
def test_what_tells_versions_apart(headers: dict[str, str], validator: str | None) -> None:
    assert version_of(URL, headers, 1).validator == validator


def test_versions_differ_where_both_say_so() -> None:
    one = version_of(URL, {"ETag": '"a"'}, 10)
    assert one.unlike(version_of(URL, {"ETag": '"b"'}, 10))
    assert one.unlike(version_of(URL, {"ETag": '"a"'}, 11))
    assert not one.unlike(version_of(URL, {}, None))
    assert not one.unlike(one)
    dated = version_of(URL, {"Last-Modified": DATE, "Date": LATER}, 10)
    assert dated.unlike(dated.model_copy(update={"modified": LATER}))


def test_what_is_written_down_holds_no_secret() -> None:
    version = version_of("https://user:secret@example.org/a?token=secret", {}, 1)
    assert version.url == "https://***@example.org/a?***"


@pytest.mark.parametrize(
    ("size", "of", "text"),
    [
        (0, None, "0 bytes"),
        (999, None, "999 bytes"),
        (12_345, None, "12.3 kB"),
        (3_400_000_000, None, "3.4 GB"),
        (1_200_000_000, 3_400_000_000, "1.2 of 3.4 GB"),
        (900, 3_400_000_000, "0.0 of 3.4 GB"),
        (0, 0, "0 of 0 bytes"),
    ],
)
def test_amounts(size: int, of: int | None, text: str) -> None:
    assert amount(size, of=of) == text


def test_a_meter_tells_how_far_how_fast_and_how_long() -> None:
    meter = Meter(started=100.0, have=1_000_000_000, total=3_400_000_000, stall=60.0)
    assert meter.text(100.0) == "1.0 of 3.4 GB, 0 bytes/s"
    for second in range(101, 121):
        meter.add(10_000_000, float(second))
    assert meter.text(120.0) == "1.2 of 3.4 GB, 10.0 MB/s, 4 min left"
    assert meter.percent == 35
    # The rate is that of the last seconds, not of all the time.
    for second in range(121, 141):
        meter.add(100_000_000, float(second))
    assert meter.text(140.0) == "3.2 of 3.4 GB, 100.0 MB/s, 2 s left"


def test_a_meter_without_an_end() -> None:
    meter = Meter(started=0.0, have=0, total=None, stall=60.0)
    meter.add(5_000_000, 2.0)
    assert meter.text(2.0) == "5.0 MB, 2.5 MB/s"
    assert meter.percent is None


def test_a_meter_speaks_a_few_times_a_second() -> None:
    meter = Meter(started=0.0, have=0, total=None, stall=60.0)
    assert sum(meter.due(tick / 1000) for tick in range(10_000)) in range(20, 45)


@pytest.mark.parametrize(("each", "slow"), [(1, True), (1000, True), (1100, False)])
def test_a_meter_knows_a_drip(each: int, slow: bool) -> None:
    meter = Meter(started=0.0, have=0, total=10**9, stall=60.0)
    # A good start does not excuse what comes after it.
    meter.add(50_000_000, 1.0)
    assert not meter.too_slow(59.0)
    for second in range(2, 200):
        meter.add(each, float(second))
    assert meter.too_slow(199.0) is slow


def test_a_meter_keeps_little() -> None:
    meter = Meter(started=0.0, have=0, total=None, stall=60.0)
    for tick in range(100_000):
        meter.add(1000, tick / 100)
    assert len(meter._marks) < 300
    assert meter.text(999.99).endswith("100.0 kB/s")


def test_who_no_longer_waits_does_not_hold_up_the_thread() -> None:
    answer = Answer()
    for _ in range(16):  # as many as may wait
        assert answer.put(b"x")
    answer.leave()
    assert not answer.put(b"x")
    assert not answer.put(b"")


def test_an_error_is_told_without_the_url_in_it() -> None:
    url = "https://user:secret@example.org/a?token=secret"
    passing = explain(requests.ConnectionError(f"{url}: cut"), url)
    assert isinstance(passing, AgainError)
    lasting = explain(requests.exceptions.InvalidSchema(f"No adapters for {url!r}"), url)
    assert isinstance(lasting, BoxError)
    for error in (passing, lasting):
        assert "secret" not in str(error)
    assert "example.org" in lasting.brief
