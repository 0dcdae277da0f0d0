"""The build, in real Vagrant docker guests; a stand-in for kiwi-ng where KIWI is not the matter."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pty
import shlex
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.integration import host
from tests.integration.cli import CHECKOUT, MAIN, Project, finish, wait_until
from tests.integration.stand_in import BUSY, STAND_IN, describe, start_busy
from vagrant_kiwi.guests import docker as docker_guests

SUDO = () if os.geteuid() == 0 else ("sudo", "-n")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Return a project whose path needs quoting wherever somebody forgets it."""
    folder = tmp_path / 'it\'s a "site" $HOME'
    folder.mkdir()
    made = Project(folder)
    made.settings(provision=[str(STAND_IN)], mirrors="off")
    describe(folder / "image")
    return made


def build(project: Project, *words: str) -> tuple[int, dict[str, object], str]:
    """Build the project's description, and check what every answer must hold."""
    done = project.run("build", "--description=image", "--json", *words)
    answer = done.json
    assert list(answer) == [
        "status",
        "run_id",
        "description",
        "provider",
        "result_dir",
        "artifacts",
        "log",
        "phases",
        "error",
    ]
    assert (answer["status"] == "built") == (done.status == 0), done.errors
    if done.status:
        assert answer["error"]["code"] == done.status
    return done.status, answer, done.errors


@contextlib.contextmanager
def small_disk(folder: Path, *, size: str) -> Iterator[None]:
    """Have a file system of a size, which anybody may write to, mounted on a new folder."""
    folder.mkdir()
    options = f"size={size},mode=777"
    subprocess.run([*SUDO, "mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run([*SUDO, "umount", folder], check=True)


def phases(answer: dict[str, object]) -> list[str]:
    """Return the names of an answer's phases."""
    listed = answer["phases"]
    assert isinstance(listed, list)
    return [entry["name"] for entry in listed]


def current(project: Project) -> str | None:
    """Return the run of the newest good result."""
    links = list(project.folder.glob(".vagrant-kiwi/result/*/current"))
    return str(links[0].readlink()) if links else None


def test_a_good_build(project: Project, unchanged: None) -> None:
    before = sorted(path.name for path in (project.folder / "image").iterdir())
    (project.folder / "image/behave").write_text("rm -rf $description/*; mkdir -p $description\n")
    status, answer, _ = build(project, "--run-id=good-1")
    assert status == 0
    assert answer["run_id"] == "good-1"
    assert phases(answer) == [
        "box",
        "up",
        "sync",
        "provision",
        "build",
        "bundle",
        "fetch",
        "destroy",
    ]
    folder = Path(str(answer["result_dir"]))
    assert answer["artifacts"] == [
        {"path": "image.tar", "size": 6, "sha256": hashlib.sha256(b"image\n").hexdigest()}
    ]
    assert (folder / "image.tar").read_text() == "image\n"
    assert (folder / "image.tar").stat().st_uid == os.getuid()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["artifacts"] == answer["artifacts"]
    assert current(project) == "good-1"
    log = Path(str(answer["log"])).read_text()
    assert "stand-in builds /var/lib/vagrant-kiwi/good-1/description" in log
    record = json.loads(Path(str(answer["log"])).with_name("run.json").read_text())
    assert record["status"] == "built"
    # The guest emptied its copy of the description; ours is whole.
    assert sorted(path.name for path in (project.folder / "image").iterdir()) == before


def test_dry_run_touches_nothing(project: Project, unchanged: None) -> None:
    done = project.run("build", "--description=image", "--dry-run", "--json", "--type=tbz")
    assert done.status == 0, done.errors
    plan = done.json
    assert plan["isolation"]["kind"] == "folder"
    assert plan["kiwi"].startswith("kiwi-ng ")
    assert not (project.folder / ".vagrant-kiwi").exists()


def test_extra_data_and_scripts_reach_the_guest(project: Project, unchanged: None) -> None:
    data = project.folder / "extra data"
    (data / "sub dir").mkdir(parents=True)
    (data / "sub dir" / "new\nline").write_text("hello")
    (data / "left-out.tmp").write_text("no")
    script = project.folder / "check.sh"
    script.write_text(
        "#!/bin/bash\nset -eu\n"
        "test \"$(cat $'/srv/some where/sub dir/new\\nline')\" = hello\n"
        'test ! -e "/srv/some where/left-out.tmp"\n'
        'test "$(id -u)" = 0\n'
    )
    project.settings(
        mirrors="off",
        sync=[{"source": str(data), "target": "/srv/some where", "exclude": ["*.tmp"]}],
        provision=[str(STAND_IN), str(script)],
    )
    status, answer, errors = build(project, "--sync=check.sh:/srv/check.sh")
    assert status == 0, errors
    assert answer["artifacts"]


def test_a_missing_source_fails_before_anything_starts(project: Project, unchanged: None) -> None:
    status, answer, _ = build(project, "--sync=nowhere:/srv")
    assert status == 3
    assert "nowhere" in str(answer["error"])
    assert phases(answer) == []


def test_a_failing_kiwi_is_7_and_keeps_the_last_result(project: Project, unchanged: None) -> None:
    assert build(project, "--run-id=first")[0] == 0
    (project.folder / "image/behave").write_text(
        "echo '[ ERROR   ]: 12:00:01 | KiwiInstallPhaseFailed: System packages failed'\nexit 1\n"
    )
    status, answer, _ = build(project)
    assert status == 7
    assert "KiwiInstallPhaseFailed" in answer["error"]["brief"]  # type: ignore[index]
    assert str(answer["log"]) in answer["error"]["details"]  # type: ignore[index]
    assert current(project) == "first"


def test_kiwi_s_255_is_a_failure_of_kiwi(project: Project, unchanged: None) -> None:
    (project.folder / "image/behave").write_text("exit 255\n")
    assert build(project)[0] == 7


def test_a_failing_provision_script_is_6_with_its_last_lines(
    project: Project, unchanged: None
) -> None:
    script = project.folder / "fails.sh"
    script.write_text("echo some output\necho the reason >&2\nexit 3\n")
    project.settings(mirrors="off", provision=[str(script)])
    status, answer, _ = build(project)
    assert status == 6
    assert "fails.sh" in answer["error"]["brief"]  # type: ignore[index]
    assert answer["error"]["details"] == "some output\nthe reason"  # type: ignore[index]


def test_a_failing_up_leaves_no_half_made_container(project: Project, unchanged: None) -> None:
    # docker run creates the container and cannot start it; vagrant destroy does not remove that.
    project.settings(
        mirrors="off", docker={"create_args": ["--device=/dev/does-not-exist-anywhere"]}
    )
    status, answer, errors = build(project)
    assert status == 6, errors
    assert "removing the container" in errors
    assert "destroy" in phases(answer)


def test_a_planted_insecure_key_is_refused(
    project: Project, unchanged: None, insecure_public_key: str
) -> None:
    planted = project.folder / "planted"
    planted.write_text(insecure_public_key + "\n")
    planted.chmod(0o644)
    conf = project.folder / "planted.conf"
    conf.write_text("AuthorizedKeysFile .ssh/authorized_keys /etc/ssh/planted\n")
    plain = project.folder.parent / "plain"  # docker's -v splits at colons only, but keep it plain
    plain.mkdir()
    for path in (planted, conf):
        path.rename(plain / path.name)
    project.settings(
        mirrors="off",
        docker={
            "create_args": [
                f"--volume={plain}/planted:/etc/ssh/planted:ro",
                f"--volume={plain}/planted.conf:/etc/ssh/sshd_config.d/a-planted.conf:ro",
            ]
        },
    )
    status, answer, _ = build(project)
    assert status == 6
    assert "insecure key" in answer["error"]["brief"]  # type: ignore[index]


def test_a_time_out_names_the_phase(project: Project, unchanged: None) -> None:
    project.settings(mirrors="off", provision=[str(STAND_IN)], timeouts={"build": 3})
    describe(project.folder / "image", behave=BUSY)
    status, answer, _ = build(project)
    assert status == 124
    assert "build" in answer["error"]["brief"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
@pytest.mark.parametrize("when", ["up", "build"])
def test_a_signal_leaves_nothing(
    project: Project,
    docker_client: docker.DockerClient,
    unchanged: None,
    signum: signal.Signals,
    status: int,
    when: str,
) -> None:
    run_id = f"signal-{when}-{int(signum)}"
    describe(project.folder / "image", behave=BUSY)
    running = project.start("build", "--description=image", "--json", f"--run-id={run_id}")
    if when == "up":
        # The container is there, Vagrant is still busy with it: half a guest.
        wait_until(
            lambda: bool(docker_guests.containers(docker_client, run_id)), what="a container"
        )
    else:
        wait_until(lambda: "busy" in project.log(), what="the stand-in runs")
    running.send_signal(signum)
    done = finish(running, timeout=120)
    assert done.status == status, done.errors
    assert done.json["error"]["code"] == status
    assert current(project) is None


def test_a_second_signal_does_not_cut_the_clean_up_short(project: Project, unchanged: None) -> None:
    describe(project.folder / "image", behave=BUSY)
    running = start_busy(project, "--description=image")
    running.send_signal(signal.SIGINT)
    running.send_signal(signal.SIGINT)
    wait_until(lambda: running.poll() is not None or _destroying(project), what="clean-up")
    if running.poll() is None:
        running.send_signal(signal.SIGTERM)
    assert finish(running, timeout=120).status == 130


def _destroying(project: Project) -> bool:
    return "Stopping container" in project.log() or "Deleting" in project.log()


def test_sigkill_leaves_nothing_either(
    project: Project, docker_client: docker.DockerClient, box: str
) -> None:
    before = host.take(docker_client)
    describe(project.folder / "image", behave=BUSY)
    running = start_busy(project, "--description=image")
    running.kill()
    finish(running)
    host.assert_as_before(before, docker_client, within=60)
    # The next build of the same variant is not hindered.
    (project.folder / "image/behave").write_text("\n")
    assert build(project)[0] == 0


def test_an_aborted_command_is_asked_to_stop_before_it_is_killed(
    project: Project, docker_client: docker.DockerClient, unchanged: None
) -> None:
    project.settings(provision=[str(STAND_IN)], mirrors="off", timeouts={"build": 3})
    (project.folder / "image/behave").write_text(
        "trap 'touch /srv/asked; exit 1' TERM; echo busy; sleep 600 & wait\n"
    )
    status, answer, _ = build(project, "--keep=failed", "--run-id=polite-1")
    assert status == 124
    (container,) = docker_guests.containers(docker_client, "polite-1")
    assert container.exec_run(["test", "-e", "/srv/asked"]).exit_code == 0
    assert container.exec_run(["pgrep", "-f", "kiwi-ng"]).exit_code == 1
    guest = Path(str(answer["log"])).with_name("guest")
    subprocess.run(["vagrant", "destroy", "-f"], cwd=guest, check=True, capture_output=True)


def test_one_variant_is_locked_and_two_build_side_by_side(
    project: Project, unchanged: None
) -> None:
    describe(project.folder / "slow", name="slow", behave=BUSY)
    slow = start_busy(project, "--description=slow")
    refused = project.run("build", "--description=slow", "--json")
    assert refused.status == 11
    assert refused.json["error"]["code"] == 11
    assert build(project)[0] == 0
    assert slow.poll() is None, "the fast build did not run beside the slow one"
    slow.send_signal(signal.SIGTERM)
    assert finish(slow).status == 143


def test_a_run_id_in_use_is_refused_and_its_guest_left_alone(
    project: Project, unchanged: None
) -> None:
    describe(project.folder / "slow", name="slow", behave=BUSY)
    slow = start_busy(project, "--description=slow", "--run-id=ci-1")
    status, answer, _ = build(project, "--run-id=ci-1")
    assert status == 1, answer
    assert slow.poll() is None
    slow.send_signal(signal.SIGTERM)
    assert finish(slow).status == 143


def test_a_closed_terminal_does_not_stop_the_clean_up(project: Project, unchanged: None) -> None:
    describe(project.folder / "image", behave=BUSY)
    master, slave = pty.openpty()
    running = subprocess.Popen(
        [*project.python, "-c", MAIN, "build", "--description=image"],
        cwd=project.folder,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        # As most people have it: then what cannot be written any more stays in Python's buffers.
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "PYTHONUNBUFFERED": ""},
    )
    os.close(slave)
    reader = threading.Thread(target=_drain, args=(master,), daemon=True)
    reader.start()
    wait_until(lambda: "busy" in project.log(), what="the stand-in runs")
    os.close(master)
    running.send_signal(signal.SIGHUP)
    assert running.wait(timeout=120) == 129


def _drain(master: int) -> None:
    with contextlib.suppress(OSError):
        while os.read(master, 65536):
            pass


def test_a_log_that_cannot_be_written_is_no_reason_to_leave_a_guest(
    project: Project, unchanged: None
) -> None:
    with small_disk(project.folder / "state", size="1m"):
        project.settings(
            provision=[str(STAND_IN)], mirrors="off", state_dir="state", target_dir="out"
        )
        (project.folder / "image/behave").write_text("head -c 4M /dev/urandom | base64; exit 1\n")
        done = project.run("build", "--description=image")
        assert done.status == 7, done.errors
        assert "the log cannot be written any more" in done.errors


def test_secrets_of_setenv_are_nowhere(project: Project, unchanged: None) -> None:
    (project.folder / "image/behave").write_text(
        "echo '[ INFO    ]: 12:00:00 | --> Set Env[API_TOKEN]=\"s3cret\"'; echo busy; sleep 8\n"
    )
    running = start_busy(project, "--description=image", "--setenv=API_TOKEN=s3cret", "-v")
    # In the guest KIWI takes it as an argument and no other way; its processes have no ssh.
    lines = [
        path.read_bytes()
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if _is_program(path, ("ssh", "rsync", "vagrant", "docker"))
    ]
    assert lines
    assert not any(b"s3cret" in line for line in lines)
    done = finish(running)
    assert done.status == 0, done.errors
    assert "s3cret" not in done.output + done.errors
    for path in project.folder.glob(".vagrant-kiwi/**/*"):
        if path.is_file():
            assert b"s3cret" not in path.read_bytes(), path


def _is_program(cmdline: Path, names: tuple[str, ...]) -> bool:
    try:
        return (cmdline.parent / "comm").read_text().strip() in names
    except OSError:
        return False


def test_an_unusable_target_dir_fails_before_a_guest_starts(
    project: Project, unchanged: None
) -> None:
    (project.folder / "file").write_text("")
    status, answer, _ = build(project, "--target-dir=file/out")
    assert status == 3
    assert "up" not in phases(answer)


def test_two_starts_at_once(project: Project, unchanged: None) -> None:
    describe(project.folder / "other", name="other")
    both = [
        project.start("build", f"--description={name}", "--json") for name in ("image", "other")
    ]
    for done in [finish(process) for process in both]:
        assert done.status == 0, done.errors


def test_no_room_for_the_result_is_8_and_keeps_the_last_one(
    project: Project, unchanged: None
) -> None:
    small = project.folder / "small"
    with small_disk(small, size="2m"):
        assert build(project, "--target-dir=small", "--run-id=first")[0] == 0
        (project.folder / "image/behave").write_text("head -c 4M /dev/urandom >$target/big.tar\n")
        status, answer, _ = build(project, "--target-dir=small")
        assert status == 8, answer
        results = next(small.iterdir())
        assert (results / "current").readlink() == Path("first")
        assert (results / "current/image.tar").read_text() == "image\n"
        assert sorted(path.name for path in results.iterdir()) == ["current", "first"]


def test_a_full_disk_of_the_guest_is_7_and_named(project: Project, unchanged: None) -> None:
    # KIWI's own words are lost on such a disk; what df says is enough.
    (project.folder / "image/behave").write_text(
        "mount -t tmpfs -o size=1m full ${target%/*}\n"
        "head -c 2M /dev/zero >${target%/*}/big 2>/dev/null || exit 1\n"
    )
    status, answer, _ = build(project)
    assert status == 7
    assert "disk of the guest is full" in answer["error"]["brief"]  # type: ignore[index]


def test_what_cannot_be_removed_is_9_named_and_removed_by_the_next_build(
    project: Project, docker_client: docker.DockerClient, unchanged: None, box: str
) -> None:
    label = {docker_guests.RUN_LABEL: "left-1"}
    volume = docker_client.volumes.create("vagrant-kiwi-left-1", labels=label)
    try:
        user = docker_client.containers.create(box, volumes=[f"{volume.name}:/srv/left"])
        try:
            done = project.run("build", "--description=image", "--json", "--run-id=left-1")
        finally:
            user.remove()
        assert done.status == 9, done.errors
        assert volume.name in done.json["error"]["details"]
        assert current(project) == "left-1", "the good result was not published"
        assert (done.json["status"], done.json["error"]["code"]) == ("built", 9)
        assert done.json["artifacts"]
        status, _, errors = build(project)
        assert status == 0
        assert "left-1" in errors
        assert not docker_client.volumes.list(
            filters={"label": f"{docker_guests.RUN_LABEL}=left-1"}
        )
    finally:
        with contextlib.suppress(docker.errors.NotFound):
            volume.remove()


def test_a_kept_guest_stays_until_it_is_destroyed(
    project: Project, docker_client: docker.DockerClient, unchanged: None
) -> None:
    status, answer, errors = build(project, "--keep=always", "--run-id=kept-1")
    assert status == 0
    kept = docker_client.containers.list(filters={"label": "vagrant-kiwi.run=kept-1"})
    assert [entry.name for entry in kept] == ["vagrant-kiwi-kept-1"]
    guest = Path(str(answer["log"])).with_name("guest")
    assert f"cd {shlex.quote(str(guest))} && vagrant ssh" in errors
    subprocess.run(["vagrant", "destroy", "-f"], cwd=guest, check=True, capture_output=True)


@pytest.mark.parametrize("image_type", ["tbz", "oem"])
def test_the_guest_cannot_reach_the_host(
    project: Project, unchanged: None, image_type: str
) -> None:
    disks = Path("/sys/block").iterdir()
    disk = next((one for one in disks if one.name.startswith(("vd", "sd", "nvme", "xvd"))), None)
    assert disk is not None, "this host has no disk that the guest could try to read"
    number = (disk / "dev").read_text().strip().replace(":", " ")
    script = project.folder / "attack.sh"
    script.write_text(
        "#!/bin/bash\n"
        "find / -xdev -name Vagrantfile | grep . && exit 1\n"
        "grep -E ' /vagrant | /dev devtmpfs' /proc/mounts && exit 2\n"
        f"mknod /tmp/disk b {number} && dd if=/tmp/disk of=/dev/null bs=512 count=1 && exit 3\n"
        f"test -e /dev/{disk.name} && exit 4\n"
        "capsh --print 2>/dev/null | grep -q 'Current:.*cap_sys_module' && exit 5\n"
        "exit 0\n"
    )
    describe(project.folder / "image", image_type=image_type)
    project.settings(mirrors="off", provision=[str(STAND_IN), str(script)])
    status, _, errors = build(project)
    assert status == 0, errors
    assert "Operation not permitted" in project.log()
