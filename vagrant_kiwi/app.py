"""What the tasks call: each function does one task's work and returns its answer."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from vagrant_kiwi import (
    box_by_name,
    box_recipe,
    build,
    catalog,
    description,
    docker_api,
    docker_storage,
    holding,
    isolation,
    keys,
    kiwi,
    mirrors,
    own_vagrantfile,
    plan,
    preflight,
    signals,
    state,
    templates,
)
from vagrant_kiwi.box_supply import Supply
from vagrant_kiwi.console import Console
from vagrant_kiwi.errors import SettingsError, UsageError, VagrantKiwiError
from vagrant_kiwi.guests.vagrantfile import Box, ForeignBox, Machine
from vagrant_kiwi.process import Runner
from vagrant_kiwi.settings import Settings


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


def plan_build(request: Request, console: Console) -> plan.BuildPlan:
    """Decide a build; touches nothing.

    Raises:
        VagrantKiwiError: an input is wrong.
    """
    return _plan(request, console)[0]


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
            "create_args": decided.isolation.shown_args(),
        },
        "libvirt": decided.libvirt.model_dump() if decided.provider == "libvirt" else None,
        "hosts": [target.who for target in decided.hosts],
        "vagrantfile": str(decided.vagrantfile) if decided.vagrantfile else None,
        "sync": [
            {
                "source": str(item.source),
                "target": item.target,
                "exclude": list(item.exclude),
                "delete": item.delete,
            }
            for item in decided.sync
        ],
        "references": {
            "pushed": [
                {"source": str(item.source), "target": item.target, "exclude": list(item.exclude)}
                for item in decided.references
            ],
            "renamed": {
                **{
                    choice.original.public_source: choice.replacement
                    for choice in decided.local_repositories
                },
                **{choice.original: choice.replacement for choice in decided.moved_files},
            },
        },
        "files": [file.target for file in decided.guest_files],
        "provision": [str(script) for script in decided.provision],
        "kiwi": kiwi.shown_argv(decided.kiwi_argv),
        "bundle": kiwi.shown_argv(decided.bundle_argv) if decided.bundle_argv else None,
        "result_format": decided.result_format,
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
    decided, selection = _plan(request, console)
    answer["description"] = str(decided.description)
    with _recorded(decided, console, gate, answer) as record:
        with _prepared(request, decided, selection, console, gate) as (inputs, tools):
            reused = build.usable_guest(decided, inputs, tools)
            record["reused"] = reused.run_id if reused is not None else None

            def published(built: build.Built) -> None:
                answer["status"] = "built"
                answer["result_dir"] = str(built.folder)
                answer["artifacts"] = [asdict(artifact) for artifact in built.artifacts]

            build.run(decided, inputs, tools, reused=reused, published=published)
        record["status"] = "built"


@contextlib.contextmanager
def _recorded(
    decided: plan.BuildPlan,
    console: Console,
    gate: signals.SignalGate,
    answer: dict[str, object],
) -> Iterator[dict[str, object]]:
    """Hold the variant's lock for the body, and write down what became of it in run.json.

    Yields:
        The record; the body gives it its final status.
    """
    answer["run_id"] = decided.run_id
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
            yield record
        except VagrantKiwiError as error:
            record |= {"status": "failed", "exit": error.code, "error": error.as_json()}
            raise
        except BaseException:
            # A bug of ours: the traceback is for the person, the record still tells the truth.
            record |= {"status": "failed", "exit": 1}
            raise
        else:
            record["exit"] = 0
        finally:
            record |= {
                "ended": _now(),
                "phases": [asdict(phase) for phase in console.phases],
                "artifacts": answer.get("artifacts", []),
            }
            with gate.shield():
                state.write_json(decided.paths.record, record)


@contextlib.contextmanager
def _prepared(
    request: Request,
    decided: plan.BuildPlan,
    selection: description.Selection,
    console: Console,
    gate: signals.SignalGate,
) -> Iterator[tuple[holding.Inputs, holding.Tools]]:
    """Make everything ready that a guest needs, after checking that the host has all of it.

    During the body nobody of this user removes the box.
    """
    own = decided.vagrantfile is not None
    if decided.provider in docker_api.PROVIDERS:
        devices = decided.isolation.kind == "disk"
        docker_api.check_place(request.environment, devices=devices)
        docker_storage.preflight(decided, selection.image_type, request.environment)
    machine = check_host(request.settings, request.environment, console, own=own)
    environment = dict(request.environment)
    runner = Runner(holding.marked(environment, decided.run_id))
    with_vagrant = decided.provider not in own_vagrantfile.WITHOUT_VAGRANT
    insecure = keys.ensure_insecure_keys(runner) if with_vagrant else None
    with _box(request, decided, runner, console, gate) as box:
        choices = mirrors.choose(
            decided.remote(selection.repositories),
            request.settings.mirrors,
            probe=mirrors.answers,
            host_mirrors=lambda: mirrors.host_mirrors(runner),
        )
        for choice in choices:
            console.note(choice.describe())
        yield (
            holding.Inputs(box, insecure, choices, machine),
            holding.Tools(runner, Runner(environment), console, gate),
        )


def _box(
    request: Request,
    decided: plan.BuildPlan,
    runner: Runner,
    console: Console,
    gate: signals.SignalGate,
) -> contextlib.AbstractContextManager[Box]:
    """Return what yields the box of a build."""
    if decided.vagrantfile is not None:
        return contextlib.nullcontext(ForeignBox("the Vagrantfile's own"))
    if decided.provider == "host":
        return contextlib.nullcontext(ForeignBox("none"))
    supply = Supply(request.settings, request.environment, runner, console, gate)
    return box_by_name.held(supply, decided.box)


def check_host(
    settings: Settings, environment: Mapping[str, str], console: Console, *, own: bool = False
) -> Machine | None:
    """Check what the provider needs; for virtual machines, find out what they can be like.

    Args:
        settings: name the provider.
        environment: its PATH is searched for programs.
        console: told of what makes machines slow.
        own: a Vagrantfile of the user's own decides what they are like.

    Raises:
        PreflightError: this host lacks something.
    """
    preflight.installed(settings.provider, environment)
    if settings.provider != "libvirt" or own:
        return None
    # Imported here: the bindings are there only where that provider is used.
    from vagrant_kiwi import libvirt_host

    return libvirt_host.inspect(settings.libvirt, warn=console.warn)


def up(request: Request, console: Console) -> dict[str, object]:
    """Start a guest for later builds of a description, or wake the one that is there.

    Returns:
        What it is, and how to remove it.

    Raises:
        VagrantKiwiError: it does not come up.
    """
    answer: dict[str, object] = {}
    if request.settings.provider == "host":
        raise SettingsError(
            "An existing machine is up already",
            details="invoke up is for guests that are started",
            resolution="Build on it: invoke build --provider=host",
        )
    with signals.gate(on_ignored=console.warn) as gate:
        decided, selection = _plan(request, console)
        with _recorded(decided, console, gate, answer) as record:
            with _prepared(request, decided, selection, console, gate) as (inputs, tools):
                guest = build.up(decided, inputs, tools)
            record |= {"status": "up", "guest": guest.run_id}
    return {"status": "up", "guest": guest.run_id, "folder": str(guest.folder)}


def down(request: Request, console: Console, *, suspend: bool) -> dict[str, object]:
    """Remove the guests of a description that were left, or save the memory of the one that is up.

    Raises:
        SettingsError: the provider cannot suspend.
        VagrantKiwiError: something stays.
    """
    settings = request.settings
    if suspend and settings.provider in (*docker_api.PROVIDERS, "host"):
        raise SettingsError(
            f"Guests of the provider {settings.provider} cannot be suspended",
            resolution="Leave it up: a container takes little memory when nothing runs in it.",
        )
    with signals.gate(on_ignored=console.warn) as gate:
        decided = _variant(request)
        preflight.installed(settings.provider, request.environment)
        environment = dict(request.environment)
        runner = Runner(holding.marked(environment, decided.run_id))
        tools = holding.Tools(runner, Runner(environment), console, gate)
        with state.lock(decided.paths.lock, what=f"{decided.slug} with {decided.provider}"):
            done = build.down(decided, tools, suspend=suspend)
    return {"status": "suspended" if suspend else "down", "guests": list(done)}


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


def _variant(request: Request) -> plan.Variant:
    """Decide which variant's guests are meant; what a build of it takes need not be there."""
    read = _read(request)
    run_id = plan.new_run_id(datetime.datetime.now(datetime.UTC))
    return plan.make_variant(request.settings, read, _selected(request, read), run_id=run_id)


def _selected(request: Request, read: description.Description) -> description.Selection:
    kiwi_settings = request.settings.kiwi
    return description.select(read, profiles=kiwi_settings.profiles, image_type=kiwi_settings.type)


def _plan(request: Request, console: Console) -> tuple[plan.BuildPlan, description.Selection]:
    settings = request.settings
    read = _read(request)
    own = own_vagrantfile.choose(settings, read.folder, say=console.warn)
    known = sorted(
        {*templates.provider_names(settings.template_dirs), *own_vagrantfile.WITHOUT_VAGRANT}
    )
    # Vagrant itself knows what its own Vagrantfile may run on.
    if settings.provider not in known and own is None:
        raise SettingsError(
            f"There is no provider {settings.provider}",
            details=f"known: {', '.join(known)}",
            resolution=f"Choose one of them, or make {templates.file_name(settings.provider)}.",
        )
    if request.run_id is not None:
        plan.check_run_id(request.run_id)
    selection = _selected(request, read)
    run_id = request.run_id or plan.new_run_id(datetime.datetime.now(datetime.UTC))
    decided = plan.make_plan(
        settings,
        read,
        selection,
        run_id=run_id,
        facts=isolation.read_facts(),
        kiwi_build=kiwi.parse_build_options(
            request.arguments,
            cwd=request.cwd,
            files_dir=plan.GuestPaths.of(run_id, parent=plan.runs_folder(settings)).files,
        ),
        box=_box_name(settings, selection, console) if own is None else "",
        vagrantfile=own,
    )
    if decided.paths.run.exists():
        raise UsageError(
            f"--run-id={run_id} was used before",
            details=str(decided.paths.run),
            resolution="Every run has an id of its own; leave --run-id out to have one made.",
        )
    return decided, selection


def _box_name(settings: Settings, selection: description.Selection, console: Console) -> str:
    """Choose the box that fits the description; a person is told where another one would."""
    if settings.provider == "host":
        return settings.box or catalog.DEFAULT
    # Of a site's own provider no more is known.
    kind = catalog.kind_of(settings.provider) or "docker"
    name, warning = catalog.choose(
        catalog.load(settings.catalogs),
        selection,
        kind,
        box_recipe.host_arch(),
        named=settings.box,
    )
    if warning is not None:
        console.warn(warning)
    return name


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
