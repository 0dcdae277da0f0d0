"""Archives of ``docker save``, and what is left of them for ``docker load``."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from tests.unit.archives import (
    CONFIG,
    CONFIG_NAME,
    LAYER,
    PACKERS,
    Entry,
    config_of,
    folder,
    hard_link,
    inspect,
    manifest,
    saved,
    sha256,
    symlink,
    tar,
)
from vagrant_kiwi import box_archive_docker, box_archive_streams
from vagrant_kiwi.box_archive import DockerArchive, Limits
from vagrant_kiwi.errors import BoxError


def archive_of(place: Path, data: bytes, **options: object) -> DockerArchive:
    """Look into an archive of Docker's."""
    found = inspect(place, data, **options)  # type: ignore[arg-type]
    assert isinstance(found, DockerArchive)
    return found


def loaded(place: Path, archive: DockerArchive) -> dict[str, bytes]:
    """Return what Docker gets of the archive that was looked into, by name."""
    stream = b"".join(box_archive_streams.load_stream(place / "inner" / "file", archive))
    assert len(stream) % 512 == 0
    with tarfile.open(fileobj=io.BytesIO(stream)) as opened:
        found = {}
        for member in opened:
            assert member.isreg()
            content = opened.extractfile(member)
            assert content is not None
            found[member.name] = content.read()
    return found


@pytest.mark.parametrize("packer", PACKERS)
def test_an_archive_is_handed_on_without_names(tmp_path: Path, packer: str) -> None:
    data = tar(*saved())
    archive = archive_of(tmp_path, PACKERS[packer](data))
    assert archive == DockerArchive(
        config=CONFIG_NAME,
        image_id=f"sha256:{sha256(CONFIG)}",
        layers=("a1/layer.tar",),
        tags=("debian:bookworm",),
        architecture="arm64",
        os="linux",
        unpacked=len(data) + len(LAYER),
    )
    found = loaded(tmp_path, archive)
    assert json.loads(found.pop("manifest.json")) == [
        {"Config": CONFIG_NAME, "RepoTags": None, "Layers": ["a1/layer.tar"]}
    ]
    assert found == {CONFIG_NAME: CONFIG, "a1/layer.tar": LAYER}


def blobs(layer: bytes, config: bytes = CONFIG) -> tuple[Entry, ...]:
    """Return what Docker saves since version 25: an OCI layout with a manifest, which is last."""
    config_name, layer_name = (f"blobs/sha256/{sha256(each)}" for each in (config, layer))
    return (
        folder("blobs/"),
        folder("blobs/sha256/"),
        Entry(config_name, config),
        Entry(layer_name, layer),
        Entry(f"blobs/sha256/{'a' * 64}", b'{"schemaVersion": 2}'),
        Entry("index.json", b'{"manifests": [{"annotations": {}}]}'),
        Entry("oci-layout", b'{"imageLayoutVersion": "1.0.0"}'),
        manifest(config_name, [layer_name], tags=None),
    )


@pytest.mark.parametrize("packer", PACKERS)
def test_an_archive_of_todays_docker(tmp_path: Path, packer: str) -> None:
    layer = PACKERS[packer](LAYER)
    archive = archive_of(tmp_path, tar(*blobs(layer)))
    assert archive.image_id == f"sha256:{sha256(CONFIG)}"
    assert archive.tags == ()
    assert archive.layers == (f"blobs/sha256/{sha256(layer)}",)
    found = loaded(tmp_path, archive)
    assert set(found) == {"manifest.json", archive.config, *archive.layers}
    assert found[archive.layers[0]] == layer


def test_layers_behind_links_and_twice(tmp_path: Path) -> None:
    empty = bytes(1024)
    config = config_of(LAYER, empty, LAYER, LAYER)
    name = f"sha256:{sha256(config)}"
    archive = archive_of(
        tmp_path,
        tar(
            manifest(name, ["b/layer.tar", "empty.tar", "c/layer.tar", "./a/../a/layer.tar"]),
            symlink("b/layer.tar", "../c/layer.tar"),
            symlink("c/layer.tar", "../a/layer.tar"),
            Entry("a/layer.tar", LAYER),
            Entry("e", empty),
            hard_link("empty.tar", "./e"),
            Entry(name, config),
        ),
    )
    assert archive.layers == ("a/layer.tar", "e", "a/layer.tar", "a/layer.tar")
    assert set(loaded(tmp_path, archive)) == {"manifest.json", name, "a/layer.tar", "e"}


def test_an_image_without_layers(tmp_path: Path) -> None:
    config = config_of()
    name = f"{sha256(config)}.json"
    archive = archive_of(tmp_path, tar(Entry(name, config), manifest(name, [])))
    assert archive.layers == ()
    assert set(loaded(tmp_path, archive)) == {"manifest.json", name}


def test_a_manifest_may_be_anywhere_under_a_dot(tmp_path: Path) -> None:
    entries = [Entry(f"./{entry.name}", entry.content, entry.kind) for entry in saved()]
    archive = archive_of(tmp_path, tar(*reversed(entries)))
    assert set(loaded(tmp_path, archive)) == {"manifest.json", CONFIG_NAME, "a1/layer.tar"}


OTHER = config_of(LAYER, author="somebody else")
TWO = json.dumps(
    [
        {"Config": "a", "RepoTags": ["first:1", "first:2"], "Layers": []},
        {"Config": "second", "RepoTags": None, "Layers": []},
    ]
).encode()


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        # More or less than one image.
        ((Entry("manifest.json", TWO),), "2 images, not one: 'first:1 first:2', 'second'"),
        ((Entry("manifest.json", b"[]"),), "0 images"),
        # What the manifest names is not there.
        ((manifest(),), "names the configuration .* not there"),
        ((Entry(CONFIG_NAME, CONFIG), manifest()), "names the layer 'a1/layer.tar', .* not there"),
        ((*saved()[1:],), "names the configuration .* not there"),
        ((*saved()[:-2], manifest("../x")), "leads out"),
        ((*saved()[:-2], manifest(layers=["/x"])), "absolute"),
        ((*saved()[:-2], manifest(layers=["a1"])), "not there"),
        ((*saved()[:-2], manifest(layers=[])), "different numbers of layers"),
        ((*saved()[:-2], manifest(layers=["a1/layer.tar"] * 2)), "different numbers of layers"),
        ((*saved()[:-2], manifest(layers=["a1/VERSION"])), "'a1/VERSION': it is not where"),
        (
            (*saved()[:-2], Entry("manifest.json", b'[{"Config": 1, "Layers": []}]')),
            "configuration that is no text",
        ),
        (
            (Entry(CONFIG_NAME, CONFIG), symlink("x", "y"), symlink("y", "x"), manifest("x")),
            "not there",
        ),
        # Configurations.
        ((Entry("config.json", CONFIG), manifest("config.json")), "does not have its SHA-256"),
        ((Entry(CONFIG_NAME, OTHER), manifest()), f"its SHA-256 is {sha256(OTHER)}"),
        ((Entry(CONFIG_NAME, b"x"), manifest()), "no JSON object"),
        ((Entry(CONFIG_NAME, b"{" + b" " * 5_000_000), manifest()), "of a usual size"),
        (saved(config=b"{}"), "does not say which layers"),
        (saved(config=b"{"), "no JSON"),
        (saved(config=b'{"rootfs": {"diff_ids": [1]}}'), "does not say which layers"),
        # Layers.
        (saved(layer=tar(Entry("etc/two"))), "'a1/layer.tar' is another than"),
        (saved(layer=tar(Entry("../out"))), "in its layer 'a1/layer.tar': .*'../out' leads out"),
        (saved(layer=tar(Entry("/out"))), "in its layer 'a1/layer.tar': .* absolute"),
        (
            saved(layer=tar(Entry("dev/sda", kind=tarfile.BLKTYPE, device=(8, 0)))),
            "in its layer 'a1/layer.tar': 'dev/sda' is a block device",
        ),
        (saved(layer=b"hello"), "in its layer 'a1/layer.tar': it is no tar archive"),
        (saved(layer=LAYER[:700]), "in its layer 'a1/layer.tar': .* cut off"),
        (saved(layer=PACKERS["gzip"](LAYER)[:-1]), "in its layer 'a1/layer.tar': .* cut off"),
        # Members.
        ((*saved(), symlink("x", "/etc/passwd")), "'/etc/passwd' is absolute"),
        ((*saved(), symlink("a1/x", "../../etc/passwd")), "leads out"),
        ((*saved(), hard_link("x", "../x")), "leads out"),
        ((*saved(), Entry("x", kind=tarfile.FIFOTYPE)), "'x' is a fifo"),
        ((*saved(), Entry("n", kind=tarfile.CHRTYPE, device=(1, 3))), "'n' is a character device"),
        ((*saved(), manifest()), "two members with the name 'manifest.json'"),
        ((*saved(), Entry("manifest.json", b"[1]")), "two members with the name 'manifest.json'"),
        ((Entry("manifest.json", b"{}"), *saved()), "two members with the name 'manifest.json'"),
        ((*saved(), Entry("./a1//json", b"{}")), "two members with the name 'a1/json'"),
        ((*saved(), symlink("a1/json", "VERSION")), "two members with the name 'a1/json'"),
    ],
)
def test_an_archive_that_docker_should_not_get(
    tmp_path: Path, entries: tuple[Entry, ...], match: str
) -> None:
    with pytest.raises(BoxError, match=match) as caught:
        inspect(tmp_path, tar(*entries))
    assert caught.value.code == 5


def test_a_bomb_in_a_layer(tmp_path: Path) -> None:
    layer = tar(Entry("etc/zeros", bytes(5_000_000)))
    data = tar(*blobs(PACKERS["gzip"](layer), config_of(layer)))
    assert archive_of(tmp_path, data).unpacked == len(data) + len(layer)
    with pytest.raises(BoxError, match=r"in its layer .* unpacks to more than 1000000 bytes"):
        inspect(tmp_path, data, limits=Limits(unpacked=1_000_000, ratio=1))
    # Each for itself would fit.
    with pytest.raises(BoxError, match="with its layers it unpacks to"):
        inspect(tmp_path, data, room=len(layer) + 100)


def test_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box_archive_docker, "_FILES", 5)
    with pytest.raises(BoxError, match="more than 5 files"):
        inspect(tmp_path, tar(*saved()))


def test_an_archive_that_changes_meanwhile(tmp_path: Path) -> None:
    archive = archive_of(tmp_path, tar(*saved()))
    file = tmp_path / "inner" / "file"
    for data in (
        tar(*saved()[:-3]),
        tar(*saved())[:2000],
        tar(*saved(), Entry("x", bytes(99_999))),
    ):
        file.write_bytes(data)
        with pytest.raises(BoxError, match="changed while it was read"):
            list(box_archive_streams.load_stream(file, archive))
    file.unlink()
    with pytest.raises(BoxError, match="cannot be read"):
        list(box_archive_streams.load_stream(file, archive))
