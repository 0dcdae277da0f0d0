"""What can be set: frozen models, each field with what it does and what it may be."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    StringConstraints,
    ValidationInfo,
)

from vagrant_kiwi.settings_sources import Kind


def _host_path(value: object, info: ValidationInfo) -> Path:
    if not isinstance(value, (str, Path)) or not str(value) or "\0" in str(value):
        raise ValueError("it is not a path")
    try:
        path = Path(value).expanduser()
    except RuntimeError as error:
        raise ValueError("there is no such user") from error
    # The folder that the level's relative paths start from; without one they stay as they are.
    return info.context / path if isinstance(info.context, Path) else path


def _trust_or_path(value: object, info: ValidationInfo) -> object:
    return value if value == "trust" else _host_path(value, info)


def _url_or_path(value: object, info: ValidationInfo) -> object:
    if isinstance(value, str) and re.match(r"https?://", value):
        return value
    return _host_path(value, info)


def _address(value: str) -> str:
    # Addresses of IPv6 have two at least.
    if value.count(":") == 1:
        raise ValueError("the port is a setting of its own, after NAME: on the command line")
    return value


def _guest_path(value: str) -> str:
    if ".." in value.split("/"):
        raise ValueError("'..' is not allowed in it")
    return value


def _mirrors(value: object) -> object:
    # YAML 1.1 reads a bare off as false.
    if value is False:
        return "off"
    if isinstance(value, dict):
        # No word about which one: either side can hold a password.
        texts = (*value.keys(), *value.values())
        if not all(isinstance(text, str) and _URL.fullmatch(text) for text in texts):
            raise ValueError("a prefix or a replacement in it is no URL")
    elif value not in ("auto", "off"):
        raise ValueError("it is neither of the two words nor a map")
    return value


def _none_is_empty(value: object) -> object:
    # All the lines below "timeouts:" may be commented out.
    return {} if value is None else value


_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/[^\s\x00-\x1f\x7f]+")

Text = Annotated[str, StringConstraints(strict=True, pattern=r"^[^\x00-\x1f\x7f]+$")]
# These become arguments of their own after a flag; with a "-" in front they would be read as flags.
Word = Annotated[
    str, StringConstraints(strict=True, pattern=r"^[^-\s\x00-\x1f\x7f][^\s\x00-\x1f\x7f]*$")
]
FileName = Annotated[
    str, StringConstraints(strict=True, pattern=r"^[^-/\x00-\x1f\x7f][^/\x00-\x1f\x7f]*$")
]
# One line: KIWI logs it, and the mask that hides its value in our log works line by line.
Assignment = Annotated[
    str, StringConstraints(strict=True, pattern=r"^[A-Za-z_][A-Za-z0-9_]*=[^\x00\r\n]*$")
]
GuestPath = Annotated[
    str,
    StringConstraints(strict=True, pattern=r"^/[^\x00-\x1f\x7f]*$"),
    AfterValidator(_guest_path),
]
PlainPath = Annotated[
    str,
    StringConstraints(strict=True, pattern=r"^(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+$"),
]
HostPath = Annotated[Path, BeforeValidator(_host_path)]
UrlOrPath = Annotated[str | Path, BeforeValidator(_url_or_path)]
# A name or an address; ssh would take one with a "-" in front for an option.
Address = Annotated[
    str,
    StringConstraints(strict=True, pattern=r"^[A-Za-z0-9_:][A-Za-z0-9_.:%-]*$"),
    AfterValidator(_address),
]
User = Annotated[str, StringConstraints(strict=True, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.@\\-]*$")]
Port = Annotated[int, Strict(), Field(ge=1, le=65535)]
Jump = Annotated[
    str,
    StringConstraints(
        strict=True,
        pattern=r"^([A-Za-z0-9_][A-Za-z0-9_.-]*@)?[A-Za-z0-9_][A-Za-z0-9_.-]*(:[0-9]{1,5})?$",
    ),
]
Switch = Annotated[bool, Strict()]
Seconds = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)]


def setting(
    default: Any, about: str, allowed: str, *, kind: Kind = "text", secret: bool = False
) -> Any:
    """Declare a setting: default, what it does, what it may be, how text stands for it.

    A secret one may hold a password, so its value is in no message and no repr.
    """
    return Field(
        default,
        description=about,
        repr=not secret,
        json_schema_extra={"allowed": allowed, "kind": kind, "secret": secret},
    )


def _seconds(default: float, about: str) -> Any:
    return setting(default, about, "a number of seconds above 0", kind="number")


def _switch(*, default: bool, about: str) -> Any:
    return setting(default, about, "true or false", kind="switch")


_TEXT = "text on one line (in quotes where it looks like a number or a date)"
_WORD = "one word that does not begin with a dash (in quotes where it looks like a number)"
_FILE_NAME = "a file name without folders (in quotes where it looks like a number)"
_HOST_PATH = "a path on this host"
_GUEST_PATH = "an absolute path in the guest, without '..'"
_ADDRESS = "a name or an address, without user and port"
_USER = "a user's name"
_PORT = "a whole number from 1 to 65535"
_JUMP = "[USER@]NAME[:PORT]"


class Model(BaseModel):
    """What all models here have in common."""

    # pydantic's own text would show the values, and so the passwords.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class SyncEntry(Model):
    """Data that is copied into the guest before KIWI runs."""

    source: HostPath = setting(..., "File or folder on this host", _HOST_PATH)
    target: GuestPath = setting(..., "Where it goes in the guest", _GUEST_PATH)
    exclude: tuple[Text, ...] = setting(
        (), "rsync patterns of what is left out", "a list of rsync patterns", kind="list"
    )
    delete: Switch = _switch(
        default=False, about="Delete what is in the target but not in the source"
    )


class Timeouts(Model):
    """How long each phase may take."""

    box: Seconds = _seconds(3600.0, "Making or finding the build box")
    up: Seconds = _seconds(600.0, "Starting the guest until it can be logged into")
    provision: Seconds = _seconds(1800.0, "Copying data in and running the provision scripts")
    build: Seconds = _seconds(7200.0, "KIWI itself, with result bundle")
    fetch: Seconds = _seconds(1800.0, "Fetching and checking the result")
    destroy: Seconds = _seconds(300.0, "Removing the guest")


class DockerSettings(Model):
    """What only docker guests have."""

    create_args: tuple[Text, ...] = setting(
        (),
        "More arguments for docker run; they can weaken the guest's isolation",
        "a list of arguments",
        kind="list",
        secret=True,
    )
    pull: Literal["missing", "always", "never"] = setting(
        "missing",
        "When a box that is an image of a registry is pulled; ours are made on this host",
        "missing, always, never",
    )


class HostEntry(Model):
    """One of several machines; what it leaves out is taken from ``host``."""

    address: Address = setting(..., "Name or address", _ADDRESS)
    port: Port | None = setting(None, "Port of sshd", _PORT, kind="number")
    user: User | None = setting(None, "Who logs in", _USER)
    identity_file: HostPath | None = setting(None, "Private key", _HOST_PATH)
    known_hosts: HostPath | None = setting(None, "File with the machine's key", _HOST_PATH)
    jump: Jump | None = setting(None, "Machine to go through", _JUMP)


class HostSettings(Model):
    """An existing machine that is built on, over ssh."""

    address: Address | None = setting(None, "Name or address of the machine", _ADDRESS)
    port: Port = setting(22, "Port of its sshd", _PORT, kind="number")
    user: User | None = setting(
        None, "Who logs in there, with sudo without a password; else your own name", _USER
    )
    identity_file: HostPath | None = setting(
        None, "Private key to log in with; else ssh's own choice, your agent included", _HOST_PATH
    )
    known_hosts: HostPath | None = setting(
        None, "File with the machine's key; else your own and the system's", _HOST_PATH
    )
    jump: Jump | None = setting(None, "Machine to go through; its key must be known, too", _JUMP)
    host_key: Literal["known", "accept-new"] = setting(
        "known",
        "known: the machine's key must be in known_hosts; accept-new: the first one seen is added",
        "known, accept-new",
    )
    folder: PlainPath = setting(
        "/var/lib/vagrant-kiwi",
        "Where runs keep their data there, on a local disk",
        "an absolute path of letters, digits and / . _ -",
    )


class LibvirtSettings(Model):
    """What only libvirt guests have: virtual machines that live for one build."""

    uri: Annotated[
        str, StringConstraints(strict=True, pattern=r"^qemu(\+[a-z0-9]+)?://[!-~]*$")
    ] = setting(
        "qemu:///system",
        "Where libvirt is: qemu:///system, qemu:///session, qemu+ssh://USER@HOST/system",
        "a connection URI that begins with qemu",
    )
    accel: Literal["auto", "kvm", "tcg"] = setting(
        "auto",
        "kvm: the processor's own virtualisation; tcg: emulation, ten times slower; auto: kvm "
        "where it can be used",
        "auto, kvm, tcg",
    )
    memory: Annotated[int, Strict(), Field(ge=512)] = setting(
        3072, "Memory of the guest in MiB", "a whole number from 512", kind="number"
    )
    cpus: Annotated[int, Strict(), Field(ge=1)] | None = setting(
        None,
        "Processors of the guest; else as many as the host has, and 8 at most",
        "a whole number from 1",
        kind="number",
    )
    cpu_mode: Literal["host-passthrough", "host-model", "maximum", "custom"] | None = setting(
        None,
        "Kind of processor; else host-passthrough with kvm, maximum (all QEMU has) with tcg",
        "host-passthrough, host-model, maximum, custom",
    )
    cpu_model: Word | None = setting(
        None, "Processor model where cpu_mode is custom; x86-64-v2 at least, or KIWI dies", _WORD
    )
    machine_type: Word | None = setting(None, "QEMU's machine type; else libvirt's own", _WORD)
    arch: Word | None = setting(None, "Architecture of the guest; else the host's", _WORD)
    disk: Annotated[int, Strict(), Field(ge=20)] = setting(
        40,
        "Size of the guest's disk in GiB; it takes only what is written to it",
        "a whole number from 20",
        kind="number",
    )
    disk_bus: Literal["virtio", "scsi"] = setting(
        "virtio", "How the disk is attached; the box has drivers for these", "virtio, scsi"
    )
    disk_cache: Literal["none", "writethrough", "writeback", "directsync", "unsafe"] = setting(
        "unsafe",
        "Cache mode of the disk; unsafe never waits for the host's disk, and a guest that a crash "
        "of the host takes along is thrown away anyway",
        "none, writethrough, writeback, directsync, unsafe",
    )
    pool: FileName = setting("default", "Storage pool for the guest's disk", _FILE_NAME)
    network: FileName = setting(
        "default", "Network of the guest; libvirt gives it an address there", _FILE_NAME
    )


class KiwiSettings(Model):
    """Options of kiwi-ng that stand before its command."""

    type: Word | None = setting(None, "Image type to build; else the description's primary", _WORD)
    profiles: tuple[Word, ...] = setting(
        (), "Profiles of the description to build", "a list of profile names", kind="list"
    )
    kiwi_file: FileName | None = setting(
        None, "Name of the description's file, where the folder holds several", _FILE_NAME
    )
    setenv: tuple[Assignment, ...] = setting(
        (),
        "Environment of the build, as kiwi-ng --setenv takes it",
        "a list of NAME=VALUE",
        kind="list",
        secret=True,
    )
    shared_cache_dir: GuestPath | None = setting(None, "Package cache", _GUEST_PATH)
    temp_dir: GuestPath | None = setting(None, "Folder for temporary files", _GUEST_PATH)
    target_arch: Word | None = setting(None, "Architecture of the image", _WORD)
    loglevel: Annotated[int, Strict(), Field(ge=0, le=50)] | None = setting(
        None,
        "How much KIWI logs: 10 debug, 20 info, 30 warning, 40 error, 50 critical",
        "a whole number from 0 to 50",
        kind="number",
    )
    config: HostPath | None = setting(None, "KIWI's own settings file", _HOST_PATH)


class BundleSettings(Model):
    """What ``kiwi-ng result bundle`` does with a good image."""

    enabled: Switch = _switch(default=True, about="Bundle the result")
    id: FileName | None = setting(
        None, "Added to the version in the file names; else the run's id", _FILE_NAME
    )
    format: FileName | None = setting(None, "Pattern of the file names, such as %N-%v", _FILE_NAME)
    compress: Switch = _switch(default=True, about="Compress the image")
    zsync_source: Word | None = setting(None, "URL of the image for zsync", "a URL", secret=True)
    package_as_rpm: Switch = _switch(default=False, about="Wrap the bundle in an RPM package")


class Settings(Model):
    """All settings, merged and valid; paths are absolute when they come from ``load``.

    Dumping it shows passwords that ``mirrors``, ``kiwi.setenv``, ``docker.create_args`` and
    ``bundle.zsync_source`` may hold; its repr leaves these out.
    """

    provider: Annotated[str, StringConstraints(strict=True, pattern=r"^[a-z0-9][a-z0-9_-]*$")] = (
        setting(
            "docker",
            "Where images are built: docker, libvirt, docker-direct (without Vagrant), host (an "
            "existing machine), or the name of a Vagrantfile.<name>.j2",
            "lower-case letters, digits, - and _, a letter or digit first",
        )
    )
    description: HostPath | None = setting(
        None, "Folder of the KIWI description that build takes by default", _HOST_PATH
    )
    box: Text | None = setting(
        None,
        "Build box; else the provider's own; for docker also an image, as in "
        "registry.example.com/kiwi:1",
        _TEXT,
    )
    kiwi_version: Word | None = setting(
        None, "Version of KIWI in the box; a box with another one is made once and kept", _WORD
    )
    vagrantfile: Annotated[Literal["trust"] | Path, BeforeValidator(_trust_or_path)] | None = (
        setting(
            None,
            "Vagrantfile of your own, which runs code on this host: its path, or trust for the one "
            "beside the description",
            "trust, or a path on this host",
        )
    )
    state_dir: HostPath = setting(
        Path(".vagrant-kiwi"), "Folder for guests, logs and results", _HOST_PATH
    )
    target_dir: HostPath | None = setting(
        None, "Folder for results; else result in state_dir", _HOST_PATH
    )
    result_format: Literal["files", "tar"] = setting(
        "files", "tar: the result's files, and one build_results.tar with all of them", "files, tar"
    )
    keep: Literal["never", "failed", "always"] = setting(
        "never", "When the guest is left in place after a build", "never, failed, always"
    )
    isolation: Literal["auto", "privileged"] = setting(
        "auto",
        "auto gives a guest the least rights its image type needs; privileged gives it the host",
        "auto, privileged",
    )
    sync: tuple[SyncEntry, ...] = setting(
        (),
        "Data that is copied into the guest before KIWI runs",
        "a list of mappings with source, target, exclude and delete (on the command line: "
        "SOURCE:/TARGET)",
        kind="list",
    )
    provision: tuple[HostPath, ...] = setting(
        (),
        "Scripts that run in the guest before KIWI, in this order",
        "a list of paths on this host",
        kind="list",
    )
    mirrors: Annotated[Literal["auto", "off"] | dict[str, str], BeforeValidator(_mirrors)] = (
        setting(
            "auto",
            "auto: where a repository does not answer, the host's own mirror of the same "
            "distribution; off: never; or a map of URL prefixes to their replacements",
            "auto, off, or a map of URL prefixes to URLs",
            kind="word or map",
            secret=True,
        )
    )
    template_dirs: tuple[HostPath, ...] = setting(
        (),
        "Folders with own Vagrantfile templates, best first",
        "a list of paths on this host",
        kind="list",
    )
    catalogs: tuple[HostPath, ...] = setting(
        (),
        "Catalogues with own build boxes, best first; ours comes after them",
        "a list of paths on this host",
        kind="list",
    )
    timeouts: Annotated[Timeouts, BeforeValidator(_none_is_empty)] = Timeouts()
    docker: Annotated[DockerSettings, BeforeValidator(_none_is_empty)] = DockerSettings()
    libvirt: Annotated[LibvirtSettings, BeforeValidator(_none_is_empty)] = LibvirtSettings()
    host: Annotated[HostSettings, BeforeValidator(_none_is_empty)] = HostSettings()
    hosts: tuple[HostEntry, ...] = setting(
        (),
        "Several machines; the first one that is free is taken",
        "a list of mappings with address, port, user, identity_file, known_hosts and jump (on the "
        "command line: [USER@]ADDRESS[:PORT])",
        kind="list",
    )
    kiwi: Annotated[KiwiSettings, BeforeValidator(_none_is_empty)] = KiwiSettings()
    bundle: Annotated[BundleSettings, BeforeValidator(_none_is_empty)] = BundleSettings()
