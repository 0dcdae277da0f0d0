"""Downloads a file, goes on where it was cut off, and hands out nothing that is not verified.

What came lies in a ``.part`` file until all of it is there and has the sum that was asked for, so
whoever dies in between leaves something that the next call goes on with, or throws away.
"""

from __future__ import annotations

import contextlib
import http
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import urllib3.exceptions
from urllib3.util import Retry

from vagrant_kiwi import state
from vagrant_kiwi.deadline import Deadline
from vagrant_kiwi.download_attempt import Job, Source, attempt, refusal
from vagrant_kiwi.download_http import AgainError, asked
from vagrant_kiwi.download_meter import amount
from vagrant_kiwi.download_part import Part, Place, Version, disk_errors, sum_of
from vagrant_kiwi.errors import BoxError, UsageError

__all__ = ["PATIENCE", "Source", "fetch", "held"]

#: How often to try again without getting anywhere: at once, then after 2, 4, 8, 16 and 30 s.
PATIENCE: Final = Retry(total=6, backoff_factor=1, backoff_max=30, backoff_jitter=1)
#: Seconds without a byte after which a connection is given up.
_STALL = 60.0
#: The longest that a server may ask us to wait, in seconds.
_LONGEST_WAIT = 300.0
#: Bytes that an attempt must get further than any before it to count as progress.
_PROGRESS = 1 << 16


def fetch(
    source: Source,
    folder: Path,
    *,
    update: Callable[[str, int | None], None],
    log: Callable[[str], None],
    deadline: Deadline,
    stall: float = _STALL,
    patience: Retry = PATIENCE,
) -> Path:
    """Download a file, unless it is there already, and return where it is.

    Callers that want the same file wait for each other. With a sum, the file that an earlier call
    left is read and taken; without one, the server is asked whether it is still the same.

    Args:
        source: what to download.
        folder: where to; made if it is missing.
        update: takes how far it is: a text, and the percentage where that is known.
        log: takes what happens, line by line.
        deadline: when it must be done, waiting for others included.
        stall: seconds without a byte, or with next to none, after which the connection is given up.
        patience: how often to try again without getting anywhere.

    Returns:
        The whole file: it has the size and the sum that were asked for.

    Raises:
        UsageError: the URL or the sum is none.
        BoxError: the file cannot be had, or is another one; then nothing of it is kept.
        PreflightError: there is no room for it, or the folder cannot be used.
        PhaseTimeoutError: the deadline has passed; what came is kept.
    """
    _check(source)
    place = Place.of(source.url, folder)
    with _here(Job(source, folder, place, update, log, deadline, stall, patience)):
        return place.target


@contextlib.contextmanager
def held(
    source: Source,
    folder: Path,
    *,
    update: Callable[[str, int | None], None],
    log: Callable[[str], None],
    deadline: Deadline,
) -> Iterator[Path]:
    """Download a file as ``fetch`` does, and let nobody else touch it during the body.

    It is removed afterwards, also if the body finds fault with it (BoxError); after an interruption
    it stays for the next call.

    Args:
        source: what to download.
        folder: where to.
        update: takes how far it is.
        log: takes what happens.
        deadline: when it must be there.

    Raises:
        UsageError, BoxError, PreflightError, PhaseTimeoutError: as from ``fetch``.
    """
    _check(source)
    place = Place.of(source.url, folder)
    with _here(Job(source, folder, place, update, log, deadline, _STALL, PATIENCE)):
        try:
            yield place.target
        except BoxError:
            place.clear()
            raise
        place.clear()


@contextlib.contextmanager
def _here(job: Job) -> Iterator[None]:
    """Have the file, and the lock on it, during the body."""
    with contextlib.ExitStack() as stack:
        with disk_errors(job.place):
            job.folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(
                state.waited(
                    job.place.lock,
                    log=job.log,
                    deadline=job.deadline,
                    what=f"{job.source.shown} is being downloaded",
                    details="another process was downloading it",
                )
            )
            if not _kept(job):
                _download(job)
        yield


def _check(source: Source) -> None:
    try:
        parts = urlsplit(source.url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        good = good and source.url.isprintable()
    except ValueError:
        good = False
    if not good:
        raise UsageError(
            f"Not a URL to download from: {source.shown}",
            resolution="It begins with https:// or http:// and the name of a server.",
        )
    if source.sha256 is not None and re.fullmatch("[0-9a-fA-F]{64}", source.sha256) is None:
        raise UsageError(
            f"Not a SHA-256 sum: {source.sha256!r}",
            resolution="It has 64 hexadecimal digits, as sha256sum prints them.",
        )


def _kept(job: Job) -> bool:
    """Tell whether the file is there from an earlier call; another one is removed."""
    target = job.place.target
    if not target.exists():
        return False
    known = job.place.known()
    right = job.source.size in (None, target.stat().st_size)
    if right:
        found = sum_of(target, job.reading).hexdigest()
        if job.source.sha256 is not None:
            right = found == job.source.sha256.lower()
        else:
            right = known is not None and known.sha256 == found and _unchanged(job, known)
    if right:
        job.log(f"{job.source.shown} is here already")
    else:
        job.log(f"{job.source.shown} is here in another version, which is removed")
        job.place.clear()
    return right


def _unchanged(job: Job, known: Version) -> bool:
    """Ask the server whether it still has the same file."""
    headers = {"If-None-Match": known.etag, "If-Modified-Since": known.modified}
    given = {name: value for name, value in headers.items() if value is not None}
    patience = job.patience
    while given:
        try:
            with asked(job.source.url, given, stall=job.stall) as answer:
                head = job.wait(answer.head)
            if head.status not in (http.HTTPStatus.OK, http.HTTPStatus.NOT_MODIFIED):
                raise refusal(job, head)
            return head.status == http.HTTPStatus.NOT_MODIFIED
        except AgainError as failure:
            patience = _again(job, patience, failure)
    return False


def _download(job: Job) -> None:
    """Get all of the file, in as many attempts as it takes."""
    wanted = job.source.sha256.lower() if job.source.sha256 is not None else None
    patience, furthest, suspected = job.patience, 0, False
    with contextlib.closing(Part(job.place, job.reading)) as part:
        size = part.version.size if part.version is not None else None
        # Where no sum says which version it is, the server is asked before it is taken as whole.
        if (size is not None and job.source.size not in (None, size)) or (
            part.whole and wanted is None
        ):
            part.discard()
        while True:
            try:
                if not part.whole:
                    attempt(job, part)
            except AgainError as failure:
                if part.size >= furthest + _PROGRESS:
                    patience = job.patience
                furthest = max(furthest, part.size)
                patience = _again(job, patience, failure)
                continue
            if wanted in (None, part.digest):
                job.log(f"{job.source.shown} is here: {amount(part.size)}, SHA-256 {part.digest}")
                part.finish()
                return
            found, glued = part.digest, part.glued
            part.discard()
            if not glued or suspected:
                raise BoxError(
                    f"{job.source.shown} is not the file that was asked for",
                    details=f"SHA-256 wanted: {wanted}\nSHA-256 found:  {found}",
                    resolution="Nothing of it was kept. Either the server has another version "
                    "now, and its sum must be found out anew, or the file was tampered with.",
                )
            # The server may have changed the file between two of its parts.
            suspected = True
            job.log(f"The parts of {job.source.shown} do not fit; once more from the start")


def _again(job: Job, patience: Retry, failure: AgainError) -> Retry:
    """Wait before the next attempt, and return the patience that is left.

    Raises:
        BoxError: there is none, or the server asks for too much.
        PhaseTimeoutError: the deadline comes first.
    """
    wait = failure.wait or 0.0
    try:
        if wait > _LONGEST_WAIT:
            raise BoxError(
                f"{job.source.shown} cannot be downloaded now",
                details=f"{failure.reason}, and wants us to wait {wait:.0f} s",
                resolution="Try again then; what has come is kept.",
            )
        left = patience.increment("GET", error=failure)
    except urllib3.exceptions.MaxRetryError as error:
        raise BoxError(
            f"{job.source.shown} cannot be downloaded",
            details=f"{failure.reason}; trying {len(patience.history)} more times got no further",
            resolution="Try again later: what has come is kept, and the next call goes on "
            "from there.",
        ) from error
    seconds = max(left.get_backoff_time(), wait)
    if seconds >= job.deadline.left():
        raise job.deadline.missed(details=failure.reason) from failure
    job.log(
        f"{job.source.shown}: {failure.reason}; trying again"
        + (f" in {seconds:.0f} s" if seconds else "")
    )
    time.sleep(seconds)
    return left
