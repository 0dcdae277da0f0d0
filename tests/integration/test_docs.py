"""Every command in the docs runs, in the order of the page, in a copy of the checkout."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.cli import CHECKOUT

#: What runs these tests cannot run within them.
_NOT_HERE = frozenset({"./bootstrap test"})

#: Pages that begin in an environment that is active.
_ACTIVATED = frozenset({"docs/how-to.md", "docs/boxes.md"})

PAGES = (
    "README.md",
    "docs/tutorial.md",
    "docs/how-to.md",
    "docs/boxes.md",
    "docs/from-dice.md",
    "docs/from-kiwi-boxed-plugin.md",
)


def commands(page: str) -> list[str]:
    """Return the commands of a page: lines with "$ " in blocks of console."""
    blocks = re.findall(r"^```console\n(.*?)^```", (CHECKOUT / page).read_text(), re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    assert all(line.startswith("$ ") for line in lines), "output belongs in a block of its own"
    return [line.removeprefix("$ ") for line in lines]


def shell(
    line: str, folder: Path, *, timeout: float = 1200, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run commands as a person types them, without our own environment on the PATH."""
    ours = str(Path(sys.executable).parent)
    path = ":".join(part for part in os.environ["PATH"].split(":") if part != ours)
    return subprocess.run(
        ["bash", "-euc", line],
        cwd=folder,
        env={**os.environ, "PATH": path, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_work(page: str, copy: Path, unchanged: None) -> None:
    assert commands("README.md")[:2] == [
        "./bootstrap build --description=examples/debian-tarball --provider=docker",
        "./bootstrap test",
    ]
    lines = [line for line in commands(page) if line not in _NOT_HERE]
    before = ". .venv/bin/activate\n" if page in _ACTIVATED else ""
    done = shell(before + "\n".join(["set -x", *lines]), copy)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_a_second_bootstrap_adds_less_than_a_second(copy: Path) -> None:
    def seconds(line: str) -> float:
        timed = f"time {line} --list >/dev/null 2>&9"
        done = shell(f"TIMEFORMAT=%R; for _ in 1 2 3; do {timed}; done 9>/dev/null", copy)
        assert done.returncode == 0, done.stderr
        return min(float(word) for word in done.stderr.split())

    shell("./bootstrap --list", copy)
    assert seconds("./bootstrap") - seconds(".venv/bin/invoke") < 1.0


def test_the_installed_command_works_in_any_folder(tmp_path: Path) -> None:
    target = tmp_path / "installed"
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"),
            *("--target", str(target), str(CHECKOUT)),
        ],
        check=True,
        capture_output=True,
    )
    for name in ("templates/Vagrantfile.docker.j2", "boxes/debian/Dockerfile"):
        assert (target / "vagrant_kiwi/data" / name).is_file()
    folder = tmp_path / "project" / "below"
    folder.mkdir(parents=True)
    (folder.parent / "invoke.yaml").write_text("vagrant_kiwi: {keep: failed}\n")
    environment = {**os.environ, "PYTHONPATH": str(target)}
    done = subprocess.run(
        [
            *(sys.executable, str(target / "bin/vagrant-kiwi"), "build", "--dry-run"),
            f"--description={CHECKOUT / 'examples/debian-tarball'}",
        ],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "keep: failed" in done.stdout
    assert f"{folder.parent}/.vagrant-kiwi/" in done.stdout
