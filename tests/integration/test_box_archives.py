"""Archives of boxes and registries, with the real daemon."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import tarfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest

from tests.integration.registry import PASSWORD, free_port, log_in, registry
from tests.unit.archives import sha256, tar_of
from vagrant_kiwi import box_archive, box_archive_streams, docker_api, docker_stream
from vagrant_kiwi.deadline import Deadline

ROOM = 1 << 30


def soon() -> Deadline:
    """Return when a call must be done."""
    return Deadline.after(60, what="A call of the tests")


@pytest.fixture
def images(docker_client: docker.DockerClient) -> Iterator[list[str]]:
    """Return a list for ids and names of images, which are removed after the test."""
    made: list[str] = []
    yield made
    for image in made:
        with contextlib.suppress(docker.errors.ImageNotFound):
            docker_client.images.remove(image, force=True)


@pytest.fixture
def image(docker_client: docker.DockerClient, images: list[str], tmp_path: Path) -> str:
    """Import a root file system like no other, and return the image's id."""
    file = tmp_path / "root.tar.gz"
    file.write_bytes(
        gzip.compress(tar_of({"./etc/id": uuid.uuid4().bytes, "./usr/bin/true": b"#!"}))
    )
    assert isinstance(box_archive.inspect(file, room=ROOM), box_archive.RootFileSystem)
    made = docker_stream.import_tar(
        docker_client,
        box_archive_streams.import_stream(file),
        labels={"vagrant-kiwi.test": "a b"},
        changes=['CMD ["/usr/bin/true"]', "EXPOSE 22"],
        deadline=soon(),
    )
    images.append(made)
    return made


def test_a_root_file_system_becomes_an_image(
    docker_client: docker.DockerClient, image: str
) -> None:
    config = docker_client.images.get(image).attrs["Config"]
    assert config["Labels"] == {"vagrant-kiwi.test": "a b"}
    assert config["Cmd"] == ["/usr/bin/true"]
    assert config["ExposedPorts"] == {"22/tcp": {}}
    assert docker_client.images.get(image).tags == []


def layered(client: docker.DockerClient, image: str, images: list[str]) -> str:
    """Build an image with three layers, two of them the same, by a link in what Docker saves."""
    dockerfile = f"FROM {image}\nCOPY file /\nCOPY file /\n".encode()
    made = docker_stream.build(
        client,
        io.BytesIO(tar_of({"Dockerfile": dockerfile, "file": b"same"})),
        arguments={},
        labels={},
        network="none",
        log=lambda _: None,
        deadline=soon(),
    )
    images.append(made)
    return made


def as_today(data: bytes) -> bytes:
    """Return an archive as Docker writes it since version 25: an OCI layout with a manifest."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:

        def read(name: str) -> bytes:
            content = tar.extractfile(name)
            assert content is not None
            return content.read()

        ((saved),) = json.loads(read("manifest.json"))
        blobs = [read(saved["Config"]), *(read(layer) for layer in saved["Layers"])]
    kinds = ["config.v1+json", *("layer.v1.tar" for _ in saved["Layers"])]
    entries = [
        {
            "mediaType": f"application/vnd.oci.image.{kind}",
            "digest": f"sha256:{sha256(blob)}",
            "size": len(blob),
        }
        for kind, blob in zip(kinds, blobs, strict=True)
    ]
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": entries[0],
        "layers": entries[1:],
    }
    blobs.append(json.dumps(manifest).encode())
    digests = [sha256(blob) for blob in blobs]
    (name,) = saved["RepoTags"]
    index = {
        "schemaVersion": 2,
        "manifests": [
            {
                "mediaType": manifest["mediaType"],
                "digest": f"sha256:{digests[-1]}",
                "size": len(blobs[-1]),
                "annotations": {
                    "io.containerd.image.name": f"docker.io/{name}",
                    "org.opencontainers.image.ref.name": name.rpartition(":")[2],
                },
            }
        ],
    }
    places = [f"blobs/sha256/{digest}" for digest in digests]
    entry = {"Config": places[0], "RepoTags": [name], "Layers": places[1:-1]}
    return tar_of(
        {
            **dict(zip(places, blobs, strict=True)),
            "index.json": json.dumps(index).encode(),
            "manifest.json": json.dumps([entry]).encode(),
            "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
            "repositories": json.dumps({name.partition(":")[0]: {"1": digests[0]}}).encode(),
        }
    )


@pytest.mark.parametrize("written", [bytes, as_today], ids=["Docker 20", "Docker 25"])
def test_a_loaded_image_takes_nobodys_name(
    docker_client: docker.DockerClient,
    images: list[str],
    image: str,
    tmp_path: Path,
    written: Callable[[bytes], bytes],
) -> None:
    repository = f"vagrant-kiwi-test/{uuid.uuid4().hex}"
    name = f"{repository}:1"
    # Without a name it would go with the image on top of it.
    docker_client.images.get(image).tag(repository, "users-own")
    images.append(f"{repository}:users-own")
    wanted = layered(docker_client, image, images)
    docker_client.images.get(wanted).tag(name)
    file = tmp_path / "box"
    saved = b"".join(docker_client.images.get(name).save(named=name))
    file.write_bytes(gzip.compress(written(saved), 1))
    docker_client.images.remove(name)
    docker_client.images.get(image).tag(name)
    images.append(name)

    archive = box_archive.inspect(file, room=ROOM)
    assert isinstance(archive, box_archive.DockerArchive)
    assert archive.image_id == wanted
    assert archive.tags == (name,)
    assert len(archive.layers) == 3
    assert (archive.os, archive.architecture) == ("linux", docker_client.version()["Arch"])
    with pytest.raises(docker.errors.ImageNotFound):
        docker_client.images.get(wanted)
    log: list[str] = []
    loaded = docker_stream.load(
        docker_client,
        box_archive_streams.load_stream(file, archive),
        log=log.append,
        deadline=soon(),
    )
    assert loaded == wanted, log
    assert docker_client.images.get(wanted).tags == []
    assert docker_client.images.get(name).id == image, "the user's own has lost its name"


def test_the_daemons_words_for_what_it_does_not_load(docker_client: docker.DockerClient) -> None:
    with pytest.raises(docker_stream.DockerStreamError, match="nothing"):
        docker_stream.load(
            docker_client,
            [tar_of({"manifest.json": b'[{"Config": "nothing", "Layers": []}]'})],
            log=lambda _: None,
            deadline=soon(),
        )


class StopError(Exception):
    """What ends a call in the middle."""


def test_what_breaks_off_leaves_no_image(
    docker_client: docker.DockerClient, images: list[str], image: str
) -> None:
    name, label = f"vagrant-kiwi-test/{uuid.uuid4().hex}:1", uuid.uuid4().hex
    docker_client.images.get(image).tag(name)
    saved = b"".join(docker_client.images.get(name).save(named=name))
    docker_client.images.remove(name)

    def cut(data: bytes) -> Iterator[bytes]:
        # All of it, but not its end, which would make it whole.
        yield data
        raise StopError

    with pytest.raises(StopError):
        docker_stream.load(docker_client, cut(saved), log=lambda _: None, deadline=soon())
    with pytest.raises(StopError):
        docker_stream.import_tar(
            docker_client,
            cut(tar_of({"etc/x": b"y"})),
            labels={"vagrant-kiwi.test": label},
            deadline=soon(),
        )
    # It may still be at what it got.
    time.sleep(1)
    with pytest.raises(docker.errors.ImageNotFound):
        docker_client.images.get(image)
    left = docker_client.images.list(all=True, filters={"label": f"vagrant-kiwi.test={label}"})
    images.extend(str(each.id) for each in left)
    assert left == []


def test_push_with_a_login_and_without(
    docker_client: docker.DockerClient,
    images: list[str],
    image: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = free_port()
    name = f"127.0.0.1:{port}/team/box:1"
    docker_client.images.get(image).tag(name)
    images.append(name)
    config = tmp_path / "docker-config"
    config.mkdir()
    # docker-py reads the login where Docker's own client does.
    monkeypatch.setenv("DOCKER_CONFIG", str(config))
    log: list[str] = []

    def push() -> str:
        with docker_api.client(os.environ) as client:
            return docker_stream.push(client, name, stall=30, log=log.append, deadline=soon())

    with pytest.raises(docker_stream.DockerStreamError, match="connection refused"):
        push()
    with registry(tmp_path, port, login=True):
        with pytest.raises(docker_stream.DockerStreamError, match="no basic auth credentials"):
            push()
        log_in(config, port, password="wrong")
        with pytest.raises(docker_stream.DockerStreamError, match="unauthorized"):
            push()
        log_in(config, port)
        digest = push()
        docker_client.images.remove(name)
        with docker_api.client(os.environ) as client:
            docker_stream.pull(
                client,
                f"{name.rpartition(':')[0]}@{digest}",
                arch=docker_client.version()["Arch"],
                stall=30,
                log=log.append,
                deadline=soon(),
            )
        pulled = docker_client.images.get(f"{name.rpartition(':')[0]}@{digest}")
        assert pulled.id == image
        images.append(f"{name.rpartition(':')[0]}@{digest}")
    assert PASSWORD not in "".join(log)
    # Without a login, too, the daemon wants to be told that there is none.
    (config / "config.json").unlink()
    port = free_port()
    name = f"127.0.0.1:{port}/team/box:1"
    pulled.tag(name)
    images.append(name)
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    with registry(open_to_all, port):
        assert push() == digest
