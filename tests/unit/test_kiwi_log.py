"""Real logs of KIWI 11.1.6, trimmed, and what no real log should be needed for."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vagrant_kiwi.kiwi_log import KiwiLog, Progress, explain
from vagrant_kiwi.log_mask import LogMask, mask_credentials

LOGS = Path(__file__).parent / "data" / "kiwi-logs"
NAMES = sorted(path.stem for path in LOGS.glob("*.log"))
GOOD = [name for name in NAMES if name.startswith("good-")]


def _data(name: str) -> bytes:
    return (LOGS / f"{name}.log").read_bytes()


def _read(data: bytes) -> KiwiLog:
    log = KiwiLog()
    log.feed(data)
    log.finish()
    return log


def _log(*lines: str) -> KiwiLog:
    return _read("".join(f"{line}\n" for line in lines).encode())


def _record(level: str, text: str) -> str:
    return f"[ {level:<8}]: 10:00:00 | {text}"


def _facts(log: KiwiLog) -> tuple[object, ...]:
    return (
        log.progress,
        log.first_error(),
        log.error_lines(),
        log.context(),
        log.disk_full(),
        log.image_full(),
        log.repository_problems(),
        log.failed(),
        log.tail(),
    )


def _phases(data: bytes) -> list[str]:
    log = KiwiLog()
    seen: list[str] = []
    for line in data.splitlines(keepends=True):
        progress = log.feed(line)
        if progress and seen[-1:] != [progress.phase]:
            seen.append(progress.phase)
    return seen


def test_the_logs_are_here() -> None:
    assert len(NAMES) == 33
    assert len(GOOD) == 6


@pytest.mark.parametrize("name", GOOD)
def test_a_good_build_is_no_error(name: str) -> None:
    log = _read(_data(name))
    assert explain(0, log, "build.log") is None
    assert log.repository_problems() == ()
    assert not log.disk_full()
    assert not log.image_full()


@pytest.mark.parametrize("name", [name for name in NAMES if name not in GOOD])
def test_every_other_log_is_an_error_with_its_status(name: str) -> None:
    log = _read(_data(name))
    error = explain(0 if name.startswith("zero-") else 1, log, "/x/build.log")
    assert error is not None
    assert error.code == 7
    assert error.details.endswith("Log: /x/build.log")
    assert "10:00" not in error.brief
    assert "s3cret" not in str(error)


def test_phases_of_a_build_in_plain_words() -> None:
    assert _phases(_data("good-tarball")) == [
        "preparing",
        "bootstrap packages",
        "image packages",
        "configuring",
        "creating image",
        "packing image",
        "listing packages",
    ]
    assert _phases(_data("good-disk-failed-cleanup"))[4:] == [
        "creating image",
        "creating initrd",
        "filling image",
        "listing packages",
        "packing image",
    ]
    assert _phases(_data("good-bundle")) == ["bundling"]


def test_percent_comes_from_bars_that_share_a_line_with_a_record() -> None:
    log = KiwiLog()
    log.feed(b"[ INFO    ]: 10:00:00 | Installing bootstrap packages\n")
    assert log.progress == Progress("bootstrap packages", None)
    bar = b"\r[ INFO    ]: Processing: [%s] %d%%"
    first = bar % (b" " * 40, 0) + b"[ DEBUG   ]: 10:00:00 | bootstrap: one\n"
    assert log.feed(first) == Progress("bootstrap packages", 0)
    assert log.feed(b"[ DEBUG   ]: 10:00:00 | bootstrap: two\n") is None
    both = bar % (b"#" * 20 + b" " * 20, 50) + bar % (b"#" * 40, 100) + b"\n"
    assert log.feed(both) == Progress("bootstrap packages", 100)
    configuring = b"[ INFO    ]: 10:00:01 | Calling config.sh script\n"
    assert log.feed(configuring) == Progress("configuring", None)


def test_a_bar_in_the_output_of_a_script_is_no_progress() -> None:
    log = _log(_record("DEBUG", "[ INFO    ]: Processing: [####] 99%"))
    assert log.progress is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "unknown-package",
            "KiwiInstallPhaseFailed: System package installation failed: "
            "E: Unable to locate package no-such-package-xyz",
        ),
        (
            "script-fails",
            "KiwiScriptFailed: config.sh failed with: problem: cannot frobnicate",
        ),
        ("no-such-profile", "KiwiProfileNotFound: profile nope not found for host arch x86_64"),
        (
            "traceback",
            "Unexpected error: FileNotFoundError: [Errno 2] No such file or directory: "
            "'/no/such/keyring.gpg'",
        ),
        (
            "bad-option",
            "No such option: --no-such-option (Possible options: --description)",
        ),
        (
            "bad-choice",
            "Invalid value for '--ca-target-distribution': Value error, 'Debian' is not "
            "one of 'suse', 'redhat', 'debian', 'archlinux'.",
        ),
        (
            "bundle-program-missing",
            'KiwiCommandNotFound: Command "file" not found in the environment',
        ),
        (
            "zero-unknown-attribute",
            "Failed to set type attribute: 'type_' object has no attribute 'set_nosuch'",
        ),
        (
            "zypper-down",
            "KiwiBootStrapPhaseFailed: Bootstrap package installation failed: "
            "Repository 'second' is invalid.",
        ),
        ("terminated", None),
        ("good-tarball", None),
    ],
)
def test_first_error(name: str, message: str | None) -> None:
    assert _read(_data(name)).first_error() == message


def test_the_error_kiwi_ends_with_counts_not_the_failed_cleanup_before_it() -> None:
    log = _log(
        _record("ERROR", "cleanup of partition maps on /dev/loop0 failed with: partx"),
        _record("ERROR", "KiwiCommandError: grub2-install: stderr: no boot code"),
        _record("ERROR", "KiwiOther: later"),
    )
    assert log.first_error() == "KiwiCommandError: grub2-install: stderr: no boot code"


def test_kiwis_advice_to_use_a_log_file_is_left_out() -> None:
    log = _read(_data("unknown-package"))
    error = explain(1, log, "build.log")
    assert error is not None
    assert error.details == "Log: build.log"
    assert error.resolution == (
        "Is the package's name right, and does a repository of the description have it?"
    )


def test_a_failed_script_is_shown_with_what_it_said() -> None:
    error = explain(1, _read(_data("script-fails")), "build.log")
    assert error is not None
    assert "doing work" in error.details
    assert "second" in error.details
    assert error.resolution.startswith("Correct the script")


def test_a_description_that_does_not_fit_the_schema_is_shown_with_the_place() -> None:
    error = explain(1, _read(_data("bad-schema")), "build.log")
    assert error is not None
    assert "Element preferences has extra content: versionn" in error.details


NO_KEY = (
    "The following signatures couldn't be verified because the public key is not available: "
    "NO_PUBKEY 6ED0E7B82643E131 NO_PUBKEY 78DBA3BC47EF2265 NO_PUBKEY F8D2585B8783D481"
)
#: What apt has to say from 3.0 on, where it asks sqv in place of gpgv.
MISSING_KEY = (
    "Sub-process /usr/bin/sqv returned an error code (1), error message is: Missing key "
    "4CB50190207B4758A3F73A796ED0E7B82643E131, which is needed to verify signature. Missing key "
    "B8E5F13176D2A7A75220028078DBA3BC47EF2265, which is needed to verify signature. Missing key "
    "41587F7DB8C774BCCF131416762F67A0B2C39DE4, which is needed to verify signature."
)


@pytest.mark.parametrize(
    ("name", "problems"),
    [
        (
            "zero-wrong-key-apt-3",
            (
                "W: An error occurred during the signature verification. The repository is not "
                "updated and the previous index files will be used. OpenPGP signature "
                "verification failed: http://deb.example.org/debian trixie InRelease: "
                f"{MISSING_KEY}",
                "W: Failed to fetch http://deb.example.org/debian/dists/trixie/InRelease  "
                + MISSING_KEY,
            ),
        ),
        (
            "wrong-key-apt-3",
            (
                "W: OpenPGP signature verification failed: http://deb.example.org/debian trixie "
                f"InRelease: {MISSING_KEY}",
                "E: The repository 'http://deb.example.org/debian trixie InRelease' is not signed.",
            ),
        ),
        (
            "zero-wrong-key",
            (
                "W: An error occurred during the signature verification. The repository is not "
                "updated and the previous index files will be used. GPG error: "
                f"http://deb.example.org/debian bookworm InRelease: {NO_KEY}",
                "W: Failed to fetch http://deb.example.org/debian/dists/bookworm/InRelease  "
                + NO_KEY,
            ),
        ),
        (
            "zero-second-repository-down",
            (
                "W: Failed to fetch http://127.0.0.1:9/debian/dists/bookworm/InRelease  Could not "
                "connect to 127.0.0.1:9 (127.0.0.1). - connect (111: Connection refused)",
            ),
        ),
        (
            "zero-local-repository-missing",
            ("repository dir:///build/no-such-repo does not exist and will be skipped",),
        ),
        (
            "wrong-key",
            (
                f"W: GPG error: http://deb.example.org/debian bookworm InRelease: {NO_KEY}",
                "E: The repository 'http://deb.example.org/debian bookworm InRelease' is not "
                "signed.",
            ),
        ),
        (
            "zypper-bad-signature",
            (
                "Signature verification failed for file 'repomd.xml' from repository 'second'. "
                "Continue? [yes/no] (no): no",
                "Warning: Skipping repository 'second' because of the above error.",
                "Signature verification failed for file 'repomd.xml' from repository 'second'.",
                "Repository 'second' is invalid.",
            ),
        ),
        (
            "dnf-bad-signature",
            (
                "Error: Failed to download metadata for repo 'second': repomd.xml GPG signature "
                "verification error: Bad GPG signature",
            ),
        ),
        ("unknown-package", ()),
        ("script-fails", ()),
        ("bad-option", ()),
    ],
)
def test_repository_problems(name: str, problems: tuple[str, ...]) -> None:
    log = _read(_data(name))
    shown = (line if len(line) <= 400 else f"{line[:399]}…" for line in problems)
    assert log.repository_problems() == tuple(shown)


def test_a_zero_exit_with_a_repository_problem_is_an_error() -> None:
    error = explain(0, _read(_data("zero-wrong-key")), "build.log")
    assert error is not None
    assert error.brief == "KIWI went on although a repository could not be fetched or verified"
    assert "NO_PUBKEY" in error.details
    assert "signing key" in error.resolution


def test_the_reason_is_told_where_kiwis_error_is_only_a_consequence() -> None:
    error = explain(1, _read(_data("only-repository-down")), "build.log")
    assert error is not None
    assert error.brief.endswith("E: Unable to locate package apt")
    assert "Could not connect to 127.0.0.1:9" in error.details
    assert "reaches it" in error.resolution


def test_an_error_without_any_result_is_a_failure_even_with_status_zero() -> None:
    error = explain(0, _read(_data("zero-unknown-attribute")), "build.log")
    assert error is not None
    assert error.brief == (
        "KIWI failed: Failed to set type attribute: 'type_' object has no attribute 'set_nosuch'"
    )


UPDATE = _record("DEBUG", "Apt update: Get:1 http://example.org/debian bookworm InRelease")


@pytest.mark.parametrize(
    "lines",
    [
        # Tries that were repeated with success.
        (UPDATE, "Ign:1 http://example.org x InRelease", "Err:1 http://example.org x InRelease"),
        (UPDATE, "Err:3 file:/r ./ Packages", "  Method gave a blank filename", "Get:3 file:/r"),
        # Verified, but not liked.
        (UPDATE, " W: http://example.org: Signature by key 1 uses weak digest algorithm (SHA1)"),
        (UPDATE, "W: Download is performed unsandboxed as root"),
        # Names and descriptions.
        (UPDATE, "The following NEW packages: libno-pubkey-perl W: GPG error: fake"),
        (_record("DEBUG", "system: Setting up gpg-check-failed (1.0) ..."),),
        (_record("DEBUG", "system: Get:1 http://example.org failed-to-fetch 1.0"),),
        (_record("DEBUG", "system: (1/1) Installing: Warning: Skipping repository-1.noarch"),),
        # Commands, and lines that belong to no package manager.
        (_record("DEBUG", "EXEC: [echo W: GPG error: http://example.org]"),),
        (_record("DEBUG", "EXEC: [sh -c a"), "W: GPG error: http://example.org", "]"),
        ("W: GPG error: http://example.org",),
        # A script of the description.
        (
            _record("DEBUG", "--------------out start-------------"),
            _record("DEBUG", "system: Warning: Skipping repository 'x' because of the above error"),
            _record("DEBUG", "Apt update: x"),
            "W: Failed to fetch http://example.org",
            _record("DEBUG", "--------------out stop--------------"),
        ),
        (_record("ERROR", "KiwiScriptFailed: config.sh failed with: W: GPG error: http://x"),),
        # The user switched the check off, and zypper answers itself.
        (
            _record(
                "DEBUG",
                "system: Signature verification failed for file 'repomd.xml' from repository "
                "'x'. Continue? [yes/no] (no): yes",
            ),
        ),
        # Another mirror had it.
        (_record("DEBUG", "system: error: failed retrieving file 'core.db' from example.org : x"),),
    ],
)
def test_no_repository_problem(lines: tuple[str, ...]) -> None:
    assert _log(*lines).repository_problems() == ()


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (
            (UPDATE, "E: Release file for http://example.org is expired (invalid since 3d)."),
            "E: Release file for http://example.org is expired (invalid since 3d).",
        ),
        (
            (UPDATE, "W: http://example.org x InRelease: The following: EXPKEYSIG 1 Somebody"),
            "W: http://example.org x InRelease: The following: EXPKEYSIG 1 Somebody",
        ),
        (
            (UPDATE, " W: Some index files failed to download. They have been ignored"),
            "W: Some index files failed to download. They have been ignored",
        ),
        ((_record("DEBUG", "system: Ignoring repositories: x"),), "Ignoring repositories: x"),
        (
            (_record("DEBUG", "bootstrap: File './x.rpm' not found on medium 'http://e'"),),
            "File './x.rpm' not found on medium 'http://e'",
        ),
        (
            (
                _record(
                    "ERROR", "KiwiCommandError: pacman: stderr: error: database 'core' is not "
                ),
                'error: core: signature from "A" is unknown trust',
            ),
            'error: core: signature from "A" is unknown trust',
        ),
        (
            (
                _record(
                    "ERROR",
                    "KiwiCommandError: pacman: stderr: error: failed to synchronize all databases"
                    " (invalid or corrupted database (PGP signature))",
                ),
            ),
            "error: failed to synchronize all databases"
            " (invalid or corrupted database (PGP signature))",
        ),
    ],
)
def test_a_repository_problem(lines: tuple[str, ...], problem: str) -> None:
    assert problem in _log(*lines).repository_problems()


@pytest.mark.parametrize(
    ("name", "guest", "image"),
    [
        ("disk-full-bootstrap", True, False),
        ("disk-full-cache", True, False),
        ("disk-full-by-script", True, False),
        ("disk-full-qcow2", True, False),
        ("image-too-small", False, True),
        ("unknown-package", False, False),
    ],
)
def test_full_disks(name: str, *, guest: bool, image: bool) -> None:
    log = _read(_data(name))
    assert (log.disk_full(), log.image_full()) == (guest, image)


def test_a_full_disk_is_named_and_kiwis_error_is_kept() -> None:
    full = explain(1, _read(_data("disk-full-qcow2")), "build.log")
    small = explain(1, _read(_data("image-too-small")), "build.log")
    assert full is not None
    assert small is not None
    assert full.brief == "The disk of the guest is full"
    assert full.details.startswith("KiwiCommandError: qemu-img: stderr: ")
    assert small.brief == "The image is too small for what goes into it"
    assert "<size>" in small.resolution


@pytest.mark.parametrize(
    ("lines", "full"),
    [
        # A script's command that filled the disk and cleaned up after itself.
        (
            (
                _record("DEBUG", "--------------err start-------------"),
                _record("DEBUG", "dd: error writing '/big': No space left on device"),
                _record("DEBUG", "--------------err stop--------------"),
                _record("ERROR", "KiwiCommandError: other"),
            ),
            False,
        ),
        ((_record("DEBUG", "system: Setting up no-space-left-on-device (28) ..."),), False),
        ((_record("DEBUG", "system: Get: No space left on device, a novel"),), False),
        (
            (
                _record("ERROR", "Unexpected error:"),
                "Traceback (most recent call last):",
                '  File "x.py", line 1, in write',
                "OSError: [Errno 28] No space left on device: '/x'",
            ),
            True,
        ),
        (
            (
                _record(
                    "DEBUG",
                    "system: dpkg: error processing archive x: failed to write "
                    "(No space left on device)",
                ),
                _record("ERROR", "KiwiInstallPhaseFailed: "),
            ),
            True,
        ),
        (
            (
                _record(
                    "DEBUG",
                    "system:        installing package x needs 12MB more space on the / filesystem",
                ),
                _record("ERROR", "KiwiInstallPhaseFailed: "),
            ),
            True,
        ),
        # The log is on the full disk too: it ends early.
        ((_record("DEBUG", "EXEC: Failed with stderr: xz: No space left on device"),), True),
        (
            (
                _record("DEBUG", "EXEC: Failed with stderr: cp: No space left on device"),
                _record("ERROR", "KiwiCommandError: something else"),
            ),
            False,
        ),
    ],
)
def test_disk_full(lines: tuple[str, ...], *, full: bool) -> None:
    assert _log(*lines).disk_full() is full


@pytest.mark.parametrize(
    ("status", "brief"),
    [
        (137, "KIWI was killed, most likely because the guest ran out of memory"),
        (143, "KIWI was ended by SIGTERM"),
        (132, "KIWI was ended by SIGILL"),
        (139, "KIWI was ended by SIGSEGV"),
        (255, "KIWI failed with exit status 255"),
        (128, "KIWI failed with exit status 128"),
        (127, "KIWI failed with exit status 127"),
    ],
)
def test_statuses_without_an_error_line(status: int, brief: str) -> None:
    error = explain(status, _read(_data("terminated")), "build.log")
    assert error is not None
    assert error.brief == brief
    assert "Installing system (chroot)" in error.details


def test_a_missing_program_is_told_by_the_last_line() -> None:
    error = explain(127, _read(b"wrapper: 3: kiwi-ng: not found\n"), "build.log")
    assert error is not None
    assert error.details == "wrapper: 3: kiwi-ng: not found\nLog: build.log"


def test_an_empty_log() -> None:
    assert explain(0, KiwiLog(), "build.log") is None
    error = explain(1, KiwiLog(), "build.log")
    assert error is not None
    assert str(error) == "KIWI failed with exit status 1\nLog: build.log"


def test_a_last_line_without_an_end_is_read_too() -> None:
    log = KiwiLog()
    log.feed(b"[ ERROR   ]: 10:00:00 | KiwiSomething: cut off her")
    assert log.first_error() is None
    error = explain(1, log, "build.log")
    assert error is not None
    assert error.brief == "KIWI failed: KiwiSomething: cut off her"


def test_colours_and_broken_utf8_do_no_harm() -> None:
    log = _read(b"\x1b[3;31m[ ERROR   ]: 10:00:00 | KiwiSomething: \xff\xfe bad\x1b[0m\n")
    assert log.first_error() == "KiwiSomething: \ufffd\ufffd bad"


def test_a_monstrous_line_is_survived() -> None:
    log = KiwiLog()
    for _ in range(40):
        log.feed(b"x" * (1 << 16))
    log.feed(b"\n[ ERROR   ]: 10:00:00 | KiwiSomething: boom\n")
    assert log.first_error() == "KiwiSomething: boom"
    assert max(map(len, log.tail())) <= 400


@given(
    name=st.sampled_from(NAMES),
    cuts=st.lists(st.integers(min_value=0, max_value=25_000), max_size=40),
)
def test_any_chunking_gives_the_same(name: str, cuts: list[int]) -> None:
    data = _data(name)
    log = KiwiLog()
    last: Progress | None = None
    for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(data)], strict=True):
        last = log.feed(data[begin:end]) or last
    log.finish()
    assert _facts(log) == _facts(_read(data))
    assert last == log.progress


@given(
    data=st.lists(
        st.sampled_from(
            [
                b"\r[ INFO    ]: Processing: [##  ] 45%",
                b"[ INFO    ]: 10:00:00 | Installing bootstrap packages",
                b"[ ERROR   ]: 10:00:00 | KiwiX: http://u:p@example.org",
                b"[ DEBUG   ]: 10:00:00 | bootstrap: x",
                b"[ DEBUG   ]: 10:00:00 | Apt update: W: GPG error: x",
                b"W: Failed to fetch http://a",
                b"\x1b[0m",
                b"\xff",
                b"\n",
                b"\r",
                b"\xe2\x95",
            ]
        )
    ).map(b"".join),
    step=st.integers(min_value=1, max_value=7),
)
def test_any_chunking_of_odd_logs_gives_the_same(data: bytes, step: int) -> None:
    log, mask = KiwiLog(), LogMask()
    masked = b""
    for at in range(0, len(data), step):
        log.feed(data[at : at + step])
        masked += mask.feed(data[at : at + step])
    log.finish()
    masked += mask.finish()
    whole = LogMask()
    assert _facts(log) == _facts(_read(data))
    assert masked == whole.feed(data) + whole.finish()
    assert b"u:p@" not in masked


@given(st.binary(max_size=300))
def test_no_bytes_make_the_reader_fail(data: bytes) -> None:
    log = _read(data)
    explain(1, log, "build.log")


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("http://u:p@example.org/x y", "http://***@example.org/x y"),
        ("http://token@example.org/x", "http://***@example.org/x"),
        (
            "[zypper addrepo https://u:a/b@c@example.org alias]",
            "[zypper addrepo https://***@example.org alias]",
        ),
        ("https://example.org/r?token=abc&x=1 end", "https://example.org/r?*** end"),
        (
            '<source path="http://u:p@example.org" password="geheim"/>',
            '<source path="http://***@example.org" password="***"/>',
        ),
        (
            "http://example.org:8080/a mail@example.org",
            "http://example.org:8080/a mail@example.org",
        ),
        (
            "two http://a:b@example.org http://c:d@example.com",
            "two http://***@example.org http://***@example.com",
        ),
        ("nothing here", "nothing here"),
    ],
)
def test_credentials_are_masked(text: str, masked: str) -> None:
    assert mask_credentials(text) == masked


def test_credentials_are_masked_wherever_they_are_shown() -> None:
    url = "http://user:s3cret@example.org/debian"
    log = _log(
        UPDATE,
        f"W: Failed to fetch {url}  404",
        _record("INFO", f"Setting up repository {url}"),
        _record("ERROR", f"KiwiCommandError: zypper addrepo {url}:"),
        f"more {url}",
    )
    for status in (0, 1, 137):
        error = explain(status, log, "build.log")
        assert error is not None
        assert "s3cret" not in str(error)
        assert "***@example.org" in str(error)


def test_a_masked_secret_is_not_lost_to_shortening() -> None:
    padding = "x" * 385
    log = _log(_record("ERROR", f"KiwiX: {padding} http://user:s3cret@example.org"))
    assert "s3" not in (log.first_error() or "")


def test_the_mask_holds_back_a_line_until_it_is_whole() -> None:
    mask = LogMask()
    assert mask.feed(b"one\ntwo http://user:s3") == b"one\n"
    assert mask.feed(b"cret@example.org") == b""
    assert mask.finish() == b"two http://***@example.org"
    assert mask.finish() == b""


def test_the_mask_changes_nothing_else() -> None:
    data = _data("good-tarball").replace(b"******", b"\xff\xfe")
    mask = LogMask()
    assert mask.feed(data) + mask.finish() == data


def test_the_mask_leaves_out_records_below_a_level_and_their_lines() -> None:
    mask = LogMask(level=30)
    shown = mask.feed(
        b"start\n"
        b"[ INFO    ]: 10:00:00 | a\n"
        b"\r[ INFO    ]: Processing: [##] 45%[ DEBUG   ]: 10:00:00 | b\n"
        b"more of b\n"
        b"[ WARNING ]: 10:00:00 | c\n"
        b"more of c\n"
        b"\r[ INFO    ]: Processing: [##] 100%\n"
        b"[ ERROR   ]: 10:00:00 | d\n"
    )
    assert shown.replace(b"\r", b"") == (
        b"start\n[ WARNING ]: 10:00:00 | c\nmore of c\n[ ERROR   ]: 10:00:00 | d\n"
    )


def test_values_of_setenv_are_not_in_the_log() -> None:
    line = b'[ INFO    ]: 12:00:00 | --> Set Env[API_TOKEN]="s3cret "with" quotes"\n'
    mask = LogMask()
    shown = mask.feed(line) + mask.finish()
    assert b"s3cret" not in shown
    assert b"quotes" not in shown
    assert b"API_TOKEN" in shown
