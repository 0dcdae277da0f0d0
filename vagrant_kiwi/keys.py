"""Vagrant's well-known insecure key pairs: found, checked, put where Vagrant uses them.

A fresh box lets these keys in; Vagrant replaces them at the first ``up``. Everybody knows them, so
what matters is that they are exactly the known ones: a box is locked with the public line, and a
build checks afterwards that the guest refuses the private one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import pwd
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vagrant_kiwi.errors import KeySetupError
from vagrant_kiwi.process import Runner

# ``ssh-keygen -l`` of keys/vagrant.pub.rsa and keys/vagrant.pub.ed25519 in hashicorp/vagrant. The
# RSA pair is as old as Vagrant; the other came with 2.4.0 (its CHANGELOG, GH-13219).
RSA_FINGERPRINT = "SHA256:1M4RzhMyWuFS/86uPY/ce2prh/dVTHW7iD2RhpquOZA"
ED25519_FINGERPRINT = "SHA256:WkvqjnyPAeC0cbPErYiGP9vqHdgL1MqqvPdIe3lvHgI"

#: The public half, as everybody knows it: keys/vagrant.pub in hashicorp/vagrant. A box
#: lets it in, and must be made where there is no Vagrant, too.
RSA_LINE = (
    "ssh-rsa AAAAB3NzaC1yc2EAAAABIwAAAQEA6NF8iallvQVp22WDkTkyrtvp9eWW6A8YVr+kz4TjGYe7gHzIw+niNltGE"
    "FHzD8+v1I2YJ6oXevct1YeS0o9HZyN1Q9qgCgzUFtdOKLv6IedplqoPkcmF0aYet2PkEDo3MlTBckFXPITAMzF8dJSIFo"
    "9D8HfdOV0IAdx4O7PtixWKn5y2hMNG0zQPyUecp4pzC6kivAIhyfHilFR61RGL+GPXQ2MWZWFYbAGjyiYJnAmCP3NOTd0"
    "jMZEnDkbUvxhMmBYSdETk1rRgm+R4LOzFUGaHqHDLKLX+FIPKcF96hrucXzcWyLbIbEgE98OHlnVYCzRdK8jlqm8tehUc"
    "9c9WhQ== vagrant insecure public key"
)

#: Where Debian's package and upstream's put the gem, below the root of the file system.
_DEBIAN = "usr/share/rubygems-integration/all/gems"
_UPSTREAM = ("opt/vagrant/embedded/gems/gems", "opt/vagrant/embedded/gems/*/gems")


@dataclass(frozen=True)
class InsecureKeys:
    """Vagrant's insecure key pairs, checked.

    ``private`` holds one file a key pair, in Vagrant's home and with mode 0600; ``public_lines``
    the lines of ``vagrant.pub`` as they are, the RSA one first.
    """

    private: tuple[Path, ...]
    public_lines: tuple[str, ...]

    @property
    def rsa_line(self) -> str:
        """The one public line that every Vagrant has the private key for."""
        return self.public_lines[0]


@dataclass(frozen=True)
class _KeyFile:
    """A private key: its name in the gem, its place in Vagrant's home, whose it must be."""

    source: str
    target: str
    fingerprint: str


# hashicorp/vagrant, lib/vagrant/environment.rb: copy_insecure_private_key (to 2.3.x) and
# copy_insecure_private_keys (from 2.4.0, which keeps the old place for compatibility).
_KEY_FILES = (
    _KeyFile("vagrant", "insecure_private_key", RSA_FINGERPRINT),
    _KeyFile("vagrant.key.rsa", "insecure_private_keys/vagrant.key.rsa", RSA_FINGERPRINT),
    _KeyFile(
        "vagrant.key.ed25519", "insecure_private_keys/vagrant.key.ed25519", ED25519_FINGERPRINT
    ),
)


def ensure_insecure_keys(runner: Runner, *, root: Path = Path("/")) -> InsecureKeys:
    """Put Vagrant's insecure private keys where it uses them, as it would itself.

    Args:
        runner: its environment is Vagrant's: PATH says which Vagrant, VAGRANT_HOME or HOME where
            its home is. Nothing is started.
        root: the root of the file system that Vagrant is looked for in.

    Returns:
        The keys that this Vagrant has; calling again changes nothing.

    Raises:
        KeySetupError: Vagrant or its keys are not found; a file is not the well-known key, or
            cannot be read or written. What is there is never overwritten.
    """
    environment = runner.environment
    folder = _keys_folder(environment, root)
    public = _public_lines(folder / "vagrant.pub")
    home = vagrant_home(environment)
    # One path a key pair: newer Vagrants have the RSA key in two places.
    private: dict[str, Path] = {}
    for entry in _KEY_FILES:
        if (folder / entry.source).is_file():
            target = home / entry.target
            _place(folder / entry.source, target, entry.fingerprint)
            private.setdefault(entry.fingerprint, target)
    if RSA_FINGERPRINT not in private:
        raise _not_found(f"{folder} holds no private key named vagrant")
    return InsecureKeys(tuple(private.values()), public)


def private_key_fingerprint(data: bytes) -> str:
    """Return the SHA-256 fingerprint of a private key's public half, as ssh-keygen prints it.

    Args:
        data: a key without a passphrase: RSA in PEM (RFC 8017, A.1.2), or OpenSSH's own format
            (PROTOCOL.key in its sources).

    Raises:
        ValueError: it is neither.
    """
    match = re.search(
        rb"-----BEGIN (RSA|OPENSSH) PRIVATE KEY-----\s(.+?)-----END \1 PRIVATE KEY-----",
        data,
        re.DOTALL,
    )
    if match is None:
        raise ValueError("not a private key in a known format")
    kind, body = match.groups()
    try:
        blob = base64.b64decode(b"".join(body.split()), validate=True)
    except binascii.Error as error:
        raise ValueError("a damaged or encrypted private key") from error
    return _fingerprint(_rsa_public(blob) if kind == b"RSA" else _openssh_public(blob))


def public_line_fingerprint(line: str) -> str:
    """Return the SHA-256 fingerprint of a public key line ("type base64 comment").

    Raises:
        ValueError: it is no such line.
    """
    words = line.split()
    if len(words) < 2:
        raise ValueError("not a public key line")
    try:
        blob = base64.b64decode(words[1], validate=True)
    except binascii.Error as error:
        raise ValueError("not a public key line") from error
    if not blob.startswith(_string(words[0].encode())):
        raise ValueError("a public key line whose type is not its key's")
    return _fingerprint(blob)


# --- Finding -----------------------------------------------------------------------------------


def _keys_folder(environment: Mapping[str, str], root: Path) -> Path:
    program = shutil.which("vagrant", path=environment.get("PATH", os.defpath))
    patterns: tuple[str, ...] = (_DEBIAN, *_UPSTREAM)
    # Upstream's package makes /usr/bin/vagrant a link into /opt/vagrant.
    if program is not None and Path(program).resolve().is_relative_to(root / "opt/vagrant"):
        patterns = (*_UPSTREAM, _DEBIAN)
    for pattern in patterns:
        found = [path for path in root.glob(f"{pattern}/vagrant-*/keys") if _version(path)]
        if found:
            return max(found, key=_version)
    raise _not_found(f"looked for {', '.join(f'/{name}/vagrant-*/keys' for name in patterns)}")


def _version(keys: Path) -> tuple[int, ...]:
    """Return the version in the name of a gem's folder; () for another gem (vagrant-libvirt)."""
    match = re.fullmatch(r"vagrant-(\d+(?:\.\d+)*)(?:\..*)?", keys.parent.name)
    return tuple(int(part) for part in match[1].split(".")) if match else ()


def _not_found(details: str) -> KeySetupError:
    return KeySetupError(
        "Vagrant's insecure key pair is not found",
        details=details,
        resolution="Install Vagrant: sudo apt-get install vagrant, or run ./bootstrap.",
    )


def vagrant_home(environment: Mapping[str, str]) -> Path:
    """Return the folder in which Vagrant keeps its keys and boxes.

    Args:
        environment: Vagrant's; VAGRANT_HOME or HOME says where.
    """
    home = Path(environment.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir)
    chosen = environment.get("VAGRANT_HOME") or "~/.vagrant.d"
    if chosen == "~" or chosen.startswith("~/"):
        return home / chosen[2:]
    return Path(chosen).absolute()


def _public_lines(path: Path) -> tuple[str, ...]:
    """Return the lines of vagrant.pub, RSA first, each one checked."""
    lines: dict[str, str] = {}
    for line in _read(path).decode("utf-8", "replace").splitlines():
        if not line.strip():
            continue
        try:
            fingerprint = public_line_fingerprint(line)
        except ValueError as error:
            raise _strange(path, str(error)) from error
        if fingerprint not in (RSA_FINGERPRINT, ED25519_FINGERPRINT):
            raise _strange(path, f"it holds a key with the fingerprint {fingerprint}")
        lines[fingerprint] = line
    if RSA_FINGERPRINT not in lines:
        raise _strange(path, "it lacks the RSA key")
    return tuple(lines[name] for name in (RSA_FINGERPRINT, ED25519_FINGERPRINT) if name in lines)


# --- Placing -----------------------------------------------------------------------------------


def _place(source: Path, target: Path, fingerprint: str) -> None:
    """Make ``target`` the well-known key with mode 0600; leave any other key as it is."""
    data = _read(source)
    _check(source, data, fingerprint)
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.path.lexists(target):
            _create(target, data)
    except OSError as error:
        raise _unusable(target, error) from error
    found = _read(target)
    _check(target, found, fingerprint)
    if found.split() != data.split():
        raise _strange(target, f"its public half is right, but it differs from {source}")
    try:
        # ssh refuses a key that others may read; the owner's bits are what Vagrant sets, too.
        if target.stat().st_mode & 0o777 != 0o600:
            target.chmod(0o600)
    except OSError as error:
        raise _unusable(target, error) from error


def _create(target: Path, data: bytes) -> None:
    """Write a file that appears whole or not at all, and replaces nothing."""
    # mkstemp makes it with mode 0600.
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        try:
            # Unlike a rename, a link never replaces a file that came up in the meantime.
            target.hardlink_to(temporary)
        except FileExistsError:
            return
    finally:
        temporary.unlink()


def _check(path: Path, data: bytes, fingerprint: str) -> None:
    try:
        actual = private_key_fingerprint(data)
    except ValueError as error:
        raise _strange(path, str(error)) from error
    if actual != fingerprint:
        raise _strange(path, f"its fingerprint is {actual}, not {fingerprint}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unusable(path, error) from error


def _strange(path: Path, details: str) -> KeySetupError:
    return KeySetupError(
        f"{path} is not Vagrant's well-known insecure key",
        details=details,
        resolution="Move it away (it is left as it is), then run: invoke key-setup",
    )


def _unusable(path: Path, error: OSError) -> KeySetupError:
    return KeySetupError(
        f"{path} cannot be used",
        details=str(error),
        resolution="See to it that the file and its folder belong to you.",
    )


# --- Formats -----------------------------------------------------------------------------------


def _fingerprint(blob: bytes) -> str:
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode("ascii")
    return f"SHA256:{digest.rstrip('=')}"


def _string(data: bytes) -> bytes:
    """Encode a string as ssh does (RFC 4251, section 5)."""
    return len(data).to_bytes(4, "big") + data


def _rsa_public(der: bytes) -> bytes:
    """Return the ssh-rsa blob (RFC 4253, 6.6) of a PKCS #1 key: version, modulus, exponent, ..."""
    sequence, _ = _der(der, 0x30)
    _, rest = _der(sequence, 0x02)
    modulus, rest = _der(rest, 0x02)
    exponent, _ = _der(rest, 0x02)
    # DER and ssh write integers alike: big-endian, two's complement, shortest.
    return _string(b"ssh-rsa") + _string(exponent) + _string(modulus)


def _der(data: bytes, tag: int) -> tuple[bytes, bytes]:
    """Take one DER element with this tag off ``data``: its content, and what follows."""
    if len(data) < 2 or data[0] != tag:
        raise ValueError("a damaged RSA private key")
    size, start = data[1], 2
    if size & 0x80:
        start += size & 0x7F
        size = int.from_bytes(data[2:start], "big")
    if len(data) < start + size:
        raise ValueError("a damaged RSA private key")
    return data[start : start + size], data[start + size :]


def _openssh_public(data: bytes) -> bytes:
    """Return the public blob of an OpenSSH key, which stands in clear before the private part."""
    magic = b"openssh-key-v1\0"
    if not data.startswith(magic):
        raise ValueError("a damaged OpenSSH private key")
    rest = data[len(magic) :]
    fields = []
    for _ in ("cipher", "key derivation", "its options"):
        field, rest = _take(rest)
        fields.append(field)
    if fields[0] != b"none":
        raise ValueError("an encrypted private key")
    count, rest = int.from_bytes(rest[:4], "big"), rest[4:]
    if count != 1:
        raise ValueError("not exactly one key in the file")
    return _take(rest)[0]


def _take(data: bytes) -> tuple[bytes, bytes]:
    size = int.from_bytes(data[:4], "big")
    if len(data) < 4 + size:
        raise ValueError("a damaged OpenSSH private key")
    return data[4 : 4 + size], data[4 + size :]
