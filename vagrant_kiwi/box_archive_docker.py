"""What ``docker save`` writes, checked member by member."""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from dataclasses import dataclass
from typing import IO, cast

from vagrant_kiwi import tar_rules, tar_scan
from vagrant_kiwi.tar_scan import Member
from vagrant_kiwi.unpacked import ArchiveError, Budget, unpacked

MANIFEST = "manifest.json"
#: Files of such an archive: an image has up to 127 layers, each with three.
_FILES = 10_000
#: Members of one layer.
_LAYER_MEMBERS = 2_000_000
#: Bytes of one JSON file, and of all that are kept until the manifest says which one counts.
_JSON, _JSON_KEPT = 4 * 1024 * 1024, 16 * 1024 * 1024

# Where Docker, Podman, skopeo, crane and BuildKit put layers and the image's configuration.
_PLACES = re.compile(r"[^/]+|blobs/sha256/[0-9a-f]{64}|[^/]+/layer\.tar")
_CONFIG = re.compile(r"(?:blobs/sha256/|sha256:)?([0-9a-f]{64})(?:\.json)?")


@dataclass(frozen=True)
class DockerArchive:
    """One image as ``docker save`` writes it.

    ``config`` and ``layers`` are names of members, links followed. ``image_id`` is the id that the
    image has in Docker's own store (in containerd's, Docker has ids of another kind). ``tags`` are
    the names that it would have taken, ``architecture`` and ``os`` are in Docker's words;
    ``unpacked`` is bytes: the archive without compression, and its layers.
    """

    config: str
    image_id: str
    layers: tuple[str, ...]
    tags: tuple[str, ...]
    architecture: str
    os: str
    unpacked: int


@dataclass(frozen=True)
class _Layer:
    """What was found where a layer may be; ``problem`` is why it is none."""

    diff_id: str = ""
    size: int = 0
    problem: str = ""


class DockerJudge:
    """Looks at the members of an archive that may be one of Docker's.

    Whether it is, the manifest tells, which may come last; so what is wrong with a member is kept
    until then, and so is what may be a layer.

    Args:
        budget: what the layers unpack to.
    """

    def __init__(self, budget: Budget) -> None:
        #: Why a manifest that is there is not Docker's.
        self.remark = ""
        self._budget = budget
        self._problem = ""
        self._names: set[str] = set()
        self._links: dict[str, str] = {}
        self._configs: dict[str, bytes] = {}
        self._keep = _JSON_KEPT
        self._layers: dict[str, _Layer] = {}
        self._manifest: list[dict[str, object]] | None = None

    @property
    def found(self) -> bool:
        """Whether there was a manifest of Docker's."""
        return self._manifest is not None

    def see(self, member: Member) -> None:
        """Look at the next member."""
        if member.kind == "folder":
            return
        try:
            self._note(member)
        except ArchiveError as error:
            self._problem = self._problem or str(error)

    def _note(self, member: Member) -> None:
        name = member.name
        if name == MANIFEST and member.kind == "file" and self._manifest is None:
            # A root file system may have a file of that name.
            try:
                self._manifest = _manifest(member)
            except ArchiveError as error:
                self.remark = f"; {error}"
        if self._problem:
            return
        tar_rules.check_another(name, self._names, most=_FILES)
        self._names.add(name)
        if member.kind == "symlink":
            # An absolute target leads out of it, and join() would keep it as it is.
            target = posixpath.join(posixpath.dirname(name), member.target)
            self._links[name] = tar_scan.inside(target)
        elif member.kind == "hard link":
            self._links[name] = member.target
        elif member.kind != "file":
            raise ArchiveError(f"{name!r} is a {member.kind}")
        elif name != MANIFEST and _PLACES.fullmatch(name):
            self._look(member)

    def _look(self, member: Member) -> None:
        """Keep what may be the configuration, or check what may be a layer."""
        if not member.head.startswith(b"{"):
            self._layers[member.name] = self._layer(member.content)
        elif _CONFIG.fullmatch(member.name) and member.size <= min(_JSON, self._keep):
            self._keep -= member.size
            self._configs[member.name] = member.content.read()

    def _layer(self, content: IO[bytes]) -> _Layer:
        digest = hashlib.sha256()
        before = self._budget.spent
        try:
            with unpacked(content, self._budget, see=digest.update) as stream:
                for member in tar_scan.members(stream, self._budget, most=_LAYER_MEMBERS):
                    tar_rules.check_in_root(member)
        except ArchiveError as error:
            return _Layer(problem=str(error))
        return _Layer(f"sha256:{digest.hexdigest()}", self._budget.spent - before)

    def result(self, size: int) -> DockerArchive:
        """Return what it is; only after ``found``.

        Args:
            size: bytes of the archive without compression.

        Raises:
            ArchiveError: Docker should not get it.
        """
        if self._problem:
            raise ArchiveError(self._problem)
        entry = self._only()
        config, image_id, facts = self._config(entry["Config"])
        diff_ids = _diff_ids(facts)
        named = entry.get("Layers")
        if not isinstance(named, list) or len(named) != len(diff_ids):
            raise ArchiveError(f"{MANIFEST} and the configuration name different numbers of layers")
        layers = [self._resolved(name, "layer") for name in named]
        for layer, diff_id in zip(layers, diff_ids, strict=True):
            self._check(layer, diff_id)
        return DockerArchive(
            config=config,
            image_id=image_id,
            layers=tuple(layers),
            tags=_tags(entry),
            architecture=str(facts.get("architecture", "")),
            os=str(facts.get("os", "")),
            unpacked=size + sum(self._layers[layer].size for layer in layers),
        )

    def _only(self) -> dict[str, object]:
        entries = self._manifest or []
        if len(entries) == 1:
            return entries[0]
        names = [" ".join(_tags(entry)) or str(entry["Config"]) for entry in entries]
        raise ArchiveError(
            f"it holds {len(entries)} images, not one: {', '.join(map(repr, names[:20]))}",
            resolution="Save only the one that is the box: docker save IMAGE",
        )

    def _config(self, named: object) -> tuple[str, str, dict[str, object]]:
        name = self._resolved(named, "configuration")
        match = _CONFIG.fullmatch(name)
        if match is None:
            raise ArchiveError(f"its configuration {name!r} does not have its SHA-256 as its name")
        data = self._configs.get(name)
        if data is None:
            raise ArchiveError(f"its configuration {name!r} is no JSON object of a usual size")
        digest = hashlib.sha256(data).hexdigest()
        if digest != match[1]:
            raise ArchiveError(
                f"its configuration {name!r} is another one: its SHA-256 is {digest}"
            )
        # What begins with a brace is an object, or no JSON.
        facts = cast(dict[str, object], parse(data, name))
        return name, f"sha256:{digest}", facts

    def _resolved(self, named: object, what: str) -> str:
        """Return the member that a name of the manifest leads to."""
        if not isinstance(named, str):
            raise ArchiveError(f"{MANIFEST} names a {what} that is no text")
        name = tar_scan.inside(named)
        # A chain of links that is longer goes round in circles.
        for _ in range(len(self._links)):
            name = self._links.get(name, name)
        if name in self._links or name not in self._names:
            raise ArchiveError(f"{MANIFEST} names the {what} {named!r}, which is not there")
        return name

    def _check(self, name: str, diff_id: str) -> None:
        layer = self._layers.get(name, _Layer(problem="it is not where layers are"))
        if layer.problem:
            raise ArchiveError(f"in its layer {name!r}: {layer.problem}")
        if layer.diff_id != diff_id:
            raise ArchiveError(
                f"its layer {name!r} is another than its configuration says: "
                f"{layer.diff_id}, not {diff_id!r}"
            )


def read_json(member: Member) -> object:
    """Return what a member of an archive says in JSON.

    Raises:
        ArchiveError: it is too large, or no JSON.
    """
    if member.size > _JSON:
        raise ArchiveError(f"{member.name!r} is larger than {_JSON} bytes")
    return parse(member.content.read(), member.name)


def parse(data: bytes, name: str) -> object:
    """Return what the bytes of a member say in JSON.

    Raises:
        ArchiveError: they are no JSON.
    """
    try:
        return json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise ArchiveError(f"{name!r} is no JSON: {error}") from error


def _manifest(member: Member) -> list[dict[str, object]]:
    value = read_json(member)
    if not isinstance(value, list) or not all(isinstance(e, dict) and "Config" in e for e in value):
        raise ArchiveError(f"{MANIFEST!r} is not as Docker writes it")
    return value


def _diff_ids(facts: dict[str, object]) -> list[str]:
    rootfs = facts.get("rootfs")
    found = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise ArchiveError("its configuration does not say which layers it has")
    return found


def _tags(entry: dict[str, object]) -> tuple[str, ...]:
    tags = entry.get("RepoTags")
    return tuple(str(tag) for tag in tags) if isinstance(tags, list) else ()
