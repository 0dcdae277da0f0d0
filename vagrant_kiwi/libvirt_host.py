"""What libvirt's host must have for a guest, checked before anything is started."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import libvirt
from lxml import etree

from vagrant_kiwi import libvirt_api
from vagrant_kiwi.errors import PreflightError
from vagrant_kiwi.guests.vagrantfile import Machine
from vagrant_kiwi.settings import LibvirtSettings

#: Bytes that a build takes of the pool at least: the guest's own system, KIWI's root, an image.
ROOM = 6 * 2**30

_MAX_CPUS = 8


def inspect(
    settings: LibvirtSettings,
    *,
    warn: Callable[[str], None],
    proc_cpuinfo: Path = Path("/proc/cpuinfo"),
    dev_kvm: Path = Path("/dev/kvm"),
) -> Machine:
    """Find out whether a guest can be started, and how.

    Args:
        settings: what the guest shall be like.
        warn: told what works, but not well.
        proc_cpuinfo: the host's processors.
        dev_kvm: KVM's device.

    Raises:
        PreflightError: libvirt cannot be used, or something is missing, with the remedy.
    """
    with libvirt_api.client(settings.uri) as connection:
        capabilities = etree.fromstring(connection.getCapabilities().encode())
        features = _cpu_features(connection, capabilities, settings, proc_cpuinfo)
        reason = _why_not_kvm(capabilities, settings, features, dev_kvm)
        if reason is not None and settings.accel == "kvm":
            raise PreflightError(
                "KVM cannot be used",
                details=reason,
                resolution="Set libvirt.accel to auto or tcg: it works then, but slowly.",
            )
        if reason is not None and settings.accel == "auto":
            warn(
                f"KVM cannot be used ({reason}): the guest is emulated, and a build takes about "
                "ten times as long"
            )
        accel: Literal["kvm", "tcg"] = (
            "kvm" if reason is None and settings.accel != "tcg" else "tcg"
        )
        _check_pool(connection, settings)
        _check_memory(connection, settings)
        address, device = _network(connection, settings)
        mode, model = _processor(settings, accel)
        return Machine(
            accel=accel,
            cpus=settings.cpus or min(int(connection.getInfo()[2]), _MAX_CPUS),
            cpu_mode=mode,
            cpu_model=model,
            network_address=address,
            network_device=device,
        )


def _processor(settings: LibvirtSettings, accel: str) -> tuple[str, str | None]:
    """Return the mode and model of the guest's processor.

    With QEMU's default one KIWI's own libraries find instructions missing: they want x86-64-v2.
    """
    if settings.cpu_mode is not None:
        return settings.cpu_mode, settings.cpu_model
    return ("host-passthrough", None) if accel == "kvm" else ("maximum", None)


def _cpu_features(
    connection: libvirt.virConnect,
    capabilities: etree._Element,
    settings: LibvirtSettings,
    proc_cpuinfo: Path,
) -> set[str]:
    """Return the features of the host's processor, by Linux's names, which are libvirt's too."""
    if not libvirt_api.is_remote(settings.uri):
        return set(proc_cpuinfo.read_text().split())
    cpu = capabilities.find("host/cpu")
    if cpu is None:
        return set()
    # A model stands for many features; this spells them out.
    flags = libvirt.VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES
    spelt = connection.baselineCPU([etree.tostring(cpu, encoding="unicode")], flags)
    return {str(entry.get("name")) for entry in etree.fromstring(spelt.encode()).iter("feature")}


def _why_not_kvm(
    capabilities: etree._Element, settings: LibvirtSettings, features: set[str], dev_kvm: Path
) -> str | None:
    """Return why KVM cannot run the guest; None if it can.

    KVM's device alone proves nothing: it can exist, open and make machines, and still not run an
    ordinary kernel, where the processor shows no virtualisation.

    Raises:
        PreflightError: no emulator for the guest's architecture is there either.
    """
    host = str(capabilities.findtext("host/cpu/arch"))
    arch = settings.arch or host
    types = {
        domain.get("type")
        for guest in capabilities.findall("guest")
        if guest.findtext("os_type") == "hvm"
        for entry in guest.findall("arch")
        if entry.get("name") == arch
        for domain in entry.findall("domain")
    }
    if not types:
        raise PreflightError(
            f"libvirt at {settings.uri} cannot run guests of the architecture {arch}",
            resolution=f"Install QEMU for it there (Debian: qemu-system-{_qemu_package(arch)}), "
            "or correct libvirt.arch.",
        )
    if arch != host:
        return f"the host is {host}, the guest {arch}"
    if "kvm" not in types:
        return "libvirt does not offer it: is /dev/kvm there?"
    if urlsplit(settings.uri).path == "/session" and not os.access(dev_kvm, os.R_OK | os.W_OK):
        return f"you may not use {dev_kvm}: join the group kvm"
    if arch == "x86_64" and not {"vmx", "svm"} & features:
        return "the processor shows neither vmx nor svm"
    return None


def _qemu_package(arch: str) -> str:
    return {"x86_64": "x86", "i686": "x86", "aarch64": "arm", "armv7l": "arm"}.get(arch, "misc")


def _check_pool(connection: libvirt.virConnect, settings: LibvirtSettings) -> None:
    virsh = f"virsh -c {settings.uri}"
    try:
        pool = connection.storagePoolLookupByName(settings.pool)
    except libvirt.libvirtError as error:
        if not libvirt_api.is_gone(error):
            raise
        known = ", ".join(sorted(pool.name() for pool in connection.listAllStoragePools()))
        raise PreflightError(
            f"libvirt has no storage pool {settings.pool}",
            details=f"at {settings.uri}; there are: {known or 'none'}",
            resolution="Set libvirt.pool to one of these, or make it: "
            f"{virsh} pool-define-as {settings.pool} dir --target FOLDER, then "
            f"{virsh} pool-build {settings.pool} and {virsh} pool-start {settings.pool}.",
        ) from error
    if not pool.isActive():
        raise PreflightError(
            f"libvirt's storage pool {settings.pool} is not active",
            resolution=f"Start it: {virsh} pool-start {settings.pool}",
        )
    pool.refresh(0)
    available = int(pool.info()[3])
    if available < ROOM:
        raise PreflightError(
            f"libvirt's storage pool {settings.pool} has too little room",
            details=f"{available / 2**30:.1f} GiB are free, "
            f"a build needs {ROOM / 2**30:.0f} GiB at least",
            resolution=f"Make room there ({virsh} vol-list {settings.pool}), or set libvirt.pool "
            "to another one.",
        )


def _check_memory(connection: libvirt.virConnect, settings: LibvirtSettings) -> None:
    stats = connection.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)
    # In KiB. What caches files is given up for programs.
    free = sum(int(stats.get(name, 0)) for name in ("free", "buffers", "cached")) // 1024
    if free < settings.memory:
        raise PreflightError(
            "The host has too little free memory for the guest",
            details=f"{free} MiB are free, libvirt.memory is {settings.memory} MiB",
            resolution="End something else, or lower libvirt.memory (KIWI needs about 2048).",
        )


def _network(connection: libvirt.virConnect, settings: LibvirtSettings) -> tuple[str, str]:
    """Return the network's own address with its prefix, and its bridge."""
    if urlsplit(settings.uri).path == "/session":
        # A user's own libvirt has no networks: its guests use the bridge of the system's.
        system = settings.uri.replace("/session", "/system")
        with libvirt_api.client(system) as other:
            return _network_of(other, settings, system)
    return _network_of(connection, settings, settings.uri)


def _network_of(
    connection: libvirt.virConnect, settings: LibvirtSettings, uri: str
) -> tuple[str, str]:
    virsh = f"virsh -c {uri}"
    try:
        network = connection.networkLookupByName(settings.network)
    except libvirt.libvirtError as error:
        if not libvirt_api.is_gone(error):
            raise
        known = ", ".join(sorted(entry.name() for entry in connection.listAllNetworks()))
        raise PreflightError(
            f"libvirt has no network {settings.network}",
            details=f"at {uri}; there are: {known or 'none'}",
            resolution="Set libvirt.network to one of these, or make it: "
            f"{virsh} net-define /usr/share/libvirt/networks/default.xml, then "
            f"{virsh} net-start default.",
        ) from error
    if not network.isActive():
        raise PreflightError(
            f"libvirt's network {settings.network} is not active",
            resolution=f"Start it: {virsh} net-start {settings.network}",
        )
    xml = etree.fromstring(network.XMLDesc(0).encode())
    bridge = xml.find("bridge")
    for ip in xml.findall("ip"):
        address = ip.get("address")
        if address and ip.get("family", "ipv4") == "ipv4" and ip.find("dhcp") is not None:
            size = ip.get("prefix") or ip.get("netmask") or "24"
            found = ipaddress.ip_interface(f"{address}/{size}").network
            return str(found), str(bridge.get("name")) if bridge is not None else ""
    raise PreflightError(
        f"libvirt's network {settings.network} gives its guests no addresses",
        details="it has no <ip> with <dhcp> for IPv4",
        resolution="Set libvirt.network to one that has, such as default.",
    )
