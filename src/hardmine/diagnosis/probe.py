"""What a trained network does on the images that it was trained on, and on those it was not.

Telemetry says what happened while weights changed. The probe asks the finished network: which labels
does it find, which detections does no label explain, and how do the parts of the loss move the
weights that all outputs share? Images are resized and not augmented; of a large set some are looked at,
evenly spread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hardmine.boxes import cxcywh_to_xyxy
from hardmine.data.images import read_picture
from hardmine.evaluation.error_breakdown import ranked_precision
from hardmine.losses.loss_functions import class_loss
from hardmine.losses.multibox_loss import Loss, MultiBoxLoss
from hardmine.losses.prior_picking import pick_hardest
from hardmine.models.postprocess import decode_detections, foreground_scores
from hardmine.models.ssd import SSD
from hardmine.numpy_boxes import box_iou
from hardmine.recipes.recipe import Recipe
from hardmine.tensors import Batch, Priors, RawOutput
from hardmine.types import F32, F64, Dataset, evenly_spread

MOST_IMAGES = 240
"""Validation images that are looked at, at most."""
MOST_TRAINING_IMAGES = 1000
"""Training images that are looked at, at most, unless the user says how many."""
BATCH = 8
LEAST_SCORE = 0.3
"""A detection below it counts neither for a label nor against one."""
FOUND, TOUCHED = 0.5, 0.2
"""IoU from which a label is found, and from which a detection has to do with it."""
LEAST_LEARNED = 0.5
"""Average precision on the training images from which a place without a label means something: .54 and
more with half of the labels hidden, .46 and less where training ends after a third of its steps."""
UNEXPLAINED = 0.3
"""A detection that overlaps every label by less is explained by none."""
_GRADIENT_BATCHES = 4


@dataclass(frozen=True, slots=True, eq=False)
class Suspect:
    """A place on an image: a confident detection that no label explains, or a hard negative.

    ``box`` f32[4] in pixels of the image, ``area`` in pixels of the network's input, ``label`` the class
    that is seen there, ``iou`` with the nearest object.
    """

    image: int
    box: F32
    label: int
    score: float
    iou: float
    area: float


@dataclass(frozen=True, slots=True, eq=False)
class SetProbe:
    """What the network does on one set. Per object (N): IoU and score of its class's best detection
    (0 where none reaches :data:`LEAST_SCORE`), label, area in input pixels, the level of the prior that
    overlaps it most, the image's position, and both boxes (f64[N, 4], pixels of the image; that of the
    detection is NaN where there is none).
    """

    images: int
    object_iou: F64
    object_score: F64
    object_label: F64
    object_area: F64
    object_level: F64
    object_image: F64
    object_box: F64
    detected_box: F64
    own_probability: float | None
    """Mean probability of the own class at positive priors."""
    hard_loss: float | None
    random_loss: float | None
    """Mean classification loss of the hardest and of random background priors, as many per image."""
    suspects: tuple[Suspect, ...]
    hardest: tuple[Suspect, ...] = ()
    """The prior that costs most as background in each image, the costliest first: its own box, and
    the class that it is taken for with its score."""

    @property
    def recall(self) -> float | None:
        """Share of the labels that a detection of their class meets by :data:`FOUND`."""
        return float((self.object_iou >= FOUND).mean()) if len(self.object_iou) else None

    @property
    def half_met(self) -> float | None:
        """Of the labels that a detection of their class touches, the share that it meets by half."""
        touched = self.object_iou >= TOUCHED
        if not touched.any():
            return None
        return float((self.object_iou[touched] < FOUND).mean())

    @property
    def usual_score(self) -> float | None:
        """Median score of the detections that meet a label."""
        found = self.object_iou >= FOUND
        return float(np.median(self.object_score[found])) if found.any() else None

    def precision_at(self, iou: float) -> float:
        """Average precision, over all classes, of the best detections of labels that meet them by
        ``iou``, against the detections that no label explains. All others count nowhere.
        """
        met = self.object_score[self.object_iou >= iou]
        scores = np.concatenate([met, [each.score for each in self.suspects]])
        right = np.arange(len(scores)) < len(met)
        return ranked_precision(right[np.argsort(-scores, kind="stable")], len(self.object_iou))


@dataclass(frozen=True, slots=True)
class GradientProbe:
    """Norms of the gradient at the weights that classes and boxes share, and angles between parts."""

    classification: float
    boxes: float
    hard: float
    random: float
    hard_and_random: float
    """Cosine between the gradients of hard and of random negatives."""
    hard_and_positives: float


@torch.no_grad()
def probe_set(
    model: SSD,
    recipe: Recipe,
    data: Dataset,
    notify: Callable[[int, int], None] | None = None,
    most: int = MOST_IMAGES,
) -> SetProbe:
    """Run a network in evaluation mode over a set of labelled images, ``most`` of them at most."""
    rows = evenly_spread(len(data), most)
    found = _Collected(model.priors)
    loss_of = MultiBoxLoss(recipe.loss, model.priors)
    done = 0
    for ids, batch, places in _batches(model, recipe, data, rows):
        output = model(batch.images)
        loss = loss_of(output, batch, 1, 1)
        costs = found.add_priors(output, loss, recipe)
        found.add_hardest(ids, places, output, loss, costs, model.priors.cxcywh)
        height, width = batch.images.shape[-2:]
        detections = decode_detections(output, model.priors, height, width, recipe.decode)
        for index, place, found_here in zip(ids, places, detections, strict=True):
            found.add_image(data, index, place, found_here)
        done += len(ids)
        if notify is not None:
            notify(done, len(rows))
    return found.result(len(rows))


def probe_gradients(model: SSD, recipe: Recipe, data: Dataset) -> GradientProbe | None:
    """Measure the gradients of the parts of the loss at the shared weights, over a few batches.

    Returns:
        None where no shared weight is trained or no image holds an object.
    """
    heads = ("class_head.", "box_head.")
    shared = [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and not name.startswith(heads)
    ]
    rows = [i for i in evenly_spread(len(data), MOST_IMAGES) if len(data.records[i].labels)]
    if not shared or not rows:
        return None
    both = MultiBoxLoss(recipe.loss, model.priors)
    classes = MultiBoxLoss(replace(recipe.loss, box_weight=0.0), model.priors)
    figures = []
    for _, batch, _ in _batches(model, recipe, data, rows[: _GRADIENT_BATCHES * BATCH]):
        output = model(batch.images)
        losses = both(output, batch, 1, 1), classes(output, batch, 1, 1)
        figures.append(_parts(output, losses, recipe, shared))
    return GradientProbe(*np.mean(figures, 0).tolist())


def _parts(
    output: RawOutput, losses: tuple[Loss, Loss], recipe: Recipe, shared: list[Any]
) -> tuple[float, float, float, float, float, float]:
    loss = losses[0]
    assert loss.selection is not None
    assert loss.assignment is not None
    labels, chosen = loss.assignment.labels, loss.selection
    costs = class_loss(output.class_logits, labels, recipe.loss.classification)
    drawn = _random_negatives(labels, chosen.negatives.sum(1))
    values = (
        losses[0].total,
        losses[1].total,
        (costs * chosen.negatives).sum(),
        (costs * drawn).sum(),
        (costs * chosen.positives).sum(),
    )
    whole, classes, hard, random, positives = (_gradient(value, shared) for value in values)
    return (
        float(classes.norm()),
        float((whole - classes).norm()),
        float(hard.norm()),
        float(random.norm()),
        _cosine(hard, random),
        _cosine(hard, positives),
    )


def _gradient(value: Tensor, shared: list[Any]) -> Tensor:
    parts = torch.autograd.grad(value, shared, retain_graph=True, allow_unused=True)
    return torch.cat([part.flatten() for part in parts if part is not None])


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.dot(a, b) / (a.norm() * b.norm()).clamp(min=1e-12))


def _random_negatives(labels: Tensor, counts: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(labels.shape, generator=generator).to(labels.device)
    return pick_hardest(noise, labels == 0, counts)


def _batches(
    model: SSD, recipe: Recipe, data: Dataset, rows: list[int]
) -> Iterator[tuple[list[int], Batch, list[Any]]]:
    """Yield (positions, batch, placements) of resized images."""
    device = next(model.parameters()).device
    resize = recipe.resize
    for start in range(0, len(rows), BATCH):
        ids = rows[start : start + BATCH]
        records = [data.records[index] for index in ids]
        canvases, places = [], []
        for record in records:
            pixels, place = resize.apply(read_picture(record.path, resize.cover))
            canvases.append(torch.from_numpy(np.array(pixels)))  # a copy: pictures may be read-only
            places.append(place)
        slots = max(1, *(len(record.labels) for record in records))
        boxes = torch.zeros(len(ids), slots, 4)
        labels = torch.zeros(len(ids), slots, dtype=torch.int64)
        ignore = torch.zeros(len(ids), slots, dtype=torch.bool)
        for row, (record, place) in enumerate(zip(records, places, strict=True)):
            count = len(record.labels)
            boxes[row, :count] = torch.from_numpy(place.forward(record.boxes))
            labels[row, :count] = torch.from_numpy(record.labels)
            ignore[row, :count] = torch.from_numpy(record.ignore)
        images = torch.stack(canvases).permute(0, 3, 1, 2)
        batch = Batch(images, boxes, labels, ignore, torch.tensor(ids))
        yield ids, batch.to(device), places


class _Collected:
    """Sums and lists over a set."""

    def __init__(self, priors: Priors) -> None:
        self._priors = cxcywh_to_xyxy(priors.cxcywh).cpu().double().numpy()
        self._levels = priors.level.cpu().numpy()
        self._objects: list[list[float]] = []
        self._suspects: list[Suspect] = []
        self._hardest: list[tuple[float, Suspect]] = []
        self._sums = np.zeros(6)

    def add_priors(self, output: RawOutput, loss: Loss, recipe: Recipe) -> Tensor:
        """Add up what priors cost, and return the costs f32[B, A]."""
        assert loss.selection is not None
        assert loss.assignment is not None
        labels = loss.assignment.labels
        scores = foreground_scores(output)
        own = scores.gather(-1, (labels - 1).clamp(min=0)[..., None])[..., 0]
        positives = labels > 0
        costs = class_loss(output.class_logits, labels, recipe.loss.classification)
        wanted = (3 * positives.sum(1)).clamp(min=16)
        hard = pick_hardest(costs, labels == 0, wanted)
        drawn = _random_negatives(labels, wanted)
        for place, (values, mask) in enumerate(((own, positives), (costs, hard), (costs, drawn))):
            self._sums[2 * place] += float((values * mask).sum())
            self._sums[2 * place + 1] += float(mask.sum())
        return costs

    def add_hardest(
        self,
        ids: list[int],
        places: list[Any],
        output: RawOutput,
        loss: Loss,
        costs: Tensor,
        cxcywh: Tensor,
    ) -> None:
        """Note of each image the prior that costs most as background."""
        assert loss.assignment is not None
        background = loss.assignment.labels == 0
        cost, prior = costs.masked_fill(~background, -1.0).max(1)
        score, label = foreground_scores(output)[torch.arange(len(ids)), prior].max(-1)
        near = loss.assignment.iou.gather(1, prior[:, None])[:, 0]
        boxes = cxcywh_to_xyxy(cxcywh)[prior].cpu().double().numpy()
        for row, (index, place) in enumerate(zip(ids, places, strict=True)):
            box = boxes[row : row + 1]
            area = float((box[0, 2:] - box[0, :2]).prod())
            suspect = Suspect(
                index,
                place.inverse(box)[0],
                int(label[row]) + 1,
                float(score[row]),
                float(near[row]),
                area,
            )
            if float(cost[row]) >= 0.0:
                self._hardest.append((float(cost[row]), suspect))

    def add_image(self, data: Dataset, index: int, place: Any, found: Any) -> None:
        """Add the objects of an image with their detections, and detections without an object."""
        record = data.records[index]
        boxes = place.forward(record.boxes.astype(np.float64))
        sure = found.scores >= LEAST_SCORE
        detected = found.boxes[sure].astype(np.float64)
        scores, classes = found.scores[sure], found.labels[sure]
        iou = box_iou(boxes, detected)  # [G, K]
        level = self._levels[box_iou(boxes, self._priors).argmax(1)]
        for row, label in enumerate(record.labels.tolist()):
            if record.ignore[row]:
                continue
            mine = np.where(classes == label, iou[row], 0.0)
            best = int(mine.argmax()) if len(mine) and mine.max() > 0 else -1
            area = float((boxes[row, 2:] - boxes[row, :2]).prod())
            met = [float(mine[best]), float(scores[best])] if best >= 0 else [0.0, 0.0]
            there = place.inverse(detected[best : best + 1])[0] if best >= 0 else [np.nan] * 4
            where = [float(label), area, float(level[row]), float(index)]
            row_of = [*met, *where, *record.boxes[row], *there]
            self._objects.append([float(value) for value in row_of])
        nearest = iou.max(0) if len(boxes) else np.zeros(len(detected))
        for row in np.flatnonzero(nearest < UNEXPLAINED).tolist():
            box = place.inverse(found.boxes[sure][row : row + 1])[0]
            area = float((detected[row, 2:] - detected[row, :2]).prod())
            seen = int(classes[row]), float(scores[row]), float(nearest[row])
            self._suspects.append(Suspect(index, box, *seen, area))

    def result(self, images: int) -> SetProbe:
        """Return the figures of all images that were added."""
        table = np.array(self._objects, np.float64).reshape(-1, 14)
        sums = self._sums.tolist()
        own, hard, drawn = (sums[i] / sums[i + 1] if sums[i + 1] else None for i in (0, 2, 4))
        suspects = tuple(sorted(self._suspects, key=lambda s: -s.score))
        iou, score, label, area, level, image = table[:, :6].T
        return SetProbe(
            images=images,
            object_iou=iou,
            object_score=score,
            object_label=label,
            object_area=area,
            object_level=level,
            object_image=image,
            object_box=table[:, 6:10],
            detected_box=table[:, 10:],
            own_probability=own,
            hard_loss=hard,
            random_loss=drawn,
            suspects=suspects,
            hardest=tuple(each for _, each in sorted(self._hardest, key=lambda pair: -pair[0])),
        )
