"""Vagrant's insecure keys: formats, finding, placing; no private key is kept in this file."""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vagrant_kiwi import keys
from vagrant_kiwi.errors import KeySetupError
from vagrant_kiwi.process import Runner

# The public halves, from hashicorp/vagrant, keys/vagrant.pub.
RSA_LINE = (
    "ssh-rsa AAAAB3NzaC1yc2EAAAABIwAAAQEA6NF8iallvQVp22WDkTkyrtvp9eWW6A8YVr+kz4TjGYe7gHzIw+niNltGE"
    "FHzD8+v1I2YJ6oXevct1YeS0o9HZyN1Q9qgCgzUFtdOKLv6IedplqoPkcmF0aYet2PkEDo3MlTBckFXPITAMzF8dJSIFo"
    "9D8HfdOV0IAdx4O7PtixWKn5y2hMNG0zQPyUecp4pzC6kivAIhyfHilFR61RGL+GPXQ2MWZWFYbAGjyiYJnAmCP3NOTd0"
    "jMZEnDkbUvxhMmBYSdETk1rRgm+R4LOzFUGaHqHDLKLX+FIPKcF96hrucXzcWyLbIbEgE98OHlnVYCzRdK8jlqm8tehUc"
    "9c9WhQ== vagrant insecure public key"
)
ED25519_LINE = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIN1YdxBpNlzxDqfJyw/QKow1F+wvG9hXGoqiysfJOn5Y"
    " vagrant insecure public key"
)


def ssh_string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def pem(kind: str, blob: bytes) -> bytes:
    body = base64.encodebytes(blob)
    return (
        f"-----BEGIN {kind} PRIVATE KEY-----\n".encode()
        + body
        + (f"-----END {kind} PRIVATE KEY-----\n".encode())
    )


def fields_of(line: str) -> list[bytes]:
    """Take the strings out of a public key line."""
    blob = base64.b64decode(line.split()[1])
    found = []
    while blob:
        size = int.from_bytes(blob[:4], "big")
        found.append(blob[4 : 4 + size])
        blob = blob[4 + size :]
    return found


def rsa_key(line: str = RSA_LINE, *, private_half: bytes = b"\x01") -> bytes:
    """Return a key file with a public line's public half, and no real private one."""
    _, exponent, modulus = fields_of(line)
    parts = (b"\0", modulus, exponent, private_half)
    return pem("RSA", der(0x30, b"".join(der(0x02, part) for part in parts)))


def openssh_key(line: str = ED25519_LINE, *, cipher: bytes = b"none", count: int = 1) -> bytes:
    blob = base64.b64decode(line.split()[1])
    return pem(
        "OPENSSH",
        b"openssh-key-v1\0"
        + ssh_string(cipher)
        + ssh_string(b"none")
        + ssh_string(b"")
        + count.to_bytes(4, "big")
        + ssh_string(blob)
        + ssh_string(b"not looked at"),
    )


OTHER_LINE = "ssh-rsa " + base64.b64encode(
    ssh_string(b"ssh-rsa") + ssh_string(b"\x01\0\x01") + ssh_string(b"\0" + b"\xaa" * 256)
).decode("ascii")


class Host:
    """A file system with Vagrant in it, and a user."""

    def __init__(self, root: Path) -> None:
        self.root = root / "root"
        self.home = root / "home"
        self.bin = self.root / "usr/bin"
        for folder in (self.home, self.bin):
            folder.mkdir(parents=True)
        self.environment = {"HOME": str(self.home), "PATH": str(self.bin)}

    def gem(self, name: str = "vagrant-2.3.4", *, at: str = "") -> Path:
        folder = self.root / (at or "usr/share/rubygems-integration/all/gems") / name / "keys"
        folder.mkdir(parents=True)
        (folder / "vagrant").write_bytes(rsa_key())
        (folder / "vagrant").chmod(0o644)
        (folder / "vagrant.pub").write_text(f"{RSA_LINE}\n")
        return folder

    def new_gem(self, name: str = "vagrant-2.4.9", *, at: str = "") -> Path:
        folder = self.gem(name, at=at)
        (folder / "vagrant.key.rsa").write_bytes(rsa_key())
        (folder / "vagrant.key.ed25519").write_bytes(openssh_key())
        (folder / "vagrant.pub").write_text(f"{RSA_LINE}\n{ED25519_LINE}\n")
        return folder

    def ensure(self, **changes: str) -> keys.InsecureKeys:
        return keys.ensure_insecure_keys(Runner({**self.environment, **changes}), root=self.root)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


# --- Formats -----------------------------------------------------------------------------------


def test_the_public_lines_have_the_known_fingerprints() -> None:
    assert keys.public_line_fingerprint(RSA_LINE) == keys.RSA_FINGERPRINT
    assert keys.public_line_fingerprint(ED25519_LINE) == keys.ED25519_FINGERPRINT


def test_the_fingerprint_of_a_private_key_is_its_public_half() -> None:
    assert keys.private_key_fingerprint(rsa_key()) == keys.RSA_FINGERPRINT
    assert keys.private_key_fingerprint(openssh_key()) == keys.ED25519_FINGERPRINT
    assert keys.private_key_fingerprint(rsa_key(OTHER_LINE)) == keys.public_line_fingerprint(
        OTHER_LINE
    )


def test_line_ends_do_not_matter() -> None:
    assert keys.private_key_fingerprint(rsa_key().replace(b"\n", b"\r\n")) == keys.RSA_FINGERPRINT


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a private key in a known format"),
        (RSA_LINE.encode(), "not a private key in a known format"),
        (pem("EC", b"x"), "not a private key in a known format"),
        (pem("RSA", b""), "not a private key in a known format"),
        (
            rsa_key().replace(b"-----\n", b"-----\nProc-Type: 4,ENCRYPTED\n\n", 1),
            "a damaged or encrypted private key",
        ),
        (pem("RSA", b"\x30\x82\x05\x00"), "a damaged RSA private key"),
        (pem("RSA", b"\x30\x03\x02\x01\x00"), "a damaged RSA private key"),
        (pem("RSA", b"x"), "a damaged RSA private key"),
        (pem("OPENSSH", b"openssh-key-v2\0"), "a damaged OpenSSH private key"),
        (pem("OPENSSH", b"openssh-key-v1\0\0\0\0\x09no"), "a damaged OpenSSH private key"),
        (openssh_key(cipher=b"aes256-ctr"), "an encrypted private key"),
        (openssh_key(count=2), "not exactly one key in the file"),
    ],
)
def test_what_is_no_plain_private_key_is_named(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        keys.private_key_fingerprint(data)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "ssh-rsa",
        "ssh-rsa ====",
        "ssh-rsa @@@@ x",
        RSA_LINE.replace("ssh-rsa", "ssh-dss"),
        f'command="sh" {RSA_LINE}',
    ],
)
def test_what_is_no_public_key_line_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="public key line"):
        keys.public_line_fingerprint(line)


@given(st.binary(max_size=200), st.sampled_from(["RSA", "OPENSSH"]))
def test_damage_is_always_a_value_error(blob: bytes, kind: str) -> None:
    for data in (blob, pem(kind, blob), pem(kind, b"openssh-key-v1\0" + blob)):
        try:
            assert keys.private_key_fingerprint(data).startswith("SHA256:")
        except ValueError as error:
            assert str(error)


@given(st.integers(min_value=1), st.integers(min_value=1))
def test_any_rsa_key_has_ssh_keygens_fingerprint(modulus: int, exponent: int) -> None:
    def number(value: int) -> bytes:
        return value.to_bytes(value.bit_length() // 8 + 1, "big")

    parts = (b"\0", number(modulus), number(exponent), b"\x01")
    key = pem("RSA", der(0x30, b"".join(der(0x02, part) for part in parts)))
    blob = ssh_string(b"ssh-rsa") + ssh_string(number(exponent)) + ssh_string(number(modulus))
    wanted = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    assert keys.private_key_fingerprint(key) == f"SHA256:{wanted}"


# --- Placing -----------------------------------------------------------------------------------


def test_an_older_vagrant_has_one_key(host: Host) -> None:
    host.gem()
    target = host.home / ".vagrant.d/insecure_private_key"
    assert host.ensure() == keys.InsecureKeys((target,), (RSA_LINE,))
    assert target.read_bytes() == rsa_key()
    assert mode(target) == 0o600
    assert mode(target.parent) == 0o700
    assert [path.name for path in target.parent.iterdir()] == ["insecure_private_key"]


def test_a_newer_vagrant_has_two_and_keeps_the_old_place(host: Host) -> None:
    host.new_gem()
    home = host.home / ".vagrant.d"
    found = host.ensure()
    assert found == keys.InsecureKeys(
        (home / "insecure_private_key", home / "insecure_private_keys/vagrant.key.ed25519"),
        (RSA_LINE, ED25519_LINE),
    )
    assert found.rsa_line == RSA_LINE
    assert (home / "insecure_private_keys/vagrant.key.rsa").read_bytes() == rsa_key()
    assert {mode(path) for path in home.rglob("*key*") if path.is_file()} == {0o600}


def test_again_changes_nothing(host: Host) -> None:
    host.gem()
    (target,) = host.ensure().private
    before = target.stat()
    host.ensure()
    assert target.stat() == before


def test_a_wrong_mode_is_mended(host: Host) -> None:
    host.gem()
    (target,) = host.ensure().private
    target.chmod(0o644)
    host.ensure()
    assert mode(target) == 0o600


def test_an_existing_home_keeps_its_mode(host: Host) -> None:
    host.gem()
    (host.home / ".vagrant.d").mkdir(mode=0o755)
    (host.home / ".vagrant.d").chmod(0o755)
    host.ensure()
    assert mode(host.home / ".vagrant.d") == 0o755


@pytest.mark.parametrize(
    "content",
    [
        rsa_key(OTHER_LINE),
        openssh_key(),
        rsa_key(private_half=b"\x02"),
        b"",
        b"\xff\0 not a key",
        RSA_LINE.encode(),
    ],
    ids=["other", "other-type", "other-private-half", "empty", "binary", "public"],
)
def test_another_key_under_that_name_is_refused_and_kept(host: Host, content: bytes) -> None:
    host.gem()
    target = host.home / ".vagrant.d/insecure_private_key"
    target.parent.mkdir()
    target.write_bytes(content)
    target.chmod(0o640)
    with pytest.raises(KeySetupError) as caught:
        host.ensure()
    assert caught.value.code == 5
    assert caught.value.brief == f"{target} is not Vagrant's well-known insecure key"
    assert caught.value.details
    assert "key-setup" in caught.value.resolution
    assert target.read_bytes() == content
    assert mode(target) == 0o640


def test_no_error_holds_key_material(host: Host) -> None:
    host.gem()
    target = host.home / ".vagrant.d/insecure_private_key"
    target.parent.mkdir()
    secret = rsa_key(OTHER_LINE)
    target.write_bytes(secret)
    with pytest.raises(KeySetupError) as caught:
        host.ensure()
    for line in secret.decode().splitlines():
        assert line not in str(caught.value)


def test_a_link_to_nowhere_is_refused_and_kept(host: Host) -> None:
    host.gem()
    target = host.home / ".vagrant.d/insecure_private_key"
    target.parent.mkdir()
    target.symlink_to(host.home / "gone")
    with pytest.raises(KeySetupError, match="cannot be used"):
        host.ensure()
    assert target.readlink() == host.home / "gone"
    assert not (host.home / "gone").exists()


def test_a_link_to_the_key_is_good(host: Host) -> None:
    host.gem()
    target = host.home / ".vagrant.d/insecure_private_key"
    target.parent.mkdir()
    (host.home / "real").write_bytes(rsa_key())
    target.symlink_to(host.home / "real")
    assert host.ensure().private == (target,)
    assert mode(host.home / "real") == 0o600


def test_a_folder_under_that_name_is_refused(host: Host) -> None:
    host.gem()
    (host.home / ".vagrant.d/insecure_private_key").mkdir(parents=True)
    with pytest.raises(KeySetupError, match="cannot be used"):
        host.ensure()


def test_a_file_in_the_place_of_vagrants_home_is_refused(host: Host) -> None:
    host.gem()
    (host.home / ".vagrant.d").write_text("")
    with pytest.raises(KeySetupError, match="cannot be used") as caught:
        host.ensure()
    assert isinstance(caught.value.__cause__, OSError)


def test_no_half_file_stays_when_writing_fails(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.gem()

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "hardlink_to", full)
    with pytest.raises(KeySetupError, match="No space left"):
        host.ensure()
    assert list((host.home / ".vagrant.d").iterdir()) == []


def test_a_key_that_vagrant_itself_puts_there_meanwhile_is_taken(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.gem()
    target = host.home / ".vagrant.d/insecure_private_key"
    link = Path.hardlink_to

    def late(self: Path, source: Path) -> None:
        target.write_bytes(rsa_key())
        target.chmod(0o644)
        link(self, source)

    monkeypatch.setattr(Path, "hardlink_to", late)
    assert host.ensure().private == (target,)
    assert mode(target) == 0o600
    assert len(list(target.parent.iterdir())) == 1


# --- Finding -----------------------------------------------------------------------------------


def test_vagrant_home_is_heeded(host: Host, tmp_path: Path) -> None:
    host.gem()
    found = host.ensure(VAGRANT_HOME=str(tmp_path / "elsewhere"))
    assert found.private == (tmp_path / "elsewhere/insecure_private_key",)
    found = host.ensure(VAGRANT_HOME="~/vh")
    assert found.private == (host.home / "vh/insecure_private_key",)


def test_an_empty_vagrant_home_is_none(host: Host) -> None:
    host.gem()
    assert host.ensure(VAGRANT_HOME="").private == (host.home / ".vagrant.d/insecure_private_key",)


def test_the_newest_gem_counts_and_plugins_do_not(host: Host) -> None:
    host.gem("vagrant-2.3.4")
    host.new_gem("vagrant-2.10.0")
    host.gem("vagrant-2.9.1")
    host.gem("vagrant-libvirt-0.11.2")
    assert host.ensure().public_lines == (RSA_LINE, ED25519_LINE)


@pytest.mark.parametrize(
    "at", ["opt/vagrant/embedded/gems/gems", "opt/vagrant/embedded/gems/2.4.9/gems"]
)
def test_upstreams_vagrant_is_found(host: Host, at: str) -> None:
    host.new_gem(at=at)
    assert len(host.ensure().private) == 2


def test_of_two_vagrants_the_one_on_the_path_counts(host: Host) -> None:
    host.gem("vagrant-2.3.4")
    host.new_gem("vagrant-2.4.9", at="opt/vagrant/embedded/gems/gems")
    program = host.root / "opt/vagrant/bin/vagrant"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert len(host.ensure().private) == 1
    (host.bin / "vagrant").symlink_to(program)
    assert len(host.ensure().private) == 2


def test_no_vagrant_is_exit_5_with_the_way_out(host: Host) -> None:
    with pytest.raises(KeySetupError) as caught:
        host.ensure()
    assert caught.value.code == 5
    assert caught.value.brief == "Vagrant's insecure key pair is not found"
    assert "/usr/share/rubygems-integration" in caught.value.details
    assert "apt-get install vagrant" in caught.value.resolution
    assert not (host.home / ".vagrant.d").exists()


def test_a_gem_with_another_key_is_refused_before_anything_is_placed(host: Host) -> None:
    folder = host.gem()
    (folder / "vagrant").write_bytes(rsa_key(OTHER_LINE))
    with pytest.raises(KeySetupError, match="not Vagrant's well-known insecure key"):
        host.ensure()
    assert not (host.home / ".vagrant.d").exists()


@pytest.mark.parametrize(
    ("text", "details"),
    [
        ("", "lacks the RSA key"),
        (f"{ED25519_LINE}\n", "lacks the RSA key"),
        (f"{RSA_LINE}\n{OTHER_LINE}\n", "it holds a key with the fingerprint SHA256:"),
        ("what?\n", "not a public key line"),
    ],
)
def test_a_gem_with_other_public_keys_is_refused(host: Host, text: str, details: str) -> None:
    (host.gem() / "vagrant.pub").write_text(text)
    with pytest.raises(KeySetupError) as caught:
        host.ensure()
    assert details in caught.value.details


def test_a_gem_without_its_private_key_is_named(host: Host) -> None:
    (host.gem() / "vagrant").unlink()
    with pytest.raises(KeySetupError, match="holds no private key named vagrant"):
        host.ensure()


def test_an_unreadable_gem_is_named(host: Host) -> None:
    folder = host.gem()
    (folder / "vagrant.pub").unlink()
    (folder / "vagrant.pub").mkdir()
    with pytest.raises(KeySetupError, match=r"vagrant\.pub cannot be used"):
        host.ensure()


def test_home_comes_from_the_user_database_without_the_variable(host: Host) -> None:
    host.gem()
    folder = host.root / "vh"
    runner = Runner({"PATH": os.defpath, "VAGRANT_HOME": str(folder)})
    assert keys.ensure_insecure_keys(runner, root=host.root).private == (
        folder / "insecure_private_key",
    )


def test_the_public_line_is_that_of_the_well_known_key() -> None:
    blob = base64.b64decode(keys.RSA_LINE.split()[1])
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    assert f"SHA256:{digest}" == keys.RSA_FINGERPRINT
