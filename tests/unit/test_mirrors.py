from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from vagrant_kiwi import mirrors
from vagrant_kiwi.description_model import Repository
from vagrant_kiwi.errors import PreflightError
from vagrant_kiwi.mirrors import HostMirror, MirrorChoice, choose, index_urls, pick_mirror
from vagrant_kiwi.process import CommandNotFoundError, CommandResult, CommandTimeoutError, Runner

OFFICIAL = "http://ftp.example.org/debian"
SECURITY = "http://security.example.org/debian-security"
LOCAL = "http://mirror.example.com/debian"
FTP = "http://ftp.example.org"
OTHER = "http://other.example.com"
WITH_LOGIN = "http://u:p@ftp.example.org/debian"


def debian(source: str = OFFICIAL, **changes: Any) -> Repository:
    values: dict[str, Any] = {
        "kind": "apt-deb",
        "distribution": "bookworm",
        "repository_gpgcheck": True,
    }
    return Repository(source, **{**values, **changes})


def host(*uris: str) -> tuple[HostMirror, ...]:
    return tuple(HostMirror(uri, "bookworm", "bookworm", "stable", "Debian", ()) for uri in uris)


class Net:
    """Answers for URLs below the given ones; refuses to wait for longer than a mirror is worth."""

    def __init__(self, *alive: str) -> None:
        self.alive = alive
        self.asked: list[str] = []

    def __call__(self, url: str, timeout: float) -> bool:
        assert timeout in (3.0, 9.0)
        self.asked.append(url)
        return url.startswith(self.alive) if self.alive else False


def refused(
    repositories: Sequence[Repository],
    setting: mirrors.MirrorSetting = "auto",
    *,
    net: Net | None = None,
    mirrors_of_host: Iterable[HostMirror] = (),
) -> PreflightError:
    with pytest.raises(PreflightError) as caught:
        choose(
            repositories, setting, probe=net or Net(), host_mirrors=lambda: tuple(mirrors_of_host)
        )
    assert caught.value.code == 4
    assert "mirrors:" in caught.value.resolution
    return caught.value


# -- where an index lies ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("repository", "urls"),
    [
        (
            debian(),
            (f"{OFFICIAL}/dists/bookworm/InRelease", f"{OFFICIAL}/dists/bookworm/Release"),
        ),
        (
            debian(f"{OFFICIAL}/", distribution="bookworm/updates"),
            (
                f"{OFFICIAL}/dists/bookworm/updates/InRelease",
                f"{OFFICIAL}/dists/bookworm/updates/Release",
            ),
        ),
        (
            debian("https://example.org/flat", distribution=""),
            tuple(
                f"https://example.org/flat/{name}"
                for name in ("InRelease", "Release", "Packages.xz", "Packages.gz", "Packages")
            ),
        ),
        (
            Repository("http://example.org/os/", kind="rpm-md"),
            ("http://example.org/os/repodata/repomd.xml",),
        ),
        (
            Repository("http://example.org/os?token=x", kind="rpm-md"),
            ("http://example.org/os/repodata/repomd.xml?token=x",),
        ),
        (
            Repository("http://example.org/os?credentials=file", kind="rpm-md"),
            ("http://example.org/os/repodata/repomd.xml",),
        ),
        (
            Repository("http://example.org/meta", kind="rpm-md", source_type="metalink"),
            ("http://example.org/meta",),
        ),
        (Repository("http://example.org/os/$releasever", kind="rpm-md"), ()),
        (Repository("obs://Virtualization/x", kind="rpm-md"), ()),
        (Repository("dir:///srv/repo", kind="rpm-md"), ()),
        (Repository("this://repo", kind="apt-deb"), ()),
        (Repository("/srv/repo", kind="apt-deb"), ()),
        (Repository("http://[::1", kind="apt-deb"), ()),
        (Repository("http://example.org/alpine", kind="apk"), ()),
        (
            Repository("ftp://example.org/os", kind="rpm-md"),
            ("ftp://example.org/os/repodata/repomd.xml",),
        ),
    ],
)
def test_index_urls(repository: Repository, urls: tuple[str, ...]) -> None:
    assert index_urls(repository) == urls


def test_index_urls_carry_credentials_to_their_own_server_only() -> None:
    repository = debian(username="a b", password="p@/:?")
    assert index_urls(repository)[0] == (
        "http://a%20b:p%40%2F%3A%3F@ftp.example.org/debian/dists/bookworm/InRelease"
    )
    assert index_urls(repository, LOCAL)[0] == f"{LOCAL}/dists/bookworm/InRelease"
    inside = debian("http://u:p@ftp.example.org/debian", password="other")
    assert index_urls(inside)[0].startswith("http://u:p@ftp.example.org/")


# -- auto -------------------------------------------------------------------------------------


def test_nothing_changes_where_all_answer() -> None:
    net = Net(OFFICIAL)
    assert choose([debian()], "auto", probe=net, host_mirrors=lambda: host(LOCAL)) == ()
    assert all(url.startswith(OFFICIAL) for url in net.asked)


def test_an_old_release_file_is_an_answer_too() -> None:
    net = Net(f"{OFFICIAL}/dists/bookworm/Release")
    assert choose([debian()], "auto", probe=net, host_mirrors=lambda: ()) == ()


def test_a_mirror_of_the_host_stands_in() -> None:
    original = debian()
    other = f"{LOCAL}-security"
    got = choose([original], "auto", probe=Net(LOCAL), host_mirrors=lambda: host(other, LOCAL))
    assert got == (MirrorChoice(original, LOCAL),)
    assert got[0].describe() == (
        f"Mirror: {OFFICIAL} (bookworm) is taken from {LOCAL} for this build"
    )


def test_each_kind_gets_its_own_and_the_order_stays() -> None:
    main, updates, security = (
        debian(),
        debian(distribution="bookworm-updates"),
        debian(SECURITY, distribution="bookworm-security"),
    )
    got = choose(
        [security, main, updates],
        "auto",
        probe=Net(LOCAL),
        host_mirrors=lambda: host(LOCAL, f"{LOCAL}-security"),
    )
    assert [(one.original, one.replacement) for one in got] == [
        (security, f"{LOCAL}-security"),
        (main, LOCAL),
        (updates, LOCAL),
    ]


def test_the_first_mirror_that_has_the_distribution_is_taken() -> None:
    first, second = "http://one.example.com/debian", "http://two.example.com/debian"
    net = Net(f"{first}/dists/trixie/", f"{second}/dists/")
    chosen = choose([debian()], "auto", probe=net, host_mirrors=lambda: host(first, second))
    assert chosen[0].replacement == second
    assert not any("trixie" in url for url in net.asked)


def test_a_mirror_is_not_its_own_stand_in() -> None:
    net = Net()
    same = host(f"{OFFICIAL}/", "http://u:p@ftp.example.org/debian")
    error = refused([debian()], net=net, mirrors_of_host=same)
    assert "names no mirror of 'debian'" in error.details
    assert len(net.asked) == 2


def test_each_silent_repository_is_named() -> None:
    error = refused([debian(), debian(SECURITY)], mirrors_of_host=host(LOCAL))
    assert error.brief == "2 repositories do not answer"
    assert error.details.splitlines() == [
        f"{OFFICIAL} (bookworm): nor do this host's mirrors {LOCAL}",
        f"{SECURITY} (bookworm): this host's apt configuration names no mirror of "
        "'debian-security'",
    ]


@pytest.mark.parametrize("check", [False, None])
def test_without_signatures_no_other_mirror_is_used(check: bool | None) -> None:
    net = Net(LOCAL)
    error = refused([debian(repository_gpgcheck=check)], net=net, mirrors_of_host=host(LOCAL))
    assert error.brief == "A repository does not answer"
    assert 'lacks repository_gpgcheck="true"' in error.details
    assert not any(url.startswith(LOCAL) for url in net.asked)


@pytest.mark.parametrize("change", [{"distribution": ""}, {"kind": "rpm-md"}])
def test_a_flat_or_rpm_repository_has_no_stand_in(change: Mapping[str, str]) -> None:
    error = refused([debian(**change)], net=Net(LOCAL), mirrors_of_host=host(LOCAL))
    assert "no other mirror can be found" in error.details


def test_one_good_mirror_does_not_hide_another_silent_repository() -> None:
    bad = debian("http://gone.example.org/extra")
    error = refused([debian(), bad], net=Net(LOCAL), mirrors_of_host=host(LOCAL))
    assert error.brief == "A repository does not answer"
    assert OFFICIAL not in error.details


def test_what_cannot_be_asked_and_what_is_only_for_the_image_is_left_out() -> None:
    net = Net()
    repositories = [
        Repository("obs://X/y", kind="rpm-md"),
        Repository("this://repo", kind="apt-deb"),
        debian(image_only=True),
    ]
    assert choose(repositories, "auto", probe=net, host_mirrors=lambda: ()) == ()
    mapping = {"http://": "https://"}
    assert choose(repositories, mapping, probe=net, host_mirrors=lambda: ()) == ()
    assert net.asked == []


def test_off_asks_nobody() -> None:
    net = Net()
    assert choose([debian()], "off", probe=net, host_mirrors=lambda: host(LOCAL)) == ()
    assert net.asked == []


def test_all_are_asked_at_the_same_time() -> None:
    def slow(url: str, timeout: float) -> bool:
        time.sleep(0.2)
        return True

    repositories = [debian(f"http://h{number}.example.org/debian") for number in range(20)]
    started = time.monotonic()
    assert choose(repositories, "auto", probe=slow, host_mirrors=lambda: ()) == ()
    assert time.monotonic() - started < 2


def test_who_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirrors, "PATIENCE", 0.1)

    def stuck(url: str, timeout: float) -> bool:
        if url.startswith(LOCAL):
            return True
        time.sleep(1.5)  # as a name server that says nothing
        return True

    started = time.monotonic()
    got = choose([debian()], "auto", probe=stuck, host_mirrors=lambda: host(LOCAL))
    assert time.monotonic() - started < 1.4
    assert got[0].replacement == LOCAL


def test_a_mirror_of_the_host_gets_a_second_chance_with_more_time() -> None:
    asked: list[float] = []

    def slow(url: str, timeout: float) -> bool:
        if not url.startswith(LOCAL):
            return False
        asked.append(timeout)
        return timeout > 3

    got = choose([debian()], "auto", probe=slow, host_mirrors=lambda: host(LOCAL))
    assert got[0].replacement == LOCAL
    assert set(asked) == {3.0, 9.0}


def test_a_broken_probe_is_not_hidden() -> None:
    def broken(url: str, timeout: float) -> bool:
        raise RuntimeError("bug")

    with pytest.raises(RuntimeError, match="bug"):
        choose([debian()], "auto", probe=broken, host_mirrors=lambda: ())


# -- an explicit map --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "setting", "expected"),
    [
        (OFFICIAL, {FTP: OTHER}, f"{OTHER}/debian"),
        (OFFICIAL, {f"{FTP}/": f"{OTHER}/x/"}, f"{OTHER}/x/debian"),
        (OFFICIAL, {f"{OFFICIAL}/": LOCAL}, LOCAL),
        (f"{OFFICIAL}/", {OFFICIAL: LOCAL}, f"{LOCAL}/"),
        (OFFICIAL, {"http://": "https://"}, "https://ftp.example.org/debian"),
        (OFFICIAL, {FTP: OTHER, OFFICIAL: LOCAL}, LOCAL),
        (OFFICIAL, {OFFICIAL: LOCAL, FTP: OTHER}, LOCAL),
        (WITH_LOGIN, {FTP: OTHER}, f"{OTHER}/debian"),
        (WITH_LOGIN, {FTP: "https://ftp.example.org"}, "https://u:p@ftp.example.org/debian"),
        (WITH_LOGIN, {"http://u:p@ftp.example.org": OTHER}, f"{OTHER}/debian"),
        ("obs://A:B/c", {"obs://A:B": LOCAL}, f"{LOCAL}/c"),
    ],
)
def test_the_longest_prefix_wins(source: str, setting: Mapping[str, str], expected: str) -> None:
    original = debian(source)
    net = Net("http://", "https://")
    assert choose([original], setting, probe=net, host_mirrors=lambda: ()) == (
        MirrorChoice(original, expected),
    )


@pytest.mark.parametrize(
    "setting",
    [
        {},
        {"http://ftp.example.org/deb": LOCAL},
        {"http://ftp.example": LOCAL},
        {"": LOCAL},
        {"/": LOCAL},
        {OFFICIAL: OFFICIAL},
        {"https://ftp.example.org": LOCAL},
    ],
)
def test_a_prefix_ends_with_a_part_of_the_path(setting: Mapping[str, str]) -> None:
    assert choose([debian()], setting, probe=Net("http://"), host_mirrors=lambda: ()) == ()


def test_a_mapped_repository_needs_no_signature_check() -> None:
    original = debian(repository_gpgcheck=False)
    got = choose([original], {OFFICIAL: LOCAL}, probe=Net(LOCAL), host_mirrors=lambda: ())
    assert got == (MirrorChoice(original, LOCAL),)


def test_a_map_is_the_users_word_so_no_other_mirror_is_tried() -> None:
    net = Net(LOCAL)
    error = refused(
        [debian()], {"http://x.example.org": LOCAL}, net=net, mirrors_of_host=host(LOCAL)
    )
    assert error.details == (
        f"{OFFICIAL} (bookworm): the setting 'mirrors' names no other server for it"
    )
    assert not any(url.startswith(LOCAL) for url in net.asked)


def test_a_mapped_server_that_does_not_answer_is_named() -> None:
    error = refused([debian()], {OFFICIAL: "http://u:secret@m.example.com/debian"})
    assert error.details == (
        f"http://***@m.example.com/debian (bookworm): the setting 'mirrors' names it for {OFFICIAL}"
    )


# -- secrets ----------------------------------------------------------------------------------


@given(st.text(st.characters(codec="ascii"), min_size=1))
def test_no_credentials_in_what_is_shown(text: str) -> None:
    secret = f"<{text}>"
    url = f"http://user:{secret}@mirror.example.com/debian"
    original = debian(f"http://user:{secret}@ftp.example.org/debian", password=secret)
    choice = MirrorChoice(original, url)
    assert secret not in choice.describe() + repr(choice) + repr(host(url))
    for setting in ("auto", {"http://user": url}, {original.source: url}):
        try:
            # Not all of these passwords leave a URL that anybody could ask for.
            choose([original], setting, probe=Net(), host_mirrors=lambda: host(url))
        except PreflightError as error:
            assert secret not in str(error) + str(error.as_json())


def test_a_url_that_is_none_is_not_asked_for() -> None:
    broken = "http://user:[@ftp.example.org/debian"
    assert choose([debian(broken)], "auto", probe=Net(), host_mirrors=lambda: host(broken)) == ()
    assert "names no mirror" in refused([debian()], mirrors_of_host=host(broken)).details


# -- making a box -----------------------------------------------------------------------------


def test_pick_mirror() -> None:
    def pick(net: Net, setting: mirrors.MirrorSetting = "auto") -> str:
        return pick_mirror(
            OFFICIAL, "bookworm", setting=setting, probe=net, host_mirrors=lambda: host(LOCAL)
        )

    assert pick(Net(OFFICIAL, LOCAL)) == OFFICIAL
    assert pick(Net(LOCAL)) == LOCAL
    assert pick(Net(), "off") == OFFICIAL
    assert pick(Net("http://m.example.com"), {OFFICIAL: "http://m.example.com/d"}) == (
        "http://m.example.com/d"
    )
    with pytest.raises(PreflightError, match="A repository does not answer"):
        pick(Net())


def test_pick_mirror_for_a_suite_that_the_host_does_not_use() -> None:
    def pick(net: Net) -> str:
        return pick_mirror(
            OFFICIAL, "trixie", probe=net, host_mirrors=lambda: host(OTHER + "/debian", LOCAL)
        )

    # The server is the same for all suites; whether it has this one is asked for.
    assert pick(Net(f"{OTHER}/debian/dists/bookworm/", f"{LOCAL}/dists/trixie/")) == LOCAL
    with pytest.raises(PreflightError) as caught:
        pick(Net(f"{OTHER}/debian/dists/bookworm/", f"{LOCAL}/dists/bookworm/"))
    assert caught.value.details == (
        f"{OFFICIAL} (trixie): nor do this host's mirrors {OTHER}/debian, {LOCAL}"
    )


# -- the host's apt configuration -------------------------------------------------------------


class FakeRunner(Runner):
    """Answers the one command this module may run."""

    def __init__(self, answer: CommandResult | BaseException) -> None:
        super().__init__(environment={})
        object.__setattr__(self, "answer", answer)

    def run(self, argv: Sequence[str], *, timeout: float, **others: Any) -> CommandResult:
        assert list(argv[:3]) == ["apt-get", "indextargets", "--format"]
        assert argv[4:] == ["Created-By: Packages"]
        assert not others
        answer: CommandResult | BaseException = self.answer  # type: ignore[attr-defined]
        if isinstance(answer, BaseException):
            raise answer
        return answer


def said(*lines: Sequence[str], status: int = 0) -> FakeRunner:
    text = "".join("\t".join(line) + "\n" for line in lines)
    return FakeRunner(CommandResult(("apt-get",), status, text.encode()))


def test_host_mirrors() -> None:
    runner = said(
        (f"{LOCAL}/", "bookworm", "bookworm", "stable", "Debian", "main"),
        (f"{LOCAL}/", "bookworm", "bookworm", "stable", "Debian", "contrib"),
        (f"{LOCAL}/", "bookworm", "bookworm", "stable", "Debian", "main"),
        ("https://u:p@s.example.com/debian-security/", "bookworm-security", "", "", "", "main"),
        ("file:/srv/mirror/", "bookworm", "", "", "", "main"),
        ("cdrom://[Debian]/", "bookworm", "", "", "", "main"),
        ("tor+http://x.example.com/debian/", "bookworm", "", "", "", "main"),
        ("http://flat.example.com/./", "/", "", "", "", ""),
        ("broken line",),
    )
    got = mirrors.host_mirrors(runner)
    assert got == (
        HostMirror(LOCAL, "bookworm", "bookworm", "stable", "Debian", ("main", "contrib")),
        HostMirror(
            "https://u:p@s.example.com/debian-security", "bookworm-security", "", "", "", ("main",)
        ),
        HostMirror("http://flat.example.com/.", "/", "", "", "", ()),
    )
    assert "u:p" not in repr(got)


@pytest.mark.parametrize(
    "runner",
    [
        FakeRunner(CommandNotFoundError("apt-get")),
        FakeRunner(CommandTimeoutError(["apt-get"], 30, b"")),
        said((f"{LOCAL}/", "bookworm", "", "", "", "main"), status=100),
        said(),
    ],
)
def test_a_host_without_a_usable_apt_has_no_mirrors(runner: FakeRunner) -> None:
    assert mirrors.host_mirrors(runner) == ()


# -- asking a server --------------------------------------------------------------------------


class FakeAnswer:
    """What requests.get returns, as far as ``answers`` looks at it."""

    def __init__(self, status_code: int, body: bytes) -> None:
        self.status_code = status_code
        self.body = body

    def __enter__(self) -> FakeAnswer:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def iter_content(self, size: int) -> Iterable[bytes]:
        yield from (self.body[start : start + size] for start in range(0, len(self.body), size))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (FakeAnswer(200, b"-----BEGIN PGP SIGNED MESSAGE-----"), True),
        (FakeAnswer(200, b"Origin: Debian\n" * 1000), True),
        (FakeAnswer(200, b""), True),
        (FakeAnswer(404, b"gone"), False),
        (FakeAnswer(401, b""), False),
        (FakeAnswer(403, b"blocked by the proxy"), False),
        (FakeAnswer(200, b"\n <!DOCTYPE HTML><html>log in"), False),
        (FakeAnswer(200, b"<HTML>"), False),
        (requests.ConnectTimeout(), False),
        (requests.ConnectionError(), False),
        (requests.exceptions.SSLError(), False),
        (requests.exceptions.InvalidURL(), False),
        (ValueError(), False),
    ],
)
def test_answers(
    monkeypatch: pytest.MonkeyPatch, answer: FakeAnswer | Exception, expected: bool
) -> None:
    def get(url: str, *, timeout: float, stream: bool) -> FakeAnswer:
        assert (url, timeout, stream) == (OFFICIAL, 3.0, True)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(requests, "get", get)
    assert mirrors.answers(OFFICIAL, 3.0) is expected


def test_answers_over_ftp(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def urlopen(url: str, *, timeout: float) -> Any:
        assert timeout in (3.0, 9.0)
        if "gone" in url:
            raise OSError("no route")
        return (tmp_path / "InRelease").open("rb")

    (tmp_path / "InRelease").write_text("Origin: x")
    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    assert mirrors.answers("ftp://example.org/InRelease", 3.0) is True
    assert mirrors.answers("ftp://example.org/gone", 3.0) is False
