"""Figures per level of the priors, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from eval_worlds import empties, found, record, scored

from hardmine.detections import Detections
from hardmine.evaluation.measurement import level_rows, measure
from hardmine.evaluation.scored_images import Scored

LEVELS = np.array([0, 0, 1, 2])
"""Four priors on three levels."""
BOX, OTHER = (10, 10, 50, 50), (60, 60, 90, 90)


def from_priors(detections: Detections, *priors: int) -> Detections:
    return replace(detections, prior=np.array(priors, np.int64))


def world() -> tuple[Scored, Scored]:
    rows = [(0.9, 1, *BOX), (0.8, 1, *BOX), (0.7, 1, *OTHER), (0.2, 1, *OTHER)]
    val = scored([record((1, *BOX))], [from_priors(found(*rows), 2, 3, 1, 0)])
    quiet = empties([0.9, 0.6], [], [0.75])
    priors = [(0, 3), (), (3,)]
    seen = tuple(from_priors(d, *p) for d, p in zip(quiet.detections, priors, strict=True))
    return val, replace(quiet, detections=seen)


def test_hits_and_mistakes_count_for_the_level_of_their_prior() -> None:
    val, negatives = world()
    rows = level_rows(val, {"held_out": negatives}, 0.65, LEVELS)
    assert [(row.level, row.found, row.wrong) for row in rows] == [(0, 0, 1), (1, 1, 0), (2, 0, 1)]
    assert [row.alarms["held_out"] for row in rows] == [1, 0, 1]
    lower = level_rows(val, {"held_out": negatives}, 0.1, LEVELS)
    assert [row.wrong for row in lower] == [2, 0, 1]
    assert [row.alarms["held_out"] for row in lower] == [1, 0, 2]


def test_a_measurement_has_them_where_priors_are_known() -> None:
    val, negatives = world()
    with_levels = measure(val, {"held_out": negatives}, draws=5, level_of_prior=LEVELS)
    # Recall .8 is reached at .9: the hit alone, and one alarm.
    assert with_levels.to_dict()["levels"] == [
        {"level": 0, "found": 0, "wrong": 0, "alarms": {"held_out": 1}},
        {"level": 1, "found": 1, "wrong": 0, "alarms": {"held_out": 0}},
        {"level": 2, "found": 0, "wrong": 0, "alarms": {"held_out": 0}},
    ]
    assert measure(val, {}, draws=5).levels == ()
    unknown = replace(val, detections=(found((0.9, 1, *BOX)),))
    assert level_rows(unknown, {}, 0.5, LEVELS) == ()
