"""A user's site for the tests of the box commands: his cache, small boxes, his catalogue."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker

from tests.integration.cli import Finished, Project
from tests.integration.http_files import FileServer
from tests.unit.archives import Entry, folder, sha256, tar


def tree(*more: Entry, content: bytes = b"") -> bytes:
    """Return a tar archive that looks like a root file system, with more members."""
    folders = (folder("etc"), folder("usr"), folder("usr/bin"))
    return tar(*folders, Entry("etc/hostname", content), *more)


@dataclass
class Site:
    """A user with a cache of his own, and a name for a box that nobody else has."""

    project: Project
    name: str
    cache: Path
    client: docker.DockerClient

    def add(self, *words: str) -> Finished:
        return self.project.run("box-add", f"--name={self.name}", "--json", *words)

    def images(self) -> list[str]:
        """Return the names of the images of the box."""
        found = self.client.images.list(name=f"vagrant-kiwi/{self.name}")
        return sorted(tag for image in found for tag in image.tags)

    def file(self, data: bytes, name: str = "box.tar") -> Path:
        path = self.project.folder / name
        path.write_bytes(data)
        return path

    def row(self, name: str | None = None) -> dict[str, Any]:
        """Return what box-list says of a box."""
        done = self.project.run("box-list", "--provider=docker", "--json")
        assert done.status == 0, done.errors
        rows = [one for one in done.json["boxes"] if one["name"] == (name or self.name)]
        assert len(rows) == 1
        return dict(rows[0])


def saved(client: docker.DockerClient, data: bytes, name: str) -> bytes:
    """Return what docker save writes of an image of a root file system, under a name."""
    repository, _, tag = name.rpartition(":")
    client.api.import_image_from_data(data, repository=repository, tag=tag)
    try:
        return b"".join(client.images.get(name).save(named=name))
    finally:
        client.images.remove(name)


@contextlib.contextmanager
def no_image_left(
    client: docker.DockerClient, names: Callable[[], Iterable[str]]
) -> Iterator[None]:
    """See that no image is left of the body.

    Args:
        names: returns the names of images that are removed first.
    """
    before = set(client.api.images(all=True, quiet=True))
    yield
    for name in names():
        client.images.remove(name, force=True)
    assert set(client.api.images(all=True, quiet=True)) <= before


def offer(
    project: Project,
    name: str,
    source: Mapping[str, object],
    *,
    managers: Sequence[str] = (),
    **settings: object,
) -> None:
    """Let a project have a catalogue of one box.

    Args:
        managers: package managers of the descriptions that the box builds.
        settings: of the project, besides its catalogue.
    """
    entry = {
        "name": name,
        "about": "a box of the site",
        "package_managers": managers,
        "sources": [source],
    }
    (project.folder / "boxes.yaml").write_text(json.dumps({"boxes": [entry]}))
    project.settings(catalogs=["boxes.yaml"], **settings)


def catalogue(site: Site, server: FileServer, data: bytes, **more: Any) -> None:
    """Let the site's catalogue offer an archive."""
    url = server.put(f"/{sha256(data)[:8]}.tar", data)
    source = {"provider": "docker", "url": url, "sha256": sha256(data), "size": len(data), **more}
    offer(site.project, site.name, source, managers=["zypper"], mirrors="off")
