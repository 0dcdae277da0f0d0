"""box-list, box-add, box-update, box-remove, box-prune: a real daemon and a real web server."""

from __future__ import annotations

import contextlib
import gzip
import json
import lzma
import signal
import subprocess
import tarfile
import uuid
from collections.abc import Callable
from pathlib import Path

import docker.errors
import pytest

from tests.integration.box_site import Site, catalogue, saved, tree
from tests.integration.cli import Finished, finish, wait_until
from tests.integration.http_files import FileServer, Trick
from tests.integration.stand_in import BUSY, STAND_IN, describe, start_busy
from tests.unit.archives import Entry, hard_link, sha256

# --- import -----------------------------------------------------------------------------------


def test_a_box_from_a_web_server_is_checked_and_used_once(site: Site, server: FileServer) -> None:
    data = lzma.compress(tree(content=bytes(1000)))
    url = server.put("/site/box.tar.xz", data, Trick(cut=len(data) // 2))
    done = site.add(f"--url={url}", f"--sha256={sha256(data)}")
    assert done.status == 0, done.errors
    assert done.json["digest"] == sha256(data)
    assert (
        site.images() == [done.json["image"]] == [f"vagrant-kiwi/{site.name}:{sha256(data)[:12]}"]
    )
    first, second = server.ranges("/site/box.tar.xz")
    assert first is None
    assert second is not None, "it went on where it was cut off"
    assert not [path for path in (site.cache / "downloads").iterdir() if path.suffix != ".lock"]

    again = site.add(f"--url={url}", f"--sha256={sha256(data)}")
    assert again.json == done.json
    assert len(server.seen) == 2, "what is there is not fetched"
    forced = site.add(f"--url={url}", f"--sha256={sha256(data)}", "--force")
    assert forced.json["image"] == done.json["image"]
    assert forced.json["image_id"] != done.json["image_id"]
    with pytest.raises(docker.errors.ImageNotFound):
        site.client.images.get(done.json["image_id"])

    row = site.row()
    assert row["origin"] == url
    assert row["installed"][0]["image"] == done.json["image"]
    assert row["installed"][0]["outdated"] is False
    # A guest of it starts our own first process if it has one, else sshd.
    command = site.client.images.get(done.json["image"]).attrs["Config"]["Cmd"]
    assert "vagrant-kiwi-guest" in command[-1]
    assert "/usr/sbin/sshd" in command[-1]


def test_what_is_not_what_it_should_be_is_5_and_nothing_stays(
    site: Site, server: FileServer
) -> None:
    data = tree()
    url = server.put("/box.tar", data)
    short = server.put("/short.tar", data, usual=Trick(content=data[:-700]))
    file = site.file(data)
    for words, said in (
        ((f"--url={url}", f"--sha256={'0' * 64}"), sha256(data)),
        ((f"--url={short}", f"--sha256={sha256(data)}"), "SHA-256"),
        ((f"--url={server.url}/none.tar", f"--sha256={sha256(data)}"), "404"),
        ((f"--file={file}", f"--sha256={'0' * 64}"), "nothing was imported"),
        ((f"--file={site.project.folder}/none.tar",), "There is no file"),
        ((f"--file={site.file(data[:700], 'cut.tar')}",), "cut.tar"),
    ):
        done = site.add(*words)
        assert done.status == 5, done.errors
        assert said in json.dumps(done.json["error"])
    assert site.images() == []
    assert [path for path in site.cache.glob("downloads/*") if path.suffix != ".lock"] == []
    assert file.read_bytes() == data


def test_a_box_from_the_web_without_a_check_is_a_usage_error(
    site: Site, server: FileServer
) -> None:
    url = server.put("/box.tar", tree())
    for words, said in (
        ((f"--url={url}",), "must be checked"),
        ((f"--url={url}", "--signature=a.asc"), "--keyring"),
        ((f"--url={url}", "--file=a.tar"), "do not go together"),
        ((f"--url={url}", "--sha256=abc"), "64 hex digits"),
        (("--sha256=" + "0" * 64,), "nothing to check"),
        (("--image=a/b", "--provider=libvirt"), "--image is for docker"),
    ):
        done = site.add(*words)
        assert done.status == 1, done.errors
        assert said in done.errors
    for name, said in (("debian-trixie", "catalogue has a box"), ("No_Name", "cannot be called")):
        done = site.project.run("box-add", f"--name={name}", f"--url={url}", f"--sha256={'0' * 64}")
        assert done.status == 1
        assert said in done.errors
    assert server.seen == [], "nothing was asked for"


def test_a_signed_box(site: Site, server: FileServer) -> None:
    home = site.project.folder / "gpg"
    home.mkdir(mode=0o700)

    def gpg(*words: str) -> bytes:
        command = ["gpg", "--homedir", str(home), "--batch", "--passphrase", "", *words]
        return subprocess.run(command, check=True, capture_output=True).stdout

    try:
        gpg("--quick-generate-key", "boxes@example.org", "ed25519", "sign", "never")
        (site.project.folder / "keys.asc").write_bytes(gpg("--export", "--armor"))
        good = site.file(tree(content=b"good"))
        gpg("--detach-sign", "--armor", str(good))
        signature = server.put("/box.asc", good.with_name("box.tar.asc").read_bytes())
        url = server.put("/box.tar", good.read_bytes())
        bad = server.put("/bad.tar", tree(content=b"evil"))
        keys = "--keyring=keys.asc"
        refused = site.add(f"--url={bad}", f"--signature={signature}", keys)
        assert refused.status == 5, refused.errors
        assert site.images() == []
        done = site.add(f"--url={url}", f"--signature={signature}", keys)
        assert done.status == 0, done.errors
        assert "boxes@example.org" in done.errors
        assert site.images() == [done.json["image"]]
    finally:
        subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False)


@pytest.mark.parametrize(
    "make",
    [
        lambda: tree(Entry("../outside", bytes(4))),
        lambda: tree(Entry("/tmp/vk-outside", bytes(4))),
        lambda: tree(hard_link("etc/x", "/etc/passwd")),
        lambda: tree(Entry("dev/sda", kind=tarfile.BLKTYPE, device=(8, 0))),
        lambda: gzip.compress(tree(Entry("bomb", bytes(600 << 20))), 1),
        lambda: tree(content=bytes(2000))[:2048],
        lambda: lzma.compress(tree(content=bytes(2000)))[:-20],
        lambda: b"no archive at all",
    ],
    ids=["dot-dot", "absolute", "link", "device", "bomb", "cut", "cut-xz", "none"],
)
def test_a_dangerous_archive_is_5_before_docker_sees_it(
    site: Site, make: Callable[[], bytes]
) -> None:
    done = site.add(f"--file={site.file(make())}")
    assert done.status == 5, done.errors
    assert site.images() == []
    assert not Path("/tmp/vk-outside").exists()
    assert sorted(path.name for path in site.project.folder.iterdir()) == ["box.tar", "cache"]


def test_a_docker_archive_takes_no_name_of_anything(site: Site) -> None:
    client = site.client
    name = f"{site.name}-mine:1"
    archive = saved(client, tree(content=b"theirs"), name)
    client.api.import_image_from_data(
        tree(content=b"mine"), repository=f"{site.name}-mine", tag="1"
    )
    mine = client.images.get(name).id
    try:
        done = site.add(f"--file={site.file(gzip.compress(archive))}", "--kiwi-version=11.1.6")
        assert done.status == 0, done.errors
        assert client.images.get(name).id == mine
        labels = client.images.get(done.json["image"]).labels
        assert labels["vagrant-kiwi.box"] == site.name
        assert labels["vagrant-kiwi.kiwi"] == "11.1.6" == done.json["kiwi"]
    finally:
        client.images.remove(name)


@pytest.mark.parametrize("moment", ["downloading", "importing"])
def test_after_a_killed_import_the_next_one_succeeds(
    site: Site, server: FileServer, moment: str
) -> None:
    big = tree(content=uuid.uuid4().bytes * (2 << 20))
    data = saved(site.client, big, f"{site.name}-x:1") if moment == "importing" else big
    url = server.put(
        "/box.tar", data, *([Trick(hold=len(data) // 2)] if moment == "downloading" else [])
    )
    words = (f"--url={url}", f"--sha256={sha256(data)}")
    running = site.project.start("box-add", f"--name={site.name}", *words)
    if moment == "downloading":
        server.wait_for_hold()
    else:
        journal = site.cache / f"{site.name}.loading"
        wait_until(journal.exists, what="the archive goes to Docker", timeout=60)
    running.send_signal(signal.SIGKILL)
    assert finish(running).status == -9
    server.release()
    done = site.add(*words)
    assert done.status == 0, done.errors
    if moment == "downloading":
        assert server.ranges("/box.tar")[1] is not None
    assert not (site.cache / f"{site.name}.loading").exists()


# --- the catalogue ----------------------------------------------------------------------------


def test_a_box_of_the_catalogue_is_updated_when_that_changes(
    site: Site, server: FileServer
) -> None:
    first, second = tree(content=b"1"), tree(content=b"2")
    catalogue(site, server, first, version="1")
    assert site.row()["installed"] == []
    added = site.project.run("box-add", f"--name={site.name}", "--json")
    assert added.status == 0, added.errors
    assert added.json["digest"] == sha256(first)
    update = ("box-update", f"--name={site.name}", "--json")
    done = site.project.run(*update)
    assert (done.json["updated"], [one["name"] for one in done.json["current"]]) == (
        [],
        [site.name],
    )

    catalogue(site, server, second, version="2")
    assert site.row()["installed"][0]["outdated"] is True
    # A guest of the old one keeps it.
    guest = site.client.containers.create(added.json["image"], ["none"])
    try:
        done = site.project.run(*update)
        assert done.status == 0, done.errors
        assert [(one["name"], one["version"]) for one in done.json["updated"]] == [(site.name, "2")]
        newest, old = site.row()["installed"]
        assert (newest["digest"], newest["outdated"]) == (sha256(second), False)
        assert (old["image"], old["outdated"]) == (added.json["image"], True)
        assert old["used_by"] == [f"container {guest.name}"]
        kept = site.project.run("box-prune", "--json")
        assert kept.status == 0, kept.errors
        assert added.json["image"] in site.images()
    finally:
        guest.remove()
    dry = site.project.run("box-prune", "--dry-run", "--json")
    named = {one["what"]: one["size"] for one in dry.json["boxes"]}
    assert f"{added.json['image']} 1" in named
    assert dry.json["bytes"] >= named[f"{added.json['image']} 1"]
    assert added.json["image"] in site.images(), "nothing is removed"
    assert site.project.run("box-prune").status == 0
    assert site.images() == [newest["image"]]


def test_a_box_that_the_catalogue_has_for_a_build_is_fetched_by_it(
    site: Site, server: FileServer
) -> None:
    catalogue(site, server, tree())
    folder = describe(site.project.folder / "image")
    config = folder / "config.xml"
    config.write_text(config.read_text().replace(">apt<", ">zypper<"))
    plan = site.project.run("build", "--description=image", "--dry-run", "--json")
    assert plan.json["box"] == site.name, plan.errors
    # It is no box: there is not even a shell in it.
    done = site.project.run("build", "--description=image", "--provider=docker-direct", "--json")
    assert done.status == 6, done.errors
    assert len(site.images()) == 1


def test_the_box_of_the_distribution_is_chosen_and_another_one_warned_of(
    site: Site, checkout: Path
) -> None:
    def plan(example: str, *words: str) -> Finished:
        done = site.project.run(
            "build", f"--description={checkout}/examples/{example}", "--dry-run", "--json", *words
        )
        assert done.status == 0, done.errors
        return done

    assert plan("debian-tarball").json["box"] == "debian-bookworm"
    right = plan("debian-trixie-tarball", "--provider=libvirt")
    assert right.json["box"] == "debian-trixie"
    assert "warning" not in right.errors
    other = plan("debian-trixie-tarball", "--box=debian-bookworm")
    assert other.json["box"] == "debian-bookworm"
    assert "--box=debian-trixie is the better one" in other.errors


# --- removal, while builds run ----------------------------------------------------------------


def test_a_box_in_use_is_not_removed(site: Site) -> None:
    assert site.add(f"--file={site.file(tree())}").status == 0
    (image,) = site.images()
    guest = site.client.containers.create(image, ["none"])
    try:
        refused = site.project.run("box-remove", site.name, "--json")
        assert refused.status == 5
        assert guest.name in refused.json["error"]["details"]
        assert site.images() == [image]
        forced = site.project.run("box-remove", site.name, "--force", "--json")
        assert forced.status == 0, forced.errors
        assert site.images() == []
    finally:
        guest.remove()
        with contextlib.suppress(docker.errors.ImageNotFound):
            site.client.images.remove(guest.attrs["Image"])
    gone = site.project.run("box-remove", site.name, "--json")
    assert gone.status == 5
    assert "is not installed" in gone.json["error"]["brief"]


@pytest.fixture
def holder(site: Site, box: str) -> Callable[[], subprocess.Popen[str]]:
    """Return what starts a build in a copy of our box, under the site's name."""
    site.client.images.get(box).tag("registry.example.com/vk-test", "1")
    try:
        done = site.add("--image=registry.example.com/vk-test:1")
    finally:
        site.client.images.remove("registry.example.com/vk-test:1")
    assert done.status == 0, done.errors
    site.project.settings(provision=[str(STAND_IN)], mirrors="off", box=site.name)
    describe(site.project.folder / "image", behave=BUSY)
    return lambda: start_busy(site.project, "--description=image", "--provider=docker-direct")


def test_a_running_build_is_not_disturbed(
    site: Site, holder: Callable[[], subprocess.Popen[str]]
) -> None:
    running = holder()
    try:
        (image,) = site.images()
        # The guest is there; and from its beginning to its end the build holds the box, too.
        for words in (("box-remove", site.name), ("box-prune",)):
            site.project.run(*words)
            assert site.images() == [image]
        refused = site.project.run("box-remove", site.name, "--json")
        assert refused.status == 5
        assert "run " in refused.json["error"]["details"]
        newer = site.add(f"--file={site.file(tree())}")
        assert newer.status == 0, newer.errors
        assert len(site.images()) == 2, "the one in use stays beside the newer one"
        assert running.poll() is None
    finally:
        running.send_signal(signal.SIGTERM)
        ended = finish(running)
    assert ended.status == 143, ended.errors


def test_a_root_file_system_is_a_box_for_vagrant(site: Site, box: str) -> None:
    file = site.project.folder / "root.tar"
    guest = site.client.containers.create(box, ["none"])
    try:
        command = ["docker", "export", f"--output={file}", str(guest.id)]
        subprocess.run(command, check=True)
    finally:
        guest.remove()
    done = site.add(f"--file={file}", "--kiwi-version=11.1.6")
    assert done.status == 0, done.errors
    verified = site.project.run("box-verify", f"--name={site.name}", "--json")
    assert verified.status == 0, verified.errors
    site.project.settings(provision=[str(STAND_IN)], mirrors="off", box=site.name)
    describe(site.project.folder / "image")
    built = site.project.run("build", "--description=image", "--provider=docker", "--json")
    assert built.status == 0, built.errors
    manifest = json.loads((Path(built.json["result_dir"]) / "manifest.json").read_text())
    assert manifest["box"]["digest"] == done.json["digest"]
