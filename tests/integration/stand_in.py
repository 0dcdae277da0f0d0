"""Builds with a stand-in for kiwi-ng, where KIWI is not the matter."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.integration.cli import Project, wait_until

STAND_IN = Path(__file__).parent / "data" / "stand-in.sh"

DESCRIPTION = """<?xml version="1.0" encoding="utf-8"?>
<image schemaversion="8.0" name="{name}">
    <description type="system">
        <author>A</author><contact>a@example.org</contact><specification>S</specification>
    </description>
    <preferences>
        <version>1.0.0</version>
        <packagemanager>apt</packagemanager>
        <type image="{image_type}"/>
    </preferences>
    <packages type="image"><package name="bash"/></packages>
    <packages type="bootstrap"><package name="base-files"/></packages>
</image>
"""


def describe(
    folder: Path, *, name: str = "stand-in", image_type: str = "tbz", behave: str = ""
) -> Path:
    """Write a description whose stand-in build does what ``behave`` says."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.xml").write_text(DESCRIPTION.format(name=name, image_type=image_type))
    (folder / "behave").write_text(behave + "\n")
    return folder


#: What a stand-in does that a test stops.
BUSY = "echo busy; sleep 600"


def start_busy(project: Project, *words: str) -> subprocess.Popen[str]:
    """Start a build with a stand-in that does not end, and wait until that runs."""
    running = project.start("build", "--json", *words)
    wait_until(lambda: "busy" in project.log(), what="the stand-in runs")
    return running
