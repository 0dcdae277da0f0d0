"""What the Vagrantfile of a virtual machine says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.unit import plans
from vagrant_kiwi.errors import SettingsError
from vagrant_kiwi.guests.vagrantfile import ForeignBox, Machine, render

BOX = ForeignBox("debian-bookworm", "vagrant-kiwi/debian-bookworm", "1.20260101000000")
MACHINE = Machine("tcg", 2, "maximum", None, "192.168.122.0/24", "virbr0")


def values(text: str) -> dict[str, str]:
    """Return what follows each ``lv.name =``."""
    return dict(re.findall(r"^    lv\.(\w+) = (.*)$", text, re.MULTILINE))


def test_a_machine_for_one_build(tmp_path: Path) -> None:
    plan = plans.make(tmp_path, provider="libvirt")
    text = render(plan, BOX, MACHINE)
    assert "config.vm.box = 'vagrant-kiwi/debian-bookworm'" in text
    assert "config.vm.box_version = '1.20260101000000'" in text
    assert "config.vm.box_check_update = false" in text
    assert "config.vm.define 'vagrant-kiwi-r1'" in text
    assert "config.vm.synced_folder '.', '/vagrant', disabled: true" in text
    assert "lv.disk_driver cache: 'unsafe', discard: 'unmap'" in text
    assert f"source: {{ path: '{plan.paths.run}/console.log\\' append=\\'on' }}" in text
    assert values(text) == {
        "uri": "'qemu:///system'",
        "default_prefix": "''",
        "description": "'vagrant-kiwi-r1'",
        "driver": "'qemu'",
        "memory": "3072",
        "cpus": "2",
        "cpu_mode": "'maximum'",
        "storage_pool_name": "'default'",
        "machine_virtual_size": "40",
        "disk_bus": "'virtio'",
        "graphics_type": "'none'",
        "suspend_mode": "'managedsave'",
        "management_network_name": "'default'",
        "management_network_address": "'192.168.122.0/24'",
        "management_network_device": "'virbr0'",
        "management_network_keep": "true",
    }


def test_what_the_settings_say_is_what_it_is(tmp_path: Path) -> None:
    chosen = {
        "uri": "qemu:///session",
        "memory": 1024,
        "cpu_model": "Nehalem",
        "machine_type": "q35",
        "arch": "x86_64",
        "disk": 99,
        "disk_bus": "scsi",
        "disk_cache": "none",
        "pool": "mine",
        "network": "other",
    }
    machine = Machine("kvm", 5, "custom", "Nehalem", "10.0.0.0/8", "br7")
    text = render(plans.make(tmp_path, provider="libvirt", libvirt=chosen), BOX, machine)
    found = values(text)
    assert found["driver"] == "'kvm'"
    assert found["uri"] == "'qemu:///session'"
    assert (found["memory"], found["cpus"]) == ("1024", "5")
    assert (found["cpu_mode"], found["cpu_model"]) == ("'custom'", "'Nehalem'")
    assert (found["machine_type"], found["machine_arch"]) == ("'q35'", "'x86_64'")
    assert (found["machine_virtual_size"], found["disk_bus"]) == ("99", "'scsi'")
    assert (found["storage_pool_name"], found["management_network_name"]) == ("'mine'", "'other'")
    assert found["management_network_device"] == "'br7'"
    assert "cache: 'none'" in text


def test_the_console_of_another_host_is_no_file_here(tmp_path: Path) -> None:
    plan = plans.make(tmp_path, provider="libvirt", libvirt={"uri": "qemu+ssh://u@h/system"})
    assert plan.console is None
    assert "lv.serial" not in render(plan, BOX, MACHINE)


@pytest.mark.parametrize("sign", "<>&'")
def test_a_console_path_that_libvirts_xml_cannot_hold_is_refused(tmp_path: Path, sign: str) -> None:
    with pytest.raises(SettingsError) as caught:
        plans.make(tmp_path / f"a{sign}b", provider="libvirt")
    assert "state_dir" in caught.value.resolution
    plans.make(tmp_path / f"a{sign}b", provider="docker")


@pytest.mark.parametrize("provider", ["docker", "libvirt"])
def test_only_docker_guests_get_docker_arguments(tmp_path: Path, provider: str) -> None:
    plan = plans.make(tmp_path, provider=provider)
    assert bool(plan.isolation.create_args) == (provider == "docker")
    assert (plan.isolation.kind == "machine") == (provider == "libvirt")
