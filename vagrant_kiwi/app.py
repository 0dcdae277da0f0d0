"""What the tasks call: each function does one task's work and returns its answer."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from vagrant_kiwi import (
    box_recipe,
    boxes,
    build,
    description,
    docker_api,
    isolation,
    keys,
    kiwi,
    mirrors,
    plan,
    preflight,
    signals,
    state,
    templates,
)
from vagrant_kiwi.boxes import DockerBox
from vagrant_kiwi.console import Console
from vagrant_kiwi.errors import SettingsError, UsageError, VagrantKiwiError
from vagrant_kiwi.process import Runner
from vagrant_kiwi.settings import Settings

DEFAULT_BOX = "debian-bookworm"


@dataclass(frozen=True)
class Request:
    """A task's input.

    ``arguments`` is what followed ``--``, ``environment`` that of the processes we start.
    """

    settings: Settings
    cwd: Path
    environment: Mapping[str, str]
    arguments: tuple[str, ...] = ()
    run_id: str | None = None


def info(request: Request) -> dict[str, object]:
    """Describe a KIWI description.

    Raises:
        DescriptionError: there is none, or it cannot be read.
    """
    return description.summary(_read(request))


def plan_build(request: Request) -> plan.BuildPlan:
    """Decide a build; touches nothing.

    Raises:
        VagrantKiwiError: an input is wrong.
    """
    return _plan(request)[0]


def plan_summary(decided: plan.BuildPlan) -> dict[str, object]:
    """Return a plan in the form that ``--dry-run --json`` prints."""
    return {
        "run_id": decided.run_id,
        "description": str(decided.description),
        "name": decided.name,
        "version": decided.version,
        "type": decided.image_type,
        "profiles": list(decided.profiles),
        "provider": decided.provider,
        "box": decided.box,
        "guest": decided.guest_name,
        "isolation": {
            "kind": decided.isolation.kind,
            "reason": decided.isolation.reason,
            "create_args": list(decided.isolation.create_args),
        },
        "sync": [
            {
                "source": str(item.source),
                "target": item.target,
                "exclude": list(item.exclude),
                "delete": item.delete,
            }
            for item in decided.sync
        ],
        "files": [file.target for file in decided.guest_files],
        "provision": [str(script) for script in decided.provision],
        "kiwi": kiwi.shown_argv(decided.kiwi_argv),
        "bundle": kiwi.shown_argv(decided.bundle_argv) if decided.bundle_argv else None,
        "keep": decided.keep,
        "timeouts": decided.timeouts.model_dump(),
        "log": str(decided.paths.log),
        "result_dir": str(decided.paths.result),
    }


def run_build(request: Request, console: Console) -> tuple[dict[str, object], int]:
    """Build an image.

    Args:
        request: the task's input.
        console: shows progress and errors.

    Returns:
        The object of ``build --json``, and the exit code.
    """
    answer: dict[str, object] = {
        "status": "failed",
        "run_id": request.run_id,
        "description": str(request.settings.description or ""),
        "provider": request.settings.provider,
        "result_dir": None,
        "artifacts": [],
        "log": None,
    }
    code = 0
    try:
        with signals.gate(on_ignored=console.warn) as gate:
            _build(request, console, gate, answer)
    except VagrantKiwiError as error:
        code = error.code
        answer["error"] = error.as_json()
        console.error(error)
    else:
        answer["error"] = None
    answer["phases"] = [asdict(phase) for phase in console.phases]
    # The error comes last for a person who reads the object.
    answer["error"] = answer.pop("error")
    return answer, code


def _build(
    request: Request, console: Console, gate: signals.SignalGate, answer: dict[str, object]
) -> None:
    decided, selection = _plan(request)
    answer["run_id"] = decided.run_id
    answer["description"] = str(decided.description)
    if decided.isolation.kind == "privileged":
        console.warn(decided.isolation.reason)
    with state.lock(decided.paths.lock, what=f"{decided.slug} with {decided.provider}"):
        state.make_folder(decided.paths.run)
        answer["log"] = str(decided.paths.log)
        record: dict[str, object] = {
            "run_id": decided.run_id,
            "status": "running",
            "started": _now(),
            "plan": plan_summary(decided),
        }
        state.write_json(decided.paths.record, record)
        try:

            def published(built: build.Built) -> None:
                answer["status"] = "built"
                answer["result_dir"] = str(built.folder)
                answer["artifacts"] = [asdict(artifact) for artifact in built.artifacts]

            _prepare_and_run(request, decided, selection, console, gate, published)
        except VagrantKiwiError as error:
            record |= {"status": "failed", "exit": error.code, "error": error.as_json()}
            raise
        except BaseException:
            # A bug of ours: the traceback is for the person, the record still tells the truth.
            record |= {"status": "failed", "exit": 1}
            raise
        else:
            record |= {"status": "built", "exit": 0}
        finally:
            record |= {
                "ended": _now(),
                "phases": [asdict(phase) for phase in console.phases],
                "artifacts": answer["artifacts"],
            }
            with gate.shield():
                state.write_json(decided.paths.record, record)


def _prepare_and_run(
    request: Request,
    decided: plan.BuildPlan,
    selection: description.Selection,
    console: Console,
    gate: signals.SignalGate,
    published: Callable[[build.Built], None],
) -> None:
    preflight.programs(request.environment)
    environment = dict(request.environment)
    runner = Runner(build.marked(environment, decided.run_id))
    insecure = keys.ensure_insecure_keys(runner)
    box = _box(request, runner, decided.box, insecure, console)
    choices = mirrors.choose(
        selection.repositories,
        request.settings.mirrors,
        probe=mirrors.answers,
        host_mirrors=lambda: mirrors.host_mirrors(runner),
    )
    for choice in choices:
        console.note(choice.describe())
    build.run(
        decided,
        build.Inputs(box, insecure, choices),
        build.Tools(runner, Runner(environment), console, gate),
        published=published,
    )


def box_add(request: Request, console: Console) -> dict[str, object]:
    """Make or find the build box; nothing happens when it is current.

    Raises:
        BoxError: it cannot be made.
        PreflightError: the host lacks something for it.
    """
    name = request.settings.box or DEFAULT_BOX
    with signals.gate(on_ignored=console.warn):
        runner = Runner(request.environment)
        box = _box(request, runner, name, keys.ensure_insecure_keys(runner), console)
    return asdict(box)


def key_setup(request: Request) -> dict[str, object]:
    """Put Vagrant's insecure keys where Vagrant uses them, verified.

    Raises:
        KeySetupError: they are missing, or not the well-known ones.
    """
    found = keys.ensure_insecure_keys(Runner(request.environment))
    return {"keys": [str(path) for path in found.private]}


def result_lines(answer: Mapping[str, object]) -> list[str]:
    """Return what a person wants to know of a good build: where the image lies."""
    folder = Path(str(answer["result_dir"]))
    artifacts = answer["artifacts"]
    assert isinstance(artifacts, list)  # noqa: S101 - _build() made it
    return [str(folder / artifact["path"]) for artifact in artifacts]


def _read(request: Request) -> description.Description:
    if request.settings.description is None:
        raise SettingsError(
            "No description was given",
            resolution="Give --description=PATH, the folder with config.xml or a .kiwi file.",
        )
    return description.read(request.settings.description, kiwi_file=request.settings.kiwi.kiwi_file)


def _plan(request: Request) -> tuple[plan.BuildPlan, description.Selection]:
    settings = request.settings
    known = templates.provider_names(settings.template_dirs)
    if settings.provider not in known:
        raise SettingsError(
            f"There is no provider {settings.provider}",
            details=f"known: {', '.join(known)}",
            resolution=f"Choose one of them, or make {templates.file_name(settings.provider)}.",
        )
    if request.run_id is not None:
        plan.check_run_id(request.run_id)
    read = _read(request)
    selection = description.select(
        read, profiles=settings.kiwi.profiles, image_type=settings.kiwi.type
    )
    run_id = request.run_id or plan.new_run_id(datetime.datetime.now(datetime.UTC))
    decided = plan.make_plan(
        settings,
        read,
        selection,
        run_id=run_id,
        facts=isolation.read_facts(),
        kiwi_build=kiwi.parse_build_options(
            request.arguments, cwd=request.cwd, files_dir=plan.GuestPaths.of(run_id).files
        ),
        box=settings.box or DEFAULT_BOX,
    )
    if decided.paths.run.exists():
        raise UsageError(
            f"--run-id={run_id} was used before",
            details=str(decided.paths.run),
            resolution="Every run has an id of its own; leave --run-id out to have one made.",
        )
    return decided, selection


def _box(
    request: Request, runner: Runner, name: str, insecure: keys.InsecureKeys, console: Console
) -> DockerBox:
    """Make the box, or find that it is current; only what must be asked for is asked for."""
    recipe = box_recipe.find_recipe(name)
    with console.phase("box") as view, docker_api.client(request.environment) as client:
        box = boxes.find_docker_box(client, recipe)
        if box is not None:
            return box
        facts = recipe.facts
        mirror, security_mirror = (
            mirrors.pick_mirror(
                official,
                suite,
                setting=request.settings.mirrors,
                probe=mirrors.answers,
                host_mirrors=lambda: mirrors.host_mirrors(runner),
            )
            for official, suite in (
                (facts.mirror, facts.suite),
                (facts.security_mirror, f"{facts.suite}-security"),
            )
        )
        return boxes.ensure_docker_box(
            recipe,
            client,
            runner,
            mirror=mirror,
            security_mirror=security_mirror,
            public_key=insecure.rsa_line,
            timeout=request.settings.timeouts.box,
            log=view.update,
        )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
