"""The Invoke tasks: parse, call one function, print, exit. No logic."""

from __future__ import annotations

import contextlib
import json as jsonlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from vagrant_kiwi import invocation, settings
from vagrant_kiwi.console import Console
from vagrant_kiwi.errors import UsageError, VagrantKiwiError

if TYPE_CHECKING:
    from vagrant_kiwi import app

invocation.adopt_running_invoke()

_COMMON = {
    "description": "folder of the KIWI description, or its config.xml or .kiwi file",
    "json": "print one JSON object on standard output, and nothing else there",
    "quiet": "show only warnings and errors",
    "verbose": "show what the tools say, while they say it",
}
_PROVIDER = "docker, libvirt, docker-direct or host"
_PLACE = {
    "box": "name of the build box, or for docker an image of a registry",
    "kiwi-version": "version of KIWI in the box; such a box is made once and kept",
    "pull": "when an image of a registry is pulled: missing, always or never",
    "host": "[USER@]ADDRESS[:PORT] for --provider=host; of several the first free one is taken",
    "vagrantfile": "Vagrantfile of your own; it runs code on this host",
}
_KIWI = {
    "kiwi-file": "name of the description's main file, where there are several",
    "profile": "KIWI profile to build; may be given several times",
    "type": "KIWI image type to build; the description's default if not given",
}


def _help(*names: str) -> dict[str, str]:
    # Invoke refuses help for arguments that a task has not.
    return {name: _COMMON[name] for name in names}


@task(
    klass=invocation.PlainTask,
    iterable=["profile", "setenv", "sync", "provision", "host"],
    help={
        **_COMMON,
        **_KIWI,
        "provider": _PROVIDER,
        **_PLACE,
        "target-dir": "folder for results, instead of result/ in the state folder",
        "keep": "keep the guest: never, failed or always",
        "isolation": "auto, or privileged (a docker guest that may do anything on this host)",
        "sync": "SRC:DST, bring more data into the guest; may be given several times",
        "provision": "script to run in the guest before KIWI; may be given several times",
        "run-id": "name of this run, in all it creates; made if not given",
        "dry-run": "print what would be done, and do nothing",
        "setenv": "NAME=VALUE for KIWI; may be given several times",
        "shared-cache-dir": "KIWI's package cache, a folder in the guest",
        "temp-dir": "KIWI's temporary folder, in the guest",
        "target-arch": "architecture of the image",
        "loglevel": "KIWI's log level, a number as in Python's logging",
        "config": "KIWI runtime configuration, a file on this host",
        "bundle-id": "last part of the result files' names; the run id if not given",
        "bundle-format": "pattern of the result files' names, see kiwi-ng result bundle",
        "no-bundle": "leave the result as kiwi-ng system build made it",
        "no-compress": "do not compress the result",
        "zsync-source": "URL from which the result will be offered to zsync",
        "package-as-rpm": "make an RPM package of the result",
        "result-format": "files, or tar: also one build_results.tar with all of them",
    },
)
def build(
    c: Context,
    description: str | None = None,
    provider: str | None = None,
    box: str | None = None,
    kiwi_version: str | None = None,
    pull: str | None = None,
    host: list[str] | None = None,
    vagrantfile: str | None = None,
    type: str | None = None,
    profile: list[str] | None = None,
    kiwi_file: str | None = None,
    target_dir: str | None = None,
    sync: list[str] | None = None,
    provision: list[str] | None = None,
    keep: str | None = None,
    isolation: str | None = None,
    run_id: str | None = None,
    setenv: list[str] | None = None,
    shared_cache_dir: str | None = None,
    temp_dir: str | None = None,
    target_arch: str | None = None,
    loglevel: str | None = None,
    config: str | None = None,
    bundle_id: str | None = None,
    bundle_format: str | None = None,
    no_bundle: bool = False,
    no_compress: bool = False,
    zsync_source: str | None = None,
    package_as_rpm: bool = False,
    result_format: str | None = None,
    dry_run: bool = False,
    json: bool = False,
    quiet: bool = False,
    verbose: bool = False,
) -> None:
    """Build an image of a KIWI description in a throw-away guest."""
    from vagrant_kiwi import app

    console = Console(quiet=quiet, verbose=verbose)
    flags = {
        **_variant(description, provider, type, profile, kiwi_file),
        **_place(box, kiwi_version, pull, host, vagrantfile),
        "target_dir": target_dir,
        "result_format": result_format,
        "sync": sync,
        "provision": provision,
        "keep": keep,
        "isolation": isolation,
        "kiwi.setenv": setenv,
        "kiwi.shared_cache_dir": shared_cache_dir,
        "kiwi.temp_dir": temp_dir,
        "kiwi.target_arch": target_arch,
        "kiwi.loglevel": loglevel,
        "kiwi.config": config,
        "not bundle.enabled": no_bundle,
        "bundle.id": bundle_id,
        "bundle.format": bundle_format,
        "not bundle.compress": no_compress,
        "bundle.zsync_source": zsync_source,
        "bundle.package_as_rpm": package_as_rpm,
    }
    with _reported(console, as_json=json):
        request = _request(c, flags, run_id=run_id)
        if dry_run:
            _show(app.plan_summary(app.plan_build(request, console)), as_json=json)
            return
    answer, code = app.run_build(request, console)
    if json:
        _show(answer, as_json=True)
    elif not code:
        for line in app.result_lines(answer):
            print(line)
    if code:
        raise Exit(code=code)


@task(
    klass=invocation.PlainTask,
    help={**_help("description", "json"), "kiwi-file": _KIWI["kiwi-file"]},
)
def info(
    c: Context,
    description: str | None = None,
    kiwi_file: str | None = None,
    json: bool = False,
) -> None:
    """Show what a KIWI description says: types, profiles, repositories, packages."""
    from vagrant_kiwi import app

    with _reported(Console(), as_json=json):
        flags = {"description": description, "kiwi.kiwi_file": kiwi_file}
        _show(app.info(_request(c, flags)), as_json=json)


_VARIANT = {
    **_COMMON,
    **_KIWI,
    "provider": _PROVIDER,
    "run-id": "name of this run, in all it creates; made if not given",
}


@task(
    klass=invocation.PlainTask,
    iterable=["profile", "sync", "provision"],
    help={
        **_VARIANT,
        **{name: about for name, about in _PLACE.items() if name != "host"},
        "isolation": "auto, or privileged (a docker guest that may do anything on this host)",
        "sync": "SRC:DST, bring more data into the guest; may be given several times",
        "provision": "script to run in the guest; may be given several times",
    },
)
def up(
    c: Context,
    description: str | None = None,
    provider: str | None = None,
    box: str | None = None,
    kiwi_version: str | None = None,
    pull: str | None = None,
    vagrantfile: str | None = None,
    type: str | None = None,
    profile: list[str] | None = None,
    kiwi_file: str | None = None,
    sync: list[str] | None = None,
    provision: list[str] | None = None,
    isolation: str | None = None,
    run_id: str | None = None,
    json: bool = False,
    quiet: bool = False,
    verbose: bool = False,
) -> None:
    """Start a guest and leave it for builds of this description; or wake the one that is there."""
    from vagrant_kiwi import app

    console = Console(quiet=quiet, verbose=verbose)
    flags = {
        **_variant(description, provider, type, profile, kiwi_file),
        **_place(box, kiwi_version, pull, None, vagrantfile),
        "sync": sync,
        "provision": provision,
        "isolation": isolation,
    }
    with _reported(console, as_json=json):
        _show(app.up(_request(c, flags, run_id=run_id), console), as_json=json)


@task(
    klass=invocation.PlainTask,
    iterable=["profile"],
    help={
        **{name: about for name, about in _VARIANT.items() if name != "run-id"},
        "suspend": "save the guest's memory to disk instead; up brings it back (libvirt)",
    },
)
def down(
    c: Context,
    description: str | None = None,
    provider: str | None = None,
    type: str | None = None,
    profile: list[str] | None = None,
    kiwi_file: str | None = None,
    suspend: bool = False,
    json: bool = False,
    quiet: bool = False,
    verbose: bool = False,
) -> None:
    """Remove the guests that up, or build with --keep, left for this description."""
    from vagrant_kiwi import app

    console = Console(quiet=quiet, verbose=verbose)
    flags = _variant(description, provider, type, profile, kiwi_file)
    with _reported(console, as_json=json):
        _show(app.down(_request(c, flags), console, suspend=suspend), as_json=json)


def _variant(
    description: str | None,
    provider: str | None,
    image_type: str | None,
    profile: list[str] | None,
    kiwi_file: str | None,
) -> dict[str, object]:
    """Return the flags that tell one variant of a build from another."""
    return {
        "description": description,
        "provider": provider,
        "kiwi.type": image_type,
        "kiwi.profiles": profile,
        "kiwi.kiwi_file": kiwi_file,
    }


def _place(
    box: str | None,
    kiwi_version: str | None,
    pull: str | None,
    host: list[str] | None,
    vagrantfile: str | None,
) -> dict[str, object]:
    """Return the flags that tell in what a build runs."""
    return {
        "box": box,
        "kiwi_version": kiwi_version,
        "docker.pull": pull,
        "hosts": host,
        "vagrantfile": vagrantfile,
    }


_BOX = {
    **_help("json", "quiet", "verbose"),
    "name": "name of the build box, a folder in boxes/",
    "provider": "docker or libvirt",
    "kiwi-version": _PLACE["kiwi-version"],
}


@task(klass=invocation.PlainTask, name="box-add", help=_BOX)
def box_add(
    c: Context,
    name: str | None = None,
    provider: str | None = None,
    kiwi_version: str | None = None,
    json: bool = False,
    quiet: bool = False,
    verbose: bool = False,
) -> None:
    """Make the build box, or find that it is current; libvirt and Vagrant know it then."""
    _box(c, name, provider, kiwi_version, anew=False, json=json, quiet=quiet, verbose=verbose)


@task(klass=invocation.PlainTask, name="box-build", help=_BOX)
def box_build(
    c: Context,
    name: str | None = None,
    provider: str | None = None,
    kiwi_version: str | None = None,
    json: bool = False,
    quiet: bool = False,
    verbose: bool = False,
) -> None:
    """Make the build box anew, with the packages of today."""
    _box(c, name, provider, kiwi_version, anew=True, json=json, quiet=quiet, verbose=verbose)


def _box(
    c: Context,
    name: str | None,
    provider: str | None,
    kiwi_version: str | None,
    *,
    anew: bool,
    json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    from vagrant_kiwi import app

    console = Console(quiet=quiet, verbose=verbose)
    with _reported(console, as_json=json):
        flags = {"box": name, "provider": provider, "kiwi_version": kiwi_version}
        request = _request(c, flags)
        _show(app.box_add(request, console, anew=anew), as_json=json)


@task(klass=invocation.PlainTask, name="key-setup", help=_help("json"))
def key_setup(c: Context, json: bool = False) -> None:
    """Put Vagrant's insecure keys in place, verified; build does it by itself."""
    from vagrant_kiwi import app

    with _reported(Console(), as_json=json):
        _show(app.key_setup(_request(c, {})), as_json=json)


@task(
    klass=invocation.PlainTask,
    name="docker-storage",
    help={
        **_help("json"),
        "size": "size of the file that holds Docker's data, as in 20g; 5g at least",
    },
)
def docker_storage(c: Context, size: str = "20g", json: bool = False) -> None:
    """Print a script that gives Docker a data root on btrfs, and who needs it; changes nothing."""
    from vagrant_kiwi import storage_script

    with _reported(Console(), as_json=json):
        environment = settings.child_environment(settings.environment())
        script = storage_script.script(size, environment)
    if json:
        _show({"script": script}, as_json=True)
    else:
        print(script, end="")


@task(
    klass=invocation.PlainTask,
    help={
        **_help("json"),
        "from-dicefile": "Dicefile, or the folder that holds it; no Ruby runs",
    },
)
def init(c: Context, from_dicefile: str | None = None, json: bool = False) -> None:
    """Write an invoke.yaml into the current folder that says the same as a Dicefile."""
    from vagrant_kiwi.init import from_dicefile as write_settings

    with _reported(Console(), as_json=json):
        if from_dicefile is None:
            raise UsageError(
                "There is nothing to make an invoke.yaml from",
                resolution="Give --from-dicefile=PATH, a Dicefile or the folder that holds it.",
            )
        _show(
            write_settings(Path(from_dicefile), cwd=Path.cwd(), environ=settings.environment()),
            as_json=json,
        )


def _request(c: Context, flags: Mapping[str, object], *, run_id: str | None = None) -> app.Request:
    """Merge the settings of all levels."""
    from vagrant_kiwi import app

    environment = settings.environment()
    loaded = settings.load(c.config, environment=environment, flags=flags, cwd=Path.cwd())
    return app.Request(
        settings=loaded.settings,
        cwd=Path.cwd(),
        environment=settings.child_environment(
            environment, agent=loaded.settings.provider == "host"
        ),
        arguments=invocation.remainder(sys.argv)[1],
        run_id=run_id,
    )


@contextlib.contextmanager
def _reported(console: Console, *, as_json: bool) -> Iterator[None]:
    """Turn an expected failure into its message and its exit code."""
    try:
        yield
    except VagrantKiwiError as error:
        console.error(error)
        if as_json:
            _show({"status": "failed", "error": error.as_json()}, as_json=True)
        raise Exit(code=error.code) from error


def _show(answer: Mapping[str, object], *, as_json: bool) -> None:
    """Print an answer on standard output."""
    if as_json:
        print(jsonlib.dumps(answer, indent=2))
    else:
        print(yaml.safe_dump(dict(answer), sort_keys=False, allow_unicode=True), end="")


namespace = Collection(build, up, down, info, box_add, box_build, key_setup, docker_storage, init)
