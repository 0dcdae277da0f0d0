"""Which boxes builds of this user are using: locks that the kernel gives back, whoever dies.

A container or a domain holds its box by itself; these hold it in the moment before there is one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from vagrant_kiwi.errors import BoxError


@contextlib.contextmanager
def using(cache: Path, content: str) -> Iterator[None]:
    """Keep a box from being removed during the body; waits while it is being removed.

    Whether it was removed before must be looked at in the body.

    Args:
        cache: the user's cache folder.
        content: what differs where the box's bytes do.

    Raises:
        BoxError: the folder cannot be used.
    """
    with _opened(cache, content) as stream:
        fcntl.flock(stream, fcntl.LOCK_SH)
        yield


@contextlib.contextmanager
def removing(cache: Path, content: str) -> Iterator[bool]:
    """Tell the body whether no build is using a box; until its end none can begin to.

    Args:
        cache: the user's cache folder.
        content: what differs where the box's bytes do.

    Raises:
        BoxError: the folder cannot be used.
    """
    with _opened(cache, content) as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


@contextlib.contextmanager
def _opened(cache: Path, content: str) -> Iterator[IO[bytes]]:
    folder = cache / "in-use"
    name = hashlib.sha256(content.encode()).hexdigest()[:24]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # It stays, empty: removing it would race with whoever opens it.
        stream = (folder / name).open("ab")
    except OSError as error:
        raise BoxError(
            "The cache folder cannot be used",
            details=str(error),
            resolution=f"See to it that {cache} belongs to you.",
        ) from error
    with stream:
        yield stream
