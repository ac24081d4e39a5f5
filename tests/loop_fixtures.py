from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from loop_fakes import labelled, pool_of


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests write thousands of small files and pull no plug: they need not wait for a disk."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing the page takes longer than the rest of a small loop; one test draws it."""
    from hardmine.reports import loop_report as page

    monkeypatch.setattr(page, "write_report", lambda path, data: path.write_text("page"))


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Any]:
    """Keywords of a small loop: 20 labelled, 10 validation, 60 pool and 12 held-out images."""
    return {
        "data": labelled(tmp_path / "data", 20, 1000),
        "val": labelled(tmp_path / "val", 10, 2000, "val"),
        "pool": pool_of(tmp_path / "pool", 6, 10, 3000),
        "negatives": pool_of(tmp_path / "held", 6, 2, 9000),
        "draws": 5,
        "stop": "never",
    }
