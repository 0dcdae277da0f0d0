"""A real registry on the loopback address, with or without a login."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.integration.cli import wait_until

#: The one login of a registry that wants one.
USER, PASSWORD = "builder", "correct horse"
# bcrypt of that password, the only kind that a registry takes: what makes one is not everywhere.
_HTPASSWD = f"{USER}:$2b$05$z6JEFCgSZh4aCA16NAlINONuTgA76wIIkviPrhb8WnM4fzZ80Cy6O\n"


@contextlib.contextmanager
def registry(folder: Path, port: int, *, login: bool = False) -> Iterator[None]:
    """Run a registry for the body.

    Args:
        folder: for its data, which stays.
        port: where it listens.
        login: whether it wants ``USER`` and ``PASSWORD``.
    """
    auth = ""
    if login:
        (folder / "htpasswd").write_text(_HTPASSWD)
        auth = f"auth: {{htpasswd: {{realm: tests, path: '{folder}/htpasswd'}}}}\n"
    (folder / "registry.yml").write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: "
        f"'{folder}/data'}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n{auth}"
    )
    process = subprocess.Popen(
        ["docker-registry", "serve", folder / "registry.yml"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: _answers(port), what="the registry answers", timeout=30)
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


def log_in(folder: Path, port: int, *, password: str = PASSWORD) -> None:
    """Write what ``docker login`` would; DOCKER_CONFIG says where it is."""
    folder.mkdir(exist_ok=True)
    secret = base64.b64encode(f"{USER}:{password}".encode()).decode()
    config = {"auths": {f"127.0.0.1:{port}": {"auth": secret}}}
    (folder / "config.json").write_text(json.dumps(config))


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
