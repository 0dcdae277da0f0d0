"""What is in an archive that is to become a build box, told by its content and checked.

Nothing is unpacked: one pass through the file, in constant memory. Until a manifest or metadata
say so, which may be the last thing in it, nobody knows what an archive is; so three judges look at
each member, and the verdict of one counts.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

from vagrant_kiwi import tar_rules, tar_scan
from vagrant_kiwi.box_archive_docker import DockerArchive, DockerJudge
from vagrant_kiwi.box_archive_machine import MachineArchive, MachineJudge
from vagrant_kiwi.errors import BoxError
from vagrant_kiwi.tar_scan import Member
from vagrant_kiwi.unpacked import ArchiveError, Budget, unpacked

__all__ = [
    "BoxArchive",
    "DockerArchive",
    "Limits",
    "MachineArchive",
    "RootFileSystem",
    "inspect",
]


@dataclass(frozen=True)
class RootFileSystem:
    """A plain root file system; ``unpacked`` is its bytes as a tar archive without compression."""

    members: int
    unpacked: int


BoxArchive = DockerArchive | RootFileSystem | MachineArchive


@dataclass(frozen=True)
class Limits:
    """What an archive may cost whoever unpacks it.

    Args:
        unpacked: bytes that any archive may unpack to.
        ratio: how many times its own size it may unpack to, where that is more.
        members: how many members it may have.
    """

    unpacked: int = 512 * 1024 * 1024
    ratio: int = 50
    members: int = 2_000_000


_LIMITS = Limits()


class _RootJudge:
    """Looks at the members of an archive that may be a root file system."""

    def __init__(self) -> None:
        self.members = 0
        self.problem = ""
        #: The first names in its uppermost folder, to say what it is.
        self.tops: dict[str, None] = {}
        self._parts: set[str] = set()

    @property
    def found(self) -> bool:
        """Whether it looks like one."""
        return "etc" in self._parts and not self._parts.isdisjoint({"usr", "bin"})

    @property
    def is_oci_layout(self) -> bool:
        """Whether it has what all OCI layouts have."""
        return {"oci-layout", "index.json"} <= self._parts

    def see(self, member: Member) -> None:
        """Look at the next member."""
        self.members += 1
        top = member.name.partition("/")[0]
        if len(self.tops) < 10:
            self.tops[top] = None
        if top in ("etc", "usr", "bin", "oci-layout", "index.json"):
            self._parts.add(top)
        if not self.problem:
            try:
                tar_rules.check_in_root(member)
            except ArchiveError as error:
                self.problem = str(error)


def inspect(file: Path, *, room: int, limits: Limits = _LIMITS) -> BoxArchive:
    """Look into an archive without unpacking it; what it is called does not matter.

    Args:
        file: the archive: tar, as it is or with gzip, bzip2 or xz.
        room: bytes that there are for what is in it.
        limits: what it may unpack to.

    Raises:
        BoxError: it is no box, is damaged, or is not safe to unpack.
    """
    try:
        status = file.stat()
        # Opening a pipe would wait for its other end.
        if not stat.S_ISREG(status.st_mode):
            raise ArchiveError("it is no ordinary file")
        if not (size := status.st_size):
            raise ArchiveError("it is empty")
        with file.open("rb") as source:
            honest = max(limits.unpacked, limits.ratio * size)
            limit, why = min(
                (room, "which is all that there is room for"),
                (honest, f"far more than its own {size}"),
            )
            budget, layers = Budget(limit, why), Budget(limit, why)
            judges = _Judges(DockerJudge(layers), MachineJudge(), _RootJudge())
            with unpacked(source, budget) as stream:
                for member in tar_scan.members(stream, budget, most=limits.members):
                    judges.see(member)
        return judges.verdict(budget.spent, room)
    except ArchiveError as error:
        raise BoxError(
            f"The archive {file.name} is refused: {error}",
            details=f"file: {file}",
            resolution=error.resolution or "Get it again, and only from where you trust it.",
        ) from error
    except OSError as error:
        raise BoxError(f"The archive {file.name} cannot be read", details=str(error)) from error


@dataclass(frozen=True)
class _Judges:
    docker: DockerJudge
    machine: MachineJudge
    root: _RootJudge

    def see(self, member: Member) -> None:
        self.docker.see(member)
        self.machine.see(member)
        self.root.see(member)

    def verdict(self, size: int, room: int) -> BoxArchive:
        if self.docker.found and self.machine.found:
            raise ArchiveError("it is an archive of Docker's and a Vagrant box at once")
        if self.docker.found:
            archive = self.docker.result(size)
            if archive.unpacked > room:
                raise ArchiveError(
                    f"with its layers it unpacks to {archive.unpacked} bytes, "
                    f"and there is room for {room}"
                )
            return archive
        if self.machine.found:
            return self.machine.result(size)
        if self.root.is_oci_layout:
            raise ArchiveError(
                "it is an OCI layout, which not every Docker can load",
                resolution="Convert it: skopeo copy oci-archive:FILE docker-archive:NEW-FILE",
            )
        if not self.root.found:
            raise ArchiveError(
                "it is no image (manifest.json), no Vagrant box (metadata.json with its provider) "
                "and no root file system (etc with usr or bin); "
                f"it begins with: {', '.join(map(repr, self.root.tops)) or 'nothing'}"
                f"{self.docker.remark}{self.machine.remark}"
            )
        if self.root.problem:
            raise ArchiveError(self.root.problem)
        return RootFileSystem(self.root.members, size)
