"""One suite that every guest must pass; see ``suite``."""

import pytest

pytest.register_assert_rewrite("tests.contract.suite")
