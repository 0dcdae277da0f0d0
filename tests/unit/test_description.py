from __future__ import annotations

import json
import os
import traceback
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vagrant_kiwi import description_markup
from vagrant_kiwi.description import Description, Repository, mask, read, select, summary
from vagrant_kiwi.description_copy import rewrite
from vagrant_kiwi.errors import DescriptionError
from vagrant_kiwi.mirrors import MirrorChoice

DATA = Path(__file__).parent / "data" / "description"
SECRETS = ("url-secret", "attr-secret", "query-secret", "luks-secret")
MINIMAL = (
    '<image schemaversion="8.5" name="small"><preferences><version>1.0.0</version>'
    '<packagemanager>apt</packagemanager><type image="tbz"/></preferences>{}</image>'
)
REPOSITORY = '<repository {}><source path="http://example.org/debian"/></repository>'


def write(folder: Path, body: str = "", *, name: str = "config.xml") -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(MINIMAL.format(body), encoding="utf-8")
    return file


def failure(folder: Path, kiwi_file: str | None = None) -> DescriptionError:
    with pytest.raises(DescriptionError) as caught:
        read(folder, kiwi_file=kiwi_file)
    assert caught.value.code == 3
    assert str(folder) in str(caught.value) or caught.value.details
    return caught.value


@pytest.fixture
def full() -> Description:
    return read(DATA / "full")


def test_reads_all_of_a_description(full: Description) -> None:
    assert (full.name, full.displayname, full.version) == ("full-test", "Full", "1.2.3")
    assert full.package_manager == "apt"
    assert full.file == DATA / "full" / "config.xml"
    assert full.kiwi_file == "config.xml"
    assert [(one.image, one.primary, one.profiles, one.format) for one in full.types] == [
        ("tbz", False, (), ""),
        ("oem", True, ("Cloud",), "qcow2"),
    ]
    assert [(one.name, one.imported, one.requires) for one in full.profiles] == [
        ("Base", True, ()),
        ("Cloud", False, ("Net",)),
        ("Net", False, ("Cloud",)),
        ("Arm", False, ()),
    ]
    assert [include.path.name for include in full.includes] == ["repositories.xml"]
    assert full.repositories[0] == Repository(
        source="http://example.org/debian",
        kind="apt-deb",
        alias="debian",
        distribution="bookworm",
        components="main contrib",
        image_include=True,
        repository_gpgcheck=True,
        signing_keys=("file:///usr/share/keyrings/k.gpg",),
        priority="5",
    )
    private = full.repositories[1]
    assert (private.username, private.password) == ("bob", "attr-secret")
    assert (private.repository_gpgcheck, private.package_gpgcheck) == (False, None)
    assert private.profiles == ("Cloud", "Net")
    assert [section.kind for section in full.packages] == ["bootstrap", "image", "oem", "delete"]
    assert full.packages[1].archives == ("data.tar",)
    assert full.packages[2].ignored == ("vim",)


def test_secrets_are_in_no_repr_and_no_summary(full: Description) -> None:
    chosen = select(full, profiles=["Cloud"], image_type=None, arch="x86_64")
    shown = json.dumps(summary(full)) + repr(full) + repr(chosen) + repr(chosen.image_type)
    assert [secret for secret in SECRETS if secret in shown] == []
    assert "https://***@example.com/debian?***" in shown


def test_summary_is_json_and_always_the_same(full: Description) -> None:
    told = summary(full)
    assert json.dumps(told) == json.dumps(summary(read(DATA / "full")))
    assert told["includes"] == ["this://repositories.xml"]
    assert told["kiwi_file"] == "config.xml"
    repositories = told["repositories"]
    assert isinstance(repositories, list)
    assert [one["credentials"] for one in repositories] == [False, True, False, False]
    packages = told["packages"]
    assert isinstance(packages, list)
    assert packages[1]["packages"] == ["bash", "grub-arm (aarch64)"]


@pytest.mark.parametrize("markup", ["yaml", "toml", "json"])
def test_every_markup_gives_the_same_description(markup: str) -> None:
    got = read(DATA / markup)
    assert (got.name, got.version, got.package_manager) == ("markup-test", "1.0.0", "apt")
    assert (got.types[0].image, got.types[0].primary) == ("tbz", True)
    assert got.repositories == (Repository("http://example.org/debian", kind="apt-deb"),)
    assert [one.name for one in got.packages[0].packages] == ["bash", "vim"]


@pytest.mark.parametrize("ending", ["xml", "kiwi", "yaml", "toml", "json", ""])
def test_the_content_counts_whatever_the_ending(tmp_path: Path, ending: str) -> None:
    for markup in ("yaml", "json"):
        name = f"{markup}.{ending}"
        (tmp_path / name).write_bytes((DATA / markup / "config.kiwi").read_bytes())
        if (markup, ending) != ("yaml", "toml"):
            assert read(tmp_path, kiwi_file=name).name == "markup-test"
    write(tmp_path, name=f"xml.{ending}")
    assert read(tmp_path, kiwi_file=f"xml.{ending}").name == "small"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "iso-8859-1"])
def test_xml_in_another_encoding(tmp_path: Path, encoding: str) -> None:
    declared = encoding.removesuffix("-sig")
    text = f'<?xml version="1.0" encoding="{declared}"?>' + MINIMAL.format("<!-- ü -->")
    (tmp_path / "config.xml").write_bytes(text.encode(encoding))
    assert read(tmp_path).name == "small"


def test_config_xml_comes_first_then_image_then_kiwi(tmp_path: Path) -> None:
    only = write(tmp_path, name="b.kiwi")
    assert read(tmp_path).file == only
    inner = write(tmp_path, name="image/config.xml")
    assert read(tmp_path).file == inner
    assert read(tmp_path).kiwi_file == "image/config.xml"
    outer = write(tmp_path)
    write(tmp_path, name="a.kiwi")
    assert read(tmp_path).file == outer
    assert read(tmp_path, kiwi_file="b.kiwi").file == only


def test_hidden_files_and_folders_are_no_candidates(tmp_path: Path) -> None:
    (tmp_path / "a.kiwi").mkdir()
    write(tmp_path, name=".b.kiwi")
    only = write(tmp_path, name="c.kiwi")
    assert read(tmp_path).file == only


def test_the_file_itself_may_be_named(tmp_path: Path) -> None:
    file = write(tmp_path, name="odd.name")
    got = read(file)
    assert (got.folder, got.file, got.kiwi_file) == (tmp_path, file, "odd.name")
    assert read(file, kiwi_file="odd.name").file == file
    assert "another one" in failure(file, "b.kiwi").brief


def test_a_relative_folder_becomes_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "d")
    monkeypatch.chdir(tmp_path)
    assert read(Path("d")).file == tmp_path / "d" / "config.xml"


def test_several_kiwi_files_name_them_and_the_flag(tmp_path: Path) -> None:
    write(tmp_path, name="a.kiwi")
    write(tmp_path, name="b.kiwi")
    error = failure(tmp_path)
    assert error.details == "Found: a.kiwi, b.kiwi"
    assert "--kiwi-file=a.kiwi" in error.resolution


def test_no_description_says_what_was_found(tmp_path: Path) -> None:
    assert failure(tmp_path).details == "The folder is empty"
    for number in range(25):
        (tmp_path / f"{number:02}.yaml").touch()
    error = failure(tmp_path)
    assert error.details.startswith("Found: 00.yaml, 01.yaml")
    assert error.details.endswith("and 5 more")
    assert "--kiwi-file" in error.resolution


def test_no_folder(tmp_path: Path) -> None:
    assert failure(tmp_path / "none").brief == f"There is no description {tmp_path / 'none'}"
    assert "There is no description" in failure(tmp_path / "nul\0").brief
    (tmp_path / "file").touch()
    assert "There is no description" in failure(tmp_path / "file" / "below").brief


def test_an_unreadable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> object:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    error = failure(tmp_path)
    assert error.brief == f"The description {tmp_path} cannot be read"
    assert error.details == "Permission denied"


@pytest.mark.parametrize("name", ["../other.kiwi", "/etc/hostname", "a/../../b", ""])
def test_kiwi_file_stays_inside(tmp_path: Path, name: str) -> None:
    write(tmp_path)
    assert "is not a file name" in failure(tmp_path, name).brief


def test_a_kiwi_file_that_is_not_there(tmp_path: Path) -> None:
    write(tmp_path, name="b.kiwi")
    error = failure(tmp_path, "c.kiwi")
    assert (error.brief, error.details) == (f"{tmp_path} holds no file c.kiwi", "Found: b.kiwi")


def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.xml")
    assert "holds no KIWI description" in failure(tmp_path).brief
    assert "holds no file" in failure(tmp_path, "config.xml").brief


def test_a_huge_file(tmp_path: Path) -> None:
    with (tmp_path / "config.xml").open("wb") as stream:
        stream.truncate(description_markup.MAX_BYTES + 1)
    assert "too large" in failure(tmp_path).brief


def test_broken_xml_names_line_and_column(tmp_path: Path) -> None:
    (tmp_path / "config.xml").write_text('<image name="x">\n<a>\n</b></image>')
    error = failure(tmp_path)
    assert "not well-formed XML" in error.brief
    assert error.details.startswith("Line 3, column 5: ")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\xff\xfe", "well-formed"),
        (b'<image name="\xff"/>', "well-formed"),
        (b'<?xml version="1.0" encoding="nonsense"?><image/>', "XML"),
        (b"<html/>", "not a KIWI description"),
        (b"<k:image xmlns:k='urn:k' name='a'/>", "not a KIWI description"),
        (b"", "not a KIWI description"),
        (b"just words", "not a KIWI description"),
        (b"- a\n- b\n", "not a KIWI description"),
        (b"other: {}\n", "not a KIWI description"),
        (b"image: {}\nother: {}\n", "not a KIWI description"),
        (b"image: [{}, {}]\n", "not a KIWI description"),
        (b"image: {'a b': 1}\n", "not a KIWI description"),
        (b"image: {'a><b': 1}\n", "not a KIWI description"),
        (b"image: {'@a=\"': 1}\n", "not a KIWI description"),
        (b"image: {1: x}\n", "not a KIWI description"),
        (b"image: {a: [[b]]}\n", "not a KIWI description"),
        (b"image: {'@a': {b: c}}\n", "not a KIWI description"),
        (b"image: \xff\n", "not UTF-8"),
        (b'image: {a: "\\0"}\n', "characters"),
        (b'{"image": {"a": "\\ud800"}}', "characters"),
        (b"image: {a: 2024-99-99}\n", "YAML"),
        (b"image: !!python/object/apply:os.system [id]\n", "YAML"),
        (b"[image]\na = \n", "TOML"),
        (b'{"image": ', "JSON"),
        (b"image: " + b"[" * 100_000, "nested"),
        (b"image: " + b"{a: " * 100 + b"1" + b"}" * 100, "not a KIWI description"),
        (b'{"image": ' + b'{"a":' * 100_000, "nested"),
        (b"image: &a {b: *a}\n", "not a KIWI description"),
    ],
)
def test_what_is_no_description(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "a.kiwi").write_bytes(content)
    assert expected in failure(tmp_path).brief


def test_broken_yaml_names_the_place_and_no_words_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.kiwi").write_text("image:\n  '@name': x\n  password: *hunter2\n")
    error = failure(tmp_path)
    assert error.details == "Line 3, column 13: found undefined alias '...'"
    assert "hunter2" not in str(error)


def test_broken_toml_and_json_name_the_place(tmp_path: Path) -> None:
    (tmp_path / "a.kiwi").write_text("[image]\nname = x y\n")
    assert "line 2" in failure(tmp_path).details
    (tmp_path / "a.kiwi").write_text('{"image":\n {"a" 1}}')
    assert "line 2 column 7" in failure(tmp_path).details


def test_yaml_aliases_cannot_fill_the_memory(tmp_path: Path) -> None:
    lines = ["image:", "  a0: &a0 {k: x}"]
    lines += [f"  a{n}: &a{n} {{k: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 12)]
    (tmp_path / "a.kiwi").write_text("\n".join(lines))
    assert "too large" in failure(tmp_path).details
    mapping = "&m {" + ", ".join(f"k{n}: []" for n in range(20_000)) + "}"
    (tmp_path / "a.kiwi").write_text(
        "image:\n  first: " + mapping + "\n  more: [" + ", ".join(["*m"] * 20_000) + "]\n"
    )
    assert "too large" in failure(tmp_path).details


@pytest.mark.parametrize(
    "doctype",
    [
        "<!DOCTYPE image>",
        '<!DOCTYPE image SYSTEM "file:///etc/passwd">',
        '<!DOCTYPE image [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE image [<!ENTITY % x SYSTEM "http://example.org/x">%x;]>',
        '<!DOCTYPE image [<!ENTITY a "&b;"><!ENTITY b "&a;">]>',
        "<!DOCTYPE image ["
        + '<!ENTITY x0 "lol">'
        + "".join(f'<!ENTITY x{n} "{f"&x{n - 1};" * 10}">' for n in range(1, 12))
        + '<!ENTITY x "&x11;">]>',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_doctype_is_refused(tmp_path: Path, doctype: str, encoding: str) -> None:
    for body in ("", "<a b='&x;'/>", "<a>&x;</a>", "<a b='&a;'/>"):
        text = f'<?xml version="1.0" encoding="{encoding}"?>{doctype}{MINIMAL.format(body)}'
        (tmp_path / "config.xml").write_bytes(text.encode(encoding))
        assert "DOCTYPE, which is refused" in failure(tmp_path).brief


def test_deep_xml(tmp_path: Path) -> None:
    write(tmp_path, "<a>" * 5000 + "</a>" * 5000)
    assert "well-formed" in failure(tmp_path).brief


@pytest.mark.parametrize("name", ["", "a/b", "../x", ".", "..", "a b", "ä", "a\nb"])
def test_a_name_that_cannot_be_a_file_name(tmp_path: Path, name: str) -> None:
    text = MINIMAL.format("").replace('name="small"', f'name="{name}"')
    (tmp_path / "config.xml").write_text(text, encoding="utf-8")
    assert "no usable name" in failure(tmp_path).brief


def test_missing_name_and_version(tmp_path: Path) -> None:
    text = MINIMAL.format("")
    (tmp_path / "config.xml").write_text(text.replace(' name="small"', ""))
    assert "no usable name" in failure(tmp_path).brief
    (tmp_path / "config.xml").write_text(text.replace("<version>1.0.0</version>", ""))
    assert "no version" in failure(tmp_path).brief
    (tmp_path / "config.xml").write_text(text.replace("1.0.0", "../1"))
    assert "no usable version" in failure(tmp_path).brief


def test_a_repository_without_source_and_a_bad_flag_name_the_line(tmp_path: Path) -> None:
    write(tmp_path, "\n\n<repository/>")
    error = failure(tmp_path)
    assert error.details == f"{tmp_path / 'config.xml'}, <repository> in line 3"
    write(tmp_path, REPOSITORY.format('imageinclude="yes"'))
    assert failure(tmp_path).details.endswith("imageinclude='yes'")


# -- includes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reference",
    ["this://sub/r.xml", "sub/r.xml", "file://./sub/r.xml", "file://{}/sub/r.xml", "{}/sub/r.xml"],
)
def test_includes(tmp_path: Path, reference: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "r.xml").write_text(f"<image>{REPOSITORY.format('')}</image>")
    write(tmp_path, f'<include from="{reference.format(tmp_path)}"/>text after')
    got = read(tmp_path)
    assert [one.source for one in got.repositories] == ["http://example.org/debian"]
    assert [one.path for one in got.includes] == [tmp_path / "sub" / "r.xml"]
    assert got.document.find("include") is None


def test_an_include_stands_where_it_was_written(tmp_path: Path) -> None:
    for name in ("x", "y"):
        repository = REPOSITORY.format(f'alias="{name}"')
        (tmp_path / f"{name}.xml").write_text(f"<image>{repository}</image>")
    one, two = REPOSITORY.format('alias="1"'), REPOSITORY.format('alias="2"')
    write(tmp_path, f'<include from="this://x.xml"/>{one}<include from="this://y.xml"/>{two}')
    assert [repository.alias for repository in read(tmp_path).repositories] == ["x", "1", "y", "2"]


def test_an_include_may_leave_the_folder_as_in_kiwi(tmp_path: Path) -> None:
    (tmp_path / "common.xml").write_text(f"<image>{REPOSITORY.format('')}</image>")
    write(tmp_path / "d", '<include from="this://../common.xml"/>')
    assert [one.path for one in read(tmp_path / "d").includes] == [tmp_path / "common.xml"]


def test_yaml_may_include_xml_but_not_the_other_way_round(tmp_path: Path) -> None:
    (tmp_path / "r.xml").write_text(f"<image>{REPOSITORY.format('')}</image>")
    text = (DATA / "yaml" / "config.kiwi").read_text()
    (tmp_path / "a.kiwi").write_text(text + '  include: {"@from": "this://r.xml"}\n')
    assert len(read(tmp_path).repositories) == 2
    (tmp_path / "r.yaml").write_text(text)
    write(tmp_path, '<include from="this://r.yaml"/>')
    assert "is not XML" in failure(tmp_path).brief


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("this://none.xml", "does not exist"),
        ("file://r.xml", "cannot find the include"),
        ("http://example.org/r.xml", "cannot find the include"),
        ("this://a b.xml", "names no file"),
        ("this://r.xml#part", "names no file"),
        ("this://%C3%A4?", "names no file"),
        ("", "names no file"),
        ("this://sub", "does not exist"),
        ("this://config.xml", "includes itself"),
        ("this://loop.xml", "includes itself"),
        ("this://nested.xml", "inside an included file"),
        ("this://html.xml", "not a KIWI description"),
        ("this://doctype.xml", "DOCTYPE"),
        ("this://broken.xml", "well-formed"),
    ],
)
def test_includes_that_kiwi_cannot_read(tmp_path: Path, reference: str, expected: str) -> None:
    for name, text in {
        "r.xml": "<image/>",
        "loop.xml": '<image><include from="this://loop.xml"/></image>',
        "nested.xml": '<image><include from="this://r.xml"/></image>',
        "html.xml": "<html/>",
        "doctype.xml": "<!DOCTYPE image><image/>",
        "broken.xml": "<image>",
    }.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "sub").mkdir()
    write(tmp_path, f'<include from="{reference}"/>')
    assert expected in failure(tmp_path).brief


def test_an_error_in_an_included_file_names_no_wrong_line(tmp_path: Path) -> None:
    (tmp_path / "r.xml").write_text("\n\n\n<image>\n\n<repository/></image>")
    write(tmp_path, '<include from="this://r.xml"/>')
    assert failure(tmp_path).details.endswith("<repository>")


# -- selection --------------------------------------------------------------------------------


def test_without_profiles_the_imported_ones_apply(full: Description) -> None:
    got = select(full, profiles=[], image_type=None, arch="x86_64")
    assert got.profiles == ("Base",)
    assert got.image_type.image == "tbz"
    assert got.packages == ("base-files", "bash")
    assert [one.alias for one in got.repositories] == ["debian", "later"]
    assert (got.version, got.package_manager) == ("1.2.3", "apt")


def test_named_profiles_bring_what_they_require_and_no_imports(full: Description) -> None:
    got = select(full, profiles=["Cloud"], image_type=None, arch="x86_64")
    assert got.profiles == ("Cloud", "Net")
    assert got.image_type.image == "oem"
    assert got.packages == ("base-files", "bash", "cloud-init")
    assert [(one.alias, one.kind) for one in got.repositories] == [
        ("debian", "apt-deb"),
        ("private", "apt-deb"),
        ("later", "apt-deb"),
    ]


def test_a_named_type_wins_over_the_primary(full: Description) -> None:
    got = select(full, profiles=["Net", "Cloud"], image_type="tbz", arch="x86_64")
    assert got.profiles == ("Net", "Cloud")
    assert got.image_type.image == "tbz"
    assert "cloud-init" not in got.packages


def test_the_architecture_counts(full: Description) -> None:
    got = select(full, profiles=["Arm"], image_type=None, arch="aarch64")
    assert got.profiles == ("Arm",)
    assert "grub-arm" in got.packages
    assert [one.alias for one in got.repositories] == ["debian", "arm", "later"]
    with pytest.raises(DescriptionError, match="no profile 'Arm' for x86_64"):
        select(full, profiles=["Arm"], image_type=None, arch="x86_64")


def test_a_missing_profile_names_the_choices_and_the_nearest(full: Description) -> None:
    with pytest.raises(DescriptionError) as caught:
        select(full, profiles=["Cluod"], image_type=None, arch="x86_64")
    assert caught.value.brief == "The description has no profile 'Cluod'"
    assert caught.value.details.endswith("has the profiles: Base, Cloud, Net")
    assert caught.value.resolution == "Did you mean 'Cloud'?"


@pytest.mark.parametrize(
    ("attributes", "disk", "lvm"),
    [
        ('filesystem="ext4"', "", False),
        ('filesystem="ext4"', "<systemdisk/>", True),
        ('filesystem="btrfs"', '<systemdisk><volume name="home"/></systemdisk>', False),
        ('filesystem="btrfs"', '<systemdisk preferlvm="true"/>', True),
        ('filesystem="btrfs"', '<systemdisk preferlvm="false"/>', False),
    ],
)
def test_volumes_are_lvms_as_kiwi_decides(
    tmp_path: Path, attributes: str, disk: str, lvm: bool
) -> None:
    write(
        tmp_path,
        "<preferences><version>1.0.0</version>"
        f'<type image="oem" {attributes}>{disk}</type></preferences>',
    )
    assert [one.lvm for one in read(tmp_path).types if one.image == "oem"] == [lvm]


def test_a_missing_type_names_the_choices_and_the_nearest(full: Description) -> None:
    with pytest.raises(DescriptionError) as caught:
        select(full, profiles=[], image_type="tbzz", arch="x86_64")
    assert caught.value.brief == "The description has no type 'tbzz' with the profiles Base"
    assert caught.value.details.endswith("has the types: tbz; oem (profiles Cloud)")
    assert caught.value.resolution == "Did you mean 'tbz'?"
    with pytest.raises(DescriptionError, match="no type 'oem'"):
        select(full, profiles=[], image_type="oem", arch="x86_64")


def test_a_profile_that_requires_a_missing_one(tmp_path: Path) -> None:
    profile = '<profile name="a" description="a"><requires profile="b"/></profile>'
    write(tmp_path, f"<profiles>{profile}</profiles>")
    with pytest.raises(DescriptionError, match="no profile 'b', which profile a requires"):
        select(read(tmp_path), profiles=["a"], image_type=None)


def test_a_description_without_any_type(tmp_path: Path) -> None:
    text = MINIMAL.format("").replace('<type image="tbz"/>', "")
    (tmp_path / "config.xml").write_text(text)
    with pytest.raises(DescriptionError, match="no type without a profile"):
        select(read(tmp_path), profiles=[], image_type=None)


def test_one_type_twice_is_refused_as_by_kiwi(tmp_path: Path) -> None:
    write(tmp_path, '<preferences><type image="tbz"/><type image="oem"/></preferences>')
    with pytest.raises(DescriptionError, match="'tbz' is there more than once"):
        select(read(tmp_path), profiles=[], image_type="oem")


def test_the_version_must_apply_too(tmp_path: Path) -> None:
    text = MINIMAL.format('<profiles><profile name="p" description="p"/></profiles>')
    text = text.replace(
        "<preferences>", '<preferences><type image="oci"/></preferences><preferences profiles="p">'
    )
    (tmp_path / "config.xml").write_text(text)
    with pytest.raises(DescriptionError, match="no version"):
        select(read(tmp_path), profiles=[], image_type=None)
    assert select(read(tmp_path), profiles=["p"], image_type="tbz").version == "1.0.0"


def test_kiwi_strips_no_blanks_in_a_list_of_profiles(tmp_path: Path) -> None:
    profiles = "".join(f'<profile name="{name}" description=""/>' for name in "ab")
    write(tmp_path, f"<profiles>{profiles}</profiles>" + REPOSITORY.format('profiles="b, a"'))
    got = read(tmp_path)
    assert select(got, profiles=["a"], image_type=None).repositories == ()
    assert len(select(got, profiles=["b"], image_type=None).repositories) == 1


def test_kind_and_manager_default_as_in_kiwi(tmp_path: Path) -> None:
    text = MINIMAL.format(REPOSITORY.format(""))
    (tmp_path / "config.xml").write_text(text.replace("<packagemanager>apt</packagemanager>", ""))
    got = select(read(tmp_path), profiles=[], image_type=None)
    assert (got.package_manager, got.repositories[0].kind) == ("dnf4", "rpm-md")


# -- secrets ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://example.org/debian", "http://example.org/debian"),
        ("http://example.org:8080/debian", "http://example.org:8080/debian"),
        ("http://u:p@example.org/debian", "http://***@example.org/debian"),
        ("http://token@example.org/debian", "http://***@example.org/debian"),
        ("http://u:p/w@example.org/debian", "http://***@example.org/debian"),
        ("http://u:p@w?x#y@example.org/", "http://***@example.org/"),
        ("https://example.org/d?token=1", "https://example.org/d?***"),
        ("https://example.org/d@1", "https://example.org/d@1"),
        ("obs://Virtualization:Appliances/x", "obs://Virtualization:Appliances/x"),
        ("dir:///srv/repo", "dir:///srv/repo"),
        ("/srv/repo", "/srv/repo"),
        ("http://[::1/", "http://[::1/"),
    ],
)
def test_mask(url: str, shown: str) -> None:
    assert mask(url) == shown


@given(st.text(min_size=1), st.sampled_from(["http", "https", "ftp"]))
def test_no_password_survives_masking(password: str, scheme: str) -> None:
    secret = f"<{password}>"
    repository = Repository(f"{scheme}://user:{secret}@example.org/d", password=secret)
    assert secret not in repository.public_source
    assert secret not in repr(repository)
    assert repository.has_credentials


# -- robustness -------------------------------------------------------------------------------


@given(st.binary(max_size=300), st.sampled_from(["config.xml", "a.kiwi", "a.toml", "a.yaml"]))
def test_any_bytes_are_a_description_or_a_description_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, name: str
) -> None:
    folder = tmp_path_factory.mktemp("d")
    (folder / name).write_bytes(data)
    with pytest.raises(DescriptionError):
        read(folder, kiwi_file=name)


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
_TREES = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=6) | st.sampled_from(["@name", "#text", "a"]), inner)
    ),
    max_leaves=20,
)


@given(_TREES)
def test_any_json_is_a_description_or_a_description_error(
    tmp_path_factory: pytest.TempPathFactory, tree: object
) -> None:
    folder = tmp_path_factory.mktemp("d")
    (folder / "a.kiwi").write_text(json.dumps({"image": tree}))
    try:
        read(folder)
    except DescriptionError as error:
        assert error.brief
    except Exception:
        pytest.fail(traceback.format_exc())


@given(st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]), max_size=40))
def test_text_comes_back_from_json_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    if any(char in text for char in "\ufffe\uffff"):
        return
    folder = tmp_path_factory.mktemp("d")
    tree = json.loads((DATA / "json" / "config.kiwi").read_text())
    tree["image"]["@displayname"] = text
    tree["image"]["packages"]["package"][0]["#text"] = text
    (folder / "a.kiwi").write_text(json.dumps(tree))
    got = read(folder)
    assert got.displayname == text
    assert (got.document.findtext("packages/package") or "") == text


# -- the copy ---------------------------------------------------------------------------------


def choice(folder: Path, index: int, to: str = "http://mirror.example.com/debian") -> MirrorChoice:
    return MirrorChoice(read(folder).repositories[index], to)


def test_a_plain_description_is_left_alone(tmp_path: Path) -> None:
    before = write(tmp_path).read_bytes()
    assert rewrite(tmp_path, "config.xml", ()) == "config.xml"
    assert (tmp_path / "config.xml").read_bytes() == before


def test_the_source_is_replaced_and_all_else_kept(tmp_path: Path) -> None:
    attributes = 'type="apt-deb" alias="d" distribution="sid" priority="7" customize="x.sh"'
    write(
        tmp_path,
        f'<!-- note --><repository {attributes}><source path="http://example.org/debian">'
        '<signing key="file:///k.gpg"/></source></repository>',
    )
    before = read(tmp_path).repositories[0]
    assert rewrite(tmp_path, "config.xml", [choice(tmp_path, 0)]) == "config.xml"
    text = (tmp_path / "config.xml").read_text()
    assert (
        f'<!-- note --><repository {attributes}><source path="http://mirror.example.com/debian">'
        '<signing key="file:///k.gpg"/></source></repository>' in text
    )
    after = read(tmp_path).repositories
    assert len(after) == 1
    assert after[0].signing_keys == before.signing_keys


def test_a_repository_of_the_image_is_split(tmp_path: Path) -> None:
    write(
        tmp_path,
        REPOSITORY.format('alias="a" imageinclude="true"') + REPOSITORY.format('alias="b"'),
    )
    rewrite(tmp_path, "config.xml", [choice(tmp_path, 0)])
    got = read(tmp_path)
    assert [
        (one.alias, one.source, one.image_include, one.image_only) for one in got.repositories
    ] == [
        ("a", "http://mirror.example.com/debian", False, False),
        ("a", "http://example.org/debian", False, True),
        ("b", "http://example.org/debian", False, False),
    ]
    assert "imageinclude" not in (tmp_path / "config.xml").read_text()


def test_credentials_go_only_to_their_own_server(tmp_path: Path) -> None:
    body = REPOSITORY.format('username="u" password="p" imageinclude="true"')
    write(tmp_path, body)
    rewrite(tmp_path, "config.xml", [choice(tmp_path, 0)])
    build, image = read(tmp_path).repositories
    assert (build.username, build.password) == ("", "")
    assert (image.username, image.password) == ("u", "p")
    write(tmp_path, body)
    rewrite(tmp_path, "config.xml", [choice(tmp_path, 0, "https://example.org/other")])
    assert read(tmp_path).repositories[0].password == "p"


def test_only_the_chosen_one_of_two_alike_changes(tmp_path: Path) -> None:
    write(tmp_path, REPOSITORY.format('distribution="a"') + REPOSITORY.format('distribution="b"'))
    rewrite(tmp_path, "config.xml", [choice(tmp_path, 1)])
    assert [one.source for one in read(tmp_path).repositories] == [
        "http://example.org/debian",
        "http://mirror.example.com/debian",
    ]


def test_the_same_repository_twice_changes_twice(tmp_path: Path) -> None:
    write(tmp_path, REPOSITORY.format("") * 2)
    rewrite(tmp_path, "config.xml", [choice(tmp_path, 0), choice(tmp_path, 1)])
    sources = [one.source for one in read(tmp_path).repositories]
    assert sources == ["http://mirror.example.com/debian"] * 2


def test_a_kind_filled_in_by_the_selection_still_matches(tmp_path: Path) -> None:
    write(tmp_path, REPOSITORY.format(""))
    selected = select(read(tmp_path), profiles=[], image_type=None).repositories[0]
    rewrite(tmp_path, "config.xml", [MirrorChoice(selected, "http://mirror.example.com/x")])
    got = read(tmp_path).repositories[0]
    assert (got.source, got.kind) == ("http://mirror.example.com/x", "")


def test_includes_end_up_in_the_main_file(tmp_path: Path) -> None:
    shared = tmp_path / "common.xml"
    shared.write_text(f"<image>{REPOSITORY.format('')}</image>")
    copied = tmp_path / "d"
    write(copied, '<include from="this://../common.xml"/>')
    chosen = choice(copied, 0)
    before = shared.read_bytes()
    rewrite(copied, "config.xml", [chosen])
    got = read(copied)
    assert (got.includes, got.repositories[0].source) == ((), chosen.replacement)
    assert shared.read_bytes() == before


def test_what_leads_out_of_the_folder_is_followed_from_the_original(tmp_path: Path) -> None:
    (tmp_path / "common.xml").write_text(f"<image>{REPOSITORY.format('')}</image>")
    original = write(tmp_path / "d", '<include from="this://../common.xml"/>')
    copied = tmp_path / "elsewhere" / "copy"
    copied.mkdir(parents=True)
    (copied / "config.xml").write_bytes(original.read_bytes())
    with pytest.raises(DescriptionError, match="does not exist"):
        rewrite(copied, "config.xml", ())
    before = original.read_bytes()
    chosen = choice(tmp_path / "d", 0)
    assert rewrite(copied, "config.xml", [chosen], original=tmp_path / "d") == "config.xml"
    assert read(copied).repositories[0].source == chosen.replacement
    assert original.read_bytes() == before


def test_a_symlink_to_the_main_file_becomes_a_file(tmp_path: Path) -> None:
    write(tmp_path / "shared", name="base.xml")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "config.xml").symlink_to("../shared/base.xml")
    copied = tmp_path / "elsewhere" / "copy"
    copied.mkdir(parents=True)
    (copied / "config.xml").symlink_to("../shared/base.xml")
    assert rewrite(copied, "config.xml", (), original=tmp_path / "d") == "config.xml"
    assert read(copied).name == "small"


def test_includes_are_put_in_place_without_a_mirror_too(tmp_path: Path) -> None:
    (tmp_path / "r.xml").write_text(f"<image>{REPOSITORY.format('')}</image>")
    write(tmp_path, '<include from="r.xml"/>')
    assert rewrite(tmp_path, "config.xml", ()) == "config.xml"
    assert "include" not in (tmp_path / "config.xml").read_text()
    assert len(read(tmp_path).repositories) == 1


@pytest.mark.parametrize("markup", ["yaml", "toml", "json"])
@pytest.mark.parametrize("name", ["config.kiwi", "config.xml", "config.{}"])
def test_other_markups_become_xml_under_a_name_that_kiwi_takes_for_xml(
    tmp_path: Path, markup: str, name: str
) -> None:
    name = name.format(markup)
    (tmp_path / name).write_bytes((DATA / markup / "config.kiwi").read_bytes())
    before = read(tmp_path, kiwi_file=name)
    moved = MirrorChoice(before.repositories[0], "http://mirror.example.com/x")
    new = rewrite(tmp_path, name, [moved])
    assert new == (f"{name}.kiwi" if name.endswith(markup) else name)
    assert (tmp_path / new).read_bytes().startswith(b"<?xml")
    after = read(tmp_path, kiwi_file=new)
    assert after.repositories[0].source == "http://mirror.example.com/x"
    assert (after.name, after.types, after.packages) == (before.name, before.types, before.packages)


def test_a_new_name_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes((DATA / "yaml" / "config.kiwi").read_bytes())
    (tmp_path / "c.yaml.kiwi").write_text("mine")
    with pytest.raises(DescriptionError, match=r"c\.yaml\.kiwi is in the way"):
        rewrite(tmp_path, "c.yaml", ())
    assert (tmp_path / "c.yaml.kiwi").read_text() == "mine"


def test_a_symlink_is_replaced_and_its_target_not_touched(tmp_path: Path) -> None:
    original = write(tmp_path / "original", REPOSITORY.format(""))
    before = original.read_bytes()
    copied = tmp_path / "copy"
    copied.mkdir()
    (copied / "config.xml").symlink_to(original)
    rewrite(copied, "config.xml", [choice(copied, 0)])
    assert original.read_bytes() == before
    assert not (copied / "config.xml").is_symlink()
    assert read(copied).repositories[0].source == "http://mirror.example.com/debian"


def test_a_symlinked_folder_is_not_written_through(tmp_path: Path) -> None:
    original = write(tmp_path / "original", REPOSITORY.format(""))
    before = original.read_bytes()
    copied = tmp_path / "copy"
    copied.mkdir()
    (copied / "image").symlink_to(tmp_path / "original")
    with pytest.raises(DescriptionError, match="outside of the description"):
        rewrite(copied, "image/config.xml", [choice(copied, 0)])
    assert original.read_bytes() == before
    assert [path.name for path in copied.iterdir()] == ["image"]


def test_the_mode_is_kept_and_nothing_else_is_left(tmp_path: Path) -> None:
    file = write(tmp_path, REPOSITORY.format('password="p"'))
    file.chmod(0o640)
    rewrite(tmp_path, "config.xml", [choice(tmp_path, 0)])
    assert file.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["config.xml"]


def test_a_copy_that_differs_from_the_plan(tmp_path: Path) -> None:
    file = write(tmp_path, REPOSITORY.format(""))
    before = file.read_bytes()
    chosen = MirrorChoice(Repository("http://u:secret@example.org/gone"), "http://m.example.com/")
    with pytest.raises(DescriptionError, match="not the one that was planned") as caught:
        rewrite(tmp_path, "config.xml", [chosen])
    assert "secret" not in str(caught.value)
    assert file.read_bytes() == before
