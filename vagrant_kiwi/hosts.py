"""The existing machines that a build may run on, from the settings."""

from __future__ import annotations

import pwd
from dataclasses import dataclass
from os import getuid
from pathlib import Path

from vagrant_kiwi.errors import SettingsError
from vagrant_kiwi.settings import HostEntry, HostSettings, Settings


@dataclass(frozen=True)
class HostTarget:
    """One machine, and how to reach it.

    ``identity_file`` and ``known_hosts`` are None where ssh's own choice counts. ``jump`` is
    [USER@]NAME[:PORT] of a machine on the way. ``accept_new``: the first key seen is added to the
    known ones.
    """

    address: str
    port: int
    user: str
    identity_file: Path | None
    known_hosts: Path | None
    jump: str | None
    accept_new: bool

    @property
    def who(self) -> str:
        """Where and as whom, in words."""
        return f"{self.user}@{self.address} port {self.port}"


def targets(settings: Settings) -> tuple[HostTarget, ...]:
    """Return the machines to try, in order.

    Raises:
        SettingsError: none is named.
    """
    host = settings.host
    entries = settings.hosts
    if not entries and host.address is not None:
        entries = (HostEntry(address=host.address),)
    if not entries:
        raise SettingsError(
            "--provider=host needs a machine",
            details="neither host.address nor hosts is set",
            resolution="Give --host=[USER@]ADDRESS[:PORT], or set host.address in invoke.yaml.",
        )
    return tuple(_target(entry, host) for entry in entries)


def _ourselves() -> str:
    try:
        return pwd.getpwuid(getuid()).pw_name
    except KeyError as error:
        raise SettingsError(
            f"Your user id {getuid()} has no name",
            resolution="Set host.user, or give --host=USER@ADDRESS.",
        ) from error


def _target(entry: HostEntry, host: HostSettings) -> HostTarget:
    return HostTarget(
        address=entry.address,
        port=entry.port or host.port,
        user=entry.user or host.user or _ourselves(),
        identity_file=entry.identity_file or host.identity_file,
        known_hosts=entry.known_hosts or host.known_hosts,
        jump=entry.jump or host.jump,
        accept_new=host.host_key == "accept-new",
    )
