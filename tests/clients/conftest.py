"""These tests need other people's packages, one of them under AGPL-3.0: they run on demand alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip all of this folder unless `make test-clients` runs it."""
    if os.environ.get("HARDMINE_CLIENTS"):
        return
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.skip(reason="`make test-clients` runs these"))
