"""Command lines for kiwi-ng 11.1.6 (its cli.py, tasks/system_build.py, tasks/result_bundle.py)."""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vagrant_kiwi.guest_files import GuestFile, Placer
from vagrant_kiwi.kiwi_log import explain
from vagrant_kiwi.kiwi_options import BuildOptions, parse_build_options
from vagrant_kiwi.log_mask import mask_credentials
from vagrant_kiwi.settings_model import BundleSettings, KiwiSettings

__all__ = [
    "BuildOptions",
    "BundleOptions",
    "GlobalOptions",
    "GuestFile",
    "build_argv",
    "bundle_argv",
    "bundle_options",
    "explain",
    "global_options",
    "parse_build_options",
    "shown_argv",
]

#: Where KIWI keeps its package cache by default (defaults.py).
SHARED_CACHE_DIR = "/var/cache/kiwi"

# All debug records, and progress bars, on standard output. With --logfile FILE the bars, and the
# traceback of an error that KIWI did not expect, are not in the file; without --loglevel 10 there
# are no debug records in what --logfile stdout prints (tasks/base.py), whatever its help says.
_LOGGING = ("--loglevel", "10", "--logfile", "stdout")

_SECRET_NAME = re.compile(r"pass|secret|token|key|cred|auth|login", re.IGNORECASE)


@dataclass(frozen=True)
class GlobalOptions:
    """kiwi-ng's options before its command; all paths are the guest's.

    ``loglevel`` is what a person wants to see; KIWI itself always logs all, see ``build_argv``.
    """

    type: str | None = None
    profiles: tuple[str, ...] = ()
    kiwi_file: str | None = None
    setenv: tuple[str, ...] = field(default=(), repr=False)
    shared_cache_dir: str | None = None
    temp_dir: str | None = None
    target_arch: str | None = None
    loglevel: int | None = None
    config: str | None = None
    files: tuple[GuestFile, ...] = ()


@dataclass(frozen=True)
class BundleOptions:
    """What ``result bundle`` shall do."""

    id: str
    format: str | None = None
    compress: bool = True
    zsync_source: str | None = field(default=None, repr=False)
    package_as_rpm: bool = False


def global_options(
    settings: KiwiSettings,
    *,
    image_type: str | None,
    profiles: Sequence[str],
    files_dir: str,
) -> GlobalOptions:
    """Return the options before kiwi-ng's command.

    They hold one that makes apt strict: apt-get update exits 0 where a repository is down or its
    signature is wrong, as long as older indexes are left, and KIWI goes on with these. With
    ``APT::Update::Error-Mode "any"`` (seen with apt 2.6) it fails, and KIWI too. The file
    lies in the package cache, because KIWI mounts that into the image's root, where apt runs next.

    Args:
        settings: the section ``kiwi`` of the settings.
        image_type: type to build; None for the description's primary one.
        profiles: profiles to build.
        files_dir: guest folder for the files that options name.

    Raises:
        SettingsError: the file of ``config`` is not there.
    """
    placer = Placer(posixpath.join(files_dir, "global"))
    config = None
    if settings.config is not None:
        config = placer.file("kiwi.config", str(settings.config), Path())
    cache = settings.shared_cache_dir or SHARED_CACHE_DIR
    strict = GuestFile(
        posixpath.join(cache, "vagrant-kiwi-apt.conf"),
        content=b'APT::Update::Error-Mode "any";\n',
        private=False,  # apt verifies signatures as the user _apt
    )
    return GlobalOptions(
        type=image_type,
        profiles=tuple(profiles),
        kiwi_file=settings.kiwi_file,
        # The person's own settings come last, and win.
        setenv=(f"APT_CONFIG={strict.target}", *settings.setenv),
        shared_cache_dir=settings.shared_cache_dir,
        temp_dir=settings.temp_dir,
        target_arch=settings.target_arch,
        loglevel=settings.loglevel,
        config=config,
        files=(*placer.files, strict),
    )


def bundle_options(settings: BundleSettings, *, default_id: str) -> BundleOptions:
    """Return what ``result bundle`` shall do.

    Args:
        settings: the section ``bundle`` of the settings.
        default_id: the bundle id where the settings have none.
    """
    return BundleOptions(
        id=settings.id or default_id,
        format=settings.format,
        compress=settings.compress,
        zsync_source=settings.zsync_source,
        package_as_rpm=settings.package_as_rpm,
    )


def build_argv(
    options: GlobalOptions, build: BuildOptions, *, description: str, target_dir: str
) -> tuple[str, ...]:
    """Return the command that builds; its standard output is the complete log.

    Args:
        options: the options before the command.
        build: the options of the command.
        description: guest folder of the description.
        target_dir: guest folder for the result.
    """
    return (
        *_kiwi(options),
        *(word for assignment in options.setenv for word in ("--setenv", assignment)),
        *_given("--shared-cache-dir", options.shared_cache_dir),
        *_given("--temp-dir", options.temp_dir),
        *_given("--type", options.type),
        *(word for profile in options.profiles for word in ("--profile", profile)),
        *_given("--kiwi-file", options.kiwi_file),
        *_given("--target-arch", options.target_arch),
        *("system", "build", "--description", description, "--target-dir", target_dir),
        *build.argv,
    )


def bundle_argv(
    bundle: BundleOptions, options: GlobalOptions, *, target_dir: str, bundle_dir: str
) -> tuple[str, ...]:
    """Return the command that bundles a result.

    Args:
        bundle: what to do.
        options: the options before the command.
        target_dir: guest folder that ``build_argv`` filled.
        bundle_dir: guest folder for the bundle; another one.
    """
    return (
        *_kiwi(options),
        *("result", "bundle", "--target-dir", target_dir, "--bundle-dir", bundle_dir),
        *("--id", bundle.id),
        *_given("--bundle-format", bundle.format),
        *_given("--zsync-source", bundle.zsync_source),
        *(("--package-as-rpm",) if bundle.package_as_rpm else ()),
        *(() if bundle.compress else ("--no-compress",)),
    )


def shown_argv(argv: Sequence[str]) -> str:
    """Return a command as a person may see it: quoted, without what looks like a secret.

    Only ``--setenv`` and ``--zsync-source`` can hold one; KIWI has no other way to take these.
    """
    words = list(argv)
    for at, word in enumerate(words):
        name, equals, _ = word.partition("=")
        if at and words[at - 1] == "--setenv" and equals and _SECRET_NAME.search(name):
            words[at] = f"{name}=***"
    return mask_credentials(shlex.join(words))


def _kiwi(options: GlobalOptions) -> tuple[str, ...]:
    """Return what any command takes; before KIWI 11, ``result`` refuses the other options."""
    return ("kiwi-ng", *_LOGGING, *_given("--config", options.config))


def _given(name: str, value: str | None) -> tuple[str, ...]:
    return () if value is None else (name, value)
