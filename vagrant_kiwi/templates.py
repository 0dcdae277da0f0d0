"""The only place that knows Jinja: finding, checking and rendering the Vagrantfile templates.

A rendered Vagrantfile is Ruby that the host runs. So no value reaches it but as a literal made by
``rb``, and ``template_rules`` checks every template for that before it is used.
"""

from __future__ import annotations

import math
import re
import traceback
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePath, PurePosixPath

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from vagrant_kiwi import ruby
from vagrant_kiwi.data import data_folder
from vagrant_kiwi.errors import StoppedError, TemplateError
from vagrant_kiwi.template_rules import BUILTIN, Problem, check, nearest

__all__ = ["BUILTIN", "VARIABLES", "Problem", "file_name", "lint", "provider_names", "rb", "render"]

#: The names that a template may use; what they hold is described in the documentation.
VARIABLES = frozenset({"plan", "box", "guest", "site"})

#: Every Vagrantfile template extends this one of ours, directly or not.
_BASE = "Vagrantfile.base.j2"

_PROVIDER_FILE = re.compile(r"Vagrantfile\.([A-Za-z0-9][A-Za-z0-9_-]*)\.j2")


def file_name(provider: str) -> str:
    """Return the name of the template of a Vagrant provider."""
    return f"Vagrantfile.{provider}.j2"


def provider_names(search: Sequence[Path]) -> tuple[str, ...]:
    """Return the Vagrant providers that have a template, sorted.

    Args:
        search: a site's template folders; those that do not exist are passed over.

    Raises:
        TemplateError: a folder cannot be read.
    """
    return _Loader(search).providers()


def lint(
    name: str, search: Sequence[Path], *, variables: Collection[str] = VARIABLES
) -> tuple[Problem, ...]:
    """Check a template, and all that it extends, includes or imports, without rendering it.

    Args:
        name: file name in one of the folders; ``builtin/`` in front means ours.
        search: a site's template folders, in the order of lookup; ours comes after them.
        variables: the names that a template may use.

    Returns:
        What is wrong, by file and line; nothing when the template may be used.

    Raises:
        TemplateError: there is no such template, or it cannot be read.
    """
    loader = _Loader(search)
    return _check(_environment(loader), loader, name, variables)[0]


def render(name: str, variables: Mapping[str, object], *, search: Sequence[Path]) -> str:
    """Check and render a template.

    Args:
        name: file name in one of the folders; ``builtin/`` in front means ours.
        variables: what the template may use: frozen objects and free-form data.
        search: a site's template folders, in the order of lookup; ours comes after them.

    Returns:
        The text, ending as the template ends. Of a Vagrantfile only what a site's template itself
        writes can be other than ASCII; store it as UTF-8.

    Raises:
        TemplateError: there is no such template, it breaks a rule of ``lint``, it uses a value
            that is not there, or a value has no Ruby literal.
    """
    loader = _Loader(search)
    environment = _environment(loader)
    problems, files = _check(environment, loader, name, variables.keys())
    if problems:
        raise TemplateError(
            f"The template {name} cannot be used",
            details="\n".join(map(str, problems)),
            resolution="Correct the lines named above",
        )
    try:
        return environment.get_template(name).render(dict(variables))
    except StoppedError:
        raise
    except Exception as error:  # an expression in a template can raise anything
        what, resolution = f"{type(error).__name__}: {error}", ""
        if isinstance(error, jinja2.TemplateError):
            what = error.message or what
        elif isinstance(error, TemplateError):
            what, resolution = error.brief, error.resolution
        elif isinstance(error, RecursionError):
            what = "a macro calls itself without end"
        raise TemplateError(
            f"The template {name} cannot be rendered",
            details=f"{_place(error, files)}{what}",
            resolution=resolution or "Correct the template or the value that it uses",
        ) from error


def rb(value: object) -> str:
    """Return a value as a Ruby literal: one line of printable ASCII that never interpolates.

    Strings come back from Ruby with the same bytes, also file names that are not UTF-8 (Python
    keeps such bytes as U+DC80 to U+DCFF, PEP 383; Ruby gets them as bytes again).

    Args:
        value: None, a bool, int, finite float, str or path, or sequences and mappings (with
            strings as keys) of those.

    Raises:
        TemplateError: anything else. The message names the type and never the value, which may
            be a secret.
        jinja2.UndefinedError: a value that is not there (``render`` makes a TemplateError of it).
    """
    try:
        return _literal(value)
    except RecursionError as error:
        raise TemplateError("A value that contains itself has no Ruby literal") from error


def _literal(value: object) -> str:
    match value:
        case jinja2.Undefined():
            str(value)  # a strict one raises, and knows its name
        case None:
            return "nil"
        case bool():
            return "true" if value else "false"
        case int():
            # Python refuses to write very long numbers in decimal; Ruby reads both.
            return str(int(value)) if value.bit_length() <= 64 else hex(value)
        case float() if math.isfinite(value):
            return float.__repr__(value)
        case float():
            raise TemplateError("A number that is infinite or not a number has no Ruby literal")
        case str():
            return ruby.string(str.__str__(value))
        case PurePath():
            return ruby.string(str(value))
        case Mapping():
            if all(isinstance(key, str) for key in value):
                pairs = (f"{_literal(key)} => {_literal(item)}" for key, item in value.items())
                return "{" + ", ".join(pairs) + "}"
            raise TemplateError(
                "A mapping with keys that are not strings has no Ruby literal here",
                resolution="Put its keys in quotes",
            )
        case bytes() | bytearray() | memoryview():
            pass  # sequences too, but of what? Text has an encoding, bytes have none
        case Sequence():
            return "[" + ", ".join(map(_literal, value)) + "]"
    raise TemplateError(f"A value of type {type(value).__name__} has no Ruby literal")


class _Loader(jinja2.BaseLoader):
    """Looks in the site's folders, then in ours, and never outside of them."""

    def __init__(self, search: Sequence[Path]) -> None:
        self.builtin = data_folder("templates").resolve()
        self.folders = (*(folder.resolve() for folder in search), self.builtin)

    def names(self) -> frozenset[str]:
        """Return the names of the files that lie directly in a folder.

        Raises:
            TemplateError: a folder cannot be read.
        """
        found: set[str] = set()
        for folder in self.folders:
            try:
                if folder.is_dir():
                    found |= {file.name for file in folder.iterdir() if file.is_file()}
            except OSError as error:
                raise _unreadable(folder, error) from error
        return frozenset(found)

    def providers(self) -> tuple[str, ...]:
        """Return the providers that have a template, sorted."""
        found = {match[1] for match in map(_PROVIDER_FILE.fullmatch, self.names()) if match}
        return tuple(sorted(found - {"base"}))

    def locate(self, name: str) -> Path:
        """Return the file of a template.

        Raises:
            jinja2.TemplateNotFound: there is none, or it lies outside of the folders.
            OSError: a folder cannot be read.
        """
        folders, wanted = self.folders, name
        if name.startswith(BUILTIN):
            folders, wanted = (self.builtin,), name.removeprefix(BUILTIN)
        if {"", ".", ".."} & set(wanted.split("/")):
            raise jinja2.TemplateNotFound(name, f"{name!r} is no name of a file inside a folder")
        for folder in folders:
            path = folder / wanted
            if path.is_file():
                if path.resolve().is_relative_to(folder):
                    return path
                raise jinja2.TemplateNotFound(name, f"{path} is a link that leaves {folder}")
        places = ", ".join(map(str, folders))
        hint = nearest(wanted, self.names())
        raise jinja2.TemplateNotFound(name, f"there is no {name} in {places}{hint}")

    def get_source(self, environment: jinja2.Environment, template: str) -> tuple[str, str, None]:
        """Return a template's text and path, as Jinja wants it.

        Raises:
            jinja2.TemplateNotFound: there is none.
            TemplateError: it cannot be read.
        """
        try:
            path = self.locate(template)
        except jinja2.TemplateNotFound:
            raise
        except OSError as error:
            raise _unreadable(Path(template), error) from error
        try:
            return path.read_text(encoding="utf-8-sig"), str(path), None
        except UnicodeDecodeError as error:
            raise TemplateError(
                f"The template {path} is not UTF-8", details=str(error), resolution="Convert it"
            ) from error
        except OSError as error:
            raise _unreadable(path, error) from error


class _Undefined(jinja2.StrictUndefined):
    """An error on any use, which names what is there instead."""

    __slots__ = ()

    @property
    def _undefined_message(self) -> str:
        message = super()._undefined_message
        owner, name = self._undefined_obj, self._undefined_name
        if self._undefined_hint or not isinstance(name, str):
            return message
        known = owner if isinstance(owner, Mapping) else dir(owner)
        return message + nearest(name, (key for key in known if isinstance(key, str)))


def _environment(loader: _Loader) -> jinja2.Environment:
    environment = ImmutableSandboxedEnvironment(
        loader=loader,
        undefined=_Undefined,
        autoescape=False,  # this is Ruby, not HTML, and rb escapes it
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["rb"] = rb
    return environment


def _check(
    environment: jinja2.Environment, loader: _Loader, name: str, variables: Collection[str]
) -> tuple[tuple[Problem, ...], frozenset[Path]]:
    is_vagrantfile = _PROVIDER_FILE.fullmatch(PurePosixPath(name).name) is not None
    base = loader.builtin / _BASE if is_vagrantfile else None
    try:
        return check(environment, loader, name, variables, base=base)
    except jinja2.TemplateNotFound as error:
        raise TemplateError(
            f"There is no template {name}",
            details=error.message or "",
            resolution="There are templates for " + ", ".join(loader.providers()),
        ) from error


def _unreadable(path: Path, error: OSError) -> TemplateError:
    return TemplateError(
        f"The template {path} cannot be read",
        details=error.strerror or str(error),
        resolution="Make it readable for the user who builds",
    )


def _place(error: BaseException, files: Collection[Path]) -> str:
    """Return file and line of the innermost template that an error passed through."""
    # Jinja puts the template's own path and lines into the traceback.
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename) in files:
            return f"{frame.filename}:{frame.lineno}: "
    return ""
