"""What lies on the disk of a download: the part that came, what it is a part of, the whole file.

Beside the file, or its part, a small JSON file says which version of it the server had. One of
the two is there, never both; a part without its JSON is of no use to anybody.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from vagrant_kiwi.description_model import mask
from vagrant_kiwi.download_meter import amount
from vagrant_kiwi.errors import PreflightError
from vagrant_kiwi.state import write_json

#: Bytes that a download leaves free: a full disk harms more than the download.
MARGIN = 64 << 20
_PIECE = 1 << 20


class Version(BaseModel):
    """Which version of a file it is, as far as the server says.

    ``size`` is that of the whole file, ``sha256`` what we found once it was whole. ``etag`` and
    ``modified`` are there only if they change with every byte of the file (RFC 9110, 8.8).
    """

    model_config = ConfigDict(frozen=True)

    url: str
    size: int | None = None
    etag: str | None = None
    modified: str | None = None
    sha256: str | None = None

    @property
    def validator(self) -> str | None:
        """What a server knows this version by."""
        return self.etag or self.modified

    def unlike(self, other: Version) -> bool:
        """Tell whether another answer is about another version."""
        return (
            (None not in (self.size, other.size) and self.size != other.size)
            or (None not in (self.etag, other.etag) and self.etag != other.etag)
            or (None not in (self.modified, other.modified) and self.modified != other.modified)
        )


def version_of(url: str, headers: Mapping[str, str], size: int | None) -> Version:
    """Return the version that an answer's headers tell of."""
    etag = headers.get("ETag", "").strip()
    return Version(
        url=mask(url),
        size=size,
        # "W/" says: as good as the same, not the same.
        etag=etag if etag.startswith('"') else None,
        modified=_strong_date(headers.get("Last-Modified"), headers.get("Date")),
    )


def _strong_date(modified: str | None, date: str | None) -> str | None:
    """Return the time of the last change, unless there may be another one in the same second."""
    if modified is None or date is None:
        return None
    try:
        age = parsedate_to_datetime(date) - parsedate_to_datetime(modified)
    except (ValueError, TypeError):  # one without a zone cannot be taken from one with
        return None
    return modified if age.total_seconds() >= 1 else None


@dataclass(frozen=True)
class Place:
    """Where a download lies: the whole file, its part, what is known about it, its lock."""

    target: Path
    part: Path
    note: Path
    lock: Path

    @classmethod
    def of(cls, url: str, folder: Path) -> Place:
        """Return the place of a URL; credentials make no difference."""
        parts = urlsplit(url)
        bare = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl()
        digest = hashlib.sha256(bare.encode("utf-8", "surrogateescape")).hexdigest()[:12]
        last = unquote(parts.path).rstrip("/").rpartition("/")[2]
        # From the end, where .tar.xz is.
        name = f"{digest}-{re.sub(r'[^A-Za-z0-9._+-]', '_', last)[-100:] or 'file'}"
        paths = (folder / f"{name}{ending}" for ending in ("", ".part", ".json", ".lock"))
        return cls(*paths)

    def known(self) -> Version | None:
        """Return which version lies here, if that is known."""
        try:
            return Version.model_validate_json(self.note.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def clear(self) -> None:
        """Remove all but the lock."""
        for path in (self.part, self.target, self.note):
            path.unlink(missing_ok=True)


class Part:
    """The part of a file that is there, open for more.

    Args:
        place: where it lies; the caller holds the lock.
        progress: called with the bytes read so far, while what is there is read again.
    """

    def __init__(self, place: Place, progress: Callable[[int], None]) -> None:
        self._place = place
        self._sum = hashlib.sha256()
        #: What it is a part of, and whether more than one answer went into it.
        self.version: Version | None = None
        self.glued = False
        self.size = 0
        version = place.known()
        there = place.part.stat().st_size if place.part.exists() else 0
        fits = version is not None and (version.size is None or version.size >= there)
        if there and fits:
            self.version, self.glued, self.size = version, True, there
            self._sum = sum_of(place.part, progress)
        # Unbuffered, so that what was written is there whoever dies.
        self._file = place.part.open("ab", buffering=0)
        if there and not fits:
            self.discard()

    @property
    def whole(self) -> bool:
        """Whether all of it is there, as far as the server said how much that is."""
        return self.version is not None and self.size > 0 and self.version.size == self.size

    @property
    def digest(self) -> str:
        """The SHA-256 of what is there."""
        return self._sum.hexdigest()

    def begin(self, version: Version) -> None:
        """Start from the first byte, with another version maybe."""
        self.discard()
        write_json(self._place.note, version.model_dump())
        self.version = version

    def go_on(self, version: Version) -> None:
        """Add to what is there; now its whole size may be known."""
        assert self.version is not None  # noqa: S101 - there is something to add to
        if self.version.size is None and version.size is not None:
            self.version = self.version.model_copy(update={"size": version.size})
            write_json(self._place.note, self.version.model_dump())
        self.glued = True

    def write(self, data: bytes) -> None:
        """Add bytes."""
        self._sum.update(data)
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        self.size += len(data)

    def discard(self) -> None:
        """Keep nothing, and be empty."""
        # First what the JSON tells of: a part must never meet the JSON of another version.
        self._file.truncate(0)
        self._place.target.unlink(missing_ok=True)
        self._place.note.unlink(missing_ok=True)
        self._sum = hashlib.sha256()
        self.version, self.glued, self.size = None, False, 0

    def finish(self) -> None:
        """Make the part the file."""
        assert self.version is not None  # noqa: S101 - it has begun
        os.fsync(self._file.fileno())
        done = self.version.model_copy(update={"size": self.size, "sha256": self.digest})
        write_json(self._place.note, done.model_dump())
        self._place.part.replace(self._place.target)

    def close(self) -> None:
        """Close it; an empty one is removed."""
        self._file.close()
        if not self.size:
            self._place.part.unlink(missing_ok=True)


def sum_of(path: Path, progress: Callable[[int], None]) -> hashlib._Hash:
    """Return the SHA-256 of a file, open for more.

    Args:
        path: the file.
        progress: called with the bytes read so far, many times a second.
    """
    total = hashlib.sha256()
    done = 0
    with path.open("rb") as stream:
        while data := stream.read(_PIECE):
            total.update(data)
            done += len(data)
            progress(done)
    return total


def check_room(folder: Path, size: int) -> None:
    """See that a folder's file system has room for some more bytes, and a margin.

    Raises:
        PreflightError: it has not.
    """
    free = shutil.disk_usage(folder).free
    if free < size + MARGIN:
        raise _no_room(
            folder,
            f"{amount(size)} are to come, {amount(MARGIN)} stay free, and {amount(free)} are: "
            f"{amount(size + MARGIN - free)} are missing",
        )


@contextlib.contextmanager
def disk_errors(place: Place) -> Iterator[None]:
    """Say in our words what goes wrong with the disk; what fills it is removed.

    Raises:
        PreflightError: it is full, or the folder cannot be used.
    """
    folder = place.target.parent
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            place.clear()
            raise _no_room(folder, f"{error.strerror}; what had come is removed") from error
        raise PreflightError(
            f"The folder {folder} cannot be used",
            details=str(error),
            resolution="See to it that it is a folder of yours, on a disk that can be written to.",
        ) from error


def _no_room(folder: Path, details: str) -> PreflightError:
    return PreflightError(
        f"There is not enough room in {folder}",
        details=details,
        resolution="Remove what is not needed there, or choose a folder on another disk.",
    )
