"""Reads the options of ``kiwi-ng system build`` that a person gives after ``--``.

Made for KIWI 11.1.6 (cli.py, tasks/system_build.py). Its parser takes ``--opt VALUE`` and
``--opt=VALUE``, no shortened names and no ``--no-opt`` forms.
"""

from __future__ import annotations

import difflib
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vagrant_kiwi.errors import SettingsError, UsageError
from vagrant_kiwi.guest_files import GuestFile, Placer, host_path, is_file
from vagrant_kiwi.log_mask import mask_credentials

_FLAGS = frozenset({"--clear-cache", "--ignore-repos", "--ignore-repos-used-for-build"})
_FILES = frozenset({"--signing-key", "--ca-cert"})
_ASSIGNMENTS = frozenset({"--set-type-attr", "--add-container-label"})
_SET, _ADD = "--set-repo", "--add-repo"
_SET_LOGIN, _ADD_LOGIN = "--set-repo-credentials", "--add-repo-credentials"
_DERIVED_FROM = "--set-container-derived-from"
_DISTRIBUTION = "--ca-target-distribution"
_DISTRIBUTIONS = ("suse", "redhat", "debian", "archlinux")
_VALUES = frozenset(
    {"--add-package", "--add-bootstrap-package", "--delete-package", "--set-container-tag"}
    | {"--set-release-version", _SET, _ADD, _SET_LOGIN, _ADD_LOGIN, _DERIVED_FROM, _DISTRIBUTION}
    | _FILES
    | _ASSIGNMENTS
)
BUILD_OPTIONS = _FLAGS | _VALUES

_OURS = {
    "--description": "Give it to the task itself: --description=PATH before the '--'.",
    "--target-dir": "Give it to the task itself: --target-dir=PATH before the '--'.",
    "--allow-existing-root": "Every build starts in a fresh guest: there is no earlier root.",
    "--help": "See 'kiwi-ng system build --help', or the manual of KIWI.",
}
_GLOBAL = frozenset(
    {"--type", "--profile", "--kiwi-file", "--setenv", "--shared-cache-dir", "--temp-dir"}
    | {"--target-arch", "--loglevel", "--config"}
)
_SIGNING_KEYS = 6


@dataclass(frozen=True)
class BuildOptions:
    """Options of ``system build``, rewritten for the guest, and the files that they name."""

    argv: tuple[str, ...] = ()
    files: tuple[GuestFile, ...] = ()


def parse_build_options(arguments: Sequence[str], *, cwd: Path, files_dir: str) -> BuildOptions:
    """Read options of ``kiwi-ng system build``.

    Files of the host become guest files, and so do credentials: KIWI takes a file's name in their
    place, and reads its first line. So no secret is in an argument.

    Args:
        arguments: what follows the ``--`` of a command line.
        cwd: what relative paths are relative to.
        files_dir: guest folder for the files.

    Raises:
        UsageError: KIWI would not understand them, or they are ours to give.
        SettingsError: a file is not there.
    """
    options = _split(arguments)
    placer = Placer(posixpath.join(files_dir, "build"))
    argv: list[str] = []
    sources: dict[str, list[str]] = {_SET: [], _ADD: []}
    logins: dict[str, list[str]] = {_SET: [], _ADD: []}
    for name, value in options:
        if value is None:
            argv.append(name)
        elif name in (_SET, _ADD):
            sources[name].append(value)
        elif name in (_SET_LOGIN, _ADD_LOGIN):
            logins[name.removesuffix("-credentials")].append(value)
        elif name in _FILES:
            argv += [name, placer.file(name, value, cwd)]
        else:
            _check_value(name, value)
            argv += [name, value]
    # KIWI takes the last one of what can be given once.
    del sources[_SET][:-1], logins[_SET][:-1]
    for name in (_SET, _ADD):
        argv += _repositories(name, sources[name], logins[name], placer, cwd)
    return BuildOptions(tuple(argv), tuple(placer.files))


def _split(arguments: Sequence[str]) -> list[tuple[str, str | None]]:
    """Tell options and their values apart; messages show no value, which may be a secret."""
    found: list[tuple[str, str | None]] = []
    rest = list(arguments)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if name not in BUILD_OPTIONS:
            raise _refused(name, found[-1][0] if found else None)
        if name in _FLAGS:
            if equals:
                raise UsageError(f"{name} takes no value")
            found.append((name, None))
            continue
        if not equals:
            # KIWI would take a following option for the value; that is never meant.
            if not rest or rest[0].startswith("--"):
                raise UsageError(
                    f"{name} needs a value",
                    resolution=f"If it begins with '--', write {name}=VALUE.",
                )
            value = rest.pop(0)
        if "\0" in value or "\n" in value:
            raise UsageError(f"The value of {name} is more than one line")
        found.append((name, value))
    return found


def _refused(name: str, before: str | None) -> UsageError:
    if name in _OURS:
        return UsageError(f"{name} cannot be given after '--'", resolution=_OURS[name])
    if name in _GLOBAL:
        return UsageError(
            f"{name} is no option of 'kiwi-ng system build'",
            resolution=f"It stands before KIWI's command: give {name} before the '--'.",
        )
    if not name.startswith("-") or name in ("-", "--"):
        where = f" after {before}" if before else ""
        return UsageError(
            f"There is a word{where} that belongs to no option",
            resolution="After '--' come options of 'kiwi-ng system build' only.",
        )
    near = difflib.get_close_matches(name, BUILD_OPTIONS, n=1)
    advice = f"Did you mean {near[0]}?" if near else f"It has: {', '.join(sorted(BUILD_OPTIONS))}."
    return UsageError(
        f"'kiwi-ng system build' has no option {mask_credentials(name)}",
        resolution=advice,
    )


def _check_value(name: str, value: str) -> None:
    if name == _DISTRIBUTION and value not in _DISTRIBUTIONS:
        raise UsageError(f"{name} is none of: {', '.join(_DISTRIBUTIONS)}")
    # Without "=" KIWI only warns of a label, and dies on an attribute.
    if name in _ASSIGNMENTS and not re.match(r"[^=]+=", value):
        raise UsageError(f"{name} is not of the form NAME=VALUE")
    if name == _DERIVED_FROM and _login_of(value)[1]:
        raise UsageError(
            f"The URI of {name} holds credentials",
            details="They would be in the command line for all to see.",
        )


def _repositories(
    name: str, repositories: list[str], logins: list[str], placer: Placer, cwd: Path
) -> list[str]:
    """Return a repository option's words, with all credentials in files.

    KIWI joins the first credentials with the first repository and so on; empty ones are none. It
    puts them back before the location (``_get_repo_parameters`` of tasks/system_build.py).
    """
    if len(logins) > len(repositories):
        raise UsageError(
            f"There is a {name}-credentials without a {name} of its own",
            resolution=f"The first {name}-credentials belongs to the first {name}, and so on.",
        )
    argv: list[str] = []
    given: list[str] = []
    for at, repository in enumerate(repositories):
        tokens = repository.split(",", 10)
        tokens[0], inside = _login_of(tokens[0])
        login = logins[at] if at < len(logins) else ""
        if inside and login:
            raise UsageError(f"A {name} has credentials in its URL and in {name}-credentials")
        if len(tokens) > _SIGNING_KEYS:
            tokens[_SIGNING_KEYS] = _signing_keys(name, tokens[_SIGNING_KEYS], placer, cwd)
        argv += [name, ",".join(tokens)]
        if inside:
            given.append(placer.bytes("credentials", f"{inside}\n".encode()))
        else:
            given.append(_login_file(name, login, placer, cwd) if login else "")
    while given and not given[-1]:
        given.pop()
    return argv + [word for login in given for word in (f"{name}-credentials", login)]


def _login_of(location: str) -> tuple[str, str]:
    """Split a URL into itself without, and its user and password; what is no URL has none.

    A password may hold an unescaped ``/`` or ``@``. Where that is in doubt too much is taken for
    it, which KIWI, putting both parts together again, does not notice.
    """
    scheme, separator, rest = location.partition("://")
    if not separator:
        return location, ""
    host = rest.partition("/")[0]
    if "@" not in host and not (":" in host and "@" in rest):
        return location, ""
    login, _, rest = rest.rpartition("@")
    return f"{scheme}://{rest}", login


def _login_file(name: str, value: str, placer: Placer, cwd: Path) -> str:
    path = host_path(value, cwd)
    if is_file(path):
        return placer.file(f"{name}-credentials", value, cwd)
    if ":" not in value and value.startswith(("/", "./", "../", "~/")):
        raise SettingsError(
            f"The file of {name}-credentials is not there",
            details=str(path),
            resolution="Give USER:PASSWORD, or a file that has it in its first line.",
        )
    return placer.bytes("credentials", f"{value}\n".encode())


def _signing_keys(name: str, token: str, placer: Placer, cwd: Path) -> str:
    """Rewrite ``{file:///a;https://b}``; files that only the guest has stay as they are."""
    if not token:
        return token
    if not token.startswith("{") or not token.endswith("}"):
        # KIWI would take each letter for a key (_pop_token of tasks/base.py).
        raise UsageError(f"The signing keys of a {name} are not in curly brackets")
    keys = []
    for key in token[1:-1].split(";"):
        if _login_of(key)[1]:
            raise UsageError(
                f"The URL of a signing key of a {name} holds credentials",
                details="They would be in the command line for all to see.",
                resolution="Download the key, and name the file: file:///PATH.",
            )
        match = re.fullmatch(r"file:(?://(?:localhost)?)?(/.*)", key)
        if match and is_file(Path(match[1])):
            keys.append(f"file://{placer.file(name, match[1], cwd)}")
        else:
            keys.append(key)
    return "{" + ";".join(keys) + "}"
