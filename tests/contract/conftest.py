"""The same real tools as for the integration tests."""

from __future__ import annotations

from tests.integration.conftest import (  # noqa: F401 - pytest finds fixtures here
    _tools,
    box,
    docker_client,
    runner,
    unchanged,
)
