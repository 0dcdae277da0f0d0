"""A guest that libvirt runs: its host keys, its console, and all that can be left of it."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import libvirt

from vagrant_kiwi import libvirt_api
from vagrant_kiwi.errors import GuestError, PreflightError
from vagrant_kiwi.guests import agent, ssh
from vagrant_kiwi.guests.ssh import Login
from vagrant_kiwi.plan import guest_name

_HOST_KEYS = ("sh", "-c", "cat /etc/ssh/ssh_host_*_key.pub")
# A DHCPRELEASE (RFC 2131, 4.4.6); dnsmasq keeps an address for an hour otherwise, and a network has
# some 250 of them. networkd sends one when it stops, but in systemd 252 without the option that
# names the server, and dnsmasq passes such a one over.
_RELEASE = """
import glob, os, socket, struct
for path in glob.glob("/run/systemd/netif/leases/*"):
    lease = dict(line.split("=", 1) for line in open(path).read().splitlines() if "=" in line)
    name = socket.if_indextoname(int(os.path.basename(path)))
    mac = bytes.fromhex(open(f"/sys/class/net/{name}/address").read().strip().replace(":", ""))
    own, server = (socket.inet_aton(lease[key]) for key in ("ADDRESS", "SERVER_ADDRESS"))
    client = bytes.fromhex(lease["CLIENTID"])
    packet = struct.pack("!4B4s2H4s12s", 1, 1, 6, 0, os.urandom(4), 0, 0, own, bytes(12))
    packet += mac + bytes(10 + 64 + 128) + bytes((99, 130, 83, 99, 53, 1, 7, 54, 4)) + server
    packet += bytes((61, len(client))) + client + bytes((255,))
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(packet, (socket.inet_ntoa(server), 67))
"""
_RENEW = ("systemctl", "restart", "systemd-networkd.service")
#: Seconds for a guest that was just restored, and is slow when it is emulated.
_WAKE_TIME = 60.0
#: Seconds that giving back may take: it is only a courtesy.
_RELEASE_TIME = 15.0

_CONSOLE_LINES = 12
#: Colours, cursor movements, and other signs that are for a terminal; ECMA-48, 5.4.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|.)|[^\n\t -\ufffd]")


@dataclass(frozen=True)
class LibvirtBackend:
    """libvirt below Vagrant; see ``Backend``.

    Everything of a run is named after it: the domain, its volumes, and what a site's template may
    add to them under that name.

    Args:
        run_id: the run.
        uri: where libvirt is.
        console: the file that takes the guest's serial console, if it is on this host.
    """

    run_id: str
    uri: str
    console: Path | None

    @property
    def _name(self) -> str:
        return guest_name(self.run_id)

    def claimed(self) -> str | None:
        """Name what carries the run's id already; see ``Backend``."""
        with libvirt_api.client(self.uri) as connection:
            return next(iter(self._left(connection)), None)

    def running(self) -> bool:
        """Tell whether the guest runs; see ``Backend``."""
        with libvirt_api.client(self.uri) as connection:
            domain = libvirt_api.lookup_domain(connection, self._name)
            return domain is not None and bool(domain.isActive())

    def wake(self) -> None:
        """Restore the guest's memory, and have it ask for its address again; see ``Backend``.

        The guest does not know that it slept: after an hour dnsmasq has forgotten its address,
        and Vagrant, which asks dnsmasq, would wait in vain.
        """
        with libvirt_api.client(self.uri) as connection:
            domain = libvirt_api.lookup_domain(connection, self._name)
            if domain is None or not domain.hasManagedSaveImage(0):
                return
            domain.create()
            agent.run(domain, _RENEW, timeout=_WAKE_TIME, patience=_WAKE_TIME)

    def host_keys(self, login: Login, *, timeout: float) -> tuple[str, ...]:
        """Ask the guest's agent for its ssh host keys; see ``Backend``."""
        with libvirt_api.client(self.uri) as connection:
            domain = libvirt_api.lookup_domain(connection, self._name)
            if domain is None:
                raise GuestError(
                    f"There is no domain {self._name}",
                    resolution="Did the template change the name of the machine? It must stay.",
                )
            output = agent.run(domain, _HOST_KEYS, timeout=timeout, patience=timeout)
        keys = ssh.public_keys(output)
        if not keys:
            raise GuestError(
                "The guest has no ssh host keys",
                details=output[-500:],
                resolution="Does its start-up make them (ssh-keygen -A)? Rebuild the box.",
            )
        return keys

    def proxy(self) -> tuple[str, ...]:
        """Return how ssh reaches a guest of another host; see ``Backend``."""
        return libvirt_api.ssh_proxy(self.uri)

    def last_words(self) -> str:
        """Return the state of a domain that does not run, and its console; see ``Backend``."""
        with (
            # The words are for another error, which must not be lost to one of libvirt's.
            contextlib.suppress(PreflightError, GuestError),
            libvirt_api.client(self.uri) as connection,
        ):
            domain = libvirt_api.lookup_domain(connection, self._name)
            if domain is not None and domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED:
                return f"QEMU stopped the guest: see {self._name}.log of QEMU on the host"
        if self.console is None or not self.console.is_file():
            return ""
        try:
            with self.console.open("rb") as stream:
                stream.seek(max(0, stream.seek(0, os.SEEK_END) - 16384))
                text = stream.read().decode("utf-8", "replace")
        except OSError as error:
            return f"the guest's console cannot be read: {error}"
        lines = [line.strip() for line in _ESCAPES.sub("", text).splitlines() if line.strip()]
        return "\n".join(["the guest's console:", *lines[-_CONSOLE_LINES:]]) if lines else ""

    def end(self) -> None:
        """Have the guest give its address back, and remove the domain; see ``Backend``.

        Vagrant would leave the address taken and NVRAM in place. And it asks ten times, for 2 s
        each, for the address of a domain that runs and has none any more.
        """
        with libvirt_api.client(self.uri) as connection:
            domain = libvirt_api.lookup_domain(connection, self._name)
            if domain is None:
                return
            if domain.isActive():
                with contextlib.suppress(GuestError):
                    agent.run(domain, ("python3", "-c", _RELEASE), timeout=_RELEASE_TIME)
            _remove_domain(domain)

    def remove(self, *, say: Callable[[str], None]) -> None:
        """Remove the domain and its volumes; see ``Backend``."""
        with libvirt_api.client(self.uri) as connection:
            domain = libvirt_api.lookup_domain(connection, self._name)
            if domain is not None:
                say(f"removing the domain {self._name}")
                _remove_domain(domain)
            for volume in self._volumes(connection):
                say(f"removing the volume {volume.name()}")
                with libvirt_api.gone_is_fine():
                    volume.delete(0)
            for network in self._networks(connection):
                say(f"removing the network {network.name()}")
                with libvirt_api.gone_is_fine():
                    if network.isActive():
                        network.destroy()
                    if network.isPersistent():
                        network.undefine()

    def leftovers(self) -> Sequence[str]:
        """Name what the run still has; see ``Backend``."""
        try:
            with libvirt_api.client(self.uri) as connection:
                return self._left(connection)
        except PreflightError as error:
            raise GuestError("libvirt does not say", details=str(error)) from error

    def _left(self, connection: libvirt.virConnect) -> tuple[str, ...]:
        domain = libvirt_api.lookup_domain(connection, self._name)
        return (
            *((f"domain {self._name}",) if domain is not None else ()),
            *(f"volume {volume.name()}" for volume in self._volumes(connection)),
            *(f"network {network.name()}" for network in self._networks(connection)),
        )

    def _volumes(self, connection: libvirt.virConnect) -> list[libvirt.virStorageVol]:
        """Return the volumes named after the run, in all pools: the disk, and a template's own."""
        return [volume for volume in libvirt_api.volumes(connection) if self._is_ours(volume)]

    def _is_ours(self, volume: libvirt.virStorageVol) -> bool:
        # Not the bare beginning: the run "a" is not the run "a-b".
        name = str(volume.name())
        return name.startswith((f"{self._name}.", f"{self._name}_"))

    def _networks(self, connection: libvirt.virConnect) -> list[libvirt.virNetwork]:
        return [
            network
            for network in connection.listAllNetworks()
            if network.name() == self._name or network.name().startswith(f"{self._name}_")
        ]


def _remove_domain(domain: libvirt.virDomain) -> None:
    """Stop a domain and forget it, with its saved memory, its snapshots' records and its NVRAM."""
    with libvirt_api.gone_is_fine():
        if domain.isActive():
            domain.destroy()
    with libvirt_api.gone_is_fine():
        domain.undefineFlags(
            libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
            | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
            | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
            | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
        )
