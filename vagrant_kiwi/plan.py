"""Decide everything about a build before anything is started.

``make_plan`` is pure: settings, a description and facts about the host go in, frozen data comes
out. What acts on it decides nothing.
"""

from __future__ import annotations

import datetime
import hashlib
import posixpath
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from vagrant_kiwi import description_copy, docker_api, hosts, kiwi, references
from vagrant_kiwi.description import Description, Repository, Selection
from vagrant_kiwi.description_model import FileChoice, MirrorChoice
from vagrant_kiwi.errors import DescriptionError, SettingsError, UsageError
from vagrant_kiwi.hosts import HostTarget
from vagrant_kiwi.isolation import EXISTING, MACHINE, OWN, HostFacts, Isolation, isolate
from vagrant_kiwi.settings import LibvirtSettings, Settings, SyncEntry, Timeouts

#: Where a run lives in a guest; on the guest's own disk, because KIWI needs a real file system.
GUEST_ROOT = "/var/lib/vagrant-kiwi"

Keep = Literal["never", "failed", "always"]

_RUN_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,46}[a-z0-9])?")
_NOT_IN_XML = frozenset("<>&'")
#: Folders that a synced entry may neither empty nor change: the guest would not survive it.
_SYSTEM_FOLDERS = frozenset(
    {"/", "/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/run", "/sbin", "/sys"}
    | {"/usr", "/usr/bin", "/usr/lib", "/usr/sbin", "/var", "/var/lib", GUEST_ROOT}
    | {"/home", "/tmp", "/var/tmp"}  # noqa: S108 - of the guest
)


@dataclass(frozen=True)
class HostPaths:
    """Where a build keeps things on the host."""

    state: Path
    lock: Path
    run: Path
    log: Path
    record: Path
    results: Path
    result: Path
    staging: Path
    current: Path


@dataclass(frozen=True)
class GuestPaths:
    """Where a run keeps things in the guest; all below ``root``."""

    root: str
    description: str
    files: str
    references: str
    scripts: str
    target: str
    bundle: str

    @classmethod
    def of(cls, run_id: str, *, parent: str = GUEST_ROOT) -> GuestPaths:
        """Return the folders of a run; ``parent`` holds those of all runs."""
        root = posixpath.join(parent, run_id)
        return cls(
            root=root,
            description=f"{root}/description",
            files=f"{root}/files",
            references=f"{root}/references",
            scripts=f"{root}/scripts",
            target=f"{root}/target",
            bundle=f"{root}/bundle",
        )


@dataclass(frozen=True)
class SyncItem:
    """One tree or file that goes from the host into the guest.

    An ``overlay`` goes over a system folder, and leaves the folders there as they are.
    """

    source: Path
    target: str
    exclude: tuple[str, ...]
    delete: bool
    overlay: bool = False


@dataclass(frozen=True)
class Variant:
    """What tells a build's variant from others, and where things of it lie.

    That is enough to find the guests of its earlier runs, and to remove them.
    """

    run_id: str
    slug: str
    provider: str
    timeouts: Timeouts
    paths: HostPaths


@dataclass(frozen=True)
class BuildPlan(Variant):
    """All that a build will do; nothing is decided after it.

    ``references`` are pushed with the description, after it; ``local_repositories`` and
    ``moved_files`` are what its copy names anew for them.
    """

    box: str
    name: str
    version: str
    description: Path
    kiwi_file: str
    kiwi_file_in_guest: str
    loglevel: int
    image_type: str
    profiles: tuple[str, ...]
    isolation: Isolation
    libvirt: LibvirtSettings
    hosts: tuple[HostTarget, ...]
    vagrantfile: Path | None
    kiwi_version: str | None
    sync: tuple[SyncItem, ...]
    references: tuple[SyncItem, ...]
    local_repositories: tuple[MirrorChoice, ...]
    moved_files: tuple[FileChoice, ...]
    provision: tuple[Path, ...]
    kiwi_argv: tuple[str, ...]
    bundle_argv: tuple[str, ...] | None
    result_format: Literal["files", "tar"]
    guest_files: tuple[kiwi.GuestFile, ...]
    keep: Keep
    guest: GuestPaths
    template_dirs: tuple[Path, ...]

    @property
    def guest_name(self) -> str:
        """The name of everything the run starts: container, domain, host key alias."""
        return guest_name(self.run_id)

    @property
    def console(self) -> Path | None:
        """The file that takes the serial console of a virtual machine of this host.

        On another host libvirt could not write it.
        """
        if self.provider != "libvirt" or self.vagrantfile or urlsplit(self.libvirt.uri).netloc:
            return None
        return self.paths.run / "console.log"

    def remote(self, repositories: Sequence[Repository]) -> tuple[Repository, ...]:
        """Return those of a selection's repositories that a mirror may stand in for."""
        local = [choice.original for choice in self.local_repositories]
        return tuple(one for one in repositories if one not in local)

    @property
    def result_folder(self) -> str:
        """The guest folder whose content is the result."""
        return self.guest.bundle if self.bundle_argv else self.guest.target


def runs_folder(settings: Settings) -> str:
    """Return the guest folder that holds those of all runs."""
    return settings.host.folder if settings.provider == "host" else GUEST_ROOT


def runs_in(plan: BuildPlan) -> str:
    """Return the guest folder that holds those of all runs of a build's guest."""
    return posixpath.dirname(plan.guest.root)


def guest_name(run_id: str) -> str:
    """Return the name of what a run starts."""
    return f"vagrant-kiwi-{run_id}"


def new_run_id(now: datetime.datetime) -> str:
    """Return a fresh run id: sortable by time, and unique among builds of the same second.

    Args:
        now: the current time, with a time zone.
    """
    stamp = now.astimezone(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    return f"{stamp}-{secrets.token_hex(3)}"


def check_run_id(run_id: str) -> str:
    """Return the run id if it can name a container, a folder and a domain.

    Raises:
        UsageError: it cannot.
    """
    if not _RUN_ID.fullmatch(run_id):
        raise UsageError(
            f"--run-id={run_id} cannot be used",
            details="It names containers, folders and log files.",
            resolution="Use 1 to 48 lower-case letters, digits and '-', not '-' at either end.",
        )
    return run_id


def make_slug(name: str, description: Path, image_type: str, profiles: Sequence[str]) -> str:
    """Return the name of a variant's folders: readable, and different for different variants.

    Args:
        name: the image name of the description.
        description: the resolved folder of the description.
        image_type: the KIWI type.
        profiles: the selected profiles.
    """
    readable = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "image"
    identity = "\0".join([str(description), image_type, *sorted(profiles)])
    digest = hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()
    return f"{readable}-{image_type}-{digest[:8]}"


def make_variant(
    settings: Settings, description: Description, selection: Selection, *, run_id: str
) -> Variant:
    """Decide which variant is meant, and where its things lie.

    Args:
        settings: the merged settings; their paths are absolute.
        description: the description that was read.
        selection: the type and profiles.
        run_id: a checked or fresh run id.

    Raises:
        SettingsError: the state folder cannot be used.
        DescriptionError: the description's folder is the state folder.
    """
    folder = description.folder.resolve()
    slug = make_slug(description.name, folder, selection.image_type.image, selection.profiles)
    state = settings.state_dir
    if state.resolve() == folder:
        raise DescriptionError(
            f"The state folder {state} is the description itself",
            resolution="Set state_dir to another folder.",
        )
    if settings.provider == "libvirt" and set(str(state)) & _NOT_IN_XML:
        # vagrant-libvirt 0.11.2 puts the path of the serial console into its XML as it is.
        raise SettingsError(
            f"The state folder {state} has one of < > & ' in its path",
            details="The file of the machine's serial console lies there, and vagrant-libvirt "
            "cannot name it.",
            resolution="Set state_dir to another folder.",
        )
    build = state / "builds" / slug / settings.provider
    results = (settings.target_dir or state / "result") / slug
    return Variant(
        run_id=run_id,
        slug=slug,
        provider=settings.provider,
        timeouts=settings.timeouts,
        paths=HostPaths(
            state=state,
            lock=build / "lock",
            run=build / "runs" / run_id,
            log=build / "runs" / run_id / "build.log",
            record=build / "runs" / run_id / "run.json",
            results=results,
            result=results / run_id,
            staging=results / f".staging-{run_id}",
            current=results / "current",
        ),
    )


def make_plan(
    settings: Settings,
    description: Description,
    selection: Selection,
    *,
    run_id: str,
    facts: HostFacts,
    kiwi_build: kiwi.BuildOptions,
    box: str,
    vagrantfile: Path | None = None,
) -> BuildPlan:
    """Decide a build.

    Args:
        settings: the merged settings; their paths are absolute.
        description: the description that was read.
        selection: the type and profiles to build.
        run_id: a checked or fresh run id.
        facts: what the host is like.
        kiwi_build: the parsed options for ``kiwi-ng system build``.
        box: name of the box to build in.
        vagrantfile: the user's own, from ``own_vagrantfile.choose``.

    Raises:
        SettingsError: a source of data is missing, or a target is not usable.
        DescriptionError: the description's folder is the state folder, or it refers to something
            that cannot be brought into the guest.
    """
    variant = make_variant(settings, description, selection, run_id=run_id)
    guest = GuestPaths.of(run_id, parent=runs_folder(settings))
    image_type = selection.image_type.image
    folder = description.folder.resolve()
    state = settings.state_dir
    kiwi_file = description_copy.name_in_guest(description.kiwi_file)
    options = kiwi.global_options(
        settings.kiwi.model_copy(update={"kiwi_file": kiwi_file}),
        image_type=settings.kiwi.type,
        profiles=settings.kiwi.profiles,
        files_dir=guest.files,
    )
    sync = tuple(_sync_item(entry) for entry in settings.sync)
    outside = references.find(
        description,
        selection,
        guest=guest.description,
        folder=guest.references,
        state=state,
        mapping=settings.mirrors,
        synced=[item.target for item in sync],
    )
    return BuildPlan(
        run_id=run_id,
        slug=variant.slug,
        provider=settings.provider,
        timeouts=settings.timeouts,
        paths=variant.paths,
        box=box,
        name=description.name,
        version=selection.version,
        description=folder,
        kiwi_file=description.kiwi_file,
        kiwi_file_in_guest=kiwi_file,
        loglevel=settings.kiwi.loglevel or 0,
        image_type=image_type,
        profiles=tuple(selection.profiles),
        isolation=_isolation(settings, image_type, facts, run_id, own=vagrantfile is not None),
        libvirt=settings.libvirt,
        hosts=hosts.targets(settings) if settings.provider == "host" else (),
        vagrantfile=vagrantfile,
        kiwi_version=settings.kiwi_version,
        sync=(SyncItem(folder, guest.description, outside.exclude, delete=True), *sync),
        references=tuple(
            SyncItem(one.source, one.target, one.exclude, delete=False) for one in outside.pushes
        ),
        local_repositories=outside.repositories,
        moved_files=outside.files,
        provision=tuple(_script(path) for path in settings.provision),
        kiwi_argv=kiwi.build_argv(
            options, kiwi_build, description=guest.description, target_dir=guest.target
        ),
        bundle_argv=(
            kiwi.bundle_argv(
                kiwi.bundle_options(settings.bundle, default_id=run_id),
                options,
                target_dir=guest.target,
                bundle_dir=guest.bundle,
            )
            if settings.bundle.enabled
            else None
        ),
        result_format=settings.result_format,
        guest_files=(*options.files, *kiwi_build.files),
        keep=settings.keep,
        guest=guest,
        template_dirs=settings.template_dirs,
    )


def _isolation(
    settings: Settings, image_type: str, facts: HostFacts, run_id: str, *, own: bool
) -> Isolation:
    if own:
        return OWN
    if settings.provider == "host":
        return EXISTING
    if settings.provider not in docker_api.PROVIDERS:
        return MACHINE
    return isolate(
        image_type,
        requested=settings.isolation,
        facts=facts,
        run_id=run_id,
        extra=settings.docker.create_args,
        # sshd runs only where Vagrant wants it.
        sshd=settings.provider == "docker",
    )


def _sync_item(entry: SyncEntry) -> SyncItem:
    if not entry.source.exists():
        raise SettingsError(
            f"sync: {entry.source} does not exist",
            resolution="Correct the source in the settings or in --sync=SRC:DST.",
        )
    # normpath keeps two slashes in front, which POSIX lets mean something; Linux does not.
    target = "/" + posixpath.normpath(entry.target).lstrip("/")
    system = target in _SYSTEM_FOLDERS
    if entry.delete and system:
        raise SettingsError(
            f"sync: the target {entry.target} with delete would empty a system folder of the guest",
            resolution="Choose a folder of its own, or leave delete out.",
        )
    overlay = system and entry.source.is_dir()
    return SyncItem(entry.source, target, entry.exclude, entry.delete, overlay)


def _script(path: Path) -> Path:
    if not path.is_file():
        raise SettingsError(
            f"provision: {path} is not a file",
            resolution="Name an executable script or a shell script on this host.",
        )
    return path
