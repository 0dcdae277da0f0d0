"""Detached signatures, by real keys."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from vagrant_kiwi import signatures
from vagrant_kiwi.errors import BoxError, PhaseTimeoutError, PreflightError
from vagrant_kiwi.process import Runner

#: While the expired key was good.
THEN = "20200201T000000"


@dataclass(frozen=True)
class Keys:
    """Keys of several people in one home, and a file that they sign."""

    home: Path
    file: Path

    def gpg(self, *words: str) -> bytes:
        """Run gpg as these people."""
        return subprocess.run(
            [
                *("gpg", "--homedir", str(self.home), "--batch", "--yes", "--quiet"),
                *("--pinentry-mode", "loopback", "--passphrase", "", *words),
            ],
            check=True,
            capture_output=True,
        ).stdout

    def new(self, name: str, *words: str, expires: str = "never") -> None:
        """Make a key."""
        self.gpg(*words, "--quick-gen-key", f"{name} <{name}@example.org>", "ed25519", "sign",
                 expires)  # fmt: skip

    def sign(self, name: str, *words: str, file: Path | None = None) -> bytes:
        """Return the detached signature of a file."""
        made = self.home / "made.sig"
        how = words if "--sign" in words or "--clearsign" in words else (*words, "--detach-sign")
        self.gpg("-u", f"{name}@example.org", "-o", str(made), *how, str(file or self.file))
        return made.read_bytes()

    def fingerprint(self, name: str) -> str:
        """Return the fingerprint of a key."""
        listed = self.gpg("--with-colons", "--list-keys", f"{name}@example.org").decode()
        return next(line.split(":")[9] for line in listed.splitlines() if line[:3] == "fpr")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keys]:
    """Make a good key, an expired, a revoked and a stranger's one."""
    folder = tmp_path_factory.mktemp("k")
    home = folder / "h"
    home.mkdir(mode=0o700)
    (folder / "a box.tar").write_bytes(os.urandom(100_000))
    made = Keys(home, folder / "a box.tar")
    try:
        past = ("--faked-system-time", "20200101T000000")
        made.new("good", *past)
        made.new("old", *past, expires="20200301T000000")
        for name in ("revoked", "stranger"):
            made.new(name)
        (folder / "revoked.sig").write_bytes(made.sign("revoked"))
        text = (home / "openpgp-revocs.d" / f"{made.fingerprint('revoked')}.rev").read_text()
        (folder / "revocation").write_text(text.replace(":-----BEGIN", "-----BEGIN"))
        made.gpg("--import", str(folder / "revocation"))
        yield made
    finally:
        subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=True)


@pytest.fixture(scope="module")
def keyring(keys: Keys) -> Path:
    """Return the exported keys of all but the stranger."""
    path = keys.file.with_name("- keys.asc")
    names = [f"{name}@example.org" for name in ("good", "old", "revoked")]
    path.write_bytes(keys.gpg("--armor", "--export", *names))
    return path


@dataclass(frozen=True)
class Check:
    """Checks signatures of the file."""

    runner: Runner
    file: Path
    keyring: Path
    folder: Path

    def __call__(self, signature: bytes, keyring: Path | None = None) -> str:
        path = self.folder / "- a signature"
        path.write_bytes(signature)
        return signatures.check(
            self.file, path, keyring or self.keyring, runner=self.runner, timeout=30
        )


@pytest.fixture
def check(runner: Runner, keys: Keys, keyring: Path, tmp_path: Path) -> Check:
    """Return what checks signatures."""
    return Check(runner, keys.file, keyring, tmp_path)


def test_a_good_signature_says_who_signed(keys: Keys, check: Check) -> None:
    expected = f"{keys.fingerprint('good')} (good <good@example.org>)"
    assert check(keys.sign("good")) == expected
    assert check(keys.sign("good", "--armor")) == expected


@pytest.mark.parametrize("form", ["armored", "binary", "keybox", "secret", "two in one"])
def test_the_forms_of_a_keyring(keys: Keys, check: Check, tmp_path: Path, form: str) -> None:
    keyring = tmp_path / "-keys"
    good = "good@example.org"
    if form == "keybox":
        shutil.copyfile(keys.home / "pubring.kbx", keyring)
    elif form == "two in one":
        both = [keys.gpg("--armor", "--export", name) for name in ("stranger@example.org", good)]
        keyring.write_bytes(b"".join(both))
    else:
        words = {"armored": ["--armor", "--export"], "binary": ["--export"]}
        keyring.write_bytes(keys.gpg(*words.get(form, ["--export-secret-keys"]), good))
    before = keyring.read_bytes()
    assert check(keys.sign("good"), keyring).startswith(keys.fingerprint("good"))
    assert keyring.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"-keys", "- a signature"}


def test_relative_paths_that_look_like_options(
    keys: Keys, runner: Runner, keyring: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, data in {
        "-": keys.file.read_bytes(),
        "--output": keys.sign("good"),
        "-k": keyring.read_bytes(),
    }.items():
        Path(name).write_bytes(data)
    who = signatures.check(Path("-"), Path("--output"), Path("-k"), runner=runner, timeout=30)
    assert who.startswith(keys.fingerprint("good"))


def test_a_long_path_for_temporary_files(
    keys: Keys, check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    assert check(keys.sign("good")).startswith(keys.fingerprint("good"))
    assert list(long.iterdir()) == []


def test_a_signature_by_a_subkey_is_its_owner_s(keys: Keys, check: Check, tmp_path: Path) -> None:
    keys.new("sub")
    keys.gpg("--quick-add-key", keys.fingerprint("sub"), "ed25519", "sign", "never")
    keyring = tmp_path / "keys"
    keyring.write_bytes(keys.gpg("--export", "sub@example.org"))
    assert check(keys.sign("sub"), keyring).startswith(keys.fingerprint("sub"))


def test_what_the_person_s_own_keyring_trusts_says_nothing(
    keys: Keys, runner: Runner, keyring: Path, tmp_path: Path
) -> None:
    (tmp_path / "signature").write_bytes(keys.sign("stranger"))
    own = Runner({**runner.environment, "GNUPGHOME": str(keys.home), "HOME": str(tmp_path)})
    with pytest.raises(BoxError) as caught:
        signatures.check(keys.file, tmp_path / "signature", keyring, runner=own, timeout=30)
    assert "this key is not in the keyring" in caught.value.details
    assert [path.name for path in tmp_path.iterdir()] == ["signature"]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("stranger", "this key is not in the keyring"),
        ("expired key", "the key has expired"),
        ("expired signature", "the signature has expired"),
        ("revoked", "the key was revoked"),
        ("another file", "it is not a signature of this file"),
        ("SHA-1", "no more than the SHA-1 sum"),
        ("MD5", "no more than the MD5 sum"),
        ("text", "signs a text"),
        ("empty", "gpg finds no signature in"),
        ("garbage", "gpg finds no signature in"),
        ("cut", "gpg finds no signature in"),
        ("signed message", "not a detached signature"),
        ("clear text", "not a detached signature"),
        ("a key", "gpg finds no signature in"),
    ],
)
def test_what_is_refused(keys: Keys, check: Check, tmp_path: Path, kind: str, said: str) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"other")
    then = ("--faked-system-time", THEN)
    makers: dict[str, Callable[[], bytes]] = {
        "stranger": lambda: keys.sign("stranger"),
        "expired key": lambda: keys.sign("old", *then),
        "expired signature": lambda: keys.sign("good", *then, "--default-sig-expire", "1d"),
        "revoked": lambda: keys.file.with_name("revoked.sig").read_bytes(),
        "another file": lambda: keys.sign("good", file=other),
        "SHA-1": lambda: keys.sign("good", "--digest-algo", "SHA1"),
        "MD5": lambda: keys.sign("good", "--digest-algo", "MD5", "--allow-weak-digest-algos"),
        "text": lambda: keys.sign("good", "--textmode"),
        "empty": lambda: b"",
        "garbage": lambda: os.urandom(300),
        "cut": lambda: keys.sign("good")[:60],
        "signed message": lambda: keys.sign("good", "--sign"),
        "clear text": lambda: keys.sign("good", "--clearsign"),
        "a key": lambda: keys.gpg("--export", "good@example.org"),
    }
    signature = makers[kind]()
    with pytest.raises(BoxError, match="The signature of a box") as caught:
        check(signature)
    assert caught.value.code == 5
    assert said in caught.value.details
    assert caught.value.details
    assert caught.value.resolution


def test_of_several_signatures_one_must_be_good_and_none_bad(
    keys: Keys, check: Check, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"other")
    good, stranger = keys.sign("good"), keys.sign("stranger")
    old = keys.sign("old", "--faked-system-time", THEN)
    bad = keys.sign("good", file=other)
    for several in (good + stranger, stranger + good, old + good, good + old):
        assert check(several).startswith(keys.fingerprint("good"))
    weak = keys.sign("good", "--digest-algo", "MD5", "--allow-weak-digest-algos")
    for several in (good + bad, bad + good, good + stranger + bad, stranger + old, good + weak):
        with pytest.raises(BoxError):
            check(several)


@pytest.mark.parametrize("content", [b"", b"garbage", b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n"])
def test_a_keyring_without_keys(keys: Keys, check: Check, tmp_path: Path, content: bytes) -> None:
    keyring = tmp_path / "none.asc"
    keyring.write_bytes(content)
    with pytest.raises(BoxError, match="There is no public key in"):
        check(keys.sign("good"), keyring)


def test_files_that_are_not_there(keys: Keys, keyring: Path, runner: Runner) -> None:
    gone = keys.file.with_name("gone")
    for paths in (
        (gone, keys.file, keyring),
        (keys.file, gone, keyring),
        (keys.file, keyring, gone),
    ):
        with pytest.raises(BoxError, match=r"There is no such .*gone"):
            signatures.check(*paths, runner=runner, timeout=30)


def test_no_gpg_and_no_time(keys: Keys, keyring: Path, tmp_path: Path, runner: Runner) -> None:
    signature = tmp_path / "signature"
    signature.write_bytes(keys.sign("good"))
    with pytest.raises(PreflightError, match="gpg is not installed") as caught:
        signatures.check(
            keys.file, signature, keyring, runner=Runner({"PATH": str(tmp_path)}), timeout=30
        )
    assert "gnupg" in caught.value.resolution
    with pytest.raises(PhaseTimeoutError):
        signatures.check(keys.file, signature, keyring, runner=runner, timeout=0.001)
