"""What Ruby and Vagrant make of a rendered Vagrantfile."""

from __future__ import annotations

import itertools
import os
import random
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vagrant_kiwi.process import Runner
from vagrant_kiwi.templates import render

#: What ends, opens or escapes something in Ruby, in a Vagrantfile, or in a careless quoting.
FRAGMENTS = (
    "'",
    '"',
    "`",
    "\\",
    "#",
    "#{",
    "}",
    "#{abort 'hostile'}",
    '#{abort "hostile"}',
    "#$0",
    "#@x",
    "#@@x",
    "\n",
    "\r",
    "\r\n",
    "\0",
    "\t",
    "\x1a",
    "\x1b[0m",
    "\x7f",
    "\x85",
    "\u2028",
    "\u2029",
    "\ufeff",
    "\ufffe",
    "\u202e",
    "é",
    "e\u0301",
    "€",
    "😀",
    "\U0010ffff",
    "\udc80",
    "\udcff",
    "\udcc3\udca9",
    "\\u{41}",
    "\\x41",
    "\\101",
    "\\n",
    "\\M-a",
    "%q(",
    "%w[",
    ")",
    "]",
    "<<~EOS\n",
    "\nEOS\n",
    "\n__END__\n",
    "\n=begin\n",
    "\n=end\n",
    "# -*- encoding: ascii -*-",
    "{{ site }}",
    "{% raw %}",
    "<%= 1 %>",
    "%s",
    "%{x}",
    "?a",
    ";",
    "|",
    " ",
    "0",
    "f",
    "A",
)

#: A Vagrant that only writes down, as hexadecimal bytes, what a Vagrantfile sets on a provider.
RECORDER = r"""
class Recorder < BasicObject
  def method_missing(name, *args, &block)
    block.call(self) if block
    if %i[name= create_args=].include?(name)
      args[0].is_a?(::Array) || args[0] = [args[0]]
      args[0].each { |text| ::STDOUT.puts(text.b.unpack1('H*') + ' ' + text.encoding.to_s) }
    end
    self
  end
  def respond_to_missing?(*) = true
end
module Vagrant
  def self.configure(version) = yield(Recorder.new)
end
load ARGV[0]
puts 'done'
"""


@dataclass(frozen=True)
class Plan:
    run_id: str
    name: str


@dataclass(frozen=True)
class Box:
    image: str = "vagrant-kiwi/debian-bookworm:1"


@dataclass(frozen=True)
class Guest:
    name: str
    create_args: tuple[str, ...]
    user: str = "vagrant"
    command: tuple[str, ...] = ()
    boot_timeout: int = 60


def write_vagrantfile(folder: Path, texts: list[str]) -> Path:
    """Render ours for docker with these strings wherever a value goes."""
    first = texts[0] if texts else ""
    variables = {
        "plan": Plan(run_id=first, name=first),
        "box": Box(),
        "guest": Guest(name=first, create_args=tuple(texts)),
        "site": {},
    }
    file = folder / "Vagrantfile"
    rendered = render("Vagrantfile.docker.j2", variables, search=[])
    file.write_text(rendered, encoding="utf-8", newline="")
    return file


def through_ruby(runner: Runner, folder: Path, texts: list[str]) -> list[str]:
    """Return what Ruby has for ``[texts[0], *texts]`` after it ran the rendered Vagrantfile."""
    (folder / "recorder.rb").write_text(RECORDER)
    file = write_vagrantfile(folder, texts)
    # The plainest locale: the file must not depend on the caller's.
    result = runner.run(
        ["ruby", str(folder / "recorder.rb"), str(file)],
        timeout=60,
        environment={"LC_ALL": "C"},
    )
    assert result.ok, result.error_text
    *lines, last = result.text.splitlines()
    assert last == "done"
    assert {line.partition(" ")[2] for line in lines} <= {"UTF-8"}
    return [os.fsdecode(bytes.fromhex(line.partition(" ")[0])) for line in lines]


def surrogates_joined(text: str) -> str:
    """Return a string as it comes back from bytes: escaped bytes that are UTF-8 become text."""
    return os.fsdecode(os.fsencode(text))


def test_every_pair_of_hostile_fragments_comes_back(runner: Runner, tmp_path: Path) -> None:
    texts = ["".join(pair) for pair in itertools.product(FRAGMENTS, repeat=2)]
    assert len(texts) > 3000
    back = through_ruby(runner, tmp_path, texts)
    assert back == [surrogates_joined(text) for text in (texts[0], *texts)]


def test_long_mixtures_of_hostile_fragments_come_back(runner: Runner, tmp_path: Path) -> None:
    chance = random.Random(20260101)  # noqa: S311 - the same ones every time
    texts = ["".join(chance.choices(FRAGMENTS, k=chance.randrange(3, 40))) for _ in range(3000)]
    back = through_ruby(runner, tmp_path, texts)
    assert back == [surrogates_joined(text) for text in (texts[0], *texts)]


def test_every_character_of_the_basic_plane_comes_back(runner: Runner, tmp_path: Path) -> None:
    texts = [chr(point) for point in range(0x10000) if not 0xD800 <= point <= 0xDFFF]
    back = through_ruby(runner, tmp_path, texts)
    assert back == [texts[0], *texts]


@settings(
    max_examples=25,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.lists(
        st.one_of(
            st.lists(st.sampled_from(FRAGMENTS)).map("".join),
            st.text(st.characters(exclude_categories=["Cs"])),
        ),
        min_size=1,
        max_size=60,
    )
)
def test_any_strings_come_back(runner: Runner, tmp_path: Path, texts: list[str]) -> None:
    back = through_ruby(runner, tmp_path, texts)
    assert back == [surrogates_joined(text) for text in (texts[0], *texts)]


def test_other_literals_are_the_same_values_in_ruby(runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "x.j2").write_text("require 'json'\nputs JSON.generate({{ site|rb }})\n")
    value = {
        "none": None,
        "yes": True,
        "no": False,
        "numbers": [0, -1, 2**64, -(2**70), 1.5, 1e22, 5e-324, -0.0],
        "nested": {"it's": [[], {}, [""]]},
    }
    file = tmp_path / "x.rb"
    file.write_text(render("x.j2", {"site": value}, search=[tmp_path]))
    result = runner.run(["ruby", str(file)], timeout=60)
    assert result.text == (
        '{"none":null,"yes":true,"no":false,"numbers":[0,-1,18446744073709551616,'
        '-1180591620717411303424,1.5,1.0e+22,5.0e-324,-0.0],"nested":{"it\'s":[[],{},[""]]}}\n'
    )


@pytest.mark.parametrize("hostile", ["#{abort}", "__END__", "'\"\\", "é😀\u2028"])
def test_vagrant_validates_the_result(runner: Runner, tmp_path: Path, hostile: str) -> None:
    write_vagrantfile(tmp_path, [f"vagrant-kiwi\n{hostile}\n"])
    result = runner.run(
        ["vagrant", "validate"],
        timeout=60,
        cwd=tmp_path,
        environment={"VAGRANT_HOME": str(tmp_path / "home")},
    )
    assert result.ok, result.error_text
    assert result.text == "Vagrantfile validated successfully.\n"


def test_vagrant_shares_no_folder_and_forwards_no_port_itself(
    runner: Runner, tmp_path: Path
) -> None:
    """Ask Vagrant itself for the configuration, after a site tried to switch the folder on."""
    (tmp_path / "Vagrantfile.docker.j2").write_text(
        '{% extends "builtin/Vagrantfile.docker.j2" %}{% block synced_folders %}\n'
        "  config.vm.synced_folder '.', '/vagrant'\n{% endblock %}{% block footer %}\n"
        "  config.vm.synced_folder '.', '/vagrant', disabled: false\n{% endblock %}"
        "{% block header %}\n"
        # It is loaded a second time by what is asked here.
        "first, $asked = !$asked, true\n"
        "first and at_exit do\n"
        "  vm = Vagrant::Environment.new.machine(:default, :docker).config.vm\n"
        "  STDERR.puts vm.synced_folders.map { |to, how| [to, how[:disabled]] }.inspect\n"
        "  STDERR.puts vm.networks.map { |kind, how| [kind, how[:id], how[:disabled]] }.inspect\n"
        "end\n"
        "{% endblock %}"
    )
    variables = {
        "plan": Plan("1", "1"),
        "box": Box(),
        "guest": Guest("vagrant-kiwi-x", ()),
        "site": {},
    }
    text = render("Vagrantfile.docker.j2", variables, search=[tmp_path])
    (tmp_path / "Vagrantfile").write_text(text)
    result = runner.run(
        ["vagrant", "validate"],
        timeout=60,
        cwd=tmp_path,
        environment={"VAGRANT_HOME": str(tmp_path / "home")},
    )
    assert result.ok, result.error_text
    assert result.error_text.splitlines() == [
        '[["/vagrant", true]]',
        '[[:forwarded_port, "ssh", true]]',
    ]
