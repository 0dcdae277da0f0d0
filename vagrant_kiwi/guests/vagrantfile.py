"""The Vagrantfile of a guest: what the templates get to see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from vagrant_kiwi import templates
from vagrant_kiwi.plan import BuildPlan
from vagrant_kiwi.settings import LibvirtSettings


class Box(Protocol):
    """A build box, of whatever provider.

    ``image`` is its name with the provider (an image's tag, a Vagrant box), ``version`` the
    version of what is in it, ``content`` what differs where its bytes do.
    """

    @property
    def name(self) -> str: ...
    @property
    def image(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def content(self) -> str: ...


@dataclass(frozen=True)
class ForeignBox:
    """What a build runs in that is no box of ours: a machine, a Vagrantfile's own."""

    name: str
    image: str = ""
    version: str = ""
    content: str = ""


@dataclass(frozen=True)
class Machine:
    """What a virtual machine is like as far as its host decides; ``libvirt_host`` finds it out.

    ``network_address`` is the network's own, with its prefix, ``network_device`` its bridge.
    """

    accel: Literal["kvm", "tcg"]
    cpus: int
    cpu_mode: str
    cpu_model: str | None
    network_address: str
    network_device: str


@dataclass(frozen=True)
class PlanView:
    """``plan`` in the templates."""

    run_id: str
    name: str


@dataclass(frozen=True)
class BoxView:
    """``box`` in the templates."""

    name: str
    image: str
    version: str


@dataclass(frozen=True)
class LibvirtView:
    """``guest.libvirt`` in the templates.

    ``console`` is a path, with an attribute behind it: vagrant-libvirt 0.11.2 writes it into the
    domain's XML between quotes as it is, and knows no other way to say that libvirt's log daemon
    shall append to the file, which is the user's. It would make a new one that only root may read.
    """

    uri: str
    driver: str
    memory: int
    cpus: int
    cpu_mode: str
    cpu_model: str | None
    machine_type: str | None
    arch: str | None
    pool: str
    disk: int
    disk_bus: str
    disk_cache: str
    console: str | None
    network: str
    network_address: str
    network_device: str


@dataclass(frozen=True)
class GuestView:
    """``guest`` in the templates; ``libvirt`` is there for that provider only."""

    name: str
    user: str
    create_args: tuple[str, ...]
    command: tuple[str, ...]
    boot_timeout: int
    libvirt: LibvirtView | None


def render(plan: BuildPlan, box: Box, machine: Machine | None) -> str:
    """Return the Vagrantfile of a build.

    Args:
        plan: the build.
        box: the box it runs in.
        machine: for a virtual machine, what its host decides.

    Raises:
        TemplateError: a template is unsafe, or cannot be rendered.
    """
    return templates.render(
        templates.file_name(plan.provider),
        {
            "plan": PlanView(plan.run_id, plan.name),
            "box": BoxView(box.name, box.image, box.version),
            "guest": GuestView(
                name=plan.guest_name,
                user="vagrant",
                create_args=plan.isolation.create_args,
                command=(),
                boot_timeout=int(plan.timeouts.up),
                libvirt=_libvirt(plan, plan.libvirt, machine) if machine is not None else None,
            ),
            "site": {},
        },
        search=plan.template_dirs,
    )


def _libvirt(plan: BuildPlan, settings: LibvirtSettings, machine: Machine) -> LibvirtView:
    return LibvirtView(
        uri=settings.uri,
        driver={"kvm": "kvm", "tcg": "qemu"}[machine.accel],
        memory=settings.memory,
        cpus=machine.cpus,
        cpu_mode=machine.cpu_mode,
        cpu_model=machine.cpu_model,
        machine_type=settings.machine_type,
        arch=settings.arch,
        pool=settings.pool,
        disk=settings.disk,
        disk_bus=settings.disk_bus,
        disk_cache=settings.disk_cache,
        console=f"{plan.console}' append='on" if plan.console is not None else None,
        network=settings.network,
        network_address=machine.network_address,
        network_device=machine.network_device,
    )
