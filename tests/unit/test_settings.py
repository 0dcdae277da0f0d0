"""Settings: what is valid, which level wins, and what is said about mistakes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from traceback import format_exception
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from vagrant_kiwi import settings
from vagrant_kiwi.errors import SettingsError
from vagrant_kiwi.invocation import SettingsConfig
from vagrant_kiwi.settings import KEYS, LoadedSettings, Settings, SyncEntry

LEVELS = {
    "system": "etc/invoke.json",
    "user": "home/.invoke.json",
    "project": "project/invoke.json",
    "runtime": "else/run.json",
}


def load(
    root: Path,
    levels: Mapping[str, object] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
    collection: dict[str, Any] | None = None,
    yaml: str | None = None,
) -> LoadedSettings:
    """Write each level's section to its file, and load them as a task does."""
    for folder in ("etc", "home", "project", "else", "cwd"):
        (root / folder).mkdir(exist_ok=True)
    for level, section in (levels or {}).items():
        (root / LEVELS[level]).write_text(json.dumps({"vagrant_kiwi": section}))
    if yaml is not None:
        (root / "project" / "invoke.yaml").write_text(yaml)
    config = SettingsConfig(
        system_prefix=f"{root}/etc/",
        user_prefix=f"{root}/home/.",
        project_location=root / "project",
        runtime_path=root / LEVELS["runtime"] if "runtime" in (levels or {}) else None,
    )
    config.load_project()
    config.load_runtime()
    config.load_collection(collection or {})
    config.load_shell_env()
    return settings.load(config, environment=environment or {}, flags=flags or {}, cwd=root / "cwd")


def refused(root: Path, *args: Any, **kwargs: Any) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        load(root, *args, **kwargs)
    assert caught.value.code == 3
    return caught.value


def test_defaults(tmp_path: Path) -> None:
    loaded = load(tmp_path)
    assert loaded.project_dir == tmp_path / "project"
    assert loaded.settings == Settings(state_dir=tmp_path / "project" / ".vagrant-kiwi")
    assert loaded.settings.model_dump(exclude={"state_dir"}) == {
        "provider": "docker",
        "description": None,
        "box": None,
        "kiwi_version": None,
        "vagrantfile": None,
        "target_dir": None,
        "result_format": "files",
        "keep": "never",
        "isolation": "auto",
        "sync": (),
        "provision": (),
        "mirrors": "auto",
        "template_dirs": (),
        "catalogs": (),
        "timeouts": {
            "box": 3600,
            "up": 600,
            "provision": 1800,
            "build": 7200,
            "fetch": 1800,
            "destroy": 300,
        },
        "docker": {"create_args": (), "pull": "missing"},
        "host": {
            "address": None,
            "port": 22,
            "user": None,
            "identity_file": None,
            "known_hosts": None,
            "jump": None,
            "host_key": "known",
            "folder": "/var/lib/vagrant-kiwi",
        },
        "hosts": (),
        "libvirt": {
            "uri": "qemu:///system",
            "accel": "auto",
            "memory": 3072,
            "cpus": None,
            "cpu_mode": None,
            "cpu_model": None,
            "machine_type": None,
            "arch": None,
            "disk": 40,
            "disk_bus": "virtio",
            "disk_cache": "unsafe",
            "pool": "default",
            "network": "default",
        },
        "kiwi": {
            "type": None,
            "profiles": (),
            "kiwi_file": None,
            "setenv": (),
            "shared_cache_dir": None,
            "temp_dir": None,
            "target_arch": None,
            "loglevel": None,
            "config": None,
        },
        "bundle": {
            "enabled": True,
            "id": None,
            "format": None,
            "compress": True,
            "zsync_source": None,
            "package_as_rpm": False,
        },
    }
    assert set(loaded.origins.values()) == {"default"}
    assert set(loaded.origins) == set(KEYS)


@pytest.mark.parametrize(
    ("variable", "file", "uri"),
    [
        ("qemu:///session", None, "qemu:///session"),
        ("qemu:///session", "qemu+ssh://u@h/system", "qemu+ssh://u@h/system"),
        ("xen:///", None, "qemu:///system"),
        ("", None, "qemu:///system"),
    ],
)
def test_libvirts_own_variable_is_the_lowest_level(
    tmp_path: Path, variable: str, file: str | None, uri: str
) -> None:
    files = {"project": {"libvirt": {"uri": file}}} if file is not None else {}
    loaded = load(tmp_path, files, environment={"LIBVIRT_DEFAULT_URI": variable})
    assert loaded.settings.libvirt.uri == uri


@pytest.mark.parametrize("uri", ["xen:///", "lxc:///", "-x", "qemu:///system x", ""])
def test_a_uri_of_another_hypervisor_is_refused(tmp_path: Path, uri: str) -> None:
    error = refused(tmp_path, {"project": {"libvirt": {"uri": uri}}})
    assert "libvirt.uri" in error.details


SOURCES = ["collection", "system", "user", "project", "environment", "runtime", "flags"]


@given(present=st.sets(st.sampled_from(SOURCES), min_size=1))
def test_the_highest_level_that_gives_a_setting_wins(
    tmp_path_factory: pytest.TempPathFactory, present: set[str]
) -> None:
    root = tmp_path_factory.mktemp("levels")
    files = {level: {"box": level} for level in SOURCES if level in present & set(LEVELS)}
    loaded = load(
        root,
        files,
        collection={"vagrant_kiwi": {"box": "collection"}} if "collection" in present else None,
        environment={"INVOKE_VAGRANT_KIWI_BOX": "environment"} if "environment" in present else {},
        flags={"box": "flags" if "flags" in present else None},
    )
    winner = max(present, key=SOURCES.index)
    assert loaded.settings.box == winner
    assert (
        loaded.origins["box"]
        == {
            "collection": "the tasks file (Collection.configure)",
            "environment": "INVOKE_VAGRANT_KIWI_BOX",
            "flags": "the command line",
            **{level: str(root / path) for level, path in LEVELS.items()},
        }[winner]
    )


def test_mappings_merge_and_lists_and_mirrors_are_replaced(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        {
            "user": {
                "timeouts": {"up": 1, "build": 2},
                "kiwi": {"profiles": ["a", "b"], "type": "oem"},
                "mirrors": {"http://a.example.org/": "http://b.example.org/"},
            },
            "project": {
                "timeouts": {"build": 3.5},
                "kiwi": {"profiles": ["c"]},
                "mirrors": {"http://c.example.org/": "http://d.example.org/"},
            },
        },
    ).settings
    assert (loaded.timeouts.up, loaded.timeouts.build, loaded.timeouts.box) == (1, 3.5, 3600)
    assert (loaded.kiwi.profiles, loaded.kiwi.type) == (("c",), "oem")
    assert loaded.mirrors == {"http://c.example.org/": "http://d.example.org/"}


@pytest.mark.parametrize(("low", "high"), [("off", {"a:/b": "c:/d"}), ({"a:/b": "c:/d"}, "auto")])
def test_mirrors_may_change_form_between_levels(tmp_path: Path, low: object, high: object) -> None:
    """Invoke's own merge ends here with AmbiguousMergeError."""
    levels = {"user": {"mirrors": low}, "project": {"mirrors": high}}
    assert load(tmp_path, levels).settings.mirrors == high


def test_an_empty_list_in_a_file_replaces_and_a_null_gives_the_default_back(
    tmp_path: Path,
) -> None:
    loaded = load(
        tmp_path,
        {
            "user": {"provision": ["x"], "box": "b", "timeouts": {"up": 1}},
            "project": {"provision": [], "box": None, "timeouts": None},
        },
    )
    assert (loaded.settings.provision, loaded.settings.box) == ((), None)
    assert loaded.settings.timeouts.up == 1
    assert loaded.origins["box"] == str(tmp_path / "project/invoke.json")


def test_relative_paths_start_from_where_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    loaded = load(
        tmp_path,
        {
            "system": {"description": "d"},
            "user": {"state_dir": "s", "kiwi": {"config": "~/kiwi.yml"}},
            "project": {"sync": [{"source": "src", "target": "/srv"}], "target_dir": "/abs"},
            "runtime": {"provision": ["p.sh", "../q.sh"]},
        },
        environment={"INVOKE_VAGRANT_KIWI_TEMPLATE_DIRS": '["t", "~/t"]'},
    ).settings
    assert loaded.description == tmp_path / "etc/d"
    assert loaded.state_dir == tmp_path / "home/s"
    assert loaded.kiwi.config == Path("/home/someone/kiwi.yml")
    assert loaded.sync == (SyncEntry(source=tmp_path / "project/src", target="/srv"),)
    assert loaded.target_dir == Path("/abs")
    assert loaded.provision == (tmp_path / "else/p.sh", tmp_path / "else/../q.sh")
    assert loaded.template_dirs == (tmp_path / "cwd/t", Path("/home/someone/t"))


def test_a_flag_path_starts_from_the_current_folder(tmp_path: Path) -> None:
    flags = {"description": "../d", "sync": ["a:b:/srv/x", "c:/y"]}
    loaded = load(tmp_path, flags=flags).settings
    assert loaded.description == tmp_path / "cwd/../d"
    assert loaded.sync == (
        SyncEntry(source=tmp_path / "cwd/a:b", target="/srv/x"),
        SyncEntry(source=tmp_path / "cwd/c", target="/y"),
    )


def test_all_mistakes_of_a_level_come_at_once(tmp_path: Path) -> None:
    error = refused(
        tmp_path,
        {
            "project": {
                "timeouts": {"biuld": 5, "up": 0},
                "keep": "alway",
                "build": 7,
                "sync": [{"source": "a", "taget": "/b"}, {"source": "a", "target": "b/c"}],
                "kiwi": {"profiles": ["ok", 5], "loglevel": True},
                "docker": 5,
            }
        },
    )
    assert error.brief == f"Invalid settings: {tmp_path}/project/invoke.json"
    assert error.details.splitlines() == [
        "keep: 'alway' is not allowed; did you mean always? Allowed: never, failed, always",
        "sync[0].target: missing. Allowed: an absolute path in the guest, without '..'",
        "sync[0].taget: no such setting; did you mean sync[0].target? "
        "Allowed: sync[0].source, sync[0].target, sync[0].exclude, sync[0].delete",
        "sync[1].target: 'b/c' is not allowed. "
        "Allowed: an absolute path in the guest, without '..'",
        "timeouts.up: 0 is not allowed. Allowed: a number of seconds above 0",
        "timeouts.biuld: no such setting; did you mean timeouts.build? Allowed: timeouts.box, "
        "timeouts.up, timeouts.provision, timeouts.build, timeouts.fetch, timeouts.destroy",
        "docker: 5 is not allowed. Allowed: a mapping of create_args, pull",
        "kiwi.profiles[1]: 5 is not allowed. Allowed: a list of profile names",
        "kiwi.loglevel: true is not allowed (YAML reads a bare yes, no, on or off as true or "
        "false). Allowed: a whole number from 0 to 50",
        f"build: no such setting; did you mean timeouts.build? Allowed: "
        f"{', '.join(Settings.model_fields)}",
    ]


def test_a_mistake_is_found_although_a_higher_level_would_hide_it(tmp_path: Path) -> None:
    error = refused(tmp_path, {"system": {"keep": "x"}, "project": {"keep": "always"}})
    assert str(tmp_path / "etc/invoke.json") in error.brief


@pytest.mark.parametrize("section", [5, [], "text", [{"box": "x"}]])
def test_a_section_that_is_no_mapping(tmp_path: Path, section: object) -> None:
    """Invoke's own merge ends with AmbiguousMergeError when the other level has a mapping."""
    error = refused(tmp_path, {"user": {"box": "x"}, "project": section})
    assert str(error) == (
        f"Invalid settings: {tmp_path}/project/invoke.json\n"
        "vagrant_kiwi: must be a mapping of settings\n"
        "Write the settings below vagrant_kiwi:, each on its own indented line."
    )


@pytest.mark.parametrize("name", ["vagrant-kiwi", "Vagrant_Kiwi", "vagrantkiwi"])
def test_a_misspelt_section_is_not_ignored(tmp_path: Path, name: str) -> None:
    error = refused(tmp_path, yaml=f"{name}: {{box: x}}\n")
    assert error.details == f"{name}: no such section; did you mean vagrant_kiwi?"


def test_other_sections_are_left_alone(tmp_path: Path) -> None:
    text = "vagrant_kiwi_extra: 1\nvagrant: {kiwi: 1}\nrun: {echo: true}\nvagrant_kiwi:\n"
    assert load(tmp_path, yaml=text).settings.box is None


def test_yaml_words_that_are_booleans(tmp_path: Path) -> None:
    assert load(tmp_path, yaml="vagrant_kiwi: {mirrors: off}").settings.mirrors == "off"
    error = refused(tmp_path, yaml="vagrant_kiwi: {mirrors: on, kiwi: {profiles: [no]}}")
    assert error.details.splitlines() == [
        "mirrors: this value is not allowed (it is neither of the two words nor a map) (YAML reads "
        "a bare yes, no, on or off as true or false). Allowed: auto, off, or a map of URL prefixes "
        "to URLs",
        "kiwi.profiles[0]: false is not allowed (YAML reads a bare yes, no, on or off as true or "
        "false). Allowed: a list of profile names",
    ]


def test_yaml_keys_that_are_no_text(tmp_path: Path) -> None:
    """Invoke's crawl for environment variables ends here with TypeError."""
    error = refused(tmp_path, yaml="vagrant_kiwi: {1: x, timeouts: {2: 5}}")
    lines = [line.partition(". Allowed")[0] for line in error.details.splitlines()]
    assert [line.partition(":")[0] for line in lines] == ["timeouts.2", "1"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("provider", ""),
        ("provider", "Docker"),
        ("provider", "-x"),
        ("provider", "../x"),
        ("provider", "docker\n"),
        ("description", ""),
        ("description", 5),
        ("description", "a\0b"),
        ("description", "~no-such-user-here/x"),
        ("box", 1.0),
        ("box", "a\nb"),
        ("state_dir", None),
        ("keep", True),
        ("keep", ["never"]),
        ("isolation", "none"),
        ("sync", {"source": "a", "target": "/b"}),
        ("sync", [{"source": "a", "target": "/../etc"}]),
        ("sync", [{"source": "a", "target": "/b", "delete": "yes"}]),
        ("sync", [{"source": "a", "target": "/b", "exclude": "x"}]),
        ("provision", "a.sh"),
        ("provision", [""]),
        ("mirrors", "on"),
        ("mirrors", []),
        ("mirrors", {"a": "http://b.example.org/"}),
        ("mirrors", {"http://b.example.org/": None}),
        ("mirrors", {"http://b.example.org/": "http://a b/"}),
        ("timeouts.up", "600"),
        ("timeouts.up", True),
        ("timeouts.up", -1),
        ("timeouts.up", float("nan")),
        ("timeouts.up", float("inf")),
        ("kiwi.type", "-x"),
        ("kiwi.type", "a b"),
        ("kiwi.kiwi_file", "../other/config.kiwi"),
        ("kiwi.setenv", ["1A=x"]),
        ("kiwi.setenv", ["A"]),
        ("kiwi.setenv", {"A": "x"}),
        ("kiwi.shared_cache_dir", "cache"),
        ("kiwi.temp_dir", "/a/../b"),
        ("kiwi.loglevel", 1.5),
        ("kiwi.loglevel", -1),
        ("bundle.enabled", 1),
        ("bundle.enabled", "yes"),
        ("bundle.id", 1.0),
        ("bundle.id", "a/b"),
        ("docker.create_args", "--x"),
        ("docker.create_args", [""]),
    ],
)
def test_bad_values_are_refused_by_key(tmp_path: Path, key: str, value: object) -> None:
    section, _, name = key.rpartition(".")
    error = refused(tmp_path, {"project": {section: {name: value}} if section else {name: value}})
    (line,) = error.details.splitlines()
    assert line.startswith(key)
    assert " is not allowed" in line
    assert "Allowed: " in line


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mirrors", {"http://u:hunter2@a.example.org/": 5}),
        ("mirrors", {"http://a.example.org/": ["http://u:hunter2@b.example.org/"]}),
        ("mirrors", "http://u:hunter2@b.example.org/"),
        ("kiwi", {"setenv": ["hunter2"]}),
        ("kiwi", {"setenv": "TOKEN=hunter2"}),
        ("docker", {"create_args": "--env=TOKEN=hunter2"}),
        ("docker", {"create_args": [["hunter2"]]}),
        ("bundle", {"zsync_source": "http://u:hunter2@b.example.org/ "}),
        ("keep", "http://u:hunter2@b.example.org/"),
        ("provider", "http://u:p@hunter2/@b.example.org/"),
        ("mirors", {"http://u:hunter2@b.example.org/": "x"}),
        ("http://u:hunter2@b.example.org/", "x"),
        ("timeouts", {"http://u:hunter2@b.example.org/": "x"}),
    ],
)
def test_a_message_about_a_file_never_shows_a_password(
    tmp_path: Path, key: str, value: object
) -> None:
    error = refused(tmp_path, {"project": {key: value}})
    assert "hunter2" not in f"{error} {error.as_json()} {''.join(format_exception(error))}"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("MIRRORS", '{"http://u:hunter2@a.example.org/": 5}'),
        ("MIRRORS", '{"http://u:hunter2@a.example.org/": '),
        ("MIRRORS", "http://u:hunter2@a.example.org/"),
        ("MIRORS", '{"http://u:hunter2@a.example.org/": 5}'),
        ("KIWI_SETENV", "TOKEN=hunter2"),
        ("KIWI_SETENV", '["hunter2"]'),
        ("DOCKER_CREATE_ARGS", "--env=TOKEN=hunter2"),
        ("BUNDLE_ZSYNC_SOURCE", "http://u:hunter2@b.example.org/ "),
        ("KEEP", "http://u:hunter2@b.example.org/"),
        ("SYNC", '["http://u:hunter2@b.example.org/"]'),
    ],
)
def test_a_message_about_a_variable_never_shows_a_password(
    tmp_path: Path, name: str, text: str
) -> None:
    error = refused(tmp_path, environment={f"INVOKE_VAGRANT_KIWI_{name}": text})
    assert f"INVOKE_VAGRANT_KIWI_{name}" in error.details
    assert "hunter2" not in f"{error} {error.as_json()} {''.join(format_exception(error))}"


def test_a_repr_never_shows_a_password(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        {
            "project": {
                "mirrors": {"http://u:hunter2@a.example.org/": "http://u:hunter2@b.example.org/"},
                "kiwi": {"setenv": ["A=hunter2"]},
                "docker": {"create_args": ["--env=hunter2"]},
                "bundle": {"zsync_source": "http://u:hunter2@b.example.org/"},
            }
        },
    )
    assert "hunter2" not in f"{loaded!r} {loaded.settings} {loaded.settings.kiwi!r}"
    assert loaded.settings.kiwi.setenv == ("A=hunter2",)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().provider = "other"  # type: ignore[misc]


def test_the_environment_gives_every_kind(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        {"project": {"provision": ["low"], "timeouts": {"build": 5}}},
        environment={
            "INVOKE_VAGRANT_KIWI_PROVISION": '["a b"]',
            "INVOKE_VAGRANT_KIWI_TIMEOUTS_BUILD": "7.5",
            "INVOKE_VAGRANT_KIWI_KIWI_LOGLEVEL": "10",
            "INVOKE_VAGRANT_KIWI_BUNDLE_ENABLED": "0",
            "INVOKE_VAGRANT_KIWI_BUNDLE_COMPRESS": "False",
            "INVOKE_VAGRANT_KIWI_BUNDLE_PACKAGE_AS_RPM": "1",
            "INVOKE_VAGRANT_KIWI_BUNDLE_ID": "1.0",
            "INVOKE_VAGRANT_KIWI_KIWI_KIWI_FILE": "a.kiwi",
            "INVOKE_VAGRANT_KIWI_MIRRORS": '{"http://a.example.org/": "http://b.example.org/"}',
            "INVOKE_VAGRANT_KIWI_SYNC": '[{"source": "a", "target": "/b", "delete": true}]',
            "INVOKE_OTHER": "x",
            "INVOKE_VAGRANT_KIWIS": "x",
        },
    )
    found = loaded.settings
    assert found.provision == (tmp_path / "cwd/a b",)
    assert (found.timeouts.build, found.kiwi.loglevel) == (7.5, 10)
    assert found.bundle.model_dump() == {
        "enabled": False,
        "compress": False,
        "package_as_rpm": True,
        "id": "1.0",
        "format": None,
        "zsync_source": None,
    }
    assert found.kiwi.kiwi_file == "a.kiwi"
    assert found.mirrors == {"http://a.example.org/": "http://b.example.org/"}
    assert found.sync == (SyncEntry(source=tmp_path / "cwd/a", target="/b", delete=True),)
    assert loaded.origins["timeouts.build"] == "INVOKE_VAGRANT_KIWI_TIMEOUTS_BUILD"


def test_mistakes_in_the_environment_name_the_variable(tmp_path: Path) -> None:
    error = refused(
        tmp_path,
        environment={
            "INVOKE_VAGRANT_KIWI_TIMEOUTS_BIULD": "5",
            "INVOKE_VAGRANT_KIWI_TIMEOUTS_UP": "ten",
            "INVOKE_VAGRANT_KIWI_PROVISION": "a.sh",
            "INVOKE_VAGRANT_KIWI_BUNDLE_ENABLED": "yes",
            "INVOKE_VAGRANT_KIWI_KEEP": "allways",
            "INVOKE_VAGRANT_KIWI_SYNC": '[{"source": "a"}]',
            "INVOKE_VAGRANT_KIWI_BOX": "",
        },
    )
    assert error.brief == "Invalid settings: the environment"
    lines = error.details.splitlines()
    assert lines[0].startswith(
        "INVOKE_VAGRANT_KIWI_TIMEOUTS_BIULD: no such setting; did you mean "
        "INVOKE_VAGRANT_KIWI_TIMEOUTS_BUILD? Allowed: INVOKE_VAGRANT_KIWI_ and one of BOX, BUNDLE"
    )
    assert lines[1:] == [
        "INVOKE_VAGRANT_KIWI_BOX: '' is not allowed. Allowed: text on one line (in quotes where it "
        "looks like a number or a date)",
        "INVOKE_VAGRANT_KIWI_KEEP: 'allways' is not allowed; did you mean always? "
        "Allowed: never, failed, always",
        "INVOKE_VAGRANT_KIWI_SYNC[0].target: missing. "
        "Allowed: an absolute path in the guest, without '..'",
        "INVOKE_VAGRANT_KIWI_PROVISION: 'a.sh' is not allowed. "
        "Allowed: a list of paths on this host, as JSON",
        "INVOKE_VAGRANT_KIWI_TIMEOUTS_UP: 'ten' is not allowed. "
        "Allowed: a number of seconds above 0",
        "INVOKE_VAGRANT_KIWI_BUNDLE_ENABLED: 'yes' is not allowed. Allowed: true or false",
    ]


@pytest.mark.parametrize("name", ["INVOKE_VAGRANT_KIWI", "INVOKE_VAGRANT_KIWI_TIMEOUTS"])
def test_a_variable_must_name_one_setting(tmp_path: Path, name: str) -> None:
    error = refused(tmp_path, environment={name: "{}"})
    assert error.details.startswith(f"{name}: no such setting")


def test_flags_that_were_not_given_change_nothing(tmp_path: Path) -> None:
    flags: dict[str, object] = {
        "box": None,
        "kiwi.profiles": [],
        "provision": (),
        "not bundle.enabled": False,
    }
    loaded = load(tmp_path, {"project": {"box": "b", "kiwi": {"profiles": ["p"]}}}, flags=flags)
    assert loaded.settings.box == "b"
    assert loaded.settings.kiwi.profiles == ("p",)
    assert loaded.settings.bundle.enabled
    assert "the command line" not in loaded.origins.values()


def test_flags(tmp_path: Path) -> None:
    entry = SyncEntry(source=Path("/a"), target="/b")
    loaded = load(
        tmp_path,
        {"project": {"bundle": {"enabled": True, "id": "low"}}},
        environment={"INVOKE_VAGRANT_KIWI_BUNDLE_ENABLED": "1"},
        flags={
            "not bundle.enabled": True,
            "bundle.package_as_rpm": True,
            "bundle.id": "1.0",
            "kiwi.loglevel": "0",
            "timeouts.build": 60,
            "kiwi.profiles": ["a", "b"],
            "sync": [entry],
        },
    ).settings
    assert not loaded.bundle.enabled
    assert loaded.bundle.package_as_rpm
    assert loaded.bundle.id == "1.0"
    assert (loaded.kiwi.loglevel, loaded.timeouts.build) == (0, 60)
    assert loaded.kiwi.profiles == ("a", "b")
    assert loaded.sync == (entry,)


def test_bad_flags(tmp_path: Path) -> None:
    flags = {"kiwi.loglevel": "debug", "sync": ["a"], "description": ""}
    error = refused(tmp_path, flags=flags)
    assert error.brief == "Invalid settings: the command line"
    assert [line.partition(" is not")[0] for line in error.details.splitlines()] == [
        "description: ''",
        "sync[0]: 'a'",
        "kiwi.loglevel: 'debug'",
    ]
    with pytest.raises(ValueError, match=r"kiwi\.typ is no setting"):
        load(tmp_path, flags={"kiwi.typ": "x"})


def test_a_missing_file_of_f_is_not_ignored(tmp_path: Path) -> None:
    config = SettingsConfig(
        system_prefix=f"{tmp_path}/", user_prefix=f"{tmp_path}/.", runtime_path=Path("run.yaml")
    )
    config.load_runtime()
    with pytest.raises(SettingsError) as caught:
        settings.load(config, environment={}, flags={}, cwd=tmp_path)
    assert (caught.value.code, caught.value.details) == (3, "run.yaml")


def test_every_setting_is_described() -> None:
    assert {"provider", "timeouts.build", "kiwi.config", "bundle.zsync_source"} <= set(KEYS)
    for key in KEYS.values():
        assert key.about, key.name
        assert key.allowed, key.name
    for name, field in SyncEntry.model_fields.items():
        assert field.description, name
    assert {name for name, key in KEYS.items() if key.secret} == {
        "docker.create_args",
        "kiwi.setenv",
        "mirrors",
        "bundle.zsync_source",
    }


def test_no_two_settings_share_a_variable() -> None:
    assert len({name.replace(".", "_") for name in KEYS}) == len(KEYS)


def test_sync_and_provision_flags_add_to_the_files(tmp_path: Path) -> None:
    files = {"project": {"sync": [{"source": "a", "target": "/a"}], "provision": ["p.sh"]}}
    loaded = load(tmp_path, files, flags={"sync": ["b:/b"], "provision": ["q.sh"]})
    assert [entry.target for entry in loaded.settings.sync] == ["/a", "/b"]
    assert [path.name for path in loaded.settings.provision] == ["p.sh", "q.sh"]
