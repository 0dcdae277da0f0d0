"""Boxes that are installed: what is known of each, whatever kind of guest it is for."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from vagrant_kiwi.catalog import Kind


@dataclass(frozen=True)
class Installed:
    """One version of a box, as Docker or the cache has it.

    ``image`` is its name with the provider, ``content`` what differs where its bytes do,
    ``digest`` that of the recipe or of the archive it was made from, ``size`` in bytes, ``kiwi``
    the version of KIWI that is stated for it, ``origin`` where it came from in words. ``users`` are
    the guests that exist of it.
    """

    name: str
    kind: Kind
    version: str
    image: str
    content: str
    digest: str
    size: int
    created: datetime.datetime
    kiwi: str | None
    origin: str
    users: tuple[str, ...]

    def age(self, now: datetime.datetime) -> datetime.timedelta:
        """Return how old it is."""
        return max(now - self.created, datetime.timedelta(0))

    def as_json(self) -> dict[str, object]:
        """Return it for the JSON answers."""
        return {
            "provider": self.kind,
            "version": self.version,
            "image": self.image,
            "digest": self.digest,
            "size": self.size,
            "created": self.created.isoformat(timespec="seconds"),
            "kiwi": self.kiwi,
            "origin": self.origin,
            "used_by": list(self.users),
        }
