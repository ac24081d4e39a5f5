"""What the boxes of a predictions file are held to, once it is known which image each belongs to.

The form of the numbers is judged as that of labels is (`data/quality/label_coordinates.py`): what makes
sense in another form alone is refused; what is too little to tell is said.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from hardmine.data.quality.label_coordinates import (
    FORMS,
    MIN_BOXES,
    is_sound,
    judge_numbers,
    other_unit,
    to_xyxy,
)
from hardmine.detections import Detections
from hardmine.errors import NOTICE, DataError
from hardmine.plurals import counted
from hardmine.types import F64, Mask

_log = logging.getLogger(__name__)
_SOUND = 0.5
"""Detections may pass the edge of their image; with fewer inside, another form that fits is right."""


def say_other_folders(name_of: Mapping[Path, str], path: Path) -> None:
    """Say how many images were found by their file's name though the folder is called otherwise.

    Args:
        name_of: of each image, its name in the file ``path``.
    """
    folders = ((image, PurePosixPath(name.replace("\\", "/"))) for image, name in name_of.items())
    other = [(i, n) for i, n in folders if n.parent.name not in ("", i.parent.name)]
    if other:
        image, name = other[0]
        _log.log(
            NOTICE,
            "%s: %s found by file name, in a folder of another name, such as %s for %s/%s",
            path,
            counted(len(other), "image is", "images are"),
            name,
            image.parent.name,
            image.name,
        )


def warn_of_oddities(detections: Iterable[Detections | None], path: Path) -> None:
    """Say what a detector hardly gives: repeated detections, boxes without an area, all scores 1."""
    tables = [
        np.column_stack([one.boxes, one.scores, one.labels])
        for one in detections
        if one is not None and len(one)
    ]
    if not tables:
        return
    repeats = sum(len(rows) - len(np.unique(rows, axis=0)) for rows in tables if len(rows) > 1)
    if repeats:
        _log.warning(
            "%s: %s repeated in every number (box, score and class); each counts as "
            "often as it is written",
            path,
            counted(repeats, "detection is", "detections are"),
        )
    rows = np.concatenate(tables)
    flat = int((rows[:, 2:4] <= rows[:, :2]).any(axis=1).sum())
    if flat:
        _log.warning(
            "%s: %d of %d boxes have no area; they count as detections", path, flat, len(rows)
        )
    if len(rows) >= MIN_BOXES and bool((rows[:, 4] == 1.0).all()):
        _log.warning(
            "%s: all %d scores are 1: these may be labels or numbers of tracks in place of scores",
            path,
            len(rows),
        )


def require_form(boxes: F64, sizes: F64, form: str, path: Path) -> None:
    """Refuse boxes that make sense only in another form than the file's, or lie outside their images.

    Args:
        boxes (f64[N, 4]): corners, in pixels or shares as ``form`` says.
        sizes (f64[N, 2]): width and height of each box's image.
        form: of `label_coordinates.FORMS`.

    Raises:
        DataError: most boxes fit another form alone, or most lie wholly outside.
    """
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    boxes, sizes = boxes[has_area], sizes[has_area]
    numbers = _as_written(boxes, form)
    telling = np.asarray(
        ~np.isin(numbers, (0.0, 1.0)).all(axis=1), np.bool_
    )  # else a pixel, or the whole image
    verdict = judge_numbers(numbers[telling], sizes[telling], form)
    if verdict is not None and verdict.doubtful:
        if verdict.best != form and verdict.sound[form] < _SOUND:
            raise DataError(f"{path}: boxes in another form: {verdict}")
        _log.warning("%s: boxes may be in another form: %s", path, verdict)
    else:
        _require_one_unit(numbers[telling], sizes[telling], form, path)
        _warn_of_doubt(numbers, sizes, telling, form, path)
    _require_inside(boxes, sizes, form, path)


def _require_one_unit(numbers: F64, sizes: F64, form: str, path: Path) -> None:
    """Refuse a file in which half of the boxes make sense in the other unit alone; say fewer."""
    other = other_unit(form)
    apart = is_sound(to_xyxy(other, numbers, sizes), sizes)
    apart &= ~is_sound(to_xyxy(form, numbers, sizes), sizes)
    number = int(apart.sum())
    if not number:
        return
    said = f"{number} of {len(numbers)} boxes make sense only as {FORMS[other][0]}"
    if number >= _SOUND * len(numbers):
        raise DataError(f"{path}: boxes in another form: {said}")
    _log.warning("%s: %s; all were read as %s", path, said, FORMS[form][0])


def _warn_of_doubt(numbers: F64, sizes: F64, telling: Mask, form: str, path: Path) -> None:
    """Say of boxes that are too few to judge which other form fits them better."""
    shares = form.endswith("_shares")
    if len(numbers) and not telling.any() and bool((sizes > 2).all()) and not shares:
        _log.warning(
            "%s: all boxes are made of 0 and 1: they were read as pixels, and may be shares of the "
            "image",
            path,
        )
    other = {"xywh": "xyxy", "xyxy": "xywh"}.get(form.removesuffix("_shares"), "")
    if not other or not 0 < len(numbers) < MIN_BOXES:
        return
    other = f"{other}_shares" if shares else other
    own, rival = (is_sound(to_xyxy(name, numbers, sizes), sizes) for name in (form, other))
    if not own.all() and rival.all():
        _log.warning(
            "%s: %d of %d boxes reach beyond their image; read as %s, all would lie inside; these are "
            "too few boxes to tell, and were read as %s",
            path,
            int((~own).sum()),
            len(own),
            FORMS[other][0],
            FORMS[form][0],
        )


def _require_inside(boxes: F64, sizes: F64, form: str, path: Path) -> None:
    """Refuse boxes (xyxy) of which most lie outside their images, and say how many others do."""
    sides = np.ones_like(sizes) if form.endswith("_shares") else sizes
    outside = ((boxes[:, 2:] <= 0) | (boxes[:, :2] >= sides)).any(axis=1)
    number = int(outside.sum())
    if not number:
        return
    first = int(outside.argmax())
    said = (
        f"{path}: {number} of {len(boxes)} boxes lie wholly outside their image, such as "
        f"{' '.join(f'{value:g}' for value in boxes[first])} (xyxy) in an image of "
        f"{sides[first, 0]:g} x {sides[first, 1]:g}; boxes must be those of the original image, "
        "not of a resized one"
    )
    if number > _SOUND * len(boxes):
        raise DataError(said)
    _log.warning("%s", said)


def _as_written(boxes: F64, form: str) -> F64:
    """Return corners (xyxy [N, 4]) as the numbers that a file of that form has."""
    order = form.removesuffix("_shares")
    if order == "xyxy":
        return boxes
    extent = boxes[:, 2:] - boxes[:, :2]
    near = boxes[:, :2] if order == "xywh" else boxes[:, :2] + extent / 2
    return np.concatenate([near, extent], axis=1)
