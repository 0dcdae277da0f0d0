"""Every failure a user can meet: what failed, the detail, what to do, and its exit code."""

from __future__ import annotations


class VagrantKiwiError(Exception):
    """Base of all expected failures.

    Args:
        brief: what failed, one sentence without a final full stop.
        details: the evidence (a file and key, the last lines of a tool); may be empty.
        resolution: what the user can do about it; may be empty.
    """

    code = 1

    def __init__(self, brief: str, *, details: str = "", resolution: str = "") -> None:
        super().__init__(brief)
        self.brief = brief
        self.details = details
        self.resolution = resolution

    def __str__(self) -> str:
        return "\n".join(part for part in (self.brief, self.details, self.resolution) if part)

    def as_json(self) -> dict[str, str | int]:
        """Return the ``error`` object of the JSON answers."""
        return {
            "code": self.code,
            "brief": self.brief,
            "details": self.details,
            "resolution": self.resolution,
        }


class UsageError(VagrantKiwiError):
    """The command line cannot be understood."""

    code = 1


class SettingsError(VagrantKiwiError):
    """A settings file, environment variable or flag holds something invalid."""

    code = 3


class DescriptionError(VagrantKiwiError):
    """The KIWI description is missing, unreadable or lacks what was asked for."""

    code = 3


class TemplateError(VagrantKiwiError):
    """A Vagrantfile template cannot be rendered safely."""

    code = 3


class PreflightError(VagrantKiwiError):
    """The host lacks something the build needs."""

    code = 4


class BoxError(VagrantKiwiError):
    """A build box cannot be made, found or verified."""

    code = 5


class KeySetupError(VagrantKiwiError):
    """Vagrant's insecure key is missing or is not the well-known one."""

    code = 5


class GuestError(VagrantKiwiError):
    """The guest did not come up, is not safe to use, or could not be provisioned."""

    code = 6


class KiwiError(VagrantKiwiError):
    """KIWI failed, or went on although it should have failed."""

    code = 7


class ResultError(VagrantKiwiError):
    """The result could not be fetched, verified or published."""

    code = 8


class LeftoverError(VagrantKiwiError):
    """Tear-down could not remove everything."""

    code = 9


class LockedError(VagrantKiwiError):
    """Another build holds the same variant."""

    code = 11


class PhaseTimeoutError(VagrantKiwiError):
    """A phase took longer than its limit."""

    code = 124


class StoppedError(VagrantKiwiError):
    """A signal asked the build to stop; raised once, by the handler in ``signals``.

    Args:
        signum: the signal's number; the exit code is 128 + it, as in a shell.
    """

    def __init__(self, signum: int, name: str) -> None:
        super().__init__(f"Stopped by {name}")
        self.code = 128 + signum
