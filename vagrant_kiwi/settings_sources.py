"""Where settings come from, apart from Invoke's files: the process environment and flags.

Nothing here knows which settings exist, that is ``settings``; nor Invoke, that is ``invocation``.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

SECTION = "vagrant_kiwi"

#: How a value is written where there is only text: the environment and flags.
Kind = Literal["text", "number", "switch", "list", "word or map"]

#: The origin of what flags give.
FLAGS = "the command line"

#: What a variable's name starts with; Invoke itself would spell it like this.
PREFIX = "INVOKE_VAGRANT_KIWI_"


@dataclass(frozen=True)
class Level:
    """The settings of one source, not validated yet.

    Args:
        origin: the source in words: a file's path, "the environment", ...
        base: absolute folder that its relative paths start from.
        data: its section, nested as in a file.
        names: what a dotted key is called in this source, where that is not the dotted key.
        problems: what is already known to be wrong, one line each.
        runtime: whether it is the file of ``-f``, which Invoke ranks above the environment.
    """

    origin: str
    base: Path
    data: Mapping[object, object]
    names: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    runtime: bool = False


def environment() -> dict[str, str]:
    """Return a copy of this process's environment; the only place that reads it."""
    return dict(os.environ)


def environment_level(environ: Mapping[str, str], *, kinds: Mapping[str, Kind], cwd: Path) -> Level:
    """Return the settings that variables named ``INVOKE_VAGRANT_KIWI_...`` give.

    Args:
        environ: the process environment.
        kinds: how to read the value of each setting, by dotted key.
        cwd: the current folder, the base of relative paths.

    Returns:
        The level; a variable that names no setting is one of its problems.
    """
    names = {key: PREFIX + key.replace(".", "_").upper() for key in kinds}
    keys = {name: key for key, name in names.items()}
    given: dict[str, object] = {}
    problems = []
    for name in sorted(environ):
        if name in keys:
            given[keys[name]] = parsed(environ[name], kinds[keys[name]])
        elif name.startswith(PREFIX) or name == PREFIX.rstrip("_"):
            # No value here: whatever it is, it may be a password with a slip in the name.
            listed = ", ".join(sorted(known.removeprefix(PREFIX) for known in keys))
            problems.append(unknown(name, list(keys), listed=f"{PREFIX} and one of {listed}"))
    return Level("the environment", cwd, nested(given), names, tuple(problems))


def libvirt_level(environ: Mapping[str, str], *, cwd: Path) -> Level:
    """Return what libvirt's own variable says, which all of libvirt's programs heed.

    Args:
        environ: the process environment.
        cwd: the current folder.
    """
    uri = environ.get("LIBVIRT_DEFAULT_URI", "")
    # Somebody's other hypervisor is none of our business.
    given: dict[object, object] = {"libvirt": {"uri": uri}} if uri.startswith("qemu") else {}
    return Level("LIBVIRT_DEFAULT_URI", cwd, given)


def flags_level(flags: Mapping[str, object], *, kinds: Mapping[str, Kind], cwd: Path) -> Level:
    """Return the settings given on the command line.

    Args:
        flags: what the task's arguments hold, by dotted key. None, False and an empty list mean
            "not given". A key "not bundle.enabled" is for a flag that turns a setting off.
        kinds: how to read the value of each setting, by dotted key.
        cwd: the current folder, the base of relative paths.

    Raises:
        ValueError: a key names no setting, which is a mistake in the task.
    """
    given: dict[str, object] = {}
    for flag, value in flags.items():
        key = flag.removeprefix("not ")
        if key not in kinds:
            raise ValueError(f"{key} is no setting")
        # By identity: 0 is a value.
        if value is None or value is False or value in ([], ()):
            continue
        if flag != key:
            given[key] = not value
        elif key == "sync" and isinstance(value, (list, tuple)):
            given[key] = [_sync_flag(item) for item in value]
        elif key == "hosts" and isinstance(value, (list, tuple)):
            given[key] = [_host_flag(item) for item in value]
        else:
            given[key] = parsed(value, kinds[key]) if isinstance(value, str) else value
    return Level(FLAGS, cwd, nested(given))


def _sync_flag(item: object) -> object:
    """Return the entry for ``SOURCE:/TARGET``; the last ":/" parts them, so SOURCE may have one."""
    if not isinstance(item, str):
        return item
    source, colon, target = item.rpartition(":/")
    return {"source": source, "target": f"/{target}"} if colon and source else item


def _host_flag(item: object) -> object:
    """Return the entry for ``[USER@]ADDRESS[:PORT]``; an IPv6 address with a port is in []."""
    if not isinstance(item, str):
        return item
    user, at, rest = item.rpartition("@")
    match = re.fullmatch(
        r"\[(?P<six>[^\]]*)\](:(?P<a>[0-9]+))?|(?P<name>[^:]*)(:(?P<b>[0-9]+))?", rest
    )
    if match is None:
        return {"address": rest, **({"user": user} if at else {})}
    port = match["a"] or match["b"]
    return {
        "address": match["six"] if match["six"] is not None else match["name"],
        **({"user": user} if at else {}),
        **({"port": int(port[:9])} if port else {}),
    }


def parsed(text: str, kind: Kind) -> object:
    """Return what some text from the environment or a flag stands for.

    Text that does not fit its kind comes back as it is: validation then says what is allowed.
    """
    if kind == "switch":
        return {"1": True, "true": True, "0": False, "false": False}.get(text.lower(), text)
    if kind == "number" and re.fullmatch(r"-?[0-9]{1,15}(\.[0-9]{1,15})?", text):
        return float(text) if "." in text else int(text)
    if kind == "list" or (kind == "word or map" and text.lstrip().startswith("{")):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    return text


def nested(values: Mapping[str, object]) -> dict[object, object]:
    """Return ``{"a.b": 1}`` as ``{"a": {"b": 1}}``."""
    tree: dict[object, Any] = {}
    for dotted, value in values.items():
        *parents, last = dotted.split(".")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[last] = value
    return tree


def unknown(
    name: str,
    valid: Sequence[str],
    *,
    also: Mapping[str, str] | None = None,
    listed: str | None = None,
) -> str:
    """Return the line that says that there is no such setting, and which there are.

    Args:
        name: what was given.
        valid: what could have been given in its place.
        also: other names that it might mean, and what to write for each.
        listed: a shorter way to list what is valid.
    """
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.7)
    if not near and also:
        last = difflib.get_close_matches(name.rpartition(".")[2], list(also), n=1, cutoff=0.8)
        near = [also[found] for found in last]
    guess = f"; did you mean {near[0]}?" if near else ""
    return f"{name}: no such setting{guess} Allowed: {listed or ', '.join(valid)}"


#: Handed to children as they are, if set. Each name has its reason:
_KEPT = frozenset(
    {
        "PATH",  # finds vagrant, docker, ssh, rsync
        *("HOME", "USER", "LOGNAME"),  # ~/.vagrant.d, ~/.docker, the caller's name in libvirt
        "TMPDIR",  # the caller's choice of a disk with room
        "TERM",  # progress of tools that see a terminal
        *("SSL_CERT_FILE", "SSL_CERT_DIR"),  # a site's own certificate authority: OpenSSL,
        *("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),  # Python's requests, and Vagrant's curl
    }
)
_KEPT_FAMILIES = (
    "XDG_",  # where caches, data and the run-time folder are
    "DOCKER_",  # which daemon, and how to reach it
    "LIBVIRT_",  # the same for libvirt
    "VAGRANT_",  # VAGRANT_HOME, VAGRANT_LOG and the like, but not those below
    "PIP_",  # which index, for the wheels of a build box
)
_PROXIES = frozenset({"http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"})

# They would point Vagrant at another Vagrantfile, state folder or provider than the build's.
_DROPPED = frozenset(
    {"VAGRANT_CWD", "VAGRANT_VAGRANTFILE", "VAGRANT_DOTFILE_PATH", "VAGRANT_DEFAULT_PROVIDER"}
)


def child_environment(environ: Mapping[str, str], *, agent: bool = False) -> dict[str, str]:
    """Return the environment for the processes we start: what they need, and nothing else.

    All else stays out: secrets of the caller's other work; SSH_AUTH_SOCK, whose keys would hide
    that a guest's own key fails; PYTHON*, RUBY* and GEM_*, which change what runs inside Vagrant
    and pip; BASH_ENV and LD_*, which run code in each child. Messages are read by us, so they come
    in English and UTF-8 whatever the caller's language.

    Args:
        environ: the process environment, from ``environment()``.
        agent: keep SSH_AUTH_SOCK: for an existing machine, which has no key of its own making.
    """
    kept = {
        name: value
        for name, value in environ.items()
        if name not in _DROPPED
        and (
            name in _KEPT
            or (agent and name == "SSH_AUTH_SOCK")
            or name.startswith(_KEPT_FAMILIES)
            # Programs disagree on the case (curl reads http_proxy in lower case only).
            or name in _PROXIES
            or name in {proxy.upper() for proxy in _PROXIES}
        )
    }
    return {
        **kept,
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        # Vagrant asks its maker for news at each start otherwise.
        "VAGRANT_CHECKPOINT_DISABLE": "1",
    }
