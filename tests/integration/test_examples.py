"""The examples, built by the real KIWI in real guests, and what is in the images."""

from __future__ import annotations

import grp
import json
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.integration import images
from tests.integration.cli import CHECKOUT, Finished, Project, finish, wait_until
from tests.integration.conftest import need
from vagrant_kiwi import box_recipe
from vagrant_kiwi.process import Runner

EXAMPLES = CHECKOUT / "examples"


def built(done: Finished, suffix: str) -> Path:
    """Return the image of a good build."""
    assert done.status == 0, done.errors
    answer = done.json
    names = [str(entry["path"]) for entry in answer["artifacts"]]
    found = [name for name in names if name.endswith(suffix)]
    assert len(found) == 1, names
    return Path(str(answer["result_dir"])) / found[0]


def test_the_tarball(project: Project, unchanged: None) -> None:
    # With Vagrant an ordinary user builds it, below.
    done = project.run(
        *("build", f"--description={EXAMPLES / 'debian-tarball'}", "--json"),
        "--provider=docker-direct",
    )
    archive = built(done, ".tar.xz")
    assert images.read_from_tarball(archive, "/etc/vagrant-kiwi-example")
    assert images.read_from_tarball(archive, "/etc/vagrant-kiwi-built") == b"debian-tarball 1.0.0\n"
    # Whatever mirror this host needed, the image names the one of the description.
    sources = b"".join(
        images.read_from_tarball(archive, name)
        for name in images.list_tarball(archive)
        if name.startswith("/etc/apt/sources.list.d/") and name != "/etc/apt/sources.list.d"
    )
    assert b"http://ftp.de.debian.org/debian" in sources
    hosts = {word.split(b"/")[2] for word in sources.split() if word.startswith(b"http")}
    assert hosts == {b"ftp.de.debian.org"}


def test_the_tarball_of_a_debian_that_is_not_the_host_s(
    project: Project, trixie_box: str, unchanged: None
) -> None:
    done = project.run(
        *("build", f"--description={EXAMPLES / 'debian-trixie-tarball'}", "--json"),
        *("--box=debian-trixie", "--provider=docker-direct"),
    )
    archive = built(done, ".tar.xz")
    manifest = json.loads((archive.parent / "manifest.json").read_text())
    assert manifest["box"]["image"] == trixie_box
    mark = images.read_from_tarball(archive, "/etc/vagrant-kiwi-built")
    assert mark == b"debian-trixie-tarball 1.0.0\n"
    assert images.read_from_tarball(archive, "/etc/vagrant-kiwi-example")
    assert b"VERSION_CODENAME=trixie\n" in images.read_from_tarball(archive, "/usr/lib/os-release")
    sources = images.read_from_tarball(archive, "/etc/apt/sources.list.d/trixie.sources")
    assert b"URIs: http://ftp.de.debian.org/debian\nSuites: trixie\n" in sources


@pytest.mark.full
def test_an_older_kiwi_checks_signatures_with_the_apt_of_trixie(
    project: Project, docker_client: docker.DockerClient
) -> None:
    folder = copy_of_tarball(project, "debian-trixie-tarball")
    config = folder / "config.xml"
    # What this KIWI knows.
    config.write_text(config.read_text().replace('schemaversion="8.5"', 'schemaversion="8.3"'))
    recipe = box_recipe.find_recipe("debian-trixie", kiwi_version="10.2.40")
    words = ("build", "--box=debian-trixie", "--kiwi-version=10.2.40", "--provider=docker-direct")
    try:
        archive = built(project.run(*words, "--description=image", "--json"), ".tar.xz")
        mark = images.read_from_tarball(archive, "/etc/vagrant-kiwi-built")
        assert mark == b"debian-trixie-tarball 1.0.0\n"
        key = config.read_text().replace(
            "/usr/share/keyrings/debian-archive-keyring.gpg",
            "/usr/share/keyrings/debian-archive-removed-keys.gpg",
        )
        config.write_text(key)
        refused = project.run(*words, "--description=image", "--json")
        assert refused.status == 7, refused.errors
        assert "OpenPGP signature verification failed" in str(refused.json["error"])
    finally:
        for image in docker_client.images.list(name=recipe.repository):
            docker_client.images.remove(str(image.id), force=True)


def test_the_container(
    project: Project, unchanged: None, docker_client: docker.DockerClient
) -> None:
    archive = built(
        project.run("build", f"--description={EXAMPLES / 'debian-container'}", "--json"),
        ".docker.tar.xz",
    )
    said = images.run_container_image(
        docker_client, archive, ["cat", "/etc/vagrant-kiwi-example", "/etc/vagrant-kiwi-built"]
    )
    assert "debian-container 1.0.0" in said


@pytest.mark.full
def test_the_disk_boots(project: Project, unchanged: None, runner: Runner) -> None:
    image = built(
        project.run("build", f"--description={EXAMPLES / 'debian-disk'}", "--json"), ".qcow2"
    )
    console = images.boot_to_login(image, runner=runner)
    assert "debian-disk login:" in console
    assert "Built: debian-disk 1.0.0" in console


def copy_of_tarball(project: Project, name: str = "debian-tarball") -> Path:
    """Return a copy of the smallest example for a test to spoil."""
    folder = project.folder / "image"
    shutil.copytree(EXAMPLES / name, folder)
    return folder


def test_an_unknown_package_is_kiwi_s_own_error(project: Project, unchanged: None) -> None:
    folder = copy_of_tarball(project)
    config = folder / "config.xml"
    config.write_text(config.read_text().replace('"netbase"', '"no-such-package-anywhere"'))
    done = project.run("build", "--description=image", "--json")
    assert done.status == 7, done.errors
    error = done.json["error"]
    assert "no-such-package-anywhere" in error["brief"] + error["details"]
    assert done.json["log"] in done.errors
    assert not (project.folder / ".vagrant-kiwi/result").exists()


@pytest.mark.parametrize(
    ("example", "box_name", "words"),
    [
        ("debian-tarball", "debian-bookworm", ("NO_PUBKEY", "signature", "GPG error")),
        # Its apt asks sqv, not gpgv.
        ("debian-trixie-tarball", "debian-trixie", ("OpenPGP signature verification failed",)),
    ],
)
def test_a_wrong_signing_key_is_refused(
    project: Project,
    trixie_box: str,
    unchanged: None,
    example: str,
    box_name: str,
    words: tuple[str, ...],
) -> None:
    folder = copy_of_tarball(project, example)
    (folder / "key").mkdir()
    home = project.folder / "gnupg"
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--batch", "--homedir", str(home)]
    subprocess.run(
        [*gpg, "--passphrase", "", "--quick-gen-key", "nobody@example.org"],
        check=True,
        capture_output=True,
    )
    exported = subprocess.run(
        [*gpg, "--export", "nobody@example.org"], check=True, capture_output=True
    )
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=True)
    key = project.folder / "wrong.gpg"
    key.write_bytes(exported.stdout)
    config = folder / "config.xml"
    config.write_text(
        config.read_text().replace(
            "/usr/share/keyrings/debian-archive-keyring.gpg", "/srv/wrong.gpg"
        )
    )
    done = project.run(
        *("build", "--description=image", f"--box={box_name}"),
        *("--sync=wrong.gpg:/srv/wrong.gpg", "--json"),
    )
    assert done.status == 7, done.errors
    error = done.json["error"]
    assert any(word in error["brief"] + error["details"] for word in words), error


def test_sigterm_in_the_middle_of_the_real_kiwi(project: Project, unchanged: None) -> None:
    copy_of_tarball(project)
    running = project.start("build", "--description=image", "--json")
    wait_until(lambda: "Installing bootstrap packages" in project.log(), what="KIWI installs")
    running.send_signal(signal.SIGTERM)
    done = finish(running, timeout=180)
    assert done.status == 143, done.errors


ORDINARY = "vk-ordinary"


@pytest.fixture
def ordinary_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Have a user who is in the group docker and no other, and yield his home."""
    if os.geteuid() != 0:
        need("only root can make a user")
    home = Path("/tmp") / ORDINARY  # pytest's own folders are closed to him
    subprocess.run(
        ["useradd", "--create-home", "--home-dir", home, "--groups", "docker", ORDINARY], check=True
    )
    try:
        # The checkout may lie where he may not look.
        for name in ("vagrant_kiwi", "templates", "boxes", "examples"):
            shutil.copytree(CHECKOUT / name, home / "checkout" / name)
        site = Path(docker.__file__).parents[1]
        shutil.copytree(site, home / "site", ignore=shutil.ignore_patterns("__pycache__"))
        subprocess.run(["chmod", "-R", "go+rX", home], check=True)
        subprocess.run(["chown", "-R", f"{ORDINARY}:", home], check=True)
        yield home
    finally:
        subprocess.run(["userdel", "--remove", ORDINARY], check=True, capture_output=True)


def test_an_ordinary_user_owns_his_result(unchanged: None, ordinary_user: Path) -> None:
    home = ordinary_user
    done = subprocess.run(
        [
            *("runuser", "-u", ORDINARY, "--", "env", "-i", f"HOME={home}", f"USER={ORDINARY}"),
            *("PATH=/usr/local/bin:/usr/bin:/bin", f"PYTHONPATH={home}/checkout:{home}/site"),
            *("/usr/bin/python3", "-c", "from vagrant_kiwi.program import main; main()"),
            *("build", f"--description={home}/checkout/examples/debian-tarball", "--json"),
        ],
        cwd=home,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    uid = pwd.getpwnam(ORDINARY).pw_uid
    folder = Path(answer["result_dir"])
    for path in (folder, *folder.iterdir()):
        assert path.stat().st_uid == uid
        assert path.stat().st_gid == grp.getgrnam(ORDINARY).gr_gid
    archive = next(folder.glob("*.tar.xz"))
    assert images.read_from_tarball(archive, "/etc/vagrant-kiwi-built")
