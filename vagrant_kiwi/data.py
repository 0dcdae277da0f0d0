"""Where the files that come with the program are: templates and build boxes."""

from __future__ import annotations

from pathlib import Path

from vagrant_kiwi.errors import VagrantKiwiError

_PACKAGE = Path(__file__).resolve().parent


def data_folder(name: str, *, package: Path = _PACKAGE) -> Path:
    """Return the folder ``name`` of the wheel, or of the checkout the package lies in.

    Args:
        name: "templates" or "boxes".
        package: the folder of the package itself.

    Raises:
        VagrantKiwiError: it is in neither.
    """
    for folder in (package / "data" / name, package.parent / name):
        if folder.is_dir():
            return folder
    raise VagrantKiwiError(
        f"This installation of vagrant-kiwi lacks its {name}",
        details=f"looked in {package / 'data'} and {package.parent}",
        resolution="Install it again: pip install --force-reinstall vagrant-kiwi",
    )
