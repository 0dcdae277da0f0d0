"""A bare Debian with a box's packages, made by mmdebstrap as root or as an ordinary user."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from vagrant_kiwi.box_recipe import Recipe, half_made
from vagrant_kiwi.deadline import Deadline
from vagrant_kiwi.errors import BoxError, PreflightError
from vagrant_kiwi.process import CommandNotFoundError, CommandTimeoutError, Runner, last_lines

#: Seconds that mmdebstrap has to remove its half-made root file system when it is stopped.
_GRACE = 60.0

# What the official slim image leaves out as well; KIWI's images are not touched by it. As
# mmdebstrap's own option it costs 8 s: each essential package then goes through a filter.
_DPKG_CONFIG = (
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/man/*",
    # No waiting for the disk: what a crash spoils is made again.
    "force-unsafe-io",
)
_EXTRACT_HOOK = (
    f"printf '%s\\n' {shlex.join(_DPKG_CONFIG)} >\"$1\"/etc/dpkg/dpkg.cfg.d/vagrant-kiwi"
)

_HOOKS = (
    # Of the essential packages, which were there before dpkg's configuration.
    'cd "$1"/usr/share && find doc info locale man ! -type d ! -name copyright -delete',
    # Each guest makes its own: openssh-server's installation made a pair for all of them.
    'rm -f "$1"/etc/ssh/ssh_host_*',
    # A mirror may hold credentials; setup.sh writes the file that the box keeps.
    'rm -rf "$1"/etc/apt/sources.list "$1"/etc/apt/sources.list.d',
    'mkdir -m 0755 "$1"/etc/apt/sources.list.d',
    # This host's own, copied in while packages are installed.
    'rm -f "$1"/etc/hostname "$1"/etc/resolv.conf',
)


@dataclass(frozen=True)
class Mirrors:
    """Where a box's packages come from while it is made; URLs, the second one may be missing."""

    packages: str = field(repr=False)
    security: str | None = field(repr=False)

    @property
    def public(self) -> bool:
        """Whether they may be named inside the box and are of use there."""
        return all(_public(url) for url in (self.packages, self.security) if url is not None)

    def redact(self, text: str) -> str:
        """Return a text without the credentials in these URLs, however they are written."""
        for url in (self.packages, self.security):
            for secret in _secrets(url or ""):
                text = text.replace(secret, "***")
        return text

    def sources(self, suite: str) -> str:
        """Return the lines for apt's sources.list."""
        lines = [f"deb {self.packages} {suite} main", f"deb {self.packages} {suite}-updates main"]
        if self.security is not None:
            lines.append(f"deb {self.security} {suite}-security main")
        return "".join(f"{line}\n" for line in lines)


@contextlib.contextmanager
def root_file_system(
    recipe: Recipe,
    mirrors: Mirrors,
    runner: Runner,
    *,
    build: str,
    cache: Path,
    log: Callable[[str], None],
    deadline: Deadline,
) -> Iterator[Path]:
    """Make a tar archive with the packages of a recipe, for the body.

    Args:
        recipe: names suite, architecture, keyring and packages.
        mirrors: where they come from.
        runner: starts mmdebstrap.
        build: names the folder it works in.
        cache: a folder on a disk with room for the archive (about 1 GB).
        log: takes mmdebstrap's lines, without credentials.
        deadline: when it must be made.

    Raises:
        PreflightError: mmdebstrap or Debian's keys are not installed.
        BoxError: mmdebstrap failed.
        PhaseTimeoutError: it takes too long.
    """
    keyring = Path(recipe.facts.keyring)
    if not keyring.is_file():
        raise PreflightError(
            "The keys that Debian's packages are signed with are missing",
            details=f"{keyring} does not exist",
            resolution="sudo apt-get install debian-archive-keyring",
        )
    as_root = os.geteuid() == 0
    with (
        tempfile.TemporaryDirectory(prefix=half_made(recipe), dir=cache) as target,
        _scratch(build, runner) as scratch,
    ):
        tar = Path(target) / "root.tar"
        argv = [
            # As root it mounts /proc, /sys and more for packages' scripts: where nobody else sees
            # them, and where they go when it is killed.
            *(("unshare", "--mount", "--propagation=private", "--") if as_root else ()),
            *("mmdebstrap", f"--mode={'root' if as_root else 'unshare'}", "--variant=apt"),
            *("--format=tar", f"--architectures={recipe.arch}", f"--keyring={keyring}"),
            *((f"--include={','.join(recipe.packages)}",) if recipe.packages else ()),
            f"--extract-hook={_EXTRACT_HOOK}",
            *('--aptopt=Acquire::Languages "none"', '--aptopt=Acquire::Retries "3"'),
            *(f"--customize-hook={hook}" for hook in _HOOKS),
            *(recipe.facts.suite, str(tar), "-"),
        ]
        lines = _Lines(lambda line: log(mirrors.redact(line)))
        try:
            result = runner.run(
                argv,
                timeout=deadline.left(),
                # Not an argument: everybody on the host can read those.
                stdin=mirrors.sources(recipe.facts.suite).encode(),
                on_output=lines,
                merge=True,
                environment={"TMPDIR": str(scratch)},
                grace=_GRACE,
            )
        except CommandNotFoundError as error:
            raise PreflightError(
                "mmdebstrap, which makes the build box, is not installed",
                details=str(error),
                resolution="sudo apt-get install mmdebstrap uidmap, or run ./bootstrap",
            ) from error
        except CommandTimeoutError as error:
            raise deadline.missed(details=mirrors.redact(last_lines(error.output))) from error
        if not result.ok:
            raise BoxError(
                "mmdebstrap cannot make the base of the build box",
                details=mirrors.redact(_reason(result.text)),
                resolution=_resolution(result.text, as_root=as_root),
            )
        yield tar


class _Lines:
    """Turns chunks of output into lines."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log
        self._rest = b""

    def __call__(self, chunk: bytes) -> None:
        # A progress bar is one long line with many returns: its states are of no interest.
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            text = line.rpartition(b"\r")[2].decode("utf-8", "replace").rstrip()
            if text:
                self._log(text)


def remove_scratch(build: str, runner: Runner) -> None:
    """Remove the folder that mmdebstrap worked in, if it is still there.

    Args:
        build: given to ``root_file_system``.
        runner: starts rm, in mmdebstrap's user name space if we are not root.

    Raises:
        OSError: it cannot be removed.
    """
    folder = _scratch_folder(build, runner.environment)
    if not folder.exists():
        return
    # Empty, unless mmdebstrap was killed: then its files belong to name-spaced users. One file
    # system only: a mount that is left in it must not be emptied.
    if left := [str(path) for path in folder.iterdir()]:
        helper = () if os.geteuid() == 0 else ("mmdebstrap", "--unshare-helper")
        runner.run((*helper, "rm", "-rf", "--one-file-system", *left), timeout=_GRACE)
    folder.rmdir()


@contextlib.contextmanager
def _scratch(build: str, runner: Runner) -> Iterator[Path]:
    """Yield a folder for mmdebstrap's root file system that is gone afterwards."""
    folder = _scratch_folder(build, runner.environment)
    folder.mkdir(mode=0o700)
    try:
        # The name-spaced user that installs the packages must be able to pass through.
        folder.chmod(0o711)
        yield folder
    finally:
        remove_scratch(build, runner)


def _scratch_folder(build: str, environment: Mapping[str, str]) -> Path:
    return _scratch_parent(environment) / f"vagrant-kiwi-box-{build}"


def _scratch_parent(environment: Mapping[str, str]) -> Path:
    """Return TMPDIR if other users may pass through to it, else /var/tmp, which is on disk."""
    chosen = environment.get("TMPDIR", "")
    if chosen.startswith("/"):
        folder = Path(chosen)
        with contextlib.suppress(OSError):
            if all(part.stat().st_mode & 0o001 for part in (folder, *folder.parents)):
                return folder
    return Path("/var/tmp")  # noqa: S108  # our folder in it has a name nobody can guess


def _reason(text: str) -> str:
    """Return what mmdebstrap and apt call errors, or else the last lines."""
    lines = [line.rpartition("\r")[2].strip() for line in text.splitlines()]
    errors = [line for line in lines if re.match(r"(E|W|Err|dpkg|newuidmap|newgidmap)[:\d ]", line)]
    return "\n".join((errors or [line for line in lines if line])[-12:])


def _resolution(text: str, *, as_root: bool) -> str:
    if not as_root and re.search(r"subuid|subgid|newuidmap|newgidmap|unshare", text):
        return (
            "Making a box without root needs the package uidmap and ids for your user: sudo usermod"
            " --add-subuids 100000-165535 --add-subgids 100000-165535 $USER"
        )
    return "See to it that the mirror answers, or set another one (mirrors), and try again."


def _public(url: str) -> bool:
    parts = urlsplit(url)
    host = parts.hostname or ""
    return (
        parts.scheme in ("http", "https")
        and parts.username is None
        and parts.password is None
        # Inside a container this would be the container itself.
        and host not in ("localhost", "::1")
        and not host.startswith("127.")
    )


def _secrets(url: str) -> list[str]:
    """Return the texts of a URL that nobody may read, longest first."""
    userinfo, separator, _ = urlsplit(url).netloc.rpartition("@")
    if not separator:
        return []
    _, _, password = userinfo.partition(":")
    # A user name alone can be a token.
    found = {userinfo, unquote(userinfo), *((password, unquote(password)) if password else ())}
    return sorted(found, key=len, reverse=True)
