"""Boxes of a daemon: which have lost their name, and are no part of one that is being made."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, cast

import docker

from vagrant_kiwi import docker_boxes
from vagrant_kiwi.guests.docker import RUN_LABEL


class Api:
    """Lists what there is, as Docker does."""

    def __init__(self, images: list[dict[str, Any]], containers: list[dict[str, Any]]) -> None:
        self._images = images
        self._containers = containers

    def images(self, *, filters: Mapping[str, object]) -> list[dict[str, Any]]:
        label, _, value = str(filters["label"]).partition("=")
        assert set(filters) <= {"label", "dangling"}
        return [
            image
            for image in self._images
            if label in image["Labels"] and value in ("", image["Labels"][label])
            if filters.get("dangling") is not True or not image["RepoTags"]
        ]

    def containers(self, *, all: bool) -> list[dict[str, Any]]:
        assert all
        return self._containers


def client(images: list[dict[str, Any]], *containers: dict[str, Any]) -> docker.DockerClient:
    class Client:
        api = Api(images, list(containers))

    return cast(docker.DockerClient, Client())


def image(id: str, *tags: str, age: float = 0, **labels: str) -> dict[str, Any]:
    usual = {"vagrant-kiwi.box": "x"}
    return {
        "Id": id,
        "RepoTags": list(tags),
        "Labels": usual | {f"vagrant-kiwi.{name}": value for name, value in labels.items()},
        "Created": time.time() - age,
        "Size": 5,
    }


def test_nameless_are_old_images_of_boxes_without_a_name() -> None:
    other = image("d", age=9999)
    other["Labels"] = {"somebody": "else"}
    daemon = client(
        [
            image("a", "vagrant-kiwi/x:1", age=9999),
            image("b", age=7300),
            image("c", age=7100),
            other,
            image("e", age=9999),
        ],
        {"Id": "1" * 64, "ImageID": "e", "Names": ["/guest"], "Labels": {RUN_LABEL: "r1"}},
        {"Id": "2" * 64, "ImageID": "e", "Names": ["/mine"], "Labels": None},
        {"Id": "3" * 64, "ImageID": "a", "Names": None, "Labels": {}},
    )
    assert docker_boxes.nameless(daemon, older=7200) == [
        ("b", ()),
        ("e", ("run r1", "container mine")),
    ]


def test_installed_are_the_images_that_have_a_boxs_own_name() -> None:
    daemon = client(
        [
            image("old", "vagrant-kiwi/x:1", age=100, recipe="r1", version="7", kiwi=""),
            image("new", "localhost/vagrant-kiwi/x:2", "mine:1", source="s", recipe="", origin="o"),
            # Built on the box, with its labels.
            image("child", "mine:2"),
            image("nameless"),
            {**image("other", "vagrant-kiwi/y:1"), "Labels": {"vagrant-kiwi.box": "y"}},
        ],
        {"Id": "3" * 64, "ImageID": "old", "Names": [], "Labels": {}},
    )
    new, old = docker_boxes.installed(daemon, "x")
    assert (new.image, new.digest, new.origin) == ("vagrant-kiwi/x:2", "s", "o")
    assert (old.image, old.digest, old.origin) == ("vagrant-kiwi/x:1", "r1", "recipe")
    assert (old.kiwi, old.version, old.users) == (None, "7", (f"container {'3' * 12}",))
    assert docker_boxes.as_box(old).image_id == "old"
    assert {one.name for one in docker_boxes.installed(daemon)} == {"x", "y"}
