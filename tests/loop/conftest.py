from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from loop_fakes import labelled, pool_of

from hardmine.types import Dataset


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Any]:
    """Keywords of a small loop: 20 labelled, 10 validation, 60 pool and 12 held-out images."""
    return {
        "data": labelled(tmp_path / "data", 20, 1000),
        "val": labelled(tmp_path / "val", 10, 2000, "val"),
        "pool": pool_of(tmp_path / "pool", 6, 10, 3000),
        "negatives": pool_of(tmp_path / "held", 6, 2, 9000),
        "add": 0.15,
        "draws": 20,
    }


@pytest.fixture
def train_set(inputs: dict[str, Any]) -> Dataset:
    data = inputs["data"]
    assert isinstance(data, Dataset)
    return data
