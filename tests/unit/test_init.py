"""``invoke init``: the invoke.yaml that says the same as a Dicefile."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from vagrant_kiwi import dicefile, settings, tasks
from vagrant_kiwi.errors import SettingsError
from vagrant_kiwi.init import from_dicefile
from vagrant_kiwi.invocation import SettingsConfig
from vagrant_kiwi.program import make_program
from vagrant_kiwi.settings import LoadedSettings

DOCKER = "Dice.configure do |config|\n  config.buildhost = :DOCKER\nend\n"
HOST = """\
Dice.configure do |config|
  config.buildhost = "build1.example.com"
  config.ssh_private_key = File.join(ENV["HOME"], ".ssh/id")
end
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the home folder of the process; the paths in invoke.yaml count from it, too."""
    (tmp_path / "home").mkdir()
    (tmp_path / "project").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("VAGRANT_DEFAULT_PROVIDER", raising=False)
    return tmp_path / "home"


def place(folder: Path, text: str = DOCKER) -> Path:
    folder.mkdir(parents=True)
    (folder / "Dicefile").write_text(text)
    return folder


def load(project: Path, flags: dict[str, object]) -> LoadedSettings:
    config = SettingsConfig(
        system_prefix=f"{project}/none/",
        user_prefix=f"{project}/none/.",
        project_location=project,
    )
    config.load_project()
    return settings.load(config, environment=settings.environment(), flags=flags, cwd=project)


@pytest.mark.parametrize("variable", ["", "libvirt"])
@pytest.mark.parametrize(
    "text",
    [
        DOCKER,
        HOST,
        HOST.replace('File.join(ENV["HOME"], ".ssh/id")', '"key: #1"'),
        HOST.replace('File.join(ENV["HOME"], ".ssh/id")', '"/etc/key"'),
        HOST.replace('"build1.example.com"', '"1"').replace("end", 'config.ssh_user = "007"\nend'),
        "",
    ],
)
@pytest.mark.parametrize(
    "name",
    ["project/image", "project", "home/image", "elsewhere", "project/~x", "project/yes: \u00fc\n#"],
)
def test_it_says_the_same_as_the_dicefile(
    tmp_path: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    text: str,
    variable: str,
) -> None:
    monkeypatch.setenv("VAGRANT_DEFAULT_PROVIDER", variable)
    project = tmp_path / "project"
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    (folder / "Dicefile").write_text(text)
    before = load(project, {"description": str(folder)})
    answer = from_dicefile(folder, cwd=project, environ=settings.environment())
    written = project / "invoke.yaml"
    assert answer["written"] == str(written)
    assert yaml.safe_load(written.read_text()) == {"vagrant_kiwi": answer["vagrant_kiwi"]}
    # Without a flag for the description the Dicefile is not looked at.
    after = load(project, {})
    assert after.settings == before.settings
    assert set(after.origins.values()) <= {"default", str(written)}


def test_the_text(tmp_path: Path, home: Path) -> None:
    project = tmp_path / "project"
    place(project / "image", HOST)
    from_dicefile(Path("image"), cwd=project, environ=settings.environment())
    assert (project / "invoke.yaml").read_text() == (
        "vagrant_kiwi:\n"
        "  description: image\n"
        "  provider: host\n"
        "  host:\n"
        "    address: build1.example.com\n"
        "    user: vagrant\n"
        "    identity_file: ~/.ssh/id\n"
    )


@pytest.mark.parametrize("text", [DOCKER, HOST])
def test_a_vagrantfile_is_mentioned_and_not_trusted(tmp_path: Path, home: Path, text: str) -> None:
    project = tmp_path / "project"
    (place(project / "image", text) / "Vagrantfile").touch()
    from_dicefile(Path("image"), cwd=project, environ=settings.environment())
    written = (project / "invoke.yaml").read_text()
    assert load(project, {}).settings.vagrantfile is None
    *_, why, line = written.splitlines()
    assert "runs" in why
    assert line == "  # vagrantfile: trust"
    (project / "invoke.yaml").write_text(written.replace("# vagrantfile", "vagrantfile"))
    assert load(project, {}).settings.vagrantfile == "trust"


def test_a_folder_whose_name_is_not_utf8(tmp_path: Path, home: Path) -> None:
    project = tmp_path / "project"
    folder = place(project / "im\udcffage")
    from_dicefile(folder, cwd=project, environ=settings.environment())
    assert load(project, {}).settings.description == folder


def test_the_path_may_be_the_file_or_start_at_home(tmp_path: Path, home: Path) -> None:
    project = tmp_path / "project"
    place(home / "image")
    (home / "image/Dicefile.old").write_text(HOST)
    for path, provider in (
        ("~/image", "docker-direct"),
        ("../home/image/Dicefile", "docker-direct"),
        (str(home / "image/Dicefile.old"), "host"),
    ):
        from_dicefile(Path(path), cwd=project, environ=settings.environment())
        assert load(project, {}).settings.provider == provider
        (project / "invoke.yaml").unlink()


@pytest.mark.parametrize("name", ["invoke.yaml", "invoke.yml", "invoke.json", "invoke.py"])
@pytest.mark.parametrize("kind", ["file", "link to nothing"])
def test_settings_that_are_there_stay(tmp_path: Path, home: Path, name: str, kind: str) -> None:
    project = tmp_path / "project"
    place(project / "image")
    if kind == "file":
        (project / name).write_text("mine")
    else:
        (project / name).symlink_to("nothing")
    with pytest.raises(SettingsError) as caught:
        from_dicefile(Path("image"), cwd=project, environ=settings.environment())
    assert caught.value.code == 3
    assert str(project / name) in caught.value.brief
    assert yaml.safe_load(caught.value.details) == {
        "vagrant_kiwi": {"description": "image", "provider": "docker-direct"}
    }
    assert sorted(path.name for path in project.iterdir()) == sorted(["image", name])
    if kind == "file":
        assert (project / name).read_text() == "mine"


@pytest.mark.parametrize("path", ["image", "image/Dicefile", "image/Dicefile/x", "n" * 300])
def test_there_must_be_a_dicefile(tmp_path: Path, home: Path, path: str) -> None:
    (tmp_path / "project/image").mkdir()
    with pytest.raises(SettingsError) as caught:
        from_dicefile(Path(path), cwd=tmp_path / "project", environ={})
    assert (caught.value.code, path in caught.value.brief) == (3, True)
    assert not (tmp_path / "project/invoke.yaml").exists()


def test_nothing_half_is_written(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    place(project / "image")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(SettingsError, match="No space left") as caught:
        from_dicefile(Path("image"), cwd=project, environ={})
    assert caught.value.code == 3
    assert [path.name for path in project.iterdir()] == ["image"]


def test_an_impossible_provider_is_not_written(tmp_path: Path, home: Path) -> None:
    project = tmp_path / "project"
    place(project / "image", "")
    environ = {dicefile.PROVIDER_VARIABLE: "a b"}
    with pytest.raises(SettingsError, match="VAGRANT_DEFAULT_PROVIDER"):
        from_dicefile(Path("image"), cwd=project, environ=environ)
    assert not (project / "invoke.yaml").exists()


# The task.

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Run the command in this process; returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setattr(sys, "dont_write_bytecode", sys.dont_write_bytecode)
    monkeypatch.delenv("INVOKE_RUNTIME_CONFIG", raising=False)

    class HereConfig(SettingsConfig):
        def __init__(self) -> None:
            super().__init__(system_prefix=f"{tmp_path}/etc/")

    def run(*argv: str) -> tuple[int, str, str]:
        code: object = 0
        try:
            make_program(tasks.namespace, config_class=HereConfig).run(["vagrant-kiwi", *argv])
        except SystemExit as stop:
            code = stop.code
        assert isinstance(code, int)
        return code, *capsys.readouterr()

    return run


def test_the_task_writes_and_tells(run: Run, tmp_path: Path) -> None:
    place(tmp_path / "project/image")
    code, out, err = run("init", "--from-dicefile=image", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "written": str(tmp_path / "project/invoke.yaml"),
        "vagrant_kiwi": {"description": "image", "provider": "docker-direct"},
    }
    code, out, err = run("init", "--from-dicefile=image", "--json")
    assert code == 3
    assert json.loads(out)["error"]["code"] == 3
    assert "provider: docker-direct" in err
    (tmp_path / "project/invoke.yaml").unlink()
    code, out, err = run("init", "--from-dicefile=image")
    assert (code, err) == (0, "")
    assert out.startswith(f"written: {tmp_path}/project/invoke.yaml\n")


def test_the_task_needs_to_know_from_what(run: Run, tmp_path: Path) -> None:
    code, out, err = run("init")
    assert (code, out) == (1, "")
    assert "--from-dicefile=PATH" in err
    assert list((tmp_path / "project").iterdir()) == []


def test_tasks_with_a_description_read_the_dicefile(run: Run, tmp_path: Path) -> None:
    place(tmp_path / "project/image", "system('touch x')\n")
    for task in ("build", "up", "down", "info"):
        code, out, err = run(task, "--description=image")
        assert (code, out) == (3, "")
        assert "image/Dicefile, line 1: system('touch x')" in err
    assert not (tmp_path / "project/x").exists()
