"""What must be removed when a run ends, on disk before anything of it is started.

So the removal works whoever does it: the build itself, its watchdog after a SIGKILL, or the next
build after a power failure.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from vagrant_kiwi import state

NAME = "guest.json"


class GuestRecord(BaseModel):
    """One guest and all that belongs to it.

    ``folder`` holds the Vagrantfile, ``runtime`` the connection, ``staging`` half-fetched results;
    ``kept`` means that the user asked to keep the guest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    provider: str
    image: str
    folder: Path
    runtime: Path | None = None
    staging: Path | None = None
    status: Literal["live", "kept", "removed"] = "live"

    def save(self, run_folder: Path) -> None:
        """Write the record into the run's folder."""
        state.write_json(run_folder / NAME, self.model_dump(mode="json"))


def load(run_folder: Path) -> GuestRecord | None:
    """Read a run's record; None if it never started a guest."""
    path = run_folder / NAME
    if not path.exists():
        return None
    return GuestRecord.model_validate_json(path.read_bytes())
