"""Looking into images as Docker saves them: archives made in memory, in both layouts."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit import archives
from tests.unit.archives import PACKERS, Entry, damaged
from tests.unit.test_box_verify import key_line
from vagrant_kiwi import box_look_docker, tar_scan
from vagrant_kiwi.box_verify import Look
from vagrant_kiwi.errors import BoxError
from vagrant_kiwi.unpacked import ArchiveError, Budget

MIB = 2**20
KEY = "etc/ssh/ssh_host_rsa_key"

#: A layer: files by name; None is a folder, a link is ``-> target``, a hard link ``=> name``.
Files = Mapping[str, str | bytes | None]


def tar(files: Files) -> bytes:
    return archives.tar(*(entry(name, text) for name, text in files.items()))


def entry(name: str, text: str | bytes | None) -> Entry:
    """Return the member for a file as ``Files`` has it."""
    if text is None:
        return archives.folder(name)
    data = text.encode() if isinstance(text, str) else text
    if data.startswith(b"-> "):
        return archives.symlink(name, data[3:].decode())
    if data.startswith(b"=> "):
        return archives.hard_link(name, data[3:].decode())
    return Entry(name, data)


def old(layers: Sequence[bytes]) -> bytes:
    """Save as Docker 20.10 does: a folder each, a layer that was there before is a link."""
    members: dict[str, str | bytes | None] = {}
    names: list[str] = []
    places: dict[bytes, str] = {}
    for number, layer in enumerate(layers):
        folder = f"{number:064x}"
        members |= {folder: None, f"{folder}/VERSION": "1.0", f"{folder}/json": '{"id": "x"}'}
        name = f"{folder}/layer.tar"
        members[name] = f"-> ../{places[layer]}" if layer in places else layer
        places.setdefault(layer, name)
        names.append(name)
    members["0123.json"] = json.dumps({"rootfs": "x" * 1000})
    members["manifest.json"] = json.dumps([{"Config": "0123.json", "Layers": names}])
    members["repositories"] = "{}"
    return tar(members)


def oci(layers: Sequence[bytes]) -> bytes:
    """Save as Docker does from 25 on: blobs by their digest, in no order."""
    config = json.dumps({"rootfs": "x" * 1000}).encode()
    names = [f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}" for blob in (*layers, config)]
    blobs = dict(zip(names, (*layers, config), strict=True))
    return tar(
        {
            "blobs": None,
            "blobs/sha256": None,
            **{name: blobs[name] for name in sorted(blobs)},
            "index.json": "{}",
            "manifest.json": json.dumps([{"Config": names[-1], "Layers": names[:-1]}]),
            "oci-layout": "{}",
        }
    )


def zipped(layers: Sequence[bytes]) -> bytes:
    """Save as containerd's image store does: layers as they were pulled."""
    return oci([gzip.compress(layer) for layer in layers])


Save = Callable[[Sequence[bytes]], bytes]
layouts = pytest.mark.parametrize("save", [old, oci, zipped])


def pieces(data: bytes) -> Iterator[bytes]:
    """Cut into chunks as a network does."""
    rng, at = random.Random(1), 0  # noqa: S311
    while at < len(data):
        size = rng.choice((1, 100, 512, 5000, 32768))
        yield data[at : at + size]
        at += size


def look(save: Save, *layers: Files) -> Look:
    archive = save([tar(layer) for layer in layers])
    return box_look_docker.look_archive(pieces(archive), log=lambda _: None)


@layouts
def test_a_good_image_has_nothing(save: Save) -> None:
    assert look(save, {"etc": None, "etc/machine-id": "", "etc/passwd": "x"}, {}) == Look()


@layouts
def test_what_is_planted_is_found(save: Save) -> None:
    line = key_line()
    found = look(
        save,
        {"./": None, "./etc/": None, f"./{KEY}": "secret", "./etc/machine-id": "1" * 32},
        {
            "usr/lib/python3/dist-packages/kiwi-9.24.56.egg-info/PKG-INFO": "Version: 9.24.56\n",
            "etc/passwd": "root:x:0:0::/root:/bin/sh\n",
            "var/lib/systemd/random-seed": "noise",
        },
        {"root/.ssh/authorized_keys": f"{line}\n"},
    )
    assert found == Look(
        host_keys=(f"/{KEY}",),
        machine_id="1" * 32,
        authorized_keys=(("/root/.ssh/authorized_keys", line),),
        kiwis=(("/usr/lib/python3/dist-packages", "9.24.56"),),
    )


@layouts
@pytest.mark.parametrize(
    ("upper", "host_keys", "buried"),
    [
        ({}, 1, 0),
        ({"etc/ssh/.wh.ssh_host_rsa_key": ""}, 0, 1),
        ({"etc/.wh.ssh": ""}, 0, 1),
        ({"etc/.wh.ssh": "", "etc/ssh": None}, 0, 1),
        ({".wh.etc": ""}, 0, 1),
        ({"etc/ssh/.wh..wh..opq": ""}, 0, 1),
        ({".wh..wh..opq": ""}, 0, 1),
        ({"etc/ssh": "-> /nowhere"}, 0, 1),
        ({"etc/ssh": "a file"}, 0, 1),
        ({KEY: ""}, 0, 1),
        ({KEY: "another"}, 1, 0),
        ({f"etc/ssh/.wh.{KEY}": "", "etc/sshd/.wh..wh..opq": ""}, 1, 0),
        ({"etc/ssh": None, "etc/ssh/other": ""}, 1, 0),
    ],
)
def test_a_host_key_that_a_later_layer_takes_away_is_still_in_the_image(
    save: Save, upper: Files, host_keys: int, buried: int
) -> None:
    found = look(save, {"etc/ssh": None, KEY: "secret"}, upper)
    assert (len(found.host_keys), len(found.buried_host_keys)) == (host_keys, buried)
    # What comes on top of it changes nothing, and what is below does not come back.
    again = look(save, {KEY: "secret"}, {}, upper, {"usr/bin": None})
    assert again == found


@layouts
def test_a_host_key_that_comes_back_is_in_the_image_as_it_is(save: Save) -> None:
    found = look(save, {KEY: "a"}, {"etc/ssh/.wh.ssh_host_rsa_key": ""}, {}, {}, {KEY: "b"})
    assert (found.host_keys, found.buried_host_keys) == ((f"/{KEY}",), ())


@layouts
def test_only_the_image_as_it_is_counts_for_all_but_host_keys(save: Save) -> None:
    found = look(
        save,
        {
            "etc/machine-id": "1" * 32,
            "root/.ssh/authorized_keys": key_line(),
            "opt/kiwi/lib/python3.11/site-packages/kiwi-10.0.dist-info/METADATA": "x",
        },
        {"etc/machine-id": "", "root/.wh..ssh": "", "opt/.wh.kiwi": ""},
    )
    assert found == Look()


def test_keys_are_read_through_links_and_wherever_sshd_has_them() -> None:
    line = key_line()
    found = look(
        old,
        {
            "etc/passwd": "joe:x:1:1::/home/joe:/bin/sh\n",
            "etc/ssh/sshd_config": "AuthorizedKeysFile /srv/keys/%u\n",
            "srv/real": f"{line}\n",
            "home": "-> /var/home",
        },
        {
            "srv/hard": f"{line} 2\n",
            "srv/keys/joe": "-> ../real",
            "var/home/joe/.ssh/authorized_keys": "=> srv/hard",
        },
    )
    assert found.authorized_keys == (
        ("/srv/real", line),
        ("/var/home/joe/.ssh/authorized_keys", f"{line} 2"),
    )
    assert found.unread == ()


def test_what_was_not_kept_is_unread_when_it_counts() -> None:
    big = f"{key_line()}\n" * 2000
    found = look(
        old,
        {"etc/ssh/sshd_config": "AuthorizedKeysFile /srv/keys\n", "srv/keys": big},
    )
    assert found.unread == ("/srv/keys",)
    assert found.authorized_keys == ()


def test_files_behind_a_link_of_the_same_layer_are_said_to_be_unclear() -> None:
    found = look(old, {"etc": "-> usr/etc", "etc/machine-id": "1" * 32})
    assert found.unread == ("layer 1: /etc/machine-id lies behind what is no folder",)


def test_a_folder_that_a_layer_does_not_name_replaces_a_link_below() -> None:
    found = look(old, {"etc": "-> usr/etc"}, {"etc/machine-id": "1" * 32})
    assert found.machine_id == "1" * 32


def test_layers_that_are_the_same_are_saved_once() -> None:
    key = {KEY: "secret"}
    archive = old([tar(key), tar({"etc/ssh/.wh.ssh_host_rsa_key": ""}), tar(key)])
    assert b"layer.tar" in archive
    found = box_look_docker.look_archive([archive], log=lambda _: None)
    assert (found.host_keys, found.buried_host_keys) == ((f"/{KEY}",), ())


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (b"\x28\xb5\x2f\xfd" + b"x" * 1000, "it is compressed with zstd"),
        (b"\x1f\x8b" + b"x" * 1000, "its compressed data is damaged"),
        (gzip.compress(tar({"a": "b" * 9999}))[:-50], "its compressed data ends too early"),
        (b"something else" * 100, "invalid header"),
        (tar({"a": ""})[:512] + b"x" * 1024, "a header in it is damaged"),
        (tar({"a": "b" * 9999})[:5000], "ends in the middle of a member"),
        (b"", "empty file"),
        (tar({"/a": ""}), "leads out of the archive"),
        (tar({"../a": ""}), "leads out of the archive"),
        (tar({"a": ""}) + tar({"b": ""}), "something follows its end"),
        (gzip.compress(tar({"a": ""})) + b"more", "something follows the end"),
        (tar({"a": ""})[:512], "the mark at its end is missing"),
    ],
)
def test_a_layer_that_cannot_be_read_is_said_and_the_others_are_looked_into(
    layer: bytes, reason: str
) -> None:
    archive = oci([layer, tar({KEY: "secret"})])
    found = box_look_docker.look_archive([archive], log=lambda _: None)
    assert found.host_keys == (f"/{KEY}",)
    (unread,) = found.unread
    assert unread.startswith("layer 1: ")
    assert reason in unread


@pytest.mark.parametrize("packer", PACKERS)
def test_layers_may_be_compressed_in_other_ways(packer: str) -> None:
    archive = oci([PACKERS[packer](tar({KEY: "secret"}))])
    found = box_look_docker.look_archive(pieces(archive), log=lambda _: None)
    assert found == Look(host_keys=(f"/{KEY}",))


def test_a_sparse_file_is_read_with_its_holes() -> None:
    line = f"\n{key_line()}\n".encode()
    name, size = "root/.ssh/authorized_keys", 512 + len(line)
    made = archives.sparse(name, [(512, len(line))], size).replace(b"x" * len(line), line)
    found = box_look_docker.look_archive([oci([made + bytes(1024)])], log=lambda _: None)
    assert found == look(old, {name: bytes(512).decode() + line.decode()})
    assert (f"/{name}", key_line()) in found.authorized_keys


@layouts
def test_a_connection_that_breaks_is_no_damage(save: Save) -> None:
    archive = save([tar({KEY: "secret" * 99_999, "etc/x": random.Random(1).randbytes(MIB)})])  # noqa: S311

    def chunks() -> Iterator[bytes]:
        yield archive[: MIB // 2]
        raise ConnectionResetError("by the daemon")

    with pytest.raises(ConnectionResetError, match="by the daemon"):
        box_look_docker.look_archive(chunks(), log=lambda _: None)


@settings(max_examples=200, deadline=None)
@given(st.data(), st.booleans())
def test_no_damage_is_a_crash(draw: st.DataObject, inside: bool) -> None:
    layer = tar({"etc": None, KEY: "secret", "etc/x": f"=> {KEY}", "n" * 200: "-> x"})
    archive = oci([damaged(draw, layer)]) if inside else damaged(draw, old([layer]))
    with contextlib.suppress(BoxError):
        box_look_docker.look_archive(pieces(archive), log=lambda _: None)


def test_a_layer_that_is_not_there_is_said() -> None:
    manifest = json.dumps([{"Layers": ["a/layer.tar"]}])
    archive = tar({"manifest.json": manifest})
    found = box_look_docker.look_archive([archive], log=lambda _: None)
    assert found == Look(unread=("layer 1: it is not there",))


@pytest.mark.parametrize(
    "archive",
    [
        b"",
        b"no tar at all" * 100,
        tar({"some": "file"}),
        tar({"manifest.json": "{"}),
        tar({"manifest.json": "[" * 100_000}),
        tar({"manifest.json": "[]"}),
        tar({"manifest.json": "[{}]"}),
        tar({"manifest.json": '[{"Layers": []}, {"Layers": []}]'}),
        old([tar({"a": "b" * 9999})])[:6000],
    ],
)
def test_what_is_no_whole_archive_is_5(archive: bytes) -> None:
    with pytest.raises(BoxError, match="cannot be read") as caught:
        box_look_docker.look_archive([archive], log=lambda _: None)
    assert caught.value.details


def test_headers_without_end_are_not_kept_in_memory() -> None:
    bomb = archives.tar(Entry("a", pax={"comment": "x" * 2**22}))

    class Source(io.BytesIO):
        asked = 0

        def read(self, size: int | None = -1) -> bytes:
            assert size is not None
            self.asked += size
            return super().read(size)

    source = Source(bomb)
    with pytest.raises(ArchiveError, match="headers are larger than 1048576 bytes"):
        list(tar_scan.members(source, Budget(), most=9, headers=2**20))
    assert 0 < source.asked < 2**20

    found = box_look_docker.look_archive([oci([bomb])], log=lambda _: None)
    assert found.unread == ("layer 1: a member's headers are larger than 1048576 bytes",)


def test_an_image_with_too_many_files_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box_look_docker, "_ENTRIES", 5)
    found = look(old, {str(number): "" for number in range(3)}, {"a": "", "b": "", "c": ""})
    assert found.unread == ("layer 2: it has more than 2 members",)
