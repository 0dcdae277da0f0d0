"""Reading ext file systems: what debugfs 1.47.0 says, and file systems that are damaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.unit.box_fakes import Scripted, soon
from vagrant_kiwi import ext_files
from vagrant_kiwi.box_look import Kind
from vagrant_kiwi.errors import PhaseTimeoutError
from vagrant_kiwi.ext_files import Debugfs, ExtError, ExtTree, Listed
from vagrant_kiwi.process import CommandResult, CommandTimeoutError

BANNER = b"debugfs 1.47.0 (5-Feb-2023)\n"

#: The root, lost+found, and a folder of debugfs 1.47.0, with odd names.
SAID = (
    b"debugfs: ls -p <2>\n"
    b"/2/040755/0/0/.//\n"
    b"/2/040755/0/0/..//\n"
    b"/11/040700/0/0/lost+found//\n"
    b"/12/040755/0/1000/etc//\n"
    b"\n"
    b"debugfs: ls -p <11>\n"
    b"/11/040700/0/0/.//\n"
    b"/2/040755/0/0/..//\n"
    b"/0/000000/0/0//0/\n"
    b"/0/000000/0/0//0/\n"
    b"\n"
    b"debugfs: ls -p <12>\n"
    b"/12/040755/0/0/.//\n"
    b"/2/040755/0/0/..//\n"
    b"/13/100644/0/0/ lead/0/\n"
    b"/14/100600/0/0/<12>/33/\n"
    b"/18/100644/0/0/bad\xff/0/\n"
    b'/20/100644/0/0/"q"\x1b[31m\\/0/\n'
    b"/22/100644/0/0/new\ndebugfs: ls -p <13>\n/7/\n"
    b"/23/010644/0/0/p/0/\n"
    b"/24/120777/0/0/s1/5/\n"
    b"\n"
)


def test_listings_are_split_by_what_was_asked() -> None:
    listings = ext_files.parse_listings(SAID, [2, 11, 12])
    assert listings is not None
    root, lost, etc = listings
    assert [(entry.name, entry.inode) for entry in root] == [
        (".", 2),
        ("..", 2),
        ("lost+found", 11),
        ("etc", 12),
    ]
    assert [entry.name for entry in lost] == [".", ".."]
    assert etc[2:] == [
        Listed(Kind.FILE, 0, 13, " lead"),
        Listed(Kind.FILE, 33, 14, "<12>"),
        Listed(Kind.FILE, 0, 18, "bad\udcff"),
        Listed(Kind.FILE, 0, 20, '"q"\x1b[31m\\'),
        Listed(Kind.FILE, 7, 22, "new\ndebugfs: ls -p <13>\n"),
        Listed(Kind.OTHER, 0, 23, "p"),
        Listed(Kind.LINK, 5, 24, "s1"),
    ]


@pytest.mark.parametrize(
    ("said", "inodes"),
    [
        (SAID, [2, 11]),
        (SAID, [2, 12, 11]),
        (SAID[:-10], [2, 11, 12]),
        (b"", [2]),
        (b"something else\n", [2]),
        (b"debugfs: ls -p <2>\n/2/040755/0/0/a/b//\n", [2]),
    ],
)
def test_other_output_is_not_taken_for_listings(said: bytes, inodes: Sequence[int]) -> None:
    assert ext_files.parse_listings(said, inodes) is None


class Disk:
    """A file system: folders as debugfs lists them, files by inode."""

    def __init__(self, folders: Mapping[int, bytes], files: Mapping[int, bytes]) -> None:
        self.folders = folders
        self.files = files
        self.errors = BANNER

    def answer(self, argv: Sequence[str], options: Mapping[str, Any]) -> CommandResult:
        assert argv == ("/sbin/debugfs", "-c", "-f", "-", "disk.raw?offset=1048576")
        assert options["cwd"] == Path("/a b?c")
        said = b""
        for request in options["stdin"].decode().splitlines():
            inode = int(request.rpartition("<")[2][:-1])
            said += f"debugfs: {request}\n".encode()
            said += (self.folders if request.startswith("ls -p ") else self.files)[inode]
        if options["on_output"]:
            options["on_output"](said)
        return CommandResult(tuple(argv), 0, said, self.errors)

    def debugfs(self) -> Debugfs:
        runner = Scripted(answer=self.answer)
        return Debugfs(runner, "/sbin/debugfs", Path("/a b?c/disk.raw"), 2**20, soon())

    def tree(self) -> ExtTree:
        return ext_files.read_tree(self.debugfs())


def listing(inode: int, *lines: str) -> bytes:
    return "\n".join((f"/{inode}/040755/0/0/.//", *lines, "\n")).encode()


def test_all_folders_are_read_and_files_by_their_inodes() -> None:
    disk = Disk(
        {
            2: listing(2, "/12/040755/0/0/etc//", "/15/120777/0/0/link/6/"),
            12: listing(12, "/13/100644/0/0/machine-id/3/", "/14/120777/0/0/long/80/"),
        },
        {
            13: b"id\n",
            14: b"y/" * 40,
            15: b'Inode: 15   Type: symlink\nFast link dest: "a\n"b\xff\n"\n',
        },
    )
    tree = disk.tree()
    assert list(tree.entries) == ["/etc", "/link", "/etc/machine-id", "/etc/long"]
    assert tree.content("/etc/machine-id") == b"id\n"
    assert tree.target("/link") == 'a\n"b\udcff\n'
    assert tree.target("/etc/long") == "y/" * 40
    assert tree.damage == ()


def test_a_file_in_its_inode_comes_with_more() -> None:
    disk = Disk({2: listing(2, "/13/100644/0/0/f/3/")}, {13: b"id\n" + bytes(61)})
    assert disk.tree().content("/f") == b"id\n"


def test_what_cannot_be_read_is_none() -> None:
    disk = Disk(
        {2: listing(2, "/13/100644/0/0/f/3/", "/14/120777/0/0/l/5/")}, {13: b"i", 14: b"Inode: 14"}
    )
    tree = disk.tree()
    assert tree.content("/f") is None, "cut short"
    assert tree.target("/l") == "Inode"[:5], "a short link that does not stand in its inode"
    disk.errors = BANNER + b"cat: short read\n"
    assert tree.content("/f") is None
    assert tree.target("/l") is None


def test_a_folder_that_cannot_be_read_is_damage_and_the_others_are_read() -> None:
    disk = Disk(
        {
            2: listing(2, "/12/040755/0/0/etc//", "/13/040755/0/0/home//"),
            12: b"\n",
            13: listing(13, "/14/040755/0/0/joe//"),
            14: listing(14),
        },
        {},
    )
    disk.errors = BANNER + b"-p: checksum is wrong\n"
    tree = disk.tree()
    assert tree.damage == ("/etc: -p: checksum is wrong",)
    assert "/home/joe" in tree.entries


def test_folders_that_hold_each_other_have_an_end() -> None:
    disk = Disk(
        {
            2: listing(2, "/12/040755/0/0/a//"),
            12: listing(12, "/2/040755/0/0/b//", "/13/100644/0/0/c/0/", "/14/100644/0/0/c/0/"),
        },
        {},
    )
    tree = disk.tree()
    assert list(tree.entries) == ["/a", "/a/c"]
    assert tree.damage == ("/a/b is there twice", "/a/c is there twice")


def test_what_debugfs_cannot_open_is_an_error_in_its_words() -> None:
    disk = Disk({2: b"\n"}, {})
    disk.errors = BANNER + b"disk.raw: Bad magic number in super-block\nls: Filesystem not open\n"
    with pytest.raises(ExtError, match=r"^disk.raw: Bad magic number"):
        disk.tree()


def test_too_many_files_and_too_much_output_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk({2: listing(2, *(f"/{n}/100644/0/0/{n}/0/" for n in range(12, 100)))}, {})
    monkeypatch.setattr(ext_files, "_ENTRIES", 50)
    with pytest.raises(ExtError, match="too many files"):
        disk.tree()
    monkeypatch.setattr(ext_files, "_OUTPUT", 100)
    with pytest.raises(ExtError, match="too big"):
        disk.tree()


def test_a_debugfs_without_end_is_124() -> None:
    def answer(argv: Sequence[str], options: Mapping[str, Any]) -> Exception:
        return CommandTimeoutError(argv, options["timeout"], b"")

    debugfs = Debugfs(Scripted(answer=answer), "debugfs", Path("/disk.raw"), 0, soon())
    with pytest.raises(PhaseTimeoutError):
        ext_files.read_tree(debugfs)
