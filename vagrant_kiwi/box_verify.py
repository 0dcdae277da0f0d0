"""What a build box must not carry: the rules, on what was found in it.

A box is copied to every guest: what is secret or unique in it is so for nobody any more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vagrant_kiwi.keys import ED25519_FINGERPRINT, RSA_FINGERPRINT, public_line_fingerprint

#: As many of a kind are named; the others are counted.
_NAMED = 6

#: The types of keys that OpenSSH knows (sshkey.c, keyimpls), those of certificates included.
_KEY_TYPE = re.compile(r"(ssh-|ecdsa-sha2-|sk-ssh-|sk-ecdsa-sha2-)[a-z0-9@.-]+")

#: Options before a key have no spaces but in quotes, in which a quote has a backslash: sshd(8).
_OPTIONS = re.compile(r'(?:[^\s"]|"(?:[^"\\]|\\.)*")+')


@dataclass(frozen=True)
class Look:
    """What was found in a box, as it is: nothing of it was started.

    Args:
        host_keys: paths of SSH host keys, public halves included.
        buried_host_keys: those that only a layer below has; a later one deletes them.
        machine_id: the content of /etc/machine-id, if it is one.
        authorized_keys: pairs of a file that lets keys in, and a line of it.
        key_sources: lines of sshd's settings by which it takes keys from elsewhere.
        kiwis: pairs of a folder of Python packages with KIWI in it, and KIWI's version.
        random_seed: whether the random numbers of a boot begin with a stored seed.
        unread: what could not be looked into, and why.
    """

    host_keys: tuple[str, ...] = ()
    buried_host_keys: tuple[str, ...] = ()
    machine_id: str | None = None
    authorized_keys: tuple[tuple[str, str], ...] = ()
    key_sources: tuple[str, ...] = ()
    kiwis: tuple[tuple[str, str], ...] = ()
    random_seed: bool = False
    unread: tuple[str, ...] = ()

    @property
    def kiwi(self) -> str | None:
        """The version of KIWI in the box; None if there is none, all of them if they differ."""
        return ", ".join(dict.fromkeys(version for _, version in self.kiwis)) or None


def problems(
    look: Look, *, stated_kiwi: str | None, allowed_keys: Sequence[str]
) -> tuple[str, ...]:
    """Return a sentence for each thing that a box should not carry, or that is not as stated.

    Args:
        look: what was found in it.
        stated_kiwi: the version of KIWI that it is said to have; None if nothing is said.
        allowed_keys: public key lines that it may let in, besides Vagrant's insecure ones.

    Returns:
        None at all for a good box. Names from inside the box are made printable.
    """
    return tuple(_problems(look, stated_kiwi, allowed_keys))


def _problems(look: Look, stated_kiwi: str | None, allowed_keys: Sequence[str]) -> Iterator[str]:
    for reason in look.unread:
        yield f"It cannot be looked into: {shown(reason)}."
    if look.host_keys:
        yield f"It carries SSH host keys, the same for all guests: {_named(look.host_keys)}."
    if look.buried_host_keys:
        yield (
            "A layer below carries SSH host keys that a later one deletes, so whoever has the "
            f"image has them: {_named(look.buried_host_keys)}."
        )
    if look.machine_id is not None:
        yield f"It carries a machine-id, the same for all guests: {shown(look.machine_id)}."
    if look.random_seed:
        yield "It carries a random seed, the same for all guests: /var/lib/systemd/random-seed."
    yield from _strange_keys(look, allowed_keys)
    for line in look.key_sources:
        yield f"Its sshd takes keys from elsewhere, too: {shown(line)}."
    yield from _other_kiwis(look, stated_kiwi)


def _strange_keys(look: Look, allowed_keys: Sequence[str]) -> Iterator[str]:
    allowed = {
        RSA_FINGERPRINT,
        ED25519_FINGERPRINT,
        *(_fingerprint(key_of(line) or line) for line in allowed_keys),
    }
    strange: dict[str, None] = {}
    for path, line in look.authorized_keys:
        key = key_of(line)
        fingerprint = None if key is None else _fingerprint(key)
        if key is None or fingerprint is None:
            # sshd would pass over it; what it reads in a different way must not pass here.
            strange[f"{shown(path)} has a line that is no key: {shown(line)}."] = None
        elif fingerprint not in allowed:
            kind, _, *comment = key.split(" ", 2)
            named = f" ({shown(comment[0])})" if comment and comment[0] else ""
            strange[
                f"{shown(path)} lets in a key that is not Vagrant's: {kind} {fingerprint}{named}."
            ] = None
    yield from _capped(tuple(strange), "more keys that are not Vagrant's are let in")


def _other_kiwis(look: Look, stated: str | None) -> Iterator[str]:
    if stated is None:
        return
    if not look.kiwis:
        # What could not be read may have it.
        if not look.unread:
            yield f"KIWI {stated} is stated, but there is none in it."
        return
    others = [
        f"KIWI {shown(version)} is in it ({shown(folder)}), but {stated} is stated."
        for folder, version in look.kiwis
        if version != stated
    ]
    yield from _capped(others, "more of other versions")


def key_of(line: str) -> str | None:
    """Return the key of a line of authorized_keys, without the options before it.

    Returns:
        Type, base64 and comment with single spaces between; None if the line is no key.
    """
    words = line.split(None, 2)
    if words and not _KEY_TYPE.fullmatch(words[0]):
        options = _OPTIONS.match(line)
        words = line[options.end() :].split(None, 2) if options else []
    if len(words) < 2 or not _KEY_TYPE.fullmatch(words[0]):
        return None
    return " ".join(words)


def _fingerprint(key: str) -> str | None:
    try:
        return public_line_fingerprint(key)
    except ValueError:
        return None


def shown(text: str, *, limit: int = 200) -> str:
    """Return a text from inside a box as it may be printed: one line, no control characters."""
    cut = text if len(text) <= limit else f"{text[:limit]}..."
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in cut)


def _named(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    return ", ".join(shown(path) for path in paths[:_NAMED]) + more


def _capped(sentences: Sequence[str], more: str) -> Iterator[str]:
    yield from sentences[:_NAMED]
    if len(sentences) > _NAMED:
        yield f"{len(sentences) - _NAMED} {more}."
