"""What the Docker daemon gets of an archive that ``box_archive.inspect`` has found to be good."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

from vagrant_kiwi import tar_scan
from vagrant_kiwi.box_archive_docker import MANIFEST, DockerArchive
from vagrant_kiwi.errors import BoxError
from vagrant_kiwi.unpacked import CHUNK, ArchiveError, Budget, unpacked

#: More than any archive can have here: they were counted when it was looked at.
_ANY = 1 << 62


def load_stream(file: Path, archive: DockerArchive) -> Iterator[bytes]:
    """Yield an archive for ``docker load``, by which the image gets no name.

    An archive that somebody sends would else take a name from an image that the user has. Names
    are in the manifest, in ``repositories`` and in the annotations of ``index.json``; Docker needs
    the first of them only. So there is a manifest, written anew, with configuration and layers.

    Args:
        file: the archive.
        archive: what ``box_archive.inspect`` found in it.

    Raises:
        BoxError: it cannot be read, or is not what it was then.
    """
    wanted = {archive.config, *archive.layers}
    manifest = [{"Config": archive.config, "RepoTags": None, "Layers": archive.layers}]
    text = json.dumps(manifest).encode()
    yield _header(MANIFEST, len(text))
    yield text + _padding(len(text))
    budget = Budget(archive.unpacked, "as it had when it was looked at")
    try:
        with file.open("rb") as source, unpacked(source, budget) as stream:
            for member in tar_scan.members(stream, budget, most=_ANY):
                if member.kind == "file" and member.name in wanted:
                    wanted.remove(member.name)
                    yield _header(member.name, member.size)
                    while chunk := member.content.read(CHUNK):
                        yield chunk
                    yield _padding(member.size)
    except ArchiveError as error:
        raise _changed(file, str(error)) from error
    except OSError as error:
        raise BoxError(f"The archive {file.name} cannot be read", details=str(error)) from error
    if wanted:
        raise _changed(file, f"not there: {', '.join(sorted(wanted))}")
    yield bytes(2 * tarfile.BLOCKSIZE)


def _changed(file: Path, details: str) -> BoxError:
    return BoxError(f"The archive {file.name} changed while it was read", details=details)


def _header(name: str, size: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size = size
    return entry.tobuf(tarfile.GNU_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % tarfile.BLOCKSIZE)


def import_stream(file: Path) -> Iterator[bytes]:
    """Yield a root file system without its compression, for ``docker import``.

    Args:
        file: the archive, which ``inspect`` has found to be one.

    Raises:
        BoxError: it cannot be read, or is damaged.
    """
    try:
        with file.open("rb") as source, unpacked(source, Budget()) as stream:
            while chunk := stream.read(CHUNK):
                yield chunk
    except ArchiveError as error:
        raise BoxError(f"The archive {file.name} is refused: {error}") from error
    except OSError as error:
        raise BoxError(f"The archive {file.name} cannot be read", details=str(error)) from error
