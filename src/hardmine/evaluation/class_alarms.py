"""Alarms with each class at its own recall: a rare class counts as much as a frequent one.

Where one class has most of the objects, the score at which recall .8 of all objects is reached is that
of this class. A class with lower scores is then hardly detected there, and its false alarms are not
counted either: they look few because the class is not looked at. Here each class is counted from the
score at which its own recall is reached, and the alarms of the classes are added up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hardmine.evaluation.alarms import (
    AlarmScores,
    alarms_at_recall,
    find_threshold,
)
from hardmine.evaluation.detection_matching import Matches
from hardmine.evaluation.intervals import (
    ArmScores,
    Draws,
    Statistic,
    alarm_draws,
    threshold_draws,
)
from hardmine.types import F64


@dataclass(frozen=True)
class ClassAlarms:
    """Alarms of one class at its own recall; None where no score of it reaches that."""

    name: str
    score_threshold: float | None
    alarms: int | None
    alarms_per_image: float | None


@dataclass(frozen=True)
class AlarmsAtClassRecall:
    """Alarms of all classes that have objects, each at ``recall``; None where one does not reach it."""

    recall: float
    alarms: int | None
    alarms_per_image: float | None
    classes: tuple[ClassAlarms, ...]


def alarms_at_class_recall(arm: ArmScores, recall: float) -> AlarmsAtClassRecall:
    """Return the alarms on the negative set with each class at ``recall``."""
    found = []
    for name, matches, alarms in _classes(arm):
        at = alarms_at_recall(matches, alarms, recall)
        found.append(ClassAlarms(name, at.score_threshold, at.alarms, at.alarms_per_image))
    counts = [row.alarms for row in found]
    known = [count for count in counts if count is not None]
    total = sum(known) if known and len(known) == len(counts) else None
    rate = None if total is None else total / arm.alarms.num_images
    return AlarmsAtClassRecall(recall, total, rate, tuple(found))


def class_thresholds(arm: ArmScores, recall: float) -> dict[str, float | None]:
    """Return where each class that has objects reaches ``recall``; None where no score does."""
    return {name: find_threshold(matches, recall) for name, matches, _ in _classes(arm)}


def class_alarms_statistic(recall: float) -> Statistic:
    """Return the statistic "alarms per image with each class at ``recall``".

    It is +inf where a class does not reach the recall. A class of which a draw holds no object adds
    nothing in that draw, as in AP50.
    """

    def compute(arm: ArmScores, draws: Draws) -> F64:
        """Return alarms per image of each draw, each class at the threshold of that draw."""
        total = np.zeros(len(draws))
        for _, matches, alarms in _classes(arm):
            thresholds = threshold_draws(matches, draws.val, recall)
            rates = alarm_draws(alarms, draws.negatives, thresholds)
            total += np.where(draws.val @ matches.objects.sum(axis=1) > 0, rates, 0.0)
        return total

    return compute


def has_several_classes(arm: ArmScores) -> bool:
    """Return whether more than one class has objects: otherwise there is nothing to tell apart."""
    return int((arm.matches.objects.sum(axis=0) > 0).sum()) > 1


def _classes(arm: ArmScores) -> list[tuple[str, Matches, AlarmScores]]:
    """Return name, matches and alarms of each class that has objects."""
    names, present = arm.val.dataset.categories, arm.matches.objects.sum(axis=0) > 0
    return [
        (name, arm.matches.of_class(label), arm.alarms.of_class(label))
        for label, name in enumerate(names, start=1)
        if present[label - 1]
    ]
