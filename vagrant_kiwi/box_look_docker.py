"""Looks into a docker box: all layers of its image, as the daemon saves them.

Nothing of the image is started, and no container made: a box is looked into because it may not be
trusted. A container would show the image as it is, too, but not what its lower layers hold.
"""

from __future__ import annotations

import contextlib
import io
import json
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import IO, TYPE_CHECKING, Any

import docker
import docker.errors

from vagrant_kiwi import box_look, docker_api, tar_scan
from vagrant_kiwi.box_look import Entry, Kind
from vagrant_kiwi.box_verify import Look
from vagrant_kiwi.deadline import Deadline
from vagrant_kiwi.errors import BoxError
from vagrant_kiwi.tar_scan import Member
from vagrant_kiwi.unpacked import CHUNK, ArchiveError, Budget, unpacked

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

#: Seconds until a daemon must have taken the connection.
_CONNECT = 10.0
#: Seconds without a byte. The daemon writes all layers to its disk before it sends the first one.
_STALL = 600.0

#: Bytes; of files up to this size it is known whether they hold keys, whatever their names.
_KEYS_LIMIT = 2**16

#: As many entries all layers may have; ours has 13 000.
_ENTRIES = 5_000_000
#: Members of the archive itself: there are up to 127 layers, each with up to four.
_MEMBERS = 20_000
#: Bytes of the headers of one member, in the archive or in a layer.
_HEADERS = 2**20

# Of the image specification, layer.md, "Whiteouts".
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"


@dataclass(frozen=True)
class _Saved(Entry):
    """An entry of a layer; ``content`` is kept where it may be asked for."""

    target: str | None = None
    content: bytes | None = None


@dataclass(frozen=True)
class _Layer:
    """A layer: its entries by absolute path, and what it takes away from those below.

    ``gone`` are the paths that it removes, ``emptied`` the folders of which it hides all that
    lower layers have in them, ``damage`` says why it could not be read to its end.
    """

    entries: dict[str, _Saved] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    emptied: set[str] = field(default_factory=set)
    damage: str = ""


@dataclass(frozen=True)
class _Merged:
    """The files of the image as it is."""

    saved: Mapping[str, _Saved]

    @property
    def entries(self) -> Mapping[str, Entry]:
        return self.saved

    def target(self, path: str) -> str | None:
        return self.saved[path].target

    def content(self, path: str) -> bytes | None:
        return self.saved[path].content


def look_docker(
    client: docker.DockerClient,
    image: str,
    *,
    deadline: Deadline,
    log: Callable[[str], None],
) -> Look:
    """Look into an image.

    Args:
        client: the daemon that has it.
        image: its name or id.
        deadline: when it must be done.
        log: told what happens.

    Returns:
        What is in the image, and the host keys that are in any of its layers.

    Raises:
        BoxError: there is no such image, or the daemon does not save it.
        PreflightError: the daemon does not answer.
        PhaseTimeoutError: it takes too long.
    """
    api = client.api
    try:
        identifier = str(client.images.get(image).id)
        log(f"waiting for Docker to save {image}")
        # docker-py's own save does not close the connection, which tells the daemon to stop.
        response = api.get(
            f"{api.base_url}/v{api.api_version}/images/{identifier}/get",
            stream=True,
            timeout=(_CONNECT, min(_STALL, deadline.left())),
        )
        with contextlib.closing(response):
            if response.status_code >= 400:
                raise BoxError(f"Docker does not save the image {image}", details=response.text)
            chunks = _timely(response.iter_content(chunk_size=CHUNK), deadline)
            return look_archive(chunks, log=log)
    except docker.errors.ImageNotFound as error:
        raise BoxError(f"There is no image {image}", details=str(error)) from error
    except docker.errors.APIError as error:
        raise BoxError(
            f"Docker reports an error about the image {image}", details=str(error)
        ) from error
    except docker_api.FAILURES as error:
        deadline.left()
        raise docker_api.unreachable(error) from error


def _timely(chunks: Iterable[bytes], deadline: Deadline) -> Iterator[bytes]:
    for chunk in chunks:
        deadline.left()
        yield chunk


def look_archive(chunks: Iterable[bytes], *, log: Callable[[str], None]) -> Look:
    """Look into an image as ``docker save`` writes it, in one pass.

    Args:
        chunks: the archive, of the old layout (a folder with layer.tar for each layer) or the newer
            one (blobs of the OCI); both have a manifest.json.
        log: told what happens.

    Raises:
        BoxError: it is no such archive, or a damaged one.
    """
    stream = io.BufferedReader(_Chunks(chunks), CHUNK)
    budget = Budget()
    layers: dict[str, _Layer] = {}
    links: dict[str, str] = {}
    manifest = b""
    try:
        # Which member is a layer, and of which place, is said by the manifest, which comes last.
        for member in tar_scan.members(stream, budget, most=_MEMBERS, headers=_HEADERS):
            name = member.name
            if member.kind == "symlink":
                # Layers that are the same are saved once.
                target = posixpath.join(posixpath.dirname(name), member.target)
                links[name] = posixpath.normpath(target)
            elif member.kind == "hard link":
                links[name] = member.target
            elif member.kind == "file" and name == "manifest.json":
                manifest = member.content.read(box_look.READ_LIMIT)
            elif member.kind == "file":
                entries = sum(len(layer.entries) for layer in layers.values())
                layers[name] = _layer(member.content, budget, _ENTRIES - entries)
                if layers[name].entries:
                    log(f"looked into a layer of {member.size // 10**6} MB")
    except ArchiveError as error:
        raise BoxError("The image that Docker saved cannot be read", details=str(error)) from error
    order = [links.get(name, name) for name in _layer_names(manifest)]
    return _look([layers.get(name, _Layer(damage="it is not there")) for name in order])


def _layer_names(manifest: bytes) -> list[str]:
    """Return the names of an image's layers, lowest first."""
    try:
        (image,) = json.loads(manifest)
        names: list[Any] = image["Layers"] or []
        return [posixpath.normpath(str(name)) for name in names]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BoxError(
            "The image that Docker saved cannot be read",
            details="its manifest.json does not say which layers one image has",
        ) from error


def _look(layers: Sequence[_Layer]) -> Look:
    files: dict[str, _Saved] = {}
    for layer in layers:
        files = _on_top(files, layer)
    look = box_look.look_into(_Merged(files))
    keys = {
        path
        for layer in layers
        for path, entry in layer.entries.items()
        if box_look.is_host_key(path, entry)
    }
    damaged = (
        f"layer {number}: {layer.damage}"
        for number, layer in enumerate(layers, start=1)
        if layer.damage
    )
    return replace(
        look,
        buried_host_keys=tuple(sorted(keys.difference(look.host_keys))),
        # A container has its random numbers from the host's kernel.
        random_seed=False,
        unread=(*damaged, *look.unread),
    )


def _on_top(lower: dict[str, _Saved], layer: _Layer) -> dict[str, _Saved]:
    """Return the files of the layers below with one more layer on top."""
    replaced = {
        path
        for path, entry in layer.entries.items()
        if entry.kind is not Kind.FOLDER and path in lower and lower[path].kind is Kind.FOLDER
    }
    hidden_below = layer.gone | layer.emptied | replaced
    if hidden_below:
        lower = {
            path: entry
            for path, entry in lower.items()
            if path not in layer.gone and hidden_below.isdisjoint(_folders(path))
        }
    return {**lower, **layer.entries}


def _folders(path: str) -> Iterator[str]:
    """Yield all folders that a path is in, "" for the root last."""
    while path:
        path = path.rpartition("/")[0]
        yield path


# --- One layer ---------------------------------------------------------------------------------


def _layer(content: IO[bytes], budget: Budget, most: int) -> _Layer:
    """Read a member of the archive as a layer; one that is none has damage."""
    layer = _Layer()
    try:
        with unpacked(content, budget) as stream:
            for member in tar_scan.members(stream, budget, most=most, headers=_HEADERS):
                if member.name != ".":
                    _note(layer, member)
    except ArchiveError as error:
        return replace(layer, damage=str(error))
    return replace(layer, damage=_complete(layer.entries))


def _note(layer: _Layer, member: Member) -> None:
    path = f"/{member.name}"
    folder, _, name = path.rpartition("/")
    if name == _OPAQUE:
        layer.emptied.add(folder)
    elif name.startswith(_WHITEOUT):
        layer.gone.add(f"{folder}/{name.removeprefix(_WHITEOUT)}")
    elif member.kind == "hard link":
        layer.entries[path] = layer.entries.get(f"/{member.target}", _Saved(Kind.OTHER))
    else:
        layer.entries[path] = _saved(path, member)


def _complete(entries: dict[str, _Saved]) -> str:
    """Add the folders that a layer has files in and does not name; return what is wrong with it."""
    for path in list(entries):
        for folder in _folders(path):
            known = entries.get(folder)
            if known is None and folder:
                entries[folder] = _Saved(Kind.FOLDER)
            elif known is not None and known.kind is not Kind.FOLDER:
                # Where the file went is up to the tool that unpacked it.
                return f"{path} lies behind what is no folder"
            else:
                break
    return ""


def _saved(path: str, member: Member) -> _Saved:
    if member.kind == "folder":
        return _Saved(Kind.FOLDER)
    if member.kind == "symlink":
        return _Saved(Kind.LINK, len(member.target), target=member.target)
    if member.kind != "file":
        return _Saved(Kind.OTHER)
    content = None
    wanted = box_look.is_wanted(path) and member.size <= box_look.READ_LIMIT
    if wanted or member.size <= _KEYS_LIMIT:
        read = member.content.read()
        content = read if wanted or box_look.holds_keys(read) else None
    return _Saved(Kind.FILE, member.size, content=content)


class _Chunks(io.RawIOBase):
    """Chunks of any size as one stream."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._left = iter(chunks)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        while not self._rest:
            chunk = next(self._left, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        size = min(len(view), len(self._rest))
        view[:size], self._rest = self._rest[:size], self._rest[size:]
        return size
