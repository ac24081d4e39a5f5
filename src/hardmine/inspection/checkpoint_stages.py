"""The steps of a trained model: which negatives its loss picks, and what it detects."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from hardmine.detections import Detections
from hardmine.errors import ConfigError
from hardmine.inference.checkpoint_detector import TorchDetector
from hardmine.inspection.inspected_image import InspectedImage
from hardmine.inspection.inspection_page import Figure, Stage, Table
from hardmine.inspection.model_stages import Prepared, prior_corners
from hardmine.losses.loss_functions import class_loss
from hardmine.losses.multibox_loss import rank_priors
from hardmine.losses.negative_mining import select_priors
from hardmine.models.postprocess import foreground_scores
from hardmine.models.ssd import SSD
from hardmine.numpy_boxes import box_iou
from hardmine.prior_design.prior_layout import PriorLayout, layout_from_priors
from hardmine.recipes.checkpoint import checkpoint_id, find_checkpoint, load_checkpoint
from hardmine.recipes.recipe import Recipe
from hardmine.reports.drawing import by_loss, draw_boxes
from hardmine.types import F64

_CANVAS, _LEVEL = 420, 300
_LISTED = 12
_SHOWN_SCORE = 0.3
_MOST_DETECTIONS = 20
NO_CHECKPOINT = "Give --checkpoint to see this: it needs trained weights."


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """A checkpoint's model on the CPU, its recipe and its priors."""

    model: SSD
    recipe: Recipe
    layout: PriorLayout
    digest: str


def load_trained(path: Path) -> Trained:
    """Load a checkpoint of the SSD family.

    Raises:
        CheckpointError: missing, truncated or foreign.
        ConfigError: another kind of detector.
    """
    path = find_checkpoint(path)
    model, recipe = load_checkpoint(path)
    if not isinstance(model, SSD):
        raise ConfigError(f"{path}: holds {recipe.model.name!r}, wanted one of the SSD family")
    layout = layout_from_priors(model.priors, recipe.model.height, recipe.model.width)
    return Trained(model.eval(), recipe, layout, checkpoint_id(path))


@torch.inference_mode()
def selected(prepared: Prepared, trained: Trained) -> Stage:
    """Return the negatives that the loss picks on this image, coloured by their loss."""
    config, batch = trained.recipe.loss, prepared.batch
    output = trained.model(batch.images)
    costs = class_loss(output.class_logits, prepared.assignment.labels, config.classification)
    ranked = rank_priors(output, batch, prepared.assignment, prepared.priors, config, costs)
    chosen = select_priors(ranked, config.selection).negatives[0].numpy()
    losses = costs[0].double().numpy()
    scores = foreground_scores(output)[0].amax(-1).double().numpy()
    order = np.flatnonzero(chosen)[losses[chosen].argsort(kind="stable")]
    highest = float(losses[order].max(initial=0.0))
    corners, level = prior_corners(prepared), prepared.priors.level.numpy()
    figures = [
        Figure(
            by_loss(prepared.canvas, corners[order], losses[order], highest, prepared.boxes, size),
            caption,
        )
        for order, size, caption in _panels(order, level, highest)
    ]
    background = prepared.assignment.labels[0].numpy() == 0
    rows = tuple(
        (
            f"level {k}",
            str(int((background & (level == k)).sum())),
            str(int((chosen & (level == k)).sum())),
            *_mean_and_most(losses[chosen & (level == k)]),
        )
        for k in range(len(prepared.layout.levels))
    )
    hardest = tuple(
        (
            str(int(index)),
            str(int(level[index])),
            " ".join(f"{v:.0f}" for v in corners[index].tolist()),
            f"{losses[index]:.3f}",
            f"{scores[index]:.3f}",
            f"{float(prepared.assignment.iou[0][index]):.2f}",
        )
        for index in order[::-1][:_LISTED]
    )
    tables = (
        Table(("level", "background priors", "selected", "mean loss", "largest"), rows),
        Table(
            ("prior", "level", "xyxy, px of the input", "loss, nats", "score", "IoU with a box"),
            hardest,
        ),
    )
    note = (
        f"{len(order)} background priors enter the loss (rule {config.selection.kind!r}), for "
        f"{len(prepared.positives)} positives. Blue: no loss; yellow: {highest:.2f} nats. Boxes are "
        "white. A bright prior on an unlabelled object is a missing label."
    )
    return Stage("negatives", "Selected negatives by loss", note, tuple(figures), tables)


def _panels(
    order: np.ndarray, level: np.ndarray, highest: float
) -> list[tuple[np.ndarray, int, str]]:
    """Return what to draw: all selected, then each level that has some."""
    panels = [(order, _CANVAS, f"all levels, losses up to {highest:.2f} nats")]
    for index in np.unique(level[order]).tolist():
        mine = order[level[order] == index]
        panels.append((mine, _LEVEL, f"level {index}: {len(mine)} selected"))
    return panels


def _mean_and_most(losses: F64) -> tuple[str, str]:
    if not len(losses):
        return "–", "–"
    return f"{losses.mean():.3f}", f"{losses.max():.3f}"


@torch.inference_mode()
def detected(subject: InspectedImage, prepared: Prepared, trained: Trained) -> Stage:
    """Return what the checkpoint detects, in pixels of the original image."""
    detector = TorchDetector(trained.model, trained.recipe, trained.digest, torch.device("cpu"))
    found = detector.detect(prepared.batch.images)[0]
    found = replace(found, boxes=prepared.placement.inverse(found.boxes))
    best = found.at_least(_SHOWN_SCORE)
    best = Detections(
        best.boxes[:_MOST_DETECTIONS],
        best.scores[:_MOST_DETECTIONS],
        best.labels[:_MOST_DETECTIONS],
    )
    names = detector.categories
    overlap = box_iou(found.boxes, subject.record.boxes)
    rows = tuple(
        (
            names[int(found.labels[i]) - 1],
            f"{found.scores[i]:.3f}",
            " ".join(f"{v:.0f}" for v in found.boxes[i].tolist()),
            f"{overlap[i].max(initial=0.0):.2f}",
        )
        for i in range(min(_LISTED, len(found)))
    )
    figure = Figure(
        draw_boxes(subject.picture, best, names),
        f"{len(best)} detections with a score of {_SHOWN_SCORE} or more",
    )
    table = Table(("class", "score", "xyxy, px of the image", "best IoU with a box"), rows)
    note = f"The checkpoint on the un-augmented image, after NMS: {len(found)} detections in all."
    return Stage("detections", "Detections of the checkpoint", note, (figure,), (table,))


def absent(name: str, title: str) -> Stage:
    """Return the place of a stage that needs a checkpoint."""
    return Stage(name, title, NO_CHECKPOINT)
