from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from loop_fakes import World

from hardmine import run_loop


def run(inputs: dict[str, Any], out: Path, world: World, **more: Any) -> Any:
    keywords = {**inputs, "out": out, "tools": world.tools(), "stop": "never", **more}
    return run_loop(keywords.pop("data"), **keywords)


def rows_of(out: Path) -> Any:
    return json.loads((out / "rounds.json").read_text())


def test_mining_adds_the_hardest_kind_each_round(inputs: dict[str, Any], tmp_path: Path) -> None:
    result = run(inputs, tmp_path / "run", World())
    rows = rows_of(tmp_path / "run")
    assert list(result.rows) == rows
    # 0.15 * 20 labelled = 3 a round
    assert [row["negatives_added"] for row in rows] == [0, 3, 3, 3]
    assert [row["train_images"] for row in rows] == [20, 23, 26, 29]
    print(json.dumps(rows, indent=1))
