"""Finds for each repository of a build a server that this host reaches.

A description names a public mirror; a host behind a firewall often reaches another one. Which one,
its own apt configuration says. It is used only where signatures are checked: then it does not
matter who serves the files.
"""

from __future__ import annotations

import concurrent.futures
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol
from urllib.parse import quote, urlsplit

import requests

from vagrant_kiwi.description_copy import rewrite
from vagrant_kiwi.description_model import MirrorChoice, Repository, mask, same_host
from vagrant_kiwi.errors import PreflightError
from vagrant_kiwi.process import CommandNotFoundError, CommandTimeoutError, Runner

__all__ = [
    "HostMirror",
    "MirrorChoice",
    "MirrorSetting",
    "Probe",
    "answers",
    "choose",
    "host_mirrors",
    "index_urls",
    "mapped_source",
    "pick_mirror",
    "rewrite",
]

#: The setting ``mirrors``: find one, leave all as it is, or {prefix: replacement}.
MirrorSetting = Literal["auto", "off"] | Mapping[str, str]

#: Seconds within which a repository has to answer.
PATIENCE: Final = 3.0

# Index files of a flat repository; an unsigned one has only the last three (man sources.list).
_FLAT: Final = ("InRelease", "Release", "Packages.xz", "Packages.gz", "Packages")
_FIELDS: Final = ("REPO_URI", "RELEASE", "CODENAME", "SUITE", "ORIGIN", "COMPONENT")


class Probe(Protocol):
    """Tells whether a URL can be fetched; ``answers`` is the real one."""

    def __call__(self, url: str, timeout: float) -> bool:
        """Fetch ``url`` within ``timeout`` seconds; it may hold credentials."""
        ...


@dataclass(frozen=True, repr=False)
class HostMirror:
    """A Debian repository in this host's apt configuration."""

    uri: str
    release: str
    codename: str
    suite: str
    origin: str
    components: tuple[str, ...]

    def __repr__(self) -> str:
        return f"HostMirror({mask(self.uri)!r}, {self.release!r})"


def answers(url: str, timeout: float) -> bool:
    """Tell whether a file can be fetched from a server.

    A proxy's or hotel's web page in place of the file is no answer. Proxies are those of the
    environment, read by requests.

    Args:
        url: http, https or ftp; may hold credentials.
        timeout: seconds for the connection, and again for the first bytes.
    """
    if urlsplit(url).scheme == "ftp":  # which requests does not know
        try:
            with urllib.request.urlopen(url, timeout=timeout) as stream:  # noqa: S310 # ftp only
                start: bytes = stream.read(512)
        except (urllib.error.URLError, OSError, ValueError, EOFError):
            return False
        return bool(start)
    try:
        with requests.get(url, timeout=timeout, stream=True) as answer:
            if answer.status_code != requests.codes.ok:
                return False
            start = next(answer.iter_content(512), b"")
    except (requests.RequestException, ValueError):
        return False
    return not start.lstrip().lower().startswith((b"<!doctype html", b"<html"))


def index_urls(repository: Repository, source: str | None = None) -> tuple[str, ...]:
    """Return where the signed index of a repository lies; one of them existing is enough.

    Args:
        repository: its kind and distribution say where to look.
        source: look there instead; credentials go only to the server they are meant for.

    Returns:
        URLs, which may hold credentials; none where nothing can be asked for: local paths,
        ``obs://``, ``$releasever`` and the like in the path, kinds without a known index.
    """
    base, _, query = _with_credentials(repository, source or repository.source).partition("?")
    if _scheme(base) not in ("http", "https", "ftp") or "$" in base:
        return ()
    base = base.rstrip("/")
    if repository.source_type in ("metalink", "mirrorlist"):
        paths: tuple[str, ...] = ("",)
    elif repository.kind == "apt-deb" and repository.distribution:
        top = f"/dists/{repository.distribution.strip('/')}"
        paths = (f"{top}/InRelease", f"{top}/Release")
    elif repository.kind == "apt-deb":
        paths = tuple(f"/{name}" for name in _FLAT)
    else:
        paths = ("/repodata/repomd.xml",) if repository.kind == "rpm-md" else ()
    # KIWI's own "?credentials=FILE" is no part of the URL (kiwi system/uri.py).
    suffix = f"?{query}" if query and not query.startswith("credentials=") else ""
    return tuple(f"{base}{path}{suffix}" for path in paths)


def host_mirrors(runner: Runner) -> tuple[HostMirror, ...]:
    """Return the http and https repositories of this host's apt configuration, in its order.

    A host without apt, or with a broken configuration of it, has none: that is a reason not to
    find a mirror, never a reason not to build.
    """
    argv = [
        "apt-get",
        "indextargets",
        "--format",
        "\t".join(f"$({name})" for name in _FIELDS),
        "Created-By: Packages",
    ]
    try:
        result = runner.run(argv, timeout=30)
    except (CommandNotFoundError, CommandTimeoutError):
        return ()
    found: dict[tuple[str, ...], list[str]] = {}
    for line in result.text.splitlines() if result.ok else ():
        *key, component = line.split("\t") if line.count("\t") == len(_FIELDS) - 1 else [""]
        if key and _scheme(key[0]) in ("http", "https"):
            components = found.setdefault(tuple(key), [])
            if component and component not in components:
                components.append(component)
    return tuple(
        HostMirror(uri.rstrip("/"), release, codename, suite, origin, tuple(components))
        for (uri, release, codename, suite, origin), components in found.items()
    )


def choose(
    repositories: Sequence[Repository],
    setting: MirrorSetting,
    *,
    probe: Probe,
    host_mirrors: Callable[[], Sequence[HostMirror]],
) -> tuple[MirrorChoice, ...]:
    """Choose where the repositories of a build are taken from.

    Args:
        repositories: those of a ``Selection``; ones only for the image are not looked at.
        setting: the setting ``mirrors``.
        probe: asks a server.
        host_mirrors: gives what ``host_mirrors`` returns; apt takes a second to say it, so it is
            asked only when it matters.

    Returns:
        The repositories to be taken from elsewhere, in the order given.

    Raises:
        PreflightError: a repository does not answer and nothing may stand in for it.
    """
    if setting == "off":
        return ()
    used = [one for one in repositories if not one.image_only]
    mapped: dict[int, str] = {}
    for place, one in enumerate(used):
        replaced = mapped_source(one.source, setting)
        if replaced is not None and replaced != one.source:
            mapped[place] = replaced
    silent = _silent(
        {place: index_urls(one, mapped.get(place)) for place, one in enumerate(used)},
        probe,
        PATIENCE,
    )
    choices = [
        MirrorChoice(one, mapped[place]) for place, one in enumerate(used) if place in mapped
    ]
    problems = []
    known = host_mirrors() if silent and setting == "auto" else ()
    for place in silent:
        one = used[place]
        candidates = _candidates(one, known) if setting == "auto" else ()
        replacement = _first_answering(one, candidates, probe)
        if replacement is None:
            problems.append(_problem(one, mapped.get(place), setting, candidates))
        else:
            choices.append(MirrorChoice(one, replacement))
    if problems:
        raise _nothing_answers(problems)
    order = {id(one): place for place, one in enumerate(used)}
    return tuple(sorted(choices, key=lambda choice: order[id(choice.original)]))


def pick_mirror(
    official: str,
    distribution: str,
    *,
    setting: MirrorSetting = "auto",
    probe: Probe,
    host_mirrors: Callable[[], Sequence[HostMirror]],
) -> str:
    """Return a mirror to make a build box from, by the same rules as ``choose``.

    The caller must check signatures, as mmdebstrap does.

    Args:
        official: the mirror of the box recipe, such as ``http://ftp.de.debian.org/debian``.
        distribution: the code name, such as ``bookworm``.
        setting: the setting ``mirrors``.
        probe: asks a server.
        host_mirrors: gives what ``host_mirrors`` returns; apt takes a second to say it, so it is
            asked only when it matters.

    Returns:
        A URL that may hold credentials; mask it before it is shown.

    Raises:
        PreflightError: neither it nor a mirror of this host answers.
    """
    wanted = Repository(
        official, kind="apt-deb", distribution=distribution, repository_gpgcheck=True
    )
    choices = choose([wanted], setting, probe=probe, host_mirrors=host_mirrors)
    return choices[0].replacement if choices else official


def _scheme(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return parts.scheme if parts.netloc else ""


def _suite(repository: Repository) -> str:
    return f"({repository.distribution})" if repository.distribution else ""


def _with_credentials(repository: Repository, url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if not repository.password or "@" in rest or not same_host(url, repository.source):
        return url
    login = ":".join(quote(part, safe="") for part in (repository.username, repository.password))
    return f"{scheme}{separator}{login}@{rest}"


def _without_login(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}{separator}{authority.rpartition('@')[2]}{slash}{path}"


def mapped_source(source: str, setting: MirrorSetting) -> str | None:
    """Return what a map of the setting ``mirrors`` puts in the place of a source, if anything.

    The longest prefix counts that ends where a part of the path ends.
    """
    if isinstance(setting, str):
        return None
    for prefix in sorted(setting, key=len, reverse=True):
        start = prefix.rstrip("/")
        for url in dict.fromkeys((source, _without_login(source))):
            if start and (url == start or url.startswith(f"{start}/")):
                target = setting[prefix].rstrip("/") + url[len(start) :]
                return _keep_login(source, target)
    return None


def _keep_login(source: str, target: str) -> str:
    scheme, separator, rest = target.partition("://")
    login = source.partition("://")[2].split("/", 1)[0].rpartition("@")[0]
    if not login or "@" in rest.split("/", 1)[0] or not same_host(source, target):
        return target
    return f"{scheme}{separator}{login}@{rest}"


def _silent(urls: Mapping[int, tuple[str, ...]], probe: Probe, patience: float) -> list[int]:
    """Return the places whose URLs all fail; all are asked at the same time."""
    wanted = list(dict.fromkeys(url for group in urls.values() for url in group))
    if not wanted:
        return []
    # A name server that does not answer is outside of any time-out that requests knows.
    pool = concurrent.futures.ThreadPoolExecutor(max_workers=min(64, len(wanted)))
    try:
        asked = {url: pool.submit(probe, url, patience) for url in wanted}
        done, _ = concurrent.futures.wait(asked.values(), timeout=patience + 0.5)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    good = {url for url, future in asked.items() if future in done and future.result()}
    return [place for place, group in urls.items() if group and not good.intersection(group)]


def _candidates(repository: Repository, mirrors: Iterable[HostMirror]) -> tuple[str, ...]:
    """Return the host's mirrors of the same distribution; none where that cannot be told."""
    # A flat repository has no distribution: equal last parts of the path say nothing there.
    if repository.repository_gpgcheck is not True or not repository.distribution:
        return ()
    if repository.kind != "apt-deb":
        return ()
    name = _last_part(repository.source)
    same = [mirror.uri for mirror in mirrors if name and _last_part(mirror.uri) == name]
    return tuple(dict.fromkeys(uri for uri in same if not _equal(uri, repository.source)))


def _last_part(url: str) -> str:
    try:
        return urlsplit(url).path.rstrip("/").rpartition("/")[2]
    except ValueError:
        return ""


def _equal(one: str, other: str) -> bool:
    return _without_login(one).rstrip("/") == _without_login(other).rstrip("/")


def _first_answering(repository: Repository, candidates: Sequence[str], probe: Probe) -> str | None:
    urls = {place: index_urls(repository, uri) for place, uri in enumerate(candidates)}
    # These are the last resort: a busy host or a slow name server gets a second chance.
    for patience in (PATIENCE, 3 * PATIENCE):
        silent = _silent(urls, probe, patience)
        for place, uri in enumerate(candidates):
            if place not in silent:
                return uri
    return None


def _problem(
    repository: Repository,
    target: str | None,
    setting: MirrorSetting,
    candidates: Sequence[str],
) -> str:
    name = f"{mask(target or repository.source)} {_suite(repository)}".strip()
    if setting != "auto":
        why = (
            "the setting 'mirrors' names no other server for it"
            if target is None
            else f"the setting 'mirrors' names it for {repository.public_source}"
        )
    elif repository.repository_gpgcheck is not True:
        why = 'no other mirror may be used, because it lacks repository_gpgcheck="true"'
    elif repository.kind != "apt-deb" or not repository.distribution:
        why = "no other mirror can be found for a repository of this kind"
    elif candidates:
        why = f"nor do this host's mirrors {', '.join(mask(uri) for uri in candidates)}"
    else:
        why = f"this host's apt configuration names no mirror of {_last_part(repository.source)!r}"
    return f"{name}: {why}"


def _nothing_answers(problems: Sequence[str]) -> PreflightError:
    return PreflightError(
        "A repository does not answer"
        if len(problems) == 1
        else f"{len(problems)} repositories do not answer",
        details="\n".join(dict.fromkeys(problems)),
        resolution="Check the network and its proxy, or name a server that this host reaches in "
        "invoke.yaml, for instance mirrors: {'http://ftp.de.debian.org/': 'http://example.org/'}; "
        "mirrors: 'off' leaves this check out.",
    )
