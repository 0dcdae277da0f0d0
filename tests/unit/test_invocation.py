"""What we change about Invoke; these tests fail when Invoke's insides change."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from invoke import main as invoke_main
from invoke.collection import Collection
from invoke.config import AmbiguousMergeError, Config
from invoke.context import Context
from invoke.exceptions import Exit, UncastableEnvVar
from invoke.program import Program
from invoke.tasks import Task, task

from vagrant_kiwi.errors import SettingsError
from vagrant_kiwi.invocation import (
    PlainTask,
    SettingsConfig,
    adopt_running_invoke,
    file_levels,
    project_dir,
    remainder,
)


def body(c: Context, description: str = "", verbose: bool = False, dry_run: bool = False) -> None:
    """Build one image."""
    print(f"description={description} verbose={verbose} dry_run={dry_run}")  # noqa: T201


def plain() -> Any:
    return task(klass=PlainTask, name="build", help={"description": "Its folder"})(body)


def test_a_plain_task_has_no_short_flag_but_v() -> None:
    names = {argument.name: argument.names for argument in plain().get_arguments()}
    assert names == {
        "description": ("description",),
        "verbose": ("verbose", "v"),
        "dry_run": ("dry-run",),
    }
    # The reason for the class: without it, this is what they would be.
    usual = {argument.name: argument.names for argument in Task(body).get_arguments()}
    assert usual["description"] == ("description", "d")


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Run a Program in this process; returns exit code, stdout and stderr."""
    monkeypatch.setattr(sys, "dont_write_bytecode", sys.dont_write_bytecode)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("HOME", str(tmp_path))
    modules = set(sys.modules)

    def run(program: Program, *argv: str) -> tuple[int, str, str]:
        code: object = 0
        try:
            program.run(["invoke", *argv])
        except SystemExit as stop:
            code = stop.code
        assert isinstance(code, int)
        return code, *capsys.readouterr()

    yield run
    for name in set(sys.modules) - modules:
        if name.startswith("kiwitasks"):
            del sys.modules[name]


def test_help_list_and_usage_errors(run: Callable[..., tuple[int, str, str]]) -> None:
    program = Program(namespace=Collection(plain()))
    code, out, _ = run(program, "--list")
    assert (code, "build   Build one image." in out) == (0, True)
    code, out, _ = run(program, "--help")
    assert (code, "Build one image." in out) == (0, True)
    for argv in (["build", "--help"], ["--help", "build"]):
        # Invoke takes the help out of a task when it first parses.
        code, out, _ = run(Program(namespace=Collection(plain())), *argv)
        lines = [line.strip() for line in out.splitlines()]
        assert code == 0
        assert "--description=STRING   Its folder" in lines
        assert "-v, --verbose" in lines
    assert run(program, "build", "-v", "--description=a b")[:2] == (
        0,
        "description=a b verbose=True dry_run=False\n",
    )
    for argv in (
        ["build", "--nope"],
        ["build", "--description"],
        ["build", "extra"],
        ["build", "-x"],
        ["nope"],
    ):
        code, _, err = run(program, *argv)
        assert (code, bool(err)) == (1, True), argv


def test_the_core_flags_stay_the_core_flags(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[bool] = []
    monkeypatch.setattr("invoke.program.enable_logging", lambda: said.append(True))
    program = Program(namespace=Collection(plain()))
    assert run(program, "-d", "build")[0] == 0
    assert said == [True]


@pytest.mark.parametrize(
    ("argv", "before", "after"),
    [
        ([], (), ()),
        (["build"], ("build",), ()),
        (["build", "--"], ("build",), ()),
        (
            ["build", "--", "--set-repo", "a b", ""],
            ("build",),
            ("--set-repo", "a b", ""),
        ),
        (["build", "--", "a", "--", "b"], ("build",), ("a", "--", "b")),
        (["--", "x"], (), ("x",)),
        (["build", "---", "--x=--"], ("build", "---", "--x=--"), ()),
    ],
)
def test_remainder(argv: list[str], before: tuple[str, ...], after: tuple[str, ...]) -> None:
    assert remainder(argv) == (before, after)


@given(before=st.lists(st.text().filter(lambda word: word != "--")), after=st.lists(st.text()))
def test_remainder_keeps_every_word(before: list[str], after: list[str]) -> None:
    assert remainder([*before, "--", *after]) == (tuple(before), tuple(after))


def files(root: Path) -> dict[str, Path]:
    """Write a file for each level, and return their paths."""
    paths = {
        "system": root / "etc" / "invoke.yaml",
        "user": root / "home" / ".invoke.yml",
        "project": root / "project" / "invoke.json",
        "runtime": root / "else" / "run.py",
    }
    for level, path in paths.items():
        path.parent.mkdir()
        section = json.dumps({"box": level})
        path.write_text(
            f"vagrant_kiwi = {section}\n"
            if path.suffix == ".py"
            else json.dumps({"vagrant_kiwi": {"box": level}, "mine": {level: 1}})
        )
    return paths


@pytest.mark.parametrize("kind", [Config, SettingsConfig])
def test_the_levels_of_invoke(tmp_path: Path, kind: type[Config]) -> None:
    """Fails when Invoke keeps its levels elsewhere."""
    paths = files(tmp_path)
    config = kind(
        system_prefix=f"{tmp_path}/etc/",
        user_prefix=f"{tmp_path}/home/.",
        project_location=tmp_path / "project",
        runtime_path=paths["runtime"],
    )
    config.load_project()
    config.load_runtime()
    config.load_collection({"vagrant_kiwi": {"box": "collection"}})
    config.load_shell_env()
    found = file_levels(config, cwd=Path("/elsewhere"))
    assert [(level.origin, level.base, level.data) for level in found] == [
        (
            "the tasks file (Collection.configure)",
            tmp_path / "project",
            {"box": "collection"},
        ),
        *((str(path), path.parent, {"box": level}) for level, path in paths.items()),
    ]
    assert project_dir(config, cwd=Path("/elsewhere")) == tmp_path / "project"
    assert dict(config.mine) == {"system": 1, "user": 1, "project": 1}
    assert ("vagrant_kiwi" in config) is (kind is Config)


def test_paths_of_invoke_can_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files(tmp_path)
    monkeypatch.chdir(tmp_path)
    config = SettingsConfig(
        system_prefix=f"{tmp_path}/none/",
        user_prefix=f"{tmp_path}/none/.",
        project_location=Path("project"),
        runtime_path=Path("else/run.py"),
    )
    config.load_project()
    config.load_runtime()
    bases = [level.base for level in file_levels(config, cwd=tmp_path)]
    assert bases == [tmp_path / "project", tmp_path / "else"]
    assert project_dir(config, cwd=tmp_path) == tmp_path / "project"


def test_without_any_file(tmp_path: Path) -> None:
    config = SettingsConfig(system_prefix=f"{tmp_path}/", user_prefix=f"{tmp_path}/.")
    assert file_levels(config, cwd=tmp_path) == ()
    assert project_dir(config, cwd=tmp_path) == tmp_path


def test_a_plain_config_with_a_list_as_file(tmp_path: Path) -> None:
    config = Config(system_prefix=f"{tmp_path}/", user_prefix=f"{tmp_path}/.")
    config._set(_project_found=True, _project_path=tmp_path / "invoke.yaml", _project=["a"])
    with pytest.raises(SettingsError) as caught:
        file_levels(config, cwd=tmp_path)
    assert caught.value.brief == f"{tmp_path}/invoke.yaml is not a settings file"


def project(root: Path, text: str, *, kind: type[Config], name: str = "invoke.yaml") -> Config:
    (root / name).write_text(text)
    config = kind(
        system_prefix=f"{root}/none/", user_prefix=f"{root}/none/.", project_location=root
    )
    config.load_project()
    config.load_shell_env()
    return config


def test_what_invoke_does_with_a_list_in_file_and_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason for SettingsConfig; when the first half fails, Invoke has changed."""
    monkeypatch.setenv("INVOKE_VAGRANT_KIWI_PROVISION", '["b"]')
    text = "vagrant_kiwi: {provision: [a]}"
    with pytest.raises(UncastableEnvVar):
        project(tmp_path, text, kind=Config)
    config = project(tmp_path, text, kind=SettingsConfig)
    (level,) = file_levels(config, cwd=tmp_path)
    assert level.data == {"provision": ["a"]}


@pytest.mark.parametrize(
    "text",
    [
        "vagrant_kiwi: {timeouts_build: 1, timeouts: {build: 2}}",
        "vagrant_kiwi: {mirrors: {'http://A/': 'b:/c', 'http://a/': 'b:/c'}}",
        "vagrant_kiwi: {5: x}",
    ],
)
def test_keys_that_invoke_cannot_crawl(tmp_path: Path, text: str) -> None:
    with pytest.raises(Exception, match=r"source for|sequence item"):
        project(tmp_path, text, kind=Config)
    assert len(file_levels(project(tmp_path, text, kind=SettingsConfig), cwd=tmp_path)) == 1


def test_a_clone_keeps_the_section_out_and_the_levels_in(tmp_path: Path) -> None:
    config = project(tmp_path, "vagrant_kiwi: {box: b}\nmine: 1", kind=Config)
    clone = config.clone(into=SettingsConfig).clone()
    assert isinstance(clone, SettingsConfig)
    assert ("vagrant_kiwi" in clone, clone.mine) == (False, 1)
    (level,) = file_levels(clone, cwd=tmp_path)
    assert (level.origin, level.data) == (str(tmp_path / "invoke.yaml"), {"box": "b"})


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("invoke.yaml", "a: [", "line 1"),
        ("invoke.yml", "a: 2024-99-99", "month must be"),
        ("invoke.yaml", "- a", "must hold a mapping"),
        ("invoke.yaml", "word", "must hold a mapping"),
        ("invoke.json", "{", "Expecting property name"),
        ("invoke.json", "\udcff", "utf-8"),
        ("invoke.py", "a = ", "invalid syntax"),
        ("invoke.py", "import os", "is a module"),
    ],
)
def test_unreadable_files_end_with_exit_3_and_their_name(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    (tmp_path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    config = SettingsConfig(
        system_prefix=f"{tmp_path}/none/",
        user_prefix=f"{tmp_path}/none/.",
        project_location=tmp_path,
    )
    with pytest.raises(Exit) as caught:
        config.load_project()
    assert caught.value.code == 3
    assert str(tmp_path / name) in (caught.value.message or "")
    assert said in (caught.value.message or "")


def test_a_folder_in_a_files_place(tmp_path: Path) -> None:
    (tmp_path / ".invoke.yaml").mkdir()
    with pytest.raises(Exit) as caught:
        SettingsConfig(system_prefix=f"{tmp_path}/none/", user_prefix=f"{tmp_path}/.")
    assert caught.value.code == 3
    assert str(tmp_path / ".invoke.yaml") in (caught.value.message or "")


def test_a_file_type_that_invoke_does_not_know(tmp_path: Path) -> None:
    config = SettingsConfig(
        system_prefix=f"{tmp_path}/", user_prefix=f"{tmp_path}/.", runtime_path=Path("run.toml")
    )
    with pytest.raises(Exit, check=lambda stop: stop.code == 3) as caught:
        config.load_runtime()
    assert "'toml'" in (caught.value.message or "")


def test_other_sections_that_do_not_fit_together(tmp_path: Path) -> None:
    (tmp_path / ".invoke.yaml").write_text("sudo: {deep: {password: hunter2}}")
    text = "sudo: {deep: 5}"
    with pytest.raises(AmbiguousMergeError):
        (tmp_path / "invoke.yaml").write_text(text)
        Config(
            system_prefix=f"{tmp_path}/none/",
            user_prefix=f"{tmp_path}/.",
            project_location=tmp_path,
        ).load_project()
    config = SettingsConfig(
        system_prefix=f"{tmp_path}/none/", user_prefix=f"{tmp_path}/.", project_location=tmp_path
    )
    with pytest.raises(Exit) as caught:
        config.load_project()
    message = caught.value.message or ""
    assert caught.value.code == 3
    assert "sudo.deep: a mapping in one level and a single value in another" in message
    assert f"{tmp_path}/.invoke.yaml, {tmp_path}/invoke.yaml" in message
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("name", "value"), [("INVOKE_RUN_WATCHERS", "hunter2"), ("INVOKE_MINE", "hunter2")]
)
def test_other_variables_that_invoke_cannot_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(Exit) as caught:
        project(tmp_path, "mine: 5", kind=SettingsConfig)
    assert caught.value.code == 3
    assert name in (caught.value.message or "")
    assert value not in (caught.value.message or "")


TASKS = """
from pathlib import Path
from invoke import Collection, task
from vagrant_kiwi import settings
from vagrant_kiwi.invocation import adopt_running_invoke

adopt_running_invoke()

@task
def show(c):
    found = settings.load(
        c.config, environment=settings.environment(), flags={}, cwd=Path.cwd()
    )
    print(found.settings.mirrors, *found.settings.provision, found.project_dir)
"""


@pytest.fixture
def invoke_program(monkeypatch: pytest.MonkeyPatch) -> Program:
    """The program of the ``invoke`` command itself, left as it was."""
    program: Program = invoke_main.program
    monkeypatch.setattr(program, "__dict__", dict(program.__dict__))
    return program


def test_plain_invoke_takes_our_config_while_it_loads_the_tasks(
    run: Callable[..., tuple[int, str, str]],
    invoke_program: Program,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / ".invoke.yaml").write_text("vagrant_kiwi: {mirrors: off, provision: [a]}")
    (tmp_path / "invoke.yaml").write_text("vagrant_kiwi: {mirrors: {'a:/b': 'c:/d'}}")
    (tmp_path / "kiwitasks.py").write_text(TASKS)
    monkeypatch.setenv("INVOKE_VAGRANT_KIWI_PROVISION", '["/b"]')
    code, out, err = run(invoke_program, "-r", str(tmp_path), "-c", "kiwitasks", "show")
    assert (code, out, err) == (0, f"{{'a:/b': 'c:/d'}} /b {tmp_path}\n", "")
    assert type(invoke_program.config) is SettingsConfig


def test_plain_invoke_says_what_is_wrong_with_the_project_file(
    run: Callable[..., tuple[int, str, str]], invoke_program: Program, tmp_path: Path
) -> None:
    (tmp_path / "invoke.yaml").write_text("vagrant_kiwi: [")
    (tmp_path / "kiwitasks.py").write_text(TASKS)
    code, out, err = run(invoke_program, "-r", str(tmp_path), "-c", "kiwitasks", "show")
    assert (code, out) == (3, "")
    assert err.startswith(f"Cannot read the settings file {tmp_path}/invoke.yaml\n")


def test_adoption_leaves_others_alone(invoke_program: Program) -> None:
    class Other(Config):
        pass

    invoke_program.__dict__.pop("config", None)
    adopt_running_invoke()
    assert "config" not in invoke_program.__dict__
    for config in (Other(), SettingsConfig()):
        invoke_program.config = config
        adopt_running_invoke()
        assert invoke_program.config is config
