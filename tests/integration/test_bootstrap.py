"""The real bootstrap: in copies of the checkout on this host, and in bare guests."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest
from docker.models.containers import Container

from tests.integration.cli import CHECKOUT
from tests.integration.conftest import need

TASKS = """\
import os
from invoke import task

@task
def where(c, path=""):
    print(os.getcwd(), os.path.abspath(path))
"""


@dataclass(frozen=True)
class Ran:
    """A bootstrap that came to its end."""

    status: int
    output: str
    errors: str
    seconds: float

    @property
    def steps(self) -> list[str]:
        assert all(line.startswith("bootstrap: ") for line in self.errors.splitlines())
        return [line.removeprefix("bootstrap: ") for line in self.errors.splitlines()]


def run(
    copy: Path, *words: str, cwd: Path | None = None, variables: Mapping[str, str] | None = None
) -> Ran:
    started = time.monotonic()
    done = subprocess.run(
        [copy / "bootstrap", *words],
        cwd=cwd or copy,
        env={**os.environ, **(variables or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    return Ran(done.returncode, done.stdout, done.stderr, time.monotonic() - started)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a small copy of the checkout: bootstrap as it is, invoke alone in its lock."""
    folder = tmp_path / "check out"
    (folder / "requirements").mkdir(parents=True)
    shutil.copy(CHECKOUT / "bootstrap", folder)
    shutil.copy(CHECKOUT / "requirements/system-packages.txt", folder / "requirements")
    lock = (CHECKOUT / "requirements/dev.lock").read_text()
    match = re.search(r"^invoke==.*(?:\n    .*)*\n", lock, re.MULTILINE)
    assert match is not None
    (folder / "requirements/dev.lock").write_text(match[0])
    (folder / "tasks.py").write_text(TASKS)
    return folder


MADE = [
    "making the Python environment .venv",
    "installing the Python packages of requirements/dev.lock",
]


def test_it_sets_up_once_and_hands_everything_to_invoke(copy: Path, tmp_path: Path) -> None:
    first = run(copy, "where", "--path=it's here")
    assert first.status == 0, first.errors
    assert first.steps[:2] == MADE
    assert "plain invoke does the same: . .venv/bin/activate" in first.errors
    # Standard output is invoke's alone, so that --json stays JSON.
    assert first.output == f"{copy} {copy}/it's here\n"
    assert (copy / ".venv/bin/python").resolve() == Path("/usr/bin/python3").resolve()

    again = run(copy, "where")
    plain = time.monotonic()
    subprocess.run([copy / ".venv/bin/invoke", "where"], cwd=copy, check=True, capture_output=True)
    plain = time.monotonic() - plain
    assert (again.status, again.errors) == (0, "")
    assert again.seconds - plain < 1

    # From elsewhere: invoke finds the checkout's tasks, and relative paths are the caller's.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    away = run(copy, "where", "--path=mine", cwd=elsewhere)
    assert (away.output, away.errors) == (f"{elsewhere} {elsewhere}/mine\n", "")
    link = tmp_path / "link"
    link.symlink_to(copy / "bootstrap")
    linked = subprocess.run([link, "where"], cwd=elsewhere, check=True, capture_output=True)
    assert linked.stdout.decode().startswith(f"{elsewhere} ")

    # Its own failure is invoke's.
    assert run(copy, "no-such-task").status == 1


def test_it_mends_what_is_half_made_or_stale(copy: Path, tmp_path: Path) -> None:
    assert run(copy, "--version").status == 0
    (copy / ".venv/.stamp-dev").unlink()
    shutil.rmtree(copy / ".venv/bin")
    half = run(copy, "--version")
    assert (half.status, half.steps[:2]) == (0, MADE)

    with (copy / "requirements/dev.lock").open("a") as lock:
        lock.write("# another lock\n")
    # Two at once: the second one waits, and finds the work done.
    started = [
        subprocess.Popen(
            [copy / "bootstrap", "--version"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=copy,
        )
        for _ in range(2)
    ]
    ended = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0, 0], ended
    errors = "".join(text for _, text in ended)
    assert errors.count("making the Python environment") == 1
    assert errors.count("waiting for another bootstrap") == 1

    moved = copy.rename(tmp_path / "moved")
    assert run(moved, "--version").steps[:2] == MADE


def test_a_lock_that_cannot_be_installed_fails_with_pips_words(copy: Path) -> None:
    lock = copy / "requirements/dev.lock"
    lock.write_text(re.sub(r"sha256:[0-9a-f]{64}", f"sha256:{'0' * 64}", lock.read_text()))
    failed = run(copy, "where")
    assert failed.status == 4
    assert failed.output == ""
    assert "DO NOT MATCH THE HASHES" in failed.errors
    assert "the Python environment cannot be made (see above)." in failed.errors
    assert not (copy / ".venv/.stamp-dev").exists()


def test_libvirt_is_in_place_and_stays_as_it_is(copy: Path) -> None:
    if shutil.which("virsh") is None:
        need("not installed: virsh")

    def state() -> str:
        asked = "net-list --all; pool-list --all; net-dumpxml default; pool-dumpxml default"
        virsh = ["virsh", "-c", "qemu:///system", asked]
        return subprocess.run(virsh, check=True, capture_output=True, text=True).stdout

    # What libvirt's own lock adds is compiled; that is tried whenever CI begins on a new machine.
    shutil.copy(copy / "requirements/dev.lock", copy / "requirements/libvirt.lock")
    asked = {"INVOKE_VAGRANT_KIWI_PROVIDER": "libvirt"}
    first = run(copy, "where", variables=asked)
    assert first.status == 0, first.errors
    assert "installing the Python packages of requirements/libvirt.lock" in first.steps
    before = state()
    assert before.split().count("active") == 2

    again = run(copy, "where", variables=asked)
    plain = run(copy, "where")
    assert (again.status, again.errors) == (0, "")
    assert again.seconds - plain.seconds < 1
    assert state() == before

    # A daemon elsewhere is not replaced by the one here.
    elsewhere = {**asked, "LIBVIRT_DEFAULT_URI": "qemu+unix:///system?socket=/nowhere"}
    away = run(copy, "where", variables=elsewhere)
    assert away.status == 4
    assert away.steps[0] == "libvirt does not answer at qemu+unix:///system?socket=/nowhere:"
    assert "Failed to connect socket to '/nowhere'" in away.steps[1]


# --- On other machines -------------------------------------------------------------------------


@dataclass(frozen=True)
class Machine:
    """A bare Debian without Docker and Vagrant, with a copy of the checkout in /src."""

    container: Container

    def sh(self, script: str, *, user: str = "root") -> tuple[int, str]:
        # One stream: what a person sees.
        status, output = self.container.exec_run(
            ["bash", "-c", f"exec 2>&1; cd /src; {script}"], user=user
        )
        assert status is not None
        assert isinstance(output, bytes)
        return status, output.decode()

    def prepare(self, script: str) -> None:
        status, output = self.sh(f"set -e; {script}")
        assert status == 0, output


@pytest.fixture
def machine(box: str, docker_client: docker.DockerClient) -> Iterator[Machine]:
    """Yield a machine made from the build box, which is a Debian with little in it."""
    container = docker_client.containers.run(
        box, ["sleep", "3600"], detach=True, init=True, network_mode="none"
    )
    try:
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for name in ("bootstrap", "requirements"):
                tar.add(CHECKOUT / name, f"src/{name}")
        container.put_archive("/", archive.getvalue())
        made = Machine(container)
        # sudo complains about a host name that it cannot look up.
        made.prepare(
            'chmod 0755 . && chown -R vagrant: . && echo "127.0.0.1 $HOSTNAME" >>/etc/hosts'
        )
        yield made
    finally:
        container.remove(force=True)


def test_without_sudo_the_missing_packages_are_listed(machine: Machine) -> None:
    machine.prepare("rm /etc/sudoers.d/vagrant")
    status, output = machine.sh("./bootstrap build </dev/null", user="vagrant")
    assert status == 4
    missing = "apparmor docker.io mmdebstrap uidmap vagrant"
    assert output.splitlines() == [
        "bootstrap: these packages are missing, and you may not install them (no sudo):",
        f"bootstrap:   {missing}",
        "bootstrap: Have them installed by the administrator:",
        f"bootstrap:   apt-get install --no-install-recommends {missing}",
    ]


@pytest.mark.parametrize(
    ("words", "more"),
    [
        ("test", "libvirt-daemon-system libvirt-dev qemu-system-x86 shellcheck vagrant-libvirt"),
        ("test --quick", ""),
        ("build --provider=libvirt", "libvirt-dev vagrant-libvirt"),
        ("build --provider libvirt", "libvirt-dev vagrant-libvirt"),
        ("build --provider=docker --description=test-libvirt", ""),
    ],
)
def test_only_what_is_asked_for_is_installed(machine: Machine, words: str, more: str) -> None:
    machine.prepare("rm /etc/sudoers.d/vagrant")
    _, output = machine.sh(f"./bootstrap {words} </dev/null", user="vagrant")
    missing = set(output.splitlines()[1].split()[1:])
    always = {"apparmor", "docker.io", "mmdebstrap", "uidmap", "vagrant"}
    assert always <= missing
    assert set(more.split()) <= missing
    assert more or missing == always


OURS = "other:\n  provider: docker\nvagrant_kiwi:\n  # where\n  provider: 'libvirt'  # it\n"
NOT_OURS = "vagrant_kiwi:\n  provider: docker\nother:\n  provider: libvirt\n"


@pytest.mark.parametrize(
    ("file", "command", "wanted"),
    [
        (OURS, "./bootstrap build", True),
        (OURS, "./bootstrap build --provider docker", False),
        (OURS, "INVOKE_VAGRANT_KIWI_PROVIDER=docker ./bootstrap build", False),
        (NOT_OURS, "./bootstrap build", False),
        (NOT_OURS, "INVOKE_VAGRANT_KIWI_PROVIDER=libvirt ./bootstrap build", True),
        (NOT_OURS, "INVOKE_VAGRANT_KIWI_PROVIDER=libvirt ./bootstrap test --quick", False),
    ],
)
def test_the_settings_ask_for_libvirt_too(
    machine: Machine, file: str, command: str, wanted: bool
) -> None:
    machine.prepare(f"rm /etc/sudoers.d/vagrant; cat >invoke.yaml <<'END'\n{file}END")
    _, output = machine.sh(f"{command} </dev/null", user="vagrant")
    assert ("libvirt-daemon-system" in output.splitlines()[1].split()) == wanted


def test_another_distribution_gets_the_list(machine: Machine) -> None:
    machine.prepare("sed -i 's/^ID=.*/ID=fedora/' /etc/os-release")
    status, output = machine.sh("./bootstrap build --description='a b'")
    assert status == 4
    lines = output.splitlines()
    assert lines[0] == (
        "bootstrap: this sets up Debian machines only. What is needed, by the names it has there:"
    )
    assert {"docker.io", "vagrant", "rsync", "python3-venv"} <= set(lines[1].split())
    assert lines[-1] == "bootstrap: With all that in place run: invoke build --description=a\\ b"


def test_packages_that_cannot_be_installed_are_named_with_apts_words(machine: Machine) -> None:
    status, output = machine.sh("./bootstrap build", user="vagrant")
    assert status == 4
    assert output.startswith("bootstrap: installing apparmor docker.io mmdebstrap")
    assert "E: Unable to locate package" in output or "E: Package " in output
    assert "bootstrap: these packages cannot be installed (see above):" in output


# Packages count as installed by what dpkg-query says; dockerd and docker are scripts.
STUBS = {
    "dpkg-query": r"""#!/bin/sh
shift 2
for name; do echo "installed $name"; done
""",
    "docker": r"""#!/bin/sh
if [ -e /run/up ]; then echo 20.10; exit 0; fi
echo "Cannot connect to the Docker daemon" >&2
exit 1
""",
    "dockerd": r"""#!/bin/sh
echo "starting as $(id -u)"
if [ -e /run/broken ]; then echo "failed to start daemon: no iptables"; exit 1; fi
sleep 1
touch /run/up
exec sleep 60
""",
}


@pytest.fixture
def stubbed(machine: Machine) -> Machine:
    """Return the machine with a Docker whose daemon is a script, and a ready environment."""
    for name, text in STUBS.items():
        machine.prepare(
            f"cat >/usr/local/bin/{name} <<'END'\n{text}END\nchmod 0755 /usr/local/bin/{name}"
        )
    # What the stamp is made of is tried elsewhere, with a real environment.
    machine.prepare(
        "sed -i 's/^is_stamped() .*/is_stamped() { true; }/' bootstrap; mkdir -p .venv/bin;"
        "printf '#!/bin/sh\\necho invoke \"$@\"\\n' >.venv/bin/invoke; chmod 0755 .venv/bin/invoke"
    )
    return machine


@pytest.mark.parametrize("user", ["root", "vagrant"])
def test_without_systemd_the_daemon_is_started_by_hand(stubbed: Machine, user: str) -> None:
    status, output = stubbed.sh("./bootstrap build --json", user=user)
    assert status == 0, output
    log = "/var/log/vagrant-kiwi-dockerd.log"
    assert output.splitlines() == [
        f"bootstrap: starting the Docker daemon by hand (log: {log})",
        "invoke build --json",
    ]
    assert stubbed.sh(f"cat {log}") == (0, "starting as 0\n")
    # It outlives us, and holds neither our locks nor our terminal.
    descriptors = stubbed.sh(
        'for pid in $(pidof sleep); do grep -qx "sleep.60." <(tr "\\0" . </proc/$pid/cmdline)'
        " && readlink /proc/$pid/fd/*; done"
    )[1]
    assert descriptors.split() == ["/dev/null", log, log]
    assert stubbed.sh("./bootstrap build", user=user) == (0, "invoke build\n")


def test_a_daemon_that_does_not_start_is_explained_by_its_last_lines(stubbed: Machine) -> None:
    stubbed.prepare("touch /run/broken")
    status, output = stubbed.sh("./bootstrap build")
    assert status == 4
    assert output.splitlines()[1:] == [
        "starting as 0",
        "failed to start daemon: no iptables",
        "bootstrap: the Docker daemon does not come up (see above, and"
        " /var/log/vagrant-kiwi-dockerd.log).",
        "bootstrap: Mend what the last lines name, then run this again.",
    ]


def test_systemd_starts_the_daemon_where_it_runs(stubbed: Machine) -> None:
    stubbed.prepare(
        "mkdir -p /run/systemd/system;"
        "printf '#!/bin/sh\\necho \"$@\" >/run/asked; touch /run/up\\n' >/usr/local/bin/systemctl;"
        "chmod 0755 /usr/local/bin/systemctl"
    )
    status, output = stubbed.sh("./bootstrap info", user="vagrant")
    assert (status, output.splitlines()[-1]) == (0, "invoke info")
    assert stubbed.sh("cat /run/asked") == (0, "start docker\n")


def test_a_daemon_elsewhere_is_not_replaced_by_one_here(stubbed: Machine) -> None:
    status, output = stubbed.sh("DOCKER_HOST=tcp://192.0.2.1:2375 ./bootstrap info")
    assert status == 4
    assert "named by DOCKER_HOST does not answer" in output
    assert stubbed.sh("ls /var/log/vagrant-kiwi-dockerd.log")[0] != 0


def test_builds_on_another_machine_need_no_docker_here(stubbed: Machine) -> None:
    asked = "./bootstrap build --provider=host"
    assert stubbed.sh(asked, user="vagrant") == (0, "invoke build --provider=host\n")
    assert stubbed.sh("ls /var/log/vagrant-kiwi-dockerd.log")[0] != 0


FORBIDDEN = r"""#!/bin/sh
if [ "$(id -u)" = 0 ]; then echo 20.10; exit 0; fi
echo "permission denied while trying to connect to the Docker daemon socket" >&2
exit 1
"""


def test_who_is_not_in_the_group_docker_is_told_how_to_join(stubbed: Machine) -> None:
    stubbed.prepare(f"cat >/usr/local/bin/docker <<'END'\n{FORBIDDEN}END\ngroupadd docker")
    status, output = stubbed.sh("./bootstrap build", user="vagrant")
    assert status == 4
    assert output.splitlines() == [
        "bootstrap: you may not use Docker: you are not in the group docker. Join it:",
        "bootstrap:   sudo usermod -aG docker vagrant",
        "bootstrap: Then log in again and run this again. (Members of that group can become root.)",
    ]
    stubbed.prepare("usermod -aG docker vagrant")
    # A process that had started before.
    status, output = stubbed.sh(
        "setpriv --reuid=vagrant --regid=vagrant --clear-groups ./bootstrap build"
    )
    assert status == 4
    assert output.splitlines()[0] == (
        "bootstrap: you are in the group docker, but not in this login session yet."
    )
    assert stubbed.sh("./bootstrap build") == (0, "invoke build\n")


# --- libvirt there -----------------------------------------------------------------------------

# The daemons are scripts that do what real ones were seen to do; what virsh changes is noted.
LIBVIRT_STUBS = {
    "dbus-send": """#!/bin/sh
[ -e /run/lv/bus ]
""",
    "dbus-daemon": """#!/bin/sh
echo "dbus-daemon $*"
if [ -e /run/dbus/pid ]; then echo "The pid file exists"; exit 1; fi
echo $$ >/run/dbus/pid
touch /run/lv/bus
""",
    "virtlogd": """#!/bin/sh
echo $$ >/run/virtlogd.pid
sleep 60
""",
    "libvirtd": """#!/bin/sh
sleep 0.2
echo "libvirtd of $(id -u) in $PWD, umask $(umask)"
if [ -e /run/lv/broken ]; then echo "error : Can't load config file"; exit 1; fi
echo $$ >/run/libvirtd.pid
sleep 0.5
touch /run/lv/up
sleep 60
""",
    "virsh": """#!/bin/bash
fail() { printf 'error: %s\\n' "$@" >&2; exit 1; }
cd /run/lv
[[ "$1 $2" == "-c qemu:///system" ]] || fail "unexpected: $*"
shift 2
if [[ ! -e up ]]; then
    fail "failed to connect to the hypervisor" "Failed to connect socket to '/run/it': No such file"
fi
if [[ $EUID != 0 && -s refused ]]; then fail "failed to connect to the hypervisor" "$(<refused)"; fi
case $1 in
    uri) exit ;;
    net-list*)
        [[ ! -e net.active ]] || printf 'default\\nother\\n'
        printf '\\n+\\n'
        [[ ! -e pool.active ]] || printf ' default             \\n'
        exit
        ;;
    net-info | pool-info) [[ -e ${1%-*}.defined ]]; exit ;;
esac
echo "$*" >>changes
case $1 in
    net-start)
        [[ ! -s clash ]] || fail "Failed to start network default" "$(<clash)"
        touch net.active
        ;;
    pool-start) touch pool.active ;;
    net-define | net-autostart | pool-define-as | pool-build | pool-autostart) ;;
    *) fail "unexpected: $*" ;;
esac
""",
}
LIBVIRT_LOG = "/var/log/vagrant-kiwi-libvirtd.log"


@pytest.fixture
def libvirt(stubbed: Machine) -> Machine:
    """Return the machine with a Docker that runs, and a libvirt of scripts that does not."""
    for name, text in LIBVIRT_STUBS.items():
        stubbed.prepare(
            f"cat >/usr/local/bin/{name} <<'END'\n{text}END\nchmod 0755 /usr/local/bin/{name}"
        )
    stubbed.prepare("touch /run/up; mkdir /run/lv; chmod 0777 /run/lv")
    return stubbed


BUILD = "./bootstrap build --provider=libvirt"


@pytest.mark.parametrize("user", ["root", "vagrant"])
def test_without_systemd_libvirt_is_started_by_hand(libvirt: Machine, user: str) -> None:
    # What a machine that was switched off leaves; one number belongs to another process by now.
    libvirt.prepare(
        "mkdir /run/dbus; echo 1 >/run/dbus/pid; echo 1 >/run/libvirtd.pid;"
        "echo 99999 >/run/virtlogd.pid"
    )
    status, output = libvirt.sh(f"umask 077; {BUILD}", user=user)
    assert status == 0, output
    assert output.splitlines() == [
        f"bootstrap: starting libvirt by hand (log: {LIBVIRT_LOG})",
        "bootstrap: starting libvirt's network default",
        "bootstrap: starting libvirt's storage pool default",
        "invoke build --provider=libvirt",
    ]
    assert libvirt.sh(f"cat {LIBVIRT_LOG}")[1].splitlines() == [
        "dbus-daemon --system",
        "libvirtd of 0 in /, umask 0022",
    ]
    assert libvirt.sh("cat /run/lv/changes")[1].splitlines() == [
        "net-define /usr/share/libvirt/networks/default.xml",
        "net-start default",
        "net-autostart default",
        "pool-define-as default dir --target /var/lib/libvirt/images",
        "pool-build default",
        "pool-autostart default",
        "pool-start default",
    ]
    # They outlive us, and hold neither our locks nor our terminal.
    for name in ("virtlogd", "libvirtd"):
        _, files = libvirt.sh(f'ls -l /proc/"$(cat /run/{name}.pid)"/fd | grep -o "[^ ]*$"')
        assert {"/dev/null", LIBVIRT_LOG} <= set(files.split())
        assert not {"/src", "/var/lib/dpkg"} & set(files.split())
    assert libvirt.sh(BUILD, user=user) == (0, "invoke build --provider=libvirt\n")


def test_where_libvirt_is_not_wanted_it_is_left_alone(libvirt: Machine) -> None:
    libvirt.prepare("echo 'touch /run/asked; exit 1' >/usr/local/bin/virsh")
    for words in ("build", "test --quick"):
        assert libvirt.sh(f"./bootstrap {words}") == (0, f"invoke {words}\n")
    assert libvirt.sh("ls /run/asked /run/libvirtd.pid 2>/dev/null")[1] == ""


def test_what_libvirt_has_is_only_started(libvirt: Machine) -> None:
    libvirt.prepare("touch /run/lv/up /run/lv/net.defined /run/lv/pool.defined")
    status, output = libvirt.sh(BUILD)
    assert status == 0, output
    changes = "net-start default\nnet-autostart default\npool-start default\n"
    assert libvirt.sh("cat /run/lv/changes") == (0, changes)


def test_a_libvirt_that_does_not_start_is_explained_by_its_last_lines(libvirt: Machine) -> None:
    libvirt.prepare("touch /run/lv/broken /run/lv/bus")
    status, output = libvirt.sh(BUILD)
    assert status == 4
    assert output.splitlines()[1:] == [
        "libvirtd of 0 in /, umask 0022",
        "error : Can't load config file",
        f"bootstrap: libvirt does not come up (see above, and {LIBVIRT_LOG}):",
        "bootstrap:   error: Failed to connect socket to '/run/it': No such file",
        "bootstrap: Mend what the last lines name, then run this again.",
    ]


def test_without_sudo_libvirt_is_not_started(libvirt: Machine) -> None:
    libvirt.prepare("rm /etc/sudoers.d/vagrant")
    status, output = libvirt.sh(f"{BUILD} </dev/null", user="vagrant")
    assert status == 4
    assert output.splitlines() == [
        "bootstrap: libvirt does not run, and you may not start it (no sudo).",
        "bootstrap: Have it started by the administrator: systemctl start libvirtd",
    ]


@pytest.mark.parametrize(
    ("modular", "asked"),
    [
        (1, "start libvirtd"),
        (0, "start virtlogd.socket virtqemud.socket virtnetworkd.socket virtstoraged.socket"),
    ],
)
def test_systemd_starts_libvirt_where_it_runs(libvirt: Machine, modular: int, asked: str) -> None:
    libvirt.prepare(
        "mkdir -p /run/systemd/system; cat >/usr/local/bin/systemctl <<'END'\n#!/bin/sh\n"
        f"if [ $1 = is-enabled ]; then exit {modular}; fi\n"
        'echo "$*" >/run/asked; touch /run/lv/up\nEND\nchmod 0755 /usr/local/bin/systemctl'
    )
    status, output = libvirt.sh(BUILD, user="vagrant")
    assert (status, output.splitlines()[-1]) == (0, "invoke build --provider=libvirt")
    assert libvirt.sh("cat /run/asked") == (0, f"{asked}\n")


def test_a_network_whose_addresses_are_taken_is_explained(libvirt: Machine) -> None:
    taken = "internal error: Network is already in use by interface eth0"
    libvirt.prepare(f"touch /run/lv/up; echo '{taken}' >/run/lv/clash")
    status, output = libvirt.sh(BUILD)
    assert status == 4
    assert output.splitlines()[1:] == [
        "bootstrap: libvirt is not set up; virsh net-start default says:",
        f"bootstrap:   error: {taken}",
        "bootstrap: Give it addresses that nothing else here has, then run this again:",
        "bootstrap:   virsh -c qemu:///system net-edit default",
    ]


def test_who_is_not_in_the_group_libvirt_is_told_how_to_join(libvirt: Machine) -> None:
    polkit = "authentication unavailable: no polkit agent available to authenticate action"
    libvirt.prepare(f"touch /run/lv/up; echo '{polkit}' >/run/lv/refused; groupadd libvirt")
    status, output = libvirt.sh(BUILD, user="vagrant")
    assert status == 4
    assert output.splitlines() == [
        "bootstrap: you may not use libvirt: you are not in the group libvirt. Join it:",
        "bootstrap:   sudo usermod -aG libvirt vagrant",
        "bootstrap: Then log in again and run this again. (Members of that group can become root.)",
    ]
    libvirt.prepare("usermod -aG libvirt vagrant")
    status, output = libvirt.sh(BUILD, user="vagrant")
    assert status == 4
    assert output.splitlines()[:2] == [
        "bootstrap: libvirt refuses you, although you are in the group libvirt:",
        f"bootstrap:   error: {polkit}",
    ]
    # Where the administrator has chosen the socket's group in polkit's place.
    socket = "Failed to connect socket to '/var/run/libvirt/libvirt-sock': Permission denied"
    libvirt.prepare(f'echo "{socket}" >/run/lv/refused')
    status, output = libvirt.sh(BUILD, user="vagrant")
    assert status == 4
    assert output.splitlines()[0] == (
        "bootstrap: you are in the group libvirt, but not in this login session yet."
    )


def test_who_lacks_both_groups_joins_both_at_once(libvirt: Machine) -> None:
    libvirt.prepare(
        f"cat >/usr/local/bin/docker <<'END'\n{FORBIDDEN}END\n"
        "groupadd docker; groupadd libvirt; touch /run/lv/up"
    )
    status, output = libvirt.sh(BUILD, user="vagrant")
    assert status == 4
    assert output.splitlines()[1] == "bootstrap:   sudo usermod -aG docker,libvirt vagrant"


def test_the_list_of_packages_is_whole_and_readable() -> None:
    text = (CHECKOUT / "requirements/system-packages.txt").read_text()
    groups = re.findall(r"^\[(\w+)\]$", text, re.MULTILINE)
    assert groups == ["always", "test", "libvirt"]
    for line in text.splitlines():
        assert re.fullmatch(r"(|#.*|\[\w+\]|[a-z0-9.+-]+( \| [a-z0-9.+-]+)*)", line), line
