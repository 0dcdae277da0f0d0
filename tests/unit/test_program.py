"""The console command: which project it finds, and how it fails."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from invoke.collection import Collection
from invoke.config import Config
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

import vagrant_kiwi
from vagrant_kiwi import program, settings
from vagrant_kiwi.errors import SettingsError
from vagrant_kiwi.invocation import PlainTask, SettingsConfig
from vagrant_kiwi.program import make_program, project_folder

Run = Callable[..., tuple[int, str, str]]


@task(klass=PlainTask)
def show(c: Context, box: str | None = None) -> None:
    """Show some settings."""
    try:
        found = settings.load(
            c.config,
            environment=settings.environment(),
            flags={"box": box},
            cwd=Path.cwd(),
        )
    except SettingsError as error:
        raise Exit(str(error), error.code) from error
    print(found.settings.box, found.settings.keep, found.project_dir)  # noqa: T201


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process; returns exit code, stdout and stderr."""
    monkeypatch.setattr(sys, "dont_write_bytecode", sys.dont_write_bytecode)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("INVOKE_RUNTIME_CONFIG", raising=False)
    (tmp_path / "home").mkdir()
    (tmp_path / "etc").mkdir()
    (tmp_path / "project" / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project" / "a" / "b")

    class HereConfig(SettingsConfig):
        def __init__(self) -> None:
            super().__init__(system_prefix=f"{tmp_path}/etc/")

    def run(*argv: str) -> tuple[int, str, str]:
        code: object = 0
        try:
            make_program(Collection(show), config_class=HereConfig).run(["vagrant-kiwi", *argv])
        except SystemExit as stop:
            code = stop.code
        assert isinstance(code, int)
        return code, *capsys.readouterr()

    return run


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"vagrant-kiwi {vagrant_kiwi.__version__}\n", "")


def test_help_names_the_command_and_its_tasks(run: Run) -> None:
    for argv in (["--help"], []):
        code, out, err = run(*argv)
        assert (code, err) == (0, "")
        assert out.startswith("Usage: vagrant-kiwi [--core-opts] <subcommand>")
        assert "show   Show some settings." in out
    code, out, _ = run("show", "--help")
    assert code == 0
    assert "Usage: vagrant-kiwi [--core-opts] show [--options]" in out
    assert "--box=STRING" in out


def test_without_a_project_the_current_folder_is_it(run: Run, tmp_path: Path) -> None:
    assert run("show") == (0, f"None never {tmp_path}/project/a/b\n", "")


@pytest.mark.parametrize("name", ["invoke.yaml", "invoke.yml", "invoke.json", "invoke.py"])
def test_the_nearest_folder_upward_is_the_project(run: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / "invoke.yaml").write_text("vagrant_kiwi: {box: too-far}")
    text = '{"vagrant_kiwi": {"box": "near"}}'
    (tmp_path / "project" / name).write_text(
        "vagrant_kiwi = {'box': 'near'}" if name.endswith(".py") else text
    )
    assert run("show") == (0, f"near never {tmp_path}/project\n", "")


def test_all_levels_come_together(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "etc/invoke.yaml").write_text("vagrant_kiwi: {keep: failed, box: system}")
    (tmp_path / "home/.invoke.yaml").write_text("vagrant_kiwi: {box: user}")
    assert run("show")[1].startswith("user failed")
    (tmp_path / "project/invoke.yaml").write_text("vagrant_kiwi: {box: project}")
    assert run("show")[1].startswith("project failed")
    monkeypatch.setenv("INVOKE_VAGRANT_KIWI_BOX", "environment")
    assert run("show")[1].startswith("environment failed")
    (tmp_path / "run.yaml").write_text("vagrant_kiwi: {box: runtime}")
    assert run("-f", "../../../run.yaml", "show")[1].startswith("runtime failed")
    assert run("show", "--box=flag")[1].startswith("flag failed")


@pytest.mark.parametrize("where", ["etc/invoke.yaml", "home/.invoke.yaml", "project/invoke.yaml"])
@pytest.mark.parametrize("text", ["a: [", "- a", "vagrant_kiwi: 5", "run: 5"])
def test_a_broken_file_is_one_message_and_exit_3(
    run: Run, tmp_path: Path, where: str, text: str
) -> None:
    for other in {"etc/invoke.yaml", "project/invoke.yaml"} - {where}:
        (tmp_path / other).write_text("vagrant_kiwi: {box: b}")
    (tmp_path / where).write_text(text)
    code, out, err = run("show")
    assert (code, out) == (3, "")
    assert str(tmp_path / where) in err
    assert "Traceback" not in err


def test_a_broken_project_file_does_not_stop_the_help(run: Run, tmp_path: Path) -> None:
    (tmp_path / "project/invoke.yaml").write_text("a: [")
    assert run("--help")[0] == 0
    assert run("--list")[0] == 0


@pytest.mark.parametrize("argv", [["-f", "nope.yaml"], ["-f", "nope.toml"], ["--config=nope.json"]])
def test_a_missing_file_of_f_is_exit_3(run: Run, argv: list[str]) -> None:
    code, out, err = run(*argv, "show")
    assert (code, out) == (3, "")
    assert "nope." in err


@pytest.mark.parametrize(
    ("name", "value"),
    [("INVOKE_RUN_WATCHERS", "x"), ("INVOKE_VAGRANT_KIWI_BIX", "x")],
)
def test_bad_variables_are_exit_3(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    code, out, err = run("show")
    assert (code, out) == (3, "")
    assert name in err


def test_usage_errors_are_exit_1(run: Run) -> None:
    for argv in (["nope"], ["show", "--nope"], ["show", "--box"]):
        code, out, err = run(*argv)
        assert (code, out, bool(err)) == (1, "", True), argv


def test_a_current_folder_that_is_gone(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    code, _, err = run("show")
    monkeypatch.chdir(tmp_path)
    assert code == 1
    assert err == "The current folder does not exist any more. Change to another one.\n"


def test_project_folder(tmp_path: Path) -> None:
    start = tmp_path / "a" / "b"
    (start / "invoke.yaml").mkdir(parents=True)
    assert project_folder(start) == start
    (tmp_path / "a" / "invoke.json").touch()
    assert project_folder(start) == tmp_path / "a"
    (start / "invoke.py").touch()
    assert project_folder(start) == start


def test_project_folder_below_one_that_may_not_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "invoke.yaml").touch()
    closed = tmp_path / "closed"
    usual = Path.is_file

    def is_file(path: Path) -> bool:
        if path.parent == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return usual(path)

    monkeypatch.setattr(Path, "is_file", is_file)
    assert project_folder(closed / "open") == tmp_path


def test_the_program_uses_our_config_by_default() -> None:
    made: type[Config] = make_program(Collection(show)).config_class
    assert made is SettingsConfig
    assert program.NAME == "vagrant-kiwi"
