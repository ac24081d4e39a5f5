"""From raw output to detections: scores, boxes, non-maximum suppression."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hardmine.boxes import clip_boxes
from hardmine.errors import ConfigError
from hardmine.model.coder import decode_boxes
from hardmine.types import Detections, Priors, RawOutput, ScoreForm


@dataclass(frozen=True, slots=True)
class DecodeConfig:
    """Limits of the per-class decoder; thresholds are inclusive. The same in every round and arm."""

    score_threshold: float = 0.01
    nms_iou: float = 0.45
    candidates: int = 400
    """(prior, class) pairs an image that enter NMS."""
    max_detections: int = 100

    def __post_init__(self) -> None:
        if not 0.0 <= self.score_threshold < 1.0 or not 0.0 < self.nms_iou <= 1.0:
            raise ConfigError(
                f"decode: got score_threshold {self.score_threshold}, nms_iou {self.nms_iou}, "
                "wanted 0 <= score_threshold < 1 and 0 < nms_iou <= 1"
            )
        if min(self.candidates, self.max_detections) < 1:
            raise ConfigError("decode: candidates and max_detections must be >= 1")


def foreground_scores(output: RawOutput) -> Tensor:
    """Return f32[B, A, C], the probability of each class at each prior, computed in float32."""
    logits = output.class_logits.float()
    if output.score_form is ScoreForm.SIGMOID:
        return logits.sigmoid()
    return logits.softmax(-1)[..., 1:]


@torch.inference_mode()
def decode_detections(
    output: RawOutput, priors: Priors, height: int, width: int, config: DecodeConfig
) -> list[Detections]:
    """Return each image's detections in input pixels, best first.

    Every class is decoded at every prior (not only the best class), then suppressed within its class.
    Boxes are cut at the canvas of ``height`` × ``width``.
    """
    scores = foreground_scores(output)  # [B, A, C]
    boxes = clip_boxes(decode_boxes(output.box_deltas.float(), priors.cxcywh), height, width)
    return [_decode_one(s, b, config) for s, b in zip(scores, boxes, strict=True)]


def _decode_one(scores: Tensor, boxes: Tensor, config: DecodeConfig) -> Detections:
    from torchvision.ops import batched_nms

    num_classes = scores.shape[1]
    flat = scores.flatten()
    top, index = flat.topk(min(config.candidates, flat.numel()))
    passed = top >= config.score_threshold
    top, index = top[passed], index[passed]
    prior, label = index // num_classes, index % num_classes + 1
    chosen = boxes[prior]
    real = (chosen[:, 2:] > chosen[:, :2]).all(1)  # a box wholly outside the canvas is none
    top, prior, label, chosen = top[real], prior[real], label[real], chosen[real]
    keep = batched_nms(chosen, top, label, config.nms_iou)[: config.max_detections]
    return Detections(
        chosen[keep].cpu().numpy(),
        top[keep].cpu().numpy(),
        label[keep].cpu().numpy(),
        prior[keep].cpu().numpy(),
    )
