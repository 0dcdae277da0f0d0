"""Fetch a result, verify it, publish it in one step."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from vagrant_kiwi import state
from vagrant_kiwi.errors import ResultError
from vagrant_kiwi.guests import ConnectionLostError, Guest, TransferError
from vagrant_kiwi.plan import HostPaths
from vagrant_kiwi.process import OnOutput, Runner

#: What KIWI leaves beside the result: the image's unpacked root, and a pickle, which would run code
#: when it is loaded.
_NOT_FETCHED = ("/build/", "/kiwi.result")

MANIFEST = "manifest.json"
#: The one file with all others, under the name that Dice gave it.
ARCHIVE = "build_results.tar"

_LIST = """
cd "$1" || exit 1
rm -rf ./build ./kiwi.result
find . -type f -exec sha256sum --zero {} +
printf 'total %s\\0' "$(du --block-size=1 --summarize . | cut -f1)"
"""


@dataclass(frozen=True)
class Artifact:
    """One file of a result; ``path`` is relative to the result's folder, ``size`` in bytes."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Listing:
    """What the guest has: checksums by relative path, and the room it takes in bytes,
    holes in sparse files left out, as they are when it is fetched."""

    sha256: Mapping[str, str]
    size: int


def list_in_guest(guest: Guest, folder: str, *, timeout: float) -> Listing:
    """Have the guest compute the checksums of its result.

    Args:
        guest: the guest.
        folder: the result's folder there.
        timeout: seconds.

    Raises:
        ResultError: there is no result, or the guest does not answer.
        CommandTimeoutError: it did not finish in time.
    """
    try:
        answer = guest.exec(["sh", "-c", _LIST, "sh", folder], timeout=timeout, root=True)
    except ConnectionLostError as error:
        raise ResultError("The guest could not list its result", details=str(error)) from error
    if not answer.ok:
        raise ResultError("The guest could not list its result", details=answer.tail(5))
    sha256: dict[str, str] = {}
    size = 0
    for entry in answer.output.split(b"\0"):
        text = os.fsdecode(entry).lstrip("\n")
        if text.startswith("total "):
            size = int(text.removeprefix("total "))
        elif text:
            digest, _, name = text.partition("  ")
            sha256[name.removeprefix("./")] = digest
    if not sha256:
        raise ResultError(
            "KIWI left no result",
            details=f"{folder} in the guest is empty",
            resolution="Look at the log: does the description define an image type?",
        )
    return Listing(sha256, size)


def fetch(
    guest: Guest,
    folder: str,
    listing: Listing,
    paths: HostPaths,
    *,
    copies: int,
    timeout: float,
    on_output: OnOutput,
) -> tuple[Artifact, ...]:
    """Bring a result into the staging folder and compare it with what the guest has.

    Args:
        guest: the guest.
        folder: the result's folder there.
        listing: what ``list_in_guest`` returned.
        paths: the run's paths; the staging folder is made, on the file system of the results.
        copies: how often all of it will be there.
        timeout: seconds.
        on_output: sees the progress.

    Returns:
        The verified files, sorted by path.

    Raises:
        ResultError: no room, a broken transfer, or a file that differs.
        CommandTimeoutError: it did not finish in time.
    """
    state.make_folder(paths.results)
    free = shutil.disk_usage(paths.results).free
    if free < listing.size * copies:
        raise ResultError(
            f"No room for the result in {paths.results}",
            details=f"it takes {listing.size * copies} bytes, {free} are free",
            resolution="Make room, or choose another target_dir. The last result is untouched.",
        )
    try:
        paths.staging.mkdir()
        guest.pull(
            folder, paths.staging, timeout=timeout, exclude=_NOT_FETCHED, on_output=on_output
        )
    except TransferError as error:
        raise ResultError(
            f"The result could not be fetched to {paths.results}",
            details=error.details,
            resolution="The last result is untouched; build again.",
        ) from error
    except OSError as error:
        raise ResultError(
            f"Cannot write below {paths.results}",
            details=str(error),
            resolution="Choose another target_dir. The last result is untouched.",
        ) from error
    return _verify(paths.staging, listing)


def _verify(staging: Path, listing: Listing) -> tuple[Artifact, ...]:
    artifacts = tuple(
        Artifact(
            path=str(path.relative_to(staging)),
            size=path.stat().st_size,
            sha256=_sha256(path),
        )
        for path in sorted(staging.rglob("*"))
        if path.is_file() and not path.is_symlink()
    )
    fetched = {artifact.path: artifact.sha256 for artifact in artifacts}
    wrong = sorted(
        name
        for name in fetched.keys() | listing.sha256.keys()
        if fetched.get(name) != listing.sha256.get(name)
    )
    if wrong:
        raise ResultError(
            "The fetched result differs from what the guest made",
            details="\n".join(wrong),
            resolution="Build again; the last result is untouched.",
        )
    return artifacts


def pack(staging: Path, runner: Runner, *, timeout: float) -> Artifact:
    """Put all of a fetched result into one archive beside it, holes in sparse files left out.

    Args:
        staging: the folder with the verified files.
        runner: starts tar.
        timeout: seconds.

    Returns:
        The archive.

    Raises:
        ResultError: it cannot be written.
        CommandTimeoutError: it did not finish in time.
    """
    path = staging / ARCHIVE
    if path.exists():
        raise ResultError(
            f"The result has a {ARCHIVE} of its own",
            resolution="Build it with result_format: files. The last result is untouched.",
        )
    done = runner.run(
        [
            *("tar", "--create", f"--file={path}", "--sparse", "--sort=name"),
            *("--owner=0", "--group=0", "--numeric-owner", f"--exclude=./{ARCHIVE}"),
            *(f"--directory={staging}", "."),
        ],
        timeout=timeout,
    )
    if not done.ok:
        raise ResultError(
            f"{ARCHIVE} cannot be made",
            details=done.tail(3),
            resolution="Make room, or choose another target_dir. The last result is untouched.",
        )
    return Artifact(ARCHIVE, path.stat().st_size, _sha256(path))


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def publish(paths: HostPaths, artifacts: tuple[Artifact, ...], about: Mapping[str, object]) -> Path:
    """Turn the staging folder into the newest result.

    Args:
        paths: the run's paths.
        artifacts: the verified files.
        about: what else the manifest says.

    Returns:
        The result's folder.

    Raises:
        ResultError: the file system refuses; the last result is still the newest then.
    """
    manifest = {**about, "artifacts": [asdict(artifact) for artifact in artifacts]}
    try:
        # The manifest comes last: a folder that has one is whole.
        state.write_json(paths.staging / MANIFEST, manifest)
        paths.staging.rename(paths.result)
        state.replace_symlink(paths.current, paths.result.name)
    except OSError as error:
        raise ResultError(
            f"The result could not be published in {paths.results}",
            details=str(error),
            resolution="The last result is untouched.",
        ) from error
    return paths.result


def read_manifest(folder: Path) -> Mapping[str, object]:
    """Return the manifest of a published result."""
    loaded = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)  # noqa: S101 - publish() wrote it
    return loaded
