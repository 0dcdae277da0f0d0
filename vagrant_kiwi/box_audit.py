"""``box-verify``: installed boxes are looked into, without starting anything of them."""

from __future__ import annotations

from vagrant_kiwi import (
    box_admin,
    box_look_docker,
    box_stores,
    box_verify,
    docker_api,
)
from vagrant_kiwi.app import Request
from vagrant_kiwi.box_installed import Installed
from vagrant_kiwi.box_supply import Supply
from vagrant_kiwi.box_verify import Look
from vagrant_kiwi.console import Console
from vagrant_kiwi.deadline import Deadline
from vagrant_kiwi.errors import BoxError, VagrantKiwiError


def verify(
    request: Request, console: Console, *, name: str | None, provider: str | None
) -> tuple[dict[str, object], VagrantKiwiError | None]:
    """Look into the newest version of each installed box.

    Args:
        request: the task's input.
        console: shows progress.
        name: only this box.
        provider: only boxes for this one.

    Returns:
        What was found in each; and the error that names all problems, if there are any, or else
        who could not be asked for boxes: those are not known to be good.

    Raises:
        BoxError: the box is not installed, or cannot be looked into.
        PreflightError: a tool is missing, or Docker does not answer.
        PhaseTimeoutError: it takes too long.
    """
    rows: list[dict[str, object]] = []
    wrong: list[str] = []
    wanted = box_stores.kinds(provider)
    with box_admin.supply(request, console) as supply:
        found = box_stores.look(supply, wanted)
        if name is not None or provider is not None or len(found.silent) == len(wanted):
            found.must_answer(wanted)
        found.warn(console)
        for row in found.installed(name):
            one = row.installed[0]
            # What the catalogue states goes before what the box says of itself.
            stated = (row.source.kiwi if row.source is not None else None) or one.kiwi
            kiwi, problems = _examined(supply, one, stated)
            rows.append(
                {
                    "name": row.name,
                    "provider": row.kind,
                    "version": one.version,
                    "image": one.image,
                    "kiwi": kiwi,
                    "problems": list(problems),
                }
            )
            wrong += [f"{row.name} ({row.kind}): {problem}" for problem in problems]
    answer = {"boxes": rows, "silent": dict(found.silent)}
    if not wrong and found.silent:
        return {"status": "incomplete", **answer}, found.unanswered(next(iter(found.silent)))
    if not wrong:
        return {"status": "good", **answer}, None
    return {"status": "failed", **answer}, BoxError(
        "A box is not as it should be" if len(wrong) == 1 else f"{len(wrong)} things are wrong",
        details="\n".join(wrong),
        resolution="Do not build in it. invoke box-build makes a box of ours anew; whoever made "
        "another one must mend it.",
    )


def _examined(
    supply: Supply, one: Installed, stated: str | None
) -> tuple[str | None, tuple[str, ...]]:
    """Return the KIWI in a box, and what is wrong with the box."""
    try:
        look = _look(supply, one)
    except BoxError as error:
        return None, (f"It cannot be looked into: {error.brief}: {error.details}.",)
    return look.kiwi, box_verify.problems(look, stated_kiwi=stated, allowed_keys=())


def _look(supply: Supply, one: Installed) -> Look:
    console = supply.console
    deadline = Deadline.after(supply.settings.timeouts.box, what=f"Looking into the box {one.name}")
    with console.phase("verify") as view:
        view.update(f"{one.image} {one.version}")
        if one.kind == "docker":
            with docker_api.client(supply.environment) as client:
                return box_look_docker.look_docker(
                    client, one.image, deadline=deadline, log=view.update
                )
        from vagrant_kiwi import box_look_machine, machine_boxes

        folder = supply.machines / one.name
        found = [each for each in machine_boxes.kept(folder) if each.version == one.version]
        if not found:
            raise BoxError(f"The box {one.name} {one.version} was removed meanwhile")
        (box,) = found
        return box_look_machine.look_machine(
            folder / box.version / box.file,
            supply.runner,
            scratch=supply.cache,
            deadline=deadline,
            update=view.update,
        )
