"""Post-processing: from raw output to detections.

:func:`decode_detections` is the way through it: find the (prior, class) pairs of a whole batch that are
confident enough, decode their boxes, suppress overlapping ones, keep the best. All thresholds are
inclusive. A decoder and its limits are the same in every round and arm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Literal, assert_never

import torch
from pydantic import Field
from torch import Tensor

from hardmine.boxes import box_iou, clip_boxes
from hardmine.detections import Detections
from hardmine.errors import ConfigError
from hardmine.models.priors import decode_boxes
from hardmine.tensors import Priors, RawOutput, ScoreForm


@dataclass(frozen=True, slots=True)
class DecodeConfig:
    """Which (prior, class) pairs are candidates, and which of them suppress each other.

    ``per_class``: every class at every prior, suppressed within its class. ``argmax``: only the best
    class of each prior, suppressed within its class; cheaper with many classes, and GluonCV measured .5
    to .8 mAP less. ``agnostic``: candidates as per class, suppressed by any better one whatever its
    class: one box, one class.

    Source: Liu et al. 2016, "SSD", and Caffe's ``DetectionOutput``, which has no total ``candidates``
    but 400 per class.
    """

    kind: Literal["per_class", "argmax", "agnostic"] = "per_class"
    score_threshold: float = 0.01
    nms_iou: float = 0.45
    candidates: int = 400
    """(prior, class) pairs per image that enter NMS."""
    class_candidates: int | None = None
    """At most so many of these may be of one class."""
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

    def decay(self, overlap: Tensor) -> Tensor:
        """Return the factor of each score for its IoU with the box just taken."""
        match self.method:
            case "gaussian":
                return torch.exp(-overlap.square() / self.sigma)
            case "linear":
                return torch.where(overlap >= self.nms_iou, 1.0 - overlap, 1.0)
            case _:
                assert_never(self.method)


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


@dataclass(frozen=True, slots=True)
class Limits:
    """What a decoder lets in and out: counts are per image (``class_candidates``: per class of it)."""

    score_threshold: float
    candidates: int
    class_candidates: int | None
    max_detections: int
    best_class_only: bool = False


@torch.inference_mode()
def decode_detections(
    output: RawOutput, priors: Priors, height: int, width: int, config: AnyDecodeConfig
) -> list[Detections]:
    """Return each image's detections in input pixels, best first.

    Boxes are cut at the canvas of ``height`` × ``width``.
    """
    num_images = len(output.class_logits)
    found = find_candidates(output, priors, height, width, config.limits)
    match config:
        case SoftNmsDecode():
            found = suppress_softly(found, config).sorted()
        case DecodeConfig():
            group = found.image if config.kind == "agnostic" else found.group
            found = found.take(batched_nms(found.boxes, found.scores, group, config.nms_iou))
        case _:
            assert_never(config)
    return _split(found.first(config.max_detections), num_images)


def _split(found: Candidates, num_images: int) -> list[Detections]:
    """Return one value for each image; ``found`` is sorted by image."""
    counts = torch.bincount(found.image, minlength=num_images).cpu()
    ends = counts.cumsum(0).tolist()
    boxes, scores = found.boxes.cpu().numpy(), found.scores.cpu().numpy()
    labels, prior = found.labels.cpu().numpy(), found.prior.cpu().numpy()
    parts = (slice(a, b) for a, b in zip([0, *ends], ends, strict=False))
    return [Detections(boxes[part], scores[part], labels[part], prior[part]) for part in parts]


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """``image`` i64[M], ``prior`` i64[M], ``labels`` i64[M] in 1..C, ``scores`` f32[M], ``boxes``
    f32[M, 4] xyxy canvas pixels; sorted by image, then by falling score.
    """

    image: Tensor
    prior: Tensor
    labels: Tensor
    scores: Tensor
    boxes: Tensor
    num_classes: int

    @property
    def group(self) -> Tensor:
        """A number for each (image, class), i64[M]."""
        return self.image * (self.num_classes + 1) + self.labels

    def take(self, index: Tensor) -> Candidates:
        """Return the candidates at ``index``, in its order."""
        return Candidates(
            self.image[index],
            self.prior[index],
            self.labels[index],
            self.scores[index],
            self.boxes[index],
            self.num_classes,
        )

    def sorted(self) -> Candidates:
        """Return the same sorted by image and falling score, after scores have changed."""
        order = self.scores.argsort(descending=True, stable=True)
        return self.take(order[self.image[order].argsort(stable=True)])

    def first(self, count: int) -> Candidates:
        """Return each image's ``count`` most confident."""
        return self.take((_places(self.image) < count).nonzero()[:, 0])


def foreground_scores(output: RawOutput) -> Tensor:
    """Return f32[B, A, C], the probability of each class at each prior, computed in float32."""
    return _probabilities(output.class_logits, output.score_form)


def find_candidates(
    output: RawOutput, priors: Priors, height: int, width: int, limits: Limits
) -> Candidates:
    """Return what reaches the score threshold, at most ``limits`` of it.

    Most priors of a trained network are clearly background. One comparison of logits finds them, and
    neither their probabilities nor their boxes are computed.
    """
    image, prior = _may_fire(output, limits.score_threshold).nonzero(as_tuple=True)  # [R]
    probabilities = _probabilities(output.class_logits[image, prior], output.score_form)  # [R, C]
    num_classes = probabilities.shape[1]
    if limits.best_class_only:
        scores, column = probabilities.max(1)
        row = (scores >= limits.score_threshold).nonzero()[:, 0]
        scores, column = scores[row], column[row]
    else:
        row, column = (probabilities >= limits.score_threshold).nonzero(as_tuple=True)  # [M]
        scores = probabilities[row, column]
    num_images = len(output.class_logits)
    chosen = _within(image[row], column, scores, limits, num_images, num_classes)
    row, column, scores = row[chosen], column[chosen], scores[chosen]
    image, prior = image[row], prior[row]
    deltas = output.box_deltas[image, prior].float()
    boxes = clip_boxes(decode_boxes(deltas, priors.cxcywh[prior]), height, width)
    found = Candidates(image, prior, column + 1, scores, boxes, num_classes)
    # A box wholly outside the canvas is none.
    return found.take((boxes[:, 2:] > boxes[:, :2]).all(1).nonzero()[:, 0])


def _may_fire(output: RawOutput, threshold: float) -> Tensor:
    """Return bool[B, A], true wherever a class may reach ``threshold``.

    Of a softmax, p = 1 / Σ exp(l_j − l) <= 1 / (1 + exp(l_background − l)): a class can only reach
    t where its logit is at least ln(t / (1 − t)) above the background's. A small margin covers rounding.
    """
    if threshold <= 0.0:
        return torch.ones(output.class_logits.shape[:2], dtype=torch.bool).to(
            output.class_logits.device
        )
    logits, margin = output.class_logits, math.log(threshold / (1.0 - threshold)) - 1e-3
    if output.score_form is ScoreForm.SIGMOID:
        return logits.amax(-1) >= margin
    return logits[..., 1:].amax(-1).float() - logits[..., 0].float() >= margin


def _probabilities(logits: Tensor, form: ScoreForm) -> Tensor:
    match form:
        case ScoreForm.SIGMOID:
            return logits.float().sigmoid()
        case ScoreForm.SOFTMAX:
            return logits.float().softmax(-1)[..., 1:]
        case _:
            assert_never(form)


def _within(
    image: Tensor,
    column: Tensor,
    scores: Tensor,
    limits: Limits,
    num_images: int,
    num_classes: int,
) -> Tensor:
    """Return the indices that the limits let through, sorted by image and falling score."""
    if limits.class_candidates is None:
        return _best_of_each(image, scores, limits.candidates, num_images)
    order = _best_of_each(image, scores, len(image), num_images)
    group = (image * num_classes + column)[order]
    by_group = group.argsort(stable=True)
    place = torch.empty_like(order)
    place[by_group] = _places(group[by_group])
    order = order[place < limits.class_candidates]
    return order[_places(image[order]) < limits.candidates]


def _best_of_each(image: Tensor, scores: Tensor, count: int, num_images: int) -> Tensor:
    """Return the indices of each image's ``count`` highest scores, sorted by image and score.

    ``image`` is sorted.
    """
    sizes = torch.bincount(image, minlength=num_images).tolist()
    parts, start = [], 0
    for size in sizes:
        if size:
            part = scores[start : start + size]
            order = (
                part.topk(count).indices
                if size > count
                else part.argsort(descending=True, stable=True)
            )
            parts.append(order + start)
        start += size
    return torch.cat(parts) if parts else torch.zeros_like(image)


def _places(group: Tensor) -> Tensor:
    """Return each element's place within its run of equal values, from 0; ``group`` is sorted."""
    if not len(group):
        return group
    _, counts = torch.unique_consecutive(group, return_counts=True)
    starts: Tensor = (counts.cumsum(0) - counts).repeat_interleave(counts)
    return torch.arange(len(group), device=group.device) - starts


_PACK = 512
"""Boxes that are compared with each other in one call on the CPU; see ``benchmarks.decode``."""


def batched_nms(boxes: Tensor, scores: Tensor, group: Tensor, iou: float) -> Tensor:
    """Return the indices of the boxes that no better one of their group overlaps by more than ``iou``.

    Args:
        boxes (Tensor[M, 4]): xyxy pixels.
        scores (Tensor[M]): higher is better; of equal ones the earlier box is the better.
        group (Tensor[M]): i64, such as a number for each (image, class).
        iou: a box goes when its IoU is above this.

    Returns:
        Tensor[K]: ascending indices.
    """
    from torchvision.ops import nms

    if not len(boxes):
        return group
    if boxes.device.type == "mps":  # which has no float64
        return batched_nms(boxes.cpu(), scores.cpu(), group.cpu(), iou).to(boxes.device)
    order = group.argsort(stable=True)
    group = group[order]
    boxes, scores = _move_apart(boxes[order], group), scores[order].double()
    parts = [slice(None)] if boxes.is_cuda else _pack(group)
    return torch.sort(torch.cat([order[p][nms(boxes[p], scores[p], iou)] for p in parts])).values


def _move_apart(boxes: Tensor, group: Tensor) -> Tensor:
    """Return f64[M, 4] where boxes of different groups cannot overlap.

    In float32, whose step is 1/16 px at 10⁶ px, boxes of the last groups would be rounded, and with
    them their overlaps.
    """
    side = (boxes.max() - boxes.min() + 1.0).ceil()
    return boxes.double() + (group.double() * side.double())[:, None]


def _pack(group: Tensor) -> list[slice]:
    """Return runs of whole groups (i64[M], sorted) of about ``_PACK`` boxes.

    One call for each group costs more than its boxes do; one for all compares each box with every other.
    """
    _, counts = torch.unique_consecutive(group, return_counts=True)
    parts, start, end = [], 0, 0
    for count in counts.tolist():
        if end > start and end - start + count > _PACK:
            parts.append(slice(start, end))
            start = end
        end += count
    return [*parts, slice(start, end)]


def suppress_softly(found: Candidates, config: SoftNmsDecode) -> Candidates:
    """Take the best box of each group in turn, ``max_detections`` at most; lower the others' scores.

    All groups go together, one step for all of them.

    Returns:
        Candidates: with their lowered scores, in their old order.
    """
    if not len(found.scores):
        return found
    order = found.group.argsort(stable=True)
    _, counts = torch.unique_consecutive(found.group[order], return_counts=True)
    inside = torch.arange(int(counts.max()), device=order.device) < counts[:, None]  # [G, K]
    boxes = found.boxes.new_zeros((*inside.shape, 4))
    waiting = torch.full(inside.shape, -1.0, device=order.device)
    boxes[inside], waiting[inside] = found.boxes[order], found.scores[order]
    final = torch.full_like(waiting, -1.0)
    for _ in range(min(config.max_detections, inside.shape[1])):
        score, best = waiting.max(1, keepdim=True)  # [G, 1]
        takes = score >= config.score_threshold  # false in a group that has nothing left
        if not bool(takes.any()):
            break
        final.scatter_(1, best, torch.where(takes, score, final.gather(1, best)))
        taken = boxes.gather(1, best[..., None].expand(-1, -1, 4))  # [G, 1, 4]
        lowered = waiting * config.decay(box_iou(taken, boxes)[:, 0])
        waiting = torch.where(waiting >= 0, lowered, waiting)
        waiting.scatter_(1, best, -1.0)
    scores = torch.empty_like(found.scores)
    scores[order] = final[inside]
    kept = (scores >= config.score_threshold).nonzero()[:, 0]
    return replace(found, scores=scores).take(kept)
