"""Which labelled images a model contradicts, worked by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hardmine.detections import Detections
from hardmine.evaluation.doubtful_labels import find_doubtful_labels
from hardmine.evaluation.scored_images import Scored
from hardmine.types import Dataset, ImageRecord, ImageState

HERE, THERE = (10.0, 10.0, 30.0, 30.0), (60.0, 60.0, 80.0, 80.0)
Row = tuple[tuple[float, float, float, float], float, int]


def contradictions(
    labels: list[tuple[tuple[float, float, float, float], int]],
    seen: list[Row],
    *,
    ignore: bool = False,
    threshold: float | None = 0.5,
    state: ImageState = ImageState.LABELLED,
) -> list[tuple[list[float], float]]:
    """Return the scores of the contradicting detections and how strong the contradiction is."""
    record = ImageRecord(
        Path("a.jpg"),
        100,
        100,
        np.array([box for box, _ in labels], np.float32).reshape(-1, 4),
        np.array([label for _, label in labels], np.int64),
        np.full(len(labels), ignore),
        state,
    )
    found = Detections(
        np.array([box for box, _, _ in seen], np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in seen], np.float32),
        np.array([label for _, _, label in seen], np.int64),
    )
    scored = Scored(Dataset(("cat", "dog"), (record,), Path()), (found,))
    return [
        (each.detections.scores.round(2).tolist(), round(each.score, 2))
        for each in find_doubtful_labels(scored, threshold)
    ]


def test_labels_that_the_model_confirms_are_not_in_doubt() -> None:
    assert contradictions([(HERE, 1)], [(HERE, 0.9, 1)]) == []
    assert contradictions([(HERE, 1)], [(HERE, 0.9, 1), (THERE, 0.49, 1)]) == []
    assert contradictions([(HERE, 1)], [(HERE, 0.9, 1), (HERE, 0.6, 2)]) == []


def test_a_sure_detection_where_no_label_is_contradicts() -> None:
    found = contradictions([(HERE, 1)], [(HERE, 0.9, 1), (THERE, 0.8, 1)])
    assert found == [([pytest.approx(0.8)], 0.8)]
    assert contradictions([(HERE, 1)], [(HERE, 0.9, 1), (THERE, 0.8, 1)], threshold=0.85) == []
    assert contradictions([(HERE, 1)], [(HERE, 0.9, 1), (THERE, 0.4, 1)], threshold=0.1) == []


def test_another_class_than_the_label_contradicts() -> None:
    assert contradictions([(HERE, 1)], [(HERE, 0.7, 2)]) == [([pytest.approx(0.7)], 0.7)]


def test_a_label_on_which_nothing_is_seen_contradicts() -> None:
    assert contradictions([(HERE, 1)], []) == [([], 1.0)]
    touching = (25.0, 25.0, 45.0, 45.0)  # IoU 25 / 775
    assert contradictions([(HERE, 1)], [(touching, 0.25, 1)]) == [([], 0.75)]
    assert contradictions([(HERE, 1)], [(HERE, 0.06, 1)]) == []


def test_ignored_boxes_and_images_of_other_states_are_left_out() -> None:
    assert contradictions([(HERE, 1)], [], ignore=True) == []
    assert contradictions([], [(HERE, 0.9, 1)], state=ImageState.VERIFIED_EMPTY) == []


def test_detections_inside_a_region_to_be_ignored_are_no_objects_without_a_box() -> None:
    crowd = (0.0, 0.0, 90.0, 90.0)  # HERE covers 400 / 8100 of it, and lies wholly inside
    assert contradictions([(crowd, 1)], [(HERE, 0.9, 1)], ignore=True) == []
    beside = (88.0, 88.0, 100.0, 100.0)  # 4 of its 144 square pixels lie inside
    assert contradictions([(crowd, 1)], [(beside, 0.9, 1)], ignore=True) == [
        ([pytest.approx(0.9)], 0.9)
    ]
