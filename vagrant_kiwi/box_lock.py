"""Lock files of build boxes: requirements pinned by hash, as pip takes them."""

from __future__ import annotations

import re


def split_lock(text: str) -> dict[str, str]:
    """Split a lock file into its requirements, each with its hashes, by package name."""
    # A requirement goes on over lines that end in a backslash.
    joined = re.sub(r"\\\n\s*", "", text)
    pins: dict[str, str] = {}
    for line in joined.splitlines():
        match = re.match(r"([A-Za-z0-9][A-Za-z0-9._-]*)==", line)
        if match is not None:
            pins[normal_name(match[1])] = line.strip()
    return pins


def pinned_version(pin: str) -> str:
    """Return the version that a pinned requirement asks for."""
    return pin.split()[0].partition("==")[2]


def normal_name(package: str) -> str:
    """Return the one spelling of a package's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", package).lower()
