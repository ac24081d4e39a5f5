"""What a threshold promises, in words: never more than what was asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hardmine.evaluation.alarms import AlarmScores
from hardmine.evaluation.operating_promise import (
    Hits,
    promise_alarms,
    promise_recall,
    recall_figures,
)
from hardmine.reports.threshold_page import (
    ThresholdRow,
    percent,
    promise_sentence,
    shown_score,
    statements,
)


def hits(count: int) -> Hits:
    """One object per image, found with scores from .5 on."""
    scores = np.linspace(0.5, 0.9, count).astype(np.float32)
    return Hits(scores, np.arange(count), np.ones(count, np.int64))


@pytest.mark.parametrize(
    ("limit", "confidence", "said"),
    [
        (0.975, 0.95, "at least 97.5 % of new objects are found, with a confidence of 95 %."),
        (0.9, 0.999, "at least 90 % of new objects are found, with a confidence of 99.9 %."),
        (0.9995, 0.975, "at least 99.95 % of new objects are found, with a confidence of 97.5 %."),
        (0.07, 0.9, "at least 7 % of new objects are found, with a confidence of 90 %."),
    ],
)
def test_what_was_asked_for_is_not_rounded(limit: float, confidence: float, said: str) -> None:
    promise = promise_recall(hits(9000), limit, confidence=confidence, unit="object")
    assert promise_sentence(promise).endswith(said)


def test_a_share_of_images_that_may_fire_is_not_rounded_down() -> None:
    """.125 is 12.5 %, and .00004 is not 0 %."""
    silent = AlarmScores(np.zeros(0, np.float32), np.zeros(0, np.int64), 200_000)
    said = [promise_sentence(promise_alarms(silent, limit)) for limit in (0.125, 0.00004)]
    assert "at most 12.5 % of new empty images fire" in said[0]
    assert "at most 0.004 % of new empty images fire" in said[1]


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (0.0, "0 %"),
        (0.0033, "0.33 %"),
        (0.015, "1.5 %"),
        (0.02, "2 %"),
        (0.123, "12 %"),
        (0.99, "99 %"),
        (0.997, "99.7 %"),
        (0.9996, "99.96 %"),
        (1.0, "100 %"),
    ],
)
def test_a_share_is_100_percent_only_where_it_is_all(share: float, said: str) -> None:
    assert percent(share) == said


def test_a_score_near_one_is_rounded_to_the_safe_side_without_becoming_one() -> None:
    one = AlarmScores(np.array([0.99998], np.float32), np.zeros(1, np.int64), 299)
    alarms = replace(promise_alarms(one, 0.9), score_threshold=0.9999812)
    assert shown_score(alarms) == "0.999982"
    recall = promise_recall(hits(9000), 0.9, unit="object")
    assert shown_score(replace(recall, score_threshold=0.9999818)) == "0.999981"
    assert shown_score(replace(recall, score_threshold=0.12349)) == "0.1234"
    assert shown_score(replace(recall, score_threshold=None)) == "–"


def test_one_alarm_is_not_written_as_many() -> None:
    one = AlarmScores(np.array([0.9], np.float32), np.zeros(1, np.int64), 1000)
    promise = promise_alarms(one, 0.01)
    row = ThresholdRow(
        "all classes",
        "all",
        promise,
        None,
        None,
        recall_figures(hits(9), promise.score_threshold, 0.95),
        one,
        hits(9),
    )
    assert any(line.endswith("1 fires (0.10 %), with 1 alarm.") for line in statements(row))
