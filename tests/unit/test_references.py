"""What a description needs from outside of its folder, in real trees; the guest is a folder."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit import plans
from vagrant_kiwi import (
    app,
    description,
    description_copy,
    kiwi,
    links,
    mirrors,
    plan,
    references,
)
from vagrant_kiwi.description import Repository
from vagrant_kiwi.description_model import FileChoice, MirrorChoice
from vagrant_kiwi.errors import DescriptionError
from vagrant_kiwi.settings import Settings

GUEST = "/guest/description"
FOLDER = "/guest/references"
MAIN = """<image schemaversion="8.0" name="i">
    <profiles>
        <profile name="small" description="s"/><profile name="big" description="b"/>
    </profiles>
    <preferences><version>1</version><packagemanager>apt</packagemanager>
        <type image="tbz"/></preferences>
    {}
    <packages type="bootstrap"><package name="bash"/></packages>
</image>
"""


def write(folder: Path, body: str = "", *, name: str = "config.xml") -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(MAIN.format(body))
    return folder


def repo(source: str, more: str = "", keys: Sequence[str] = ()) -> str:
    inside = "".join(f'<signing key="{key}"/>' for key in keys)
    return f'<repository {more}><source path="{source}">{inside}</source></repository>'


def find(
    folder: Path,
    *,
    state: Path | None = None,
    mapping: mirrors.MirrorSetting = "auto",
    synced: Sequence[str] = (),
    profiles: Sequence[str] = (),
) -> references.References:
    read = description.read(folder)
    return references.find(
        read,
        description.select(read, profiles=profiles, image_type=None),
        guest=GUEST,
        folder=FOLDER,
        state=state or folder.parent / "state",
        mapping=mapping,
        synced=synced,
    )


def problems(folder: Path, **given: object) -> list[str]:
    with pytest.raises(DescriptionError) as raised:
        find(folder, **given)  # type: ignore[arg-type]
    assert raised.value.code == 3
    assert raised.value.resolution
    return raised.value.details.splitlines()


def replacements(found: references.References) -> dict[str, str]:
    return {one.original.source: one.replacement for one in found.repositories}


def pushes(found: references.References) -> dict[str, Path]:
    return {one.target: one.source for one in found.pushes}


def write_files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


NOTHING = references.References((), (), (), ())


# Repositories


def test_remote_repositories_and_those_in_the_description_need_nothing(tmp_path: Path) -> None:
    body = "".join(
        repo(source)
        for source in (
            "http://example.com/x",
            "obs://Project/repo",
            "this://repo",
            "this://sub/../repo",
            "this://a-script-makes-it",
            "http://[broken",
        )
    )
    folder = write(tmp_path / "d", body)
    write_files(folder, "repo/Packages", "sub/x")
    assert find(folder) == NOTHING


@pytest.mark.parametrize(
    "source", ["dir://{}", "dir:{}", "file://{}", "file://localhost{}", "{}", "dir://{}/?x#y"]
)
def test_a_repository_of_this_host_is_pushed_and_named_anew(tmp_path: Path, source: str) -> None:
    lies = write_files(tmp_path / "repo", "Packages")
    source = source.format(lies)
    found = find(write(tmp_path / "d", repo(source)))
    assert found.pushes == (links.Push(lies, f"{FOLDER}/0"),)
    assert replacements(found) == {source: f"dir://{FOLDER}/0"}


def test_this_that_leaves_the_description_is_pushed(tmp_path: Path) -> None:
    write_files(tmp_path, "repo/Packages")
    folder = write(tmp_path / "d", repo("this://../repo") + repo(f"this://{tmp_path}/repo"))
    found = find(folder)
    assert pushes(found) == {f"{FOLDER}/0": tmp_path / "repo"}
    assert set(replacements(found).values()) == {f"dir://{FOLDER}/0"}


def test_this_counts_from_the_folder_of_the_main_file(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", repo("this://../repo"), name="image/config.xml")
    write_files(folder, "repo/Packages")
    assert find(folder) == NOTHING


def test_this_below_a_link_that_is_replaced_is_pushed_once(tmp_path: Path) -> None:
    write_files(tmp_path, "shared/repo/Packages")
    folder = write(tmp_path / "d", repo("this://data/repo"))
    (folder / "data").symlink_to("../shared")
    found = find(folder)
    assert pushes(found) == {f"{GUEST}/data": tmp_path / "shared"}
    assert found.repositories == ()


def test_this_through_a_link_of_an_overlay_tree_is_pushed(tmp_path: Path) -> None:
    write_files(tmp_path, "repo/Packages")
    folder = write(tmp_path / "d", repo("this://root/srv"))
    (folder / "root").mkdir()
    (folder / "root/srv").symlink_to(tmp_path / "repo")
    assert pushes(find(folder)) == {f"{FOLDER}/0": tmp_path / "repo"}


def test_repositories_that_are_not_built_from_are_left_alone(tmp_path: Path) -> None:
    body = repo("dir:///nowhere/a", 'imageonly="true"', ["file:///nowhere/k"])
    body += repo("dir:///nowhere/b", 'profiles="big"')
    assert find(write(tmp_path / "d", body), profiles=["small"]) == NOTHING


def test_all_that_cannot_be_brought_in_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = write(
        tmp_path / "d",
        repo("dir:///nowhere/a")
        + repo("dir://nowhere/b")
        + repo("dir:relative")
        + repo("iso:///nowhere/c.iso")
        + repo("obsrepositories:/")
        + repo(f"dir://{tmp_path}/file")
        + '<packages type="image"><archive name="/nowhere/d.tar"/><file name="/etc/e"/></packages>',
    )
    (folder / "link").symlink_to("/nowhere/f")
    named = problems(folder)
    assert len(named) == 9
    assert named[0] == f"{folder}/link -> /nowhere/f: there is no such file or folder on this host"
    for line, name in zip(
        named[1:],
        [
            "dir:///nowhere/a: there is no such",
            "write three slashes",
            "dir:relative: KIWI takes no relative",
            "iso:///nowhere/c.iso: KIWI reads no iso:",
            "obsrepositories:/: only a worker",
            "is a file, not the folder",
            "<archive> /nowhere/d.tar: there is no such",
            "<file> /etc/e: KIWI finds no absolute path",
        ],
        strict=True,
    ):
        assert name in line


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("dir:///", "folder of the system"),
        ("dir:///usr", "folder of the system"),
        ("file:///proc/self", "folder of the system"),
        ("dir://{}", "holds the description"),
        ("dir://{}/d", "holds the description"),
        ("this://..", "holds the description"),
        ("dir://{}/state", "state folder"),
        ("dir://{}/pipe", "neither a folder nor a file"),
        ("dir://{}/loop", "in a circle"),
        ("dir://{}/d/config.xml/x", "no such file"),
        ("dir://{}/" + "x" * 300, "too long"),
    ],
)
def test_what_is_no_repository_is_refused(tmp_path: Path, source: str, why: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "state").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (line,) = problems(write(tmp_path / "d", repo(source.format(tmp_path))))
    assert why in line


def test_a_password_is_not_shown(tmp_path: Path) -> None:
    (line,) = problems(write(tmp_path / "d", repo("dir://me:s3cret@host/nowhere")))
    assert "s3cret" not in line


def test_what_sync_brings_is_in_the_guest(tmp_path: Path) -> None:
    body = repo("dir:///srv/repo/sub", "", ["file:///srv/repo/k"])
    body += '<packages type="image"><archive name="/srv/repo/a.tar"/></packages>'
    assert find(write(tmp_path / "d", body), synced=["/srv/repo"]) == NOTHING
    assert problems(write(tmp_path / "d", body), synced=["/srv/rep"])


def test_the_setting_mirrors_goes_before_where_a_repository_lies(tmp_path: Path) -> None:
    write_files(tmp_path, "mirror/debian/InRelease")
    folder = write(
        tmp_path / "d", repo("http://example.com/debian") + repo("dir:///nowhere") + repo("iso:/x")
    )
    mapping = {
        "http://example.com": f"dir://{tmp_path}/mirror",
        "dir:///nowhere": "http://example.com/other",
        "iso:": "http://example.com/iso",
    }
    found = find(folder, mapping=mapping)
    assert pushes(found) == {f"{FOLDER}/0": tmp_path / "mirror/debian"}
    assert replacements(found) == {"http://example.com/debian": f"dir://{FOLDER}/0"}


def test_local_repositories_are_not_asked_for_mirrors(tmp_path: Path) -> None:
    def probe(url: str, timeout: float) -> bool:
        raise AssertionError(f"asked {url} for {timeout} s")

    sources = ("dir:///srv/x", "file:///srv/x", "/srv/x", "this://x", "dir://host/x")
    used = [Repository(one, kind="apt-deb", distribution="d") for one in sources]
    assert mirrors.choose(used, "auto", probe=probe, host_mirrors=tuple) == ()


# Keys and archives


def test_keys_and_archives_of_this_host_are_pushed_and_named_anew(tmp_path: Path) -> None:
    write_files(tmp_path, "keys/my key.asc", "tools.tar.gz", "shared.asc")
    key = f"file://{tmp_path}/keys/my key.asc"
    keys = [
        key,
        "file:///usr/share/keyrings/debian-archive-keyring.gpg",
        "file:///nowhere/k.asc",
        "this://in.asc",
        "this://../shared.asc",
        "https://example.com/k",
    ]
    body = repo("http://example.com/x", "", keys[1:])
    body += repo("http://example.com/y", 'imageonly="true"', keys)
    body += f'<packages type="image"><archive name="{tmp_path}/tools.tar.gz"/></packages>'
    body += '<packages type="image"><archive name="in.tar"/><file name="in"/></packages>'
    body += '<packages type="image" profiles="big"><archive name="/nowhere/x"/></packages>'
    body += '<packages type="iso"><archive name="/nowhere/y"/></packages>'
    folder = write_files(write(tmp_path / "d", body), "in.asc")
    found = find(folder)
    assert found.files == (
        FileChoice("this://../shared.asc", f"file://{FOLDER}/0/shared.asc"),
        FileChoice(key, f"file://{FOLDER}/1/my_key.asc"),
        FileChoice(f"{tmp_path}/tools.tar.gz", f"{FOLDER}/2/tools.tar.gz"),
    )
    assert pushes(found) == {
        f"{FOLDER}/0/shared.asc": tmp_path / "shared.asc",
        f"{FOLDER}/1/my_key.asc": tmp_path / "keys/my key.asc",
        f"{FOLDER}/2/tools.tar.gz": tmp_path / "tools.tar.gz",
    }


def test_the_pushed_copy_names_what_the_guest_has(tmp_path: Path) -> None:
    lies = write_files(tmp_path / "repo", "Packages", "k.asc")
    body = '<include from="../more.xml"/>' + repo(
        f"dir://{lies}", 'imageinclude="true"', [f"file://{lies}/k.asc"]
    )
    folder = write(tmp_path / "d", body)
    (tmp_path / "more.xml").write_text(
        f'<image><packages type="image"><archive name="{lies}/Packages"/></packages></image>'
    )
    found = find(folder)
    copy = tmp_path / "copy"
    copy.mkdir()
    written = description_copy.rewrite(
        copy, "config.xml", found.repositories, original=folder, files=found.files
    )
    text = (copy / written).read_text()
    assert "<include" not in text
    assert f'<archive name="{FOLDER}/2/Packages"/>' in text
    assert text.count(f'<source path="dir://{FOLDER}/0">') == 1
    # The image keeps what was written.
    assert re.search(f'<repository imageonly="true"><source path="dir://{lies}">', text)
    assert f'key="file://{FOLDER}/1/k.asc"' in text


def test_a_file_that_is_gone_meanwhile_is_an_error(tmp_path: Path) -> None:
    folder = write(tmp_path / "d")
    with pytest.raises(DescriptionError, match="not the one that was planned"):
        description_copy.rewrite(folder, "config.xml", (), files=[FileChoice("/a", "/b")])


# Symlinks


def test_links_that_work_in_the_copy_and_links_of_the_image_stay(tmp_path: Path) -> None:
    folder = write_files(write(tmp_path / "d"), "sub/file")
    for name, target in {
        "inside": "sub/file",
        "sub/up": "../sub/./file",
        "sub/self": ".",
        "over": "inside",
        "dangling": "missing/file",
        ".#lock": "me@host.1:2",
        "null": "/dev/null",
        "root/etc/localtime": "/usr/share/zoneinfo/UTC",
        "root/nowhere": "/nowhere",
        "root/out": "../../../x",
        "root/loop": "loop",
        "big/out": "/nowhere",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(target)
    assert find(folder) == NOTHING


def test_what_leaves_the_description_is_pushed_in_its_place(tmp_path: Path) -> None:
    write_files(tmp_path, "shared/a", "shared/sub/b", "far/c", "far/plain")
    (tmp_path / "shared/sub/link").symlink_to("../../far")
    (tmp_path / "shared/near").symlink_to("sub/b")
    folder = write_files(write(tmp_path / "d"), "sub/own")
    (folder / "file[1]").symlink_to("../far/c")
    (folder / "data").symlink_to("../shared")
    (folder / "own").symlink_to(folder / "sub")
    (folder / "deep").symlink_to("data/sub/b")
    (folder / "back").symlink_to("../d/sub/own")
    found = find(folder)
    assert set(found.exclude) == {r"/file\[1]", "/data", "/own", "/deep", "/back"}
    assert pushes(found) == {
        f"{GUEST}/back": folder / "sub/own",
        f"{GUEST}/data": tmp_path / "shared",
        f"{GUEST}/data/sub/link": tmp_path / "far",
        f"{GUEST}/deep": tmp_path / "shared/sub/b",
        f"{GUEST}/file[1]": tmp_path / "far/c",
        f"{GUEST}/own": folder / "sub",
    }
    order = [one.target for one in found.pushes]
    assert order.index(f"{GUEST}/data") < order.index(f"{GUEST}/data/sub/link")
    (data,) = [one for one in found.pushes if one.target == f"{GUEST}/data"]
    assert data.exclude == ("/sub/link",)


@pytest.mark.parametrize("name", ["root", "small"])
def test_an_overlay_tree_may_be_a_link_and_its_links_stay(tmp_path: Path, name: str) -> None:
    write_files(tmp_path, "shared/etc/motd")
    (tmp_path / "shared/etc/localtime").symlink_to("/nowhere/UTC")
    folder = write(tmp_path / "d")
    (folder / name).symlink_to("../shared")
    found = find(folder)
    assert found.pushes == (links.Push(tmp_path / "shared", f"{GUEST}/{name}"),)
    assert found.exclude == (f"/{name}",)


def test_an_overlay_tree_that_is_linked_inside_keeps_its_links(tmp_path: Path) -> None:
    folder = write_files(write(tmp_path / "d"), "trees/one/etc/motd")
    (folder / "trees/one/etc/localtime").symlink_to("/nowhere/UTC")
    (folder / "root").symlink_to("trees/one")
    assert find(folder) == NOTHING


def test_overlay_trees_lie_beside_the_main_file(tmp_path: Path) -> None:
    folder = write_files(write(tmp_path / "d", name="image/config.xml"), "image/root/x")
    (folder / "image/root/link").symlink_to("/nowhere")
    assert find(folder) == NOTHING
    (folder / "root").mkdir()
    (folder / "root/link").symlink_to("/nowhere")
    assert len(problems(folder)) == 1


def test_links_that_cannot_be_followed_are_named_each(tmp_path: Path) -> None:
    folder = write(tmp_path / "d")
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/again").symlink_to(tmp_path / "shared")
    os.mkfifo(tmp_path / "pipe")
    for name, target in {
        "a": "b",
        "b": "a",
        "c": "../nowhere",
        "e": "..",
        "f": "/",
        "g": "../shared",
        "h": str(folder),
        "i": "../pipe",
        "j": "/proc/self/status",
    }.items():
        (folder / name).symlink_to(target)
    named = problems(folder)
    for name, why in {
        "a -> b": "in a circle",
        "b -> a": "in a circle",
        "c -> ../nowhere": "no such file",
        "e -> ..": "holds the description",
        "f -> /": "folder of the system",
        "shared/again": "without end",
        f"h -> {folder}": "holds the description",
        "i -> ../pipe": "neither a folder",
        "j -> /proc/self/status": "folder of the system",
    }.items():
        assert sum(name in line and why in line for line in named) == 1, (name, named)
    assert len(named) == 9


def test_trees_that_lead_into_each_other_end(tmp_path: Path) -> None:
    write_files(tmp_path, "one/x", "two/y")
    (tmp_path / "one/two").symlink_to("../two")
    (tmp_path / "two/one").symlink_to("../one")
    folder = write(tmp_path / "d", repo(f"dir://{tmp_path}/one"))
    (folder / "one").symlink_to("../one")
    named = problems(folder)
    assert named
    assert all("without end" in line for line in named)


def test_what_cannot_be_read_is_named() -> None:
    # Not in tmp_path, through which nobody else can pass: root reads everything, so it steps down.
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        folder = write_files(write(Path(name, "d")), "closed/x")
        (folder / "link").symlink_to("closed/x")
        (folder / "closed").chmod(0)
        user = os.geteuid()
        try:
            if user == 0:
                os.seteuid(65534)
            named = problems(folder)
        finally:
            os.seteuid(user)
            (folder / "closed").chmod(0o755)
    assert len(named) == 2


def test_our_own_state_stays_on_the_host(tmp_path: Path) -> None:
    folder = write(tmp_path / "site/d")
    inside = write_files(folder / ".state*", "result/image.tar", "secret").resolve()
    (inside / "out").symlink_to("/nowhere")
    (folder / "base.tar").symlink_to(".state*/result/image.tar")
    found = find(folder, state=inside)
    assert found.exclude == (r"/.state\*", "/base.tar")
    assert pushes(found) == {f"{GUEST}/base.tar": inside / "result/image.tar"}
    (folder / "base.tar").unlink()

    beside = write_files(tmp_path / "data/state", "secret")
    (folder / "data").symlink_to("../../data")
    (folder / "root").symlink_to("../../data")
    shutil.rmtree(inside)
    found = find(folder, state=beside)
    # Whether as an overlay tree or not.
    assert {one.exclude for one in found.pushes} == {("/state",)}
    (folder / "state").symlink_to(beside)
    (line,) = problems(folder, state=beside)
    assert "state folder" in line


def test_a_name_that_is_no_text_is_no_traceback(tmp_path: Path) -> None:
    folder = write(tmp_path / "d")
    (folder / os.fsdecode(b"link\xff")).symlink_to(os.fsdecode(b"/nowhere\xff"))
    assert len(problems(folder)) == 1


# Any shape: the copy reads as the original does


NAMES = ("a", "b", "c")
#: The description and two folders beside it.
TOPS = ("d", "x", "y")
PLACES = [
    "/".join(parts) for depth in (1, 2) for parts in itertools.product(TOPS, *[NAMES] * depth)
]
#: What lies where: nothing is a file; otherwise a link to a place, absolute or not.
SHAPES = st.dictionaries(
    st.sampled_from(PLACES),
    st.none() | st.tuples(st.sampled_from([*PLACES, *TOPS]), st.booleans()),
    min_size=3,
    max_size=15,
)


def push(source: Path, target: Path, exclude: Sequence[str]) -> None:
    """Do what ``Guest.push`` does, for names without wildcards."""
    if source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        return
    for entry in source.rglob("*"):
        inside = entry.relative_to(source)
        if any(f"/{inside}/".startswith(f"{one}/") for one in exclude):
            continue
        place = target / inside
        place.parent.mkdir(parents=True, exist_ok=True)
        assert not place.parent.is_symlink()
        if entry.is_symlink():
            place.symlink_to(entry.readlink())
        elif entry.is_file():
            shutil.copyfile(entry, place)
        else:
            place.mkdir(exist_ok=True)


def reading(root: Path, *, depth: int = 5) -> dict[str, str]:
    """Return what a reader finds who follows links, so deep."""
    found: dict[str, str] = {}
    for path in sorted(root.iterdir()) if depth else ():
        if path.is_file():
            found[path.name] = path.read_text()
        elif path.is_dir():
            inner = reading(path, depth=depth - 1)
            found |= {f"{path.name}/{name}": text for name, text in inner.items()}
    return found


def build(here: Path, shape: Mapping[str, tuple[str, bool] | None]) -> None:
    """Make a drawn shape, without what has no place in it, and without links to nothing."""
    for top in TOPS:
        (here / top).mkdir(parents=True)
    made = []
    for place, what in sorted(shape.items(), key=lambda entry: entry[0].count("/")):
        path = here / place
        if not os.path.lexists(path.parent):
            path.parent.mkdir()
        if path.parent.is_symlink() or not path.parent.is_dir():
            continue
        if what is None:
            path.write_text(place)
        else:
            target = here / what[0]
            path.symlink_to(target if what[1] else os.path.relpath(target, path.parent))
            made.append(path)
    for _ in range(len(made)):
        for path in made:
            if path.is_symlink() and not os.path.exists(path):  # noqa: PTH110 # also in a circle
                path.unlink()


@given(shape=SHAPES)
def test_the_copy_reads_as_the_original(shape: dict[str, tuple[str, bool] | None]) -> None:
    with tempfile.TemporaryDirectory() as name:
        host, guest = Path(name).resolve() / "host", Path(name).resolve() / "guest/description"
        here = host / "deep"
        build(here, shape)
        tree = links.scan(
            here / "d", str(guest), links.Bounds(here / "d", host / "state", frozenset())
        )
        if tree.problems:
            return
        before = reading(here / "d")
        guest.mkdir(parents=True)
        push(here / "d", guest, tree.exclude)
        for one in tree.pushes:
            push(one.source, Path(one.target), one.exclude)
        # Whatever still leads back to the host leads nowhere now.
        host.rename(host.with_name("gone"))
        assert reading(guest) == before


def test_a_main_file_that_is_a_link_arrives(tmp_path: Path) -> None:
    write(tmp_path / "shared")
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "config.xml").symlink_to("../shared/config.xml")
    found = find(folder)
    assert found.exclude == ("/config.xml",)
    assert pushes(found) == {f"{GUEST}/config.xml": tmp_path / "shared/config.xml"}


# The plan


def decide(folder: Path, tmp_path: Path) -> plan.BuildPlan:
    read = description.read(folder)
    return plan.make_plan(
        Settings(state_dir=tmp_path / "state"),
        read,
        description.select(read, profiles=(), image_type=None),
        run_id="r1",
        facts=plans.FREE,
        kiwi_build=kiwi.parse_build_options((), cwd=tmp_path, files_dir="/files"),
        box="debian-bookworm",
    )


def test_the_plan_says_what_is_brought_in(tmp_path: Path) -> None:
    lies = write_files(tmp_path / "repo", "Packages")
    folder = write(tmp_path / "d", repo(f"dir://{lies}") + repo("http://example.com/x"))
    (folder / "data").symlink_to(lies)
    decided = decide(folder, tmp_path)
    run = "/var/lib/vagrant-kiwi/r1"
    assert decided.sync[0].exclude == ("/data",)
    assert app.plan_summary(decided)["references"] == {
        "pushed": [
            {"source": str(lies), "target": f"{run}/description/data", "exclude": []},
            {"source": str(lies), "target": f"{run}/references/0", "exclude": []},
        ],
        "renamed": {f"dir://{lies}": f"dir://{run}/references/0"},
    }
    chosen = description.select(description.read(folder), profiles=(), image_type=None)
    assert [one.source for one in decided.remote(chosen.repositories)] == ["http://example.com/x"]
    assert decided.local_repositories == (
        MirrorChoice(chosen.repositories[0], f"dir://{run}/references/0"),
    )


def test_a_plain_description_refers_to_nothing(tmp_path: Path) -> None:
    assert plans.make(tmp_path).references == ()
