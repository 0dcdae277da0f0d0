"""How a build box becomes an image of the Docker daemon.

The base is the official image where it can be pulled, else mmdebstrap makes it; on top of it the
recipe's Dockerfile is built. Only the finished image gets a name, so nobody ever sees a half one,
and all that is made on the way carries this build's label and is removed by it.
"""

from __future__ import annotations

import contextlib
import io
import tarfile
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import docker
import docker.errors

from vagrant_kiwi import docker_api, docker_stream
from vagrant_kiwi.box_recipe import Recipe
from vagrant_kiwi.box_rootfs import Mirrors, remove_scratch, root_file_system
from vagrant_kiwi.box_wheels import ensure_wheels
from vagrant_kiwi.deadline import Deadline
from vagrant_kiwi.errors import BoxError, PhaseTimeoutError
from vagrant_kiwi.process import Runner

LABEL_BOX = "vagrant-kiwi.box"
LABEL_RECIPE = "vagrant-kiwi.recipe"
LABEL_BUILD = "vagrant-kiwi.build"
LABEL_VERSION = "vagrant-kiwi.version"
LABEL_KIWI = "vagrant-kiwi.kiwi"
#: Of boxes that others made: the checksum of what they came as, and where that was.
LABEL_SOURCE = "vagrant-kiwi.source"
LABEL_ORIGIN = "vagrant-kiwi.origin"

#: Seconds for the whole pull of a base, and without a sign of life: mmdebstrap is the other way.
_PULL_LIMIT = 300.0
_PULL_STALL = 20.0
#: Seconds in which the daemon has put away what an interrupted build was doing.
_SWEEP = 30.0


@dataclass(frozen=True)
class BoxInputs:
    """What goes into a box besides its recipe.

    Args:
        mirrors: where packages come from while it is made.
        public_key: the line that lets Vagrant in.
        cache: folder for wheels and what is made on the way.
    """

    mirrors: Mirrors
    public_key: str = field(repr=False)
    cache: Path


@dataclass(frozen=True)
class _Base:
    """The image that the Dockerfile starts from, and the network its steps get."""

    image: str
    network: str


def build_image(
    recipe: Recipe,
    inputs: BoxInputs,
    client: docker.DockerClient,
    runner: Runner,
    *,
    log: Callable[[str], None],
    deadline: Deadline,
) -> None:
    """Make the image of a recipe and give it its name.

    Raises:
        BoxError: it cannot be made.
        PreflightError: a tool is missing on the host.
        PhaseTimeoutError: it takes too long.
    """
    with swept(client, recipe.name, inputs.cache, runner, log) as build:
        wheels = ensure_wheels(recipe, runner, cache=inputs.cache, log=log, deadline=deadline)
        base = _base(recipe, inputs, client, runner, build, log=log, deadline=deadline)
        try:
            with _context(recipe, inputs, wheels) as context:
                image = docker_stream.build(
                    client,
                    context,
                    arguments=_arguments(recipe, inputs, base, build, runner.environment),
                    labels={LABEL_VERSION: recipe.version, LABEL_KIWI: recipe.kiwi or ""},
                    network=base.network,
                    log=log,
                    deadline=deadline,
                )
        except docker_stream.DockerStreamError as error:
            raise BoxError(
                f"The build box {recipe.name} cannot be built",
                details=inputs.mirrors.redact(str(error)),
                resolution="Mend what the lines above name, then run: invoke box-add -v",
            ) from error
        client.api.tag(image, recipe.repository, recipe.tag)


# --- The base ----------------------------------------------------------------------------------


def _base(
    recipe: Recipe,
    inputs: BoxInputs,
    client: docker.DockerClient,
    runner: Runner,
    build: str,
    *,
    log: Callable[[str], None],
    deadline: Deadline,
) -> _Base:
    if inputs.mirrors.public and _pulled(recipe, client, log, deadline):
        return _Base(recipe.facts.base, network="default")
    log("Making the base of the box with mmdebstrap")
    with root_file_system(
        recipe,
        inputs.mirrors,
        runner,
        build=build,
        cache=inputs.cache,
        log=log,
        deadline=deadline,
    ) as path:
        log("Handing it to Docker")
        try:
            with path.open("rb") as tar:
                image = docker_stream.import_tar(
                    client,
                    tar,
                    labels={LABEL_BOX: recipe.name, LABEL_BUILD: build},
                    deadline=deadline,
                )
        except docker_stream.DockerStreamError as error:
            raise BoxError(
                "Docker does not take the base of the build box", details=str(error)
            ) from error
    # All packages are in it already, so nothing in the Dockerfile needs a network.
    return _Base(image, network="none")


def _pulled(
    recipe: Recipe, client: docker.DockerClient, log: Callable[[str], None], deadline: Deadline
) -> bool:
    image = recipe.facts.base
    # The pull may use up its own limit without the whole being late.
    limit = Deadline.after(min(_PULL_LIMIT, deadline.left()), what=f"Pulling {image}")
    log(f"Pulling {image}")
    try:
        docker_stream.pull(
            client, image, arch=recipe.arch, stall=_PULL_STALL, log=log, deadline=limit
        )
    except (docker_stream.DockerStreamError, PhaseTimeoutError) as error:
        reason = str(error).splitlines()[-1]
        log(f"{image} cannot be pulled ({reason})")
        return False
    return True


# --- The Dockerfile ----------------------------------------------------------------------------


def _arguments(
    recipe: Recipe,
    inputs: BoxInputs,
    base: _Base,
    build: str,
    environment: Mapping[str, str],
) -> dict[str, str]:
    facts, mirrors = recipe.facts, inputs.mirrors
    given = {
        "BASE": base.image,
        "BOX": recipe.name,
        "RECIPE": recipe.digest,
        "BUILD": build,
        "SUITE": facts.suite,
        # These end up in the image and its history.
        "MIRROR": mirrors.packages if mirrors.public else facts.mirror,
        "SECURITY_MIRROR": (mirrors.public and mirrors.security) or facts.security_mirror,
    }
    if base.network == "none":
        return given
    return given | _proxies(environment)


def _proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the proxies that a container can use; Docker keeps these out of the history."""
    found = {}
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        for spelling in (name, name.upper()):
            value = environment.get(spelling, "")
            host = urlsplit(value).hostname or ""
            # Inside a container the loopback address is the container itself.
            if value and not host.startswith("127.") and host not in ("localhost", "::1"):
                found[spelling] = value
    return found


@contextlib.contextmanager
def _context(recipe: Recipe, inputs: BoxInputs, wheels: Path) -> Iterator[IO[bytes]]:
    """Yield the build context as a tar archive: recipe, wheels and Vagrant's public key."""
    with tempfile.TemporaryFile(dir=inputs.cache) as stream:
        with tarfile.open(fileobj=stream, mode="w") as tar:
            for path in recipe.files:
                content = path.read_bytes()
                if recipe.variant and path.name == "Dockerfile":
                    content += (recipe.additions / path.name).read_bytes()
                add_file(tar, path.name, content)
            for path in sorted(wheels.glob("*.whl")):
                add_file(tar, f"wheels/{path.name}", path.read_bytes())
            add_file(tar, "authorized_key", f"{inputs.public_key.strip()}\n".encode())
        stream.seek(0)
        yield stream


def add_file(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Put a file into the archive that a box is made from."""
    # Neither our owner nor our umask shall show in the box.
    member = tarfile.TarInfo(name)
    member.size = len(content)
    member.mode = 0o644
    tar.addfile(member, io.BytesIO(content))


# --- Putting away ------------------------------------------------------------------------------


@contextlib.contextmanager
def swept(
    client: docker.DockerClient,
    name: str,
    cache: Path,
    runner: Runner,
    log: Callable[[str], None],
) -> Iterator[str]:
    """Yield the id of a new build; remove what it leaves without a name, whatever happens.

    The id stands in a file meanwhile, so that the next build clears up after one that was killed
    hard. Both hold the lock on making this box.

    Args:
        client: the Docker daemon.
        name: of the box.
        cache: the user's cache folder.
        runner: removes what mmdebstrap left.
        log: told what stays.
    """
    journal = cache / f"{name}.building"
    killed = journal.read_text("ascii").split() if journal.exists() else []
    left = [build for build in killed if not _clear_up(client, build, runner, log)]
    build = uuid.uuid4().hex
    _write_lines(journal, [*left, build])
    try:
        yield build
    except BaseException:
        if _clear_up(client, build, runner, log):
            _write_lines(journal, left)
        raise
    _write_lines(journal, left)


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), "ascii")


def _clear_up(
    client: docker.DockerClient, build: str, runner: Runner, log: Callable[[str], None]
) -> bool:
    """Remove what a build left in the daemon and on disk; tell whether all of it is gone."""
    try:
        remove_scratch(build, runner)
        clean = _sweep(client, f"{LABEL_BUILD}={build}")
    except (OSError, *docker_api.FAILURES) as error:
        # What went wrong first is what the caller must learn; the next build tries this again.
        log(f"Parts of a half-made box may be left, labelled {LABEL_BUILD}={build}: {error}")
        return False
    if not clean:
        log(f"The daemon is still at a half-made box, labelled {LABEL_BUILD}={build}")
    return clean


def _sweep(client: docker.DockerClient, label: str) -> bool:
    """Remove the containers and images of a build that the daemon is giving up.

    Podman 4.3 does not give up: it ends the step it is at, and keeps the images until then.

    Returns:
        Whether nothing of it is left.
    """
    give_up = time.monotonic() + _SWEEP
    clean = 0
    # Twice: the daemon may be about to save the step it was at.
    while clean < 2 and time.monotonic() < give_up:
        client.images.prune(filters={"dangling": True, "label": label})
        images = client.images.list(all=True, filters={"label": label})
        if any(image.tags for image in images):
            # It was finished after all, and the containers are guests.
            return True
        containers = client.containers.list(all=True, filters={"label": label}, ignore_removed=True)
        for container in containers:
            # It is being removed by the daemon itself.
            with contextlib.suppress(docker.errors.APIError):
                container.remove(force=True, v=True)
        clean = 0 if containers or images else clean + 1
        time.sleep(0.3)
    return clean >= 2
