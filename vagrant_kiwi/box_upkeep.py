"""``box-remove``, ``box-update`` and ``box-push``: each function returns its task's answer."""

from __future__ import annotations

from collections.abc import Sequence

import docker.utils

from vagrant_kiwi import (
    app,
    box_admin,
    box_by_name,
    box_stores,
    boxes,
    catalog,
    docker_api,
    docker_boxes,
    docker_stream,
)
from vagrant_kiwi.app import Request
from vagrant_kiwi.box_installed import Installed
from vagrant_kiwi.box_stores import Boxes, Row
from vagrant_kiwi.box_supply import Supply
from vagrant_kiwi.catalog import Kind
from vagrant_kiwi.console import Console
from vagrant_kiwi.deadline import Deadline
from vagrant_kiwi.errors import BoxError, PreflightError, UsageError

#: Seconds without progress after which a push has failed.
_STALL = 120.0


def remove(
    request: Request, console: Console, *, name: str, provider: str | None, force: bool
) -> dict[str, object]:
    """Remove a box with all its versions.

    Args:
        request: the task's input.
        console: told what is removed.
        name: the box.
        provider: for this one only; needed where it is installed for several.
        force: also if guests use it.

    Raises:
        BoxError: it is not installed, or it is in use.
        UsageError: it is installed for several kinds of guest.
        PreflightError: Docker or libvirt does not answer.
    """
    with box_admin.supply(request, console) as supply:
        found = box_stores.look(supply, box_stores.kinds(provider))
        rows = found.named(name)
        if not rows:
            raise not_installed(name, found)
        if len(rows) > 1:
            raise UsageError(
                f"The box {name} is installed for {' and '.join(row.kind for row in rows)}",
                resolution="Say which one: --provider=docker or --provider=libvirt.",
            )
        (row,) = rows
        # Who uses it must be known.
        _must_answer(found, row.kind)
        used = [one for one in row.installed if one.users]
        if used and not force:
            raise _in_use(name, used)
        gone = remove_versions(supply, row, row.installed, force=force)
        left = [one for one in row.installed if one not in gone]
        if left:
            raise _in_use(name, left)
    return {"status": "removed", "boxes": [{"name": name, **one.as_json()} for one in gone]}


def remove_versions(
    supply: Supply, row: Row, versions: Sequence[Installed], *, force: bool = False
) -> list[Installed]:
    """Remove versions of a box, but for those in use.

    Args:
        supply: how to reach Docker and libvirt.
        row: the box.
        versions: those to remove.
        force: also those in use.

    Returns:
        Those that are gone.

    Raises:
        BoxError: Docker answers with an error.
        PreflightError: Docker or libvirt does not answer.
        PhaseTimeoutError: another process is making this box, for too long.
    """
    note = supply.console.note
    deadline = Deadline.after(supply.settings.timeouts.box, what=f"Removing the box {row.name}")
    if row.kind == "docker":
        with (
            boxes.only_one(supply.cache, row.name, note, deadline),
            docker_api.client(supply.environment) as client,
        ):
            return docker_boxes.remove(client, versions, supply.cache, force=force, log=note)
    from vagrant_kiwi import machine_boxes, machine_pool, machine_supply

    with machine_supply.folder_of(supply, row.name, deadline) as folder:
        wanted = {one.version for one in versions}
        gone = machine_pool.remove(
            [box for box in machine_boxes.kept(folder) if box.version in wanted],
            folder,
            supply.runner,
            cache=supply.cache,
            uri=supply.settings.libvirt.uri,
            force=force,
            say=note,
        )
        return [one for one in versions if one.version in {box.version for box in gone}]


def _must_answer(found: Boxes, kind: Kind) -> None:
    if kind in found.silent:
        raise PreflightError(
            f"Who uses the boxes for {kind} cannot be found out",
            details=found.silent[kind],
            resolution="Mend that, then try again.",
        )


def not_installed(name: str, found: Boxes) -> BoxError:
    """Return the error for a box that is not there, with those that are."""
    names = sorted({row.name for row in found.rows if row.installed})
    details = [f"installed: {', '.join(names) or 'none'}"]
    details += [f"{kind} cannot be asked: {why}" for kind, why in found.silent.items()]
    return BoxError(
        f"The box {name} is not installed",
        details="\n".join(details),
        resolution="invoke box-list shows what there is, invoke box-add installs one.",
    )


def _in_use(name: str, used: Sequence[Installed]) -> BoxError:
    return BoxError(
        f"The box {name} is in use",
        details="\n".join(
            f"{one.image} {one.version}: {', '.join(one.users) or 'a build'}" for one in used
        ),
        resolution="invoke down removes guests that were left. --force removes the box anyway.",
    )


def update(
    request: Request, console: Console, *, name: str | None, provider: str | None
) -> dict[str, object]:
    """Bring installed boxes to what the catalogue says; nothing happens to current ones.

    Builds that run go on with what they have; what nothing uses any more is removed.

    Args:
        request: the task's input.
        console: shows progress.
        name: only this box.
        provider: only boxes for this one.

    Raises:
        BoxError: one is not installed, or cannot be had.
        PreflightError: the host lacks something for it.
    """
    updated: list[dict[str, object]] = []
    current: list[dict[str, object]] = []
    left: list[dict[str, object]] = []
    with box_admin.supply(request, console) as plain:
        found = box_stores.look(plain, box_stores.kinds(provider))
    rows = [row for row in found.rows if row.installed and name in (None, row.name)]
    if name is not None and not rows:
        raise not_installed(name, found)
    for kind in found.silent:
        if provider is not None:
            _must_answer(found, kind)
        console.warn(f"{kind} cannot be asked: {found.silent[kind]}")
    for row in rows:
        said: dict[str, object] = {"name": row.name, "provider": row.kind}
        if row.source is None:
            left.append({**said, "reason": "it is not in a catalogue"})
            continue
        before = row.installed[0]
        if row.source.image is None and not row.outdated(before):
            current.append({**said, "version": before.version})
            continue
        settings = request.settings.model_copy(
            update={
                "provider": row.kind,
                "kiwi_version": row.kiwi_version,
                "docker": request.settings.docker.model_copy(update={"pull": "always"}),
            }
        )
        with box_admin.supply(request, console, row.kind) as supply:
            app.check_host(settings, request.environment, console)
            made = Supply(settings, supply.environment, supply.runner, console, supply.gate)
            box = box_by_name.find(made, catalog.split_variant(row.name)[0])
            same = box.content == before.content
            if row.source.image is not None and not same:
                # The registry's name is that of the newer one now.
                with docker_api.client(made.environment) as client, boxes.docker_errors():
                    boxes.drop(client, before.content, made.cache)
        (current if same else updated).append({**said, "version": box.version})
    return {"updated": updated, "current": current, "left": left}


def push(request: Request, console: Console, *, image: str) -> dict[str, object]:
    """Put a docker box into a registry, with the login that Docker's own client has there.

    Args:
        request: the task's input; its settings name the box, of which goes what a build would take.
        console: shows progress.
        image: its name there, with the registry; the tag is "latest" if there is none.

    Raises:
        BoxError: there is no such box, or the registry does not take it.
        UsageError: the image's name has no registry.
        PreflightError: Docker does not answer.
    """
    repository, tag = docker.utils.parse_repository_tag(image)
    if "/" not in repository or "@" in image:
        raise UsageError(
            f"--image={image} names no place in a registry",
            resolution="Give it as in --image=registry.example.com/kiwi:1.",
        )
    reference = f"{repository}:{tag or 'latest'}"
    deadline = Deadline.after(request.settings.timeouts.box, what=f"Pushing {reference}")
    name = request.settings.box or catalog.DEFAULT
    with box_admin.supply(request, console, "docker") as supply:
        box = box_by_name.find(supply, name)
        with (
            console.phase("push") as view,
            docker_api.client(supply.environment) as client,
            boxes.docker_errors(),
        ):
            there = boxes.image_of(client, reference)
            if there not in (None, box.content):
                raise BoxError(
                    f"{reference} is another image on this host",
                    details=f"{there}, and the box is {box.content}",
                    resolution=f"Remove that name (docker rmi {reference}), or choose another tag.",
                )
            client.api.tag(box.content, repository, tag or "latest")
            try:
                digest = docker_stream.push(
                    client, reference, stall=_STALL, log=view.update, deadline=deadline
                )
            except docker_stream.DockerStreamError as error:
                raise BoxError(
                    f"The registry does not take {reference}",
                    details=str(error),
                    resolution=f"Does it want a login? docker login {repository.partition('/')[0]}",
                ) from error
            finally:
                if there is None:
                    with supply.gate.shield():
                        boxes.remove_tag(client, reference)
    return {"status": "pushed", "name": name, "image": reference, "digest": digest}
