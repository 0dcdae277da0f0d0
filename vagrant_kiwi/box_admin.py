"""``box-add``, ``box-build`` and ``box-list``: each function returns its task's answer."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from vagrant_kiwi import (
    app,
    box_arrival,
    box_by_name,
    box_images,
    box_import,
    box_stores,
    catalog,
    signals,
)
from vagrant_kiwi.app import Request
from vagrant_kiwi.box_import import Wanted
from vagrant_kiwi.box_stores import Row
from vagrant_kiwi.box_supply import Supply
from vagrant_kiwi.catalog import Kind
from vagrant_kiwi.console import Console
from vagrant_kiwi.errors import SettingsError, UsageError
from vagrant_kiwi.process import Runner


@dataclass(frozen=True)
class Given:
    """What was typed for ``box-add``: without url, file and image the catalogue is meant.

    ``name`` and ``kiwi_version`` count for imports only if they were typed: in the settings they
    are those of builds.
    """

    name: str | None = None
    kiwi_version: str | None = None
    url: str | None = None
    file: str | None = None
    image: str | None = None
    sha256: str | None = None
    signature: str | None = None
    keyring: str | None = None


@contextlib.contextmanager
def supply(request: Request, console: Console, kind: Kind | None = None) -> Iterator[Supply]:
    """Yield what work on boxes takes.

    Args:
        request: the task's input.
        console: shows progress.
        kind: the kind of guest, if it is not that of the settings.
    """
    settings = request.settings
    if kind is not None and catalog.kind_of(settings.provider) != kind:
        settings = settings.model_copy(update={"provider": kind})
    with signals.gate(on_ignored=console.warn) as gate:
        yield Supply(settings, request.environment, Runner(request.environment), console, gate)


def add(
    request: Request, console: Console, given: Given, *, anew: bool = False
) -> dict[str, object]:
    """Make, fetch or find a box; nothing happens when it is current.

    Args:
        request: the task's input; its settings name provider and box.
        console: shows progress.
        given: where it is taken from.
        anew: also if it is current.

    Raises:
        UsageError: what was given does not go together.
        BoxError: it cannot be had, or is not what it should be.
        PreflightError: the host lacks something for it.
    """
    kind = catalog.kind_of(request.settings.provider)
    if kind is None:
        raise SettingsError(
            f"The provider {request.settings.provider} has no build boxes",
            resolution="Give --provider=docker or --provider=libvirt.",
        )
    wanted = _wanted(request, given, kind)
    app.check_host(request.settings, request.environment, console)
    with supply(request, console) as supplied:
        if wanted is not None:
            box = box_arrival.add(supplied, wanted, anew=anew)
        else:
            name = _image(given) or request.settings.box or catalog.DEFAULT
            box = box_by_name.find(supplied, name, anew=anew)
    return asdict(box)  # type: ignore[call-overload, no-any-return]


def _wanted(request: Request, given: Given, kind: Kind) -> Wanted | None:
    """Return what is to be imported; None for a box of the catalogue, or an image as it is."""
    name = given.name
    origins = [one for one in ("url", "file", "image") if getattr(given, one) is not None]
    if len(origins) > 1:
        raise UsageError(f"--{origins[0]} and --{origins[1]} do not go together")
    if not origins and (given.sha256 or given.signature or given.keyring):
        raise UsageError(
            "There is nothing to check",
            details="--sha256, --signature and --keyring go with --url, --file or --image",
        )
    if not origins or (given.image is not None and name is None):
        return None
    if name is None:
        raise UsageError("A box that is imported needs a name", resolution="Give --name=NAME.")
    if not catalog.is_name(name):
        raise UsageError(
            f"A box cannot be called {name}",
            resolution="Use lower-case letters, digits and single dots, dashes or underscores.",
        )
    if catalog.load(request.settings.catalogs).find(name) is not None:
        raise UsageError(
            f"The catalogue has a box named {name}",
            details="an imported one of that name would never be used",
            resolution="Choose another name, or change your catalogue (setting catalogs).",
        )
    return box_import.from_words(
        name,
        kind,
        cwd=request.cwd,
        kiwi=given.kiwi_version,
        url=given.url,
        file=given.file,
        image=given.image,
        sha256=given.sha256,
        signature=given.signature,
        keyring=given.keyring,
    )


def _image(given: Given) -> str | None:
    """Return the image of a registry that is taken as it is, under its own name."""
    if given.image is None:
        return None
    return box_images.pinned(given.image, box_import.checksum(given.sha256))


def overview(request: Request, console: Console, *, provider: str | None) -> dict[str, object]:
    """List the boxes of the catalogue, and those that are installed.

    Args:
        request: the task's input.
        console: warned about what cannot be asked.
        provider: only boxes for this one.

    Raises:
        SettingsError: a catalogue is not valid.
        BoxError: the provider has no boxes.
    """
    now = datetime.datetime.now(datetime.UTC)
    with supply(request, console) as supplied:
        found = box_stores.look(supplied, box_stores.kinds(provider))
    found.warn(console)
    return {
        "boxes": [_row(row, now) for row in found.rows],
        "silent": dict(found.silent),
    }


def _row(row: Row, now: datetime.datetime) -> dict[str, object]:
    return {
        "name": row.name,
        "provider": row.kind,
        "about": row.about,
        "builds": list(row.builds),
        "origin": row.origin,
        "problem": row.problem or None,
        "installed": [
            {
                **one.as_json(),
                "age_seconds": int(one.age(now).total_seconds()),
                "outdated": row.outdated(one),
            }
            for one in row.installed
        ],
    }
