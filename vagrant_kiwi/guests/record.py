"""What must be removed when a run ends, on disk before anything of it is started.

So the removal works whoever does it: the build itself, its watchdog after a SIGKILL, or the next
build after a power failure.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from vagrant_kiwi import state
from vagrant_kiwi.guests.ssh import Login
from vagrant_kiwi.hosts import HostTarget
from vagrant_kiwi.plan import GUEST_ROOT, GuestPaths

NAME = "guest.json"

#: ``live``: a run is at work, and removes it; ``kept``: a build left it for somebody to look at;
#: ``up`` and ``suspended``: `invoke up` left it for builds.
Status = Literal["live", "kept", "up", "suspended", "removed"]


class GuestRecord(BaseModel):
    """One guest and all that belongs to it.

    ``image`` is the box's name with the provider, ``uri`` where libvirt is, ``daemon`` has the
    variables that name Docker's, ``console`` is the file with the serial console (of libvirt's
    guests only). ``host`` is the existing machine that was taken, ``guest_root`` the folder of all
    runs in the guest. ``folder`` holds the Vagrantfile and Vagrant's state; ``vagrantfile`` is the
    user's own in its place. ``runtime`` holds the connection, ``staging`` half-fetched results.
    ``login`` and ``known_hosts`` say how to log in, once that is known. ``reuses`` is the run whose
    guest this run uses: then the guest is not this one's to destroy. ``made_of`` holds digests of
    what the guest was made from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    provider: str
    image: str
    uri: str = ""
    daemon: Mapping[str, str] = {}
    console: Path | None = None
    host: HostTarget | None = None
    guest_root: str = GUEST_ROOT
    vagrantfile: Path | None = None
    folder: Path
    runtime: Path | None = None
    staging: Path | None = None
    login: Login | None = None
    known_hosts: str = ""
    reuses: str | None = None
    made_of: Mapping[str, str] = {}
    status: Status = "live"

    @property
    def guest_run(self) -> str:
        """The run that the guest was started for: its name has this one."""
        return self.reuses or self.run_id

    @property
    def run_root(self) -> str:
        """The run's own folder in the guest."""
        return GuestPaths.of(self.run_id, parent=self.guest_root).root

    def save(self, run_folder: Path) -> None:
        """Write the record into the run's folder."""
        state.write_json(run_folder / NAME, self.model_dump(mode="json"))


def load(run_folder: Path) -> GuestRecord | None:
    """Read a run's record; None if it never started a guest."""
    path = run_folder / NAME
    if not path.exists():
        return None
    return GuestRecord.model_validate_json(path.read_bytes())
