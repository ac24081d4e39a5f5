"""kill -9 at random moments of a scan and of the exact scoring after it; see benchmarks/store.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.store import run_kills


@pytest.mark.slow
def test_killed_scans_rank_as_one_left_alone(tmp_path: Path) -> None:
    result = run_kills(tmp_path, kills=3, images=3000)  # which also looks at each start's rows
    assert result["same_ranking"]
    assert result["kills"] == 3
