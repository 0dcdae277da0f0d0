"""Mirrors and their credentials, and the base that mmdebstrap makes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.box_fakes import PUBLIC, SECRET, Scripted, said, soon
from vagrant_kiwi import box_build, box_recipe, box_rootfs
from vagrant_kiwi.box_rootfs import Mirrors
from vagrant_kiwi.errors import BoxError, PhaseTimeoutError, PreflightError
from vagrant_kiwi.process import (
    CommandNotFoundError,
    CommandResult,
    CommandTimeoutError,
    Runner,
)


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
