"""Boxes that others made: fetched, checked, and only then given to Docker or to Vagrant.

Nothing of an archive reaches either before its checksum, its signature and its structure are good.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from vagrant_kiwi import box_archive, box_recipe, download, signatures
from vagrant_kiwi.box_archive import BoxArchive, DockerArchive, MachineArchive
from vagrant_kiwi.box_supply import Supply
from vagrant_kiwi.catalog import Kind, Source
from vagrant_kiwi.console import PhaseView
from vagrant_kiwi.deadline import Deadline
from vagrant_kiwi.description_model import mask
from vagrant_kiwi.download_part import sum_of
from vagrant_kiwi.errors import BoxError, PreflightError, UsageError

#: In the cache: what arrives.
DOWNLOADS = "downloads"


@dataclass(frozen=True)
class Wanted:
    """A box to import.

    Its archive is at ``url`` or ``file``, or it is an ``image`` of a registry; ``sha256`` and
    ``size`` (bytes) are what the archive must have, where that is known; ``signature`` is a URL or
    a file, made with a key in ``keyring``; ``version`` and ``kiwi`` are what is stated for it.
    """

    name: str
    kind: Kind
    url: str | None = None
    file: Path | None = None
    image: str | None = None
    sha256: str | None = None
    size: int | None = None
    signature: str | Path | None = None
    keyring: Path | None = None
    version: str = "1"
    kiwi: str | None = None

    @property
    def origin(self) -> str:
        """Where it comes from, without credentials."""
        return self.image or (mask(self.url) if self.url is not None else str(self.file))


@dataclass(frozen=True)
class Verified:
    """An archive that is what it should be."""

    path: Path
    sha256: str
    archive: BoxArchive


def wanted(name: str, kind: Kind, source: Source) -> Wanted:
    """Return what a catalogue's entry asks for.

    Args:
        name: of the box.
        kind: the kind of guest.
        source: one without a recipe.
    """
    return Wanted(
        name=name,
        kind=kind,
        url=source.url,
        file=source.file,
        image=source.image,
        sha256=source.sha256,
        size=source.size,
        signature=source.signature,
        keyring=source.keyring,
        version=source.version or "1",
        kiwi=source.kiwi,
    )


def from_words(
    name: str,
    kind: Kind,
    *,
    cwd: Path,
    kiwi: str | None,
    url: str | None,
    file: str | None,
    image: str | None,
    sha256: str | None,
    signature: str | None,
    keyring: str | None,
) -> Wanted:
    """Return what a person asked for.

    Args:
        name: of the box.
        kind: the kind of guest.
        cwd: the folder that relative paths start from.
        kiwi: version of KIWI that he states.
        url, file, image, sha256, signature, keyring: as typed.

    Raises:
        UsageError: it does not go together, or leaves a download unchecked.
    """
    if image is not None and kind != "docker":
        raise UsageError("--image is for docker", resolution="Give --url or --file of a .box.")
    if image is not None and signature is not None:
        raise UsageError("--signature is for --url and --file", resolution="Give --sha256.")
    if (signature is None) != (keyring is None):
        raise UsageError(
            "--signature and --keyring go together",
            resolution="The keyring is a file with the public keys that may sign the box.",
        )
    if url is not None and sha256 is None and signature is None:
        raise UsageError(
            "A box from a web server must be checked",
            details="Whoever can change it there could change every image that is built in it.",
            resolution="Give --sha256=SUM, or --signature=URL with --keyring=FILE.",
        )
    is_url = signature is not None and signature.startswith(("http://", "https://"))
    return Wanted(
        name=name,
        kind=kind,
        url=url,
        file=cwd / Path(file).expanduser() if file is not None else None,
        image=image,
        sha256=checksum(sha256),
        signature=signature if signature is None or is_url else cwd / Path(signature).expanduser(),
        keyring=cwd / Path(keyring).expanduser() if keyring is not None else None,
        kiwi=kiwi,
    )


def checksum(text: str | None) -> str | None:
    """Return a SHA-256 as it was typed in the one way of writing it.

    Raises:
        UsageError: it is none.
    """
    if text is None:
        return None
    found = text.strip().lower().removeprefix("sha256:")
    if re.fullmatch(r"[0-9a-f]{64}", found, re.ASCII) is None:
        raise UsageError(f"--sha256={text} is no SHA-256", details="it has 64 hex digits")
    return found


@contextlib.contextmanager
def verified(
    supply: Supply, wanted: Wanted, view: PhaseView, deadline: Deadline, *, room: int
) -> Iterator[Verified]:
    """Fetch an archive and check all of it, for the body, which may move the file.

    It is a file of our own, that nobody else touches meanwhile. It is removed after the body, or
    when it is not what it should be; a download that is interrupted stays, and the next call goes
    on with it.

    Args:
        supply: what it takes.
        wanted: the box.
        view: shows progress.
        deadline: when it must be there.
        room: bytes that its content may take.

    Raises:
        BoxError: it cannot be had, or is not what it should be.
        PreflightError: there is no room for it, or gpg is missing.
        PhaseTimeoutError: it takes too long.
    """
    if wanted.url is not None:
        source = download.Source(wanted.url, wanted.sha256, wanted.size)
        having = _downloaded(supply, source, view, deadline)
    else:
        having = _copied(supply, wanted, view, deadline)
    with having as path:
        yield _checked(supply, wanted, path, view, deadline, room)


def _downloaded(
    supply: Supply, source: download.Source, view: PhaseView, deadline: Deadline
) -> contextlib.AbstractContextManager[Path]:
    # The text has the rate, which is another one each time: in a log that is a line each time.
    live = supply.console.terminal
    return download.held(
        source,
        supply.cache / DOWNLOADS,
        update=view.update if live else lambda _, percent: view.update("downloading", percent),
        log=supply.console.note,
        deadline=deadline,
    )


@contextlib.contextmanager
def _copied(supply: Supply, wanted: Wanted, view: PhaseView, deadline: Deadline) -> Iterator[Path]:
    """Copy a person's file for the body: what is checked is then what is used."""
    file = wanted.file
    assert file is not None  # noqa: S101 - the caller has the others apart
    if not file.is_file():
        raise BoxError(
            f"There is no file {file}", resolution="Correct the path of the box's archive."
        )
    # With the file's own name, by which messages call it.
    folder = supply.cache / DOWNLOADS / f"{wanted.kind}-{wanted.name}.copy"
    view.update("copying")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        size, free = file.stat().st_size, shutil.disk_usage(folder.parent).free
        if size > free:
            raise PreflightError(
                f"There is not enough room for a copy of {file}",
                details=f"{folder.parent} has {free >> 20} MiB left, the file {size >> 20} MiB",
                resolution="Make room there, or set XDG_CACHE_HOME to a folder on another disk.",
            )
        lock = FileLock(f"{folder}.lock")
        lock.acquire(timeout=deadline.left())
    except Timeout as error:
        raise deadline.missed(details="another process was importing it") from error
    except OSError as error:
        raise _unreadable(file, error) from error
    try:
        try:
            # What an import left that was killed.
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            copy = Path(shutil.copyfile(file, folder / file.name))
        except OSError as error:
            raise _unreadable(file, error) from error
        yield copy
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def _unreadable(path: Path, error: OSError) -> BoxError:
    return BoxError(f"{path} cannot be read or copied", details=str(error))


def _checked(
    supply: Supply,
    wanted: Wanted,
    path: Path,
    view: PhaseView,
    deadline: Deadline,
    room: int,
) -> Verified:
    if wanted.size is not None and path.stat().st_size != wanted.size:
        raise BoxError(
            f"The box {wanted.name} has another size than stated",
            details=f"{wanted.origin}: {path.stat().st_size} bytes, stated are {wanted.size}",
            resolution="Ask whoever offers it; nothing was imported.",
        )
    found = sha256_of(path, lambda percent: view.update("checksum", percent))
    if wanted.sha256 not in (None, found):
        raise BoxError(
            f"The box {wanted.name} is not what it should be",
            details=f"SHA-256 of {wanted.origin}\n  expected {wanted.sha256}\n  found    {found}",
            resolution="Ask whoever offers it; nothing was imported.",
        )
    if wanted.signature is not None and wanted.keyring is not None:
        _check_signature(supply, wanted, path, view, deadline)
    view.update("checking the archive")
    archive = box_archive.inspect(path, room=room)
    _check_fit(wanted, archive)
    return Verified(path, found, archive)


def _check_fit(wanted: Wanted, archive: BoxArchive) -> None:
    """See that an archive is of the kind that was asked for, and can be used on this host."""
    is_machine = isinstance(archive, MachineArchive)
    if is_machine != (wanted.kind == "libvirt"):
        raise BoxError(
            f"{wanted.origin} is no box for {wanted.kind}",
            details="it is a box of Vagrant for libvirt"
            if is_machine
            else "it is an image for Docker",
            resolution=f"Give --provider={'libvirt' if is_machine else 'docker'}.",
        )
    if isinstance(archive, MachineArchive) and archive.disks != ("box.img",):
        raise BoxError(
            f"{wanted.origin} is no box that can be used here",
            details=f"its disks are {', '.join(archive.disks)}; there must be box.img alone",
            resolution="Have its maker pack it as a box with one disk.",
        )
    arch = box_recipe.host_arch()
    if isinstance(archive, DockerArchive) and (archive.os, archive.architecture) != ("linux", arch):
        raise BoxError(
            f"The box {wanted.name} is for another system",
            details=f"it is for {archive.os!r} on {archive.architecture!r}, not linux on {arch}",
            resolution="Get the one for this architecture.",
        )


def _check_signature(
    supply: Supply, wanted: Wanted, path: Path, view: PhaseView, deadline: Deadline
) -> None:
    assert wanted.signature is not None  # noqa: S101 - the caller looked
    assert wanted.keyring is not None  # noqa: S101
    view.update("signature")
    given = wanted.signature
    having: contextlib.AbstractContextManager[Path] = (
        contextlib.nullcontext(given)
        if isinstance(given, Path)
        else _downloaded(supply, download.Source(given), view, deadline)
    )
    with having as signature:
        who = signatures.check(
            path, signature, wanted.keyring, runner=supply.runner, timeout=deadline.left()
        )
    supply.console.note(f"{wanted.origin} is signed by {who}")


def sha256_of(path: Path, progress: Callable[[int], None]) -> str:
    """Return the SHA-256 of a file.

    Args:
        path: the file.
        progress: told the percent.

    Raises:
        BoxError: it cannot be read.
    """
    try:
        size = max(path.stat().st_size, 1)
        return sum_of(path, lambda done: progress(min(100 * done // size, 100))).hexdigest()
    except OSError as error:
        raise BoxError(f"{path} cannot be read", details=str(error)) from error
