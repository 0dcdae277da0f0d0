"""The state folder: locks, run records, atomic files."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from filelock import FileLock, Timeout

from vagrant_kiwi.deadline import Deadline
from vagrant_kiwi.errors import LockedError, SettingsError


def make_folder(path: Path) -> None:
    """Make a folder and its parents.

    Raises:
        SettingsError: it cannot be made, for instance on a read-only file system.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"Cannot make the folder {path}",
            details=str(error.strerror or error),
            resolution="Choose another one: state_dir or target_dir in the settings.",
        ) from error


def check_writable(path: Path) -> None:
    """See that files can be written below a folder, before hours of work depend on it.

    Nothing is left behind: a folder that does not exist is not made, the nearest one above it that
    does is tried instead.

    Raises:
        SettingsError: it cannot.
    """
    nearest = next(folder for folder in (path, *path.parents) if os.path.lexists(folder))
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise SettingsError(
            f"Cannot write to the folder {path}",
            details=f"{nearest}: {error.strerror or error}",
            resolution="Choose another one: state_dir or target_dir in the settings.",
        ) from error


def write_text(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Replace a file in one step: readers see the old content or the new one, never half of it.

    Args:
        path: the file; its folder exists.
        text: the new content, written as UTF-8.
        mode: its permission bits.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(mode)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Replace a JSON file in one step."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def replace_symlink(link: Path, target: str) -> None:
    """Let a symlink point elsewhere in one step.

    Args:
        link: the symlink to make or replace.
        target: what it shall contain, normally a relative name.
    """
    fresh = link.with_name(f".{link.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(link)


@contextlib.contextmanager
def lock(path: Path, *, what: str) -> Iterator[None]:
    """Hold a kernel file lock for the body; it is gone with the process, however that ends.

    Args:
        path: the lock file; it stays, empty, because removing it would race.
        what: what is locked, for the error.

    Raises:
        LockedError: somebody else holds it.
    """
    make_folder(path.parent)
    held = FileLock(path, blocking=False)
    try:
        held.acquire()
    except Timeout as error:
        raise LockedError(
            f"{what} is being built already",
            details=f"lock: {path}",
            resolution="Wait for that build, or stop it.",
        ) from error
    try:
        yield
    finally:
        held.release()


@contextlib.contextmanager
def waited(
    path: Path, *, log: Callable[[str], None], deadline: Deadline, what: str, details: str
) -> Iterator[None]:
    """Hold a kernel file lock for the body, as soon as nobody else does.

    Args:
        path: the lock file, in a folder that is there.
        log: takes a line if there is somebody to wait for.
        deadline: until when.
        what: what another process is at, for that line.
        details: the same as the reason why the deadline was missed.

    Raises:
        PhaseTimeoutError: somebody else holds it for too long.
        OSError: the file cannot be made.
    """
    held = FileLock(path)
    try:
        held.acquire(blocking=False)
    except Timeout:
        log(f"Waiting: {what} by another process")
        try:
            held.acquire(timeout=deadline.left())
        except Timeout as error:
            raise deadline.missed(details=details) from error
    try:
        yield
    finally:
        held.release()
