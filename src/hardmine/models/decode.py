"""From raw output to detections: which decoder, and within which limits.

All thresholds are inclusive. A decoder and its limits are the same in every round and arm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field

from hardmine.errors import ConfigError
from hardmine.models.nms import SoftNms, batched_nms, suppress_softly
from hardmine.models.postprocess import Candidates, Limits, find_candidates, foreground_scores
from hardmine.types import Detections, Priors, RawOutput

__all__ = [
    "AnyDecodeConfig",
    "DecodeConfig",
    "SoftNmsDecode",
    "decode_detections",
    "foreground_scores",
]


@dataclass(frozen=True, slots=True)
class DecodeConfig:
    """Which (prior, class) pairs are candidates, and which of them suppress each other.

    ``per_class``: every class at every prior, suppressed within its class. ``argmax``: only the best
    class of each prior, suppressed within its class; cheaper with many classes, and GluonCV measured .5
    to .8 mAP less. ``agnostic``: candidates as per class, suppressed by any better one whatever its
    class: one box, one class.

    Source: Liu et al. 2016, "SSD", and Caffe's ``DetectionOutput``, which has no total ``candidates``
    but 400 a class.
    """

    kind: Literal["per_class", "argmax", "agnostic"] = "per_class"
    score_threshold: float = 0.01
    nms_iou: float = 0.45
    candidates: int = 400
    """(prior, class) pairs an image that enter NMS."""
    class_candidates: int | None = None
    """Of these, at most so many of one class."""
    max_detections: int = 100

    def __post_init__(self) -> None:
        _check(self.limits, self.nms_iou)

    @property
    def limits(self) -> Limits:
        """What enters and what leaves."""
        return Limits(
            self.score_threshold,
            self.candidates,
            self.class_candidates,
            self.max_detections,
            best_class_only=self.kind == "argmax",
        )


@dataclass(frozen=True, slots=True)
class SoftNmsDecode:
    """Candidates as per class; overlap lowers a score instead of removing the box.

    ``linear``: a box that overlaps a better one of its class by ``nms_iou`` or more is multiplied by
    1 − IoU. ``gaussian``: every box is multiplied by exp(−IoU² / ``sigma``). What falls below
    ``score_threshold`` is gone. Source: Bodla et al. 2017, "Soft-NMS".
    """

    kind: Literal["soft_nms"] = "soft_nms"
    method: Literal["linear", "gaussian"] = "gaussian"
    sigma: float = 0.5
    score_threshold: float = 0.01
    nms_iou: float = 0.3
    candidates: int = 400
    class_candidates: int | None = None
    max_detections: int = 100

    def __post_init__(self) -> None:
        _check(self.limits, self.nms_iou)
        if self.sigma <= 0:
            raise ConfigError(f"decode.sigma: got {self.sigma}, wanted > 0")

    @property
    def limits(self) -> Limits:
        """What enters and what leaves."""
        return Limits(
            self.score_threshold, self.candidates, self.class_candidates, self.max_detections
        )


AnyDecodeConfig = Annotated[DecodeConfig | SoftNmsDecode, Field(discriminator="kind")]


def _check(limits: Limits, nms_iou: float) -> None:
    if not 0.0 <= limits.score_threshold < 1.0 or not 0.0 < nms_iou <= 1.0:
        raise ConfigError(
            f"decode: got score_threshold {limits.score_threshold}, nms_iou {nms_iou}, "
            "wanted 0 <= score_threshold < 1 and 0 < nms_iou <= 1"
        )
    per_class = 1 if limits.class_candidates is None else limits.class_candidates
    if min(limits.candidates, per_class, limits.max_detections) < 1:
        raise ConfigError(
            f"decode: got candidates {limits.candidates}, class_candidates "
            f"{limits.class_candidates}, max_detections {limits.max_detections}, wanted each >= 1"
        )


@torch.inference_mode()
def decode_detections(
    output: RawOutput, priors: Priors, height: int, width: int, config: AnyDecodeConfig
) -> list[Detections]:
    """Return each image's detections in input pixels, best first.

    Boxes are cut at the canvas of ``height`` × ``width``.
    """
    num_images = len(output.class_logits)
    found = find_candidates(output, priors, height, width, config.limits)
    if isinstance(config, SoftNmsDecode):
        how = SoftNms(config.method, config.sigma, config.nms_iou, config.score_threshold)
        found = suppress_softly(found, how, config.max_detections).sorted()
    else:
        group = found.image if config.kind == "agnostic" else found.group
        found = found.take(batched_nms(found.boxes, found.scores, group, config.nms_iou))
    return _split(found.first(config.max_detections), num_images)


def _split(found: Candidates, num_images: int) -> list[Detections]:
    """Return one value for each image; ``found`` is sorted by image."""
    counts = torch.bincount(found.image, minlength=num_images).cpu()
    ends = counts.cumsum(0).tolist()
    boxes, scores = found.boxes.cpu().numpy(), found.scores.cpu().numpy()
    labels, prior = found.labels.cpu().numpy(), found.prior.cpu().numpy()
    parts = (slice(a, b) for a, b in zip([0, *ends], ends, strict=False))
    return [Detections(boxes[part], scores[part], labels[part], prior[part]) for part in parts]
