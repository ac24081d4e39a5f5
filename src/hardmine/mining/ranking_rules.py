"""The rules by which images are ranked: one row for each; light, so that a command line can import it.

A rule gives an image one number from its alarms, larger for a harder image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hardmine.detections import Detections

SAME_PLACE = 0.5
"""IoU from which two boxes count as the same place, inclusive."""


@dataclass(frozen=True, slots=True)
class RankingRule:
    """A rule: its name, what help texts say of it, and the hardness of an image.

    Attributes:
        hardness: takes an image's alarms (at least one, best first) and the score ``threshold`` of the
            options; returns a number that is larger for a harder image.
        around_threshold: the hardest images have their highest score around ``threshold``, not at the
            top: where a ranking looks for them.
    """

    name: str
    help: str
    hardness: Callable[[Detections, float], float]
    around_threshold: bool = False


def _highest_score(alarms: Detections, threshold: float) -> float:
    return float(alarms.scores[0])


def _num_alarms(alarms: Detections, threshold: float) -> float:
    return float(len(alarms))


def _sum_of_scores(alarms: Detections, threshold: float) -> float:
    return float(alarms.scores.astype("float64").sum())


def _closeness_of_classes(alarms: Detections, threshold: float) -> float:
    return -class_margin(alarms)


def _closeness_to_threshold(alarms: Detections, threshold: float) -> float:
    return -float(abs(alarms.scores.astype("float64") - threshold).min())


RULES: dict[str, RankingRule] = {
    rule.name: rule
    for rule in (
        RankingRule("score", "the highest score", _highest_score),
        RankingRule("alarms", "the most alarms", _num_alarms),
        RankingRule("sum", "the largest sum of the alarms' scores", _sum_of_scores),
        RankingRule(
            "margin",
            "the two likeliest classes closest to each other at the best box, background being one",
            _closeness_of_classes,
        ),
        RankingRule(
            "uncertainty",
            "an alarm whose score is closest to --threshold: the images to look at where the truth is "
            "unknown, also for objects that were missed",
            _closeness_to_threshold,
            around_threshold=True,
        ),
    )
}
"""By name; the command line, help texts and tests are made from these rows."""


def class_margin(alarms: Detections) -> float:
    """Return the difference between the two likeliest classes at the best box.

    Background is a class: it has what the others leave of 1.
    """
    from hardmine.numpy_boxes import box_iou

    place = box_iou(alarms.boxes[:1], alarms.boxes)[0] >= SAME_PLACE
    best: dict[int, float] = {}
    for label, score in zip(alarms.labels[place], alarms.scores[place], strict=True):
        best[int(label)] = max(best.get(int(label), 0.0), float(score))
    values = sorted([*best.values(), max(0.0, 1.0 - sum(best.values()))])
    return values[-1] - values[-2]
