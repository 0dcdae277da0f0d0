"""An existing machine as a build system: reached over ssh, checked, locked, left as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vagrant_kiwi.errors import GuestError, LockedError, PreflightError, VagrantKiwiError
from vagrant_kiwi.guests import Guest, host_check, host_ssh, run_folder, ssh
from vagrant_kiwi.guests.host_lock import Keeper, wait_argv
from vagrant_kiwi.guests.record import GuestRecord
from vagrant_kiwi.guests.troubles import noted
from vagrant_kiwi.hosts import HostTarget
from vagrant_kiwi.plan import BuildPlan
from vagrant_kiwi.process import CommandResult, OnOutput, Runner

_SHORT = 60.0


@dataclass(frozen=True)
class HeldGuest:
    """A machine that we have the lock on; see ``Guest`` for its verbs.

    A command after a lost connection first takes the lock again.

    Args:
        guest: the machine.
        keeper: the lock.
    """

    guest: Guest
    keeper: Keeper

    def exec(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        root: bool = False,
        stdin: bytes | None = None,
        on_output: OnOutput | None = None,
    ) -> CommandResult:
        """Run a command to its end; see ``Guest.exec``."""
        self.keeper.renew()
        return self.guest.exec(argv, timeout=timeout, root=root, stdin=stdin, on_output=on_output)

    def push(
        self,
        source: Path,
        target: str,
        *,
        timeout: float,
        exclude: Sequence[str] = (),
        delete: bool = False,
        on_output: OnOutput | None = None,
    ) -> None:
        """Copy a folder's content, or a file, to the machine; see ``Guest.push``."""
        self.keeper.renew()
        self.guest.push(
            source, target, timeout=timeout, exclude=exclude, delete=delete, on_output=on_output
        )

    def pull(
        self,
        source: str,
        target: Path,
        *,
        timeout: float,
        exclude: Sequence[str] = (),
        on_output: OnOutput | None = None,
    ) -> None:
        """Copy a folder's content from the machine; see ``Guest.pull``."""
        self.keeper.renew()
        self.guest.pull(source, target, timeout=timeout, exclude=exclude, on_output=on_output)


@dataclass(frozen=True)
class _Held:
    """A connection with the lock; ``end`` gives both back."""

    end: contextlib.ExitStack
    guest: HeldGuest


@dataclass(frozen=True)
class HostSystem:
    """An existing machine as a build system; see ``System``.

    Args:
        record: the run; ``host`` is the machine, once one was taken.
        runner: starts ssh and rsync; its environment may hold SSH_AUTH_SOCK.
        held: what ``start`` took; without it, ``connected`` is there to clean up.
    """

    record: GuestRecord
    runner: Runner
    held: _Held | None = None

    def claimed(self) -> str | None:
        """Return nothing: each machine is asked when it is locked; see ``System``."""
        return None

    def start(self, plan: BuildPlan, *, text: str, on_output: OnOutput) -> HostSystem:
        """Take the first machine that is free and fit; see ``System``."""
        troubles: list[VagrantKiwiError] = []
        for number, target in enumerate(plan.hosts):
            on_output(f"trying {target.who}\n".encode())
            try:
                return self._take(target, plan, f"{number}-")
            except (LockedError, PreflightError) as error:
                on_output(f"{error}\n".encode("utf-8", "replace"))
                troubles.append(error)
        if len(troubles) == 1:
            raise troubles[0]
        # One that is only busy will be free again; that is what to wait for.
        kind = LockedError if any(isinstance(one, LockedError) for one in troubles) else None
        raise (kind or PreflightError)(
            "None of the machines can be used",
            details="\n".join(f"{one.brief}: {one.details}" for one in troubles),
            resolution=troubles[0].resolution,
        )

    def _take(self, target: HostTarget, plan: BuildPlan, prefix: str) -> HostSystem:
        runtime = self.record.runtime
        assert runtime is not None  # noqa: S101 - removal.prepare() made it
        folder = runtime / f"{prefix}host"
        folder.mkdir(mode=0o700)
        with contextlib.ExitStack() as stack:
            config = host_ssh.write_config(folder, target)
            guest = stack.enter_context(host_ssh.connected(self.runner, config, target))
            kiwi = host_check.check(
                guest, target.who, folder=self.record.guest_root, kiwi=plan.kiwi_version
            )
            keeper = Keeper(
                self.runner,
                config,
                folder=self.record.guest_root,
                run_id=self.record.run_id,
                where=target.who,
            )
            stack.callback(keeper.release)
            keeper.take()
            taken = self.record.model_copy(update={"host": target, "image": f"kiwi {kiwi}"})
            return HostSystem(taken, self.runner, _Held(stack.pop_all(), HeldGuest(guest, keeper)))
        raise AssertionError("unreachable")

    @contextlib.contextmanager
    def connected(self) -> Iterator[Guest]:
        """Use the machine for the body; see ``System``."""
        if self.held is not None:
            with self.held.end:
                yield self.held.guest
            return
        target, runtime = self.record.host, self.record.runtime
        assert target is not None and runtime is not None  # noqa: S101 - it was started
        config = host_ssh.write_config(runtime, target)
        with host_ssh.connected(self.runner, config, target) as guest:
            yield guest

    def running(self) -> bool:
        """Tell whether a machine was taken; see ``System``."""
        return self.record.host is not None

    def destroy(
        self, *, timeout: float, on_output: OnOutput, say: Callable[[str], None]
    ) -> tuple[Sequence[str], Sequence[str]]:
        """Remove the run's folder, with all that runs or is mounted in it; see ``System``."""
        left: list[str] = []
        if not self.running():
            return left, ()
        with noted(left), self._again() as guest:
            run_folder.remove(guest, self.record.run_root)
            # Only then is the machine free for the next one.
            guest.exec(wait_argv(self.record.run_id), timeout=_SHORT, root=True)
        return left, ()

    def leave(self) -> bool:
        """Have the machine keep the run's folder, if one was taken; see ``System``."""
        if not self.running():
            return False
        troubles: list[str] = []
        with noted(troubles), self._again() as guest:
            left = f"{self.record.run_root}/left"
            done = guest.exec(["touch", left], timeout=_SHORT, root=True)
            if not done.ok:
                troubles.append(done.tail(3))
        if troubles:
            raise GuestError("The run's folder cannot be kept", details="\n".join(troubles))
        return True

    def starting(self) -> str:
        """Return what is done; see ``System``."""
        return "looking for a machine that is free"

    def entrance(self) -> str:
        """Return where the run's folder is; see ``System``."""
        where = self.record.host
        return (
            f"{self.record.run_root} on {where.who}"
            if where is not None
            else "no machine was taken"
        )

    @contextlib.contextmanager
    def _again(self) -> Iterator[Guest]:
        """Connect without the lock, in a folder of its own: that of the run may be gone."""
        folder = ssh.runtime_folder()
        try:
            again = self.record.model_copy(update={"runtime": folder})
            with HostSystem(again, self.runner).connected() as guest:
                yield guest
        finally:
            ssh.remove_folder(folder)
