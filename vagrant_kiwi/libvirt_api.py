"""The connection to libvirt, and what can be wrong with it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import libvirt

from vagrant_kiwi.errors import GuestError, PreflightError


def _silent(_context: object, _error: object) -> None:
    """Swallow the copy of each error that libvirt would print on standard error."""


libvirt.registerErrorHandler(_silent, None)


@contextlib.contextmanager
def client(uri: str) -> Iterator[libvirt.virConnect]:
    """Connect to libvirt for the body; what fails in it is said in our own words.

    Args:
        uri: where, such as qemu:///system.

    Raises:
        PreflightError: no libvirt answers there, or we may not use it.
        GuestError: it refused something in the body.
    """
    try:
        connection = libvirt.open(uri)
    except libvirt.libvirtError as error:
        raise _unreachable(uri, error) from error
    try:
        yield connection
    except libvirt.libvirtError as error:
        raise GuestError(
            "libvirt reports an error",
            details=f"{uri}: {error}",
            resolution="Is libvirt in good order (virsh list --all)? Build again.",
        ) from error
    finally:
        # Closing a connection that is lost fails too, and says nothing new.
        with contextlib.suppress(libvirt.libvirtError):
            connection.close()


def is_remote(uri: str) -> bool:
    """Tell whether libvirt's files are on another host than ours."""
    return bool(urlsplit(uri).netloc)


def ssh_proxy(uri: str) -> tuple[str, ...]:
    """Return the command by which ssh reaches guests of a libvirt that is reached by ssh itself.

    It is the user's own ssh, with his configuration and known hosts, as libvirt uses it.

    Args:
        uri: where libvirt is.

    Returns:
        The words for ssh's ProxyCommand; none where guests are reached directly.
    """
    parts = urlsplit(uri)
    if not parts.hostname or not parts.scheme.startswith(("qemu+ssh", "qemu+libssh")):
        return ()
    user = ("-l", parts.username) if parts.username else ()
    port = ("-p", str(parts.port)) if parts.port else ()
    # libvirt's own parameter; https://libvirt.org/uri.html, "ssh transport".
    key = [("-i", file) for file in parse_qs(parts.query).get("keyfile", ())]
    return ("ssh", *user, *port, *sum(key, ()), "-W", "[%h]:%p", parts.hostname)


def _unreachable(uri: str, error: libvirt.libvirtError) -> PreflightError:
    said = str(error)
    if "ermission denied" in said or error.get_error_code() in (
        libvirt.VIR_ERR_AUTH_FAILED,
        libvirt.VIR_ERR_AUTH_UNAVAILABLE,
        libvirt.VIR_ERR_AUTH_CANCELLED,
        libvirt.VIR_ERR_ACCESS_DENIED,
    ):
        return PreflightError(
            f"You may not use libvirt at {uri}",
            details=said,
            resolution="Join the group libvirt: sudo usermod -aG libvirt $USER, then log in again; "
            "or set libvirt.uri to qemu:///session.",
        )
    if is_remote(uri):
        return PreflightError(
            f"libvirt does not answer at {uri}",
            details=said,
            resolution="Can you log in there with ssh and without a password, and does libvirtd "
            "run there? Try: virsh -c "
            f"'{uri}' version",
        )
    return PreflightError(
        f"libvirt does not answer at {uri}",
        details=said,
        resolution="Start it: sudo systemctl start libvirtd, or run "
        "./bootstrap build --provider=libvirt from the checkout.",
    )


def lookup_domain(connection: libvirt.virConnect, name: str) -> libvirt.virDomain | None:
    """Return the domain of a name, running or not; None if there is none."""
    try:
        return connection.lookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def volumes(connection: libvirt.virConnect) -> Iterator[libvirt.virStorageVol]:
    """Yield the volumes of all active pools, as they are on disk now."""
    for pool in connection.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE):
        found: list[libvirt.virStorageVol] = []
        with gone_is_fine():
            # Another process may have made or removed files behind this daemon's back.
            pool.refresh(0)
            found = pool.listAllVolumes()
        yield from found


@contextlib.contextmanager
def gone_is_fine() -> Iterator[None]:
    """Let something be gone already: Vagrant or another clean-up was faster."""
    try:
        yield
    except libvirt.libvirtError as error:
        # OPERATION_INVALID: a domain that is not running any more cannot be stopped.
        if not is_gone(error) and error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:
            raise


def is_gone(error: libvirt.libvirtError) -> bool:
    """Tell whether an error says that the thing does not exist (any more)."""
    return error.get_error_code() in (
        libvirt.VIR_ERR_NO_DOMAIN,
        libvirt.VIR_ERR_NO_STORAGE_VOL,
        libvirt.VIR_ERR_NO_STORAGE_POOL,
        libvirt.VIR_ERR_NO_NETWORK,
    )
