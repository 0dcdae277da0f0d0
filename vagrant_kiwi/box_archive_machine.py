"""A Vagrant box for libvirt: its metadata and its disks, checked before Vagrant unpacks it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vagrant_kiwi import qcow2, tar_rules, tar_scan
from vagrant_kiwi.box_archive_docker import read_json
from vagrant_kiwi.tar_scan import Member
from vagrant_kiwi.unpacked import ArchiveError

METADATA = "metadata.json"
_VAGRANTFILE = "Vagrantfile"
#: What Vagrant itself reads from a box, besides its disks.
_OWN = frozenset({METADATA, _VAGRANTFILE, "info.json"})
#: Members of such an archive.
_MEMBERS = 1000
#: Vagrant has bsdtar turn a backslash into a slash (box_collection.rb); the rest is for terminals
#: and shells. No box needs more.
_NAME = re.compile(r"[A-Za-z0-9._+@,=~ /-]+")
_GIB = 1024**3
#: GiB of the largest disk that anybody means.
_LARGEST = 65536


@dataclass(frozen=True)
class MachineArchive:
    """A Vagrant box for libvirt.

    ``disks`` are names of members, the first one is booted from; ``virtual_size`` is its size in
    GiB, as the metadata state it. ``has_vagrantfile``: Ruby code comes with it that Vagrant runs
    on the host. ``others`` are files that neither Vagrant nor libvirt reads by itself, ``unpacked``
    is the bytes of the archive without compression.
    """

    disk_format: str
    virtual_size: int
    disks: tuple[str, ...]
    has_vagrantfile: bool
    others: tuple[str, ...]
    unpacked: int


class MachineJudge:
    """Looks at the members of an archive that may be a Vagrant box; the metadata may come last.

    A box holds files and folders, no links: Vagrant unpacks it as the user, on the host.
    """

    def __init__(self) -> None:
        #: Why metadata that are there are not those of a box.
        self.remark = ""
        self._problem = ""
        self._heads: dict[str, bytes] = {}
        self._metadata: dict[str, object] | None = None

    @property
    def found(self) -> bool:
        """Whether there were the metadata of a box."""
        return self._metadata is not None

    def see(self, member: Member) -> None:
        """Look at the next member."""
        try:
            self._note(member)
        except ArchiveError as error:
            self._problem = self._problem or str(error)

    def _note(self, member: Member) -> None:
        name = member.name
        if member.kind == "file" and name == METADATA and self._metadata is None:
            # A root file system may have a file of that name.
            try:
                self._metadata = _metadata(member)
            except ArchiveError as error:
                self.remark = f"; {error}"
        if self._problem:
            return
        if member.kind not in ("file", "folder"):
            raise ArchiveError(f"{name!r} is a {member.kind}, which no box for Vagrant has")
        if _NAME.fullmatch(name) is None:
            raise ArchiveError(f"the name {name!r} has characters that a box must not have")
        if member.kind == "folder":
            return
        tar_rules.check_another(name, self._heads, most=_MEMBERS)
        self._heads[name] = member.head[: qcow2.HEADER]

    def result(self, size: int) -> MachineArchive:
        """Return what it is; only after ``found``.

        Args:
            size: bytes of the archive without compression.

        Raises:
            ArchiveError: Vagrant should not get it.
        """
        if self._problem:
            raise ArchiveError(self._problem)
        metadata = self._metadata or {}
        if metadata["provider"] != "libvirt":
            raise ArchiveError(
                f"it is a box for Vagrant's provider {metadata['provider']!r}, not for libvirt",
                resolution="Take the box of the same name for libvirt, or convert its disk: "
                "qemu-img convert -O qcow2",
            )
        listed = metadata.get("disks")
        disks, virtual_size = self._listed(listed) if listed else self._single(metadata)
        return MachineArchive(
            disk_format="qcow2",
            virtual_size=virtual_size,
            disks=disks,
            has_vagrantfile=_VAGRANTFILE in self._heads,
            others=tuple(sorted(self._heads.keys() - _OWN - set(disks))),
            unpacked=size,
        )

    # vagrant-libvirt 0.11.2 knows two forms, action/handle_box_image.rb: one disk, box.img, of
    # which the metadata say format and size ...

    def _single(self, metadata: dict[str, object]) -> tuple[tuple[str, ...], int]:
        if metadata.get("format") != "qcow2":
            raise ArchiveError(
                f"its disk has the format {metadata.get('format')!r}; Vagrant takes qcow2 only"
            )
        stated = metadata.get("virtual_size")
        # Ruby would multiply a text by 2^30 as well.
        if type(stated) is not int or not 0 < stated <= _LARGEST:
            raise ArchiveError(
                f"its virtual_size is {stated!r}, not a whole number of GiB up to {_LARGEST}"
            )
        disk = self._disk("box.img")
        if disk.virtual_size > stated * _GIB:
            raise ArchiveError(
                f"its disk has {disk.virtual_size} bytes, its metadata say {stated} GiB"
            )
        return ("box.img",), stated

    # ... or a list of disks, of which QEMU says both.

    def _listed(self, listed: object) -> tuple[tuple[str, ...], int]:
        if not isinstance(listed, list):
            raise ArchiveError("its metadata's disks are no list")
        names: list[str] = []
        sizes: list[int] = []
        for entry in listed:
            path = entry.get("path") if isinstance(entry, dict) else None
            # Vagrant would follow an absolute path, or one with dots, out of the box.
            if not isinstance(path, str) or tar_scan.inside(path) != path:
                raise ArchiveError(f"a disk of its metadata has the path {path!r}")
            if not isinstance(entry.get("name", ""), str):
                raise ArchiveError(f"the disk {path!r} has a name that is no text")
            if path in names:
                raise ArchiveError(f"its metadata list the disk {path!r} twice")
            names.append(path)
            sizes.append(self._disk(path).virtual_size)
        return tuple(names), -(-sizes[0] // _GIB)

    def _disk(self, name: str) -> qcow2.Disk:
        if name not in self._heads:
            raise ArchiveError(f"its disk {name!r} is not there")
        try:
            return qcow2.read(self._heads[name])
        except ArchiveError as error:
            raise ArchiveError(f"its disk {name!r} is refused: {error}") from error


def _metadata(member: Member) -> dict[str, object]:
    value = read_json(member)
    if not isinstance(value, dict) or "provider" not in value:
        raise ArchiveError(f"{METADATA!r} names no provider")
    return value
