"""The environment: what text stands for, and what children get."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vagrant_kiwi import settings_sources
from vagrant_kiwi.settings_sources import Kind, child_environment, environment, nested, parsed


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("text", "1", "1"),
        ("text", "true", "true"),
        ("switch", "1", True),
        ("switch", "TRUE", True),
        ("switch", "0", False),
        ("switch", "false", False),
        ("switch", "no", "no"),
        ("switch", "", ""),
        ("number", "0", 0),
        ("number", "-3", -3),
        ("number", "1.5", 1.5),
        ("number", "1e9", "1e9"),
        ("number", "1_000", "1_000"),
        ("number", " 1", " 1"),
        ("number", "1\n", "1\n"),
        ("number", "inf", "inf"),
        ("number", "\u0661", "\u0661"),
        ("number", "9" * 5000, "9" * 5000),
        ("list", "[]", []),
        ("list", '["a", 1]', ["a", 1]),
        ("list", "a,b", "a,b"),
        ("list", "[" * 200_000, "[" * 200_000),
        ("list", "[" + "9" * 5000 + "]", "[" + "9" * 5000 + "]"),
        ("word or map", "auto", "auto"),
        ("word or map", "null", "null"),
        ("word or map", ' {"a": "b"}', {"a": "b"}),
        ("word or map", "{a: b}", "{a: b}"),
    ],
)
def test_what_text_stands_for(kind: Kind, text: str, value: object) -> None:
    found = parsed(text, kind)
    assert found == value
    assert type(found) is type(value)


@given(st.lists(st.text()))
def test_any_list_survives_json(values: list[str]) -> None:
    assert parsed(json.dumps(values), "list") == values


def test_nested() -> None:
    assert nested({"a.b": 1, "c": 2, "a.d": 3}) == {"a": {"b": 1, "d": 3}, "c": 2}


def test_environment_is_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOO_BAR", "1")
    found = environment()
    assert found["FOO_BAR"] == "1"
    found["FOO_BAR"] = "2"
    assert environment()["FOO_BAR"] == "1"


KEPT = {
    "PATH": "/usr/bin",
    "HOME": "/home/u",
    "USER": "u",
    "LOGNAME": "u",
    "TMPDIR": "/big",
    "TERM": "xterm",
    "XDG_RUNTIME_DIR": "/run/user/1",
    "XDG_CACHE_HOME": "/c",
    "DOCKER_HOST": "unix:///x",
    "VAGRANT_HOME": "/v",
    "VAGRANT_LOG": "info",
    "LIBVIRT_DEFAULT_URI": "qemu:///system",
    "http_proxy": "http://p.example.org",
    "HTTPS_PROXY": "http://p.example.org",
    "no_proxy": "localhost",
    "NO_PROXY": "localhost",
    "ALL_PROXY": "socks5://p.example.org",
    "SSL_CERT_FILE": "/ca",
    "SSL_CERT_DIR": "/cas",
    "REQUESTS_CA_BUNDLE": "/ca",
    "CURL_CA_BUNDLE": "/ca",
    "PIP_INDEX_URL": "https://example.org/simple",
}
LEFT_OUT = [
    "VAGRANT_CWD",
    "VAGRANT_VAGRANTFILE",
    "VAGRANT_DOTFILE_PATH",
    "VAGRANT_DEFAULT_PROVIDER",
    "VAGRANT",
    "SSH_AUTH_SOCK",
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "RUBYOPT",
    "RUBYLIB",
    "GEM_PATH",
    "BASH_ENV",
    "LD_PRELOAD",
    "LC_MESSAGES",
    "LANGUAGE",
    "AWS_SECRET_ACCESS_KEY",
    "INVOKE_VAGRANT_KIWI_BOX",
    "Http_Proxy",
    "MY_PATH",
    "path",
]


def test_children_get_what_they_need_and_nothing_else() -> None:
    environ = {**KEPT, **dict.fromkeys(LEFT_OUT, "x"), "LANG": "de_DE", "LC_ALL": "fr_FR"}
    assert child_environment(environ) == {
        **KEPT,
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "VAGRANT_CHECKPOINT_DISABLE": "1",
    }


MADE = ("LANG", "LC_ALL", "VAGRANT_CHECKPOINT_DISABLE")


@given(st.dictionaries(st.text(min_size=1), st.text()))
def test_children_never_get_a_changed_or_invented_value(environ: dict[str, str]) -> None:
    found = child_environment(environ)
    rest = {name: value for name, value in found.items() if name not in MADE}
    assert rest.items() <= environ.items()


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("build.example.com", {"address": "build.example.com"}),
        ("me@build:2222", {"address": "build", "user": "me", "port": 2222}),
        ("me@[fe80::1]:22", {"address": "fe80::1", "user": "me", "port": 22}),
        ("::1", {"address": "::1"}),
        ("a:b", {"address": "a:b"}),
    ],
)
def test_a_host_flag_is_an_entry(text: str, entry: dict[str, object]) -> None:
    level = settings_sources.flags_level({"hosts": [text]}, kinds={"hosts": "list"}, cwd=Path("/"))
    assert level.data == {"hosts": [entry]}
