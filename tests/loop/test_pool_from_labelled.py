"""A loop for those who have no pool: it mines parts of its own training images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import hardmine
from hardmine.errors import ConfigError
from shelf_world import make_world


@pytest.mark.usefixtures("no_page")
def test_a_loop_without_a_pool(tmp_path: Path) -> None:
    """Its candidates are files that were cut out once; a pool beside them is refused."""
    make_world(tmp_path)
    shelf, out = tmp_path / "shelf", tmp_path / "loop"
    asked = {"val": 0.25, "recipe": tmp_path / "tiny.yaml", "rounds": 1, "draws": 5, "add": 2}
    asked |= {"pool_from_labelled": True, "stop": "never", "min_score": 0.0}
    with pytest.raises(ConfigError, match="exclude each other"):
        hardmine.run_loop(shelf, pool=tmp_path / "pool", out=tmp_path / "x", **asked)
    loop = hardmine.run_loop(shelf, negatives=tmp_path / "held_out", out=out, **asked)
    assert [row["round"] for row in loop.rows] == [0, 1]
    assert loop.rows[1]["negatives_added"] == 2
    tree = json.loads((out / "rounds" / "mined-1" / "train.coco.json").read_text())
    new = [image for image in tree["images"] if "#xywh=" in image["file_name"]]
    assert len(new) == 2
    assert not {image["id"] for image in new} & {row["image_id"] for row in tree["annotations"]}
    folder = out / "rounds" / "mined-1"
    assert all((folder / one["file_name"]).resolve().is_relative_to(out / "pool") for one in new)
    assert hardmine.run_loop(out=out, resume=True).rows == loop.rows
