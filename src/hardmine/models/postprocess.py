"""The (prior, class) pairs of a whole batch that are confident enough to become detections."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hardmine.boxes import clip_boxes
from hardmine.models.box_coder import decode_boxes
from hardmine.types import Priors, RawOutput, ScoreForm


@dataclass(frozen=True, slots=True)
class Limits:
    """``score_threshold`` is inclusive; the counts are of one image (and of one class of it)."""

    score_threshold: float
    candidates: int
    class_candidates: int | None
    max_detections: int
    best_class_only: bool = False


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

    Most priors of a trained network are sure background. They are told apart by one comparison of
    logits, and neither their probabilities nor their boxes are computed.
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
    if form is ScoreForm.SIGMOID:
        return logits.float().sigmoid()
    return logits.float().softmax(-1)[..., 1:]


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


def _falling(scores: Tensor) -> Tensor:
    return scores.argsort(descending=True, stable=True)


def _places(group: Tensor) -> Tensor:
    """Return each element's place within its run of equal values, from 0; ``group`` is sorted."""
    if not len(group):
        return group
    _, counts = torch.unique_consecutive(group, return_counts=True)
    starts: Tensor = (counts.cumsum(0) - counts).repeat_interleave(counts)
    return torch.arange(len(group), device=group.device) - starts
