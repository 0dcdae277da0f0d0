"""Prints the shell script that gives Docker a data root on btrfs; runs nothing, changes nothing."""

from __future__ import annotations

import re
import shlex
import string
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vagrant_kiwi import docker_api, docker_storage
from vagrant_kiwi.docker_facts import DaemonFacts, read
from vagrant_kiwi.errors import PreflightError, UsageError
from vagrant_kiwi.guests import engine

_SCRIPT = Path(__file__).with_name("docker-storage.sh")
_SIZE = re.compile(r"([1-9][0-9]{0,7})([mgt])", re.IGNORECASE)
_UNITS = {"m": 2**20, "g": 2**30, "t": 2**40}
#: Two boxes, a disk, and what btrfs keeps for itself; with less it is full soon.
_LEAST = 5 * 2**30
#: Seconds that a daemon has to say what it is: the script can be printed without it.
_PATIENCE = 10


class _Template(string.Template):
    """Its signs are not the shell's."""

    delimiter = "@"


@dataclass(frozen=True)
class Size:
    """A size as truncate(1) takes it, and in bytes."""

    text: str
    bytes: int


def script(size: str, environment: Mapping[str, str]) -> str:
    """Return the script, with what is true for the daemon if it answers.

    Args:
        size: of the file.
        environment: may hold DOCKER_HOST and its companions.

    Raises:
        UsageError: the size cannot be used.
    """
    wanted = parse_size(size)
    try:
        with docker_api.client(environment, timeout=_PATIENCE) as client:
            info = client.info()
            advice = advise(read(client, info), engine.of(client.version(), info))
    except (PreflightError, *docker_api.FAILURES):
        advice = "No Docker daemon answered when this was printed, so it is not known which driver."
    return render(wanted, advice)


def parse_size(text: str) -> Size:
    """Return a size.

    Args:
        text: a number with m, g or t behind it, as in 20g.

    Raises:
        UsageError: it is none, or too small.
    """
    found = _SIZE.fullmatch(text)
    wanted = Size(text.upper(), int(found[1]) * _UNITS[found[2].lower()]) if found else None
    if wanted is None or wanted.bytes < _LEAST:
        raise UsageError(
            f"--size={text} cannot be used",
            details="it holds Docker's images, the build box and what builds write",
            resolution="Give a number with m, g or t behind it, 5g at least: --size=20g.",
        )
    return wanted


def advise(facts: DaemonFacts, what: engine.Engine) -> str:
    """Say whether a daemon needs the script.

    Args:
        facts: the daemon.
        what: the engine.
    """
    if what.podman is not None:
        return f"{what.name} answered when this was printed: this script is for Docker alone."
    below = f" on {facts.backing}" if facts.backing else ""
    here = f"The daemon asked when this was printed is {what.name} with {facts.driver}{below}. "
    if facts.driver == "btrfs":
        return here + "It has btrfs already: you do NOT need this script."
    try:
        docker_storage.check_driver(facts)
    except PreflightError as error:
        return f"{here}Images cannot be built there ({error.brief}): this script helps."
    if facts.driver in docker_storage.COPYING:
        return f"{here}It copies the whole box for each guest: this script helps."
    return f"{here}Images build there: you do NOT need this script."


def render(size: Size, advice: str) -> str:
    """Return the script.

    Args:
        size: of the file.
        advice: whether this host needs it; becomes a comment.
    """
    # One line for textwrap, whatever a daemon calls itself: nothing leaves the comment.
    lines = textwrap.wrap(
        " ".join(advice.split()), 98, initial_indent="# THIS HOST: ", subsequent_indent="# "
    )
    return _Template(_SCRIPT.read_text("utf-8")).substitute(
        size=shlex.quote(size.text), bytes=size.bytes, advice="\n".join(lines)
    )
