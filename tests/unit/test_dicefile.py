"""Dicefiles: what is understood, what it means, and that nothing in them runs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vagrant_kiwi import dicefile, settings
from vagrant_kiwi.dicefile import Dicefile
from vagrant_kiwi.errors import SettingsError
from vagrant_kiwi.invocation import SettingsConfig
from vagrant_kiwi.settings import LoadedSettings

HERE = Path("/site/image/Dicefile")
HOME = {"HOME": "/home/u"}

DOCKER = """\
Dice.configure do |config|
  config.buildhost = :DOCKER
end
"""
HOST = """\
# Written by hand.
Dice.configure do |config|

  # The build worker
  config.buildhost = "build1.example.com"  # in the cellar
  config.ssh_user = 'kiwi'
  config.ssh_private_key = File.join(ENV["HOME"], ".ssh/id", "build1")
end
"""
VAGRANT = """\
Dice.configure do |config|
  config.ssh_user = "vagrant"
end
"""


def parse(text: str | bytes, environ: Mapping[str, str] = HOME) -> Dicefile:
    data = text if isinstance(text, bytes) else text.encode()
    return dicefile.parse(HERE, data, environ)


def body(*lines: str) -> str:
    return "\n".join(("Dice.configure do |c|", *lines, "end", ""))


def refused(text: str | bytes, environ: Mapping[str, str] = HOME) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        parse(text, environ)
    assert caught.value.code == 3
    assert str(HERE) in caught.value.brief
    return caught.value


def test_the_three_places() -> None:
    assert parse(DOCKER) == Dicefile(HERE, provider="docker-direct")
    assert parse(VAGRANT) == Dicefile(HERE)
    assert parse(HOST) == Dicefile(
        HERE,
        provider="host",
        address="build1.example.com",
        user="kiwi",
        identity_file=Path("/home/u/.ssh/id/build1"),
    )


def test_dices_default_user_but_not_its_default_key() -> None:
    found = parse(body('c.buildhost = "192.0.2.7"'))
    assert found == Dicefile(HERE, "host", "192.0.2.7", "vagrant", None)
    assert found.section({}) == {
        "provider": "host",
        "host": {"address": "192.0.2.7", "user": "vagrant"},
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        "# nothing",
        body(),
        body("c.buildhost = :VAGRANT"),
        body("c.ssh_private_key = 'key'"),
        "Dice.configure do |config|\nend # no newline",
    ],
)
def test_without_a_place_it_is_vagrant(text: str) -> None:
    assert parse(text) == Dicefile(HERE)


@pytest.mark.parametrize(
    "text",
    [
        DOCKER.replace("\n", "\r\n"),
        "\ufeff" + DOCKER,
        DOCKER.rstrip(),
        DOCKER.replace(" = ", "="),
        DOCKER.replace(" = ", "\t=  "),
        DOCKER.replace(" = ", " =\n   # where\n  "),
        DOCKER.replace("config", "größe_2").replace(".größe_2ure", ".configure"),
        DOCKER.replace("|config|", "| config |#x"),
        DOCKER.replace("  config", "config"),
        "# äöü 日本\u3000語 \U0001f469\u200d\U0001f4bb\n" + DOCKER,
    ],
)
def test_the_ways_people_write(text: str) -> None:
    assert parse(text) == Dicefile(HERE, provider="docker-direct")


@pytest.mark.parametrize(
    ("expression", "path"),
    [
        ('File.join(ENV["HOME"], ".ssh/id")', "/home/u/.ssh/id"),
        ("File.join(ENV['HOME'], '.ssh', 'id')", "/home/u/.ssh/id"),
        ('File.join(ENV["HOME"], "/.ssh/", "/id")', "/home/u/.ssh/id"),
        ('File.join(\n  ENV["HOME"], # mine\n  ".ssh/id"\n)', "/home/u/.ssh/id"),
        ('File.join(File.expand_path("~"), ".ssh/id")', "/home/u/.ssh/id"),
        ('ENV["HOME"] + "/.ssh/id"', "/home/u/.ssh/id"),
        ('ENV["HOME"]+"/.ssh" +\n "/id"', "/home/u/.ssh/id"),
        ("\"#{ENV['HOME']}/.ssh/id\"", "/home/u/.ssh/id"),
        ('"#{ENV["HOME"]}/.ssh/id"', "/home/u/.ssh/id"),
        ('File.expand_path("~/.ssh/id")', "/home/u/.ssh/id"),
        ('File.expand_path("../key")', "/site/key"),
        ('"~/.ssh/id"', "/home/u/.ssh/id"),
        ("'/etc/keys/#id'", "/etc/keys/#id"),
        ('"key/id # 1"', "/site/image/key/id # 1"),
        (r'"/a\"b\\c\#{d}#e"', r'/a"b\c#{d}#e'),
        (r"'/a\'b\\c\nd#{e}'", r"/a'b\c\nd#{e}"),
    ],
)
def test_paths_of_the_key(expression: str, path: str) -> None:
    found = parse(body("c.buildhost = 'b'", f"c.ssh_private_key = {expression}"))
    assert found.identity_file == Path(path)


@pytest.mark.parametrize(
    "line",
    [
        "c.buildhost = 'a'; system('x')",
        "c.buildhost = `hostname`",
        "c.buildhost = %x(hostname)",
        "c.buildhost = %q(a)",
        "c.buildhost = :docker",
        "c.buildhost = docker",
        "c.buildhost = Dice::DOCKER_BUILD",
        'c.buildhost = :"DOCKER"',
        "c.buildhost = :DOCKER if true",
        "c.buildhost == :DOCKER",
        "c.buildhost :DOCKER",
        'c.buildhost = ""',
        'c.buildhost = "-oProxyCommand=x"',
        'c.buildhost = "root@b"',
        'c.buildhost = "a b"',
        'c.buildhost = "b:2222"',
        "c.buildhost = \"#{ENV['HOME']}\"",
        'c.buildhost = "#{`hostname`}"',
        'c.buildhost = "#$x"',
        'c.buildhost = "#@x"',
        'c.buildhost = "a\\nb"',
        'c.buildhost = "a" "b"',
        'c.buildhost = "a" + "b"',
        'c.buildhost = "a".strip',
        'c.buildhost = "a',
        "c.buildhost = <<X\nb\nX",
        "c.buildhost =",
        "c.ssh_user = :root",
        "c.ssh_user = ENV['HOME']",
        "c.ssh_user = '-l'",
        "c.ssh_private_key = :x",
        "c.ssh_private_key = ''",
        "c.ssh_private_key = '~root/.ssh/id'",
        "c.ssh_private_key = ENV['PATH']",
        "c.ssh_private_key = ENV ['HOME']",
        "c.ssh_private_key = File.join('a'",
        "c.ssh_private_key = File.join()",
        "c.ssh_private_key = File.read('a')",
        "c.ssh_private_key = File.expand_path('a', 'b')",
        "c.ssh_private_key = 'a' +",
        "c.ssh_private_key = " + "File.join(" * 3000 + "'a'" + ")" * 3000,
        "c.ssh_port = 22",
        "c.buildhosts = 'a'",
        f"c.{'x' * 5000} = 'a'",
        "d.buildhost = 'a'",
        "c&.buildhost = 'a'",
        "buildhost = 'a'",
        "require 'x'",
        "eval('x')",
        "c.buildhost = 'a' # \x1b[2K",
        "c.buildhost = 'a' # \rend",
        "\x04",
        "=begin\n=end",
        "__END__",
    ],
)
def test_all_else_is_refused_with_its_line(line: str) -> None:
    error = refused("# first\n" + body("", line))
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line.split("\n")[0])[:60]
    place = error.details.split("\n")[0]
    # What breaks off is seen where it could have gone on.
    assert place.startswith(f"{HERE}, line ")
    if "\n" not in line and not line.endswith(("=", "+", "('a'")):
        assert place.startswith(f"{HERE}, line 4: {shown}")
    assert len(error.details) < 2000
    assert ":DOCKER, :VAGRANT" in error.details
    assert "invoke.yaml" in error.resolution


def test_what_is_said() -> None:
    error = refused(body("c.buildhosts = 'a'"))
    assert "buildhosts: no such setting; did you mean buildhost?" in error.details
    error = refused(body("c.ssh_user = 'a'", "c.ssh_user = 'b'"))
    assert f"{HERE}, line 3: c.ssh_user = 'b'\nssh_user was set in line 2 already." in error.details
    error = refused("Dice.configure do |c|\n  c.ssh_user = 'a'\n")
    assert "The block that begins in line 1 has no end." in error.details
    error = refused(body('c.buildhost = "b:2222"'))
    assert "host.port" in error.details
    error = refused(DOCKER + DOCKER)
    assert "line 4: Dice.configure do |config|\nNothing may follow the block." in error.details
    error = refused(b"# a\n# b\n# \xff\n" + DOCKER.encode())
    assert "line 3: # \ufffd\nIt is not encoded in UTF-8." in error.details
    error = refused("\n" * 70000)
    assert "65536 bytes" in error.details


@pytest.mark.parametrize("environ", [{}, {"HOME": ""}, {"HOME": "u"}])
def test_without_a_home_folder(environ: dict[str, str]) -> None:
    error = refused(body("", "c.ssh_private_key = '~/id'"), environ)
    assert "line 3: c.ssh_private_key = '~/id'\nHOME" in error.details
    assert parse(body("c.ssh_private_key = 'id'"), environ) == Dicefile(HERE)


#: What Python reports when something runs; see "Audit events table" in its documentation.
RUNS = ("exec", "compile", "os.", "subprocess.", "socket.", "pty.", "shutil.", "open")
watched: list[list[str]] = []


@pytest.fixture(scope="module")
def hook() -> Iterator[None]:
    """Audit hooks stay for good, so this one is silent when nothing is watched."""
    sys.addaudithook(
        lambda event, _: watched[-1].append(event) if watched and event.startswith(RUNS) else None
    )
    yield
    watched.clear()


DANGEROUS = [
    "`touch x`",
    "system('touch x')",
    "%x(touch x)",
    "#{",
    "#{system('x')}",
    "#{ENV['HOME']}",
    "require 'x'",
    "eval('1')",
    "<<~X\n",
    ";",
    "\n",
    "\\",
    "'",
    '"',
    "ENV['PATH']",
    "File.read('/etc/passwd')",
    "File.join(",
    "File.expand_path(",
    ")",
    "~",
    "::",
    "\0",
    "=begin\n",
    "__END__\n",
]
real = st.sampled_from([DOCKER, HOST, VAGRANT, DOCKER.replace("\n", "\r\n")])


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Return a Dicefile with some of it cut out, and something else put in."""
    data = draw(real).encode()
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        end = at + draw(st.integers(0, 12))
        put = draw(st.sampled_from(DANGEROUS).map(str.encode) | st.binary(max_size=8))
        data = data[:at] + put + data[end:]
    return data


@given(
    data=st.binary() | st.text().map(str.encode) | mutated(),
    environ=st.sampled_from([HOME, {}, {"HOME": "/a\0b"}, {"HOME": "/\udcff"}, {"HOME": "x"}]),
)
def test_nothing_runs_and_nothing_else_is_raised(
    data: bytes, environ: dict[str, str], hook: None
) -> None:
    parse(HOST)  # what is imported at first use
    found = None
    watched.append([])
    try:
        found = parse(data, environ)
    except SettingsError as error:
        assert str(error)
    finally:
        events = watched.pop()
    assert events == []
    if found is not None:
        checked = settings.Settings.model_validate(found.section(environ))
        assert (checked.provider == "host") is (checked.host.address is not None)
        assert checked.host.identity_file is None or checked.host.identity_file.is_absolute()


def test_the_hook_sees_what_runs(hook: None) -> None:
    watched.append([])
    eval("1")  # noqa: S307
    assert watched.pop() == ["compile", "exec"]


@pytest.mark.parametrize(
    "unit", ['"', "'", "#", "(", "+", "'a'+", "#{", "\\", " ", "|", "=\n", "é"]
)
def test_no_text_takes_long(unit: str) -> None:
    text = ("Dice.configure do |c|\nc.ssh_private_key = " + unit * 65536)[:60000]
    started = time.monotonic()
    refused(text.encode()[:65536].decode(errors="ignore"))
    assert time.monotonic() - started < 5


# As a level of the settings.


def load(
    root: Path,
    text: str | None,
    *,
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    project: Mapping[str, object] | None = None,
    user: Mapping[str, object] | None = None,
    collection: dict[str, Any] | None = None,
) -> LoadedSettings:
    """Load the settings of a task with the description ``root/image``."""
    for folder in ("home", "project", "image"):
        (root / folder).mkdir(exist_ok=True)
    if text is not None:
        (root / "image/Dicefile").write_text(text)
    for path, section in (("project/invoke.json", project), ("home/.invoke.json", user)):
        (root / path).write_text(json.dumps({"vagrant_kiwi": section or {}}))
    config = SettingsConfig(
        system_prefix=f"{root}/etc/",
        user_prefix=f"{root}/home/.",
        project_location=root / "project",
    )
    config.load_project()
    config.load_collection(collection or {})
    config.load_shell_env()
    return settings.load(
        config,
        environment={"HOME": str(root / "home"), **(environ or {})},
        flags=flags if flags is not None else {"description": str(root / "image")},
        cwd=root / "project",
    )


def test_the_dicefile_is_a_level(tmp_path: Path) -> None:
    loaded = load(tmp_path, HOST)
    assert loaded.settings.provider == "host"
    assert loaded.settings.host == settings.HostSettings(
        address="build1.example.com",
        user="kiwi",
        identity_file=tmp_path / "home/.ssh/id/build1",
    )
    given = {name for name, origin in loaded.origins.items() if "Dicefile" in origin}
    assert given == {
        "provider",
        "host.address",
        "host.user",
        "host.identity_file",
        "host.host_key",
    }
    assert {loaded.origins[name] for name in given} == {str(tmp_path / "image/Dicefile")}


def test_without_a_dicefile_nothing_changes(tmp_path: Path) -> None:
    loaded = load(tmp_path, None, environ={"VAGRANT_DEFAULT_PROVIDER": "libvirt"})
    assert loaded.settings.provider == "docker"
    assert set(loaded.origins.values()) == {"default", "the command line"}
    (tmp_path / "image/Dicefile").mkdir()
    assert load(tmp_path, None).settings.provider == "docker"


@pytest.mark.parametrize("variable", ["libvirt", "virtualbox", ""])
def test_vagrants_variable_counts_beside_a_dicefile_that_means_vagrant(
    tmp_path: Path, variable: str
) -> None:
    environ = {"VAGRANT_DEFAULT_PROVIDER": variable}
    loaded = load(tmp_path, VAGRANT, environ=environ)
    assert loaded.settings.provider == (variable or "docker")
    assert loaded.settings.host.user is None
    origin = "VAGRANT_DEFAULT_PROVIDER" if variable else str(tmp_path / "image/Dicefile")
    assert loaded.origins["provider"] == origin
    (tmp_path / "image/Vagrantfile").touch()
    assert load(tmp_path, DOCKER, environ=environ).settings.provider == "docker-direct"
    assert load(tmp_path, HOST, environ=environ).settings.provider == "host"


def test_a_bad_variable_is_named(tmp_path: Path) -> None:
    environ = {"VAGRANT_DEFAULT_PROVIDER": "Virtual Box"}
    with pytest.raises(SettingsError, match="VAGRANT_DEFAULT_PROVIDER") as caught:
        load(tmp_path, VAGRANT, environ=environ)
    assert "'Virtual Box'" in caught.value.details
    assert load(tmp_path, DOCKER, environ=environ).settings.provider == "docker-direct"


def test_every_other_level_wins(tmp_path: Path) -> None:
    description = str(tmp_path / "image")
    low = load(tmp_path, HOST, collection={"vagrant_kiwi": {"provider": "libvirt"}})
    assert (low.settings.provider, low.settings.host.address) == ("libvirt", "build1.example.com")
    mixed = load(
        tmp_path,
        HOST,
        user={"host": {"user": "me", "port": 2222}},
        project={"description": "../image"},
        flags={"description": None, "provider": "docker"},
    )
    assert mixed.settings.provider == "docker"
    assert (mixed.settings.host.address, mixed.settings.host.user, mixed.settings.host.port) == (
        "build1.example.com",
        "me",
        2222,
    )
    flag = load(tmp_path, DOCKER, flags={"description": description, "provider": "libvirt"})
    assert flag.settings.provider == "libvirt"
    variable = load(tmp_path, DOCKER, environ={"INVOKE_VAGRANT_KIWI_PROVIDER": "libvirt"})
    assert variable.settings.provider == "libvirt"


def test_the_description_that_wins_is_the_one_whose_dicefile_is_read(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/Dicefile").write_text("system('x')")
    named = {"description": str(tmp_path / "other")}
    assert load(tmp_path, DOCKER, user=named).settings.provider == "docker-direct"
    with pytest.raises(SettingsError, match="other/Dicefile"):
        load(tmp_path, DOCKER, flags={"description": named["description"]})
    with pytest.raises(SettingsError, match="other/Dicefile"):
        load(tmp_path, DOCKER, user=named, flags={"description": None})
    nothing = load(
        tmp_path, DOCKER, user=named, project={"description": None}, flags={"description": None}
    )
    assert nothing.settings.provider == "docker"


def test_only_tasks_with_a_description_read_it(tmp_path: Path) -> None:
    loaded = load(tmp_path, "system('x')", project={"description": "../image"}, flags={})
    assert loaded.settings.provider == "docker"


def test_the_description_may_be_its_main_file_or_missing(tmp_path: Path) -> None:
    load(tmp_path, DOCKER)
    (tmp_path / "image/config.xml").touch()
    for name, provider in (
        ("image/config.xml", "docker-direct"),
        ("image/nope.xml", "docker"),
        ("image/" + "n" * 300, None),
    ):
        flags = {"description": str(tmp_path / name)}
        if provider is None:
            with pytest.raises(SettingsError, match="Cannot read the Dicefile"):
                load(tmp_path, None, flags=flags)
        else:
            assert load(tmp_path, None, flags=flags).settings.provider == provider


def test_a_machine_from_a_dicefile_must_be_known(tmp_path: Path) -> None:
    trusting = {"host": {"host_key": "accept-new"}}
    for levels in (
        {"user": trusting},
        {"project": trusting},
        {"environ": {"INVOKE_VAGRANT_KIWI_HOST_HOST_KEY": "accept-new"}},
        {"collection": {"vagrant_kiwi": trusting}},
        {"flags": {"description": str(tmp_path / "image"), "host.host_key": "accept-new"}},
    ):
        loaded = load(tmp_path, HOST, **levels)
        assert loaded.settings.host.host_key == "known"
        assert loaded.origins["host.host_key"] == str(tmp_path / "image/Dicefile")
    own = {"host": {"host_key": "accept-new", "address": "mine.example.com"}}
    loaded = load(tmp_path, HOST, user=own)
    assert (loaded.settings.host.host_key, loaded.settings.host.address) == (
        "accept-new",
        "mine.example.com",
    )
    assert load(tmp_path, DOCKER, user=trusting).settings.host.host_key == "accept-new"


def test_a_link_to_a_secret_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "image").mkdir()
    (tmp_path / "secret").write_text("TOKEN=abc")
    (tmp_path / "image/Dicefile").symlink_to(tmp_path / "secret")
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, None)
    assert "line 1" in str(caught.value)
    assert "TOKEN" not in str(caught.value)
    (tmp_path / "secret").write_text(DOCKER)
    assert load(tmp_path, None).settings.provider == "docker-direct"
