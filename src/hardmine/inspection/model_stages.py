"""The steps of a model: augmentation, resize, priors and assignment, targets and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from hardmine.augment.chain import Augmenter, trace_augment
from hardmine.augment.sample import Sample
from hardmine.boxes import cxcywh_to_xyxy
from hardmine.data.images import read_picture
from hardmine.data.resize import Placement
from hardmine.inspection.inspected_image import InspectedImage
from hardmine.inspection.inspection_page import Figure, Stage, Table
from hardmine.losses.matcher import assign_priors
from hardmine.models.box_coder import decode_boxes, encode_boxes
from hardmine.prior_design.coverage_report import as_matches
from hardmine.prior_design.prior_drawing import prior_sheet
from hardmine.prior_design.prior_layout import PriorLayout
from hardmine.recipes.recipe import Recipe
from hardmine.reports.drawing import boxed, overlaid
from hardmine.tensors import Assignment, Batch, Priors
from hardmine.training.batches import RecordDonors, collate
from hardmine.types import F64

_STEP, _CANVAS = 230, 420
MAX_ERROR = 0.01
"""Pixels by which a box may differ after coding and decoding."""
SMALL_BOX = 8.0
"""Input pixels: a box with a shorter side is hardly visible to a model."""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """The image on the model's canvas, as inference sees it, with its assignment."""

    pixels: np.ndarray
    placement: Placement
    boxes: F64
    names: tuple[str, ...]
    batch: Batch
    priors: Priors
    layout: PriorLayout
    assignment: Assignment

    @property
    def canvas(self) -> Image.Image:
        """The canvas as a picture."""
        return Image.fromarray(self.pixels)

    @property
    def positives(self) -> torch.Tensor:
        """Indices of the priors that are positive."""
        return (self.assignment.labels[0] > 0).nonzero()[:, 0]


def prepare(subject: InspectedImage, recipe: Recipe, layout: PriorLayout) -> Prepared:
    """Resize the image and assign its boxes to the priors."""
    record = subject.record
    picture = read_picture(record.path, recipe.resize.cover)
    pixels, placement = recipe.resize.apply(picture)
    boxes = placement.forward(record.boxes)
    batch = collate([Sample(pixels, boxes, record.labels, record.ignore)], [0])
    priors = layout.to_priors()
    found = assign_priors(batch, priors, recipe.loss.assigner)
    names = tuple(subject.labels.dataset.categories[k - 1] for k in record.labels.tolist())
    return Prepared(
        pixels, placement, boxes.astype(np.float64), names, batch, priors, layout, found
    )


def augmented(subject: InspectedImage, recipe: Recipe, draws: int, seed: int) -> Stage:
    """Return what each step of the augmentation leaves, in several draws."""
    record = subject.record
    donors = RecordDonors(subject.labels.dataset.records)
    augmenter = Augmenter(recipe.resize, recipe.augment, donors)
    picture = read_picture(record.path)
    # The steps carry labels along untouched: numbers in their place tell which box is which.
    mixes = any(
        part.probability > 0
        for part in (recipe.augment.mosaic, recipe.augment.copy_paste, recipe.augment.alarm_paste)
    )
    carried = record.labels if mixes else np.arange(len(record.labels))
    figures = []
    for draw in range(draws):
        rng = np.random.default_rng([seed, 2, draw, subject.index])
        steps = trace_augment(picture, record.boxes, carried, record.ignore, augmenter, rng)
        for place, step in enumerate(steps):
            image = Image.fromarray(step.image)
            boxes = step.boxes.astype(np.float64)
            numbers = None if mixes else step.labels.tolist()
            shown = boxed(
                image, boxes, [""] * len(boxes), _STEP, dashed=step.ignore, numbers=numbers
            )
            last = place == len(steps) - 1
            ending = " → training sees this" if last else ""
            caption = f"draw {draw}, {place}: {step.name}, {_count(len(boxes))}{ending}"
            figures.append(Figure(shown, caption, "good" if last else "", place == 0))
    note = (
        f"{draws} draws of the recipe's chain, each step that did something. Boxes whose centre "
        "leaves the window are dropped, the others cut at its border."
    )
    return Stage("augment", "After each augmentation", note, tuple(figures))


def resized(subject: InspectedImage, prepared: Prepared, recipe: Recipe) -> Stage:
    """Return the canvas that inference sees, and how exactly boxes come back from it."""
    place, record = prepared.placement, subject.record
    back = place.inverse(prepared.boxes)
    error = float(np.abs(back - record.boxes).max(initial=0.0))
    squeeze = place.scale_x / place.scale_y
    sides = (prepared.boxes[:, 2:] - prepared.boxes[:, :2]).min(axis=1)
    small = int((sides < SMALL_BOX).sum())
    warning = f"boxes less than {SMALL_BOX:g} px wide or high here: {small}" if small else ""
    note = (
        f"{recipe.resize.mode} to {recipe.resize.width} x {recipe.resize.height}: x · "
        f"{place.scale_x:.4f} + {place.offset_x:g}, y · {place.scale_y:.4f} + {place.offset_y:g}; "
        f"widths to heights change by × {squeeze:.3f}. Boxes mapped there and back differ by at "
        f"most {error:.1e} px."
    )
    rows = tuple(
        (
            str(i),
            name,
            " ".join(f"{v:.1f}" for v in box.tolist()),
            f"{box[2] - box[0]:.1f}",
            f"{box[3] - box[1]:.1f}",
        )
        for i, (name, box) in enumerate(zip(prepared.names, prepared.boxes, strict=True))
    )
    table = Table(("box", "class", "xyxy, px of the input", "width", "height"), rows)
    figure = Figure(
        boxed(prepared.canvas, prepared.boxes, prepared.names, _CANVAS), "the model's input"
    )
    return Stage("resize", "After the resize", note, (figure,), (table,), warning)


def assigned(subject: InspectedImage, prepared: Prepared, recipe: Recipe) -> Stage:
    """Return priors matched and the assignment of each level."""
    threshold = recipe.loss.assigner.iou_threshold
    matches = as_matches(prepared.assignment, threshold)
    sheet = prior_sheet(prepared.pixels, prepared.boxes, prepared.names, prepared.layout, matches)
    labels = prepared.assignment.labels[0].numpy()
    level = prepared.priors.level.numpy()
    level_rows = tuple(
        (
            f"level {k}",
            f"{grid.rows} x {grid.columns}",
            str(grid.count),
            str(int((labels[level == k] > 0).sum())),
            str(int((labels[level == k] < 0).sum())),
            str(int((labels[level == k] == 0).sum())),
        )
        for k, grid in enumerate(prepared.layout.levels)
    )
    box_rows, forced, without = [], 0, 0
    for index, name in enumerate(prepared.names):
        mine = matches.box == index
        alone = bool(mine.any() and not matches.reached[mine].any())
        forced += alone
        ignored = bool(subject.record.ignore[index])
        without += not mine.any() and not ignored
        best = float(matches.iou[mine].max(initial=0.0))
        levels = " ".join(str(k) for k in np.unique(level[mine]).tolist()) or "none"
        how = "ignored box" if ignored else "forced match only" if alone else ""
        box_rows.append((str(index), name, f"{best:.3f}", str(int(mine.sum())), levels, how))
    tables = (
        Table(("box", "class", "best IoU", "positives", "on levels", ""), tuple(box_rows)),
        Table(("level", "cells", "priors", "positive", "ignored", "background"), level_rows),
    )
    parts = []
    if forced:
        parts.append(
            f"boxes that no prior reaches {threshold:g} with, one forced match each: {forced}"
        )
    if without:
        parts.append(f"boxes without any prior: {without}")
    note = (
        f"A prior is positive from an IoU of {threshold:g} on (solid outline), or as a box's forced "
        "match (dashed). Cells with a positive prior have the colour of its box; grey cells hold "
        "ignored priors; white lines are the level's cells."
    )
    return Stage(
        "assign",
        "Priors and assignment",
        note,
        (Figure(sheet, "all levels"),),
        tables,
        "; ".join(parts),
    )


def coded(prepared: Prepared) -> Stage:
    """Return the targets of the positives decoded back onto the image."""
    positives = prepared.positives
    chosen = prepared.priors.cxcywh[positives]
    boxes = prepared.batch.boxes[0][prepared.assignment.box_index[0][positives]]
    targets = encode_boxes(boxes, chosen)
    decoded = decode_boxes(targets, chosen)
    error = float((decoded - boxes).abs().max()) if len(positives) else 0.0
    level = prepared.priors.level[positives]
    rows = []
    for index in sorted(set(level.tolist())):
        part = targets[level == index].abs().amax(0).tolist()
        rows.append(
            (f"level {index}", str(int((level == index).sum())), *(f"{v:.2f}" for v in part))
        )
    columns = ("level", "positives", "largest |t_x|", "|t_y|", "|t_w|", "|t_h|")
    figure = Figure(
        overlaid(prepared.canvas, prepared.boxes, decoded.double().numpy(), _CANVAS),
        f"{len(positives)} targets decoded (white) over their boxes",
    )
    note = (
        "Each positive's target is what turns its prior into its box. Decoded again, the targets "
        f"give the boxes back with an error of at most {error:.1e} px."
    )
    warning = f"decoded boxes are off by {error:.2f} px" if error > MAX_ERROR else ""
    return Stage(
        "targets", "Targets and back", note, (figure,), (Table(columns, tuple(rows)),), warning
    )


def prior_corners(prepared: Prepared) -> F64:
    """Return all priors, xyxy input pixels."""
    return cxcywh_to_xyxy(prepared.priors.cxcywh).double().numpy()


def _count(number: int) -> str:
    return f"{number} box" if number == 1 else f"{number} boxes"
