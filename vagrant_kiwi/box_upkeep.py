"""``box-remove`` and ``box-update``: each function returns its task's answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from vagrant_kiwi import (
    app,
    box_admin,
    box_by_name,
    box_stores,
    boxes,
    catalog,
    docker_api,
    docker_boxes,
)
from vagrant_kiwi.app import Request
from vagrant_kiwi.box_installed import Installed
from vagrant_kiwi.box_stores import Row
from vagrant_kiwi.box_supply import Supply
from vagrant_kiwi.console import Console
from vagrant_kiwi.deadline import Deadline
from vagrant_kiwi.errors import BoxError, StoppedError, UsageError, VagrantKiwiError
from vagrant_kiwi.guests.vagrantfile import Box


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
        wanted = box_stores.kinds(provider)
        found = box_stores.look(supply, wanted)
        # Where it is, and who uses it, must be known.
        found.must_answer(wanted)
        rows = found.installed(name)
        if len(rows) > 1:
            raise UsageError(
                f"The box {name} is installed for {' and '.join(row.kind for row in rows)}",
                resolution="Say which one: --provider=docker or --provider=libvirt.",
            )
        (row,) = rows
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
) -> tuple[dict[str, object], VagrantKiwiError | None]:
    """Bring installed boxes to what the catalogue says; nothing happens to current ones.

    Builds that run go on with what they have; what nothing uses any more is removed.

    Args:
        request: the task's input.
        console: shows progress.
        name: only this box.
        provider: only boxes for this one.

    Returns:
        What was updated, what is current, what is left as it is; and the first error, if a box
        could not be brought up to date. The others were.

    Raises:
        BoxError: the box is not installed.
        PreflightError: whoever was named does not answer.
    """
    wanted = box_stores.kinds(provider)
    with box_admin.supply(request, console) as plain:
        found = box_stores.look(plain, wanted)
    if name is not None or provider is not None:
        found.must_answer(wanted)
    found.warn(console)
    rows = found.installed(name)
    answer: dict[str, list[dict[str, object]]] = {"updated": [], "current": [], "left": []}
    first: VagrantKiwiError | None = None
    for row in rows:
        said: dict[str, object] = {"name": row.name, "provider": row.kind}
        if row.source is None or row.problem:
            reason = row.problem or "it is not in a catalogue"
            answer["left"].append({**said, "reason": reason})
            continue
        before = row.installed[0]
        if row.current is not None and not row.outdated(before):
            answer["current"].append({**said, "version": before.version})
            continue
        try:
            box = _newest(request, console, row)
        except StoppedError:
            raise
        except VagrantKiwiError as error:
            console.error(error)
            answer["left"].append({**said, "reason": error.brief})
            first = first or error
            continue
        place = "current" if box.content == before.content else "updated"
        answer[place].append({**said, "version": box.version})
    return {**answer}, first


def _newest(request: Request, console: Console, row: Row) -> Box:
    """Make or fetch what the catalogue has of a box now."""
    settings = request.settings.model_copy(
        update={
            "kiwi_version": row.kiwi_version,
            # A registry is asked; builds ask it only if the settings say so.
            "docker": request.settings.docker.model_copy(update={"pull": "always"}),
        }
    )
    asked = dataclasses.replace(request, settings=settings)
    with box_admin.supply(asked, console, row.kind) as supply:
        app.check_host(supply.settings, request.environment, console)
        return box_by_name.find(supply, catalog.split_variant(row.name)[0])
