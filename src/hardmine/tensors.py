"""The values of a training step that hold tensors: batch, priors, raw output, assignment, selection.

B images, A priors, C classes, G padded boxes. What needs no torch (labelled data, detections) stands in
``types.py`` and ``detections.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What a model sees: ``images`` u8[B, 3, H, W] RGB, ``boxes`` f32[B, G, 4] in input pixels,
    ``labels`` i64[B, G] (0 pads), ``ignore`` bool[B, G], ``image_ids`` i64[B].
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor
    ignore: Tensor
    image_ids: Tensor

    def to(self, device: Any) -> Batch:
        """Return the batch on a device."""
        return Batch(
            self.images.to(device, non_blocking=True),
            self.boxes.to(device, non_blocking=True),
            self.labels.to(device, non_blocking=True),
            self.ignore.to(device, non_blocking=True),
            self.image_ids.to(device, non_blocking=True),
        )


class ScoreForm(StrEnum):
    """How class logits become probabilities."""

    SOFTMAX = "softmax"
    """C + 1 logits, column 0 is background."""
    SIGMOID = "sigmoid"
    """C independent logits."""


@dataclass(frozen=True, slots=True, eq=False)
class RawOutput:
    """``class_logits`` f32[B, A, C + 1] (softmax) or f32[B, A, C] (sigmoid); ``box_deltas``
    f32[B, A, 4] in the coder's units.
    """

    class_logits: Tensor
    box_deltas: Tensor
    score_form: ScoreForm


@dataclass(frozen=True, slots=True, eq=False)
class Priors:
    """``cxcywh`` f32[A, 4] in input pixels, ``level`` i64[A], ``level_shapes`` (rows, columns)."""

    cxcywh: Tensor
    level: Tensor
    level_shapes: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Assignment:
    """``labels`` i64[B, A] (0 background, −1 ignored), ``box_index`` i64[B, A] into the padded boxes
    (meaningful where labels > 0), ``iou`` f32[B, A] with the best box.
    """

    labels: Tensor
    box_index: Tensor
    iou: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """The priors that enter the loss: ``positives`` bool[B, A], ``negatives`` bool[B, A]; disjoint."""

    positives: Tensor
    negatives: Tensor
