"""What the bootstrap computes in each draw: thresholds, alarms and AP50.

A draw resamples images with replacement. It is held as ``counts`` i32[D, N]: how often draw d holds
image i. The counts depend only on (seed, which set, N), so that two arms measured on the same
images get the same draws: that is what makes their comparison paired.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hardmine.evaluation.alarms import AlarmScores, collect_alarms
from hardmine.evaluation.detection_matching import Matches, match
from hardmine.evaluation.operating_point import hits_needed
from hardmine.evaluation.scored_images import Scored
from hardmine.types import F64, I64

Counts = NDArray[np.int32]

MAX_DETECTIONS = 100
"""COCO's limit per image and class."""
_CELLS = 4_000_000
"""Draws × detections that are held in memory at once."""
_VAL, _NEGATIVES = 1, 2


@dataclass(frozen=True, eq=False)
class ArmScores:
    """The detections of one arm (or round) on the validation images and on one negative set."""

    val: Scored
    negatives: Scored

    @cached_property
    def matches(self) -> Matches:
        """The validation detections, matched at IoU .5."""
        return match(self.val.with_known_truth())

    @cached_property
    def alarms(self) -> AlarmScores:
        """The detections on the negative set."""
        return collect_alarms(self.negatives)

    def beside(self, negatives: Scored) -> ArmScores:
        """Return the same validation results beside another negative set, matched only once."""
        arm = ArmScores(self.val, negatives)
        arm.__dict__["matches"] = self.matches  # where cached_property keeps it
        return arm


@dataclass(frozen=True, eq=False)
class Draws:
    """``val`` i32[D, N] and ``negatives`` i32[D, M]: how often each draw holds each image."""

    val: Counts
    negatives: Counts

    def __len__(self) -> int:
        return len(self.val)


def full_sample(arm: ArmScores) -> Draws:
    """Return the one "draw" that holds every image once: the point estimate."""
    return Draws(
        np.ones((1, arm.matches.num_images), np.int32),
        np.ones((1, arm.alarms.num_images), np.int32),
    )


def draw_images(arm: ArmScores, draws: int, seed: int) -> Draws:
    """Return ``draws`` resamples of the arm's images, validation and negative ones apart."""
    return Draws(
        _resample(arm.matches.num_images, draws, (seed, _VAL)),
        _resample(arm.alarms.num_images, draws, (seed, _NEGATIVES)),
    )


def _resample(size: int, draws: int, key: tuple[int, int]) -> Counts:
    counts = np.zeros((draws, size), np.int32)
    if size:
        generator = np.random.default_rng((*key, size))
        for row in counts:
            row[:] = np.bincount(generator.integers(0, size, size), minlength=size)
    return counts


def threshold_draws(matches: Matches, counts: Counts, recall: float) -> F64:
    """Return the threshold at ``recall`` in each draw, f64[D]; +inf where it is not reachable."""
    order = np.argsort(-matches.score[matches.hit], kind="stable")
    score = matches.score[matches.hit][order].astype(np.float64)
    image = matches.image[matches.hit][order]
    objects = counts @ matches.objects.sum(axis=1)  # [D]
    thresholds = np.full(len(counts), np.inf)
    if not len(score):
        return thresholds
    needed = np.array([hits_needed(int(count), recall) for count in objects])
    for part in _slices(len(counts), len(score)):
        reached = np.cumsum(counts[part][:, image], axis=1) >= needed[part, None]  # [d, T]
        first = reached.argmax(axis=1)
        thresholds[part] = np.where(reached.any(axis=1), score[first], np.inf)
    return thresholds


def alarm_draws(alarms: AlarmScores, counts: Counts, thresholds: F64) -> F64:
    """Return alarms per image at each draw's own threshold, f64[D]; +inf where that is +inf.

    An unreachable recall is the worst outcome, not a draw without alarms.
    """
    above = alarms.count_at(thresholds)  # [D]
    reach = int(above.max(initial=0))
    total = np.zeros(len(counts))
    for part in _slices(len(counts), reach):
        summed = np.cumsum(counts[part][:, alarms.image[:reach]], axis=1, dtype=np.int64)
        last = above[part]
        rows = np.arange(len(last))
        if reach:
            total[part] = np.where(last > 0, summed[rows, np.maximum(last - 1, 0)], 0)
    rate = total / alarms.num_images if alarms.num_images else np.full(len(counts), np.nan)
    return np.where(np.isinf(thresholds), np.inf, rate)


def ap50_draws(matches: Matches, counts: Counts) -> F64:
    """Return AP50 (COCO's 101 points, mean over the classes drawn) in each draw, f64[D].

    NaN where a draw holds no object. Equal to COCO's evaluation on the full sample.
    """
    total, classes = np.zeros(len(counts)), np.zeros(len(counts))
    kept = _within_limit(matches.image, matches.label) & (matches.hit | matches.false)
    for label in range(1, matches.objects.shape[1] + 1):
        rows = np.flatnonzero(kept & (matches.label == label))
        rows = rows[np.argsort(-matches.score[rows], kind="stable")]
        objects = counts @ matches.objects[:, label - 1]
        precision = _class_ap(matches.image[rows], matches.hit[rows], counts, objects)
        total += np.where(objects > 0, precision, 0.0)
        classes += objects > 0
    mean = np.full(len(counts), np.nan)
    np.divide(total, classes, out=mean, where=classes > 0)
    return mean


def _class_ap(image: I64, hit: NDArray[np.bool_], counts: Counts, objects: I64) -> F64:
    """Return f64[D] for detections of one class, best first."""
    result = np.zeros(len(counts))
    hit_at = np.flatnonzero(hit)
    if not len(hit_at):
        return result
    image, hit = image[: hit_at[-1] + 1], hit[: hit_at[-1] + 1]
    points = np.linspace(0.0, 1.0, 101)
    for part in _slices(len(counts), len(image)):
        weight = counts[part][:, image]
        seen = np.cumsum(weight, axis=1)[:, hit_at].astype(np.float64)  # [d, T]
        true = np.cumsum(weight[:, hit_at], axis=1).astype(np.float64)
        precision = np.divide(true, seen, out=np.zeros_like(true), where=seen > 0)
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        recall = true / np.maximum(objects[part, None], 1)
        for row in range(len(weight)):
            at = np.searchsorted(recall[row], points, side="left")
            reached = at[at < len(hit_at)]
            result[part.start + row] = envelope[row, reached].sum() / len(points)
    return result


def _within_limit(image: I64, label: I64) -> NDArray[np.bool_]:
    """Return bool[K]: among the 100 best of its image and class; rows go best first."""
    key = image * (int(label.max(initial=0)) + 1) + label
    order = np.argsort(key, kind="stable")
    _, first, inverse = np.unique(key[order], return_index=True, return_inverse=True)
    rank = np.arange(len(key)) - first[inverse] if len(key) else np.zeros(0, np.int64)
    kept = np.zeros(len(key), np.bool_)
    kept[order] = rank < MAX_DETECTIONS
    return kept


def _slices(draws: int, width: int) -> Iterator[slice]:
    step = max(1, _CELLS // max(1, width))
    for start in range(0, draws, step):
        yield slice(start, min(start + step, draws))
