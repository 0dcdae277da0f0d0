"""Clean-up goes on after a failure of one of its steps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from vagrant_kiwi.errors import StoppedError, VagrantKiwiError
from vagrant_kiwi.guests import ConnectionLostError
from vagrant_kiwi.process import CommandTimeoutError


@contextlib.contextmanager
def noted(troubles: list[str]) -> Iterator[None]:
    """Note a failure of one step and let the next one have its turn; a stop is no failure."""
    try:
        yield
    except StoppedError:
        raise
    except (
        VagrantKiwiError,
        ConnectionLostError,
        CommandTimeoutError,
        OSError,
    ) as error:
        troubles.append(str(error))
