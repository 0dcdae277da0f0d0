"""ssh to an existing machine: its key is known, or nothing is sent there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from vagrant_kiwi.errors import GuestError, PreflightError
from vagrant_kiwi.guests import ssh
from vagrant_kiwi.guests.ssh import SshGuest
from vagrant_kiwi.hosts import HostTarget
from vagrant_kiwi.process import Runner

#: Seconds in which a machine must let us in.
_LOGIN_TIMEOUT = 60.0
_RESOLUTION_KEY = (
    "Log in there once by ssh and compare the key it shows, or set host.host_key: accept-new."
)


def write_config(folder: Path, target: HostTarget) -> Path:
    """Write ssh's configuration for a machine, and for the one on the way to it.

    Args:
        folder: a private one whose path needs no quoting.
        target: the machine.

    Returns:
        The configuration's path.
    """
    common: dict[str, object] = {
        "StrictHostKeyChecking": "accept-new" if target.accept_new else "yes",
        # By this word ssh takes the socket's path from the environment.
        "IdentityAgent": "SSH_AUTH_SOCK",
        "PreferredAuthentications": "publickey",
        "BatchMode": "yes",
        "ConnectTimeout": 10,
        "LogLevel": "ERROR",
    }
    # Links under plain names: ssh expands %, ~ and ${} in the paths of its options.
    known = target.known_hosts or Path.home() / ".ssh" / "known_hosts"
    if target.accept_new and target.known_hosts is None:
        # ssh would not make it, and would forget the key without a word.
        known.parent.mkdir(mode=0o700, exist_ok=True)
    (folder / "known_hosts").symlink_to(known.absolute())
    common["UserKnownHostsFile"] = folder / "known_hosts"
    if target.known_hosts is not None:
        common["GlobalKnownHostsFile"] = "none"
    if target.identity_file is not None:
        (folder / "key").symlink_to(target.identity_file.absolute())
        common |= {"IdentityFile": folder / "key", "IdentitiesOnly": "yes"}
    # A "%" names the interface of a link-local address.
    address = target.address.replace("%", "%%")
    here = {**common, "HostName": address, "Port": target.port, "User": target.user}
    config = folder / "config"
    if target.jump is None:
        return ssh.write_options(config, here)
    here["ProxyCommand"] = f"ssh -F {config} -W [%h]:%p jump"
    user, _, rest = target.jump.rpartition("@")
    name, _, port = rest.partition(":")
    way = {**common, "HostName": name, "Port": port or 22, "User": user or target.user}
    lines = ["Host jump", *(f"  {option} {value}" for option, value in way.items())]
    return ssh.write_options(config, here, more="\n".join(lines))


@contextlib.contextmanager
def connected(runner: Runner, config: Path, target: HostTarget) -> Iterator[SshGuest]:
    """Hold one connection to a machine for the body.

    Args:
        runner: starts ssh.
        config: what ``write_config`` wrote.
        target: the machine.

    Raises:
        PreflightError: it cannot be reached, its key is not known, or it does not let us in.
        GuestError: its key is another one than the known one.
    """
    with contextlib.ExitStack() as stack:
        try:
            guest = stack.enter_context(
                ssh.connected(runner, config, who=target.who, timeout=_LOGIN_TIMEOUT, far=True)
            )
        except GuestError as error:
            raise _told(target, error) from error
        yield guest


def _told(target: HostTarget, error: GuestError) -> PreflightError | GuestError:
    """Return the error for what ssh said."""
    said = error.details
    if "IDENTIFICATION HAS CHANGED" in said or ("host key for" in said and "has changed" in said):
        return GuestError(
            f"The key of {target.address} is not the known one",
            details=said,
            resolution="Somebody may stand between. If the machine was made anew, remove the old "
            "key: ssh-keygen -R",
        )
    if "Host key verification failed" in said or "host key is known" in said:
        return PreflightError(
            f"The key of {target.address} is not known",
            details=said,
            resolution=_RESOLUTION_KEY,
        )
    if "Permission denied" in said:
        return PreflightError(
            f"{target.address} does not let {target.user} in",
            details=said,
            resolution="Set host.user and host.identity_file, or load the key into your agent; a "
            "key with a passphrase works only by the agent.",
        )
    return PreflightError(
        f"{target.who} cannot be reached",
        details=said,
        resolution="Is it up, is the address right, does sshd listen there?",
    )
