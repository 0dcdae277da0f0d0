"""What this host must have before anything is started."""

from __future__ import annotations

import shutil
from collections.abc import Mapping

from vagrant_kiwi.errors import PreflightError

#: Each program with the Debian package that has it. Vagrant's docker provider calls docker.
PROGRAMS = {
    "docker": "docker.io",
    "rsync": "rsync",
    "ssh": "openssh-client",
    "vagrant": "vagrant",
}


def programs(environment: Mapping[str, str]) -> None:
    """Check that the programs a build calls are there.

    Args:
        environment: its PATH is searched.

    Raises:
        PreflightError: some are not; all of them are named.
    """
    path = environment.get("PATH", "")
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if missing:
        raise PreflightError(
            f"Not installed: {', '.join(missing)}",
            details=f"looked for in {path}",
            resolution="Run ./bootstrap from the checkout, or install the packages "
            + ", ".join(PROGRAMS[name] for name in missing)
            + ".",
        )
