"""The demo end to end, tiny: drawn, trained, mined, measured, reported, and gone on with."""

from dataclasses import replace
from pathlib import Path

import pytest

from hardmine.demo.run_demo import fridge160, run_demo
from hardmine.demo.world import WorldSizes
from hardmine.errors import HardmineError
from hardmine.recipes.recipe import BranchConfig

TINY = WorldSizes(train=8, val=5, pool=12, negatives=4)


def test_demo_runs_the_loop_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    recipe = replace(fridge160(), epochs=2.0, branch=BranchConfig(epochs=2.0))
    told: set[str] = set()
    result = run_demo(
        tmp_path,
        3,
        rounds=1,
        sizes=TINY,
        recipe=recipe,
        progress=lambda what, done, total: told.add(what),
    )
    assert [row["round"] for row in result.rows] == [0, 1]
    assert result.rows[0]["train_images"] == TINY.train
    assert result.report == (tmp_path / "run" / "report.html").resolve()
    assert result.report.is_file()
    assert "draw the world" in told
    again = run_demo(tmp_path, 3, rounds=1, sizes=TINY, recipe=recipe)
    assert again.rows == result.rows


def test_negative_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HardmineError, match="seed: got -1, wanted 0 or more"):
        run_demo(tmp_path, -1)
