"""Build boxes: recipes, wheels, mirrors, the Docker API's streams; nothing is started here."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import docker
import docker.auth
import docker.errors
import pytest
import requests
import requests.exceptions
from hypothesis import given
from hypothesis import strategies as st

from vagrant_kiwi import box_build, box_recipe, box_rootfs, box_wheels, boxes, docker_stream
from vagrant_kiwi.box_rootfs import Mirrors
from vagrant_kiwi.data import data_folder
from vagrant_kiwi.deadline import Deadline
from vagrant_kiwi.errors import BoxError, PhaseTimeoutError, PreflightError, VagrantKiwiError
from vagrant_kiwi.process import (
    CommandNotFoundError,
    CommandResult,
    CommandTimeoutError,
    Runner,
)

NAME = "test-box"
IMAGE = "sha256:" + "1" * 64
BASE = "sha256:" + "2" * 64
PUBLIC = Mirrors("http://mirror.example.org/debian", "http://mirror.example.org/security")
SECRET = Mirrors("https://joe:p%40ss@mirror.example.org/debian", None)

BOX_TOML = """\
version = "7"
distribution = "debian"
suite = "bookworm"
base = "debian:bookworm-slim"
python = "3.11"
glibc = "2.20"
mirror = "http://official.example.org/debian"
security_mirror = "http://official.example.org/security"
keyring = "{keyring}"
source_packages = ["kiwi"]
build_packages = ["poetry-core"]
"""
LOCK = """\
# a comment
kiwi==11.1.6 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
lxml==6.1.3 --hash=sha256:cc
Poetry-Core==2.5.0 \\
    --hash=sha256:dd
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a recipe's folder, among others' in ``boxes``."""
    made = tmp_path / "boxes" / NAME
    made.mkdir(parents=True)
    keyring = tmp_path / "keyring.gpg"
    keyring.write_bytes(b"")
    (made / "box.toml").write_text(BOX_TOML.format(keyring=keyring))
    (made / "Dockerfile").write_text("FROM scratch\n")
    (made / "packages.txt").write_text("# a list\nsudo\n\nrsync  # why\n")
    (made / "kiwi.lock").write_text(LOCK)
    return made


@pytest.fixture
def recipe(folder: Path) -> box_recipe.Recipe:
    return box_recipe.load_recipe(folder, arch="amd64")


@dataclass(frozen=True)
class Scripted(Runner):
    """A runner that answers each command by a function; it starts nothing."""

    answer: Callable[[Sequence[str], Mapping[str, Any]], CommandResult | Exception] | None = None
    ran: list[tuple[str, ...]] = field(default_factory=list)

    def run(self, argv: Sequence[str], **options: Any) -> CommandResult:
        assert options["timeout"] > 0
        assert self.answer is not None, f"unscripted: {argv}"
        self.ran.append(tuple(argv))
        answer = self.answer(argv, options)
        if isinstance(answer, Exception):
            raise answer
        if options.get("on_output") is not None:
            options["on_output"](answer.output)
        return answer


def said(text: str, status: int = 0) -> CommandResult:
    return CommandResult((), status, text.encode())


def soon(seconds: float = 60) -> Deadline:
    return Deadline.after(seconds, what="Making the box")


# --- Recipes -----------------------------------------------------------------------------------


def test_our_own_recipe_is_sound() -> None:
    ours = box_recipe.find_recipe("debian-bookworm", arch="amd64")
    assert ours.facts.suite == "bookworm"
    assert ours.repository == "vagrant-kiwi/debian-bookworm"
    assert len(ours.packages) == len(set(ours.packages))
    assert {"openssh-server", "sudo", "rsync", "python3-venv", "qemu-utils"} <= set(ours.packages)
    pins = box_wheels.split_lock((ours.folder / "kiwi.lock").read_text())
    assert pins["kiwi"].startswith("kiwi==11.1.6 --hash=sha256:")
    assert {*ours.facts.source_packages, *ours.facts.build_packages} <= pins.keys()
    assert all("--hash=sha256:" in pin for pin in pins.values())


def test_a_recipe_is_read(recipe: box_recipe.Recipe, folder: Path) -> None:
    assert (recipe.name, recipe.version, recipe.arch) == (NAME, "7", "amd64")
    assert recipe.packages == ("sudo", "rsync")
    assert boxes.docker_tag(recipe) == f"vagrant-kiwi/{NAME}:{recipe.digest[:12]}"
    assert box_recipe.find_recipe(NAME, boxes=folder.parent, arch="amd64") == recipe


def test_the_digest_covers_each_file_and_the_architecture(folder: Path) -> None:
    seen = {box_recipe.load_recipe(folder, arch=arch).digest for arch in ("amd64", "arm64")}
    for path in sorted(folder.iterdir()):
        before = path.read_text()
        path.write_text(before + "\n# more\n")
        seen.add(box_recipe.load_recipe(folder, arch="amd64").digest)
        path.write_text(before)
    (folder / "new.sh").write_text("")
    seen.add(box_recipe.load_recipe(folder, arch="amd64").digest)
    assert len(seen) == 2 + 4 + 1


def test_the_digest_keeps_names_and_contents_apart(folder: Path) -> None:
    def digest(**files: str) -> str:
        for name, content in files.items():
            (folder / name).write_text(content)
        found = box_recipe.load_recipe(folder, arch="amd64").digest
        for name in files:
            (folder / name).unlink()
        return found

    assert len({digest(a="bc", d="e"), digest(a="b", cd="e"), digest(a="", bcd="e")}) == 3


def test_what_does_not_belong_to_the_box_does_not_change_it(folder: Path) -> None:
    before = box_recipe.load_recipe(folder, arch="amd64").digest
    (folder / "Dockerfile~").write_text("old")
    (folder / ".swp").write_text("editor")
    (folder / "libvirt").mkdir()
    (folder / "libvirt" / "config.xml").write_text("<image/>")
    (folder / "Dockerfile").chmod(0o755)
    os.utime(folder / "Dockerfile", (1, 1))
    assert box_recipe.load_recipe(folder, arch="amd64").digest == before


@pytest.mark.parametrize(
    ("old", "new", "details"),
    [
        ('version = "7"', "", "version: Field required"),
        ('version = "7"', "version = 7", "version: Input should be a valid string"),
        ('version = "7"', 'version = "7"\ncolour = "red"', "colour: Extra inputs"),
        ('"bookworm"', '"bookworm; rm -rf /"', "suite: String should match"),
        ('"bookworm"', '"--option"', "suite: String should match"),
        ('"bookworm"', '"bookworm\\nother"', "suite: String should match"),
        ("http://official", "http://joe:pw@official", "mirror: String should match"),
        ('suite = "', "suite = [", "Unclosed array"),
    ],
)
def test_a_bad_box_toml_is_exit_5_with_the_place(
    folder: Path, old: str, new: str, details: str
) -> None:
    path = folder / "box.toml"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(BoxError) as caught:
        box_recipe.load_recipe(folder, arch="amd64")
    assert caught.value.code == 5
    assert details in caught.value.details or "Invalid value" in caught.value.details
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("name", ["box.toml", "Dockerfile", "packages.txt", "kiwi.lock"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BoxError, match=name):
        box_recipe.load_recipe(folder, arch="amd64")


@pytest.mark.parametrize("name", ["", "other", "../boxes/test-box", ".", "/etc"])
def test_an_unknown_box_is_exit_5_and_names_the_known(folder: Path, name: str) -> None:
    with pytest.raises(BoxError) as caught:
        box_recipe.find_recipe(name, boxes=folder.parent)
    assert caught.value.code == 5
    assert caught.value.details == f"known: {NAME}"


def test_an_architecture_without_boxes_is_exit_4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "s390x")
    with pytest.raises(PreflightError, match="s390x"):
        box_recipe.host_arch()
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert box_recipe.host_arch() == "arm64"
    assert box_recipe.wheel_arch("arm64") == "aarch64"


# --- Data folders ------------------------------------------------------------------------------


def test_the_wheels_data_comes_before_the_checkouts(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    with pytest.raises(VagrantKiwiError, match="lacks its boxes"):
        data_folder("boxes", package=package)
    (tmp_path / "boxes").mkdir()
    assert data_folder("boxes", package=package) == tmp_path / "boxes"
    (package / "data/boxes").mkdir(parents=True)
    assert data_folder("boxes", package=package) == package / "data/boxes"


# --- Deadlines ---------------------------------------------------------------------------------


def test_a_deadline_counts_down_and_says_what_was_late() -> None:
    assert 59 < soon(60).left() <= 60
    late = Deadline(what="Making the box", limit=30, at=time.monotonic())
    with pytest.raises(PhaseTimeoutError) as caught:
        late.left()
    assert caught.value.code == 124
    assert caught.value.brief == "Making the box took longer than 30 s"


# --- Mirrors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("http://mirror.example.org/debian", True),
        ("https://mirror.example.org:8443/debian/", True),
        ("http://joe:pw@mirror.example.org/debian", False),
        ("http://token@mirror.example.org/debian", False),
        ("http://:pw@mirror.example.org/debian", False),
        ("http://localhost:3142/debian", False),
        ("http://127.0.0.1/debian", False),
        ("http://127.9.9.9/debian", False),
        ("http://[::1]/debian", False),
        ("file:///srv/debian", False),
        ("copy:/srv/debian", False),
    ],
)
def test_which_mirrors_may_be_named_in_the_box(url: str, public: bool) -> None:
    assert Mirrors(url, None).public is public
    assert Mirrors("http://mirror.example.org/debian", url).public is public


def test_the_lines_for_apt() -> None:
    assert PUBLIC.sources("bookworm") == (
        "deb http://mirror.example.org/debian bookworm main\n"
        "deb http://mirror.example.org/debian bookworm-updates main\n"
        "deb http://mirror.example.org/security bookworm-security main\n"
    )
    assert Mirrors("http://m.example.org", None).sources("sid").count("\n") == 2


def test_credentials_are_in_no_repr() -> None:
    assert "joe" not in repr(SECRET)
    assert "p%40ss" not in repr(box_build.BoxInputs(SECRET, "key", Path("/")))


def test_credentials_are_taken_out_of_texts() -> None:
    text = "E: https://joe:p%40ss@mirror.example.org/debian 401; tried joe:p@ss, p@ss, p%40ss"
    assert (
        SECRET.redact(text) == "E: https://***@mirror.example.org/debian 401; tried ***, ***, ***"
    )
    assert PUBLIC.redact(text) == text
    assert Mirrors("http://tok3n@m.example.org", None).redact("at tok3n@m") == "at ***@m"


WORDS = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_characters="*"),
    min_size=6,
    max_size=20,
)


@given(WORDS, WORDS, WORDS)
def test_no_password_survives_redaction(user: str, password: str, around: str) -> None:
    for written in (password, quote(password, safe="")):
        mirrors = Mirrors(
            f"http://{quote(user, safe='')}:{quote(password, safe='')}@m.example.org/debian", None
        )
        shown = mirrors.redact(f"{around} {written} {mirrors.packages}")
        assert written not in shown.replace(around, "")


# --- Wheels ------------------------------------------------------------------------------------


def test_a_lock_is_split_with_its_hashes() -> None:
    assert box_wheels.split_lock(LOCK) == {
        "kiwi": "kiwi==11.1.6 --hash=sha256:aa --hash=sha256:bb",
        "lxml": "lxml==6.1.3 --hash=sha256:cc",
        "poetry-core": "Poetry-Core==2.5.0 --hash=sha256:dd",
    }


def option(argv: Sequence[str], name: str) -> str:
    return argv[argv.index(name) + 1]


def pip(argv: Sequence[str], options: Mapping[str, Any]) -> CommandResult:
    """Do what pip would: one wheel a requirement."""
    for line in Path(option(argv, "-r")).read_text().splitlines():
        package = line.partition("==")[0]
        if argv[3] in ("download", "wheel"):
            target = option(argv, "--dest" if argv[3] == "download" else "--wheel-dir")
            (Path(target) / f"{package}-1-py3-none-any.whl").write_bytes(b"wheel")
    assert "--require-hashes" in argv
    assert "--no-deps" in argv
    return said("")


def wheels(recipe: box_recipe.Recipe, runner: Runner, cache: Path, log: list[str]) -> Path:
    return box_wheels.ensure_wheels(recipe, runner, cache=cache, log=log.append, deadline=soon())


def test_wheels_are_made_once_for_the_boxes_python(
    recipe: box_recipe.Recipe, tmp_path: Path
) -> None:
    runner = Scripted({}, pip)
    made = wheels(recipe, runner, tmp_path / "cache", [])
    assert sorted(path.name for path in made.iterdir()) == [
        "kiwi-1-py3-none-any.whl",
        "lxml-1-py3-none-any.whl",
    ]
    download, install, wheel = runner.ran
    assert option(download, "--python-version") == "3.11"
    assert [word for word in download if word.startswith("--platform")] == [
        "--platform=manylinux_2_20_x86_64",
        "--platform=manylinux_2_19_x86_64",
        "--platform=manylinux_2_18_x86_64",
        "--platform=manylinux_2_17_x86_64",
        "--platform=manylinux2014_x86_64",
    ]
    assert install[3] == "install"
    assert "--no-build-isolation" in wheel
    assert wheels(recipe, runner, tmp_path / "cache", []) == made
    assert len(runner.ran) == 3
    assert [path.name for path in (tmp_path / "cache/wheels").iterdir()] == [made.name]


def test_another_lock_or_python_has_other_wheels(folder: Path, tmp_path: Path) -> None:
    made = set()
    for old, new in (("", ""), ('"3.11"', '"3.13"'), ('"2.20"', '"2.41"')):
        path = folder / "box.toml"
        path.write_text(path.read_text().replace(old, new))
        recipe = box_recipe.load_recipe(folder, arch="amd64")
        made.add(wheels(recipe, Scripted({}, pip), tmp_path, []))
    (folder / "kiwi.lock").write_text(LOCK.replace("6.1.3", "6.1.4"))
    recipe = box_recipe.load_recipe(folder, arch="amd64")
    made.add(wheels(recipe, Scripted({}, pip), tmp_path, []))
    assert len(made) == 4


def test_a_failing_pip_is_exit_5_and_leaves_nothing(
    recipe: box_recipe.Recipe, tmp_path: Path
) -> None:
    def fails(argv: Sequence[str], options: Mapping[str, Any]) -> CommandResult:
        if argv[3] == "wheel":
            return said("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES\n", 1)
        return pip(argv, options)

    log: list[str] = []
    with pytest.raises(BoxError, match="DO NOT MATCH THE HASHES") as caught:
        wheels(recipe, Scripted({}, fails), tmp_path, log)
    assert caught.value.code == 5
    assert "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES" in log
    assert list((tmp_path / "wheels").iterdir()) == []


def test_a_missing_wheel_is_noticed(recipe: box_recipe.Recipe, tmp_path: Path) -> None:
    with pytest.raises(BoxError, match="one wheel for each package"):
        wheels(recipe, Scripted({}, lambda argv, options: said("")), tmp_path, [])


def test_a_source_package_without_a_pin_is_noticed(folder: Path, tmp_path: Path) -> None:
    (folder / "kiwi.lock").write_text("lxml==1 --hash=sha256:aa\n")
    recipe = box_recipe.load_recipe(folder, arch="amd64")
    with pytest.raises(BoxError, match="does not pin kiwi, poetry-core"):
        wheels(recipe, Scripted({}), tmp_path, [])


def test_a_slow_pip_is_exit_124(recipe: box_recipe.Recipe, tmp_path: Path) -> None:
    def slow(argv: Sequence[str], options: Mapping[str, Any]) -> Exception:
        return CommandTimeoutError(argv, 60, b"Collecting lxml\n")

    with pytest.raises(PhaseTimeoutError, match="Collecting lxml") as caught:
        wheels(recipe, Scripted({}, slow), tmp_path, [])
    assert caught.value.code == 124


# --- mmdebstrap --------------------------------------------------------------------------------


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that mmdebstrap's own temporary folder is made in."""
    path = tmp_path / "scratch"
    path.mkdir()
    monkeypatch.setattr(box_rootfs, "_scratch_parent", lambda environment: path)
    return path


def mmdebstrap(
    recipe: box_recipe.Recipe,
    runner: Runner,
    cache: Path,
    *,
    mirrors: Mirrors = PUBLIC,
    log: list[str] | None = None,
) -> bytes:
    cache.mkdir(exist_ok=True)
    with box_rootfs.root_file_system(
        recipe,
        mirrors,
        runner,
        build="b1",
        cache=cache,
        log=(log if log is not None else []).append,
        deadline=soon(),
    ) as tar:
        return tar.read_bytes()


@pytest.mark.parametrize(("uid", "mode"), [(0, "root"), (1000, "unshare")])
def test_mmdebstrap_makes_the_base(
    recipe: box_recipe.Recipe,
    tmp_path: Path,
    scratch: Path,
    monkeypatch: pytest.MonkeyPatch,
    uid: int,
    mode: str,
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: uid)
    seen: dict[str, Any] = {}

    def works(argv: Sequence[str], options: Mapping[str, Any]) -> CommandResult:
        seen.update(options)
        assert Path(options["environment"]["TMPDIR"]).stat().st_mode & 0o777 == 0o711
        Path(argv[-2]).write_bytes(b"tar")
        return said("I: one\nI: 1%\rI: 99%\rI: two\n\nI: three")

    runner = Scripted({}, works)
    log: list[str] = []
    assert mmdebstrap(recipe, runner, tmp_path / "cache", mirrors=SECRET, log=log) == b"tar"
    (argv,) = runner.ran
    assert f"--mode={mode}" in argv
    assert (argv[0] == "unshare") is (uid == 0)
    assert "--include=sudo,rsync" in argv
    assert argv[-3] == "bookworm"
    assert argv[-1] == "-"
    assert "p%40ss" not in " ".join(argv)
    assert seen["stdin"] == SECRET.sources("bookworm").encode()
    assert log == ["I: one", "I: two"]
    assert list((tmp_path / "cache").iterdir()) == []
    assert list(scratch.iterdir()) == []


def test_a_failing_mmdebstrap_is_exit_5_without_credentials(
    recipe: box_recipe.Recipe, tmp_path: Path, scratch: Path
) -> None:
    text = (
        "I: running apt-get update...\n"
        "Err:1 https://joe:p%40ss@mirror.example.org/debian bookworm InRelease\n"
        "E: Failed to fetch https://joe:p%40ss@mirror.example.org/debian  401  Unauthorized\n"
        "I: removing tempdir\n"
    )
    log: list[str] = []
    runner = Scripted({}, lambda argv, options: said(text, 25))
    with pytest.raises(BoxError) as caught:
        mmdebstrap(recipe, runner, tmp_path / "cache", mirrors=SECRET, log=log)
    assert caught.value.details == (
        "Err:1 https://***@mirror.example.org/debian bookworm InRelease\n"
        "E: Failed to fetch https://***@mirror.example.org/debian  401  Unauthorized"
    )
    assert "p%40ss" not in "".join(log)
    assert list((tmp_path / "cache").iterdir()) == []
    assert list(scratch.iterdir()) == []


def test_missing_ids_of_an_ordinary_user_are_explained(
    recipe: box_recipe.Recipe,
    tmp_path: Path,
    scratch: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    runner = Scripted({}, lambda argv, options: said("E: no entry in /etc/subuid for joe\n", 1))
    with pytest.raises(BoxError) as caught:
        mmdebstrap(recipe, runner, tmp_path / "cache")
    assert "--add-subuids" in caught.value.resolution


def test_no_mmdebstrap_is_exit_4(recipe: box_recipe.Recipe, tmp_path: Path, scratch: Path) -> None:
    runner = Scripted({}, lambda argv, options: CommandNotFoundError("mmdebstrap"))
    with pytest.raises(PreflightError, match="apt-get install mmdebstrap"):
        mmdebstrap(recipe, runner, tmp_path / "cache")
    assert list(scratch.iterdir()) == []


def test_no_keyring_is_exit_4(recipe: box_recipe.Recipe, tmp_path: Path) -> None:
    (tmp_path / "keyring.gpg").unlink()
    with pytest.raises(PreflightError, match="debian-archive-keyring"):
        mmdebstrap(recipe, Scripted({}), tmp_path / "cache")


def test_a_slow_mmdebstrap_is_exit_124_and_what_it_left_is_removed(
    recipe: box_recipe.Recipe,
    tmp_path: Path,
    scratch: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    removed = []

    def slow(argv: Sequence[str], options: Mapping[str, Any]) -> CommandResult | Exception:
        if argv[0] == "mmdebstrap" and "--unshare-helper" not in argv:
            (Path(options["environment"]["TMPDIR"]) / "mmdebstrap.x").mkdir()
            return CommandTimeoutError(argv, 60, b"I: https://joe:p%40ss@m\n")
        removed.append(tuple(argv))
        shutil.rmtree(argv[-1])
        return said("")

    with pytest.raises(PhaseTimeoutError) as caught:
        mmdebstrap(recipe, Scripted({}, slow), tmp_path / "cache", mirrors=SECRET)
    assert caught.value.details == "I: https://***@m"
    left = scratch / "vagrant-kiwi-box-b1/mmdebstrap.x"
    assert removed == [
        ("mmdebstrap", "--unshare-helper", "rm", "-rf", "--one-file-system", str(left))
    ]
    assert list(scratch.iterdir()) == []


def test_scratch_is_where_other_users_may_pass(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    for chosen in ("", "relative", str(private), str(tmp_path / "gone")):
        assert box_rootfs._scratch_parent({"TMPDIR": chosen}) == Path("/var/tmp")
    assert box_rootfs._scratch_parent({"TMPDIR": "/tmp"}) == Path("/tmp")


# --- The Docker API's streams ------------------------------------------------------------------


class FakeResponse:
    """What requests gives for a streamed answer."""

    def __init__(self, chunks: Sequence[bytes | Exception], status: int = 200) -> None:
        self.status_code = status
        self.chunks = chunks
        self.closed = False

    @property
    def content(self) -> bytes:
        return b"".join(chunk for chunk in self.chunks if isinstance(chunk, bytes))

    def iter_content(self, chunk_size: None) -> Iterator[bytes]:
        for chunk in self.chunks:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk

    def close(self) -> None:
        self.closed = True


class FakeImage:
    def __init__(self, tags: list[str], labels: Mapping[str, str], id: str = IMAGE) -> None:
        self.tags = tags
        self.labels = dict(labels)
        self.id = id
        self.attrs = {"Size": 4321}


class FakeContainer:
    def __init__(self, image: FakeImage) -> None:
        self.image = image
        self.removed = False

    def remove(self, *, force: bool, v: bool) -> None:
        assert force
        assert v
        self.removed = True


class FakeDocker:
    """A daemon with images and containers; its streams are scripted by path."""

    def __init__(self, **streams: FakeResponse | Exception) -> None:
        self.streams = streams
        self.posts: list[tuple[str, dict[str, Any], bytes]] = []
        self.held: list[FakeImage] = []
        self.running: list[FakeContainer] = []
        self.pruned: list[dict[str, Any]] = []
        self.down: Exception | None = None
        self.build_label = ""
        self.api = self.images = self.containers = self
        self.base_url = "http+docker://localhost"
        self.api_version = "1.41"
        # docker.auth looks here for logins; from an empty one it would go and read a file.
        self._auth_configs = docker.auth.AuthConfig({"auths": {"registry.example.org": {}}})
        self.credstore_env = None

    def as_client(self) -> docker.DockerClient:
        return cast(docker.DockerClient, self)

    # api
    def post(self, url: str, **options: Any) -> FakeResponse:
        assert options["stream"] is True
        assert options["timeout"][0] > 0
        assert options["timeout"][1] > 0
        path = url.removeprefix("http+docker://localhost/v1.41/")
        params = dict(options["params"])
        body = options["data"].read() if options["data"] is not None else b""
        self.posts.append((path, params, body))
        name = {"build": "build"}.get(path) or ("pull" if "fromImage" in params else "load")
        answer = self.streams[name]
        if isinstance(answer, Exception):
            raise answer
        if name == "build":
            labels = json.loads(params["buildargs"])
            self.build_label = labels["BUILD"]
            self.held.append(
                FakeImage(
                    [],
                    {
                        box_build.LABEL_RECIPE: labels["RECIPE"],
                        box_build.LABEL_BUILD: labels["BUILD"],
                    },
                )
            )
        return answer

    def tag(self, image: str, repository: str, tag: str) -> None:
        (found,) = [held for held in self.held if held.id == image and not held.tags]
        found.tags.append(f"{repository}:{tag}")

    # images
    def get(self, name: str) -> FakeImage:
        if self.down is not None:
            raise self.down
        for image in self.held:
            if name in image.tags:
                return image
        raise docker.errors.ImageNotFound("no such image")

    def prune(self, filters: dict[str, Any]) -> None:
        self.pruned.append(filters)
        label = filters["label"].partition("=")[2]
        self.held = [
            image
            for image in self.held
            if image.tags or image.labels.get(box_build.LABEL_BUILD) != label
        ]

    def list(
        self,
        *,
        name: str | None = None,
        all: bool = False,
        filters: Mapping[str, str] | None = None,
        ignore_removed: bool | None = None,
    ) -> Any:
        if ignore_removed is not None:
            if "ancestor" in (filters or {}):
                wanted = (filters or {})["ancestor"]
                return [each for each in self.running if each.image.id == wanted]
            return [each for each in self.running if not each.removed]
        if name is not None:
            return [
                image
                for image in self.held
                if any(tag.rpartition(":")[0] == name for tag in image.tags)
            ]
        label = (filters or {})["label"].partition("=")[2]
        return [each for each in self.held if each.labels.get(box_build.LABEL_BUILD) == label]

    def remove(self, tag: str) -> None:
        for image in self.held:
            if tag in image.tags:
                image.tags.remove(tag)
        self.held = [image for image in self.held if image.tags]


def stream(*events: Mapping[str, object], status: int = 200) -> FakeResponse:
    return FakeResponse([json.dumps(event).encode() + b"\r\n" for event in events], status)


BUILT = {"aux": {"ID": IMAGE}}


def run_build(fake: FakeDocker, log: list[str], seconds: float = 60) -> str:
    return docker_stream.build(
        fake.as_client(),
        io.BytesIO(b"context"),
        arguments={"BUILD": "b", "RECIPE": "r"},
        network="none",
        log=log.append,
        deadline=soon(seconds),
    )


def test_a_build_is_followed_live_and_names_its_image() -> None:
    fake = FakeDocker(
        build=stream(
            {"stream": "Step 1/2 : FROM x\n"},
            {"stream": "\n"},
            {"stream": "\x1b[91mred\x1b[0m\r\nnext"},
            {"aux": {"ID": BASE}},
            {"aux": None},
            BUILT,
            {"stream": "Successfully built\n"},
        )
    )
    log: list[str] = []
    assert run_build(fake, log) == IMAGE
    assert log == ["Step 1/2 : FROM x", "red", "next", "Successfully built"]
    ((path, params, body),) = fake.posts
    assert (path, body) == ("build", b"context")
    assert params["networkmode"] == "none"
    assert params["rm"] == params["forcerm"] == "1"
    assert cast(FakeResponse, fake.streams["build"]).closed


@given(st.integers(min_value=1, max_value=200))
def test_objects_may_come_in_any_pieces(size: int) -> None:
    data = b"".join(
        json.dumps(event).encode() + b"\r\n"
        for event in ({"stream": "größer\n"}, {"stream": "b" * 80}, BUILT)
    ).rstrip()
    chunks = [data[start : start + size] for start in range(0, len(data), size)]
    log: list[str] = []
    assert run_build(FakeDocker(build=FakeResponse(chunks)), log) == IMAGE
    assert log == ["größer", "b" * 80]


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (stream({"stream": "said before\n"}, {"error": "it broke"}), "said before\nit broke"),
        (stream({"stream": "no id\n"}), "ended without naming an image"),
        (stream({"aux": {"ID": "latest"}}), "ended without naming an image"),
        (FakeResponse([b"<html>\n"]), "not JSON"),
        (FakeResponse([b'{"message": "dockerfile parse error"}'], 400), "dockerfile parse error"),
        (FakeResponse([b"proxy says no"], 502), "proxy says no"),
        (FakeResponse([b"[1]"], 500), "1"),
        (
            FakeResponse([requests.exceptions.ConnectionError("Read timed out.")]),
            "Read timed out",
        ),
    ],
)
def test_a_stream_that_ends_badly_is_an_error(response: FakeResponse, message: str) -> None:
    with pytest.raises(docker_stream.DockerStreamError, match=message):
        run_build(FakeDocker(build=response), [])
    assert response.closed


def test_an_exception_in_the_middle_closes_the_connection() -> None:
    response = stream({"stream": "one\n"}, {"stream": "two\n"})

    def stop(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        docker_stream.build(
            FakeDocker(build=response).as_client(),
            io.BytesIO(),
            arguments={"BUILD": "b", "RECIPE": "r"},
            network="none",
            log=stop,
            deadline=soon(),
        )
    assert response.closed


def test_a_stream_past_its_deadline_is_exit_124() -> None:
    response = FakeResponse([requests.exceptions.ConnectionError("Read timed out.")])
    fake = FakeDocker(build=response)
    late = Deadline(what="Making the box", limit=1, at=time.monotonic() + 0.05)

    def wait(chunk_size: None) -> Iterator[bytes]:
        time.sleep(0.1)
        raise requests.exceptions.ConnectionError("Read timed out.")
        yield b""

    response.iter_content = wait  # type: ignore[method-assign]
    with pytest.raises(PhaseTimeoutError):
        docker_stream.build(
            fake.as_client(),
            io.BytesIO(),
            arguments={"BUILD": "b", "RECIPE": "r"},
            network="none",
            log=lambda _: None,
            deadline=late,
        )


# --- Finding and making ------------------------------------------------------------------------


def ensure(
    recipe: box_recipe.Recipe,
    fake: FakeDocker,
    tmp_path: Path,
    *,
    runner: Runner | None = None,
    mirror: str = PUBLIC.packages,
    log: list[str] | None = None,
    timeout: float = 60,
) -> boxes.DockerBox:
    return boxes.ensure_docker_box(
        recipe,
        fake.as_client(),
        runner or Scripted({"http_proxy": "http://proxy.example.org:3128"}, pip),
        mirror=mirror,
        security_mirror=PUBLIC.security,
        public_key="ssh-rsa AAAA vagrant",
        log=(log if log is not None else []).append,
        timeout=timeout,
        cache=tmp_path / "cache",
    )


def current(recipe: box_recipe.Recipe) -> FakeImage:
    return FakeImage([boxes.docker_tag(recipe)], {box_build.LABEL_RECIPE: recipe.digest})


def test_a_current_box_is_found_and_nothing_happens(
    recipe: box_recipe.Recipe, tmp_path: Path
) -> None:
    fake = FakeDocker()
    assert boxes.find_docker_box(fake.as_client(), recipe) is None
    fake.held = [current(recipe)]
    wanted = boxes.DockerBox(NAME, "7", boxes.docker_tag(recipe), IMAGE, recipe.digest, 4321)
    assert boxes.find_docker_box(fake.as_client(), recipe) == wanted
    assert ensure(recipe, fake, tmp_path, runner=Scripted({})) == wanted
    assert fake.posts == []
    assert not (tmp_path / "cache").exists()


def test_a_name_without_the_right_label_is_no_box(recipe: box_recipe.Recipe) -> None:
    fake = FakeDocker()
    fake.held = [FakeImage([boxes.docker_tag(recipe)], {box_build.LABEL_RECIPE: "0" * 64})]
    assert boxes.find_docker_box(fake.as_client(), recipe) is None


def test_a_box_is_made_on_a_pulled_base(recipe: box_recipe.Recipe, tmp_path: Path) -> None:
    fake = FakeDocker(pull=stream({"status": "Downloaded"}), build=stream(BUILT))
    old = FakeImage([f"vagrant-kiwi/{NAME}:old", "mine:1"], {}, "sha256:old")
    used = FakeImage([f"vagrant-kiwi/{NAME}:used"], {}, "sha256:used")
    fake.held = [old, used]
    fake.running = [FakeContainer(used)]
    box = ensure(recipe, fake, tmp_path)
    assert box.image == boxes.docker_tag(recipe)
    (pulled, built) = fake.posts
    assert pulled[1]["fromImage"] == "debian"
    assert pulled[1]["tag"] == "bookworm-slim"
    arguments = json.loads(built[1]["buildargs"])
    assert arguments == {
        "BASE": "debian:bookworm-slim",
        "BOX": NAME,
        "RECIPE": recipe.digest,
        "BUILD": fake.build_label,
        "SUITE": "bookworm",
        "MIRROR": PUBLIC.packages,
        "SECURITY_MIRROR": PUBLIC.security,
        "http_proxy": "http://proxy.example.org:3128",
    }
    assert built[1]["networkmode"] == "default"
    # The person's own second name for an old box stays, and so does what a container uses.
    assert old.tags == ["mine:1"]
    assert used.tags == [f"vagrant-kiwi/{NAME}:used"]
    assert (tmp_path / f"cache/{NAME}.building").read_text() == ""


def test_the_context_holds_recipe_wheels_and_key(
    recipe: box_recipe.Recipe, folder: Path, tmp_path: Path
) -> None:
    (folder / "libvirt").mkdir()
    fake = FakeDocker(pull=stream(), build=stream(BUILT))
    ensure(recipe, fake, tmp_path)
    with tarfile.open(fileobj=io.BytesIO(fake.posts[-1][2])) as tar:
        assert tar.getnames() == [
            "Dockerfile",
            "box.toml",
            "kiwi.lock",
            "packages.txt",
            "wheels/kiwi-1-py3-none-any.whl",
            "wheels/lxml-1-py3-none-any.whl",
            "authorized_key",
        ]
        assert {(member.uid, member.mode) for member in tar} == {(0, 0o644)}
        key = tar.extractfile("authorized_key")
        assert key is not None
        assert key.read() == b"ssh-rsa AAAA vagrant\n"


def debian(argv: Sequence[str], options: Mapping[str, Any]) -> CommandResult:
    """Do what pip and mmdebstrap would."""
    if "mmdebstrap" not in argv:
        return pip(argv, options)
    Path(argv[-2]).write_bytes(b"root file system")
    return said("")


@pytest.mark.usefixtures("scratch")
def test_mmdebstrap_steps_in_where_the_base_cannot_be_pulled(
    recipe: box_recipe.Recipe, tmp_path: Path
) -> None:
    fake = FakeDocker(
        pull=FakeResponse([b'{"message": "no such host"}'], 500),
        load=stream({"status": BASE}),
        build=stream(BUILT),
    )
    log: list[str] = []
    ensure(recipe, fake, tmp_path, runner=Scripted({"http_proxy": "x"}, debian), log=log)
    assert "debian:bookworm-slim cannot be pulled (no such host)" in log
    _, loaded, built = fake.posts
    assert loaded[2] == b"root file system"
    assert loaded[1]["changes"] == [
        f'LABEL {box_build.LABEL_BOX}="{NAME}"',
        f'LABEL {box_build.LABEL_BUILD}="{fake.build_label}"',
    ]
    arguments = json.loads(built[1]["buildargs"])
    assert arguments["BASE"] == BASE
    assert "http_proxy" not in arguments
    assert built[1]["networkmode"] == "none"


@pytest.mark.usefixtures("scratch")
def test_a_mirror_with_credentials_goes_to_mmdebstrap_only(
    recipe: box_recipe.Recipe, tmp_path: Path
) -> None:
    fake = FakeDocker(load=stream({"status": BASE}), build=stream(BUILT))
    runner = Scripted({}, debian)
    log: list[str] = []
    ensure(recipe, fake, tmp_path, runner=runner, mirror=SECRET.packages, log=log)
    arguments = json.loads(fake.posts[-1][1]["buildargs"])
    assert arguments["MIRROR"] == "http://official.example.org/debian"
    assert arguments["SECURITY_MIRROR"] == "http://official.example.org/security"
    assert "p%40ss" not in repr((fake.posts, runner.ran, log))


def test_loopback_proxies_are_of_no_use_in_a_container(
    recipe: box_recipe.Recipe, tmp_path: Path
) -> None:
    fake = FakeDocker(pull=stream(), build=stream(BUILT))
    environment = {
        "http_proxy": "http://127.0.0.1:3128",
        "HTTPS_PROXY": "http://localhost:1",
        "no_proxy": "localhost,.example.org",
    }
    ensure(recipe, fake, tmp_path, runner=Scripted(environment, pip))
    arguments = json.loads(fake.posts[-1][1]["buildargs"])
    assert [name for name in arguments if "proxy" in name.lower()] == ["no_proxy"]


def test_a_failing_dockerfile_is_exit_5_and_swept(
    recipe: box_recipe.Recipe, tmp_path: Path
) -> None:
    fake = FakeDocker(
        pull=stream(), build=stream({"stream": "E: no such package\n"}, {"error": "code: 100"})
    )
    old = FakeImage([f"vagrant-kiwi/{NAME}:old"], {}, "sha256:old")
    fake.held = [old]
    with pytest.raises(BoxError) as caught:
        ensure(recipe, fake, tmp_path)
    assert caught.value.code == 5
    assert caught.value.details == "E: no such package\ncode: 100"
    assert fake.held == [old]
    assert (tmp_path / f"cache/{NAME}.building").read_text() == ""


def test_the_next_build_sweeps_after_one_that_was_killed(
    recipe: box_recipe.Recipe, tmp_path: Path
) -> None:
    fake = FakeDocker(pull=stream(), build=stream(BUILT))
    half = FakeImage([], {box_build.LABEL_BUILD: "dead"}, "sha256:half")
    fake.held = [half]
    fake.running = [FakeContainer(half)]
    (tmp_path / "cache/wheels" / f".making-{NAME}.x").mkdir(parents=True)
    (tmp_path / "cache" / f".making-{NAME}.y").mkdir()
    (tmp_path / "cache" / ".making-other.z").mkdir()
    (tmp_path / f"cache/{NAME}.building").write_text("dead\n")
    ensure(recipe, fake, tmp_path)
    assert half not in fake.held
    assert fake.running[0].removed
    assert [path.name for path in sorted(tmp_path.glob("cache/**/.making-*"))] == [
        ".making-other.z"
    ]


def test_guests_of_a_box_that_was_finished_before_the_kill_are_left_alone(
    recipe: box_recipe.Recipe, tmp_path: Path
) -> None:
    fake = FakeDocker(pull=stream(), build=stream(BUILT))
    done = FakeImage([f"vagrant-kiwi/{NAME}:old"], {box_build.LABEL_BUILD: "dead"}, "sha256:d")
    fake.held = [done]
    fake.running = [FakeContainer(done)]
    (tmp_path / "cache").mkdir()
    (tmp_path / f"cache/{NAME}.building").write_text("dead\n")
    ensure(recipe, fake, tmp_path)
    assert not fake.running[0].removed
    assert done in fake.held


def test_what_cannot_be_swept_is_tried_again_next_time(
    recipe: box_recipe.Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeDocker(pull=stream(), build=stream({"error": "broken"}))

    def gone(client: docker.DockerClient, label: str) -> None:
        raise requests.exceptions.ConnectionError("daemon gone")

    monkeypatch.setattr(box_build, "_sweep", gone)
    log: list[str] = []
    with pytest.raises(BoxError, match="broken"):
        ensure(recipe, fake, tmp_path, log=log)
    assert (tmp_path / f"cache/{NAME}.building").read_text() == f"{fake.build_label}\n"
    assert "daemon gone" in log[-1]


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (
            requests.exceptions.ConnectionError("PermissionError(13, 'Permission denied')"),
            "usermod",
        ),
        (requests.exceptions.ConnectionError("ConnectionRefusedError(111)"), "systemctl start"),
        (docker.errors.DockerException("Error while fetching server API version"), "./bootstrap"),
    ],
)
def test_an_unreachable_daemon_is_exit_4_with_the_remedy(
    recipe: box_recipe.Recipe, tmp_path: Path, error: Exception, word: str
) -> None:
    fake = FakeDocker()
    fake.down = error
    with pytest.raises(PreflightError) as caught:
        ensure(recipe, fake, tmp_path)
    assert caught.value.code == 4
    assert word in caught.value.resolution
    assert caught.value.__cause__ is error


def test_an_error_of_the_daemon_is_exit_5(recipe: box_recipe.Recipe) -> None:
    fake = FakeDocker()
    fake.down = docker.errors.APIError("500 Server Error: disk full")
    with pytest.raises(BoxError, match="disk full"):
        boxes.find_docker_box(fake.as_client(), recipe)


def test_makers_wait_for_each_other_and_not_forever(
    recipe: box_recipe.Recipe, tmp_path: Path
) -> None:
    log: list[str] = []
    with (
        boxes._only_one(tmp_path / "cache", NAME, log.append, soon()),
        pytest.raises(PhaseTimeoutError, match="another process"),
    ):
        ensure(recipe, FakeDocker(), tmp_path, log=log, timeout=0.3)
    assert log == [f"Waiting: the build box {NAME} is being made by another process"]


def test_a_cache_that_cannot_be_made_is_exit_5(recipe: box_recipe.Recipe, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(BoxError, match="cache folder"):
        ensure(recipe, FakeDocker(), tmp_path)
