"""One attempt to download a file, or the rest of it, and what is wrong with the answer."""

from __future__ import annotations

import http
import queue
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import urllib3.exceptions
from urllib3.util import Retry

from vagrant_kiwi.deadline import Deadline
from vagrant_kiwi.description_model import mask
from vagrant_kiwi.download_http import FAILURES, AgainError, Answer, Head, asked, explain
from vagrant_kiwi.download_meter import Meter, amount
from vagrant_kiwi.download_part import Part, Place, check_room, version_of
from vagrant_kiwi.errors import BoxError, PreflightError

_T = TypeVar("_T")

#: Bytes between two looks at the room, where nobody knows how much is to come.
_BETWEEN_LOOKS = 16 << 20

_HINTS = {
    401: "The server wants a login: https://user:password@host/..., or a line in ~/.netrc.",
    403: "The server does not let you have it: is a login needed, or has a link expired?",
    404: "Check the URL: the server has no such file.",
    407: "The proxy wants a login: http_proxy and https_proxy in the environment.",
    410: "Check the URL: the file was removed.",
}


@dataclass(frozen=True, repr=False)
class Source:
    """A file to download.

    Args:
        url: http or https; may hold credentials, and is never shown as it is.
        sha256: the sum that it must have, in hexadecimal digits; None takes what comes.
        size: the bytes that it must have, if that is known.
    """

    url: str
    sha256: str | None = None
    size: int | None = None

    def __repr__(self) -> str:
        return f"Source({self.shown!r}, sha256={self.sha256!r}, size={self.size!r})"

    @property
    def shown(self) -> str:
        """The URL for people: stars for user, password and query."""
        # One that lacks its scheme may hold a password all the same.
        return mask(self.url) if "://" in self.url else mask(f"://{self.url}").removeprefix("://")


@dataclass(frozen=True)
class Job:
    """One call of ``fetch``."""

    source: Source
    folder: Path
    place: Place
    update: Callable[[str, int | None], None]
    log: Callable[[str], None]
    deadline: Deadline
    stall: float
    patience: Retry

    def reading(self, done: int) -> None:
        """Watch a file being read."""
        self.deadline.left()
        if done % _BETWEEN_LOOKS == 0:
            self.update("reading what is here already", None)

    def wait(self, get: Callable[[float], _T]) -> _T:
        """Wait for what comes next.

        Raises:
            AgainError: it did not come; that may pass.
            BoxError: it will not come.
            PhaseTimeoutError: the deadline has passed.
        """
        try:
            return get(min(self.stall, self.deadline.left()))
        except queue.Empty as error:
            self.deadline.left()
            raise AgainError(f"nothing came for {self.stall:.0f} s") from error
        except FAILURES as error:
            raise explain(error, self.source.url) from error


def attempt(job: Job, part: Part) -> None:
    """Ask for what is missing and take what comes.

    Raises:
        AgainError: it was cut off.
        BoxError: it is not what was asked for, or cannot be had.
    """
    headers = {}
    if part.version is not None and part.version.validator is not None and part.size:
        # The server sends all of it if that is another version by now.
        headers = {"Range": f"bytes={part.size}-", "If-Range": part.version.validator}
    with asked(job.source.url, headers, stall=job.stall) as answer:
        head = job.wait(answer.head)
        if headers and head.status in (
            http.HTTPStatus.PARTIAL_CONTENT,
            http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
        ):
            _check_form(job, head)
            _go_on(job, part, head)
        elif head.status == http.HTTPStatus.OK:
            _check_form(job, head)
            _begin(job, part, head)
        else:
            raise refusal(job, head)
        _receive(job, part, answer, head)


def _check_form(job: Job, head: Head) -> None:
    encoding = head.headers.get("Content-Encoding", "").strip()
    if encoding.lower() not in ("", "identity"):
        raise BoxError(
            f"{job.source.shown} comes in another form than it has",
            details=f"Content-Encoding: {encoding}, although none was asked for",
            resolution="This is a mistake in the server's configuration; take the file from "
            "another server, or from a disk.",
        )


def _begin(job: Job, part: Part, head: Head) -> None:
    if part.size:
        job.log(f"{job.source.shown} comes from the start again")
    part.discard()
    _check_size(job, part, head.length)
    coming = head.length if head.length is not None else job.source.size
    check_room(job.folder, coming or 0)
    part.begin(version_of(job.source.url, head.headers, head.length))


def _go_on(job: Job, part: Part, head: Head) -> None:
    assert part.version is not None  # noqa: S101 - it was asked for by it
    total = _range_total(head, part.size)
    version = version_of(job.source.url, head.headers, total)
    if total is None or part.version.unlike(version):
        part.discard()
        raise AgainError("the server has something else than the rest of what is here")
    _check_size(job, part, total)
    check_room(job.folder, total - part.size)
    job.log(f"{job.source.shown} goes on at {amount(part.size, of=total)}")
    part.go_on(version)


def _range_total(head: Head, start: int) -> int | None:
    """Return the size of the whole file, if the answer is all the rest of it."""
    said = head.headers.get("Content-Range", "").strip()
    match = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", said)
    if match is None:
        return None
    first, last, total = map(int, match.groups())
    fits = first == start and last + 1 == total and head.length in (None, total - start)
    return total if fits else None


def _check_size(job: Job, part: Part, size: int | None) -> None:
    if size is not None and job.source.size not in (None, size):
        part.discard()
        raise _another_size(job, f"{size} bytes")


def _another_size(job: Job, found: str) -> BoxError:
    return BoxError(
        f"{job.source.shown} is not the file that was asked for",
        details=f"It should have {job.source.size} bytes, and has {found}",
        resolution="Nothing of it was kept. Check the URL, and the size that is stated for it.",
    )


def _receive(job: Job, part: Part, answer: Answer, head: Head) -> None:
    """Take what comes, to its end."""
    assert part.version is not None  # noqa: S101 - it has begun
    total = part.version.size if part.version.size is not None else job.source.size
    meter = Meter(time.monotonic(), part.size, total, job.stall)
    looked = part.size
    while piece := job.wait(answer.piece):
        if total is not None and part.size + len(piece) > total:
            part.discard()
            raise _another_size(job, "more")
        part.write(piece)
        now = time.monotonic()
        meter.add(len(piece), now)
        if meter.due(now):
            job.update(meter.text(now), meter.percent)
        if meter.too_slow(now):
            raise AgainError(f"next to nothing came for {job.stall:.0f} s")
        if head.length is None and part.size - looked >= _BETWEEN_LOOKS:
            looked = part.size
            _look(job, part)
    if total is None or part.size == total:
        return
    if head.chunked:  # so this is where it ends
        found = part.size
        part.discard()
        raise _another_size(job, f"{found} bytes")
    raise AgainError(f"the connection ended at {amount(part.size, of=total)}")


def _look(job: Job, part: Part) -> None:
    """See that there is still room; what fills the disk is not kept."""
    try:
        check_room(job.folder, 0)
    except PreflightError:
        part.discard()
        raise


def refusal(job: Job, head: Head) -> AgainError | BoxError:
    """Return the error for an answer that brings no file."""
    names = {status.value: status.phrase for status in http.HTTPStatus}
    said = f"the server answers {head.status} {names.get(head.status, '')}".rstrip()
    if head.status >= 500 or head.status in (
        http.HTTPStatus.REQUEST_TIMEOUT,
        http.HTTPStatus.TOO_MANY_REQUESTS,
    ):
        return AgainError(said, wait=_retry_after(job, head.headers))
    return BoxError(
        f"{job.source.shown} cannot be downloaded",
        details=said,
        resolution=_HINTS.get(head.status, "Check the URL."),
    )


def _retry_after(job: Job, headers: Mapping[str, str]) -> float | None:
    try:
        return float(job.patience.parse_retry_after(headers["Retry-After"]))
    except (KeyError, ValueError, OverflowError, urllib3.exceptions.InvalidHeader):
        return None
