"""The box commands in trouble: dead daemons, SIGKILL, two at once, builds meanwhile, damage."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import docker.errors
import pytest
from filelock import FileLock

from tests.integration.box_site import Site, catalogue, offer, saved, tree
from tests.integration.cli import CHECKOUT, finish, wait_until
from tests.integration.halting_proxy import halting
from tests.integration.http_files import FileServer, Trick
from tests.integration.stand_in import describe
from tests.unit.archives import sha256
from vagrant_kiwi import box_recipe, box_wheels

#: Where Docker's client finds the daemon if nothing else is said.
DOCKER = Path(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://"))


# --- no daemon --------------------------------------------------------------------------------


def test_without_docker_nothing_is_said_to_be_good_or_gone(site: Site) -> None:
    dead = site.project.beside(DOCKER_HOST="unix:///nowhere.sock")
    for words in (
        ("box-remove", site.name),
        ("box-remove", site.name, "--provider=docker"),
        ("box-update", f"--name={site.name}"),
        ("box-update", "--provider=docker"),
        ("box-verify",),
        ("box-verify", "--provider=docker"),
        ("box-push", f"127.0.0.1:1/{site.name}:1", f"--name={site.name}"),
        ("box-add", f"--name={site.name}", f"--file={site.file(tree())}"),
    ):
        done = dead.run(*words, "--json")
        assert done.status == 4, (words, done.errors)
        assert done.json.get("status") != "good", words
        assert "Docker daemon does not answer" in json.dumps(done.json["error"])
    listed = dead.run("box-list", "--json")
    assert listed.status == 0, listed.errors
    assert "warning: docker cannot be asked" in listed.errors
    assert "docker" in listed.json["silent"]
    assert "debian-bookworm" in [row["name"] for row in listed.json["boxes"]]
    updated = dead.run("box-update", "--json")
    assert updated.status == 0, updated.errors
    assert "docker cannot be asked" in updated.errors


# --- builds meanwhile -------------------------------------------------------------------------


@contextlib.contextmanager
def build_that_holds(site: Site, content: str) -> Iterator[None]:
    """Hold a box for the body, as a build does in another process."""
    code = (
        "import sys; from pathlib import Path; from vagrant_kiwi import box_use\n"
        f"with box_use.using(Path({str(site.cache)!r}), {content!r}):\n"
        "    print(flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield
    finally:
        process.communicate(timeout=30)


def test_a_box_that_a_build_holds_stays_although_there_is_no_guest(site: Site) -> None:
    first = site.add(f"--file={site.file(tree(content=b'1'))}")
    assert first.status == 0, first.errors
    image = first.json["image"]
    with build_that_holds(site, first.json["image_id"]):
        refused = site.project.run("box-remove", site.name, "--json")
        assert refused.status == 5, refused.errors
        assert "a build" in refused.json["error"]["details"]
        newer = site.add(f"--file={site.file(tree(content=b'2'))}")
        assert newer.status == 0, newer.errors
        pruned = site.project.run("box-prune", "--json")
        assert pruned.status == 0, pruned.errors
        assert image not in json.dumps(pruned.json)
        assert sorted((image, newer.json["image"])) == site.images()
    pruned = site.project.run("box-prune", "--json")
    assert f"{image} 1" in [one["what"] for one in pruned.json["boxes"]]
    assert site.images() == [newer.json["image"]]


def test_a_build_holds_its_box_from_where_it_found_it(site: Site, server: FileServer) -> None:
    assert site.add(f"--file={site.file(tree())}").status == 0
    (image,) = site.images()
    server.put("/debian/dists/bookworm/InRelease", b"Origin: x", usual=Trick(hold=0))
    config = describe(site.project.folder / "image") / "config.xml"
    repository = (
        '<repository type="apt-deb" distribution="bookworm" components="main">'
        f'<source path="{server.url}/debian"/></repository>'
    )
    before = '<packages type="image">'
    config.write_text(config.read_text().replace(before, repository + before))
    site.project.settings(box=site.name, provider="docker-direct")
    building = site.project.start("build", "--description=image", "--json")
    server.wait_for_hold()
    # It would wait for some seconds only.
    building.send_signal(signal.SIGSTOP)
    try:
        refused = site.project.run("box-remove", site.name, "--json")
        assert refused.status == 5, refused.errors
        assert "a build" in refused.json["error"]["details"]
        assert site.images() == [image]
        assert site.client.containers.list(all=True, filters={"ancestor": image}) == []
    finally:
        building.send_signal(signal.SIGTERM)
        building.send_signal(signal.SIGCONT)
        ended = finish(building)
    assert ended.status == 143, ended.errors
    removed = site.project.run("box-remove", site.name)
    assert removed.status == 0, removed.errors


# --- SIGKILL ----------------------------------------------------------------------------------


def test_after_a_killed_update_the_next_one_succeeds(site: Site, server: FileServer) -> None:
    first, second = tree(content=b"1"), tree(content=uuid.uuid4().bytes * (1 << 19))
    catalogue(site, server, first, version="1")
    assert site.project.run("box-add", f"--name={site.name}").status == 0
    (old,) = site.images()
    catalogue(site, server, second, version="2")
    path = f"/{sha256(second)[:8]}.tar"
    server.put(path, second, Trick(hold=len(second) // 2))
    update = ("box-update", f"--name={site.name}", "--json")
    running = site.project.start(*update)
    server.wait_for_hold()
    parts = site.cache / "downloads"
    wait_until(lambda: any(one.stat().st_size for one in parts.glob("*.part")), what="it comes")
    running.kill()
    finish(running)
    server.release()
    assert site.images() == [old], "builds go on with it"

    with halting(DOCKER, b"DELETE /v") as proxy:
        running = site.project.beside(DOCKER_HOST=f"unix://{proxy.path}").start(*update)
        proxy.wait_for_halt()
        running.kill()
        finish(running)
    assert len(server.ranges(path)) == 2
    assert server.ranges(path)[1] is not None, "what came before is used"
    newest, left = site.row()["installed"]
    assert (newest["version"], newest["outdated"]) == ("2", False)
    assert (left["image"], left["outdated"]) == (old, True)
    done = site.project.run(*update)
    assert done.status == 0, done.errors
    assert [one["version"] for one in done.json["current"]] == ["2"]
    pruned = site.project.run("box-prune", "--json")
    assert pruned.status == 0, pruned.errors
    assert site.images() == [newest["image"]]
    assert [path.suffix for path in (site.cache / "downloads").iterdir()] == [".lock"] * 2


def test_after_a_killed_removal_the_box_is_whole_and_the_next_one_succeeds(site: Site) -> None:
    added = site.add(f"--file={site.file(tree())}")
    with halting(DOCKER, b"DELETE /v") as proxy:
        running = site.project.beside(DOCKER_HOST=f"unix://{proxy.path}").start(
            "box-remove", site.name
        )
        proxy.wait_for_halt()
        running.kill()
        finish(running)
    assert site.images() == [added.json["image"]]
    assert site.add(f"--file={site.file(tree())}").json == added.json
    done = site.project.run("box-remove", site.name)
    assert done.status == 0, done.errors
    assert site.images() == []


# --- two at once ------------------------------------------------------------------------------


def waits(process: subprocess.Popen[str]) -> None:
    """Wait until a process waits for another one."""
    assert process.stderr is not None
    assert any("Waiting" in line for line in process.stderr)


def test_two_that_want_the_same_box_download_it_once(site: Site, server: FileServer) -> None:
    data = tree(content=b"once")
    url = server.put("/box.tar", data, Trick(hold=1000))
    words = ("box-add", f"--name={site.name}", f"--url={url}", f"--sha256={sha256(data)}", "--json")
    first = site.project.start(*words)
    server.wait_for_hold()
    second = site.project.start(*words)
    waits(second)
    server.release()
    one, two = finish(first), finish(second)
    assert (one.status, two.status) == (0, 0), one.errors + two.errors
    assert one.json == two.json
    assert len(server.seen) == 1
    assert site.images() == [one.json["image"]]


def test_of_two_imports_under_one_name_the_later_one_stays(site: Site, server: FileServer) -> None:
    data = tree(content=b"first")
    url = server.put("/box.tar", data, Trick(hold=1000))
    first = site.project.start(
        "box-add", f"--name={site.name}", f"--url={url}", f"--sha256={sha256(data)}", "--json"
    )
    server.wait_for_hold()
    second = site.project.start(
        "box-add", f"--name={site.name}", f"--file={site.file(tree(content=b'2'))}", "--json"
    )
    waits(second)
    server.release()
    one, two = finish(first), finish(second)
    assert (one.status, two.status) == (0, 0), one.errors + two.errors
    assert one.json["image"] != two.json["image"]
    assert site.images() == [two.json["image"]]


# --- secrets ----------------------------------------------------------------------------------


def children(parent: int) -> list[bytes]:
    """Return the arguments of all processes below one."""
    found: list[bytes] = []
    for one in Path(f"/proc/{parent}/task").glob("*/children"):
        for child in one.read_text().split():
            with contextlib.suppress(OSError):
                found.append(Path(f"/proc/{child}/cmdline").read_bytes())
                found += children(int(child))
    return found


def test_what_is_secret_in_a_url_is_shown_and_kept_nowhere(site: Site, server: FileServer) -> None:
    data = saved(site.client, tree(content=b"x"), f"{site.name}-x:1")
    secrets = [f"{what}{uuid.uuid4().hex}" for what in ("pass", "token")]
    plain = server.put("/box.tar", data, Trick(hold=len(data) // 2))
    server.put("/none.tar", b"", usual=Trick(status=403))
    place = plain.removeprefix("http://").removesuffix("/box.tar")
    url = f"http://joe:{secrets[0]}@{place}/{{}}.tar?token={secrets[1]}"
    said = []
    running = site.project.start(
        *("box-add", f"--name={site.name}", "--json", "--verbose"),
        *(f"--url={url.format('box')}", f"--sha256={sha256(data)}"),
    )
    server.wait_for_hold()
    said.append(b"".join(children(running.pid)).decode())
    said += [str(path) for path in site.project.folder.rglob("*")]
    said += [path.read_text("latin-1") for path in site.cache.rglob("*") if path.is_file()]
    server.release()
    done = finish(running)
    assert done.status == 0, done.errors
    refused = site.add(f"--url={url.format('none')}", f"--sha256={'0' * 64}")
    assert refused.status == 5, refused.errors
    bad = site.add(f"--url={url.format('box')}", f"--sha256={'0' * 64}")
    assert bad.status == 5, bad.errors
    listed = site.project.run("box-list", "--json")
    for one in (done, refused, bad, listed):
        said += [one.output, one.errors]
    image = site.client.images.get(done.json["image"])
    said += [json.dumps(image.attrs), json.dumps(image.history())]
    said += [str(path) for path in site.project.folder.rglob("*")]
    said += [path.read_text("latin-1") for path in site.cache.rglob("*") if path.is_file()]
    assert site.row()["origin"] == f"http://***@{place}/box.tar?***"
    login = base64.b64encode(f"joe:{secrets[0]}".encode()).decode().rstrip("=")
    assert login in server.seen[0].headers["authorization"]
    for secret in (*secrets, login):
        assert [text for text in said if secret in text] == []


# --- settings ---------------------------------------------------------------------------------


def test_what_the_settings_say_of_builds_does_not_count_for_imports(site: Site) -> None:
    site.project.settings(box=site.name, kiwi_version="11.1.6")
    file = site.file(tree())
    nameless = site.project.run("box-add", f"--file={file}", "--json")
    assert nameless.status == 1, nameless.errors
    assert "needs a name" in nameless.errors
    assert site.images() == []
    done = site.add(f"--file={file}")
    assert done.status == 0, done.errors
    assert done.json["kiwi"] is None
    assert site.client.images.get(done.json["image"]).labels["vagrant-kiwi.kiwi"] == ""


def test_a_provider_without_boxes_is_said_to_be_so(site: Site) -> None:
    site.project.settings(provider="host")
    file = site.file(tree())
    for words in (("box-add", f"--name={site.name}", f"--file={file}"), ("box-build",)):
        done = site.project.run(*words, "--json")
        assert done.status == 3, done.errors
        assert done.json["error"]["brief"] == "The provider host has no build boxes"
    for task in (["box-list"], ["box-update"], ["box-verify"], ["box-remove", site.name]):
        done = site.project.run(*task, "--provider=host", "--json")
        assert done.status == 5, (task, done.errors)
        assert "The provider host has no build boxes" in done.errors
    # The setting is that of builds: boxes for other providers can be seen and removed.
    assert site.row("debian-bookworm")["origin"] == "recipe"
    gone = site.project.run("box-remove", site.name, "--provider=docker", "--json")
    assert gone.status == 5
    assert "is not installed" in gone.json["error"]["brief"]


def test_boxes_for_docker_direct_do_without_vagrant(site: Site, server: FileServer) -> None:
    programs = site.project.folder / "bin"
    programs.mkdir()
    for folder in reversed(os.environ["PATH"].split(":")):
        for path in Path(folder).glob("*") if folder else ():
            link = programs / path.name
            link.unlink(missing_ok=True)
            link.symlink_to(path)
    (programs / "vagrant").unlink()
    project = site.project.beside(PATH=str(programs))
    assert shutil.which("vagrant", path=str(programs)) is None
    for number in (1, 2):
        catalogue(site, server, tree(content=b"%d" % number), version=str(number))
        text = (project.folder / "invoke.yaml").read_text()
        project.settings(**json.loads(text)["vagrant_kiwi"], provider="docker-direct")
        task = "box-add" if number == 1 else "box-update"
        done = project.run(task, f"--name={site.name}", "--json")
        assert done.status == 0, done.errors
    assert [one["version"] for one in done.json["updated"]] == ["2"]
    lacking = project.run("box-add", f"--name={site.name}", "--provider=docker")
    assert lacking.status == 4
    assert "Not installed: vagrant" in lacking.errors


# --- what is left, and damage -----------------------------------------------------------------


def test_prune_finds_what_was_left_and_nothing_that_is_needed(site: Site) -> None:
    def folder(path: Path, *, hours: float) -> Path:
        path.mkdir(parents=True)
        (path / "file").write_bytes(bytes(1000))
        os.utime(path, (time.time() - hours * 3600,) * 2)
        return path

    wheels = site.cache / "wheels"
    needed = folder(
        box_wheels.folder_of(box_recipe.find_recipe("debian-bookworm"), site.cache), hours=3
    )
    old, young = folder(wheels / "old", hours=2.1), folder(wheels / "young", hours=1.8)
    making = folder(wheels / ".making", hours=3)
    copy = folder(site.cache / "downloads" / f"docker-{site.name}.copy", hours=0)
    lock = copy.with_name(f"{copy.name}.lock")
    lock.touch()
    # Not those of the tests that run beside these.
    dead = site.project.beside(DOCKER_HOST="unix:///nowhere.sock")
    dry = dead.run("box-prune", "--dry-run", "--json")
    assert dry.status == 0, dry.errors
    assert sorted(one["what"] for one in dry.json["boxes"]) == sorted([str(old), str(copy)])
    assert dry.json["bytes"] >= 2000
    assert (old.exists(), copy.exists()) == (True, True)
    done = dead.run("box-prune", "--json")
    assert done.json["boxes"] == dry.json["boxes"]
    assert [path.exists() for path in (old, copy)] == [False, False]
    assert [path.exists() for path in (needed, young, making, lock)] == [True] * 4


def test_prune_finds_the_image_of_a_broken_import(site: Site) -> None:
    loaded = site.client.api.import_image_from_data(tree(content=uuid.uuid4().bytes))
    image = json.loads(loaded)["status"]
    site.cache.mkdir(parents=True)
    journal = site.cache / f"{site.name}.loading"
    journal.write_text(f"{image}\n")
    what = f"{image[:19]} of a broken import"
    dry = site.project.run("box-prune", "--dry-run", "--json")
    assert what in [one["what"] for one in dry.json["boxes"]], dry.errors
    assert journal.exists()
    with FileLock(site.cache / f"{site.name}.lock"):
        busy = site.project.run("box-prune", "--json")
        assert what not in [one["what"] for one in busy.json["boxes"]], "an import is at it"
    assert site.client.images.get(image).id == image
    assert site.project.run("box-prune").status == 0
    assert not journal.exists()
    with pytest.raises(docker.errors.ImageNotFound):
        site.client.images.get(image)


def test_what_is_damaged_is_shown_beside_the_others_and_can_be_removed(site: Site) -> None:
    old = "debian-bookworm-kiwi-9.25.1"
    site.client.api.import_image_from_data(
        tree(content=uuid.uuid4().bytes),
        repository=f"vagrant-kiwi/{old}",
        tag="x",
        changes=[f"LABEL vagrant-kiwi.box={old}"],
    )
    try:
        offer(site.project, site.name, {"provider": "docker", "recipe": f"gone/{site.name}"})
        listed = site.project.run("box-list", "--provider=docker")
        assert listed.status == 0, listed.errors
        states = {line.split()[0]: line for line in listed.output.splitlines()}
        assert "damaged" in states[site.name]
        assert "damaged" in states[old]
        assert "damaged" not in states["debian-bookworm"]
        assert "too old" in site.row(old)["problem"]
        assert site.row("debian-trixie")["problem"] is None
        updated = site.project.run("box-update", f"--name={old}", "--provider=docker", "--json")
        assert updated.status == 0, updated.errors
        assert "too old" in updated.json["left"][0]["reason"]
        made = site.project.run("box-add", f"--name={site.name}", "--json")
        assert made.status == 5, made.errors
        removed = site.project.run("box-remove", old, "--provider=docker", "--json")
        assert removed.status == 0, removed.errors
        assert site.client.images.list(name=f"vagrant-kiwi/{old}") == []
    finally:
        with contextlib.suppress(docker.errors.ImageNotFound):
            site.client.images.remove(f"vagrant-kiwi/{old}:x")


@pytest.mark.parametrize("task", [("box-add", "--force"), ("box-build",)], ids=["add", "build"])
def test_where_an_imported_box_came_from_is_not_asked_by_itself(
    site: Site, task: tuple[str, ...]
) -> None:
    assert site.add(f"--file={site.file(tree())}").status == 0
    before = site.images()
    done = site.project.run(*task, f"--name={site.name}", "--json")
    assert done.status == 5, done.errors
    assert "Import it again: invoke box-add" in done.json["error"]["resolution"]
    assert site.images() == before
