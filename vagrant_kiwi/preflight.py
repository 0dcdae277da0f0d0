"""What this host must have before anything is started."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Mapping

from vagrant_kiwi.errors import PreflightError

#: Each program with the Debian package that has it.
_RSYNC = {"rsync": "rsync"}
_SSH = {**_RSYNC, "ssh": "openssh-client"}
_VAGRANT = {**_SSH, "vagrant": "vagrant"}
#: Those that a provider calls: Vagrant's docker provider the client, vagrant-libvirt the other.
_OF_PROVIDER = {
    "docker": {**_VAGRANT, "docker": "docker.io"},
    "libvirt": {**_VAGRANT, "qemu-img": "qemu-utils"},
    "docker-direct": {**_RSYNC, "docker": "docker.io"},
    "host": _SSH,
}


def installed(provider: str, environment: Mapping[str, str]) -> None:
    """Check that the programs a build calls are there, and what Python needs for the provider.

    Args:
        provider: whose programs are needed, too.
        environment: its PATH is searched.

    Raises:
        PreflightError: some are not; all of them are named.
    """
    path = environment.get("PATH", "")
    packages = _OF_PROVIDER.get(provider, _VAGRANT)
    missing = [name for name in packages if shutil.which(name, path=path) is None]
    if missing:
        raise PreflightError(
            f"Not installed: {', '.join(missing)}",
            details=f"looked for in {path}",
            resolution="Run ./bootstrap from the checkout, or install the packages "
            + ", ".join(packages[name] for name in missing)
            + ".",
        )
    if provider == "libvirt" and importlib.util.find_spec("libvirt") is None:
        raise PreflightError(
            "libvirt's Python package is not installed",
            resolution="Run ./bootstrap build --provider=libvirt from the checkout, or install "
            "vagrant-kiwi[libvirt].",
        )
