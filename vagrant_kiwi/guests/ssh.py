"""A guest that is reached by OpenSSH: one multiplexed connection for commands and data."""

from __future__ import annotations

import contextlib
import secrets
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vagrant_kiwi.errors import GuestError
from vagrant_kiwi.guests import ConnectionLostError
from vagrant_kiwi.guests.rsync import Carrier
from vagrant_kiwi.process import Background, CommandResult, OnOutput, Runner


@dataclass(frozen=True)
class Login:
    """How to log in: the four fields of ``vagrant ssh-config``, and the name of the host's key.

    ``proxy`` is the command whose input and output are the connection, if there is no direct one;
    ssh replaces %h and %p in it.
    """

    host: str
    port: int
    user: str
    identity_file: Path
    alias: str
    proxy: tuple[str, ...] = ()

    @property
    def who(self) -> str:
        """Where and as whom, in words."""
        return f"{self.user}@{self.host} port {self.port}"


@dataclass(frozen=True, kw_only=True)
class SshGuest(Carrier):
    """A live guest behind OpenSSH; see ``Guest`` for its verbs, of which rsync does two.

    Args:
        config: our own ssh configuration file; its path holds no character that needs quoting.
    """

    config: Path

    @classmethod
    def of(cls, runner: Runner, config: Path, *, far: bool) -> SshGuest:
        """Return the guest that a configuration calls "guest".

        Args:
            runner: starts ssh and rsync.
            config: the configuration.
            far: it is on another host: what is not compressed already is, on its way.
        """
        return cls(
            runner=runner,
            rsh=("ssh", "-F", str(config)),
            program="sudo -n rsync",
            peer="guest",
            compress=far,
            config=config,
        )

    def exec(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        root: bool = False,
        stdin: bytes | None = None,
        on_output: OnOutput | None = None,
    ) -> CommandResult:
        """Run a command to its end; see ``Guest.exec``."""
        # ssh exits 255 for a lost connection and for a remote exit 255 alike. The remote shell
        # therefore reports the status in a last line of standard error, under a name that the
        # command cannot know.
        token = f"vagrant-kiwi-{secrets.token_hex(8)}"
        command = shlex.join([*(("sudo", "-n", "--") if root else ()), *argv])
        line = f"{command}; printf '\\n{token} %d\\n' \"$?\" >&2"
        result = self.runner.run(
            ["ssh", "-F", str(self.config), "guest", line],
            timeout=timeout,
            stdin=stdin,
            on_output=on_output,
        )
        errors, found, status = result.errors.rpartition(f"\n{token} ".encode())
        if not found:
            raise ConnectionLostError(result.tail(5) or f"ssh exited with {result.status}")
        return CommandResult(tuple(argv), int(status), result.output, errors, result.seconds)


def public_keys(text: str) -> tuple[str, ...]:
    """Return the keys in the text of public key files, "type key" each, without comments."""
    return tuple(
        " ".join(line.split()[:2])
        for line in text.splitlines()
        if line.startswith(("ssh-", "ecdsa-"))
    )


@contextlib.contextmanager
def connected(
    runner: Runner, config: Path, *, who: str, timeout: float, far: bool = False
) -> Iterator[SshGuest]:
    """Hold one authenticated connection to a guest for the body.

    Args:
        runner: starts ssh.
        config: what ``write_config`` wrote; the connection's files lie beside it, and who made
            that folder removes it.
        who: where and as whom, for the error.
        timeout: seconds until the first login must have worked.
        far: the guest is on another host.

    Raises:
        GuestError: the login does not work; its details are what ssh said.
    """
    folder = config.parent
    master = runner.spawn(
        ["ssh", "-F", str(config), "-o", "ControlMaster=yes", "-N", "guest"],
        log=folder / "master.log",
    )
    try:
        _wait_for_master(runner, config, master, who, timeout)
        yield SshGuest.of(runner, config, far=far)
    finally:
        master.stop()


def runtime_folder() -> Path:
    """Make a private folder for a connection.

    Its path is short and plain: a control socket's name may have about 100 characters, and rsync
    splits its --rsh at spaces.
    """
    return Path(tempfile.mkdtemp(prefix="vk-", dir=_runtime_parent()))


def remove_folder(folder: Path) -> None:
    """Remove what ``runtime_folder`` made."""
    shutil.rmtree(folder)


def _runtime_parent() -> Path:
    """Return /tmp, or Python's temporary folder where a name in it stays short enough."""
    usual = Path(tempfile.gettempdir())
    return usual if len(str(usual)) < 40 else Path("/tmp")  # noqa: S108


def write_config(folder: Path, login: Login, *, known_hosts: str) -> Path:
    """Write our own ssh configuration: nothing of the user's, the host's key pinned.

    Args:
        folder: the private runtime folder; its path needs no quoting.
        login: where and as whom.
        known_hosts: the content of the known_hosts file.

    Returns:
        The configuration's path.
    """
    # Links and copies under plain names: ssh expands %, ~ and ${} in the paths of its options.
    (folder / "key").symlink_to(login.identity_file.resolve())
    (folder / "known_hosts").write_text(known_hosts)
    return write_options(
        folder / "config",
        {
            "HostName": login.host,
            "Port": login.port,
            "User": login.user,
            "HostKeyAlias": login.alias,
            "UserKnownHostsFile": folder / "known_hosts",
            "GlobalKnownHostsFile": "none",
            "IdentityFile": folder / "key",
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "ProxyCommand": shlex.join(login.proxy) or "none",
        },
    )


def write_options(config: Path, options: Mapping[str, object], *, more: str = "") -> Path:
    """Write an ssh configuration for the name "guest": these options, and those of all guests.

    Args:
        config: the file to write, in a private folder whose path needs no quoting.
        options: ssh_config's keywords; a value needs no quoting.
        more: what comes behind it.

    Returns:
        The configuration's path.
    """
    common = {
        "StrictHostKeyChecking": "yes",
        "PreferredAuthentications": "publickey",
        "BatchMode": "yes",
        "ControlPath": config.parent / "s",
        "ControlMaster": "no",
        "ForwardAgent": "no",
        "ForwardX11": "no",
        "Compression": "no",
        "ConnectTimeout": 10,
        "ServerAliveInterval": 15,
        "ServerAliveCountMax": 8,
        "LogLevel": "ERROR",
    }
    lines = [f"  {name} {value}" for name, value in {**common, **options}.items()]
    config.write_text("\n".join(["Host guest", *lines, more]) + "\n")
    return config


def _wait_for_master(
    runner: Runner, config: Path, master: Background, who: str, timeout: float
) -> None:
    """Wait until the control socket answers.

    Raises:
        GuestError: ssh gave up, or the time is over.
    """
    folder = config.parent
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if (folder / "s").exists():
            check = runner.run(
                ["ssh", "-F", str(config), "-O", "check", "guest"], timeout=10, merge=True
            )
            if check.ok:
                return
        if master.ended(within=0.05):
            break
    said = (folder / "master.log").read_text(errors="replace").strip()
    raise GuestError(
        f"Cannot log in to the guest as {who}",
        details=said or f"no answer within {timeout:.0f} s",
        resolution="Build again with -v and look at the log of the guest's start.",
    )


def refuses_key(runner: Runner, login: Login, key: Path, parent: Path, *, known_hosts: str) -> bool:
    """Tell whether the guest refuses a key, and for no other reason than that key.

    A control socket, an agent or the user's own configuration could make a refused key look
    accepted, or an accepted one refused: none of them takes part.

    Args:
        runner: starts ssh.
        login: where and as whom; its own identity is not offered.
        key: the private key to try.
        parent: the connection's runtime folder.
        known_hosts: the host's keys, as for ``connected``.

    Returns:
        True if the answer was "Permission denied (publickey)", False if the key let us in.

    Raises:
        GuestError: neither; then nothing is known.
    """
    with tempfile.TemporaryDirectory(prefix="key-", dir=parent) as name:
        folder = Path(name)
        (folder / "known_hosts").write_text(known_hosts)
        # ssh ignores a key that others may read; the well-known one may lie in such a file.
        copy = folder / "key"
        copy.touch(mode=0o600)
        copy.write_bytes(key.read_bytes())
        options = (
            "IdentitiesOnly=yes",
            "IdentityAgent=none",
            "BatchMode=yes",
            "ControlPath=none",
            "ControlMaster=no",
            "PreferredAuthentications=publickey",
            "StrictHostKeyChecking=yes",
            f"UserKnownHostsFile={folder}/known_hosts",
            "GlobalKnownHostsFile=none",
            f"HostKeyAlias={login.alias}",
            "ConnectTimeout=10",
            f"ProxyCommand={shlex.join(login.proxy) or 'none'}",
        )
        result = runner.run(
            ["ssh", "-F", "none", "-i", str(copy), "-p", str(login.port)]
            + [f"-o{option}" for option in options]
            + [f"{login.user}@{login.host}", "true"],
            timeout=30,
        )
    if result.ok:
        return False
    # With the bracket: "(publickey,password)" would mean that a well-known password may work.
    denied = "Permission denied (publickey)" in result.error_text
    if result.status == 255 and denied:
        return True
    raise GuestError(
        "Cannot tell whether the guest refuses Vagrant's well-known insecure key",
        details=result.tail(3),
        resolution="Build again; if it stays so, look at sshd in the box.",
    )
