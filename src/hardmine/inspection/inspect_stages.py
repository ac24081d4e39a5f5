"""The steps of an image from its label file to the loss, each with pictures and tables.

Before any model: as read, in every convention, and as if in another form. With a model: augmentation,
resize, priors and assignment, targets and back. With a trained model: which negatives its loss picks,
and what it detects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hardmine.augment.chain import Augmenter, trace_augment
from hardmine.augment.sample import Sample
from hardmine.boxes import cxcywh_to_xyxy
from hardmine.data.images import read_picture
from hardmine.data.quality.label_coordinates import FORMS, turn_boxes
from hardmine.data.resize import Placement
from hardmine.detections import Detections
from hardmine.errors import ConfigError
from hardmine.inference.checkpoint_detector import TorchDetector
from hardmine.inspection.image_with_labels import InspectedImage, form_words
from hardmine.losses.loss_functions import class_loss
from hardmine.losses.matcher import assign_priors
from hardmine.losses.multibox_loss import rank_priors
from hardmine.losses.negative_mining import select_priors
from hardmine.models.postprocess import foreground_scores
from hardmine.models.priors import decode_boxes, encode_boxes
from hardmine.models.ssd import SSD
from hardmine.numpy_boxes import box_iou
from hardmine.plurals import counted
from hardmine.prior_design.coverage_report import Matches, as_matches, prior_sheet
from hardmine.prior_design.prior_layout import PriorLayout, layout_from_priors
from hardmine.recipes.checkpoint import checkpoint_id, find_checkpoint, load_checkpoint
from hardmine.recipes.recipe import Recipe
from hardmine.reports.drawing import boxed, by_loss, draw_boxes, overlaid, reading
from hardmine.tensors import Assignment, Batch, Priors
from hardmine.training.batches import RecordDonors, collate
from hardmine.types import F64, I64, ImageState, Mask


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture and what stands below it; ``mark`` puts a frame around it: "good" or "bad".

    ``new_row`` starts a new row of pictures.
    """

    image: Image.Image
    caption: str
    mark: str = ""
    new_row: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text; the first column is a name."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Stage:
    """One step: ``name`` is its anchor, ``warning`` says in one line what is wrong there."""

    name: str
    title: str
    note: str
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    warning: str = ""


_LARGE, _SMALL = 620, 300
_READINGS = 6
"""Forms that are drawn beside the declared one."""
_SIDEWAYS = 5
"""EXIF orientations from here on exchange width and height."""
_WORTH = 0.2
"""A reading is drawn when at least this share of the split's boxes is sound under it."""


def as_read(subject: InspectedImage) -> Stage:
    """Return the image as a person sees it, with the boxes that are used."""
    record = subject.record
    names = [subject.labels.dataset.categories[label - 1] for label in record.labels.tolist()]
    picture = boxed(
        subject.picture, record.boxes.astype(np.float64), names, _LARGE, dashed=record.ignore
    )
    used = f"{len(record.boxes)} of {len(subject.numbers)} written boxes are used"
    turned = (
        f"; EXIF orientation {subject.turn}: turned upright, boxes are on the turned picture"
        if subject.turn != 1
        else "; no EXIF turn"
    )
    size = f"{record.width} x {record.height} px"
    dashes = ", dashed: ignored in training" if record.ignore.any() else ""
    warning = ""
    if record.state is not ImageState.LABELLED and len(subject.numbers):
        why = f" ({subject.problems[0].reason})" if subject.problems else ""
        warning = f"the image is {record.state.value}: it is not trained on{why}"
    elif len(record.boxes) < len(subject.numbers):
        warning = f"written boxes that are left out: {len(subject.numbers) - len(record.boxes)}"
    if subject.picture.size != (record.width, record.height):
        warning = f"the label says {size}, the picture is {subject.picture.size}"
    return Stage(
        "read",
        "As read",
        f"{size}{turned}. {used}{dashes}.",
        (Figure(picture, record.path.name),),
        (_convention_table(subject),),
        warning,
    )


def conventions(boxes: F64, width: float, height: float) -> dict[str, F64]:
    """Return boxes (xyxy pixels, f64[N, 4]) in each convention that label files use."""
    size = np.array([width, height, width, height], np.float64)
    low, high = boxes[:, :2], boxes[:, 2:]
    xywh = np.concatenate([low, high - low], 1)
    cxcywh = np.concatenate([(low + high) / 2, high - low], 1)
    return {
        "xyxy px": boxes,
        "xywh px (COCO)": xywh,
        "cxcywh px": cxcywh,
        "xyxy shares": boxes / size,
        "cxcywh shares (YOLO)": cxcywh / size,
    }


def _convention_table(subject: InspectedImage) -> Table:
    form = subject.labels.raw.form
    boxes = subject.read_as(form)
    coded = conventions(boxes, subject.record.width, subject.record.height)
    columns = ("box", "class", "fate", f"written ({form})", *coded, "YOLO line")
    label_of = {name: k for k, name in enumerate(subject.labels.dataset.categories)}
    rows = []
    for index, name in enumerate(subject.names):
        shares = coded["cxcywh shares (YOLO)"][index]
        line = f"{label_of.get(name, '?')} " + " ".join(f"{v:.6f}" for v in shares.tolist())
        cells = [_numbers(values[index]) for values in coded.values()]
        written = _numbers(subject.numbers[index])
        rows.append((str(index), name, subject.fate[index], written, *cells, line))
    return Table(columns, tuple(rows))


def readings(subject: InspectedImage) -> Stage | None:
    """Return the same numbers read in other forms, as small pictures; none without boxes."""
    if not len(subject.numbers):
        return None
    labels, declared = subject.labels, subject.labels.raw.form
    shares = {form: labels.sound(form) for form in FORMS}
    best = labels.verdict.best if labels.verdict is not None else declared
    others = _distinct(subject, declared, sorted(shares, key=lambda f: (f != best, -shares[f])))
    shown = [form for form in others if shares[form] >= _WORTH or form == best][:_READINGS]
    figures = [_reading(subject, declared, shares[declared], _mark(declared, best, declared))]
    figures += [
        _reading(subject, form, shares[form], _mark(form, best, declared)) for form in shown
    ]
    if subject.turn != 1:
        figures.append(_unturned(subject))
    doubtful = labels.verdict is not None and labels.verdict.doubtful
    note = (
        "The same four numbers of each box, read as the label file declares them and as if they "
        "were in another form. Red and dashed: inside out, thinner than 2 px, or outside the image. "
        "Below each: how many boxes of this image and what share of the whole split fit. Where "
        "several forms fit, the picture decides."
    )
    warning = f"the labels look mixed up: {labels.verdict}" if doubtful else ""
    return Stage("forms", "Read in another form", note, tuple(figures), (), warning)


def _distinct(subject: InspectedImage, declared: str, order: Sequence[str]) -> list[str]:
    """Return the forms that draw other boxes than the declared one and those before them."""
    seen, kept = [subject.read_as(declared)], []
    for form in order:
        boxes = subject.read_as(form)
        if any(np.allclose(boxes, other, atol=0.5, equal_nan=True) for other in seen):
            continue
        seen.append(boxes)
        kept.append(form)
    return kept


def _reading(subject: InspectedImage, form: str, share: float, mark: str) -> Figure:
    boxes = subject.read_as(form)
    sound = subject.soundness(boxes)
    declared = "as declared: " if form == subject.labels.raw.form else "as if "
    fits = {"good": " · fits best", "bad": " · does not fit"}.get(mark, "")
    caption = (
        f"{declared}{form_words(form)} · {int(sound.sum())} of {len(boxes)} here, "
        f"{share:.0%} of the split{fits}"
    )
    return Figure(reading(subject.picture, boxes, sound, _SMALL), caption, mark)


def _mark(form: str, best: str, declared: str) -> str:
    if best != declared and form == declared:
        return "bad"
    return "good" if form == best else ""


def _unturned(subject: InspectedImage) -> Figure:
    """Return the boxes as if they were drawn on the picture before it was turned upright."""
    written = subject.read_as(subject.labels.raw.form)
    displayed = np.array([subject.record.width, subject.record.height], np.float64)
    stored = displayed[::-1] if subject.turn >= _SIDEWAYS else displayed
    number = len(written)
    boxes = turn_boxes(written, np.full(number, subject.turn), np.tile(stored, (number, 1)))
    sound = subject.soundness(boxes)
    caption = (
        f"as if drawn on the picture as stored, before EXIF {subject.turn} turned it · "
        f"{int(sound.sum())} of {len(boxes)} here"
    )
    return Figure(reading(subject.picture, boxes, sound, _SMALL), caption)


def _numbers(values: F64) -> str:
    small = np.abs(values).max(initial=0.0) <= 2.0
    return " ".join(f"{v:.4f}" if small else f"{v:.1f}" for v in values.tolist())


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
    # The steps carry labels along untouched: numbers in their place show which box is which.
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
            caption = (
                f"draw {draw}, {place}: {step.name}, {counted(len(boxes), 'box', 'boxes')}{ending}"
            )
            figures.append(Figure(shown, caption, "good" if last else "", place == 0))
    note = (
        f"{draws} draws of the recipe's chain, each step that did something. Boxes whose centre "
        "leaves the window are dropped, the others cut at its border; those to be ignored (dashed) stay "
        "as long as any part is shown."
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
    boxes, forced, without = _matched_boxes(subject, prepared, matches)
    tables = (boxes, _assigned_by_level(prepared))
    parts = []
    if forced:
        parts.append(
            f"boxes that no prior reaches {threshold:g} with, one forced match each: {forced}"
        )
    if without:
        parts.append(f"boxes without any prior: {without}")
    most = recipe.loss.assigner.max_positives
    limit = (
        "" if most is None else f" Of these a box keeps its best {most}, the others are ignored."
    )
    note = (
        f"A prior is positive from an IoU of {threshold:g} on (solid outline), or as a box's forced "
        f"match (dashed).{limit} Cells with a positive prior have the colour of its box; grey cells "
        "hold ignored priors; white lines are the level's cells."
    )
    return Stage(
        "assign",
        "Priors and assignment",
        note,
        (Figure(sheet, "all levels"),),
        tables,
        "; ".join(parts),
    )


def _assigned_by_level(prepared: Prepared) -> Table:
    labels = prepared.assignment.labels[0].numpy()
    level = prepared.priors.level.numpy()
    rows = tuple(
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
    return Table(("level", "cells", "priors", "positive", "ignored", "background"), rows)


def _matched_boxes(
    subject: InspectedImage, prepared: Prepared, matches: Matches
) -> tuple[Table, int, int]:
    """Return a row for each box, how many boxes have a forced match alone, and how many have none."""
    level = prepared.priors.level.numpy()
    rows, forced, without = [], 0, 0
    for index, name in enumerate(prepared.names):
        mine = matches.box == index
        alone = bool(mine.any() and not matches.reached[mine].any())
        forced += alone
        ignored = bool(subject.record.ignore[index])
        without += not mine.any() and not ignored
        best = float(matches.iou[mine].max(initial=0.0))
        levels = " ".join(str(k) for k in np.unique(level[mine]).tolist()) or "none"
        how = "ignored box" if ignored else "forced match only" if alone else ""
        rows.append((str(index), name, f"{best:.3f}", str(int(mine.sum())), levels, how))
    columns = ("box", "class", "best IoU", "positives", "on levels", "")
    return Table(columns, tuple(rows)), forced, without


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


_PANEL = 300
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
    tables = (
        _picked_by_level(prepared, chosen, losses),
        _hardest(prepared, order[::-1][:_LISTED], losses, scores),
    )
    note = (
        f"{len(order)} background priors enter the loss (rule {config.selection.kind!r}), for "
        f"{len(prepared.positives)} positives. Blue: no loss; yellow: {highest:.2f} nats. Boxes are "
        "white. A bright prior on an unlabelled object is a missing label."
    )
    return Stage("negatives", "Selected negatives by loss", note, tuple(figures), tables)


def _picked_by_level(prepared: Prepared, chosen: Mask, losses: F64) -> Table:
    background = prepared.assignment.labels[0].numpy() == 0
    level = prepared.priors.level.numpy()
    rows = tuple(
        (
            f"level {k}",
            str(int((background & (level == k)).sum())),
            str(int((chosen & (level == k)).sum())),
            *_mean_and_most(losses[chosen & (level == k)]),
        )
        for k in range(len(prepared.layout.levels))
    )
    return Table(("level", "background priors", "selected", "mean loss", "largest"), rows)


def _hardest(prepared: Prepared, priors: I64, losses: F64, scores: F64) -> Table:
    """Return what is to know of some priors."""
    corners, level = prior_corners(prepared), prepared.priors.level.numpy()
    rows = tuple(
        (
            str(int(index)),
            str(int(level[index])),
            " ".join(f"{v:.0f}" for v in corners[index].tolist()),
            f"{losses[index]:.3f}",
            f"{scores[index]:.3f}",
            f"{float(prepared.assignment.iou[0][index]):.2f}",
        )
        for index in priors
    )
    columns = ("prior", "level", "xyxy, px of the input", "loss, nats", "score", "IoU with a box")
    return Table(columns, rows)


def _panels(
    order: np.ndarray, level: np.ndarray, highest: float
) -> list[tuple[np.ndarray, int, str]]:
    """Return what to draw: all selected, then each level that has some."""
    panels = [(order, _CANVAS, f"all levels, losses up to {highest:.2f} nats")]
    for index in np.unique(level[order]).tolist():
        mine = order[level[order] == index]
        panels.append((mine, _PANEL, f"level {index}: {len(mine)} selected"))
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
    sure = f"{counted(len(best), 'detection')} with a score of {_SHOWN_SCORE} or more"
    if len(best) > _MOST_DETECTIONS:
        sure += f", the best {_MOST_DETECTIONS} of which are drawn"
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
        sure,
    )
    table = Table(("class", "score", "xyxy, px of the image", "best IoU with a box"), rows)
    note = (
        "The checkpoint on the un-augmented image, after NMS: "
        f"{counted(len(found), 'detection')} in all."
    )
    return Stage("detections", "Detections of the checkpoint", note, (figure,), (table,))
