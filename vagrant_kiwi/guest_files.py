"""Files that a guest needs because an option of KIWI's names them."""

from __future__ import annotations

import contextlib
import os
import posixpath
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vagrant_kiwi.errors import SettingsError


@dataclass(frozen=True)
class GuestFile:
    """A file that the guest needs: one of the host's, or bytes that were no file before.

    ``target`` is its path in the guest. ``private`` ones are for root alone.
    """

    target: str
    source: Path | None = None
    content: bytes = field(default=b"", repr=False)
    private: bool = True

    @contextlib.contextmanager
    def on_host(self, folder: Path) -> Iterator[Path]:
        """Yield a path on the host to copy from; bytes are in a file of their own meanwhile.

        Args:
            folder: a private one that is removed with the run, also after a SIGKILL.
        """
        if self.source is not None:
            yield self.source
            return
        with tempfile.NamedTemporaryFile(prefix="file-", dir=folder) as stream:
            os.fchmod(stream.fileno(), 0o600 if self.private else 0o644)
            stream.write(self.content)
            stream.flush()
            yield Path(stream.name)


class Placer:
    """Gives the files of options names in the guest; no two get the same."""

    def __init__(self, folder: str) -> None:
        self.files: list[GuestFile] = []
        self._folder = folder
        self._names: set[str] = set()

    def file(self, option: str, value: str, cwd: Path) -> str:
        """Place a file of the host, and return its path in the guest."""
        source = host_path(value, cwd)
        if not is_file(source):
            raise SettingsError(
                f"The file of {option} is not there",
                details=str(source),
                resolution="It is a file on this host; it is copied into the guest.",
            )
        for known in self.files:
            if known.source == source:
                return known.target
        target = self._target(source.name)
        self.files.append(GuestFile(target, source=source))
        return target

    def bytes(self, name: str, content: bytes) -> str:
        """Place bytes, and return their path in the guest."""
        target = self._target(name)
        self.files.append(GuestFile(target, content=content))
        return target

    def _target(self, name: str) -> str:
        # The name is kept where it can be: a CA certificate goes into the image under it. The rest
        # would not survive KIWI's lists, which are divided by "," and ";".
        safe = re.sub(r"[^A-Za-z0-9._+-]", "_", name)
        stem, dot, suffix = safe.rpartition(".")
        if not stem:
            stem, dot, suffix = safe, "", ""
        number = 2
        while safe in self._names:
            safe = f"{stem}-{number}{dot}{suffix}"
            number += 1
        self._names.add(safe)
        return posixpath.join(self._folder, safe)


def host_path(value: str, cwd: Path) -> Path:
    """Return the path on the host that a value means; it need not be there."""
    try:
        return cwd / Path(value).expanduser()
    except RuntimeError:  # "~somebody" that is no user
        return cwd / value


def is_file(path: Path) -> bool:
    """Tell whether there is such a file; what cannot be a path is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # a password longer than a file's name can be
        return False
