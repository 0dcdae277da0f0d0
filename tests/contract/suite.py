"""What every guest must do alike: the tests, without the guests.

A module that imports all of these gives the fixtures: ``guest`` and ``second``, two guests that are
up at the same time, ``apart``, whether each has a disk of its own, and ``big``, how many bytes go
through.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vagrant_kiwi import remote
from vagrant_kiwi.guests import Guest
from vagrant_kiwi.process import CommandTimeoutError

MIB = 2**20
AWKWARD = (
    "",
    " ",
    "a b",
    "'",
    '"',
    "\\",
    "\\n",
    "\n",
    "a\n\n",
    "\t\r",
    "$HOME",
    "${x}",
    "$(touch /tmp/never)",
    "`id`",
    "*",
    "?[a-z]{a,b}",
    "~",
    "!",
    "#",
    ";",
    "&&",
    "|",
    ">x",
    "(",
    "--",
    "-n",
    "%s%n",
    "ä€😀",
    "\x01\x1b[31m\x7f",
    os.fsdecode(b"not \xff\xfe utf-8\n"),
    "x" * 10000,
)


@pytest.fixture
def room(guest: Guest) -> Iterator[str]:
    """Yield a folder in the guest that is not there yet, and remove it afterwards."""
    path = f"/tmp/contract-{secrets.token_hex(4)}"
    yield path
    guest.exec(["rm", "-rf", path], timeout=300, root=True)


def sh(guest: Guest, script: str, *args: str, timeout: float = 120) -> str:
    """Run a script as root that must work, and return what it said."""
    done = guest.exec(["sh", "-c", script, "sh", *args], timeout=timeout, root=True)
    assert done.ok, done.tail()
    return done.text


@pytest.mark.parametrize("status", [0, 1, 7, 127, 255])
@pytest.mark.parametrize("root", [False, True], ids=["user", "root"])
def test_exit_status(guest: Guest, status: int, root: bool) -> None:
    done = guest.exec(["sh", "-c", f"exit {status}"], timeout=60, root=root)
    assert done.status == status


def test_a_killed_command_has_128_and_the_signal(guest: Guest) -> None:
    assert guest.exec(["sh", "-c", "kill -KILL $$"], timeout=60).status == 128 + 9


def test_root_is_root(guest: Guest) -> None:
    assert guest.exec(["id", "-u"], timeout=60, root=True).text == "0\n"


def test_10_mib_of_output_in_order(guest: Guest) -> None:
    seen = bytearray()
    done = guest.exec(
        ["sh", "-c", "seq 1 750000 & seq 1 750000 >&2; wait"],
        timeout=300,
        on_output=seen.extend,
    )
    assert done.ok
    wanted = "".join(f"{number}\n" for number in range(1, 750001)).encode()
    assert len(done.output) + len(done.errors) > 9.5 * MIB
    assert (done.output == wanted, done.errors == wanted) == (True, True)
    assert bytes(seen) == done.output


def test_bytes_that_are_no_text(guest: Guest) -> None:
    done = guest.exec(["printf", r"\377\376\000\r\n\r"], timeout=60)
    assert done.output == b"\xff\xfe\0\r\n\r"


def test_arguments_arrive_unchanged(guest: Guest) -> None:
    done = guest.exec(["sh", "-c", 'printf "%s\\0" "$@"', "sh", *AWKWARD], timeout=60)
    assert done.output.split(b"\0")[:-1] == [os.fsencode(word) for word in AWKWARD]


def test_standard_input_is_closed(guest: Guest) -> None:
    done = guest.exec(["cat"], timeout=60)
    assert (done.status, done.output) == (0, b"")


@pytest.mark.parametrize("size", [0, 1, 300_000])
def test_standard_input_arrives_and_ends(guest: Guest, size: int) -> None:
    data = os.urandom(size)
    done = guest.exec(["sha256sum"], timeout=60, stdin=data, root=True)
    assert done.text.split()[0] == hashlib.sha256(data).hexdigest()


def test_output_comes_while_the_command_runs(guest: Guest) -> None:
    first: list[float] = []
    started = time.monotonic()
    guest.exec(
        ["sh", "-c", "echo early; sleep 3"],
        timeout=60,
        on_output=lambda _: first.append(time.monotonic()),
    )
    assert time.monotonic() - first[0] > 2, "it came only with the end"
    assert first[0] - started < time.monotonic() - started


def test_a_time_out_is_no_exit_status(guest: Guest) -> None:
    with pytest.raises(CommandTimeoutError):
        guest.exec(["sleep", "30"], timeout=1)


def test_a_time_out_of_a_long_command_kills_it(guest: Guest, room: str) -> None:
    seconds = str(80000 + secrets.randbelow(9999))
    with pytest.raises(CommandTimeoutError):
        remote.run(
            guest,
            ["sh", "-c", f"echo begun; sleep {seconds}"],
            folder=room,
            timeout=3,
            on_output=lambda _: None,
            on_trouble=lambda _: None,
        )
    left = guest.exec(["pgrep", "-f", f"[s]leep {seconds}"], timeout=60, root=True)
    assert left.status == 1, left.text


@pytest.mark.parametrize("status", [0, 7, 255])
def test_a_long_command_has_its_own_status_and_output(guest: Guest, room: str, status: int) -> None:
    seen = bytearray()
    found = remote.run(
        guest,
        ["sh", "-c", 'printf "%s\\0" "$@"; exit "$0"', str(status), *AWKWARD],
        folder=room,
        timeout=60,
        on_output=seen.extend,
        on_trouble=lambda _: None,
    )
    assert found == status
    assert bytes(seen).split(b"\0")[:-1] == [os.fsencode(word) for word in AWKWARD]


def tree(folder: Path) -> dict[bytes, tuple[object, ...]]:
    """Describe a tree: kind and mode of everything, content, targets of links."""
    found: dict[bytes, tuple[object, ...]] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        kind = stat.S_IFMT(status.st_mode)
        what: object = None
        if path.is_symlink():
            what = os.fsencode(path.readlink())
        elif path.is_file():
            what = (status.st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        mode = None if path.is_symlink() else stat.S_IMODE(status.st_mode)
        found[os.fsencode(path.relative_to(folder))] = (kind, mode, what)
    return found


def test_a_tree_goes_in_and_comes_back(guest: Guest, room: str, tmp_path: Path) -> None:
    source = tmp_path / 'it\'s a "tree"\n$HOME *'
    (source / "empty folder").mkdir(parents=True)
    (source / "new\nline").mkdir()
    (source / "new\nline" / " leading and trailing ").write_bytes(b"\0\xff")
    Path(os.fsdecode(os.fsencode(source) + b"/not \xff utf-8")).write_text("x")
    (source / "-rf").write_text("a name like an option")
    (source / "private").write_text("secret")
    (source / "private").chmod(0o600)
    (source / "program").write_text("#!/bin/sh\n")
    (source / "program").chmod(0o755)
    (source / "to a file").symlink_to("private")
    (source / "to nowhere").symlink_to("/no/such place")
    (source / "up").symlink_to("../up")
    with (source / "sparse").open("wb") as stream:
        stream.truncate(64 * MIB)
        stream.seek(32 * MIB)
        stream.write(b"island")
    target = f"{room}/deep/in the guest"
    guest.push(source, target, timeout=300)
    assert sh(guest, 'stat -c "%u:%g" "$1"/* | sort -u', target) == "0:0\n"
    assert int(sh(guest, 'du -k "$1" | cut -f1', f"{target}/sparse")) < 1024
    back = tmp_path / "back"
    guest.pull(target, back, timeout=300)
    assert tree(back) == tree(source)
    assert (back / "sparse").stat().st_blocks * 512 < MIB
    assert {path.lstat().st_uid for path in back.rglob("*")} == {os.geteuid()}


def test_a_second_push_deletes_only_when_told(guest: Guest, room: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "one").write_text("1")
    (source / "left out.tmp").write_text("no")
    guest.push(source, room, timeout=120, exclude=["*.tmp"])
    (source / "one").rename(source / "two")
    guest.push(source, room, timeout=120, exclude=["*.tmp"])
    assert sh(guest, 'ls "$1"', room) == "one\ntwo\n"
    guest.push(source, room, timeout=120, exclude=["*.tmp"], delete=True)
    assert sh(guest, 'ls "$1"', room) == "two\n"
    guest.push(source / "two", f"{room}/below/a file", timeout=120)
    assert sh(guest, 'cat "$1"', f"{room}/below/a file") == "1"


def test_much_data_arrives_whole(guest: Guest, room: str, tmp_path: Path, big: int) -> None:
    source = tmp_path / "source"
    source.mkdir()
    digest = hashlib.sha256()
    with (source / "big").open("wb") as stream:
        for _ in range(big // MIB):
            block = os.urandom(MIB)
            digest.update(block)
            stream.write(block)
    guest.push(source, room, timeout=900)
    told = sh(guest, 'sha256sum "$1"', f"{room}/big", timeout=600)
    assert told.split()[0] == digest.hexdigest()
    (source / "big").unlink()
    back = tmp_path / "back"
    guest.pull(room, back, timeout=900)
    with (back / "big").open("rb") as stream:
        assert hashlib.file_digest(stream, "sha256").hexdigest() == digest.hexdigest()


def test_two_guests_at_once(
    guest: Guest, second: Guest, apart: bool, room: str, tmp_path: Path
) -> None:
    (tmp_path / "of the first").write_text("1")
    statuses: dict[str, int] = {}

    def work(name: str, where: Guest, status: int) -> None:
        statuses[name] = remote.run(
            where,
            ["sh", "-c", f"sleep 3; exit {status}"],
            folder=f"{room}/{name}",
            timeout=60,
            on_output=lambda _: None,
            on_trouble=lambda _: None,
        )

    both = [
        threading.Thread(target=work, args=("first", guest, 3)),
        threading.Thread(target=work, args=("second", second, 4)),
    ]
    for thread in both:
        thread.start()
    guest.push(tmp_path, f"{room}/data", timeout=120)
    for thread in both:
        thread.join(timeout=90)
    assert statuses == {"first": 3, "second": 4}
    assert sh(guest, 'ls "$1"', f"{room}/data") == "of the first\n"
    there = second.exec(["ls", f"{room}/data"], timeout=60, root=True)
    assert there.ok is not apart
    second.exec(["rm", "-rf", room], timeout=60, root=True)
