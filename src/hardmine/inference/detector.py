"""The protocol through which anybody's model enters the loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from hardmine.data.resize import Resize
from hardmine.types import Detections


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
        """Score u8[B, 3, H, W] without decoding boxes: the hot path of mining."""
        ...

    def detect(self, images: Tensor) -> list[Detections]:
        """Detect in u8[B, 3, H, W]; boxes in canvas pixels, after NMS."""
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


def top_scores(found: list[Detections]) -> BatchScores:
    """Return the best detection of each image; 0 and label 0 where there is none."""
    best = [(float(d.scores[0]), int(d.labels[0])) if len(d) else (0.0, 0) for d in found]
    return BatchScores(
        torch.tensor([score for score, _ in best], dtype=torch.float32),
        torch.tensor([label for _, label in best], dtype=torch.int64),
        torch.full((len(best),), -1, dtype=torch.int64),
    )
