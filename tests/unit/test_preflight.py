"""What this host must have."""

from __future__ import annotations

from pathlib import Path

import pytest

from vagrant_kiwi import preflight
from vagrant_kiwi.errors import PreflightError


def test_all_missing_programs_are_named_with_their_packages(tmp_path: Path) -> None:
    for name in ("docker", "rsync"):
        (tmp_path / name).touch(mode=0o755)
    with pytest.raises(PreflightError) as caught:
        preflight.installed("docker", {"PATH": str(tmp_path)})
    assert caught.value.brief == "Not installed: ssh, vagrant"
    assert "openssh-client, vagrant" in caught.value.resolution
    for name in ("ssh", "vagrant"):
        (tmp_path / name).touch(mode=0o755)
    preflight.installed("docker", {"PATH": str(tmp_path)})
