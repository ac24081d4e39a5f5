"""Detectors that run inside another framework: whole pictures in, detections in their pixels out.

The framework prepares the pictures and decodes the network's answers by its own code, so that what is
mined is what its users see. Files are read in threads while the network runs, and the network sees each
image once.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hardmine.data.images import Picture
from hardmine.data.resize import Resize
from hardmine.data.splits.near_duplicates import perceptual_hash
from hardmine.detections import Detections
from hardmine.device import count_workers
from hardmine.errors import CheckpointError, ConfigError, DataError, MissingExtraError
from hardmine.inference.detector import BatchScores, top_scores
from hardmine.inference.image_loading import (
    ImageItem,
    batched,
    count_cores,
    item_problem,
    open_item,
    run_ordered,
)
from hardmine.inference.predict import PredictMixin, ScoredImage
from hardmine.types import F32, I64, U8, Problem

SCORE_FLOOR = 0.01
"""Detections below are not asked for; the frameworks' own floor of .25 to .5 would hide what ranking
needs."""

_NO_CANVAS = Resize(1, 1)


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """A picture as u8[H, W, 3] RGB with its perceptual hash (0 when it was not asked for)."""

    name: str
    pixels: U8
    phash: int


class FrameworkDetector(PredictMixin, ABC):
    """A detector that takes whole pictures of any size.

    Args:
        categories: names of the labels 1, 2, …
        model_id: changes whenever the weights or what is asked of the framework do.
        device: where the network runs. On a CPU it gets one picture at a time: larger batches are no
            quicker there, and an image's score then never depends on its neighbours.
    """

    def __init__(self, categories: tuple[str, ...], model_id: str, device: torch.device) -> None:
        self.categories = categories
        self.model_id = model_id
        self.device = device
        self.resize = _NO_CANVAS
        self._at_once = 1 if device.type == "cpu" else 16

    @abstractmethod
    def run(self, pictures: Sequence[U8]) -> list[Detections]:
        """Return the detections from score ``SCORE_FLOOR`` on, in pixels of each picture, best first.

        Args:
            pictures: u8[H, W, 3] RGB, all of one size.
        """

    def detect_pictures(self, pictures: Sequence[U8]) -> list[Detections]:
        """Return the detections of u8[H, W, 3] RGB pictures of any sizes, in order."""
        order = sorted(range(len(pictures)), key=lambda i: pictures[i].shape)
        found = [Detections.none()] * len(pictures)
        for _, same in groupby(order, key=lambda i: pictures[i].shape):
            for part in batched(same, self._at_once):
                results = self._halving([pictures[i] for i in part])
                for index, detections in zip(part, results, strict=True):
                    found[index] = detections
        return found

    def _halving(self, pictures: Sequence[U8]) -> list[Detections]:
        """Run pictures of one size, in smaller parts where they do not fit the device's memory."""
        try:
            return self.run(pictures)
        except torch.OutOfMemoryError:
            if len(pictures) < 2:
                raise
        self._at_once = max(1, len(pictures) // 2)
        return [found for part in batched(pictures, self._at_once) for found in self._halving(part)]

    def score(self, images: Tensor) -> BatchScores:
        """Return the best detection of each of u8[B, 3, H, W]."""
        return top_scores(self.detect(images))

    def detect(self, images: Tensor) -> list[Detections]:
        """Return the detections of u8[B, 3, H, W], each taken as a picture of its own."""
        return self.detect_pictures(list(images.permute(0, 2, 3, 1).contiguous().cpu().numpy()))

    def detect_picture(self, picture: Picture) -> Detections:
        """Return the detections of one picture, in its pixels."""
        return self.detect_pictures([np.asarray(picture.pixels)])[0]

    def detect_images(
        self, paths: Sequence[Path], progress: Callable[[int, int], None] | None = None
    ) -> list[Detections]:
        """Return the detections of every image, in order, in pixels of the original image.

        Raises:
            DataError: an image cannot be read.
        """
        results: list[Detections] = []
        for item in self._scored((ImageItem(str(path)) for path in paths), hashed=False):
            if isinstance(item, Problem):
                raise DataError(str(item))
            results.append(item.detections)
            if progress is not None:
                progress(len(results), len(paths))
        return results

    def score_items(self, items: Iterable[ImageItem]) -> Iterator[ScoredImage | Problem]:
        """Yield every image's score in order, or why it cannot be read."""
        return self._scored(items, hashed=True)

    def _scored(
        self, items: Iterable[ImageItem], *, hashed: bool
    ) -> Iterator[ScoredImage | Problem]:
        def read(batch: Sequence[ImageItem]) -> list[_Read | Problem]:
            """Read the pictures of a batch."""
            return [_read(item, hashed=hashed) for item in batch]

        for batch in run_ordered(batched(items, self._at_once), read, count_workers(count_cores())):
            good = [item for item in batch if isinstance(item, _Read)]
            found = iter(self.detect_pictures([item.pixels for item in good]))
            for item in batch:
                yield item if isinstance(item, Problem) else _scored_image(item, next(found))


def _read(item: ImageItem, *, hashed: bool) -> _Read | Problem:
    try:
        image = open_item(item).pixels
    except DataError as error:
        return item_problem(item, error)
    return _Read(item.name, np.asarray(image), perceptual_hash(image) if hashed else 0)


def _scored_image(read: _Read, found: Detections) -> ScoredImage:
    score = float(found.scores[0]) if len(found) else 0.0
    label = int(found.labels[0]) if len(found) else 0
    return ScoredImage(Path(read.name), score, label, -1, found, read.phash, read.name)


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


def placed(found: Detections, x: float, y: float) -> Detections:
    """Return detections of a window of a picture in pixels of the picture."""
    return replace(found, boxes=found.boxes + np.array([x, y, x, y], np.float32))


def import_framework(package: str, where: str, install: str | None = None) -> Any:
    """Import the framework that runs somebody's weights; numbers are printed as before it.

    Raises:
        MissingExtraError: it is not installed, or its import fails.
    """
    printed = np.get_printoptions()
    try:
        found = importlib.import_module(package)
    except ImportError as error:
        missing = getattr(error, "name", None)
        reason = "" if missing == package else f" (its import failed: {error})"
        raise MissingExtraError(
            f"{where}: is run by the package {package}{reason}; pip install {install or package}"
        ) from None
    np.set_printoptions(**printed)  # ultralytics changes them for the whole process
    return found


def unreadable(path: Path | str, framework: str, error: Exception) -> CheckpointError:
    """Return the error for weights that their own framework cannot load, in one line."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return CheckpointError(f"{path}: {framework} cannot load it ({reason})")
