"""The commands of the page about virtual machines, typed in a copy of the checkout.

The first of them is a whole build: real KIWI in a real virtual machine.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.integration import images
from tests.integration.test_docs import commands, shell


def test_the_commands_of_the_page_work(copy: Path, machines_unchanged: None) -> None:
    lines = commands("docs/virtual-machines.md")
    assert lines[0] == (
        "./bootstrap build --description=examples/debian-tarball --provider=libvirt"
    )
    # All is as a person has it, but for the compression, which emulation makes minutes of.
    quick = copy / "quick.yml"
    quick.write_text('xz:\n  options: "-0 --threads=0"\n')
    done = shell(
        "\n".join(["set -x", *lines]),
        copy,
        timeout=3600,
        INVOKE_VAGRANT_KIWI_KIWI_CONFIG=str(quick),
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    (result,) = copy.glob(".vagrant-kiwi/result/*/current")
    (archive,) = result.glob("*.tar.xz")
    built = images.read_from_tarball(archive, "/etc/vagrant-kiwi-built")
    assert built == b"debian-tarball 1.0.0\n"
    assert images.read_from_tarball(archive, "/etc/vagrant-kiwi-example")
    manifest = json.loads((result / "manifest.json").read_text())
    assert manifest["provider"] == "libvirt"
    assert manifest["box"]["image"] == "vagrant-kiwi/debian-bookworm"
