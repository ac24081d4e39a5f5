"""What a run was asked for, read back when it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hardmine.errors import ConfigError
from hardmine.workflows.run_record import RunRecord, resumed_inputs

NEEDED = {"data": "labelled data"}


def test_data_that_a_resumed_run_no_longer_finds_is_named_with_the_way_on(tmp_path: Path) -> None:
    gone = str(tmp_path / "raccoon")
    record: RunRecord[Any] = RunRecord({"data": gone, "val": None}, None)
    with pytest.raises(
        ConfigError, match=r"data: .*began with .*raccoon, .*its new place .*--resume"
    ):
        resumed_inputs({"data": None, "val": None}, NEEDED, record, tmp_path)
    moved = {"data": str(tmp_path / "moved"), "val": None}
    assert resumed_inputs(moved, NEEDED, record, tmp_path) == moved


def test_a_resumed_run_looks_only_for_what_is_one_path(tmp_path: Path) -> None:
    (film := tmp_path / "film.mp4").touch()
    recorded = {
        "data": str(tmp_path),
        "val": 0.3,
        "pool": "s3://b/pool",
        "negatives": "n/*.jpg",
        "train_negatives": f"{film}#every=2s",
    }
    record: RunRecord[Any] = RunRecord(recorded, None)
    given = dict.fromkeys(recorded)
    assert resumed_inputs(given, NEEDED, record, tmp_path) == recorded
