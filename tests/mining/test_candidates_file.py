from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hardmine.errors import DataError
from hardmine.mining.candidates_file import (
    Candidate,
    hand_over,
    is_candidates_file,
    read_candidates,
    write_candidates,
)
from hardmine.types import Detections


@pytest.fixture
def candidates(tmp_path: Path) -> Path:
    """What mining writes: two images, one with two alarms, and one that is gone."""
    items = []
    for index, name in enumerate(("a.png", "b.png", "gone.png")):
        if name != "gone.png":
            Image.new("RGB", (40, 20), (index, 0, 0)).save(tmp_path / name)
        count = 2 if index == 0 else 1
        alarms = Detections(
            np.array([[4, 2, 14, 12], [0, 0, 40, 20]][:count], np.float32),
            np.array([0.9, 0.5][:count], np.float32),
            np.array([2, 1][:count], np.int64),
        )
        items.append(Candidate(name, str(tmp_path / name), 0.9, "dog", alarms))
    write_candidates(tmp_path / "run", items, ("cat", "dog"))
    return tmp_path / "run" / "candidates.json"


def test_what_the_model_saw_is_read_back(candidates: Path) -> None:
    for path in (candidates, candidates.with_suffix(".csv")):
        assert is_candidates_file(path)
        tasks, classes = read_candidates(path)
        assert classes == ("cat", "dog")
        assert [t.record.path.name for t in tasks] == ["a.png", "b.png"]
        first = tasks[0]
        assert (first.record.width, first.record.height) == (40, 20)
        np.testing.assert_array_equal(first.record.boxes, [[4, 2, 14, 12], [0, 0, 40, 20]])
        assert first.record.labels.tolist() == [2, 1]
        assert first.scores is not None
        np.testing.assert_allclose(first.scores, [0.9, 0.5])


@pytest.mark.parametrize("to", ["labelstudio", "cvat", "fiftyone"])
def test_candidates_become_predictions(candidates: Path, tmp_path: Path, to: str) -> None:
    done = hand_over(candidates, tmp_path / to, to)
    assert (done.images, done.annotations, done.predictions) == (2, 0, 3)
    assert (tmp_path / to).is_dir()


def test_broken_files(candidates: Path, tmp_path: Path) -> None:
    assert not is_candidates_file(tmp_path)
    assert not is_candidates_file(tmp_path / "a.png")
    candidates.write_text('{"candidates": [{"path": 3}]}')
    with pytest.raises(DataError, match="not a list of candidates"):
        read_candidates(candidates)
    entry = {"path": str(tmp_path / "nothing.png"), "boxes": []}
    candidates.write_text(json.dumps({"candidates": [entry]}))
    with pytest.raises(DataError, match="none of its 1 images"):
        read_candidates(candidates)
