"""Which images to show, and their priors drawn over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from hardmine.data.images import read_picture
from hardmine.data.resize import Resize
from hardmine.losses.assign import AssignerConfig, assign_priors
from hardmine.prior_design.assigned_priors import as_batch
from hardmine.prior_design.canvas_boxes import CanvasBoxes
from hardmine.prior_design.coverage import Coverage
from hardmine.prior_design.prior_drawing import Matches, prior_sheet
from hardmine.prior_design.prior_layout import PriorLayout
from hardmine.types import I64, Assignment, Dataset


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """An image to look at and why: ``rows`` are its boxes."""

    rows: I64
    reason: str


def choose_images(coverage: Coverage, number: int, seed: int = 0) -> list[Choice]:
    """Return up to ``number`` images that show most, each once.

    First one each with the worst covered box, the most boxes, the smallest box, the most and the
    fewest matches for a box; then random ones.
    """
    boxes = coverage.boxes
    area = boxes.sizes.prod(axis=1)
    counts = np.bincount(boxes.image)[boxes.image]
    wanted = [
        (int(coverage.best.iou.argmin()), "the worst covered box"),
        (int(counts.argmax()), "the most boxes"),
        (int(area.argmin()), "the smallest box"),
        (int(coverage.assigned.argmax()), "the box with most matches"),
    ]
    order = np.random.default_rng(seed).permutation(len(boxes)).tolist()
    wanted += [(row, "drawn at random") for row in order]
    chosen: dict[int, Choice] = {}
    for row, reason in wanted:
        image = int(boxes.image[row])
        if len(chosen) == number:
            break
        if image not in chosen:
            chosen[image] = Choice(np.flatnonzero(boxes.image == image), reason)
    return list(chosen.values())


def match_image(boxes: CanvasBoxes, layout: PriorLayout, threshold: float) -> Matches:
    """Return one image's assignment over all priors; ``boxes`` are those of the image."""
    batch = as_batch(boxes, [np.arange(len(boxes))], max(1, len(boxes)))
    config = AssignerConfig(iou_threshold=threshold)
    return as_matches(assign_priors(batch, layout.to_priors(), config), threshold)


def as_matches(found: Assignment, threshold: float) -> Matches:
    """Return the assignment of a batch of one image in the form that the panels draw."""
    labels = found.labels[0].cpu().numpy()
    box = np.where(labels > 0, found.box_index[0].cpu().numpy(), -1)
    iou = found.iou[0].cpu().double().numpy()
    return Matches(box, iou, iou >= threshold, labels < 0)


def draw_priors(
    dataset: Dataset, resize: Resize, boxes: CanvasBoxes, layout: PriorLayout, threshold: float
) -> Image.Image:
    """Return the sheet of one image: all its levels; ``boxes`` are those of the image.

    Raises:
        DataError: the image cannot be read.
    """
    record = dataset.records[int(boxes.image[0])]
    pixels, _ = resize.apply(read_picture(record.path, resize.cover))
    names = [dataset.categories[label - 1] for label in boxes.labels.tolist()]
    found = match_image(boxes, layout, threshold)
    return prior_sheet(pixels, boxes.boxes, names, layout, found)


def describe_choice(dataset: Dataset, coverage: Coverage, choice: Choice) -> str:
    """Return a caption: file, why it is shown, and its boxes' best IoU and matches."""
    record = dataset.records[int(coverage.boxes.image[choice.rows[0]])]
    figures = _figures(coverage, choice.rows)
    return f"{record.path.name}, shown for {choice.reason}: {figures}"


def _figures(coverage: Coverage, rows: Sequence[int] | I64) -> str:
    parts = [
        f"box {i} best IoU {coverage.best.iou[row]:.2f}, {coverage.assigned[row]} matched"
        for i, row in enumerate(list(rows)[:4])
    ]
    return "; ".join(parts) + (" …" if len(rows) > 4 else "")
