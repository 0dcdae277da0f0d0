"""Real tools for the integration tests: nothing here is a fake."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.integration import host
from tests.integration.box_site import Site, no_image_left
from tests.integration.cli import Project
from tests.integration.http_files import FileServer, serving
from vagrant_kiwi import docker_api, keys, settings
from vagrant_kiwi.process import Runner

#: Programs without which these tests prove nothing.
_NEEDED = ("docker", "rsync", "ruby", "ssh", "vagrant")


@pytest.fixture(scope="session", autouse=True)
def _tools() -> None:
    """Skip on a person's machine that lacks a tool; fail in CI."""
    missing = [name for name in _NEEDED if shutil.which(name) is None]
    if missing:
        need(f"not installed: {', '.join(missing)}")


def need(what: str) -> None:
    """Skip for want of something, or fail under CI=true."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="session")
def runner() -> Runner:
    """Return a runner with the environment that builds have."""
    return Runner(settings.child_environment(os.environ))


@pytest.fixture(scope="session")
def docker_client(runner: Runner) -> Iterator[docker.DockerClient]:
    """Yield a client of the real daemon."""
    with docker_api.client(runner.environment) as client:
        yield client


@pytest.fixture(scope="session")
def checkout() -> Path:
    """Return the root of the checkout."""
    return Path(__file__).parents[2]


@pytest.fixture(scope="session")
def copy(tmp_path_factory: pytest.TempPathFactory, checkout: Path) -> Path:
    """Return a fresh copy of the checkout; bootstrap makes its own environment in it."""
    folder = tmp_path_factory.mktemp("docs") / "vagrant-kiwi"
    ignored = shutil.ignore_patterns(".venv", ".git", ".vagrant-kiwi", ".*_cache", "__pycache__")
    shutil.copytree(checkout, folder, ignore=ignored, symlinks=True)
    return folder


@pytest.fixture(scope="session")
def box(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Have the build box, and return its image."""
    return str(have_box(tmp_path_factory.mktemp("box"))["image"])


@pytest.fixture(scope="session")
def trixie_box(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Have the build box for Debian trixie, and return its image."""
    return str(have_box(tmp_path_factory.mktemp("box"), "--name=debian-trixie")["image"])


def have_box(folder: Path, *words: str) -> dict[str, Any]:
    """Have a build box, which is made if it is not there, and return what is said of it."""
    done = Project(folder).run("box-add", "--json", *words, timeout=3600)
    assert done.status == 0, done.errors
    return done.json


@pytest.fixture
def unchanged(docker_client: docker.DockerClient, box: str) -> Iterator[None]:
    """Compare the whole host before and after the test."""
    before = host.take(docker_client)
    yield
    host.assert_as_before(before, docker_client)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Return an empty project: all settings have their defaults."""
    return Project(tmp_path)


@pytest.fixture(scope="session")
def insecure_public_key(runner: Runner) -> str:
    """Return the public line of Vagrant's insecure RSA key."""
    return keys.ensure_insecure_keys(runner).rsa_line


@pytest.fixture
def server() -> Iterator[FileServer]:
    """Yield a web server that misbehaves as a test says."""
    with serving() as started:
        yield started


@pytest.fixture
def site(tmp_path: Path, docker_client: docker.DockerClient) -> Iterator[Site]:
    """Yield a site; at the end the daemon has as many images as before, and no box of it."""
    cache = tmp_path / "cache"
    project = Project(tmp_path, environment={"XDG_CACHE_HOME": str(cache), "no_proxy": "127.0.0.1"})
    made = Site(project, f"vk-test-{uuid.uuid4().hex[:8]}", cache / "vagrant-kiwi", docker_client)
    with no_image_left(docker_client, made.images):
        yield made
