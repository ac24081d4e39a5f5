from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from eval_worlds import found, one_object_each, random_scored, record, scored
from hypothesis import given, settings
from hypothesis import strategies as st

from hardmine.detections import Detections
from hardmine.errors import DataError
from hardmine.evaluation.scored_images import Scored, ground_truth, load_detections, save_detections
from hardmine.types import ImageState


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="1 detection results for 2 images"):
        scored([record(), record()], [found()])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((float("nan"), 1, 0, 0, 5, 5), "not finite"),
        ((0.5, 1, 0, 0, float("inf"), 5), "not finite"),
        ((0.5, 0, 0, 0, 5, 5), r"label outside 1\.\.1"),
        ((0.5, 2, 0, 0, 5, 5), r"label outside 1\.\.1"),
    ],
)
def test_values_that_a_detector_must_not_give(row: tuple[float, ...], message: str) -> None:
    with pytest.raises(DataError, match=f"cam/7.jpg: .*{message}"):
        scored([record(name="cam/7.jpg")], [found(row)])


def test_arrays_must_agree() -> None:
    broken = Detections(np.zeros((2, 4), np.float32), np.zeros(1, np.float32), np.ones(1, np.int64))
    with pytest.raises(ValueError, match=r"boxes \(2, 4\)"):
        scored([record()], [broken])


def test_parts_by_state() -> None:
    states = list(ImageState)
    world = scored([record(state=state) for state in states], [found()] * len(states))
    known = [r.state for r in world.with_known_truth().dataset.records]
    empty = [r.state for r in world.without_objects().dataset.records]
    assert known == [ImageState.LABELLED, ImageState.VERIFIED_EMPTY, ImageState.ASSUMED_EMPTY]
    assert empty == [ImageState.VERIFIED_EMPTY, ImageState.ASSUMED_EMPTY]


def test_file_is_standard_coco(tmp_path: Path) -> None:
    world = scored([record(), record((1, 1, 2, 4, 8))], [found(), found((0.5, 1, 1, 2, 4, 8))])
    save_detections(tmp_path / "deep" / "results.json", world)
    # The second image has id 2; xywh: 4 − 1 = 3 wide, 8 − 2 = 6 high
    assert json.loads((tmp_path / "deep" / "results.json").read_text()) == [
        {"image_id": 2, "category_id": 1, "bbox": [1.0, 2.0, 3.0, 6.0], "score": 0.5}
    ]
    truth = ground_truth(world.dataset)
    assert [image["id"] for image in truth["images"]] == [1, 2]
    assert truth["annotations"][0]["image_id"] == 2
    assert truth["annotations"][0]["bbox"] == [1.0, 2.0, 3.0, 6.0]
    assert truth["categories"] == [{"id": 1, "name": "class 1"}]


def assert_same(a: Scored, b: Scored) -> None:
    for one, other in zip(a.detections, b.detections, strict=True):
        np.testing.assert_array_equal(one.boxes, other.boxes)
        np.testing.assert_array_equal(one.scores, other.scores)
        np.testing.assert_array_equal(one.labels, other.labels)
        assert (other.boxes.dtype, other.scores.dtype) == (np.float32, np.float32)


def test_comes_back_bit_for_bit(tmp_path: Path) -> None:
    world = random_scored(5, images=12, num_classes=3)
    save_detections(tmp_path / "r.json", world)
    assert_same(world, load_detections(tmp_path / "r.json", world.dataset))


@settings(deadline=None, max_examples=20)
@given(st.lists(st.floats(0, 4096, width=32), min_size=4, max_size=4), st.floats(0, 1, width=32))
def test_any_float32_box_and_score_comes_back(
    tmp_path_factory: pytest.TempPathFactory, corners: list[float], score: float
) -> None:
    path = tmp_path_factory.mktemp("results") / "r.json"
    x0, x1 = sorted(corners[:2])
    y0, y1 = sorted(corners[2:])
    world = scored([record()], [found((score, 1, x0, y0, x1, y1))])
    save_detections(path, world)
    assert_same(world, load_detections(path, world.dataset))


def test_foreign_results_are_sorted_best_first(tmp_path: Path) -> None:
    rows = [
        {"image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5], "score": score}
        for score in (0.2, 0.9)
    ]
    (tmp_path / "r.json").write_text(json.dumps(rows))
    loaded = load_detections(tmp_path / "r.json", one_object_each(None).dataset)
    assert loaded.detections[0].scores.tolist() == pytest.approx([0.9, 0.2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 3}, r"\[1\]: image_id 3 is outside 1\.\.2"),
        ({"image_id": 0}, r"\[1\]: image_id 0 is outside"),
        ({"category_id": 2}, r"\[1\]: category_id 2 is outside 1\.\.1"),
        ({"bbox": [1, 2, 3]}, r"\[1\]: wanted image_id"),
        ({"score": None}, r"\[1\]: wanted image_id"),
        ({"score": float("nan")}, r"\[1\]: score or bbox is not finite"),
    ],
)
def test_broken_entry_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    good = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5], "score": 0.5}
    (tmp_path / "r.json").write_text(json.dumps([good, good | change]))
    with pytest.raises(DataError, match=message):
        load_detections(tmp_path / "r.json", one_object_each(None, None).dataset)


@pytest.mark.parametrize("text", [None, "", "{", '{"a": 1}'])
def test_broken_file(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "r.json").write_text(text)
    with pytest.raises(DataError, match=r"r\.json: "):
        load_detections(tmp_path / "r.json", one_object_each(None).dataset)
