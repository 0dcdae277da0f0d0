"""Fakes for the tests of build boxes; they start nothing and open nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import docker
import docker.auth
import docker.errors

from vagrant_kiwi import box_build
from vagrant_kiwi.box_rootfs import Mirrors
from vagrant_kiwi.deadline import Deadline
from vagrant_kiwi.process import (
    CommandResult,
    Runner,
)

NAME = "test-box"
IMAGE = "sha256:" + "1" * 64
BASE = "sha256:" + "2" * 64
PUBLIC = Mirrors("http://mirror.example.org/debian", "http://mirror.example.org/security")
SECRET = Mirrors("https://joe:p%40ss@mirror.example.org/debian", None)

BOX_TOML = """\
version = "7"
distribution = "debian"
suite = "bookworm"
base = "debian:bookworm-slim"
python = "3.11"
glibc = "2.20"
mirror = "http://official.example.org/debian"
security_mirror = "http://official.example.org/security"
keyring = "{keyring}"
source_packages = ["kiwi"]
build_packages = ["poetry-core"]
"""
LOCK = """\
# a comment
kiwi==11.1.6 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
lxml==6.1.3 --hash=sha256:cc
Poetry-Core==2.5.0 \\
    --hash=sha256:dd
"""


def make_folder(tmp_path: Path) -> Path:
    """Make a recipe's folder, in a folder ``boxes``."""
    made = tmp_path / "boxes" / NAME
    made.mkdir(parents=True)
    keyring = tmp_path / "keyring.gpg"
    keyring.write_bytes(b"")
    (made / "box.toml").write_text(BOX_TOML.format(keyring=keyring))
    (made / "Dockerfile").write_text("FROM scratch\n")
    (made / "packages.txt").write_text("# a list\nsudo\n\nrsync  # why\n")
    (made / "kiwi.lock").write_text(LOCK)
    (made / "variant").mkdir()
    (made / "variant" / "Dockerfile").write_text("RUN more\n")
    return made


@dataclass(frozen=True)
class Scripted(Runner):
    """A runner that answers each command by a function; it starts nothing."""

    answer: Callable[[Sequence[str], Mapping[str, Any]], CommandResult | Exception] | None = None
    ran: list[tuple[str, ...]] = field(default_factory=list)

    def run(self, argv: Sequence[str], **options: Any) -> CommandResult:
        assert options["timeout"] > 0
        assert self.answer is not None, f"unscripted: {argv}"
        self.ran.append(tuple(argv))
        answer = self.answer(argv, options)
        if isinstance(answer, Exception):
            raise answer
        if options.get("on_output") is not None:
            options["on_output"](answer.output)
        return answer


def said(text: str, status: int = 0) -> CommandResult:
    return CommandResult((), status, text.encode())


def soon(seconds: float = 60) -> Deadline:
    return Deadline.after(seconds, what="Making the box")


def option(argv: Sequence[str], name: str) -> str:
    return argv[argv.index(name) + 1]


def pip(argv: Sequence[str], options: Mapping[str, Any]) -> CommandResult:
    """Do what pip would: one wheel a requirement."""
    for line in Path(option(argv, "-r")).read_text().splitlines():
        package = line.partition("==")[0]
        if argv[3] in ("download", "wheel"):
            target = option(argv, "--dest" if argv[3] == "download" else "--wheel-dir")
            (Path(target) / f"{package}-1-py3-none-any.whl").write_bytes(b"wheel")
    assert "--require-hashes" in argv
    assert "--no-deps" in argv
    return said("")


@dataclass
class VariantPip:
    """Does what pip would for a box with KIWI 11.0.5, which needs lxml and docopt-ng.

    ``known`` is what the index has, ``unfit`` which constraints it cannot meet, one complaint each.
    """

    known: str = "9.9.9, 11.0.4, 11.0.5, 11.1.6"
    unfit: list[str] = field(default_factory=list)
    constraints: list[str] = field(default_factory=list)

    def __call__(self, argv: Sequence[str], options: Mapping[str, Any]) -> CommandResult:
        given = Path(option(argv, "-r")).read_text().strip()
        if "--no-binary=kiwi" in argv:
            assert "--no-deps" in argv
            assert "--no-build-isolation" in argv
            if given.partition("==")[2] not in self.known.split(", "):
                return said(
                    "ERROR: Could not find a version that satisfies the requirement "
                    f"{given} (from versions: {self.known})\n"
                    f"ERROR: No matching distribution found for {given}\n",
                    1,
                )
            target = Path(option(argv, "--dest"))
            target.mkdir()
            (target / f"kiwi-{given.partition('==')[2]}.tar.gz").write_bytes(b"source")
            return said("")
        limit = next((word for word in argv if word.startswith("--constraint=")), None)
        if limit is None:
            return pip(argv, options)
        assert given.startswith("kiwi[markup] @ file:///")
        lines = Path(limit.partition("=")[2]).read_text().split()
        for package in self.unfit:
            if any(line.startswith(f"{package}==") for line in lines):
                complaint = f"The user requested (constraint) {package}==6.1.3"
                return said(f"The conflict is caused by:\n    {complaint}\n", 1)
        self.constraints = lines
        target = Path(option(argv, "--dest"))
        target.mkdir()
        (target / "kiwi-11.0.5.tar.gz").write_bytes(b"source")
        lxml = "6.1.3" if "lxml==6.1.3" in lines else "5.0"
        (target / f"lxml-{lxml}-cp311-cp311-manylinux_2_17_x86_64.whl").write_bytes(b"lxml")
        (target / "docopt_ng-0.9.0-py3-none-any.whl").write_bytes(b"docopt")
        return said("")


class FakeResponse:
    """What requests gives for a streamed answer."""

    def __init__(self, chunks: Sequence[bytes | Exception], status: int = 200) -> None:
        self.status_code = status
        self.chunks = chunks
        self.closed = False

    @property
    def content(self) -> bytes:
        return b"".join(chunk for chunk in self.chunks if isinstance(chunk, bytes))

    def iter_content(self, chunk_size: None) -> Iterator[bytes]:
        for chunk in self.chunks:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk

    def close(self) -> None:
        self.closed = True


class FakeImage:
    def __init__(self, tags: list[str], labels: Mapping[str, str], id: str = IMAGE) -> None:
        self.tags = tags
        self.labels = dict(labels)
        self.id = id
        self.attrs = {"Size": 4321}


class FakeContainer:
    def __init__(self, image: FakeImage) -> None:
        self.image = image
        self.removed = False

    def remove(self, *, force: bool, v: bool) -> None:
        assert force
        assert v
        self.removed = True


class FakeDocker:
    """A daemon with images and containers; its streams are scripted by path."""

    def __init__(self, **streams: FakeResponse | Exception) -> None:
        self.streams = streams
        self.posts: list[tuple[str, dict[str, Any], bytes]] = []
        self.headers: list[dict[str, str]] = []
        self.held: list[FakeImage] = []
        self.running: list[FakeContainer] = []
        self.pruned: list[dict[str, Any]] = []
        self.down: Exception | None = None
        self.build_label = ""
        self.api = self.images = self.containers = self
        self.base_url = "http+docker://localhost"
        self.api_version = "1.41"
        # docker.auth looks here for logins; from an empty one it would go and read a file.
        self._auth_configs = docker.auth.AuthConfig({"auths": {"registry.example.org": {}}})
        self.credstore_env = None

    def as_client(self) -> docker.DockerClient:
        return cast(docker.DockerClient, self)

    # api
    def post(self, url: str, **options: Any) -> FakeResponse:
        assert options["stream"] is True
        assert options["timeout"][0] > 0
        assert options["timeout"][1] > 0
        path = url.removeprefix("http+docker://localhost/v1.41/")
        params = dict(options["params"])
        body = b"".join(options["data"] or ())
        self.posts.append((path, params, body))
        self.headers.append(dict(options["headers"] or {}))
        name = "push" if path.endswith("/push") else "build" if path == "build" else "load"
        name = "pull" if "fromImage" in params else name
        answer = self.streams[name]
        if isinstance(answer, Exception):
            raise answer
        if name == "build":
            labels = json.loads(params["buildargs"])
            self.build_label = labels["BUILD"]
            self.held.append(
                FakeImage(
                    [],
                    {
                        box_build.LABEL_RECIPE: labels["RECIPE"],
                        box_build.LABEL_BUILD: labels["BUILD"],
                    },
                )
            )
        return answer

    def tag(self, image: str, repository: str, tag: str) -> None:
        (found,) = [held for held in self.held if held.id == image and not held.tags]
        found.tags.append(f"{repository}:{tag}")

    # images
    def get(self, name: str) -> FakeImage:
        if self.down is not None:
            raise self.down
        for image in self.held:
            if name in image.tags:
                return image
        raise docker.errors.ImageNotFound("no such image")

    def prune(self, filters: dict[str, Any]) -> None:
        self.pruned.append(filters)
        label = filters["label"].partition("=")[2]
        self.held = [
            image
            for image in self.held
            if image.tags or image.labels.get(box_build.LABEL_BUILD) != label
        ]

    def list(
        self,
        *,
        name: str | None = None,
        all: bool = False,
        filters: Mapping[str, str] | None = None,
        ignore_removed: bool | None = None,
    ) -> Any:
        if ignore_removed is not None:
            if "ancestor" in (filters or {}):
                wanted = (filters or {})["ancestor"]
                return [each for each in self.running if each.image.id == wanted]
            return [each for each in self.running if not each.removed]
        if name is not None:
            # As Podman 4.3.1 does, which puts a registry before the names.
            names = {name, f"localhost/{name}", f"docker.io/{name}"}
            return [
                image
                for image in self.held
                if any(tag.rpartition(":")[0] in names for tag in image.tags)
            ]
        label = (filters or {})["label"].partition("=")[2]
        return [each for each in self.held if each.labels.get(box_build.LABEL_BUILD) == label]

    def remove(self, tag: str) -> None:
        for image in self.held:
            if tag in image.tags:
                image.tags.remove(tag)
        self.held = [image for image in self.held if image.tags]


def stream(*events: Mapping[str, object], status: int = 200) -> FakeResponse:
    return FakeResponse([json.dumps(event).encode() + b"\r\n" for event in events], status)


BUILT = {"aux": {"ID": IMAGE}}
