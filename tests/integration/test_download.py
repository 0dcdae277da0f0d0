"""Downloads from a real server that does what servers and networks do on a bad day."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from urllib3.util import Retry

from tests.integration.cli import CHECKOUT, Finished, finish, wait_until
from tests.integration.conftest import need
from tests.integration.http_files import FileServer, Trick, certificate, etag, gone, serving
from vagrant_kiwi import download
from vagrant_kiwi.deadline import Deadline
from vagrant_kiwi.errors import BoxError, PhaseTimeoutError, PreflightError, VagrantKiwiError

CONTENT = random.Random(1).randbytes(1_000_000)  # noqa: S311
OTHER = random.Random(2).randbytes(1_000_000)  # noqa: S311
SUM = hashlib.sha256(CONTENT).hexdigest()
PASSWORD = "s3cr3t/and@long"
#: Four attempts without progress, one after the other.
QUICK = Retry(total=3, backoff_factor=0.01)
#: Seconds that stand for a stall.
STALL = 1.0

#: Downloads in a process of its own, as ``invoke box-add`` would.
DRIVER = """
import json, os, sys
from pathlib import Path
from vagrant_kiwi import download, signals
from vagrant_kiwi.deadline import Deadline
from vagrant_kiwi.errors import VagrantKiwiError
url, digest, folder, room = sys.argv[1:]
def update(text, percent):
    if room == "fill" and (filler := Path(folder, "filler")).exists() is False:
        with filler.open("wb", buffering=0) as stream:
            try:
                while True:
                    stream.write(bytes(1 << 20))
            except OSError:
                print("the disk is full", flush=True)
try:
    with signals.gate(on_ignored=print):
        path = download.fetch(
            download.Source(url, digest or None), Path(folder), update=update,
            log=lambda line: print(line, flush=True), deadline=Deadline.after(60, what="It"),
        )
except VagrantKiwiError as error:
    left = sorted(os.listdir(folder))
    print(json.dumps({**error.as_json(), "left": left}))
    sys.exit(error.code)
print(json.dumps({"path": str(path)}))
"""


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask the servers of the test directly, and as nobody."""
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("NETRC", os.devnull)


@dataclass
class Client:
    """Downloads into a folder, and keeps what was told meanwhile."""

    folder: Path
    lines: list[str] = field(default_factory=list)
    updates: list[tuple[str, int | None]] = field(default_factory=list)

    def get(
        self,
        url: str,
        *,
        sha256: str | None = SUM,
        size: int | None = None,
        stall: float = 20.0,
        limit: float = 60.0,
    ) -> Path:
        """Download a file."""
        return download.fetch(
            download.Source(url, sha256, size),
            self.folder,
            update=lambda text, percent: self.updates.append((text, percent)),
            log=self.lines.append,
            deadline=Deadline.after(limit, what="The download"),
            stall=stall,
            patience=QUICK,
        )

    def left(self) -> list[str]:
        """Return the endings of what lies in the folder; "" is a whole file."""
        names = [path.name for path in self.folder.iterdir() if path.suffix != ".lock"]
        return sorted(name.partition(".bin")[2] for name in names)

    def part(self) -> bytes:
        """Return the part that lies in the folder."""
        (path,) = self.folder.glob("*.part")
        return path.read_bytes()


@pytest.fixture
def client(tmp_path: Path) -> Client:
    """Return a client whose folder is not there yet."""
    return Client(tmp_path / "down loads" / "-here")


def start(
    url: str, folder: Path, *, digest: str = SUM, room: str = "", before: tuple[str, ...] = ()
) -> subprocess.Popen[str]:
    """Start a download in a process of its own."""
    return subprocess.Popen(
        [*before, sys.executable, "-c", DRIVER, url, digest, str(folder), room],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )


def ended(process: subprocess.Popen[str]) -> Finished:
    """Wait for a download some of whose lines were read already; its deadline is near."""
    assert process.stdout is not None and process.stderr is not None
    with process:
        output, errors = process.stdout.read(), process.stderr.read()
    return Finished(process.returncode, output, errors)


def test_a_file_is_downloaded_whole_and_taken_as_it_is_the_next_time(
    server: FileServer, client: Client
) -> None:
    url = server.put("/boxes/a%20box.bin", CONTENT)
    path = client.get(url, size=len(CONTENT))
    assert path.read_bytes() == CONTENT
    assert path.name.endswith("-a_box.bin")
    assert client.left() == ["", ".json"]
    text, percent = client.updates[0]
    assert " of 1.0 MB, " in text
    assert percent is not None
    assert client.get(url, sha256=SUM.upper()) == path
    assert len(server.seen) == 1
    assert "identity" in server.seen[0].headers["accept-encoding"]


def test_a_file_that_was_damaged_on_the_disk_is_downloaded_anew(
    server: FileServer, client: Client
) -> None:
    url = server.put("/a.bin", CONTENT)
    client.get(url).write_bytes(OTHER)
    assert client.get(url).read_bytes() == CONTENT
    assert server.ranges("/a.bin") == [None, None]


def test_without_a_sum_the_server_is_asked_whether_the_file_is_still_the_same(
    server: FileServer, client: Client
) -> None:
    url = server.put("/a.bin", CONTENT)
    client.get(url, sha256=None)
    server.put("/a.bin", CONTENT, Trick(status=503))
    assert client.get(url, sha256=None).read_bytes() == CONTENT
    # Whole files were sent once.
    assert [seen.headers.get("if-none-match") for seen in server.seen] == [
        None,
        etag(CONTENT),
        etag(CONTENT),
    ]
    server.put("/a.bin", OTHER)
    assert client.get(url, sha256=None).read_bytes() == OTHER


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_connection_that_drops_goes_on_where_it_was(
    server: FileServer, client: Client, framing: str
) -> None:
    cuts = [Trick(cut=300_000, framing=framing) for _ in range(3)]
    url = server.put("/a.bin", CONTENT, *cuts, usual=Trick(framing=framing))
    assert client.get(url).read_bytes() == CONTENT
    assert server.ranges("/a.bin") == [None, *(f"bytes={n}00000-" for n in (3, 6, 9))]
    assert {seen.headers.get("if-range") for seen in server.seen[1:]} == {etag(CONTENT)}


def test_progress_resets_the_count_of_attempts(server: FileServer, client: Client) -> None:
    url = server.put("/a.bin", CONTENT, *[Trick(cut=90_000)] * 10)
    assert client.get(url).read_bytes() == CONTENT
    assert len(server.seen) == 11


def test_attempts_without_progress_come_to_an_end_and_keep_what_came(
    server: FileServer, client: Client
) -> None:
    url = server.put("/a.bin", CONTENT, Trick(cut=500_000), usual=Trick(cut=10))
    with pytest.raises(BoxError, match="cannot be downloaded") as caught:
        client.get(url)
    assert "trying 3 more times" in caught.value.details
    assert caught.value.code == 5
    assert client.part() == CONTENT[:500_030]
    server.put("/a.bin", CONTENT)
    assert client.get(url).read_bytes() == CONTENT
    assert server.ranges("/a.bin")[-1] == "bytes=500030-"


@pytest.mark.parametrize(
    "rest",
    [
        Trick(ranges=False),
        Trick(content_range="bytes 0-999999/1000000"),
        Trick(content_range="bytes 400000-999998/1000000"),
        Trick(content_range="bytes 400000-1999999/2000000"),
        Trick(length=599_990),
        Trick(content_range=f"bytes 400000-{'9' * 5000}/1{'0' * 5000}"),
        Trick(content_range="nonsense"),
        Trick(headers={"Content-Range": None}),
        Trick(status=416),
    ],
    ids=[
        *("no ranges", "another start", "another end", "another size", "another length"),
        *("huge", "nonsense", "none", "416"),
    ],
)
def test_an_answer_that_is_not_the_rest_starts_over(
    server: FileServer, client: Client, rest: Trick
) -> None:
    url = server.put("/a.bin", CONTENT, Trick(cut=400_000), rest)
    assert client.get(url, sha256=None).read_bytes() == CONTENT
    over = [] if rest == Trick(ranges=False) else [None]
    assert server.ranges("/a.bin") == [None, "bytes=400000-", *over]


@pytest.mark.parametrize(
    "headers",
    [
        {"ETag": None, "Last-Modified": None},
        {"ETag": 'W/"weak"', "Last-Modified": None},
        {"ETag": None, "Date": None, "Last-Modified": "Sat, 01 Jan 2022 00:00:00 GMT"},
    ],
    ids=["no validators", "a weak one", "a change this second"],
)
def test_a_part_that_cannot_be_told_from_another_version_s_is_not_gone_on_with(
    server: FileServer, client: Client, headers: dict[str, str | None]
) -> None:
    if "Date" in headers:
        headers = {**headers, "Date": headers["Last-Modified"]}
    cut = Trick(cut=400_000, headers=headers)
    url = server.put("/a.bin", CONTENT, cut, usual=Trick(headers=headers))
    assert client.get(url, sha256=None).read_bytes() == CONTENT
    assert server.ranges("/a.bin") == [None, None]


def test_the_time_of_the_last_change_tells_versions_apart_where_there_is_no_etag(
    server: FileServer, client: Client
) -> None:
    headers = {"ETag": None}
    url = server.put(
        "/a.bin", CONTENT, Trick(cut=400_000, headers=headers), usual=Trick(headers=headers)
    )
    assert client.get(url).read_bytes() == CONTENT
    assert server.seen[1].headers["if-range"] == "Tue, 14 Nov 2023 22:13:20 GMT"
    assert server.ranges("/a.bin") == [None, "bytes=400000-"]


@pytest.mark.parametrize("heed_if", [True, False], ids=["heeds If-Range", "ignores If-Range"])
def test_two_versions_of_a_file_are_never_glued_together(
    server: FileServer, client: Client, heed_if: bool
) -> None:
    url = server.put("/a.bin", OTHER, usual=Trick(cut=500_000))
    with pytest.raises(BoxError):
        client.get(url, sha256=None, size=len(OTHER) - 1)
    assert client.left() == []
    server.put("/a.bin", OTHER, Trick(cut=500_000), usual=Trick(status=404))
    with pytest.raises(BoxError, match="cannot be downloaded"):
        client.get(url, sha256=None)
    assert client.part() == OTHER[:500_000]
    server.put("/a.bin", CONTENT, usual=Trick(heed_if=heed_if))
    assert client.get(url, sha256=None).read_bytes() == CONTENT


def test_a_server_that_hides_another_version_behind_the_same_etag_is_asked_once_more(
    server: FileServer, client: Client
) -> None:
    same = {"ETag": '"same"'}
    url = server.put(
        "/a.bin",
        CONTENT,
        Trick(cut=500_000, content=OTHER, headers=same),
        usual=Trick(headers=same),
    )
    assert client.get(url).read_bytes() == CONTENT
    assert server.ranges("/a.bin") == [None, "bytes=500000-", None]


def test_another_file_is_refused_and_nothing_of_it_kept(server: FileServer, client: Client) -> None:
    url = server.put("/a.bin", OTHER)
    with pytest.raises(BoxError) as caught:
        client.get(url)
    assert caught.value.code == 5
    assert SUM in caught.value.details
    assert hashlib.sha256(OTHER).hexdigest() in caught.value.details
    assert client.left() == []
    assert len(server.seen) == 1


def test_another_file_in_two_parts_is_asked_for_twice_and_no_more(
    server: FileServer, client: Client
) -> None:
    url = server.put("/a.bin", OTHER, Trick(cut=500_000), Trick(), Trick(cut=500_000))
    with pytest.raises(BoxError, match="not the file that was asked for"):
        client.get(url)
    assert client.left() == []
    assert server.ranges("/a.bin") == [None, "bytes=500000-", None, "bytes=500000-"]


def test_another_size_is_refused_before_anything_is_written(
    server: FileServer, client: Client
) -> None:
    url = server.put("/a.bin", CONTENT, usual=Trick(hold=0))
    with pytest.raises(BoxError) as caught:
        client.get(url, size=1_000_001)
    assert "1000001 bytes, and has 1000000" in caught.value.details
    assert client.left() == []


def test_another_size_that_shows_with_the_rest_is_refused(
    server: FileServer, client: Client
) -> None:
    url = server.put(
        "/a.bin", CONTENT, Trick(framing="chunked", cut=400_000), usual=Trick(hold=600_000)
    )
    with pytest.raises(BoxError) as caught:
        client.get(url, sha256=None, size=1_000_001)
    assert "1000001 bytes, and has 1000000" in caught.value.details
    assert server.ranges("/a.bin") == [None, "bytes=400000-"]
    assert client.left() == []


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_a_server_that_sends_more_than_it_should_is_cut_off(
    server: FileServer, client: Client, framing: str
) -> None:
    url = server.put("/a.bin", CONTENT, usual=Trick(framing=framing, hold=800_000))
    with pytest.raises(BoxError) as caught:
        client.get(url, sha256=None, size=700_000)
    assert "700000 bytes, and has more" in caught.value.details
    assert client.left() == []


def test_a_chunked_file_that_ends_too_early_is_refused_at_once(
    server: FileServer, client: Client
) -> None:
    url = server.put("/a.bin", CONTENT[:900_000], usual=Trick(framing="chunked"))
    with pytest.raises(BoxError) as caught:
        client.get(url, size=1_000_000)
    assert "1000000 bytes, and has 900000" in caught.value.details
    assert client.left() == []
    assert len(server.seen) == 1


def test_a_server_that_says_more_than_it_sends_is_tried_again(
    server: FileServer, client: Client
) -> None:
    url = server.put("/a.bin", CONTENT, usual=Trick(length=1_000_100))
    with pytest.raises(BoxError, match="cannot be downloaded"):
        client.get(url)
    server.put("/a.bin", CONTENT)
    assert client.get(url).read_bytes() == CONTENT


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_a_file_of_unknown_length_is_taken(
    server: FileServer, client: Client, framing: str
) -> None:
    url = server.put("/a.bin", CONTENT, usual=Trick(framing=framing))
    assert client.get(url, size=len(CONTENT)).read_bytes() == CONTENT


def test_a_drop_is_seen_where_only_the_size_that_was_asked_for_tells(
    server: FileServer, client: Client
) -> None:
    url = server.put(
        "/a.bin", CONTENT, Trick(framing="close", cut=400_000), usual=Trick(framing="close")
    )
    assert client.get(url, sha256=None, size=len(CONTENT)).read_bytes() == CONTENT
    assert server.ranges("/a.bin") == [None, "bytes=400000-"]


def test_an_encoded_answer_is_refused(server: FileServer, client: Client) -> None:
    packed = gzip.compress(CONTENT)
    url = server.put("/a.bin", packed, usual=Trick(headers={"Content-Encoding": "gzip"}))
    with pytest.raises(BoxError) as caught:
        client.get(url)
    assert "Content-Encoding: gzip" in caught.value.details
    assert client.left() == []


@pytest.mark.parametrize(
    "trick",
    [Trick(hold=200_000), Trick(drip=0.05), Trick(drip_head=0.1)],
    ids=["silence", "a drip", "a head that drips"],
)
def test_a_stalled_connection_is_given_up_and_tried_again(
    server: FileServer, client: Client, trick: Trick
) -> None:
    url = server.put("/a.bin", CONTENT, trick)
    assert client.get(url, stall=STALL).read_bytes() == CONTENT
    assert len(server.seen) == 2
    assert any("nothing came for 1 s" in line for line in client.lines)


def test_a_server_that_only_drips_is_given_up(server: FileServer, client: Client) -> None:
    url = server.put("/a.bin", CONTENT, usual=Trick(drip=0.05))
    with pytest.raises(BoxError) as caught:
        client.get(url, stall=0.8)
    assert "next to nothing came" in caught.value.details
    assert len(server.seen) == 4


@pytest.mark.parametrize("trick", [Trick(hold=200_000), Trick(drip_head=0.1)])
def test_the_deadline_is_the_end_and_what_came_is_kept(
    server: FileServer, client: Client, trick: Trick
) -> None:
    url = server.put("/a.bin", CONTENT, trick)
    with pytest.raises(PhaseTimeoutError) as caught:
        client.get(url, limit=1.5, stall=3600)
    assert caught.value.code == 124
    server.release()
    assert client.get(url).read_bytes() == CONTENT
    assert server.ranges("/a.bin")[-1] == ("bytes=200000-" if trick.hold else None)


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429, 408])
def test_a_server_in_trouble_is_tried_again(
    server: FileServer, client: Client, status: int
) -> None:
    busy = Trick(status=status, content=b"busy", headers={"Retry-After": "0"})
    soon = replace(busy, headers={"Retry-After": "soon"})
    never = replace(busy, headers={"Retry-After": "9" * 5000})
    url = server.put("/a.bin", CONTENT, busy, soon, never)
    assert client.get(url).read_bytes() == CONTENT
    assert len(server.seen) == 4


def test_a_server_is_given_the_time_that_it_asks_for(server: FileServer, client: Client) -> None:
    url = server.put("/a.bin", CONTENT, Trick(status=429, headers={"Retry-After": "1"}))
    client.get(url)
    assert any("429 Too Many Requests; trying again in 1 s" in line for line in client.lines)
    server.put("/b.bin", CONTENT, usual=Trick(status=503, headers={"Retry-After": "3600"}))
    with pytest.raises(BoxError) as caught:
        client.get(server.url + "/b.bin")
    assert "wants us to wait 3600 s" in caught.value.details
    server.put("/c.bin", CONTENT, usual=Trick(status=503, headers={"Retry-After": "90"}))
    with pytest.raises(PhaseTimeoutError) as late:
        client.get(server.url + "/c.bin")
    assert "503" in late.value.details


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 204, 206])
def test_a_refusal_is_told_at_once(server: FileServer, client: Client, status: int) -> None:
    # Many servers compress the page that says what is wrong, whatever was asked for.
    headers = {"Content-Encoding": "gzip"} if status >= 400 else {}
    url = server.put("/a.bin", b"", usual=Trick(status=status, headers=headers))
    with pytest.raises(BoxError) as caught:
        client.get(url)
    assert str(status) in caught.value.details
    assert caught.value.resolution
    assert len(server.seen) == 1
    assert client.left() == []


def test_nobody_listens(server: FileServer, client: Client) -> None:
    with pytest.raises(BoxError) as caught:
        client.get(f"{gone(server)}/a.bin?token={PASSWORD}")
    assert "refused" in caught.value.details
    assert PASSWORD not in f"{caught.value}{client.lines}"


def test_redirects_are_followed(server: FileServer, client: Client) -> None:
    server.put("/b/real.bin", CONTENT, Trick(cut=500_000))
    server.redirect("/b/there.bin", "real.bin", status=307)
    url = server.redirect("/a.bin", "/b/there.bin")
    path = client.get(url)
    assert path.read_bytes() == CONTENT
    assert path.name.endswith("-a.bin")
    assert server.ranges("/b/real.bin") == [None, "bytes=500000-"]


def test_a_redirect_s_own_body_is_not_read(server: FileServer, client: Client) -> None:
    server.put("/real.bin", CONTENT)
    server.put(
        "/a.bin", b"", usual=Trick(302, {"Location": "/real.bin"}, b"x" * 99_999, hold=50_000)
    )
    assert client.get(server.url + "/a.bin", stall=5).read_bytes() == CONTENT


@pytest.mark.parametrize("target", ["/a.bin", "ftp://127.0.0.1/a.bin", "file:///etc/passwd"])
def test_redirects_that_lead_nowhere(server: FileServer, client: Client, target: str) -> None:
    url = server.redirect("/a.bin", target)
    with pytest.raises(BoxError, match="cannot be downloaded"):
        client.get(url)
    assert client.left() == []


def test_credentials_go_to_their_own_server_only_and_are_never_shown(
    server: FileServer, client: Client
) -> None:
    login = f"us%C3%A9r:{PASSWORD.replace('/', '%2F').replace('@', '%40')}"
    with serving() as other:
        elsewhere = other.put("/b.bin", CONTENT, Trick(status=500))
        server.redirect("/here.bin", "/a.bin")
        server.redirect("/a.bin", elsewhere.replace("127.0.0.1", "localhost"))
        url = server.url.replace("//", f"//{login}@") + "/here.bin?token=abcdef"
        path = client.get(url)
        assert path.read_bytes() == CONTENT
        expected = "Basic " + base64.b64encode(f"usér:{PASSWORD}".encode()).decode()
        assert [seen.headers.get("authorization") for seen in server.seen] == [expected] * 4
        assert [seen.headers.get("authorization") for seen in other.seen] == [None] * 2
        # Without the login it is the same file.
        assert client.get(url.replace(f"{login}@", "")) == path
        files = client.folder.iterdir()
        written = "".join(file.name + file.read_text("latin-1") for file in files)
        with pytest.raises(BoxError, match="not the file") as caught:
            client.get(url, sha256="0" * 64)
    for text in (*client.lines, str(caught.value), repr(download.Source(url)), written):
        assert not any(secret in text for secret in (PASSWORD, login, "us%C3%A9r", "abcdef"))


def test_a_login_in_netrc_is_used(
    server: FileServer, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    client.get(server.put("/a.bin", CONTENT))
    expected = "Basic " + base64.b64encode(b"user:secret").decode()
    assert server.seen[0].headers["authorization"] == expected


def test_a_proxy_of_the_environment_is_used(
    server: FileServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put("http://files.example.org/a.bin", CONTENT)
    monkeypatch.setenv("http_proxy", server.url.replace("//", "//user:secret@"))
    client.get("http://files.example.org/a.bin")
    assert server.seen[0].headers["proxy-authorization"].startswith("Basic ")
    monkeypatch.setenv("http_proxy", gone(server).replace("//", "//user:secret@"))
    with pytest.raises(BoxError) as caught:
        client.get("http://files.example.org/b.bin")
    assert "refused" in caught.value.details
    assert "secret" not in f"{caught.value}{client.lines}"


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a certificate for this host, with its key; its authority lies beside it."""
    return certificate(tmp_path_factory.mktemp("tls"))


def test_tls_by_a_site_s_own_authority(
    server: FileServer, client: Client, pem: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tls=pem) as secure:
        url = secure.put("/a.bin", CONTENT, Trick(cut=400_000))
        with pytest.raises(BoxError, match="no TLS connection that can be trusted") as caught:
            client.get(url)
        assert "certificate verify failed" in caught.value.details
        assert secure.seen == []
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(pem.with_name("authority.pem")))
        server.redirect("/to-https.bin", url)
        assert client.get(server.url + "/to-https.bin").read_bytes() == CONTENT
        assert secure.ranges("/a.bin") == [None, "bytes=400000-"]
    # Plain HTTP where TLS is expected is not a matter of trying again.
    with pytest.raises(BoxError, match="no TLS connection that can be trusted"):
        client.get(server.url.replace("http:", "https:") + "/a.bin")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere.pem")
    with pytest.raises(BoxError) as missing:
        client.get(url)
    assert "/nowhere.pem" in missing.value.details


def test_a_redirect_from_https_to_http_is_refused(
    server: FileServer, client: Client, pem: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(pem.with_name("authority.pem")))
    plain = server.put("/a.bin", CONTENT)
    with serving(tls=pem) as secure:
        url = secure.redirect("/a.bin", f"{plain}?token=s3cr3t")
        with pytest.raises(BoxError, match="leads away from https") as caught:
            client.get(url)
        # Neither may a server on the way that has no TLS at its end.
        with pytest.raises(BoxError, match="leads away from https"):
            client.get(server.redirect("/b.bin", url))
    assert plain in caught.value.details
    assert "s3cr3t" not in str(caught.value)
    assert [seen.path for seen in server.seen] == ["/b.bin"]
    assert client.left() == []


def test_a_file_without_room_is_refused_before_anything_is_written(
    server: FileServer, client: Client
) -> None:
    url = server.put("/a.bin", CONTENT, usual=Trick(length=10**18, hold=0))
    with pytest.raises(PreflightError, match="not enough room") as caught:
        client.get(url)
    assert caught.value.code == 4
    assert "are missing" in caught.value.details
    assert client.left() == []


def test_a_file_of_unknown_length_needs_the_room_that_is_stated(
    server: FileServer, client: Client
) -> None:
    url = server.put("/a.bin", CONTENT, usual=Trick(framing="chunked", hold=0))
    with pytest.raises(PreflightError, match="not enough room"):
        client.get(url, size=10**18)
    assert client.left() == []


def small_disk(folder: Path, megabytes: int) -> tuple[str, ...]:
    """Return the words before a command that give it a small disk in a folder, for itself."""
    unshare = ("unshare", "--mount") if os.geteuid() == 0 else ("unshare", "--mount", "-r")
    if subprocess.run([*unshare, "true"], capture_output=True).returncode:
        need("this host does not let us mount")
    mount = f'mount -t tmpfs -o size={megabytes}m none "$0" && exec "$@"'
    return (*unshare, "sh", "-c", mount, str(folder))


def test_a_file_of_unknown_length_stops_while_there_is_still_room(
    server: FileServer, tmp_path: Path
) -> None:
    url = server.put("/a.bin", bytes(50 << 20), usual=Trick(framing="chunked"))
    done = finish(start(url, tmp_path, digest="", before=small_disk(tmp_path, 90)))
    error = json.loads(done.output.splitlines()[-1])
    assert done.status == 4, done
    assert "67.1 MB stay free" in error["details"]
    assert [name for name in error["left"] if not name.endswith(".lock")] == []


def test_a_disk_that_another_fills_meanwhile(server: FileServer, tmp_path: Path) -> None:
    url = server.put("/a.bin", CONTENT, usual=Trick(hold=500_000))
    process = start(url, tmp_path, room="fill", before=small_disk(tmp_path, 80))
    assert process.stdout is not None
    assert "the disk is full\n" in iter(process.stdout.readline, "")
    server.release()
    done = ended(process)
    error = json.loads(done.output.splitlines()[-1])
    assert done.status == 4, done
    assert "No space left on device" in error["details"]
    assert [name for name in error["left"] if not name.endswith(".lock")] == ["filler"]


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_download_that_was_killed_goes_on(
    server: FileServer, client: Client, signum: signal.Signals
) -> None:
    url = server.put("/a.bin", CONTENT, Trick(hold=400_000))
    process = start(url, client.folder)
    server.wait_for_hold()
    wait_until(
        lambda: any(path.stat().st_size == 400_000 for path in client.folder.glob("*.part")),
        what="the first bytes are written",
    )
    process.send_signal(signum)
    done = finish(process)
    assert done.status == (-9 if signum == signal.SIGKILL else 128 + signum)
    server.release()
    assert client.get(url).read_bytes() == CONTENT
    assert server.ranges("/a.bin") == [None, "bytes=400000-"]
    assert client.left() == ["", ".json"]


@pytest.mark.parametrize(
    "damage", ["no json", "a cut json", "a part that is too long", "all of it"]
)
def test_what_was_left_behind_in_another_state(
    server: FileServer, client: Client, damage: str
) -> None:
    url = server.put("/a.bin", CONTENT, Trick(cut=400_000), usual=Trick(status=404))
    with pytest.raises(BoxError):
        client.get(url)
    (part,) = client.folder.glob("*.part")
    (note,) = client.folder.glob("*.json")
    if damage == "no json":
        note.unlink()
    elif damage == "a cut json":
        note.write_text(note.read_text()[:20])
    elif damage == "a part that is too long":
        part.write_bytes(CONTENT + b"x")
    else:  # as if killed before it got its name
        part.write_bytes(CONTENT)
    server.put("/a.bin", CONTENT)
    if damage == "all of it":
        whole = client.get(url, size=len(CONTENT))
        assert len(server.seen) == 2
        whole.rename(part)
        with pytest.raises(BoxError, match="not the file that was asked for"):
            client.get(url, size=len(CONTENT) + 1)
        return
    assert client.get(url).read_bytes() == CONTENT
    assert server.ranges("/a.bin")[2:] == [None]


def test_without_a_sum_a_part_is_not_taken_for_the_whole_file(
    server: FileServer, client: Client
) -> None:
    url = server.put("/a.bin", OTHER, Trick(cut=400_000), usual=Trick(status=404))
    with pytest.raises(BoxError):
        client.get(url, sha256=None)
    next(client.folder.glob("*.part")).write_bytes(OTHER)
    server.put("/a.bin", CONTENT)
    assert client.get(url, sha256=None).read_bytes() == CONTENT


def test_two_at_once_download_once(server: FileServer, client: Client) -> None:
    url = server.put("/a.bin", CONTENT, Trick(hold=400_000))
    first = start(url, client.folder)
    server.wait_for_hold()
    second = start(url, client.folder)
    assert second.stdout is not None
    assert second.stdout.readline().startswith("Waiting: ")
    with pytest.raises(PhaseTimeoutError) as caught:
        client.get(url, limit=0.2)
    assert "another process" in caught.value.details
    server.release()
    finished = (finish(first), ended(second))
    paths = {json.loads(done.output.splitlines()[-1])["path"] for done in finished}
    assert [Path(path).read_bytes() for path in paths] == [CONTENT]
    assert len(server.seen) == 1


def test_a_file_that_is_held_is_nobody_elses_and_goes_with_its_use(
    server: FileServer, client: Client
) -> None:
    source = download.Source(server.put("/a.bin", CONTENT), SUM)

    def held(limit: float = 30) -> contextlib.AbstractContextManager[Path]:
        deadline = Deadline.after(limit, what="It")
        return download.held(
            source, client.folder, update=lambda *_: None, log=lambda _: None, deadline=deadline
        )

    with held() as path:
        assert path.read_bytes() == CONTENT
        with pytest.raises(PhaseTimeoutError) as caught, held(limit=0.2):
            pass
        assert "another process" in caught.value.details
    assert client.left() == []
    with pytest.raises(BoxError, match="a fault"), held():
        raise BoxError("a fault")
    assert client.left() == []
    with pytest.raises(KeyboardInterrupt), held():
        raise KeyboardInterrupt
    assert client.left() != [], "it stays for the next call"
    with held():
        pass
    assert len(server.seen) == 3, "the last one found it there"


def test_a_folder_that_cannot_be_used(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PreflightError) as caught:
        Client(tmp_path / "file" / "folder").get(server.put("/a.bin", CONTENT))
    assert isinstance(caught.value, VagrantKiwiError)
    assert "Not a directory" in caught.value.details
