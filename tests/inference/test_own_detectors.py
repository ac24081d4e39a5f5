"""Detectors that somebody wrote: in which forms they may answer, and what is said of wrong answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import hardmine
from hardmine.data.resize import Resize
from hardmine.detections import Detections
from hardmine.errors import ConfigError, DataError
from hardmine.inference.detector import BatchScores, top_scores
from hardmine.inference.predict import predict

BOXES = np.array([[2, 2, 9, 9], [4, 4, 20, 20]], np.float32)
SCORES = np.array([0.9, 0.25], np.float32)
LABELS = np.array([2, 1], np.int64)
RIGHT = Detections(BOXES, SCORES, LABELS)


class OwnDetector:
    """Gives the same answer for every image."""

    categories = ["cat", "dog"]  # noqa: RUF012
    model_id = "own"
    resize = Resize(32, 32, "letterbox", fill=(0, 0, 0))

    def __init__(self, answer: Callable[[int], Any]) -> None:
        self.answer = answer

    def score(self, images: Tensor) -> BatchScores:
        return top_scores([RIGHT] * len(images))

    def detect(self, images: Tensor) -> Any:
        return self.answer(len(images))


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    folder = tmp_path / "pool"
    folder.mkdir()
    for index in range(3):
        Image.new("RGB", (32, 32), (80 * index, 0, 0)).save(folder / f"{index}.png")
    return folder


@pytest.mark.parametrize(
    "answer",
    [
        lambda count: [RIGHT] * count,
        lambda count: (RIGHT for _ in range(count)),
        lambda count: [RIGHT[[1, 0]]] * count,
        lambda count: [Detections(BOXES.tolist(), SCORES.tolist(), LABELS.tolist())] * count,
        lambda count: [Detections(*map(torch.tensor, (BOXES, SCORES, LABELS)))] * count,  # type: ignore[arg-type]
        lambda count: [Detections(BOXES.astype("f8"), SCORES, LABELS.astype("i4"))] * count,
    ],
    ids=["arrays", "generator", "worst first", "lists", "tensors", "other kinds"],
)
def test_the_form_of_an_answer_does_not_matter(answer: Callable[[int], Any], pool: Path) -> None:
    own: Any = OwnDetector(answer)
    found = predict(own, str(pool / "0.png"), score_threshold=0.1)
    assert isinstance(found, Detections)
    assert [(one.category, one.score) for one in found] == [("dog", SCORES[0]), ("cat", SCORES[1])]
    assert found.boxes.dtype == np.float32
    mined = hardmine.mine(own, pool)
    assert mined.candidates[0].score == pytest.approx(0.9)
    assert mined.candidates[0].label == 2


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda count: [RIGHT] * (count - 1), "got 0 results for 1 images"),
        (lambda count: [{"boxes": BOXES}] * count, "got dict for an image, wanted .*Detections"),
        (
            lambda count: [Detections(BOXES, SCORES, LABELS - 1)] * count,
            "labels from 0 to 1, wanted 1 to 2",
        ),
        (
            lambda count: [Detections(BOXES, SCORES, LABELS + 1)] * count,
            "labels from 2 to 3, wanted 1 to 2",
        ),
        (
            lambda count: [Detections(BOXES, SCORES * 100, LABELS)] * count,
            "scores from 25 to 90, wanted 0 to 1",
        ),
        (lambda count: [Detections(BOXES, SCORES * np.nan, LABELS)] * count, "not finite"),
        (lambda count: [Detections(BOXES * np.nan, SCORES, LABELS)] * count, "not finite"),
        (lambda count: [Detections(BOXES[:1], SCORES, LABELS)] * count, "boxes: got 1, wanted 2"),
    ],
)
def test_a_wrong_answer_is_named(answer: Callable[[int], Any], message: str, pool: Path) -> None:
    own: Any = OwnDetector(answer)
    with pytest.raises(DataError, match=f"^OwnDetector.detect: .*{message}"):
        predict(own, str(pool / "0.png"))


def test_what_is_no_detector_is_told_what_it_lacks(pool: Path, tmp_path: Path) -> None:
    network: Any = torch.nn.Linear(1, 1)
    for call in (
        lambda: predict(network, str(pool / "0.png")),
        lambda: hardmine.mine(network, pool),
        lambda: hardmine.evaluate(network, "labels", out=tmp_path / "val"),
    ):
        with pytest.raises(
            ConfigError, match="got Linear, which has no categories, model_id, resize"
        ):
            call()
    own: Any = OwnDetector
    with pytest.raises(ConfigError, match="got the class OwnDetector, wanted an object of it"):
        hardmine.mine(own, pool)
