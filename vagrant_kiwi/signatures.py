"""Detached GPG signatures, checked with the keys that were given for it and no others.

gpg gets a home folder that lives as long as the check: the person's own keys and the trust put in
them say nothing here, and nothing is added to them.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vagrant_kiwi.deadline import Deadline
from vagrant_kiwi.errors import BoxError, PreflightError
from vagrant_kiwi.process import CommandNotFoundError, CommandResult, Runner, last_lines

_STATUS = "[GNUPG:] "
#: MD5, SHA-1 and RIPEMD-160 (RFC 4880, 9.4): another file with the same sum can be made, or nearly.
_WEAK = {"1": "MD5", "2": "SHA-1", "3": "RIPEMD-160"}
#: A signature of the bytes as they are; "01" is one of a text, whatever its line ends.
_BINARY = "00"
#: The reason in ERRSIG for a key that is not there.
_NO_KEY = "9"
_REASONS = {
    "EXPSIG": "the signature has expired",
    "EXPKEYSIG": "the key has expired",
    "REVKEYSIG": "the key was revoked",
    "BADSIG": "it is not a signature of this file: one of the two was changed",
}
_RESOLUTION = (
    "Take the file and its signature anew from where they are published, and the keys from "
    "somewhere that is trusted. Do not use the file until they fit."
)


@dataclass(frozen=True)
class Verdict:
    """What gpg says about one signature.

    ``signer`` is the fingerprint of the key's owner, and the name in the key; it is empty unless
    the signature is good. ``problem`` says why it is not. ``unknown``: its key was not given;
    ``bad``: it was made for other bytes.
    """

    signer: str = ""
    problem: str = ""
    unknown: bool = False
    bad: bool = False


def check(file: Path, signature: Path, keyring: Path, *, runner: Runner, timeout: float) -> str:
    """Check the detached signature of a file.

    Of several signatures one must be good, and none may be bad; those by keys that were not given
    say nothing.

    Args:
        file: what is signed.
        signature: armored or binary.
        keyring: the keys that may have signed: exported (armored or binary), or a keybox.
        runner: starts gpg.
        timeout: seconds for all of it.

    Returns:
        Who signed: the fingerprint of the key and the name in it.

    Raises:
        BoxError: it is not signed by these keys, or something about the signature is wrong.
        PreflightError: there is no gpg.
        PhaseTimeoutError: it takes too long.
    """
    for path, what in ((file, "file"), (signature, "signature"), (keyring, "keyring")):
        if not path.is_file():
            raise BoxError(f"There is no such {what}: {path}", resolution="Check the path.")
    deadline = Deadline.after(timeout, what=f"Checking the signature of {file.name}")
    with tempfile.TemporaryDirectory(prefix="vagrant-kiwi-gpg-") as name, deadline.named():
        home = Path(name)
        _take_keys(home, keyring, runner, deadline)
        # Absolute, so that no name is taken for an option or for standard input.
        words = ("--verify", "--", str(signature.absolute()), str(file.absolute()))
        done = _gpg(home, words, runner, deadline)
    verdicts = read_status(done.text.splitlines())
    nothing = f"gpg finds no signature in {signature}\n{last_lines(done.errors)}"
    good = next((verdict.signer for verdict in verdicts if verdict.signer), "")
    wrong = [verdict.problem for verdict in verdicts if not verdict.signer]
    strangers = any(verdict.unknown for verdict in verdicts)
    if not good or any(verdict.bad for verdict in verdicts) or not (done.ok or strangers):
        raise BoxError(
            f"The signature of {file.name} is not good",
            details="\n".join(dict.fromkeys(wrong)) or nothing,
            resolution=_RESOLUTION,
        )
    return good


def _take_keys(home: Path, keyring: Path, runner: Runner, deadline: Deadline) -> None:
    with keyring.open("rb") as stream:
        start = stream.read(12)
    if start[8:] == b"KBXf":  # which gpg does not import
        shutil.copyfile(keyring, home / "pubring.kbx")
        return
    done = _gpg(home, ("--import", "--", str(keyring.absolute())), runner, deadline)
    # Its exit status also tells of the agent, which it would ask about secret keys.
    if not any(line.startswith(f"{_STATUS}IMPORT_OK ") for line in done.text.splitlines()):
        raise BoxError(
            f"There is no public key in {keyring}",
            details=last_lines(done.errors),
            resolution="Give the key as `gpg --export` writes it, with or without --armor.",
        )


def _gpg(home: Path, words: Sequence[str], runner: Runner, deadline: Deadline) -> CommandResult:
    always = ("--no-options", "--batch", "--no-tty", "--no-autostart", "--status-fd", "1")
    # Who gave the keyring trusts its keys; without this, gpg would start a database of trust.
    argv = ["gpg", *always, "--homedir", str(home), "--trust-model", "always", *words]
    try:
        return runner.run(argv, timeout=deadline.left())
    except CommandNotFoundError as error:
        raise PreflightError(
            "gpg is not installed",
            details="It checks the signature of the box.",
            resolution="Install it (Debian: apt-get install gnupg).",
        ) from error


def read_status(lines: Iterable[str]) -> list[Verdict]:
    """Read what gpg wrote to its status descriptor: a verdict for each signature.

    gpg's doc/DETAILS has the words; a name is escaped there, so that it cannot look like one.
    """
    groups: list[dict[str, list[str]]] = []
    for line in lines:
        if not line.startswith(_STATUS):
            continue
        word, *rest = line.removeprefix(_STATUS).split(" ")
        if word == "NEWSIG":
            groups.append({})
        elif groups:
            groups[-1].setdefault(word, rest)
    return [_verdict(group) for group in groups]


def _verdict(said: dict[str, list[str]]) -> Verdict:
    for word, problem in _REASONS.items():
        if word in said:
            return Verdict(problem=f"{' '.join(said[word])}: {problem}", bad=word == "BADSIG")
    if "ERRSIG" in said:
        # key id, algorithms of key and sum, class, time, reason; newer ones add a fingerprint
        key, _, algorithm, _, _, reason = [*said["ERRSIG"], *[""] * 6][:6]
        if reason == _NO_KEY:
            return Verdict(problem=f"{key}: this key is not in the keyring", unknown=True)
        if algorithm in _WEAK:
            return Verdict(problem=_weak(key, algorithm))
        return Verdict(problem=f"{key}: gpg cannot check it (reason {reason})")
    valid = said.get("VALIDSIG", [])
    if "GOODSIG" not in said or len(valid) < 10:
        return Verdict(problem="gpg does not say that it is good")
    algorithm, kind, owner = valid[7:10]
    if algorithm in _WEAK:
        return Verdict(problem=_weak(owner, algorithm))
    if kind != _BINARY:
        return Verdict(problem=f"{owner}: signs a text, not the bytes of the file (class {kind})")
    return Verdict(signer=f"{owner} ({' '.join(said['GOODSIG'][1:])})")


def _weak(key: str, algorithm: str) -> str:
    return f"{key}: signs no more than the {_WEAK[algorithm]} sum of the file, which is too weak"
