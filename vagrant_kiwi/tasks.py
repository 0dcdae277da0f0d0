"""The Invoke tasks: parse, call one function, print, exit. No logic."""

from __future__ import annotations

from pathlib import Path

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from vagrant_kiwi import invocation, settings
from vagrant_kiwi.box_tasks import TASKS as BOX_TASKS
from vagrant_kiwi.console import Console
from vagrant_kiwi.errors import UsageError
from vagrant_kiwi.task_support import (
    COMMON,
    KIWI_VERSION,
    common_help,
    reported,
    request,
    show,
)

invocation.adopt_running_invoke()

_PROVIDER = "docker, libvirt, docker-direct or host"
_PLACE = {
    "box": "name of the build box, or for docker an image of a registry",
    "kiwi-version": KIWI_VERSION,
    "pull": "when an image of a registry is pulled: missing, always or never",
    "host": "[USER@]ADDRESS[:PORT] for --provider=host; of several the first free one is taken",
    "vagrantfile": "Vagrantfile of your own; it runs code on this host",
}
_KIWI = {
    "kiwi-file": "name of the description's main file, where there are several",
    "profile": "KIWI profile to build; may be given several times",
    "type": "KIWI image type to build; the description's default if not given",
}


@task(
    klass=invocation.PlainTask,
    iterable=["profile", "setenv", "sync", "provision", "host"],
    help={
        **COMMON,
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
    with reported(console, as_json=json):
        wanted = request(c, flags, run_id=run_id)
        if dry_run:
            show(app.plan_summary(app.plan_build(wanted, console)), as_json=json)
            return
    answer, code = app.run_build(wanted, console)
    if json:
        show(answer, as_json=True)
    elif not code:
        for line in app.result_lines(answer):
            print(line)
    if code:
        raise Exit(code=code)


@task(
    klass=invocation.PlainTask,
    help={**common_help("description", "json"), "kiwi-file": _KIWI["kiwi-file"]},
)
def info(
    c: Context,
    description: str | None = None,
    kiwi_file: str | None = None,
    json: bool = False,
) -> None:
    """Show what a KIWI description says: types, profiles, repositories, packages."""
    from vagrant_kiwi import app

    with reported(Console(), as_json=json):
        flags = {"description": description, "kiwi.kiwi_file": kiwi_file}
        show(app.info(request(c, flags)), as_json=json)


_VARIANT = {
    **COMMON,
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
    with reported(console, as_json=json):
        show(app.up(request(c, flags, run_id=run_id), console), as_json=json)


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
    with reported(console, as_json=json):
        show(app.down(request(c, flags), console, suspend=suspend), as_json=json)


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


@task(klass=invocation.PlainTask, name="key-setup", help=common_help("json"))
def key_setup(c: Context, json: bool = False) -> None:
    """Put Vagrant's insecure keys in place, verified; build does it by itself."""
    from vagrant_kiwi import app

    with reported(Console(), as_json=json):
        show(app.key_setup(request(c, {})), as_json=json)


@task(
    klass=invocation.PlainTask,
    name="docker-storage",
    help={
        **common_help("json"),
        "size": "size of the file that holds Docker's data, as in 20g; 5g at least",
    },
)
def docker_storage(c: Context, size: str = "20g", json: bool = False) -> None:
    """Print a script that gives Docker a data root on btrfs, and who needs it; changes nothing."""
    from vagrant_kiwi import storage_script

    with reported(Console(), as_json=json):
        environment = settings.child_environment(settings.environment())
        script = storage_script.script(size, environment)
    if json:
        show({"script": script}, as_json=True)
    else:
        print(script, end="")


@task(
    klass=invocation.PlainTask,
    help={
        **common_help("json"),
        "from-dicefile": "Dicefile, or the folder that holds it; no Ruby runs",
    },
)
def init(c: Context, from_dicefile: str | None = None, json: bool = False) -> None:
    """Write an invoke.yaml into the current folder that says the same as a Dicefile."""
    from vagrant_kiwi.init import from_dicefile as write_settings

    with reported(Console(), as_json=json):
        if from_dicefile is None:
            raise UsageError(
                "There is nothing to make an invoke.yaml from",
                resolution="Give --from-dicefile=PATH, a Dicefile or the folder that holds it.",
            )
        show(
            write_settings(Path(from_dicefile), cwd=Path.cwd(), environ=settings.environment()),
            as_json=json,
        )


namespace = Collection(build, up, down, info, *BOX_TASKS, key_setup, docker_storage, init)
