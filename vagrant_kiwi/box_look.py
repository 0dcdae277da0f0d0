"""What is looked for in a box, whatever kind it is of: where sshd has keys, where KIWI is.

Nothing in the box is started for it: a box is looked into because it may not be trusted, and its
own ssh-keygen or kiwi-ng would say what it likes.
"""

from __future__ import annotations

import enum
import fnmatch
import posixpath
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from vagrant_kiwi.box_verify import Look

#: Bytes; a file of settings that is longer is not read.
READ_LIMIT = 2**20

#: The kernel follows as many (linux/namei.h, MAXSYMLINKS).
_LINKS = 40

#: As many patterns of Include are followed; sshd's own settings have one.
_INCLUDES = 50

# OpenSSH's, then Dropbear's. Backups of them are as secret as they are.
_HOST_KEY = re.compile(r"(?:ssh_host_(?:\w+_)?key|dropbear_\w+_host_key)(?:[.~-].*)?", re.DOTALL)
# Of whatever user, /etc/skel and Dropbear in an initrd included.
_AUTHORIZED_KEYS = re.compile(r"authorized_keys2?")
_SSHD_CONFIG = re.compile(r"(?:/usr)?/etc/ssh/(?:sshd_config|sshd_config\.d/[^/]+)")
# pip writes dist-info, Debian's and other distributions' packages have one or the other.
_KIWI = re.compile(
    r"(?P<folder>.*/(?:site|dist)-packages)"
    r"/kiwi-(?P<version>[^/-]+)(?:-py[\d.]+)?\.(?:dist|egg)-info",
    re.DOTALL,
)
_VERSION = re.compile(rb"^Version:[ \t]*(\S+)[ \t]*$", re.MULTILINE)
_KEY_LINE = re.compile(rb"(?:ssh-|ecdsa-sha2-|sk-)[\w@.-]+[ \t]+AAAA")

_PASSWD = "/etc/passwd"  # noqa: S105 # no password
_MACHINE_IDS = ("/etc/machine-id", "/var/lib/dbus/machine-id")
_RANDOM_SEED = "/var/lib/systemd/random-seed"
_DEFAULT_KEYS = (".ssh/authorized_keys", ".ssh/authorized_keys2")
#: Settings by which sshd takes keys that stand in no file of authorized keys: sshd_config(5).
_SOURCES = ("authorizedkeyscommand", "trustedusercakeys")


class Kind(enum.Enum):
    """What an entry of a folder is."""

    FILE = enum.auto()
    FOLDER = enum.auto()
    LINK = enum.auto()
    OTHER = enum.auto()


@dataclass(frozen=True)
class Entry:
    """An entry of a folder; ``size`` in bytes, that of a link is the length of its target."""

    kind: Kind
    size: int = 0


class Tree(Protocol):
    """The files of a box."""

    @property
    def entries(self) -> Mapping[str, Entry]:
        """All that is in it, by absolute path; the root itself is not among them."""
        ...

    def target(self, path: str) -> str | None:
        """Return where a link points to, or None if that cannot be read."""
        ...

    def content(self, path: str) -> bytes | None:
        """Return what a file holds, or None if that cannot be read."""
        ...


@dataclass(frozen=True)
class _User:
    name: str
    uid: str
    home: str


# --- Which files count -------------------------------------------------------------------------


def is_host_key(path: str, entry: Entry) -> bool:
    """Tell whether an entry is an SSH host key, by its name; an empty file is none."""
    return entry.kind is Kind.FILE and entry.size > 0 and _named_so(path)


def _named_so(path: str) -> bool:
    return _HOST_KEY.fullmatch(posixpath.basename(path)) is not None


def is_wanted(path: str) -> bool:
    """Tell whether ``look_into`` may ask for the content of a file of this name."""
    folder, name = posixpath.split(path)
    return (
        path in (_PASSWD, *_MACHINE_IDS)
        or _AUTHORIZED_KEYS.fullmatch(name) is not None
        or _SSHD_CONFIG.fullmatch(path) is not None
        or _KIWI.fullmatch(path) is not None
        or (name in ("METADATA", "PKG-INFO") and _KIWI.fullmatch(folder) is not None)
    )


def holds_keys(content: bytes) -> bool:
    """Tell whether a file may be one of authorized keys, whatever its name."""
    return b"AAAA" in content and _KEY_LINE.search(content) is not None


# --- Looking -----------------------------------------------------------------------------------


def look_into(tree: Tree) -> Look:
    """Look for what a box should not carry.

    Args:
        tree: the box's files, or one of its file systems.

    Returns:
        What is in it. What counts and cannot be read is ``unread``.
    """
    return _Look(tree).look()


class _Look:
    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._unread: dict[str, None] = {}

    def look(self) -> Look:
        settings = list(self._sshd_settings())
        return Look(
            host_keys=tuple(self._host_keys(settings)),
            machine_id=self._machine_id(),
            authorized_keys=tuple(self._authorized_keys(settings)),
            key_sources=tuple(
                dict.fromkeys(
                    " ".join((keyword, *words))
                    for keyword, words in settings
                    if keyword in _SOURCES and words[:1] != ["none"]
                )
            ),
            kiwis=tuple(self._kiwis()),
            random_seed=self._size(_RANDOM_SEED) > 0,
            unread=tuple(self._unread),
        )

    def _resolve(self, path: str) -> str | None:
        def lost(link: str) -> None:
            self._unread[link] = None

        return resolve(self._tree, path, lost=lost)

    def _size(self, path: str) -> int:
        entry = self._tree.entries.get(path)
        return entry.size if entry is not None and entry.kind is Kind.FILE else 0

    def _read(self, path: str) -> bytes:
        """Return a file's content, and nothing where there is no such file."""
        found = self._resolve(path)
        if found is None or self._size(found) == 0:
            return b""
        if self._size(found) > READ_LIMIT:
            self._unread[f"{found} has {self._size(found)} bytes"] = None
            return b""
        content = self._tree.content(found)
        if content is None:
            self._unread[found] = None
            return b""
        return content

    def _lines(self, path: str) -> Iterator[str]:
        for line in self._read(path).decode("utf-8", "surrogateescape").split("\n"):
            text = line.strip()
            if text and not text.startswith("#"):
                yield text

    def _host_keys(self, settings: Sequence[tuple[str, list[str]]]) -> list[str]:
        places = [path for path in self._tree.entries if _named_so(path)]
        places += [words[0] for keyword, words in settings if keyword == "hostkey" and words]
        # A link to what each boot makes is no key.
        found = {self._resolve(place) for place in places}
        return sorted(path for path in found if path is not None and self._size(path) > 0)

    def _machine_id(self) -> str | None:
        for path in _MACHINE_IDS:
            text = self._read(path).decode("utf-8", "surrogateescape").strip()
            # machine-id(5): so says an image that its first boot is still to come.
            if text not in ("", "uninitialized"):
                return text
        return None

    def _sshd_settings(self) -> Iterator[tuple[str, list[str]]]:
        """Yield all settings of sshd, also those that others or a Match overrule."""
        todo = sorted(path for path in self._tree.entries if _SSHD_CONFIG.fullmatch(path))
        done: set[str] = set()
        patterns: dict[str, None] = {}
        while todo:
            path = todo.pop(0)
            if path in done:
                continue
            done.add(path)
            for line in self._lines(path):
                keyword, *words = _words(line)
                if keyword.lower() != "include":
                    yield keyword.lower(), words
                    continue
                for word in words:
                    pattern = posixpath.join("/etc/ssh", word)
                    if pattern not in patterns and len(patterns) < _INCLUDES:
                        todo += self._matching(pattern)
                    patterns[pattern] = None
        if len(patterns) > _INCLUDES:
            self._unread[f"sshd's settings include {len(patterns)} others"] = None

    def _matching(self, pattern: str) -> Iterator[str]:
        for path in self._tree.entries:
            # glob(3): a star matches no slash.
            if path.count("/") == pattern.count("/") and fnmatch.fnmatchcase(path, pattern):
                yield path

    def _users(self) -> Iterator[_User]:
        yield _User("root", "0", "/root")
        for line in self._lines(_PASSWD):
            fields = line.split(":")
            if len(fields) >= 6:
                yield _User(fields[0], fields[2], fields[5] or "/")

    def _authorized_keys(
        self, settings: Sequence[tuple[str, list[str]]]
    ) -> Iterator[tuple[str, str]]:
        patterns = [
            *_DEFAULT_KEYS,
            *(
                word
                for keyword, words in settings
                if keyword == "authorizedkeysfile"
                for word in words
                if word != "none"
            ),
        ]
        places = [
            path
            for path in self._tree.entries
            if _AUTHORIZED_KEYS.fullmatch(posixpath.basename(path))
        ]
        places += [_place(pattern, user) for user in self._users() for pattern in patterns]
        # One file may have several names, and each user's place may be the same one.
        found = {self._resolve(place) for place in places}
        for path in sorted(path for path in found if path is not None):
            for line in self._lines(path):
                yield path, line

    def _kiwis(self) -> Iterator[tuple[str, str]]:
        for path in sorted(self._tree.entries):
            if (match := _KIWI.fullmatch(path)) is None:
                continue
            version = match["version"]
            for place in (path, f"{path}/METADATA", f"{path}/PKG-INFO"):
                if (stated := _VERSION.search(self._read(place))) is not None:
                    version = stated[1].decode("utf-8", "surrogateescape")
            yield match["folder"], version


def resolve(tree: Tree, path: str, *, lost: Callable[[str], None]) -> str | None:
    """Follow all links of a path, as a process with the tree as its root would.

    Args:
        tree: the files.
        path: absolute.
        lost: told of a link whose target cannot be read.

    Returns:
        The path without links; None if there is nothing.
    """
    at, links = "", 0
    left = path.split("/")[::-1]
    while left:
        name = left.pop()
        if name in ("", "."):
            continue
        if name == "..":
            at = at.rpartition("/")[0]
            continue
        here = f"{at}/{name}"
        entry = tree.entries.get(here)
        if entry is None:
            return None
        if entry.kind is not Kind.LINK:
            at = here
            continue
        target = tree.target(here)
        links += 1
        if target is None:
            lost(here)
        if target is None or links > _LINKS:
            return None
        if target.startswith("/"):
            at = ""
        left += target.split("/")[::-1]
    return at


def _place(pattern: str, user: _User) -> str:
    """Return one user's file of authorized keys: AuthorizedKeysFile in sshd_config(5)."""
    values = {"%%": "%", "%h": user.home, "%u": user.name, "%U": user.uid}
    text = re.sub(r"%.", lambda match: values.get(match[0], match[0]), pattern)
    return posixpath.join("/", user.home, text)


def _words(line: str) -> list[str]:
    """Split a line of sshd_config: keyword and values, an equals sign may stand between."""
    head = re.match(r"([^\s=]+)[ \t]*=?[ \t]*(.*)", line, re.DOTALL)
    if head is None:
        return [line]
    try:
        return [head[1], *shlex.split(head[2], comments=True)]
    except ValueError:
        # A quote without an end: sshd would not start.
        return [head[1], *head[2].split()]
