"""Build boxes of the Docker daemon: found, or made when they are missing or stale.

A box is current when its image carries the digest of its recipe as it is now, so a changed
Dockerfile, package list or pin makes it stale.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
import docker.errors
from docker.models.images import Image

from vagrant_kiwi import box_use, docker_api, state
from vagrant_kiwi.box_build import LABEL_RECIPE, BoxInputs, build_image
from vagrant_kiwi.box_recipe import Recipe, half_made, repository_of
from vagrant_kiwi.box_rootfs import Mirrors
from vagrant_kiwi.deadline import Deadline
from vagrant_kiwi.errors import BoxError
from vagrant_kiwi.process import Runner


@dataclass(frozen=True)
class DockerBox:
    """A build box as an image of the Docker daemon.

    ``image`` is the name to start it by, ``image_id`` its content, ``version`` and ``digest`` its
    recipe's, ``size`` in bytes, ``kiwi`` the version of KIWI in it, if there is one.
    """

    name: str
    version: str
    image: str
    image_id: str
    digest: str
    size: int
    kiwi: str | None = None

    @property
    def content(self) -> str:
        """What differs where the image's bytes do."""
        return self.image_id


def docker_tag(recipe: Recipe) -> str:
    """Return the name that a recipe's image has in Docker; a changed recipe has another."""
    return f"{recipe.repository}:{recipe.tag}"


def find_docker_box(client: docker.DockerClient, recipe: Recipe) -> DockerBox | None:
    """Return the current image of a recipe, or None if it must be made.

    Args:
        client: the Docker daemon.
        recipe: the box.

    Raises:
        PreflightError: the daemon does not answer.
        BoxError: it answers with an error.
    """
    with docker_errors():
        image = local_image(client, docker_tag(recipe))
    if image is None or image.labels.get(LABEL_RECIPE) != recipe.digest:
        return None
    return _as_box(recipe, image)


def local_image(client: docker.DockerClient, name: str) -> Image | None:
    """Return the image that has a name or an id; None if Docker has none.

    Raises:
        docker.errors.DockerException: see ``docker_api.FAILURES``.
    """
    try:
        return client.images.get(name)
    except docker.errors.ImageNotFound:
        return None


def image_of(client: docker.DockerClient, name: str) -> str | None:
    """Return the id of the image that has a name; None if none has.

    Raises:
        PreflightError: the daemon does not answer.
        BoxError: it answers with an error.
    """
    with docker_errors():
        image = local_image(client, name)
    return str(image.id) if image is not None else None


def ensure_docker_box(
    recipe: Recipe,
    client: docker.DockerClient,
    runner: Runner,
    *,
    mirror: str,
    security_mirror: str | None,
    public_key: str,
    log: Callable[[str], None],
    timeout: float,
    cache: Path,
    anew: bool = False,
) -> DockerBox:
    """Return the current image of a recipe; make it if there is none.

    Makers of one box wait for each other, and an interrupted one leaves nothing behind. Images of
    older recipes are removed afterwards, unless a container uses them.

    Args:
        recipe: the box.
        client: the Docker daemon.
        runner: starts mmdebstrap and pip.
        mirror: where the packages come from while it is made; may hold credentials, which end up
            in no argument, log or layer.
        security_mirror: the same for security updates; None makes the box without them.
        public_key: the line that lets Vagrant in (``InsecureKeys.rsa_line``).
        log: takes the lines of what happens.
        timeout: seconds in all, waiting for others included.
        cache: folder for wheels and locks.
        anew: make it even if it is current, with the packages of today.

    Raises:
        PreflightError: the daemon does not answer, or the host lacks a tool.
        BoxError: the image cannot be made.
        PhaseTimeoutError: it takes too long.
    """
    if not anew and (box := find_docker_box(client, recipe)) is not None:
        return box
    deadline = Deadline.after(timeout, what=f"Making the build box {recipe.name}")
    with only_one(cache, recipe.name, log, deadline), docker_errors():
        box = None if anew else find_docker_box(client, recipe)
        if box is None:
            _remove_half_made(cache, recipe, log)
            before = image_of(client, docker_tag(recipe))
            inputs = BoxInputs(Mirrors(mirror, security_mirror), public_key, cache)
            build_image(recipe, inputs, client, runner, log=log, deadline=deadline)
            box = _as_box(recipe, client.images.get(docker_tag(recipe)))
            remove_others(client, box, cache, log)
            if before not in (None, box.image_id):
                drop(client, before, cache)
        return box


def _as_box(recipe: Recipe, image: Image) -> DockerBox:
    return DockerBox(
        name=recipe.name,
        version=recipe.version,
        image=docker_tag(recipe),
        image_id=str(image.id),
        digest=recipe.digest,
        size=int(image.attrs["Size"]),
        kiwi=recipe.kiwi,
    )


def remove_others(
    client: docker.DockerClient, current: DockerBox, cache: Path, log: Callable[[str], None]
) -> None:
    """Remove the other versions of a box that nothing uses.

    Args:
        client: the Docker daemon.
        current: the version that stays.
        cache: the user's cache folder, where builds hold what they use.
        log: told what stays.
    """
    repository = repository_of(current.name)
    for image in client.images.list(name=repository):
        names = {tag: short_name(tag) for tag in image.tags}
        old = [
            tag
            for tag, name in names.items()
            if name != current.image and name.rpartition(":")[0] == repository
        ]
        used = client.containers.list(
            all=True, filters={"ancestor": str(image.id)}, ignore_removed=True
        )
        if used or not old:
            continue
        with box_use.removing(cache, str(image.id)) as free:
            for tag in old:
                if not free or not remove_tag(client, tag):
                    log(f"{tag} stays: it is in use")


def remove_tag(client: docker.DockerClient, tag: str, *, force: bool = False) -> bool:
    """Remove a name of an image, and the image with its last one; tell whether it is gone."""
    try:
        client.images.remove(tag, **({"force": True} if force else {}))
    except docker.errors.ImageNotFound:
        return True
    except docker.errors.APIError as error:
        if error.status_code != 409:
            raise
        # A guest took it in this moment.
        return False
    return True


def drop(client: docker.DockerClient, image: str, cache: Path) -> None:
    """Remove an image that lost its name, unless something uses it or is based on it.

    Args:
        client: the Docker daemon.
        image: its id; nothing happens if there is none.
        cache: the user's cache folder, where builds hold what they use.
    """
    with box_use.removing(cache, image) as free:
        found = local_image(client, image) if free else None
        if found is not None and not found.tags:
            remove_tag(client, image)


def short_name(tag: str) -> str:
    """Return an image's name without what Podman puts before it: localhost if it was loaded."""
    return tag.removeprefix("localhost/").removeprefix("docker.io/")


def _remove_half_made(folder: Path, recipe: Recipe, log: Callable[[str], None]) -> None:
    """Remove what a killed maker of this box left; we hold the lock, so none is at work."""
    for path in (*folder.glob(half_made(recipe, "*")), *folder.glob(f"*/{half_made(recipe, '*')}")):
        try:
            shutil.rmtree(path)
        except OSError as error:
            # Only disk space is lost by it.
            log(f"{path} stays: {error}")


@contextlib.contextmanager
def only_one(
    folder: Path, name: str, log: Callable[[str], None], deadline: Deadline
) -> Iterator[None]:
    """Hold the lock on making a box; the kernel gives it back if we die.

    Raises:
        PhaseTimeoutError: another process holds it for too long.
        BoxError: the folder cannot be used.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(
                state.waited(
                    folder / f"{name}.lock",
                    log=log,
                    deadline=deadline,
                    what=f"the build box {name} is being made",
                    details="another process was making it",
                )
            )
        except OSError as error:
            raise BoxError(
                "The cache folder cannot be used",
                details=str(error),
                resolution=f"See to it that {folder} belongs to you.",
            ) from error
        yield


@contextlib.contextmanager
def docker_errors() -> Iterator[None]:
    """Turn what docker-py raises in the body into our own errors.

    Raises:
        BoxError: the daemon answers with an error.
        PreflightError: it does not answer.
    """
    try:
        yield
    except docker.errors.APIError as error:
        raise BoxError("Docker reports an error about the build box", details=str(error)) from error
    except docker_api.FAILURES as error:
        raise docker_api.unreachable(error) from error
