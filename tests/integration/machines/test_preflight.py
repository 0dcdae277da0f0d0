"""What a host may lack for virtual machines: said before anything is started."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from tests.integration.cli import Project
from tests.integration.machines.conftest import IMAGE, URI
from tests.integration.test_build import small_disk
from vagrant_kiwi import libvirt_api, libvirt_host
from vagrant_kiwi.errors import PreflightError
from vagrant_kiwi.settings import LibvirtSettings

pytestmark = pytest.mark.usefixtures("machines_unchanged")

NOT_RUNNING = """<network><name>{name}</name><forward mode='nat'/>
<ip address='192.168.231.1' netmask='255.255.255.0'>{dhcp}</ip></network>"""


def refused(project: Project, **given: object) -> str:
    """Return all that the refusal of a build with these settings says."""
    project.settings(libvirt=given)
    done = project.run("build", *IMAGE, "--json")
    assert done.status == 4, done.errors
    error = done.json["error"]
    assert error["resolution"]
    assert not done.json["phases"], "nothing may have been started"
    return "\n".join([error["brief"], error["details"], error["resolution"]])


@pytest.fixture
def network(connection: libvirt.virConnect) -> Iterator[libvirt.virNetwork]:
    """Yield a network that is not active."""
    name = f"vk-test-{uuid.uuid4().hex[:8]}"
    defined = connection.networkDefineXML(NOT_RUNNING.format(name=name, dhcp=""))
    yield defined
    defined.undefine()


@pytest.mark.parametrize(
    "uri", ["qemu+unix:///system?socket=/nowhere", "qemu+ssh://nobody@127.0.0.1:1/system"]
)
def test_a_dead_uri(project: Project, uri: str) -> None:
    assert "does not answer" in refused(project, uri=uri)


def test_a_missing_pool_names_those_that_are_there(project: Project) -> None:
    said = refused(project, pool="nowhere")
    assert "no storage pool nowhere" in said
    assert "default" in said


def test_a_full_pool(project: Project, connection: libvirt.virConnect) -> None:
    name = f"vk-test-{uuid.uuid4().hex[:8]}"
    with small_disk(project.folder / "small", size="64m"):
        path = project.folder / "small"
        xml = f"<pool type='dir'><name>{name}</name><target><path>{path}</path></target></pool>"
        pool = connection.storagePoolDefineXML(xml)
        try:
            assert "not active" in refused(project, pool=name)
            pool.create()
            assert "too little room" in refused(project, pool=name)
            pool.destroy()
        finally:
            pool.undefine()


def test_a_network_that_is_missing_or_not_active(
    project: Project, network: libvirt.virNetwork
) -> None:
    assert "no network nowhere" in refused(project, network="nowhere")
    said = refused(project, network=network.name())
    assert "not active" in said
    assert f"net-start {network.name()}" in said


def test_too_little_memory(project: Project) -> None:
    assert "too little free memory" in refused(project, memory=2**30)


def test_no_emulator_for_the_architecture(project: Project) -> None:
    assert "qemu-system-misc" in refused(project, arch="s390x")


def test_kvm_where_it_cannot_be_used(project: Project, tmp_path: Path) -> None:
    plain = tmp_path / "cpuinfo"
    plain.write_text("flags : fpu sse2\n")
    notes: list[str] = []

    def look(accel: str) -> str:
        settings = LibvirtSettings.model_validate({"accel": accel})
        return libvirt_host.inspect(settings, warn=notes.append, proc_cpuinfo=plain).accel

    with pytest.raises(PreflightError) as caught:
        look("kvm")
    assert "libvirt.accel" in caught.value.resolution
    assert look("auto") == "tcg"
    assert len(notes) == 1
    assert "ten times" in notes[0]
    assert look("tcg") == "tcg"
    assert len(notes) == 1, "who asks for emulation knows what it costs"


def test_kvm_is_taken_where_the_processor_has_it(
    tmp_path: Path, connection: libvirt.virConnect
) -> None:
    capable = tmp_path / "cpuinfo"
    capable.write_text("flags : fpu vmx\n")
    offered = "<domain type='kvm'" in connection.getCapabilities()
    settings = LibvirtSettings.model_validate({"accel": "auto"})
    machine = libvirt_host.inspect(settings, warn=lambda _: None, proc_cpuinfo=capable)
    assert machine.accel == ("kvm" if offered else "tcg")
    assert machine.cpu_mode == ("host-passthrough" if offered else "maximum")


def test_guests_of_another_host_are_reached_through_it() -> None:
    assert libvirt_api.ssh_proxy(URI) == ()
    assert libvirt_api.ssh_proxy("qemu+tls://host/system") == ()
    proxy = libvirt_api.ssh_proxy("qemu+ssh://me@host:2222/system")
    assert proxy == ("ssh", "-l", "me", "-p", "2222", "-W", "[%h]:%p", "host")
