from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hardmine.detections import Detections
from hardmine.errors import DataError
from hardmine.mining import candidates_file
from hardmine.mining.candidates_file import (
    COLUMNS,
    Candidate,
    Column,
    hand_over,
    is_candidates_file,
    read_candidates,
    read_rows,
    write_candidates,
    write_rows,
)


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


def test_what_the_model_saw_is_read_back(candidates: Path, tmp_path: Path) -> None:
    for path in (candidates, candidates.with_suffix(".csv")):
        assert is_candidates_file(path)
        read = read_candidates(path, tmp_path / "copies")
        seen = read.images
        assert seen.categories == ("cat", "dog")
        assert [record.path.name for record in seen.records] == ["a.png", "b.png"]
        first = seen.records[0]
        assert (first.width, first.height) == (40, 20)
        np.testing.assert_array_equal(first.boxes, [[4, 2, 14, 12], [0, 0, 40, 20]])
        assert first.labels.tolist() == [2, 1]
        np.testing.assert_allclose(read.scores[first.path], [0.9, 0.5])


@pytest.mark.parametrize("to", ["labelstudio", "cvat", "fiftyone"])
def test_candidates_become_predictions(candidates: Path, tmp_path: Path, to: str) -> None:
    done = hand_over(candidates, tmp_path / to, to)
    assert (done.num_images, done.annotated_boxes, done.predicted_boxes) == (2, 0, 3)
    assert (tmp_path / to).is_dir()


def test_what_cannot_be_read_is_left_out_and_named(
    candidates: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    read_candidates(candidates, tmp_path / "copies")
    assert [record.getMessage() for record in caplog.records] == [
        f"left out: {tmp_path / 'gone.png'}: no such file"
    ]


def test_candidates_after_many_problems_are_recognised(tmp_path: Path) -> None:
    many = [f"/pool/{i:06}.jpg: zero bytes long" for i in range(3000)]
    write_candidates(tmp_path, [], (), duplicates_grouped=0, problems=many)
    assert is_candidates_file(tmp_path / "candidates.csv")


def test_broken_files(candidates: Path, tmp_path: Path) -> None:
    assert not is_candidates_file(tmp_path)
    assert not is_candidates_file(tmp_path / "a.png")
    candidates.write_text('{"candidates": [{"path": 3}]}')
    with pytest.raises(DataError, match="not a list of candidates"):
        read_candidates(candidates, tmp_path / "copies")
    entry = {"path": str(tmp_path / "nothing.png"), "boxes": []}
    candidates.write_text(json.dumps({"candidates": [entry]}))
    with pytest.raises(DataError, match="none of its 1 images"):
        read_candidates(candidates, tmp_path / "copies")


# The columns.


def test_a_column_is_one_row_from_which_the_file_is_made(
    candidates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    width = Column("width", "How wide the first alarm is.", lambda c: f"{c.alarms.boxes[0][2]:g}")
    monkeypatch.setattr(candidates_file, "COLUMNS", (COLUMNS[0], width, *COLUMNS[1:]))
    alarms = Detections(
        np.array([[0, 2, 14, 12]], np.float32), np.ones(1, np.float32), np.ones(1, np.int64)
    )
    write_candidates(tmp_path / "new", [Candidate("c.png", "c.png", 0.9, "cat", alarms)], ("cat",))
    text = (tmp_path / "new" / "candidates.csv").read_text()
    assert (
        text == "image,width,score,class,num_alarms,similar,verdict\nc.png,14,0.900000,cat,1,0,\n"
    )

    # A file of the version before is read by its header, and its rows stand under the new one.
    folders = (candidates.parent, tmp_path / "new")
    rows = [row for folder in folders for row in read_rows(folder / "candidates.csv")]
    write_rows(tmp_path / "both.csv", rows)
    lines = (tmp_path / "both.csv").read_text().splitlines()
    assert lines[0] == text.splitlines()[0]
    assert lines[1] == "a.png,,0.900000,dog,2,0,"
    assert lines[-1] == text.splitlines()[1]


def test_rows_that_do_not_fit_their_header_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "candidates.csv"
    path.write_text("image,score\na.png,0.5\nb.png,0.4,dog\n")
    with pytest.raises(DataError, match=r"candidates.csv:3: got 3 values, wanted 2"):
        read_rows(path)
    path.write_text("name,score\na.png,0.5\n")
    with pytest.raises(DataError, match=r"candidates.csv:1: got columns \['name', 'score'\]"):
        read_rows(path)
