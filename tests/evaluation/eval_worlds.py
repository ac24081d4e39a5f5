"""Small made-up results for the tests of evaluation and report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from hardmine.detections import Detections
from hardmine.evaluation.scored_images import Scored
from hardmine.types import Dataset, ImageRecord, ImageState

SIZE = 100


def record(
    *objects: Sequence[float],
    ignore: Sequence[bool] | None = None,
    name: str = "image.jpg",
    state: ImageState = ImageState.LABELLED,
) -> ImageRecord:
    """Return a 100 x 100 image; an object is ``(label, left, top, right, bottom)``."""
    table = np.array(objects, np.float32).reshape(-1, 5)
    return ImageRecord(
        Path(name),
        SIZE,
        SIZE,
        table[:, 1:],
        table[:, 0].astype(np.int64),
        np.array(ignore if ignore is not None else [False] * len(table), np.bool_),
        state,
    )


def found(*rows: Sequence[float]) -> Detections:
    """Return detections; a row is ``(score, label, left, top, right, bottom)``."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, 2:], table[:, 0], table[:, 1].astype(np.int64))


def scored(
    records: Sequence[ImageRecord], detections: Sequence[Detections], num_classes: int = 1
) -> Scored:
    names = tuple(f"class {i + 1}" for i in range(num_classes))
    return Scored(Dataset(names, tuple(records), Path("set")), tuple(detections))


def empties(*scores_of_image: Sequence[float], num_classes: int = 1) -> Scored:
    """Return images without objects; each argument holds one image's alarm scores."""
    records = [
        record(name=f"empty{i}.jpg", state=ImageState.VERIFIED_EMPTY)
        for i in range(len(scores_of_image))
    ]
    detections = [
        found(*((score, 1, 5, 5, 40, 40) for score in sorted(scores, reverse=True)))
        for scores in scores_of_image
    ]
    return scored(records, detections, num_classes)


def one_object_each(*scores: float | None) -> Scored:
    """Return images with one object each, hit at the given score, or missed (None)."""
    box = (10, 10, 50, 50)
    records = [record((1, *box), name=f"object{i}.jpg") for i in range(len(scores))]
    return scored(records, [found() if s is None else found((s, 1, *box)) for s in scores])


def random_scored(
    seed: int,
    images: int = 20,
    num_classes: int = 2,
    clutter: int = 6,
    *,
    empty: bool = False,
    with_ignored: bool = True,
) -> Scored:
    """Return a detector's plausible results: jittered hits, duplicates, clutter, wrong classes.

    The images depend on the number of them only, the detections on the seed.
    """
    truth, noise = np.random.default_rng((images, empty)), np.random.default_rng(seed)
    records, detections = [], []
    for position in range(images):
        count = 0 if empty else int(truth.integers(1, 4))
        corner, size = truth.uniform(0, 60, (count, 2)), truth.uniform(8, 40, (count, 2))
        labels = truth.integers(1, num_classes + 1, count)
        boxes = np.concatenate([corner, corner + size], axis=1)
        ignore = (truth.random(count) < 0.15) & with_ignored
        state = ImageState.VERIFIED_EMPTY if empty else ImageState.LABELLED
        rows = np.column_stack([labels, boxes])
        name = f"{'empty' if empty else 'object'}{position}.jpg"
        records.append(record(*rows, ignore=ignore, name=name, state=state))
        near = np.repeat(boxes, 2, axis=0) + noise.normal(0, 2.5, (2 * count, 4))
        corner, size = noise.uniform(0, 60, (clutter, 2)), noise.uniform(5, 40, (clutter, 2))
        every = np.concatenate([near, np.concatenate([corner, corner + size], axis=1)])
        scores = np.concatenate([noise.beta(5, 2, 2 * count), noise.beta(1.5, 4, clutter)])
        classes = np.concatenate(
            [np.repeat(labels, 2), noise.integers(1, num_classes + 1, clutter)]
        )
        order = np.argsort(-scores)
        detections.append(found(*np.column_stack([scores, classes, every])[order]))
    return scored(records, detections, num_classes)


@st.composite
def small_worlds(draw: st.DrawFn) -> Scored:
    """Up to four images with up to four objects and six detections on a coarse grid: many ties."""
    side = st.integers(0, 3)

    def box() -> tuple[int, int, int, int]:
        left, top = draw(side) * 10, draw(side) * 10
        return left, top, left + 10 * draw(st.integers(1, 3)), top + 10 * draw(st.integers(1, 3))

    label = st.integers(1, 2)
    score = st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9])
    records, detections = [], []
    for position in range(draw(st.integers(1, 4))):
        objects = [(draw(label), *box()) for _ in range(draw(st.integers(0, 4)))]
        ignore = [draw(st.booleans()) and draw(st.booleans()) for _ in objects]
        state = ImageState.LABELLED if objects else ImageState.VERIFIED_EMPTY
        records.append(record(*objects, ignore=ignore, name=f"{position}.jpg", state=state))
        rows = [(draw(score), draw(label), *box()) for _ in range(draw(st.integers(0, 6)))]
        detections.append(found(*sorted(rows, key=lambda row: -row[0])))
    return scored(records, detections, 2)
