from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hardmine.evaluation.scored_images import Scored
from hardmine.reports.content import Comparison, curve_line, worst_alarms
from hardmine.reports.wording import compare, count, limits, number, rate, verdict_class
from hardmine.types import Dataset, Detections, ImageRecord, ImageState


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (None, "–"),
        (0.01234, "0.012"),
        (1.234, "1.23"),
        (12.34, "12.3"),
        (-0.5, "−0.500"),
        (0, "0.000"),
    ],
)
def test_rate(value: float | None, wanted: str) -> None:
    assert rate(value) == wanted


def test_other_numbers() -> None:
    assert number(0.98765) == "0.988"
    assert limits([None, 2.5]) == "? to 2.50"
    assert limits(None) == "–"
    assert (count(12.0), count(12.333), count(None)) == ("12", "12.3", "–")


@pytest.mark.parametrize(
    ("low", "high", "verdict", "words"),
    [
        (0.2, 0.99, "better", "Fewer alarms"),
        (1.01, 3.0, "worse", "More alarms"),
        (0.2, 1.0, "open", "do not tell the two apart"),
        (0.2, None, "open", "do not tell the two apart"),
        (None, None, "open", "do not tell the two apart"),
    ],
)
def test_no_claim_beyond_the_interval(
    low: float | None, high: float | None, verdict: str, words: str
) -> None:
    ratio: dict[str, Any] = {"ratio": 0.5, "low": low, "high": high, "note": "", "seeds": [1]}
    assert verdict_class(ratio) == verdict
    sentence = compare(Comparison("a", "b", "held_out", ratio))
    assert words in sentence
    assert "One training each" in sentence
    assert "Mean of 3 seeds" in compare(
        Comparison("a", "b", "held_out", ratio | {"seeds": [1, 2, 3]})
    )


def test_no_ratio_gives_its_reason() -> None:
    ratio = {"ratio": None, "low": None, "high": None, "note": "too few"}
    assert compare(Comparison("a", "b", "stop", ratio)) == "No ratio is claimed: too few."
    assert verdict_class(ratio) == "open"


def empties(*best: float) -> Scored:
    records = tuple(
        ImageRecord.empty(Path(f"{i}.jpg"), 9, 9, ImageState.VERIFIED_EMPTY)
        for i in range(len(best))
    )
    detections = tuple(
        Detections(
            np.array([[0, 0, 5, 5]], np.float32),
            np.array([score], np.float32),
            np.array([1], np.int64),
        )
        if score
        else Detections.none()
        for score in best
    )
    return Scored(Dataset(("a",), records, Path("set")), detections)


def test_worst_alarms_come_first_and_silent_images_not_at_all() -> None:
    gallery = worst_alarms(empties(0.2, 0, 0.9, 0.5), top=2)
    assert [picture.caption for picture in gallery.pictures] == ["0.90 · 2.jpg", "0.50 · 3.jpg"]
    assert gallery.total == 3
    assert worst_alarms(empties(0, 0)).pictures == ()


def test_curve_line() -> None:
    assert curve_line("a", empties(0.5), empties(0.5)) is None
    record = ImageRecord(
        Path("v.jpg"),
        9,
        9,
        np.array([[0, 0, 5, 5]], np.float32),
        np.array([1], np.int64),
        np.array([False]),
        ImageState.LABELLED,
    )
    hit = Detections(record.boxes, np.array([0.75], np.float32), record.labels)
    line = curve_line("a", Scored(Dataset(("a",), (record,), Path("v")), (hit,)), empties(0.5, 0))
    assert line is not None
    # the hit at .75 (no alarm yet), then one alarm on two images
    assert line.points == ((0.0, 0.0), (0.5, 0.0))
