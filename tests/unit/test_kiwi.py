"""kiwi-ng's command lines, and the files that go with them."""

from __future__ import annotations

import shlex
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vagrant_kiwi import kiwi
from vagrant_kiwi.errors import SettingsError, UsageError
from vagrant_kiwi.kiwi_options import BUILD_OPTIONS
from vagrant_kiwi.settings_model import BundleSettings, KiwiSettings

FILES = "/g/files"
START = ("kiwi-ng", "--loglevel", "10", "--logfile", "stdout")
APT = ("--setenv", "APT_CONFIG=/var/cache/kiwi/vagrant-kiwi-apt.conf")


def _parse(*arguments: str, cwd: Path = Path("/nowhere")) -> kiwi.BuildOptions:
    return kiwi.parse_build_options(arguments, cwd=cwd, files_dir=FILES)


def _content(options: kiwi.BuildOptions) -> dict[str, bytes]:
    return {file.target: file.content for file in options.files}


def _global(settings: KiwiSettings) -> kiwi.GlobalOptions:
    return kiwi.global_options(
        settings, image_type=settings.type, profiles=settings.profiles, files_dir=FILES
    )


def test_no_options() -> None:
    assert _parse() == kiwi.BuildOptions()


def test_every_option_of_kiwi_in_both_forms(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    flags = {"--clear-cache", "--ignore-repos", "--ignore-repos-used-for-build"}
    values = {
        "--signing-key": "file",
        "--ca-cert": "file",
        "--ca-target-distribution": "debian",
        "--set-type-attr": "a=b",
        "--add-container-label": "a=b=c",
    }
    assert len(BUILD_OPTIONS) == 18  # and --allow-existing-root, which is refused
    for name in BUILD_OPTIONS - {"--set-repo-credentials", "--add-repo-credentials"}:
        if name in flags:
            assert _parse(name).argv == (name,)
            continue
        value = values.get(name, "v")
        expected = (name, f"{FILES}/build/file" if value == "file" else value)
        assert _parse(name, value, cwd=tmp_path).argv == expected
        assert _parse(f"{name}={value}", cwd=tmp_path).argv == expected


def test_order_and_repetition_are_kept() -> None:
    options = _parse("--add-package", "b", "--clear-cache", "--add-package=a", "--add-package=a=b")
    assert options.argv == (
        *("--add-package", "b", "--clear-cache", "--add-package", "a", "--add-package", "a=b"),
    )


def test_values_with_spaces_dashes_and_nothing() -> None:
    repository = "https://example.org/debian,apt-deb,x,,,,,main contrib,bookworm,true"
    assert _parse("--add-repo", repository).argv == ("--add-repo", repository)
    assert _parse("--add-package", "-x").argv == ("--add-package", "-x")
    assert _parse("--add-package=--x").argv == ("--add-package", "--x")
    assert _parse("--set-container-tag=").argv == ("--set-container-tag", "")


@pytest.mark.parametrize(
    ("arguments", "brief", "resolution"),
    [
        (
            ["--add-pakage=x"],
            "'kiwi-ng system build' has no option --add-pakage",
            "Did you mean --add-package?",
        ),
        # KIWI's parser takes neither shortened nor negated names.
        (
            ["--clear-cach"],
            "'kiwi-ng system build' has no option --clear-cach",
            "Did you mean --clear-cache?",
        ),
        (
            ["--no-clear-cache"],
            "'kiwi-ng system build' has no option --no-clear-cache",
            "Did you mean --clear-cache?",
        ),
        (
            ["--clear-cache", "vim"],
            "There is a word after --clear-cache that belongs to no option",
            "After '--' come options of 'kiwi-ng system build' only.",
        ),
        (
            ["--", "--clear-cache"],
            "There is a word that belongs to no option",
            "After '--' come options of 'kiwi-ng system build' only.",
        ),
        (
            ["--add-package"],
            "--add-package needs a value",
            "If it begins with '--', write --add-package=VALUE.",
        ),
        (
            ["--add-package", "--clear-cache"],
            "--add-package needs a value",
            "If it begins with '--', write --add-package=VALUE.",
        ),
        (["--clear-cache=true"], "--clear-cache takes no value", ""),
        (
            ["--description=/x"],
            "--description cannot be given after '--'",
            "Give it to the task itself: --description=PATH before the '--'.",
        ),
        (
            ["--target-dir", "/x"],
            "--target-dir cannot be given after '--'",
            "Give it to the task itself: --target-dir=PATH before the '--'.",
        ),
        (
            ["--allow-existing-root"],
            "--allow-existing-root cannot be given after '--'",
            "Every build starts in a fresh guest: there is no earlier root.",
        ),
        (
            ["--type=oem"],
            "--type is no option of 'kiwi-ng system build'",
            "It stands before KIWI's command: give --type before the '--'.",
        ),
        (
            ["--ca-target-distribution=Debian"],
            "--ca-target-distribution is none of: suse, redhat, debian, archlinux",
            "",
        ),
        (["--set-type-attr", "x"], "--set-type-attr is not of the form NAME=VALUE", ""),
        (["--add-container-label=x"], "--add-container-label is not of the form NAME=VALUE", ""),
        (["--add-package=a\nb"], "The value of --add-package is more than one line", ""),
        (
            ["--set-repo=https://example.org,rpm-md,a,,,,file:///key"],
            "The signing keys of a --set-repo are not in curly brackets",
            "",
        ),
        (
            ["--set-repo-credentials=u:s3cret"],
            "There is a --set-repo-credentials without a --set-repo of its own",
            "The first --set-repo-credentials belongs to the first --set-repo, and so on.",
        ),
        (
            ["--add-repo=a", "--add-repo-credentials=u:p", "--add-repo-credentials=u:s3cret"],
            "There is a --add-repo-credentials without a --add-repo of its own",
            "The first --add-repo-credentials belongs to the first --add-repo, and so on.",
        ),
        (
            ["--set-repo=http://u:s3cret@example.org", "--set-repo-credentials=v:s3cret"],
            "A --set-repo has credentials in its URL and in --set-repo-credentials",
            "",
        ),
    ],
)
def test_refused(arguments: list[str], brief: str, resolution: str) -> None:
    with pytest.raises(UsageError) as caught:
        _parse(*arguments)
    assert (caught.value.brief, caught.value.resolution) == (brief, resolution)
    assert caught.value.code == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--set-repo-credentials=u", "s3cret"],
        ["--set-repoo=http://u:s3cret@example.org"],
        ["u:s3cret"],
        ["--set-container-derived-from=docker://u:s3cret@example.org/x"],
        ["--add-repo=http://e,,,,,,{https://u:s3cret@example.org/key}"],
        ["--set-repo-credentials=u:s3cret\n"],
        ["--clear-cache=s3cret"],
    ],
)
def test_no_secret_in_a_message(arguments: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        _parse(*arguments)
    assert "s3cret" not in str(caught.value)


def test_files_of_the_host_get_guest_paths(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "my key,1.asc").write_text(folder)
    options = _parse(
        "--signing-key=a/my key,1.asc",
        f"--signing-key={tmp_path}/b/my key,1.asc",
        "--ca-cert=a/my key,1.asc",
        cwd=tmp_path,
    )
    first, second = f"{FILES}/build/my_key_1.asc", f"{FILES}/build/my_key_1-2.asc"
    assert options.argv == (*("--signing-key", first, "--signing-key", second, "--ca-cert", first),)
    assert options.files == (
        kiwi.GuestFile(first, source=tmp_path / "a" / "my key,1.asc"),
        kiwi.GuestFile(second, source=tmp_path / "b" / "my key,1.asc"),
    )


@pytest.mark.parametrize("option", ["--signing-key", "--ca-cert"])
@pytest.mark.parametrize("value", ["no/such.asc", "", "."])
def test_a_missing_file_is_named(tmp_path: Path, option: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        _parse(f"{option}={value}", cwd=tmp_path)
    assert caught.value.code == 3
    assert caught.value.brief == f"The file of {option} is not there"
    assert caught.value.details == str(tmp_path / value)


def test_signing_keys_of_a_repository(tmp_path: Path) -> None:
    key = tmp_path / "archive.gpg"
    key.write_bytes(b"key")
    only_in_guest = "file:///usr/share/keyrings/no-such-keyring.gpg"
    keys = f"{{file://{key};{only_in_guest};https://example.org/k;file:{key}}}"
    options = _parse(f"--add-repo=https://example.org,apt-deb,x,,,,{keys},main contrib,sid,true,")
    target = f"{FILES}/build/archive.gpg"
    assert options.argv == (
        "--add-repo",
        "https://example.org,apt-deb,x,,,,"
        f"{{file://{target};{only_in_guest};https://example.org/k;file://{target}}}"
        ",main contrib,sid,true,",
    )
    assert options.files == (kiwi.GuestFile(target, source=key),)


def test_literal_credentials_go_into_a_file() -> None:
    options = _parse(
        "--set-repo-credentials", "user:s3cret", "--set-repo=https://example.org/r,rpm-md"
    )
    target = f"{FILES}/build/credentials"
    assert options.argv == (
        *("--set-repo", "https://example.org/r,rpm-md", "--set-repo-credentials", target),
    )
    assert _content(options) == {target: b"user:s3cret\n"}
    assert "s3cret" not in repr(options)


def test_credentials_in_a_file_of_the_host(tmp_path: Path) -> None:
    (tmp_path / "login").write_text("user:s3cret\n")
    options = _parse("--add-repo=a", "--add-repo-credentials=login", cwd=tmp_path)
    target = f"{FILES}/build/login"
    assert options.argv == ("--add-repo", "a", "--add-repo-credentials", target)
    assert options.files == (kiwi.GuestFile(target, source=tmp_path / "login"),)


@pytest.mark.parametrize("value", ["/no/such/login", "./login", "../login", "~/no/such/login"])
def test_a_missing_credentials_file_is_named(tmp_path: Path, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        _parse("--add-repo=a", f"--add-repo-credentials={value}", cwd=tmp_path)
    assert caught.value.brief == "The file of --add-repo-credentials is not there"
    assert caught.value.details.endswith("/login")


@pytest.mark.parametrize("value", ["~nobody-has-this-name:x", "a/b:c/d@e", "x" * 5000, "token"])
def test_odd_credentials_are_credentials(value: str) -> None:
    options = _parse("--set-repo=a", f"--set-repo-credentials={value}")
    assert _content(options) == {f"{FILES}/build/credentials": f"{value}\n".encode()}


def test_credentials_stay_with_their_repository() -> None:
    options = _parse(
        "--add-repo=http://example.org/one",
        "--add-repo=http://us:er@example.org/two,rpm-md",
        "--add-repo=http://example.org/three",
        "--add-repo=http://token@example.org/four",
    )
    folder = f"{FILES}/build"
    # Empty credentials are none for KIWI: they keep the place of a repository without any.
    assert options.argv == (
        *("--add-repo", "http://example.org/one"),
        *("--add-repo", "http://example.org/two,rpm-md"),
        *("--add-repo", "http://example.org/three"),
        *("--add-repo", "http://example.org/four"),
        *("--add-repo-credentials", ""),
        *("--add-repo-credentials", f"{folder}/credentials"),
        *("--add-repo-credentials", ""),
        *("--add-repo-credentials", f"{folder}/credentials-2"),
    )
    assert _content(options) == {
        f"{folder}/credentials": b"us:er\n",
        f"{folder}/credentials-2": b"token\n",
    }


def test_the_last_of_what_can_be_given_once_counts_as_for_kiwi() -> None:
    options = _parse("--set-repo=http://u:s3cret@example.org/a", "--set-repo=http://example.org/b")
    assert options == kiwi.BuildOptions(("--set-repo", "http://example.org/b"))


@given(
    user=st.text(st.characters(codec="ascii", exclude_characters=",\n\0@/:"), min_size=1),
    password=st.text(st.characters(codec="utf-8", exclude_characters=",\n\0"), min_size=1),
    path=st.sampled_from(["", "/", "/a/b", ":8080/x", "/x@y", ":80/a@b/c"]),
)
def test_kiwi_puts_the_same_url_together_again(user: str, password: str, path: str) -> None:
    url = f"http://{user}:{password}@example.org{path}"
    options = _parse(f"--set-repo={url},rpm-md")
    location = options.argv[1].split(",")[0]
    login = options.files[0].content.decode().removesuffix("\n")
    # _get_repo_parameters of KIWI's tasks/system_build.py
    assert f"http://{login}@{location.replace('http://', '', 1)}" == url
    assert login.startswith(f"{user}:{password}")
    assert "@" not in location


def test_bytes_become_a_file_for_the_owner_alone_and_then_vanish(tmp_path: Path) -> None:
    private, public = (kiwi.GuestFile("/t", content=b"x", private=flag) for flag in (True, False))
    with private.on_host(tmp_path) as path, public.on_host(tmp_path) as other:
        assert path.parent == tmp_path
        assert path.read_bytes() == b"x"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(other.stat().st_mode) == 0o644
    assert not path.exists()
    assert not other.exists()


def test_a_file_of_the_host_is_itself(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("x")
    with kiwi.GuestFile("/t", source=path).on_host(tmp_path) as found:
        assert found == path
    assert path.exists()


def test_the_smallest_command() -> None:
    argv = kiwi.build_argv(
        _global(KiwiSettings()), kiwi.BuildOptions(), description="/g/d", target_dir="/g/t"
    )
    assert argv == (
        *START,
        *APT,
        *("system", "build", "--description", "/g/d", "--target-dir", "/g/t"),
    )


def test_all_global_options_stand_before_the_command(tmp_path: Path) -> None:
    config = tmp_path / "kiwi.yml"
    config.write_text("")
    options = _global(
        KiwiSettings(
            type="oem",
            profiles=("a", "b"),
            kiwi_file="x.kiwi",
            setenv=("A=b c", "D="),
            shared_cache_dir="/c",
            temp_dir="/t",
            target_arch="aarch64",
            loglevel=30,
            config=config,
        )
    )
    argv = kiwi.build_argv(options, _parse("--clear-cache"), description="/g/d", target_dir="/g/t")
    assert argv == (
        *START,
        *("--config", f"{FILES}/global/kiwi.yml"),
        *("--setenv", "APT_CONFIG=/c/vagrant-kiwi-apt.conf"),
        *("--setenv", "A=b c", "--setenv", "D="),
        *("--shared-cache-dir", "/c", "--temp-dir", "/t"),
        *("--type", "oem", "--profile", "a", "--profile", "b"),
        *("--kiwi-file", "x.kiwi", "--target-arch", "aarch64"),
        *("system", "build", "--description", "/g/d", "--target-dir", "/g/t", "--clear-cache"),
    )
    assert options.loglevel == 30
    assert options.files == (
        kiwi.GuestFile(f"{FILES}/global/kiwi.yml", source=config),
        kiwi.GuestFile(
            "/c/vagrant-kiwi-apt.conf",
            content=b'APT::Update::Error-Mode "any";\n',
            private=False,
        ),
    )


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"The file of kiwi\.config is not there") as caught:
        _global(KiwiSettings(config=tmp_path / "kiwi.yml"))
    assert caught.value.details == str(tmp_path / "kiwi.yml")


def test_the_files_of_both_kinds_of_options_do_not_collide(tmp_path: Path) -> None:
    (tmp_path / "kiwi.yml").write_text("")
    one = _global(KiwiSettings(config=tmp_path / "kiwi.yml"))
    two = _parse("--signing-key=kiwi.yml", cwd=tmp_path)
    assert one.files[0].target != two.files[0].target


def test_bundle() -> None:
    # No --setenv and the like: before KIWI 11 that is a usage error.
    settings = KiwiSettings(setenv=("A=b",), temp_dir="/t", shared_cache_dir="/c")
    options = _global(settings)
    bundle = kiwi.bundle_options(BundleSettings(), default_id="run1")
    assert kiwi.bundle_argv(bundle, options, target_dir="/t", bundle_dir="/b") == (
        *START,
        *("result", "bundle", "--target-dir", "/t", "--bundle-dir", "/b", "--id", "run1"),
    )


def test_bundle_with_everything() -> None:
    bundle = kiwi.bundle_options(
        BundleSettings(
            id="7",
            format="%N-%v",
            compress=False,
            zsync_source="https://example.org/x",
            package_as_rpm=True,
        ),
        default_id="run1",
    )
    argv = kiwi.bundle_argv(bundle, kiwi.GlobalOptions(), target_dir="/t", bundle_dir="/b")
    assert argv == (
        *START,
        *("result", "bundle", "--target-dir", "/t", "--bundle-dir", "/b", "--id", "7"),
        *("--bundle-format", "%N-%v", "--zsync-source", "https://example.org/x"),
        *("--package-as-rpm", "--no-compress"),
    )


def test_a_shown_command_hides_secrets_and_is_quoted() -> None:
    argv = (
        *("kiwi-ng", "--setenv", "API_TOKEN=s3cret", "--setenv", "A=b c"),
        *("result", "bundle", "--zsync-source", "https://u:s3cret@example.org/x"),
        *("--add-repo-credentials", ""),
    )
    shown = kiwi.shown_argv(argv)
    assert "s3cret" not in shown
    words = shlex.split(shown)
    assert words[2] == "API_TOKEN=***"
    assert words[4] == "A=b c"
    assert words[-3:] == ["https://***@example.org/x", "--add-repo-credentials", ""]


def test_no_secret_in_a_repr() -> None:
    setenv = ("API_TOKEN=s3cret",)
    settings = KiwiSettings(setenv=setenv)
    bundle = BundleSettings(zsync_source="https://u:s3cret@example.org")
    assert "s3cret" not in repr(_global(settings))
    assert "s3cret" not in repr(kiwi.bundle_options(bundle, default_id="x"))
