"""Remembering the last batch, for models whose score is the top of their detections."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

from hardmine.detect.detector import BatchScores
from hardmine.types import Detections


class LastBatch:
    """Detections of the last batch by the content of each image.

    Scanning a pool scores a batch and then decodes the images of it that fire; where the score comes
    from the detections, the second call must not run the network again.
    """

    def __init__(self, detect: Callable[[Tensor], list[Detections]]) -> None:
        self._detect = detect
        self._known: dict[bytes, Detections] = {}

    def detect(self, images: Tensor) -> list[Detections]:
        """Return the detections of u8[B, 3, H, W], from memory when all were in the last batch."""
        keys = [_digest(image) for image in images]
        if not all(key in self._known for key in keys):
            self._known = dict(zip(keys, self._detect(images), strict=True))
        known = self._known
        return [known[key] for key in keys]

    def score(self, images: Tensor) -> BatchScores:
        """Return the best detection of each image; 0 and label 0 where there is none."""
        return top_scores(self.detect(images))


def top_scores(found: list[Detections]) -> BatchScores:
    """Return the best detection of each image; 0 and label 0 where there is none."""
    best = [(float(d.scores[0]), int(d.labels[0])) if len(d) else (0.0, 0) for d in found]
    return BatchScores(
        torch.tensor([score for score, _ in best], dtype=torch.float32),
        torch.tensor([label for _, label in best], dtype=torch.int64),
        torch.full((len(best),), -1, dtype=torch.int64),
    )


def _digest(image: Tensor) -> bytes:
    pixels = image.contiguous().cpu().numpy()
    return hashlib.blake2b(pixels.data, digest_size=16).digest()
