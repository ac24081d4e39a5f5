"""The protocol through which anybody's model enters the loop, and what a model may give besides.

``Detector`` is all that is needed. One that scores and decodes from one run (``OnePassDetector``) is
quicker; one that gives features (``FeatureDetector``) allows ``--diverse``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hardmine.data.resize import Resize
from hardmine.detections import Detections
from hardmine.errors import ConfigError, DataError
from hardmine.inference.image_loading import (
    ImageItem,
    Loaded,
    batched,
    load_item,
    stack,
)
from hardmine.option_fields import changed_options
from hardmine.types import F32, I64, Problem, array_of


@dataclass(frozen=True, slots=True, eq=False)
class BatchScores:
    """The most confident prior of each image: ``scores`` f32[B], ``labels`` i64[B] in 1..C,
    ``levels`` i64[B] (−1 when unknown).
    """

    scores: Tensor
    labels: Tensor
    levels: Tensor


class Detector(Protocol):
    """A model that can be run over images."""

    @property
    def categories(self) -> tuple[str, ...]:
        """Class names; ``categories[label - 1]`` names a label."""
        ...

    @property
    def model_id(self) -> str:
        """Changes whenever the weights or the decoding do."""
        ...

    @property
    def resize(self) -> Resize:
        """How images come onto the model's canvas."""
        ...

    def score(self, images: Tensor) -> BatchScores:
        """Score u8[B, 3, H, W] without decoding boxes, as mining does with our own networks.

        Of other detectors it asks ``detect`` for every image.
        """
        ...

    def detect(self, images: Tensor) -> list[Detections]:
        """Detect in u8[B, 3, H, W]: one `Detections` per image, boxes in canvas pixels, after NMS."""
        ...


@runtime_checkable
class OnePassDetector(Protocol):
    """A detector that scores and decodes from one run of its network, from any number of threads."""

    def score_and_detect(
        self, images: Tensor, floor: float
    ) -> tuple[BatchScores, list[Detections]]:
        """Return the scores of u8[B, 3, H, W] and the detections of those images that reach ``floor``.

        The others have no detection in the list; boxes in canvas pixels, after NMS.
        """
        ...


def level_of_prior(detector: Detector) -> NDArray[np.int64] | None:
    """Return the level of each prior of an SSD, i64[A]; None for a detector without such priors."""
    priors = getattr(getattr(detector, "network", None), "priors", None)
    level = getattr(priors, "level", None)
    return None if level is None else level.cpu().numpy().astype(np.int64)


def make_model_id(*parts: Any) -> str:
    """Return the identity of a model, 16 hex digits, from all that decides what it finds.

    A configuration counts by what differs from its defaults, so that a field that is added later
    changes no identity, and pools that were scanned need not be scanned again.

    Args:
        parts: texts, numbers, lists, and configurations as dataclasses.
    """
    plain = [changed_options(part) if is_dataclass(part) else part for part in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def top_scores(found: list[Detections]) -> BatchScores:
    """Return the best detection of each image; 0 and label 0 where there is none."""
    best = [(float(d.scores[0]), int(d.labels[0])) if len(d) else (0.0, 0) for d in found]
    return BatchScores(
        torch.tensor([score for score, _ in best], dtype=torch.float32),
        torch.tensor([label for _, label in best], dtype=torch.int64),
        torch.full((len(best),), -1, dtype=torch.int64),
    )


_MEMBERS = ("categories", "model_id", "resize", "score", "detect")


def require_detector(given: Any) -> Detector:
    """Return an object as a detector.

    Raises:
        ConfigError: it is a class, or lacks a member of `Detector`; the message names all that lack.
    """
    if isinstance(given, type):
        raise ConfigError(f"detector: got the class {given.__name__}, wanted an object of it")
    lacking = [name for name in _MEMBERS if not hasattr(given, name)]
    if lacking:
        raise ConfigError(
            f"detector: got {type(given).__name__}, which has no {', '.join(lacking)}; wanted what "
            "hardmine.load_detector takes or gives, or an object with the members of Detector in "
            "hardmine/inference/detector.py"
        )
    found: Detector = given
    return found


_ROUNDING = 1e-3
"""By so much a score may pass 0 or 1."""


def checked_answers(detector: Detector, images: Tensor) -> list[Detections]:
    """Run a detector over u8[B, 3, H, W]; the detections of each image, best first, as numpy arrays.

    Raises:
        DataError: it does not give one ``Detections`` per image, or one has labels outside 1..C, scores
            outside [0, 1], or values that are not finite.
    """
    where = f"{type(detector).__name__}.detect"
    found = list(detector.detect(images))
    if len(found) != len(images):
        raise DataError(f"{where}: got {len(found)} results for {len(images)} images")
    most = len(detector.categories)
    return [_checked(each, most, where) for each in found]


def _checked(found: Any, most: int, where: str) -> Detections:
    if not isinstance(found, Detections):
        kind = type(found).__name__
        raise DataError(f"{where}: got {kind} for an image, wanted hardmine.Detections")
    scores = array_of(_on_cpu(found.scores), np.float32, f"{where}: scores", None)
    size = len(scores)
    boxes = array_of(
        _on_cpu(found.boxes), np.float32, f"{where}: boxes", None, rows=size, columns=4
    )
    labels = array_of(_on_cpu(found.labels), np.int64, f"{where}: labels", None, rows=size)
    if not size:
        return replace(found, boxes=boxes, scores=scores, labels=labels)
    if not (np.isfinite(scores).all() and np.isfinite(boxes).all()):
        raise DataError(f"{where}: got a score or box that is not finite, wanted numbers")
    if scores.min() < -_ROUNDING or scores.max() > 1 + _ROUNDING:
        got = f"scores from {scores.min():g} to {scores.max():g}"
        raise DataError(f"{where}: got {got}, wanted 0 to 1")
    if labels.min() < 1 or labels.max() > most:
        got = f"labels from {labels.min()} to {labels.max()}"
        raise DataError(f"{where}: got {got}, wanted 1 to {most} (0 is background)")
    whole = replace(found, boxes=boxes, scores=scores, labels=labels)
    is_sorted = bool((scores[:-1] >= scores[1:]).all())
    return whole if is_sorted else whole[np.argsort(-scores, kind="stable")]


def _on_cpu(values: Any) -> Any:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else values


_BATCH = 16


@runtime_checkable
class FeatureDetector(Protocol):
    """A detector that can say what an image looks like to it."""

    def features(self, images: Tensor) -> Tensor:
        """Return f32[B, D] for u8[B, 3, H, W], the same D for every image."""
        ...


def require_features(detector: Detector) -> FeatureDetector:
    """Return a detector as one that gives features.

    Raises:
        ConfigError: it gives none.
    """
    if isinstance(detector, FeatureDetector):
        return detector
    raise ConfigError(
        "diverse: this detector gives no features (a method features(images) -> f32[B, D]); Hardmine's "
        "own SSD checkpoints do"
    )


def pooled_features(detector: Detector, items: Sequence[ImageItem]) -> NDArray[np.float32]:
    """Return f32[N, D]: the detector's own features of each image.

    Raises:
        ConfigError: the detector has none.
        DataError: an image cannot be read.
    """
    seeing = require_features(detector)
    parts = []
    for batch in batched(items, _BATCH):
        read = [load_item(item, detector.resize, hashed=False) for item in batch]
        loaded = [item for item in read if isinstance(item, Loaded)]
        if len(loaded) < len(read):
            raise DataError(str(next(item for item in read if isinstance(item, Problem))))
        images = stack(loaded)
        parts.append(seeing.features(images).float().cpu().numpy())
    return np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)


SCORE_FLOOR = 0.01
"""Detections below are not asked for; the frameworks' own floor of .25 to .5 would hide what ranking
needs."""


def ranked(boxes: F32, scores: F32, labels: I64) -> Detections:
    """Return detections best first, without those below ``SCORE_FLOOR`` and those without area.

    Args:
        boxes: f32[K, 4] xyxy.
        scores: f32[K].
        labels: i64[K] in 1..C.
    """
    real = (scores >= SCORE_FLOOR) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    boxes, scores, labels = boxes[real], scores[real], labels[real]
    order = np.argsort(-scores, kind="stable")
    return Detections(
        boxes[order].astype(np.float32), scores[order].astype(np.float32), labels[order]
    )


@dataclass(frozen=True, slots=True)
class ClassTable:
    """A framework's class numbers as labels 1..C; ``label_of`` holds the label of each number."""

    names: tuple[str, ...]
    label_of: Mapping[int, int]

    @staticmethod
    def of(names: Mapping[int, str], given: Sequence[str] | None, where: str) -> ClassTable:
        """Take a framework's names by number, and over them those that the user gave.

        Numbers whose name is empty or ``N/A`` (COCO's gaps) are no classes.

        Raises:
            ConfigError: the user's names are of another number, or a name occurs twice.
        """
        numbers = [n for n in sorted(names) if names[n].strip().upper() not in ("", "N/A")]
        own = tuple(names[number] for number in numbers)
        if given is not None and len(given) != len(own):
            raise ConfigError(
                f"{where}: the model has {len(own)} classes ({', '.join(own[:6])}), "
                f"--classes gives {len(given)}"
            )
        chosen = own if given is None else tuple(given)
        if len(set(chosen)) < len(chosen):
            raise ConfigError(f"{where}: a class name occurs twice: {', '.join(chosen[:12])}")
        return ClassTable(chosen, {number: i for i, number in enumerate(numbers, start=1)})

    def detections(self, boxes: Any, scores: Any, numbers: Any) -> Detections:
        """Return detections by the framework's class numbers; those of no class are left out."""
        values = np.asarray(numbers).astype(np.int64).reshape(-1)
        labels = np.array([self.label_of.get(int(n), 0) for n in values], np.int64)
        known = labels > 0
        corners = np.asarray(boxes, np.float32).reshape(-1, 4)
        return ranked(corners[known], np.asarray(scores, np.float32)[known], labels[known])
