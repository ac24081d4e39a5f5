"""The protocol through which anybody's model enters the loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

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
