"""box-push and boxes of a registry: a real registry on this host, with and without a login."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import docker
import docker.errors
import pytest

from tests.integration.box_site import no_image_left, offer
from tests.integration.cli import Finished, Project, finish
from tests.integration.halting_proxy import halting
from tests.integration.registry import PASSWORD, USER, free_port, log_in, registry
from tests.unit.archives import Entry, tar

#: A password that the registry refuses.
WRONG = "w%ong h0rse"


def encoded(text: str) -> str:
    """Return a text in base64, without what depends on its length."""
    return base64.b64encode(text.encode()).decode().rstrip("=")[:-1]


def image(client: docker.DockerClient, name: str) -> str:
    """Make a small image, each time with other bytes, and return its id."""
    data = tar(Entry(f"etc/{uuid.uuid4().hex}"))
    repository, _, tag = name.rpartition(":")
    client.api.import_image_from_data(data, repository=repository, tag=tag)
    return str(client.images.get(name).id)


def publish(client: docker.DockerClient, place: str) -> str:
    """Push another image, as if somebody else did it, and return its digest."""
    image(client, place)
    client.images.push(place)
    digest = str(client.images.get_registry_data(place).id)
    client.images.remove(place)
    return digest.removeprefix("sha256:")


@pytest.fixture
def name(docker_client: docker.DockerClient) -> Iterator[str]:
    """Yield a name for a box that nobody else has; at the end no image is left of the test."""
    made = f"vk-test-{uuid.uuid4().hex[:8]}"

    def names() -> list[str]:
        return [tag for one in docker_client.images.list() for tag in one.tags if made in tag]

    with no_image_left(docker_client, names):
        yield made


def user(folder: Path, *, config: str = "docker") -> Project:
    """Return a user's folder with a configuration of Docker's client of its own."""
    (folder / config).mkdir(exist_ok=True)
    return Project(
        folder,
        environment={
            "XDG_CACHE_HOME": str(folder / "cache"),
            "DOCKER_CONFIG": str(folder / config),
        },
    )


def add(project: Project, name: str, *words: str) -> Finished:
    return project.run("box-add", f"--name={name}", "--json", *words)


def add_fresh(client: docker.DockerClient, project: Project, name: str, source: str) -> Finished:
    """Add a box that nothing but its own name refers to."""
    image(client, source)
    added = add(project, name, f"--image={source}")
    client.images.remove(source)
    return added


def test_a_box_is_pushed_with_the_users_login_and_had_by_its_digest(
    docker_client: docker.DockerClient, name: str, tmp_path: Path
) -> None:
    port = free_port()
    place = f"127.0.0.1:{port}/team/{name}"
    source = f"{name}-source:1"
    image(docker_client, source)
    good, bad, none = (user(tmp_path, config=each) for each in ("good", "bad", "none"))
    log_in(tmp_path / "good", port)
    log_in(tmp_path / "bad", port, password=WRONG)
    # That of builds does not count: the box has the KIWI that it has.
    good.settings(kiwi_version="11.1.5")
    added = add(good, name, f"--image={source}")
    assert added.status == 0, added.errors
    runs = [added]
    push = ("box-push", f"{place}:1", f"--name={name}", "--json")
    with registry(tmp_path, port, login=True):
        for refused in (bad, none):
            done = refused.run(*push)
            runs.append(done)
            assert done.status == 5, done.errors
            assert f"docker login 127.0.0.1:{port}" in done.json["error"]["resolution"]
        done = good.run(*push, "--verbose")
        runs.append(done)
        assert done.status == 0, done.errors
        assert done.json["image"] == f"{place}:1"
        digest = done.json["digest"]
        # The name was there for the push only.
        with pytest.raises(docker.errors.ImageNotFound):
            docker_client.images.get(f"{place}:1")
        assert good.run("box-remove", name).status == 0
        docker_client.images.remove(source)

        other = f"{name}-other"
        wrong = add(good, other, f"--image={place}:1", f"--sha256={'0' * 64}")
        assert wrong.status == 5, wrong.errors
        back = add(good, other, f"--image={place}:1", f"--sha256={digest}")
        assert back.status == 0, back.errors
        assert back.json["digest"] == digest.removeprefix("sha256:")
        labels = docker_client.images.get(back.json["image"]).labels
        assert labels["vagrant-kiwi.box"] == other
        assert labels["vagrant-kiwi.origin"] == f"{place}:1"
        runs += [wrong, back]
        attributes = docker_client.images.get(back.json["image"]).attrs
        runs.append(Finished(0, json.dumps(attributes), ""))
    gone = good.run(*push[:2], f"--name={other}", "--json")
    assert gone.status == 5, "nobody listens there"
    said = [text for done in runs for text in (done.output, done.errors)]
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    # Where Docker's client and the registry have them from.
    theirs = ("config.json", "htpasswd")
    said += [path.read_text("latin-1") for path in kept if path.name not in theirs]
    assert "vagrant-kiwi.origin" in "".join(said), "the registry's data is looked at, too"
    for password in (PASSWORD, WRONG):
        for secret in (password, encoded(password), encoded(f"{USER}:{password}")):
            assert [text for text in said if secret in text] == []


def test_a_name_that_is_another_image_here_is_left_alone(
    docker_client: docker.DockerClient, name: str, tmp_path: Path
) -> None:
    project = user(tmp_path)
    mine = f"127.0.0.1:1/team/{name}:1"
    source = f"{name}-source:1"
    image(docker_client, source)
    added = add(project, name, f"--image={source}")
    assert added.status == 0, added.errors
    before = image(docker_client, mine)
    done = project.run("box-push", mine, f"--name={name}", "--json")
    assert done.status == 5
    assert "another image" in done.json["error"]["brief"]
    assert docker_client.images.get(mine).id == before
    for place in ("no-registry", f"{mine}@sha256:{'0' * 64}"):
        assert project.run("box-push", place, f"--name={name}").status == 1


@pytest.mark.parametrize("pinned", [False, True], ids=["tag", "pinned"])
def test_a_box_of_the_catalogue_that_is_an_image_is_updated(
    docker_client: docker.DockerClient, name: str, tmp_path: Path, pinned: bool
) -> None:
    port = free_port()
    place = f"127.0.0.1:{port}/team/{name}:1"
    project = user(tmp_path)

    def offer_another() -> str:
        digest = publish(docker_client, place)
        pin = {"sha256": digest} if pinned else {}
        offer(project, name, {"provider": "docker", "image": place, **pin}, managers=["dnf5"])
        return digest

    def update() -> tuple[list[str], list[str]]:
        done = project.run("box-update", f"--name={name}", "--provider=docker", "--json")
        assert done.status == 0, done.errors
        return (
            [one["name"] for one in done.json["updated"]],
            [one["name"] for one in done.json["current"]],
        )

    def installed() -> list[tuple[str, bool]]:
        listed = project.run("box-list", "--provider=docker", "--json").json["boxes"]
        (row,) = [one for one in listed if one["name"] == name]
        return [(one["digest"], one["outdated"]) for one in row["installed"]]

    with registry(tmp_path, port):
        first = offer_another()
        assert project.run("box-update", f"--name={name}").status == 5, "it is not installed"
        added = add(project, name)
        assert added.status == 0, added.errors
        assert add(project, name).json == added.json
        assert installed() == [(first, False)]
        assert update() == ([], [name])
        # An image of the user's own that has the name by now, and was never pushed.
        second = offer_another()
        mine = image(docker_client, place)
        assert installed() == [(first, pinned)], "a pin in the catalogue tells without asking"
        assert update() == ([name], [])
        assert installed() == [(second, False)]
        assert docker_client.images.get(place).id == mine
        assert update() == ([], [name])
    removed = project.run("box-remove", name)
    assert removed.status == 0, removed.errors
    assert docker_client.images.get(place).id == mine


def test_a_push_that_was_killed_leaves_no_name_behind(
    docker_client: docker.DockerClient, name: str, tmp_path: Path
) -> None:
    project = user(tmp_path)
    added = add_fresh(docker_client, project, name, f"{name}-source:1")
    box = docker_client.images.get(added.json["image"])
    port = free_port()
    # The registry has been asked what it has, and the first layer is on its way.
    with registry(tmp_path, port), halting(port, b"POST /v2/") as proxy:
        place = f"127.0.0.1:{proxy.port}/team/{name}:1"
        push = ("box-push", place, f"--name={name}", "--json")
        running = project.start(*push)
        proxy.wait_for_halt()
        running.kill()
        finish(running)
        # Else the daemon would still be at it.
        proxy.release()
        box.reload()
        assert place in box.tags
        pruned = project.run("box-prune", "--dry-run", "--json")
        assert f"{place} of a broken push" in [one["what"] for one in pruned.json["boxes"]]
        # Another version is pushed by that name, which is still the older one's here.
        added = add_fresh(docker_client, project, name, f"{name}-newer:1")
        box = docker_client.images.get(added.json["image"])
        done = project.run(*push)
        assert done.status == 0, done.errors
        box.reload()
        assert box.tags == [added.json["image"]]
        with pytest.raises(docker.errors.ImageNotFound):
            docker_client.images.get(place)

    with registry(tmp_path, port), halting(port, b"POST /v2/") as proxy:
        place = f"127.0.0.1:{proxy.port}/team/{name}-b:1"
        running = project.start("box-push", place, f"--name={name}")
        proxy.wait_for_halt()
        pruned = project.run("box-prune", "--json")
        assert place not in json.dumps(pruned.json), "it is being pushed"
        running.kill()
        finish(running)
    pruned = project.run("box-prune", "--json")
    assert f"{place} of a broken push" in [one["what"] for one in pruned.json["boxes"]]
    box.reload()
    assert box.tags == [added.json["image"]]


def test_a_name_of_the_users_own_stays_after_a_push(
    docker_client: docker.DockerClient, name: str, tmp_path: Path
) -> None:
    project = user(tmp_path)
    added = add_fresh(docker_client, project, name, f"{name}-source:1")
    port = free_port()
    place = f"127.0.0.1:{port}/team/{name}:1"
    docker_client.images.get(added.json["image"]).tag(place)
    with registry(tmp_path, port):
        done = project.run("box-push", place, f"--name={name}", "--json")
        assert done.status == 0, done.errors
    assert docker_client.images.get(place).id == added.json["image_id"]


def test_an_image_of_the_catalogue_is_asked_for_anew_by_force(
    docker_client: docker.DockerClient, name: str, tmp_path: Path
) -> None:
    port = free_port()
    place = f"127.0.0.1:{port}/team/{name}:1"
    project = user(tmp_path)
    offer(project, name, {"provider": "docker", "image": place})
    found = []
    with registry(tmp_path, port):
        for words in ((), (), ("--force",)):
            # Each time somebody else has pushed another one meanwhile.
            pushed = publish(docker_client, place)
            done = add(project, name, *words)
            assert done.status == 0, done.errors
            found.append((done.json["digest"], pushed))
    (first, pushed), (second, _), (third, newest) = found
    assert first == second == pushed, "without it, the registry is not asked"
    assert third == newest
