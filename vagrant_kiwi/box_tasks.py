"""The Invoke tasks for build boxes: parse, call one function, print, exit. No logic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from vagrant_kiwi.console import Console
from vagrant_kiwi.errors import VagrantKiwiError
from vagrant_kiwi.invocation import PlainTask
from vagrant_kiwi.task_support import KIWI_VERSION, common_help, reported, request, show

_NAME = "name of the box, as invoke box-list shows it"
_ONE = "docker or libvirt; both if not given"
_ADD = {
    **common_help("json", "quiet", "verbose"),
    "name": _NAME,
    "provider": "docker or libvirt",
    "kiwi-version": KIWI_VERSION,
}


@task(klass=PlainTask, name="box-list", help={**common_help("json"), "provider": _ONE})
def box_list(c: Context, provider: str | None = None, json: bool = False) -> None:
    """Show the boxes of the catalogue, and those that are installed."""
    from vagrant_kiwi import box_admin, box_table

    console = Console()
    with reported(console, as_json=json):
        answer = box_admin.overview(request(c, {}), console, provider=provider)
        if json:
            show(answer, as_json=True)
        else:
            box_table.print_boxes(answer)


@task(
    klass=PlainTask,
    name="box-add",
    help={
        **_ADD,
        "url": "take it from a web server: an archive of docker save, a root file system, a .box",
        "file": "take it from a file on this host",
        "image": "take it from a registry, or from what Docker has (docker only)",
        "sha256": "checksum that the archive, or the image's manifest, must have",
        "signature": "detached GPG signature of the archive, a URL or a file; with --keyring",
        "keyring": "file with the keys that may sign it",
        "force": "make or fetch it even if it is there",
    },
)
def box_add(
    c: Context,
    name: str | None = None,
    provider: str | None = None,
    kiwi_version: str | None = None,
    url: str | None = None,
    file: str | None = None,
    image: str | None = None,
    sha256: str | None = None,
    signature: str | None = None,
    keyring: str | None = None,
    force: bool = False,
    json: bool = False,
    quiet: bool = False,
    verbose: bool = False,
) -> None:
    """Make a box of the catalogue, or import one; nothing happens when it is current."""
    given = {
        "name": name,
        "kiwi_version": kiwi_version,
        "url": url,
        "file": file,
        "image": image,
        "sha256": sha256,
        "signature": signature,
        "keyring": keyring,
    }
    flags = {"box": name, "provider": provider, "kiwi_version": kiwi_version}
    _add(c, flags, given, anew=force, json=json, quiet=quiet, verbose=verbose)


@task(klass=PlainTask, name="box-build", help=_ADD)
def box_build(
    c: Context,
    name: str | None = None,
    provider: str | None = None,
    kiwi_version: str | None = None,
    json: bool = False,
    quiet: bool = False,
    verbose: bool = False,
) -> None:
    """Make a box of the catalogue anew, with the packages of today."""
    flags = {"box": name, "provider": provider, "kiwi_version": kiwi_version}
    _add(c, flags, {}, anew=True, json=json, quiet=quiet, verbose=verbose)


def _add(
    c: Context,
    flags: Mapping[str, object],
    given: Mapping[str, str | None],
    *,
    anew: bool,
    json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    from vagrant_kiwi import box_admin

    console = Console(quiet=quiet, verbose=verbose)
    with reported(console, as_json=json):
        wanted = box_admin.Given(**given)
        show(box_admin.add(request(c, flags), console, wanted, anew=anew), as_json=json)


@task(
    klass=PlainTask,
    name="box-remove",
    help={
        **common_help("json", "quiet"),
        "name": _NAME,
        "provider": "docker or libvirt; needed where it is installed for both",
        "force": "also if it is in use; virtual machines lose their disk",
    },
)
def box_remove(
    c: Context,
    name: str,
    provider: str | None = None,
    force: bool = False,
    json: bool = False,
    quiet: bool = False,
) -> None:
    """Remove an installed box; refused while something uses it."""
    from vagrant_kiwi import box_upkeep

    console = Console(quiet=quiet)
    with reported(console, as_json=json):
        answer = box_upkeep.remove(
            request(c, {}), console, name=name, provider=provider, force=force
        )
        show(answer, as_json=json)


@task(
    klass=PlainTask,
    name="box-update",
    help={**common_help("json", "quiet", "verbose"), "name": _NAME, "provider": _ONE},
)
def box_update(
    c: Context,
    name: str | None = None,
    provider: str | None = None,
    json: bool = False,
    quiet: bool = False,
    verbose: bool = False,
) -> None:
    """Bring installed boxes up to date, one or all; nothing happens to current ones."""
    from vagrant_kiwi import box_upkeep

    console = Console(quiet=quiet, verbose=verbose)
    with reported(console, as_json=json):
        answer, error = box_upkeep.update(request(c, {}), console, name=name, provider=provider)
    _finish(console, answer, error, json=json)


@task(
    klass=PlainTask,
    name="box-push",
    help={
        **common_help("json", "quiet", "verbose"),
        "name": _NAME,
        "image": "its name in your registry, as in registry.example.com/kiwi:1",
        "kiwi-version": KIWI_VERSION,
    },
)
def box_push(
    c: Context,
    image: str,
    name: str | None = None,
    kiwi_version: str | None = None,
    json: bool = False,
    quiet: bool = False,
    verbose: bool = False,
) -> None:
    """Put a docker box into a registry of yours; log in there with docker login."""
    from vagrant_kiwi import box_push

    console = Console(quiet=quiet, verbose=verbose)
    with reported(console, as_json=json):
        asked = request(c, {"box": name})
        answer = box_push.push(asked, console, image=image, kiwi_version=kiwi_version)
        show(answer, as_json=json)


@task(
    klass=PlainTask,
    name="box-prune",
    help={
        **common_help("json", "quiet"),
        "dry-run": "remove nothing; say what would be, and how much room it takes",
    },
)
def box_prune(c: Context, dry_run: bool = False, json: bool = False, quiet: bool = False) -> None:
    """Remove versions of boxes that no build needs, and what was fetched to make them."""
    from vagrant_kiwi import box_prune

    console = Console(quiet=quiet)
    with reported(console, as_json=json):
        show(box_prune.prune(request(c, {}), console, dry_run=dry_run), as_json=json)


@task(
    klass=PlainTask,
    name="box-verify",
    help={**common_help("json", "quiet"), "name": _NAME, "provider": _ONE},
)
def box_verify(
    c: Context,
    name: str | None = None,
    provider: str | None = None,
    json: bool = False,
    quiet: bool = False,
) -> None:
    """Look into installed boxes for host keys, machine-ids, strange keys, another KIWI."""
    from vagrant_kiwi import box_audit

    console = Console(quiet=quiet)
    with reported(console, as_json=json):
        answer, error = box_audit.verify(request(c, {}), console, name=name, provider=provider)
    _finish(console, answer, error, json=json)


def _finish(
    console: Console, answer: Mapping[str, object], error: VagrantKiwiError | None, *, json: bool
) -> None:
    """Show an answer that is there also when something went wrong."""
    show({**answer, "error": error.as_json() if error is not None else None}, as_json=json)
    if error is not None:
        console.error(error)
        raise Exit(code=error.code)


#: In the order of ``invoke --list``.
TASKS: tuple[Any, ...] = (
    box_list,
    box_add,
    box_build,
    box_update,
    box_remove,
    box_push,
    box_prune,
    box_verify,
)
