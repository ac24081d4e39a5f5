"""Alarms: at which score a detector reaches a recall, how many fire there, and which known ones fire
again.

- The operating point: the highest score at which recall is reached. Thresholds are inclusive
(``score >= t``) and stay floats: a detector's scores cluster near 0 and 1, where rounding would
move hundreds of detections across. - Alarms: detections on images that hold no object; and false
positives on background in images that do. - Miss rate against false positives per image, and its
log-average. Source: Dollár et al. 2012, "Pedestrian detection: an evaluation of the state of the
art", section 3.1: the geometric mean of the miss rates at nine rates of false positives per image,
evenly spaced in log space from 10⁻² to 10⁰. Where a curve ends before a rate, its lowest miss rate
stands for it; where it begins after a rate, the miss rate there is 1. - Known alarms: the
regression set of those that a person confirmed as false. One fires again when the detector, at its
threshold, has a detection of any class at the same place of the same image. Every image of the set
was confirmed to hold no object, so that whatever it says there is wrong again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hardmine.detections import Detections, OperatingPoint
from hardmine.evaluation.detection_matching import Matches, join_arrays
from hardmine.evaluation.scored_images import Scored
from hardmine.numpy_boxes import box_iou
from hardmine.plurals import counted
from hardmine.types import F32, F64, I64, NamedBox

FIXED_SCORES = (0.1, 0.3, 0.5, 0.7, 0.9)
ALARM_RATES = (0.01, 0.1, 1.0)
RECALLS = (0.5, 0.8, 0.9)
BINS = 20
"""Parts of equal width that scores from 0 to 1 are counted in."""
REFERENCE_FPPI = tuple(float(rate) for rate in np.logspace(-2.0, 0.0, 9))
SMALLEST_MISS_RATE = 1e-10
"""Stands for a miss rate of 0, whose logarithm does not exist (as in Dollár's toolbox)."""


def find_threshold(matches: Matches, recall: float) -> float | None:
    """Return the largest score at which recall, classes pooled, reaches ``recall``.

    Args:
        matches: detections on images whose labels are known, matched at IoU .5.
        recall: in (0, 1].

    Returns:
        None when no threshold reaches it, or when the images hold no object.

    Raises:
        ValueError: ``recall`` is outside (0, 1].
    """
    needed = hits_needed(matches.num_objects, recall)
    scores = matches.score[matches.hit]
    if not matches.num_objects or len(scores) < needed:
        return None
    # A lower threshold never undoes a hit, since matching goes by score: recall reaches k / n at the
    # score of the k-th best hit. Detections with the same score come along.
    return float(np.sort(scores)[-needed])


def hits_needed(num_objects: int, recall: float) -> int:
    """Return the smallest k >= 1 with ``k / num_objects >= recall`` (1 when there is no object).

    ``ceil(recall * num_objects)`` is not it: .07 * 100 is 7.000000000000001.
    """
    if not 0 < recall <= 1:
        raise ValueError(f"recall must be in (0, 1], got {recall}")
    if not num_objects:
        return 1
    needed = max(1, math.ceil(recall * num_objects))
    return needed - 1 if needed > 1 and (needed - 1) / num_objects >= recall else needed


def recall_at(matches: Matches, score_threshold: float) -> float | None:
    """Return recall with detections of ``score >= score_threshold``; None without objects."""
    if not matches.num_objects:
        return None
    hits = int(np.count_nonzero(matches.score[matches.hit] >= score_threshold))
    return hits / matches.num_objects


@dataclass(frozen=True, eq=False)
class AlarmScores:
    """Every detection on the images without objects: ``score`` f32[K] falling, ``image`` i64[K]."""

    score: F32
    image: I64
    num_images: int
    label: I64 | None = None
    """i64[K], the class of each; None where classes are not told apart."""

    def of_class(self, label: int) -> AlarmScores:
        """Return the detections of one class, on the same images."""
        assert self.label is not None, "gathered without their classes"
        kept = self.label == label
        return AlarmScores(self.score[kept], self.image[kept], self.num_images)

    def count_at(self, score_threshold: float | F64) -> I64:
        """Return how many detections are alarms: those of ``score >= score_threshold``.

        All counts of alarms come from here. As in :meth:`hardmine.Detections.at_least`, score and
        threshold are compared as float32.

        Args:
            score_threshold: one threshold, or f64[D].

        Returns:
            i64[] or i64[D]; the alarms are the first ones of ``score`` and ``image``.
        """
        wanted = np.asarray(score_threshold, np.float32)
        return np.asarray(np.searchsorted(-self.score, -wanted, side="right"), np.int64)


@dataclass(frozen=True)
class AlarmCount:
    """Alarms at one score. The shares are None when there are no images."""

    score_threshold: float
    alarms: int
    alarms_per_image: float | None
    share_of_images: float | None
    """Share of the images on which at least one alarm fires."""


@dataclass(frozen=True)
class RecallAtAlarms:
    """Recall at the lowest threshold that gives at most ``alarms_per_image``."""

    alarms_per_image: float
    recall: float | None
    score_threshold: float | None


@dataclass(frozen=True)
class AlarmsAtRecall:
    """Alarms at the highest score that reaches a recall; None where no score does."""

    recall: float
    score_threshold: float | None
    alarms: int | None
    alarms_per_image: float | None


@dataclass(frozen=True)
class ScoreHistogram:
    """How many objects and empty images have their best score in each of :data:`BINS` parts.

    ``objects`` counts the score of the detection that hits an object, ``missed`` the objects without a
    hit; ``images`` counts the best detection of each image without objects, ``silent`` those that
    have none.
    """

    objects: tuple[int, ...]
    missed: int
    images: tuple[int, ...]
    silent: int


@dataclass(frozen=True)
class StrayAlarms:
    """False positives on images that *do* hold objects, at one score.

    ``background`` of them lie on background: IoU below .1 with every object. The others are second
    detections of one object, wrong classes and badly placed boxes.
    """

    images: int
    background: int
    others: int
    background_per_image: float | None
    others_per_image: float | None


def collect_alarms(negatives: Scored) -> AlarmScores:
    """Gather the detections on the images that hold no object (see ``without_objects``)."""
    empty = negatives.without_objects()
    score = join_arrays([found.scores for found in empty.detections], np.float32)
    image = np.repeat(np.arange(len(empty)), [len(found) for found in empty.detections])
    label = join_arrays([found.labels for found in empty.detections], np.int64)
    order = np.argsort(-score, kind="stable")
    return AlarmScores(score[order], image[order], len(empty), label[order])


def count_alarms(alarms: AlarmScores, score_threshold: float) -> AlarmCount:
    """Count alarms of ``score >= score_threshold``."""
    count = int(alarms.count_at(score_threshold))
    firing = len(np.unique(alarms.image[:count]))
    total = alarms.num_images
    return AlarmCount(
        score_threshold,
        count,
        count / total if total else None,
        firing / total if total else None,
    )


def recall_at_alarms(
    matches: Matches, alarms: AlarmScores, alarms_per_image: float
) -> RecallAtAlarms:
    """Return the highest recall at no more than ``alarms_per_image``.

    On n images the rate means at most ``floor(rate * n)`` alarms, so on few images a small rate
    means none at all, which errs on the strict side.
    """
    if not alarms.num_images or not matches.num_objects:
        return RecallAtAlarms(alarms_per_image, None, None)
    allowed = alarms_allowed(alarms.num_images, alarms_per_image)
    threshold = 0.0
    if len(alarms.score) > allowed:
        # The next float above the first alarm that may not fire: alarms that tie with it stay out.
        threshold = float(np.nextafter(alarms.score[allowed], np.float32(np.inf)))
    hits = int(np.count_nonzero(matches.score[matches.hit] >= threshold))
    return RecallAtAlarms(alarms_per_image, hits / matches.num_objects, threshold)


def alarms_at_recall(matches: Matches, alarms: AlarmScores, recall: float) -> AlarmsAtRecall:
    """Return the alarms at the highest score at which ``recall`` is reached."""
    threshold = find_threshold(matches, recall)
    if threshold is None or not alarms.num_images:
        return AlarmsAtRecall(recall, threshold, None, None)
    found = count_alarms(alarms, threshold)
    return AlarmsAtRecall(recall, threshold, found.alarms, found.alarms_per_image)


def score_histogram(matches: Matches, alarms: AlarmScores) -> ScoreHistogram:
    """Count the best scores of objects and of images without objects."""
    hits = matches.score[matches.hit]
    _, first = np.unique(alarms.image, return_index=True)  # the best of each image comes first
    return ScoreHistogram(
        _binned(hits),
        matches.num_objects - len(hits),
        _binned(alarms.score[first]),
        alarms.num_images - len(first),
    )


def _binned(scores: F32) -> tuple[int, ...]:
    counts, _ = np.histogram(scores.clip(0.0, 1.0), bins=BINS, range=(0.0, 1.0))
    return tuple(counts.tolist())


def alarms_allowed(num_images: int, alarms_per_image: float) -> int:
    """Return the largest count of alarms on ``num_images`` images that keeps to the rate."""
    allowed = math.floor(alarms_per_image * num_images)
    return allowed + 1 if (allowed + 1) / num_images <= alarms_per_image else allowed


def count_stray_alarms(matches: Matches, score_threshold: float) -> StrayAlarms:
    """Count the false positives of ``score >= score_threshold`` on images that hold objects."""
    holds_object = matches.objects.sum(axis=1) > 0
    images = int(holds_object.sum())
    counted = matches.false & (matches.score >= score_threshold) & holds_object[matches.image]
    background = int(np.count_nonzero(counted & matches.background))
    others = int(np.count_nonzero(counted)) - background
    return StrayAlarms(
        images,
        background,
        others,
        background / images if images else None,
        others / images if images else None,
    )


@dataclass(frozen=True, eq=False)
class MissRateCurve:
    """One point per distinct score, falling: ``fppi`` f64[P] rises, ``miss_rate`` f64[P] falls."""

    score: F64
    fppi: F64
    miss_rate: F64


def negatives_curve(matches: Matches, alarms: AlarmScores) -> MissRateCurve | None:
    """Return misses on the validation images against alarms per *negative* image.

    None when there are no objects to miss or no negative images.
    """
    return _curve(matches.score[matches.hit], matches.num_objects, alarms.score, alarms.num_images)


def whole_curve(matches: Matches, alarms: AlarmScores) -> MissRateCurve | None:
    """Return misses against false positives per image over validation and negative images.

    Here second detections, wrong classes and badly placed boxes count as well.
    """
    false = np.concatenate([matches.score[matches.false], alarms.score])
    images = matches.num_images + alarms.num_images
    return _curve(matches.score[matches.hit], matches.num_objects, false, images)


def log_average_miss_rate(curve: MissRateCurve | None) -> float | None:
    """Return the geometric mean of the miss rates at :data:`REFERENCE_FPPI`; in (0, 1]."""
    if curve is None:
        return None
    rates = [max(_miss_rate_at(curve, fppi), SMALLEST_MISS_RATE) for fppi in REFERENCE_FPPI]
    return math.exp(sum(math.log(rate) for rate in rates) / len(rates))


def thin(curve: MissRateCurve, points: int = 200) -> MissRateCurve:
    """Return at most about ``points`` of the curve's corners, first and last among them."""
    corner = np.ones(len(curve.score), np.bool_)
    # A point in the middle of a horizontal run adds nothing to a staircase.
    corner[1:-1] = (np.diff(curve.miss_rate)[:-1] != 0) | (np.diff(curve.miss_rate)[1:] != 0)
    kept = np.flatnonzero(corner)
    if len(kept) > points:
        kept = kept[np.unique(np.linspace(0, len(kept) - 1, points).round().astype(np.int64))]
    return MissRateCurve(curve.score[kept], curve.fppi[kept], curve.miss_rate[kept])


def _curve(hits: F32, num_objects: int, false: F32, num_images: int) -> MissRateCurve | None:
    if not num_objects or not num_images:
        return None
    score = np.unique(np.concatenate([hits, false]))[::-1]
    num_hits = len(hits) - np.searchsorted(np.sort(hits), score, side="left")
    num_false = len(false) - np.searchsorted(np.sort(false), score, side="left")
    return MissRateCurve(
        score.astype(np.float64), num_false / num_images, 1.0 - num_hits / num_objects
    )


def _miss_rate_at(curve: MissRateCurve, fppi: float) -> float:
    # The tolerance lets 1 / 100 count as the rate 10⁻², whatever the last bit of either.
    reached = int(np.searchsorted(curve.fppi, fppi * (1 + 1e-9), side="right"))
    return float(curve.miss_rate[reached - 1]) if reached else 1.0


SAME_PLACE = 0.5
"""IoU from which a detection lies where a known alarm lay, inclusive."""


@dataclass(frozen=True, slots=True)
class KnownAlarms:
    """Confirmed alarms: the boxes that were seen on each image, by the image's name in its pool."""

    boxes: Mapping[str, tuple[NamedBox, ...]]

    def __len__(self) -> int:
        return sum(len(boxes) for boxes in self.boxes.values())


@dataclass(frozen=True, slots=True)
class RepeatedAlarms:
    """How many known alarms fire again.

    Attributes:
        score_threshold: where detections count, inclusive; None when the detector has no threshold.
        alarms, images: of the set, as far as its images can be read.
        again: alarms that fire again; None without a threshold.
        again_images: the images on which one does, hardest first.
        unreadable: images that could not be looked at, such as those that are gone or have changed,
            each with the reason.
        per_class: thresholds of single classes, in place of ``score_threshold`` for these.
    """

    score_threshold: float | None
    alarms: int
    images: int
    again: int | None
    again_images: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = field(default=())
    per_class: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        if self.again is None:
            return (
                f"{counted(self.alarms, 'known alarm')} cannot be counted: recall is not reached "
                "at any score"
            )
        score = "the score of each class" if self.per_class else f"score {self.score_threshold:.3f}"
        return (
            f"{self.again} of {self.alarms} known alarms fire again, on {len(self.again_images)} of "
            f"{self.images} images, from {score} on"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as JSON holds them."""
        return {
            "score_threshold": self.score_threshold,
            "per_class": dict(self.per_class),
            "alarms": self.alarms,
            "images": self.images,
            "again": self.again,
            "again_images": list(self.again_images),
            "unreadable": list(self.unreadable),
        }


def count_repeated(
    known: KnownAlarms,
    found: Mapping[str, Detections],
    point: OperatingPoint | None,
    unreadable: Sequence[str] = (),
    categories: Sequence[str] = (),
) -> RepeatedAlarms:
    """Count the known alarms that fire again.

    Args:
        found: the detections on each image of the set that could be looked at.
        point: from which scores they count.
        unreadable: why the other images could not be looked at.
        categories: the classes of the detections, for a point with scores of single classes.
    """
    boxes = {image: known.boxes[image] for image in found}
    alarms = sum(map(len, boxes.values()))
    if point is None:
        return RepeatedAlarms(None, alarms, len(boxes), None, (), tuple(unreadable))
    again = 0
    firing: list[tuple[float, str]] = []
    for image, seen in boxes.items():
        now = point.keep(found[image], categories)
        places = np.array([box.box for box in seen], np.float32).reshape(-1, 4)
        overlap = box_iou(places, now.boxes) >= SAME_PLACE  # [N, K]
        count = int(overlap.any(axis=1).sum())
        again += count
        if count:
            firing.append((-float(now.scores[overlap.any(axis=0)].max()), image))
    images = tuple(image for _, image in sorted(firing))
    return RepeatedAlarms(
        point.score, alarms, len(boxes), again, images, tuple(unreadable), point.per_class
    )
