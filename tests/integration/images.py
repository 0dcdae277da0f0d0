"""Look into built images: what is in an archive, what a container says, whether a disk boots."""

from __future__ import annotations

import contextlib
import re
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import docker
from docker.models.images import Image

from vagrant_kiwi.process import Runner, last_lines

#: Seconds between two looks at the serial console.
_POLL = 0.25

#: Colours and cursor movements (ECMA-48 control sequences), which systemd writes to consoles.
_ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")

#: getty's prompt: the host's name and "login:", last on the console.
_PROMPT = re.compile(rb"^\S+ login: *\Z", re.MULTILINE)


def read_from_tarball(archive: Path, member: str) -> bytes:
    """Read one file out of a root archive.

    Args:
        archive: a tar file, compressed or not.
        member: the file's absolute path in the image, as in "/etc/os-release".

    Returns:
        The content.

    Raises:
        AssertionError: there is no such file, or it is not a regular one.
    """
    with tarfile.open(archive) as tar:
        for entry in tar:
            if _absolute(entry.name) == member:
                stream = tar.extractfile(entry) if entry.isreg() else None
                if stream is None:
                    raise AssertionError(f"{member} in {archive} is not a regular file")
                return stream.read()
    raise AssertionError(f"{member} is not in {archive}")


def list_tarball(archive: Path) -> frozenset[str]:
    """Return the absolute paths, in the image, of all that a root archive holds."""
    with tarfile.open(archive) as tar:
        return frozenset(_absolute(name) for name in tar.getnames())


def _absolute(name: str) -> str:
    return "/" + name.removeprefix("./").strip("/")


def run_container_image(
    client: docker.DockerClient,
    archive: Path,
    command: Sequence[str] | None = None,
    *,
    timeout: float = 60,
) -> str:
    """Load a container image, run it once without a network, and remove both again.

    Args:
        client: the daemon.
        archive: what ``docker save`` or KIWI's type docker writes, compressed or not.
        command: what to run; without it the image's own command runs.
        timeout: seconds that the command may take.

    Returns:
        What it wrote, standard output and standard error together.

    Raises:
        AssertionError: the command failed, or the archive holds more or less than one image.
    """
    with _loaded(client, archive) as image:
        container = client.containers.create(
            image, command=None if command is None else list(command), network_mode="none"
        )
        try:
            container.start()
            status = container.wait(timeout=timeout)["StatusCode"]
            said = container.logs(stdout=True, stderr=True).decode("utf-8", "replace")
        finally:
            container.remove(force=True, v=True)
    if status != 0:
        raise AssertionError(f"{archive} exited {status}:\n{said}")
    return str(said)


@contextlib.contextmanager
def _loaded(client: docker.DockerClient, archive: Path) -> Iterator[Image]:
    """Yield the loaded image; afterwards the daemon's images and names are as before."""
    before = {str(image.id): list(image.tags) for image in client.images.list(all=True)}
    with archive.open("rb") as stream:
        # One entry for each name of the image.
        loaded = {str(image.id): image for image in client.images.load(stream)}
    try:
        if len(loaded) != 1:
            raise AssertionError(f"{archive} holds {len(loaded)} images")
        yield next(iter(loaded.values()))
    finally:
        names = {tag for image in loaded.values() for tag in image.tags}
        for identifier, image in loaded.items():
            if identifier in before:
                for tag in set(image.tags).difference(before[identifier]):
                    client.images.remove(tag)
            else:
                client.images.remove(identifier, force=True)
        # Loading took a name away from the image that had it.
        for identifier, tags in before.items():
            for tag in names.intersection(tags):
                client.images.get(identifier).tag(tag)


def boot_to_login(image: Path, *, runner: Runner, timeout: float = 300) -> str:
    """Boot a disk image in a virtual machine until it asks for a login on ttyS0.

    The machine has one virtio disk, a serial port, 1 GiB of memory and no network. It is emulated
    (TCG), never KVM: /dev/kvm may be there and not work. What the guest writes to its disk goes to
    a temporary file (QEMU's -snapshot), so the image stays as it is.

    Args:
        image: a disk image, qcow2 by its suffix or else raw.
        runner: starts QEMU; its environment needs PATH.
        timeout: seconds until the prompt must be there.

    Returns:
        All that came over the serial console, without colours, with plain newlines.

    Raises:
        AssertionError: QEMU ended, or the guest's kernel panicked.
        TimeoutError: no prompt in time; the last lines of the console are in the message.
    """
    with tempfile.TemporaryDirectory(prefix="vk-boot-") as name:
        serial, log = Path(name, "serial.log"), Path(name, "qemu.log")
        serial.touch()
        process = runner.spawn(_machine(image, serial), log=log)
        try:
            deadline = time.monotonic() + timeout
            while True:
                ended = process.ended(within=0)
                console = _console(serial)
                if _PROMPT.search(console):
                    return console.decode("utf-8", "replace")
                if ended:
                    raise AssertionError(
                        f"QEMU ended with {image}:\n"
                        f"{last_lines(log.read_bytes())}\n{last_lines(console)}"
                    )
                if b"Kernel panic" in console:
                    raise AssertionError(f"{image} panicked:\n{last_lines(console, 20)}")
                if time.monotonic() >= deadline:
                    raise TimeoutError(
                        f"{image}: no login prompt after {timeout:.0f} s; last on its console:\n"
                        f"{last_lines(console, 20)}"
                    )
                time.sleep(_POLL)
        finally:
            process.stop()


def _machine(image: Path, serial: Path) -> list[str]:
    """Return QEMU's command line."""
    kind = "qcow2" if image.suffix == ".qcow2" else "raw"
    argv = ["qemu-system-x86_64", "-accel", "tcg", "-m", "1024", "-nodefaults", "-no-user-config"]
    argv += ["-no-reboot", "-display", "none", "-nic", "none", "-snapshot"]
    argv += ["-drive", f"file={_option(image)},format={kind},if=virtio"]
    argv += ["-chardev", f"file,id=console,path={_option(serial)}", "-serial", "chardev:console"]
    return argv


def _option(path: Path) -> str:
    """Quote a path for QEMU's comma-separated options."""
    return str(path).replace(",", ",,")


def _console(serial: Path) -> bytes:
    return _ESCAPES.sub(b"", serial.read_bytes()).replace(b"\r", b"")
