"""Rules, look-up, literals and renderings of the Vagrantfile templates; ruby itself is not run."""

from __future__ import annotations

import ast
import enum
import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vagrant_kiwi import templates
from vagrant_kiwi.errors import StoppedError, TemplateError
from vagrant_kiwi.templates import lint, provider_names, rb, render


@dataclass(frozen=True)
class Plan:
    run_id: str = "20260101-120000-ab12"
    name: str = "debian-tarball"


@dataclass(frozen=True)
class Box:
    image: str = "vagrant-kiwi/debian-bookworm:1"
    name: str = "debian-bookworm"
    version: str = "1"


@dataclass(frozen=True)
class Guest:
    name: str = "vagrant-kiwi-ab12"
    user: str = "vagrant"
    create_args: tuple[str, ...] = ("--init", "-p", "127.0.0.1::22")
    command: tuple[str, ...] = ()
    boot_timeout: int = 300


@dataclass(frozen=True)
class Data:
    plan: Plan = field(default_factory=Plan)
    box: Box = field(default_factory=Box)
    guest: Guest = field(default_factory=Guest)
    site: object = field(default_factory=dict)

    def variables(self) -> dict[str, object]:
        return {"plan": self.plan, "box": self.box, "guest": self.guest, "site": self.site}


def site(folder: Path, **files: str) -> list[Path]:
    """Write templates (``docker=...`` is Vagrantfile.docker.j2, ``x_j2=...`` is x.j2)."""
    for name, text in files.items():
        stem = name.removesuffix("_j2")
        file = f"{stem}.j2" if name.endswith("_j2") else f"Vagrantfile.{name}.j2"
        (folder / file).write_text(text, encoding="utf-8")
    return [folder]


def shown(text: str, tmp_path: Path, value: object = None) -> str:
    """Render a small template of a site."""
    search = site(tmp_path, small_j2=text)
    return render("small.j2", Data(site=value).variables(), search=search)


def messages(name: str, search: list[Path]) -> list[str]:
    """Return the problems as ``file:line: message``."""
    return [f"{p.path.name}:{p.line}: {p.message}" for p in lint(name, search)]


OUTPUT = "an output must end in |rb: {{ value|rb }}"
STRING = "no output or block within a Ruby string; write 'text' + {{ value|rb }}"


class Size(enum.IntEnum):
    BIG = 7


class Color(enum.StrEnum):
    RED = "it's red"


# --- rb ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "literal"),
    [
        (None, "nil"),
        (True, "true"),
        (False, "false"),
        (0, "0"),
        (-12, "-12"),
        (Size.BIG, "7"),
        (2**64, "0x10000000000000000"),
        (1.5, "1.5"),
        (1e22, "1e+22"),
        ("", "''"),
        ("plain text", "'plain text'"),
        ("it's", r"'it\'s'"),
        ('say "hi"', "'say \"hi\"'"),
        ("back\\slash", r"'back\\slash'"),
        ("\\'", r"'\\\''"),
        ("#{`id`}", r'"\#{`id`}"'),
        ("#$0 #@x", r'"\#$0 \#@x"'),
        ('#"\\', r'"\#\"\\"'),
        ("a\nb\tc\rd", r'"a\nb\tc\rd"'),
        ("\0\x7f\x1b", r'"\u{0}\u{7f}\u{1b}"'),
        ("é€😀", r'"\u{e9}\u{20ac}\u{1f600}"'),
        ("\u2028\ufeff\x85", r'"\u{2028}\u{feff}\u{85}"'),
        ("caf\udce9", r'"caf\xe9"'),
        ("\udcff0", r'"\xff0"'),
        (Color.RED, r"'it\'s red'"),
        (Path("/srv/a b"), "'/srv/a b'"),
        ([], "[]"),
        ((1, "a", None), "[1, 'a', nil]"),
        ([["x"], []], "[['x'], []]"),
        ({}, "{}"),
        ({"b": 1, "a": [True]}, "{'b' => 1, 'a' => [true]}"),
        (MappingProxyType({"it's": 1}), r"{'it\'s' => 1}"),
    ],
)
def test_rb_writes_the_literal(value: object, literal: str) -> None:
    assert rb(value) == literal


@pytest.mark.parametrize(
    ("value", "brief"),
    [
        (math.inf, "A number that is infinite or not a number has no Ruby literal"),
        (math.nan, "A number that is infinite or not a number has no Ruby literal"),
        (b"x", "A value of type bytes has no Ruby literal"),
        ([{"k": {1, 2}}], "A value of type set has no Ruby literal"),
        (object(), "A value of type object has no Ruby literal"),
        (rb, "A value of type function has no Ruby literal"),
        (
            {8080: "x"},
            "A mapping with keys that are not strings has no Ruby literal here",
        ),
        (
            "a\ud800",
            "A string with the lone surrogate U+D800 is not text and has no Ruby literal",
        ),
    ],
)
def test_rb_refuses_what_has_no_literal(value: object, brief: str) -> None:
    with pytest.raises(TemplateError) as caught:
        rb(value)
    assert caught.value.brief == brief
    assert caught.value.code == 3


def test_rb_refuses_a_list_that_contains_itself() -> None:
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(TemplateError, match="contains itself"):
        rb(loop)


def test_rb_does_not_show_a_refused_value() -> None:
    with pytest.raises(TemplateError) as caught:
        rb({"password": "hunter2\ud800"})
    assert "hunter2" not in str(caught.value)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_string_becomes_one_line_of_printable_ascii_without_interpolation(text: str) -> None:
    literal = rb(text)
    assert re.fullmatch(r"[ -~]*", literal)
    assert not re.search(r"(?<!\\)(\\\\)*#[{$@]", literal)
    # These two forms are Python as well, but for \u{..}; so Python can read them back.
    python = re.sub(r"\\u\{([0-9a-f]+)\}", lambda m: f"\\U{int(m[1], 16):08x}", literal)
    assert ast.literal_eval(python.replace("\\#", "#") if literal[0] == '"' else literal) == text


# --- Look-up -------------------------------------------------------------------------------------


def test_ours_are_found_without_a_site(tmp_path: Path) -> None:
    assert provider_names([tmp_path / "missing"]) == ("docker", "libvirt")


def test_a_template_of_a_site_makes_a_provider(tmp_path: Path) -> None:
    search = site(tmp_path, virtualbox="", docker="", base="", other_j2="")
    (tmp_path / "Vagrantfile.vmware.j2~").touch()
    (tmp_path / "Vagrantfile.folder.j2").mkdir()
    (tmp_path / "Vagrantfile..j2").touch()
    assert provider_names(search) == ("docker", "libvirt", "virtualbox")
    assert templates.file_name("virtualbox") == "Vagrantfile.virtualbox.j2"


def test_the_first_folder_wins_and_ours_come_last(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    for folder in (first, second):
        folder.mkdir()
        (folder / "x.j2").write_text(folder.name)
    (second / "y.j2").write_text("only in 2\n")
    assert render("x.j2", {}, search=[first, second]) == "1"
    assert render("y.j2", {}, search=[first, second]) == "only in 2\n"


def test_builtin_means_ours(tmp_path: Path) -> None:
    search = site(tmp_path, docker="theirs")
    ours = render("Vagrantfile.docker.j2", Data().variables(), search=[])
    assert render("builtin/Vagrantfile.docker.j2", Data().variables(), search=search) == ours


@pytest.mark.parametrize("name", ["../out.j2", "a/../../out.j2", "", "/etc/passwd", "./out.j2"])
def test_a_name_cannot_leave_the_folders(tmp_path: Path, name: str) -> None:
    (tmp_path / "out.j2").write_text("out")
    inside = tmp_path / "in"
    inside.mkdir()
    with pytest.raises(TemplateError) as caught:
        render(name, {}, search=[inside])
    assert "is no name of a file inside a folder" in caught.value.details


def test_a_link_cannot_leave_its_folder_but_may_stay_in_it(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    inside = tmp_path / "in"
    inside.mkdir()
    (inside / "out.j2").symlink_to(tmp_path / "secret")
    (inside / "real.j2").write_text("real")
    (inside / "alias.j2").symlink_to("real.j2")
    assert render("alias.j2", {}, search=[inside]) == "real"
    with pytest.raises(TemplateError) as caught:
        render("out.j2", {}, search=[inside])
    assert f"{inside / 'out.j2'} is a link that leaves {inside}" == caught.value.details


def test_a_folder_that_is_a_link_is_fine(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real" / "x.j2").write_text("x")
    assert render("x.j2", {}, search=[tmp_path / "link"]) == "x"


def test_a_missing_template_names_the_nearest_and_the_choices(tmp_path: Path) -> None:
    with pytest.raises(TemplateError) as caught:
        render("Vagrantfile.doker.j2", {}, search=[tmp_path])
    assert caught.value.brief == "There is no template Vagrantfile.doker.j2"
    assert "did you mean Vagrantfile.docker.j2?" in caught.value.details
    assert str(tmp_path) in caught.value.details
    assert caught.value.resolution == "There are templates for docker, libvirt"


def test_a_template_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.j2").write_bytes(b"caf\xe9")
    with pytest.raises(TemplateError, match=re.escape(f"{tmp_path / 'x.j2'} is not UTF-8")):
        render("x.j2", {}, search=[tmp_path])


def test_a_byte_order_mark_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "x.j2").write_bytes(b"\xef\xbb\xbfx\n")
    assert render("x.j2", {}, search=[tmp_path]) == "x\n"


# --- Ours ----------------------------------------------------------------------------------------

GOLDEN = r"""# -*- encoding: utf-8 -*-
# Made by vagrant-kiwi for 'debian-tarball', run '20260101-120000-ab12'; changes here are lost.
Vagrant.configure('2') do |config|
  config.vm.box_check_update = false
  config.vm.boot_timeout = 300
  config.vm.provider 'docker' do |d|
    d.image = 'vagrant-kiwi/debian-bookworm:1'
    d.name = 'vagrant-kiwi-ab12'
    d.create_args = ['--init', '-p', '127.0.0.1::22']
    d.cmd = []
    d.has_ssh = true
    d.remains_running = true
    d.pull = false
    d.force_host_vm = false
  end
  config.vm.network 'forwarded_port', id: 'ssh', guest: 22, host: 2222, disabled: true
  config.ssh.guest_port = 22
  config.ssh.username = 'vagrant'
  config.ssh.insert_key = true
  config.vm.guest = :linux
  config.vm.synced_folder '.', '/vagrant', disabled: true
end
"""

BLOCKS = [
    "header",
    "box",
    "provider",
    "network",
    "ssh",
    "synced_folders",
    "provision_pre",
    "provision",
    "provision_post",
    "footer",
]


def code(text: str) -> str:
    """Return a Vagrantfile without our explanations and empty lines."""
    lines = text.splitlines(keepends=True)
    return "".join(x for x in lines if x.strip() and not x.startswith("  #") and "    #" not in x)


def test_the_docker_vagrantfile() -> None:
    assert code(render("Vagrantfile.docker.j2", Data().variables(), search=[])) == GOLDEN


def test_ours_keep_the_rules() -> None:
    assert lint("Vagrantfile.base.j2", []) == ()
    assert lint("Vagrantfile.docker.j2", []) == ()


def test_a_site_can_add_to_every_block_and_keeps_the_vagrant_folder_off(tmp_path: Path) -> None:
    blocks = "".join(
        f"{{% block {name} %}}{{{{ super() }}}}\n# {name}\n{{% endblock %}}\n" for name in BLOCKS
    )
    search = site(tmp_path, docker='{% extends "builtin/Vagrantfile.docker.j2" %}\n' + blocks)
    text = render("Vagrantfile.docker.j2", Data().variables(), search=search)
    assert [line[2:] for line in text.splitlines() if line[2:] in BLOCKS] == BLOCKS
    assert code(re.sub(r"(?m)^# \w+$", "", text)) == GOLDEN


def test_overriding_every_block_cannot_lose_the_disabled_vagrant_folder(tmp_path: Path) -> None:
    blocks = "".join(f"{{% block {name} %}}{{% endblock %}}" for name in BLOCKS)
    search = site(tmp_path, docker='{% extends "builtin/Vagrantfile.docker.j2" %}\n' + blocks)
    text = render("Vagrantfile.docker.j2", Data().variables(), search=search)
    assert text.endswith("  config.vm.synced_folder '.', '/vagrant', disabled: true\nend\n")


def test_a_site_can_replace_the_base_under_our_docker_template(tmp_path: Path) -> None:
    text = '{% extends "builtin/Vagrantfile.base.j2" %}{% block footer %}\n  # site\n{% endblock %}'
    search = site(tmp_path, base=text)
    assert "  # site\n" in render("Vagrantfile.docker.j2", Data().variables(), search=search)


def test_a_vagrantfile_must_build_on_our_base(tmp_path: Path) -> None:
    search = site(
        tmp_path, docker="Vagrant.configure('2') do |config|\nend\n", own='{% extends "base.j2" %}'
    )
    (tmp_path / "base.j2").write_text("# text\n")
    problem = 'extend "builtin/Vagrantfile.base.j2": it keeps the state folder out of the guest'
    assert messages("Vagrantfile.docker.j2", search) == [f"Vagrantfile.docker.j2:1: {problem}"]
    assert messages("Vagrantfile.own.j2", search) == [f"base.j2:1: {problem}"]


def test_hostile_values_stay_in_their_literals() -> None:
    hostile = "x'\"\\#{`touch /pwned`}\n__END__\n=begin\nend\0"
    data = Data(
        plan=Plan(run_id=hostile, name=hostile),
        box=Box(image=hostile),
        guest=Guest(name=hostile, user=hostile, create_args=(hostile,), command=(hostile,)),
    )
    text = render("Vagrantfile.docker.j2", data.variables(), search=[])
    literal = r'''"x'\"\\\#{`touch /pwned`}\n__END__\n=begin\nend\u{0}"'''
    assert rb(hostile) == literal
    assert text.count(literal) == 7
    assert "touch" not in text.replace(literal, "")


# --- The rule of outputs -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "{{ site|rb }}",
        "{{ (site ~ 'x')|rb }}",
        "{{ site|upper|rb }}",
        "{{ 1|rb if site else 2|rb }}",
        "{% print site|rb %}",
        "{% for x in site %}{{ loop.index|rb }}{{ x|rb }}{% endfor %}",
        "{% macro m(x) %}{{ x|rb }}{% endmacro %}{{ m(site) }}",
        "{% macro m(x) %}{{ caller() }}{% endmacro %}{% call m(1) %}{{ site|rb }}{% endcall %}",
        "{% block b %}{{ site|rb }}{% endblock %}{{ self.b() }}",
        "{% set x %}{{ site|rb }}{% endset %}{{ x|rb }}",
        "{% from 'lib.j2' import m as n %}{{ n(site) }}",
        "{% import 'lib.j2' as lib %}{{ lib.m(site) }}",
        "{% include 'lib.j2' %}",
        "{# {{ site }} #}{% raw %}{{ site }}{% endraw %}",
    ],
)
def test_an_output_that_is_a_literal_is_fine(tmp_path: Path, text: str) -> None:
    search = site(tmp_path, t_j2=text, lib_j2="{% macro m(x) %}{{ x|rb }}{% endmacro %}")
    assert messages("t.j2", search) == []


@pytest.mark.parametrize(
    "text",
    [
        "{{ site }}",
        "{{ 'text' }}",
        "{{ site|tojson }}",
        "{{ site|rb|upper }}",
        "{{ site ~ 'x'|rb }}",
        "{{ site|rb if site }}",
        "{{ site|rb if site else site }}",
        "{{ (site|rb) ~ site }}",
        "{% print site %}",
        "{% if site %}{{ site }}{% endif %}",
        "{% for x in site %}{{ x }}{% endfor %}",
        "{% macro m(x) %}{{ x }}{% endmacro %}",
        "{% macro m(x) %}{{ x() }}{% endmacro %}",
        "{% macro m() %}{% endmacro %}{{ m }}",
        "{% macro m() %}{{ caller() }}{% endmacro %}{{ m(caller=site.upper) }}",
        "{% macro m() %}{{ caller() }}{% endmacro %}{{ m(**site) }}",
        "{% macro m() %}{% endmacro %}{% set m = site.upper %}{{ m() }}",
        "{% block b %}{% set super = site.upper %}{{ super() }}{% endblock %}",
        "{% set self = site %}{{ self.b() }}{% block b %}{% endblock %}",
        "{{ site.upper() }}",
        "{{ self.nothing() }}",
        "{% call site.upper() %}{% endcall %}",
        "{% set x %}text{% endset %}{{ x }}",
        "{% from 'lib.j2' import v %}{{ v() }}",
        "{% from 'lib.j2' import missing %}{{ missing() }}",
        "{% import 'lib.j2' as lib %}{{ lib.v() }}",
        "{% block b %}{{ site }}{% endblock %}",
    ],
)
def test_an_output_that_is_no_literal_is_refused(tmp_path: Path, text: str) -> None:
    search = site(tmp_path, t_j2=f"\n{text}", lib_j2="{% set v = 'x'.upper %}")
    assert f"t.j2:2: {OUTPUT}" in messages("t.j2", search)
    with pytest.raises(TemplateError) as caught:
        render("t.j2", Data(site="x").variables(), search=search)
    assert f"{tmp_path / 't.j2'}:2: {OUTPUT}" in caught.value.details
    assert caught.value.code == 3


@pytest.mark.parametrize(
    "text",
    [
        "{% filter upper %}{{ site|rb }}{% endfilter %}",
        "{% autoescape true %}{{ site|rb }}{% endautoescape %}",
    ],
)
def test_finished_text_must_not_be_changed(tmp_path: Path, text: str) -> None:
    search = site(tmp_path, t_j2=text)
    assert messages("t.j2", search) == ["t.j2:1: a tag must not change text that is finished Ruby"]


@pytest.mark.parametrize("how", ["extends 'lib.j2'", "include 'lib.j2'", "import 'lib.j2' as x"])
def test_the_whole_chain_is_checked(tmp_path: Path, how: str) -> None:
    search = site(tmp_path, t_j2=f"{{% {how} %}}", lib_j2="\n\n{{ site }}")
    assert messages("t.j2", search) == [f"lib.j2:3: {OUTPUT}"]


@pytest.mark.parametrize(
    "text",
    [
        'd.name = "vk-{{ site|rb }}"',
        "d.name = 'vk-{{ site|rb }}'",
        "x = `{{ site|rb }}`",
        "x = %w[a {{ site|rb }}]",
        "x = %q({{ site|rb }})",
        'x = "#{ {{ site|rb }} }"',
        'x = "it\\"s {{ site|rb }}"',
        'x = "two\nlines {{ site|rb }}"',
        "x = <<~SH\n  echo {{ site|rb }}\nSH\n",
        "x = f(<<-'SH', <<\"B\")\n  a\n  SH\n{{ site|rb }}\nB\n",
        "x = <<SH\n{{ site|rb }}\nSH\n",
        "x = 'a' + \"{% include 'lib.j2' %}\"",
        'x = "{% block b %}{% endblock %}"',
    ],
)
def test_an_output_within_a_ruby_string_is_refused(tmp_path: Path, text: str) -> None:
    search = site(tmp_path, t_j2=text, lib_j2="x")
    line = text[: re.search(r"\{\{|\{%", text).start()].count("\n") + 1  # type: ignore[union-attr]
    assert messages("t.j2", search) == [f"t.j2:{line}: {STRING}"]


@pytest.mark.parametrize(
    "text",
    [
        "x = 'vk-' + {{ site|rb }} + \"b\"",
        "# it's for {{ site|rb }}, the site's\ny = {{ site|rb }}",
        "x = 'a' # it's\ny = {{ site|rb }}",
        "x = 'it\\'s' + {{ site|rb }}",
        "x = <<~SH, {{ site|rb }}\n  it's\nSH\ny = {{ site|rb }}",
        "x = %w[it's] + {{ site|rb }}",
        "x = 7 % 3 + {{ site|rb }}",
        "class << self\n  x = {{ site|rb }}",
        "list <<item\nx = {{ site|rb }}",
    ],
)
def test_an_output_outside_of_strings_is_fine(tmp_path: Path, text: str) -> None:
    assert messages("t.j2", site(tmp_path, t_j2=text)) == []


# --- The other rules -----------------------------------------------------------------------------


def test_a_template_that_extends_itself_gets_an_explanation(tmp_path: Path) -> None:
    search = site(tmp_path, docker='\n{% extends "Vagrantfile.docker.j2" %}')
    assert messages("Vagrantfile.docker.j2", search) == [
        "Vagrantfile.docker.j2:2: Vagrantfile.docker.j2 extends itself, because a site's file "
        "comes before ours of the same name; to build on ours write "
        '{% extends "builtin/Vagrantfile.docker.j2" %}'
    ]


def test_circles_end(tmp_path: Path) -> None:
    search = site(
        tmp_path,
        a_j2='{% extends "b.j2" %}',
        b_j2='{% extends "a.j2" %}',
        c_j2='{% include "c.j2" %}',
    )
    assert messages("a.j2", search)[0].startswith("b.j2:1: a.j2 extends itself")
    assert messages("c.j2", search) == ["c.j2:1: c.j2 leads back to itself"]


def test_a_recursive_macro_is_an_error_and_no_crash(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="calls itself without end"):
        shown("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ sight|rb }}", "sight is not defined; did you mean site?"),
        ("{% if zzz is defined %}{% endif %}", "zzz is not defined"),
        ("{% extends site %}", "give the template's name as text in quotes"),
        ("{% include ['a.j2', site] %}", "give the template's name as text in quotes"),
        ("{% if site %}{% extends 'a.j2' %}{% endif %}", "extend one template, under no condition"),
        (
            "{% extends 'a.j2' %}{% block on %}{% endblock %}",
            "there is no block on above; did you mean one?",
        ),
        (
            "{% extends 'a.j2' %} text",
            "text outside of all blocks is lost in a template that extends another",
        ),
        (
            "{% extends 'a.j2' %}{{ site|rb }}",
            "text outside of all blocks is lost in a template that extends another",
        ),
        ("{% block b %}{% endblock %}{% block b %}{% endblock %}", "block 'b' defined twice"),
        ("{{ site|ruby }}", "No filter named 'ruby'."),
        ("{% if %}", "Expected an expression, got 'end of statement block'"),
        ("{{ 'open", 'unexpected char "\'" at 4'),
        ("{% include '../out.j2' %}", "'../out.j2' is no name of a file inside a folder"),
    ],
)
def test_a_broken_rule_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    search = site(tmp_path, t_j2=f"\n{text}", a_j2="{% block one %}{% endblock %}")
    assert messages("t.j2", search) == [f"t.j2:2: {message}"]


def test_a_missing_parent_is_named(tmp_path: Path) -> None:
    search = site(tmp_path, t_j2="{% extends 'Vagrantfile.bas.j2' %}")
    (problem,) = messages("t.j2", search)
    assert problem.startswith("t.j2:1: there is no Vagrantfile.bas.j2 in ")
    assert problem.endswith("did you mean Vagrantfile.base.j2?")


def test_problems_come_by_file_and_line(tmp_path: Path) -> None:
    search = site(tmp_path, t_j2="{% include 'a.j2' %}\n{{ x|rb }}\n{{ site }}", a_j2="{{ site }}")
    assert messages("t.j2", search) == [
        "t.j2:2: x is not defined",
        f"t.j2:3: {OUTPUT}",
        f"a.j2:1: {OUTPUT}",
    ]


def test_names_from_the_whole_chain_are_known(tmp_path: Path) -> None:
    search = site(
        tmp_path,
        t_j2="{% extends 'a.j2' %}{% block b %}{{ v|rb }}{{ m() }}{{ lib.m() }}{% endblock %}",
        a_j2="{% set v = 1 %}{% import 'lib.j2' as lib %}{% block b %}{% endblock %}",
        lib_j2="{% macro m() %}{{ 2|rb }}{% endmacro %}",
    )
    found = messages("t.j2", search)
    assert not [problem for problem in found if "defined" in problem]


# --- Rendering -----------------------------------------------------------------------------------


def test_values_are_rendered_and_line_ends_kept(tmp_path: Path) -> None:
    assert shown("a = {{ site.x|rb }}\n\n", tmp_path, {"x": "y"}) == "a = 'y'\n\n"
    assert shown("a = {{ site['x']|rb }}", tmp_path, {"x": "y"}) == "a = 'y'"


def test_a_missing_attribute_names_template_line_and_nearest(tmp_path: Path) -> None:
    with pytest.raises(TemplateError) as caught:
        shown("\n\n{{ guest.boot_timeuot|rb }}", tmp_path)
    assert caught.value.brief == "The template small.j2 cannot be rendered"
    assert caught.value.details.startswith(f"{tmp_path / 'small.j2'}:3: ")
    assert "has no attribute 'boot_timeuot'; did you mean boot_timeout?" in caught.value.details


@pytest.mark.parametrize(
    "text",
    [
        "{{ site.proxi|rb }}",
        "{{ [site.proxi]|rb }}",
        "{% for x in site.proxi %}{% endfor %}",
        "{% if site.proxi %}{% endif %}",
    ],
)
def test_a_missing_key_is_an_error_on_any_use(tmp_path: Path, text: str) -> None:
    with pytest.raises(TemplateError) as caught:
        shown(text, tmp_path, {"proxy": "http://proxy.example.org"})
    assert "'proxi'; did you mean proxy?" in caught.value.details
    assert "proxy.example.org" not in str(caught.value)


def test_a_missing_key_can_be_asked_for(tmp_path: Path) -> None:
    text = "{% if site.proxy is defined %}p{% endif %}{{ site.proxy|default('none')|rb }}"
    assert shown(text, tmp_path, {}) == "'none'"


def test_an_error_is_placed_in_the_file_where_it_happens(tmp_path: Path) -> None:
    search = site(tmp_path, t_j2="{% include 'a.j2' %}", a_j2="\n{{ site.secret|rb }}")
    with pytest.raises(TemplateError) as caught:
        render("t.j2", Data(site={"secret": {"hunter2"}}).variables(), search=search)
    assert caught.value.details == f"{tmp_path / 'a.j2'}:2: A value of type set has no Ruby literal"


def test_an_expression_that_fails_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match=r"small\.j2:1: ZeroDivisionError"):
        shown("{{ (1 / site)|rb }}", tmp_path, 0)


@pytest.mark.parametrize(
    "text", ["{{ ''.__class__|rb }}", "{{ site.append(1)|rb }}", "{{ plan.__init__|rb }}"]
)
def test_templates_are_sandboxed(tmp_path: Path, text: str) -> None:
    value: list[int] = []
    with pytest.raises(TemplateError, match=r"unsafe|not safely callable"):
        shown(text, tmp_path, value)
    assert value == []


def test_a_signal_is_not_taken_for_a_fault_of_the_template(tmp_path: Path) -> None:
    class Stopping:
        @property
        def x(self) -> str:
            raise StoppedError(15, "SIGTERM")

    with pytest.raises(StoppedError):
        shown("{{ site.x|rb }}", tmp_path, Stopping())


def test_rendering_changes_with_its_values_only() -> None:
    data = Data()
    once = render("Vagrantfile.docker.j2", data.variables(), search=[])
    assert render("Vagrantfile.docker.j2", data.variables(), search=[]) == once
    other = replace(data, guest=Guest(boot_timeout=7)).variables()
    assert render("Vagrantfile.docker.j2", other, search=[]) == once.replace("= 300", "= 7")
