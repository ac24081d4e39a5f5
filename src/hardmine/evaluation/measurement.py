"""Everything that is measured of one detector: the tree behind ``metrics.json``.

Level by level, it says what the priors find and where they fire wrongly. Large objects belong to
coarse levels and small ones to fine levels. A level that finds little and fires often shows where
priors, taps or the selection of negatives should be looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from hardmine.data.video import frames_per_hour
from hardmine.detections import Detections
from hardmine.evaluation.alarms import (
    ALARM_RATES,
    FIXED_SCORES,
    RECALLS,
    AlarmCount,
    AlarmsAtRecall,
    MissRateCurve,
    RecallAtAlarms,
    RepeatedAlarms,
    ScoreHistogram,
    StrayAlarms,
    alarms_at_recall,
    count_alarms,
    count_stray_alarms,
    find_threshold,
    log_average_miss_rate,
    negatives_curve,
    recall_at,
    recall_at_alarms,
    score_histogram,
    thin,
    whole_curve,
)
from hardmine.evaluation.average_precision import AveragePrecision, average_precision
from hardmine.evaluation.class_alarms import (
    AlarmsAtClassRecall,
    alarms_at_class_recall,
    class_thresholds,
    has_several_classes,
)
from hardmine.evaluation.detection_matching import Matches, Outcome, match_image
from hardmine.evaluation.error_breakdown import ErrorBreakdown, error_breakdown
from hardmine.evaluation.intervals import (
    DRAWS,
    ArmScores,
    Interval,
    alarm_interval,
    ap50_statistic,
    bootstrap_interval,
)
from hardmine.evaluation.scored_images import Scored
from hardmine.plurals import counted
from hardmine.types import I64, Dataset, ImageState

PRIMARY = "held_out"
"""The negative set that the main figures use, when there is one of this name."""
MOST_TRAINING_IMAGES = 100
"""A sample of the training images says whether a training was long enough."""
LEARNED = 0.97
"""AP50 on the images of its own training that a detector reaches when it was trained long enough."""


def training_sample(train: Dataset, *, seed: int = 0) -> Dataset:
    """Return up to 100 of the images with objects that a detector was trained on, in their order."""
    known = [record for record in train.records if record.state is ImageState.LABELLED]
    count = min(len(known), MOST_TRAINING_IMAGES)
    chosen = np.random.default_rng(seed).choice(len(known), count, replace=False)
    return train.with_records([known[index] for index in sorted(chosen)])


@dataclass(frozen=True)
class TrainingFit:
    """What a detector finds in images that it was trained on: it should find nearly all."""

    images: int
    ap50: float | None


@dataclass(frozen=True)
class NegativeMeasurement:
    """One negative set. ``at_recall`` and ``interval`` are None where recall is not reached."""

    name: str
    images: int
    images_excluded: int
    """Images of the set that are not known to be empty; they count nowhere."""
    at_recall: AlarmCount | None
    interval: Interval | None
    """The interval of alarms per image at the wanted recall."""
    at_scores: tuple[AlarmCount, ...]
    at_recalls: tuple[AlarmsAtRecall, ...]
    """Alarms at further recalls, each at its own threshold."""
    at_class_recalls: tuple[AlarmsAtClassRecall, ...]
    """Alarms with each class at such a recall; empty where not more than one class has objects."""
    recall_at_alarms: tuple[RecallAtAlarms, ...]
    histogram: ScoreHistogram
    """The best score of each object that is found, and of each of these images."""
    log_average_miss_rate: float | None
    log_average_miss_rate_whole: float | None
    curve: MissRateCurve | None = field(repr=False)
    """Misses against alarms per negative image, thinned for drawing."""
    ap_with: AveragePrecision
    """AP with these images registered beside the validation images."""
    frames_per_hour: float | None = None
    """Of a set of frames of videos, how many are looked at per hour; None for any other set."""

    @property
    def alarms_per_hour(self) -> float | None:
        """Alarms per hour of video at the recall wanted, as often as frames are looked at."""
        if self.frames_per_hour is None or self.at_recall is None:
            return None
        rate = self.at_recall.alarms_per_image
        return None if rate is None else rate * self.frames_per_hour


@dataclass(frozen=True, repr=False)
class Measurement:
    """One detector on one validation set and any number of negative sets."""

    recall_wanted: float
    images: int
    images_excluded: int
    """Validation images whose truth is not known; they count nowhere."""
    objects: int
    detections: int
    score_threshold: float | None
    """The threshold (inclusive) at the recall wanted; None when that is not reached."""
    recall: float | None
    """Recall at that threshold."""
    max_recall: float | None
    """Recall with every detection."""
    ap: AveragePrecision
    ap50_interval: Interval
    stray: StrayAlarms | None
    errors: ErrorBreakdown | None
    """What kinds of mistakes there are at the threshold, or where recall .5 is reached if it is None, or
    else at score .3; None without objects."""
    negatives: Mapping[str, NegativeMeasurement]
    draws: int
    seed: int
    known_alarms: RepeatedAlarms | None = None
    """Of the alarms that people confirmed, those that fire again; None where none were given."""
    levels: tuple[LevelRow, ...] = ()
    """What each level of the priors does where mistakes are counted; empty where that is not known."""
    training: TrainingFit | None = None
    """None where the training images are not known."""
    class_thresholds: Mapping[str, float | None] = field(default_factory=dict)
    """The threshold at which each class that has objects reaches the recall wanted itself."""

    def __repr__(self) -> str:
        parts = [f"AP {_shown(self.ap.ap)}", f"AP50 {_shown(self.ap.ap50)}"]
        if self.score_threshold is None:
            parts.append(f"recall {self.recall_wanted:g} not reached")
        elif self.primary is not None and self.primary.at_recall is not None:
            rate = _shown(self.primary.at_recall.alarms_per_image)
            parts.append(
                f"{rate} alarms per image at recall {self.recall_wanted:g} "
                f"(score {self.score_threshold:.3f})"
            )
        parts.append(f"{counted(self.images, 'image')} with {counted(self.objects, 'object')}")
        parts += [f"{part.images} of {name}" for name, part in self.negatives.items()]
        return f"Measurement({', '.join(parts)})"

    @property
    def primary(self) -> NegativeMeasurement | None:
        """The held-out set, else the first one given, else None."""
        return self.negatives.get(PRIMARY) or next(iter(self.negatives.values()), None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: None where a value is undefined, never NaN."""
        ap, with_negatives = self.ap, self.primary.ap_with if self.primary else None
        return {
            "AP": ap.ap,
            "AP50": ap.ap50,
            "AP50_interval": _limits(self.ap50_interval),
            "AP75": ap.ap75,
            "AP_small": ap.small,
            "AP_medium": ap.medium,
            "AP_large": ap.large,
            "AP_with_negatives": with_negatives.ap if with_negatives else None,
            "AP50_with_negatives": with_negatives.ap50 if with_negatives else None,
            "per_class": [asdict(row) for row in ap.per_class],
            "class_thresholds": dict(self.class_thresholds),
            "images": self.images,
            "images_excluded": self.images_excluded,
            "objects": self.objects,
            "detections": self.detections,
            "recall_wanted": self.recall_wanted,
            "score_threshold": self.score_threshold,
            "recall": self.recall,
            "max_recall": self.max_recall,
            self._alarms_key: _rate(self.primary),
            "interval": _limits(self.primary.interval) if self.primary else None,
            "stray_alarms": asdict(self.stray) if self.stray else None,
            "errors": self.errors.to_dict() if self.errors else None,
            "negatives": {name: self._set_dict(part) for name, part in self.negatives.items()},
            "known_alarms": None if self.known_alarms is None else self.known_alarms.to_dict(),
            "levels": [asdict(row) for row in self.levels],
            "training": None
            if self.training is None
            else {"images": self.training.images, "AP50": self.training.ap50},
            "bootstrap": {"draws": self.draws, "seed": self.seed},
        }

    @property
    def _alarms_key(self) -> str:
        return f"alarms_per_image_at_recall_{self.recall_wanted:g}"

    def _set_dict(self, part: NegativeMeasurement) -> dict[str, Any]:
        at_recall = part.at_recall
        return {
            "images": part.images,
            "images_excluded": part.images_excluded,
            "alarms": at_recall.alarms if at_recall else None,
            self._alarms_key: _rate(part),
            "frames_per_hour": part.frames_per_hour,
            "alarms_per_hour": part.alarms_per_hour,
            "interval": _limits(part.interval),
            "interval_method": part.interval.method if part.interval else None,
            "share_of_images_that_fire": at_recall.share_of_images if at_recall else None,
            "alarms_at_scores": [asdict(row) for row in part.at_scores],
            "alarms_at_recalls": [asdict(row) for row in part.at_recalls],
            "alarms_at_class_recalls": [asdict(row) for row in part.at_class_recalls],
            "recall_at_alarms": [asdict(row) for row in part.recall_at_alarms],
            "score_histogram": asdict(part.histogram),
            "log_average_miss_rate": part.log_average_miss_rate,
            "log_average_miss_rate_whole": part.log_average_miss_rate_whole,
            "AP_with_negatives": part.ap_with.ap,
            "AP50_with_negatives": part.ap_with.ap50,
        }


def measure(
    val: Scored,
    negatives: Mapping[str, Scored],
    *,
    recall: float = 0.8,
    draws: int = DRAWS,
    seed: int = 0,
    level_of_prior: I64 | None = None,
    training: Scored | None = None,
) -> Measurement:
    """Measure a detector's results on a validation set and on sets of images without objects.

    Args:
        val: validation images; those of unknown truth are left out and counted.
        negatives: by name: ``held_out`` (final), ``stop``, ``crops``; each is reported apart.
        recall: where alarms are counted, IoU .5, classes pooled.
        draws: bootstrap draws. ``seed`` fixes them.
        level_of_prior: i64[A], for the figures per level; detections then know their prior.
        training: images that the detector was trained on.

    Raises:
        ValueError: ``recall`` is outside (0, 1].
        DataError: a negative set has another class list than ``val``.
    """
    known = val.with_known_truth()
    alone = ArmScores(known, known.subset([]))
    matches = alone.matches
    threshold = find_threshold(matches, recall)
    counted_from = _where_errors_are_counted(matches, threshold)
    return Measurement(
        recall_wanted=recall,
        images=len(known),
        images_excluded=len(val) - len(known),
        objects=matches.num_objects,
        detections=len(matches.score),
        score_threshold=threshold,
        recall=None if threshold is None else recall_at(matches, threshold),
        max_recall=recall_at(matches, 0.0),
        ap=average_precision(known),
        ap50_interval=bootstrap_interval(ap50_statistic, alone, draws=draws, seed=seed),
        stray=None if threshold is None else count_stray_alarms(matches, threshold),
        errors=error_breakdown(known, counted_from) if matches.num_objects else None,
        negatives={
            name: _measure_set(
                name, alone.beside(part), threshold, recall=recall, draws=draws, seed=seed
            )
            for name, part in negatives.items()
        },
        draws=draws,
        seed=seed,
        levels=()
        if level_of_prior is None
        else level_rows(known, negatives, counted_from, level_of_prior),
        training=None
        if training is None or not len(training)
        else TrainingFit(len(training), average_precision(training).ap50),
        class_thresholds=class_thresholds(alone, recall),
    )


def _where_errors_are_counted(matches: Matches, threshold: float | None) -> float:
    """Return the threshold, or one at which a detector that does not reach the recall has some."""
    if threshold is not None:
        return threshold
    lower = find_threshold(matches, 0.5)
    return 0.3 if lower is None else lower


def _measure_set(
    name: str, arm: ArmScores, threshold: float | None, *, recall: float, draws: int, seed: int
) -> NegativeMeasurement:
    matches, alarms = arm.matches, arm.alarms
    curve = negatives_curve(matches, alarms)
    return NegativeMeasurement(
        name=name,
        images=alarms.num_images,
        images_excluded=len(arm.negatives) - alarms.num_images,
        at_recall=None if threshold is None else count_alarms(alarms, threshold),
        interval=alarm_interval(arm, recall=recall, draws=draws, seed=seed),
        at_scores=tuple(count_alarms(alarms, score) for score in FIXED_SCORES),
        at_recalls=tuple(alarms_at_recall(matches, alarms, wanted) for wanted in RECALLS),
        at_class_recalls=tuple(alarms_at_class_recall(arm, wanted) for wanted in RECALLS)
        if has_several_classes(arm) and alarms.num_images
        else (),
        recall_at_alarms=tuple(recall_at_alarms(matches, alarms, rate) for rate in ALARM_RATES),
        histogram=score_histogram(matches, alarms),
        log_average_miss_rate=log_average_miss_rate(curve),
        log_average_miss_rate_whole=log_average_miss_rate(whole_curve(matches, alarms)),
        curve=None if curve is None else thin(curve),
        ap_with=average_precision(arm.val, [arm.negatives]),
        frames_per_hour=frames_per_hour(str(r.path) for r in arm.negatives.dataset.records),
    )


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _rate(part: NegativeMeasurement | None) -> float | None:
    return part.at_recall.alarms_per_image if part and part.at_recall else None


def _limits(interval: Interval | None) -> list[float | None] | None:
    return [interval.low, interval.high] if interval else None


@dataclass(frozen=True, slots=True)
class LevelRow:
    """One level, the finest is 0: objects that its detections find, and its wrong detections.

    ``wrong`` counts those on the validation images, ``alarms`` those on each set of images without
    objects.
    """

    level: int
    found: int
    wrong: int
    alarms: Mapping[str, int]


def level_rows(
    val: Scored, negatives: Mapping[str, Scored], score_threshold: float, level_of_prior: I64
) -> tuple[LevelRow, ...]:
    """Count by the level of the prior that gave each detection of ``score >= score_threshold``.

    Args:
        val: images whose labels are known.
        level_of_prior: i64[A].

    Returns:
        A row per level; none where a detection does not know its prior.
    """
    sets = (val, *negatives.values())
    if not all(len(d.prior) == len(d) for part in sets for d in part.detections):
        return ()
    count = int(level_of_prior.max(initial=-1)) + 1
    found, wrong = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for record, detections in zip(val.dataset.records, val.detections, strict=True):
        kept = detections.at_least(score_threshold)
        ordered = kept[np.argsort(-kept.scores, kind="stable")]
        outcome, _ = match_image(record, ordered, 0.5)
        level = level_of_prior[ordered.prior]
        found += np.bincount(level[outcome == Outcome.HIT], minlength=count)
        wrong += np.bincount(level[outcome == Outcome.FALSE], minlength=count)
    alarms = {
        name: _count(part.without_objects().detections, score_threshold, level_of_prior, count)
        for name, part in negatives.items()
    }
    return tuple(
        LevelRow(
            level,
            int(found[level]),
            int(wrong[level]),
            {name: int(counts[level]) for name, counts in alarms.items()},
        )
        for level in range(count)
    )


def _count(
    detections: tuple[Detections, ...], score_threshold: float, level_of_prior: I64, count: int
) -> I64:
    priors = [found.at_least(score_threshold).prior for found in detections]
    joined = np.concatenate([np.zeros(0, np.int64), *priors])
    return np.bincount(level_of_prior[joined], minlength=count)
