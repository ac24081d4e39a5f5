"""A dataset together with a detector's detections on each of its images."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hardmine.detections import Detections
from hardmine.errors import DataError
from hardmine.files import write_text
from hardmine.types import Dataset


@dataclass(frozen=True, eq=False)
class Scored:
    """``detections[i]`` belongs to ``dataset.records[i]``, in pixels of the original image.

    Raises:
        ValueError: the two differ in length.
        DataError: a score or box is not finite, or a label is outside 1..C.
    """

    dataset: Dataset
    detections: tuple[Detections, ...]

    def __post_init__(self) -> None:
        got, wanted = len(self.detections), len(self.dataset)
        if got != wanted:
            raise ValueError(f"{got} detection results for {wanted} images")
        num_classes = len(self.dataset.categories)
        for record, found in zip(self.dataset.records, self.detections, strict=True):
            _check(found, num_classes, str(record.path))

    def __len__(self) -> int:
        return len(self.detections)

    def subset(self, indices: list[int]) -> Scored:
        """Return the given images with their detections, in the given order."""
        return Scored(
            self.dataset.subset(indices), tuple(self.detections[index] for index in indices)
        )

    def with_known_truth(self) -> Scored:
        """Return the images whose labels, or their absence, can be relied on."""
        records = self.dataset.records
        return self.subset([i for i, record in enumerate(records) if record.state.is_trainable])

    def without_objects(self) -> Scored:
        """Return the images that hold no object: those on which every detection is an alarm."""
        records = self.dataset.records
        return self.subset([i for i, record in enumerate(records) if record.state.is_negative])


def _check(found: Detections, num_classes: int, where: str) -> None:
    count = len(found.scores)
    if found.boxes.shape != (count, 4) or found.labels.shape != (count,):
        raise ValueError(
            f"{where}: boxes {found.boxes.shape} and labels {found.labels.shape} for {count} scores"
        )
    if not count:
        return
    if not (np.isfinite(found.scores).all() and np.isfinite(found.boxes).all()):
        raise DataError(f"{where}: the detector gave a score or box that is not finite")
    if found.labels.min() < 1 or found.labels.max() > num_classes:
        raise DataError(f"{where}: detections hold a label outside 1..{num_classes}")


def image_id(position: int) -> int:
    """Return the COCO image id of ``dataset.records[position]``: ids count from 1."""
    return position + 1


def save_detections(path: Path, scored: Scored) -> None:
    """Write detections as a COCO results list, atomically.

    An image's id is its position in the dataset plus 1, a category's id is its label, and boxes are
    ``[x, y, width, height]`` in original pixels; :func:`ground_truth` writes the same ids. Scores
    and boxes come back bit for bit from :func:`load_detections`; the prior's index is not kept.
    """
    rows = [
        json.dumps(row)
        for position, found in enumerate(scored.detections)
        for row in result_rows(position, found)
    ]
    write_text(path, "[\n" + ",\n".join(rows) + "\n]\n")


def result_rows(position: int, found: Detections) -> list[dict[str, Any]]:
    """Return one image's detections as COCO results, best first."""
    boxes = found.boxes.astype(np.float64)
    boxes_xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    return [
        {"image_id": image_id(position), "category_id": label, "bbox": box_xywh, "score": score}
        for label, box_xywh, score in zip(
            found.labels.tolist(), boxes_xywh.tolist(), found.scores.tolist(), strict=True
        )
    ]


def load_detections(path: Path, dataset: Dataset) -> Scored:
    """Read what :func:`save_detections` wrote, or the results of any detector with the same ids.

    Raises:
        DataError: the file is missing or not a results list, or an entry (named by its index) has
            an image or category that ``dataset`` does not hold, or a value that is not finite.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a COCO results file: {error}") from None
    if not isinstance(rows, list):
        raise DataError(f"{path}: got a {type(rows).__name__}, wanted a list of COCO results")
    by_image: list[list[tuple[float, int, list[float]]]] = [[] for _ in dataset.records]
    for index, row in enumerate(rows):
        position, score, label, box = _read_row(row, dataset, f"{path}[{index}]")
        by_image[position].append((score, label, box))
    return Scored(dataset, tuple(_to_detections(entries) for entries in by_image))


def _read_row(row: Any, dataset: Dataset, where: str) -> tuple[int, float, int, list[float]]:
    try:
        position, label = int(row["image_id"]) - 1, int(row["category_id"])
        score = float(row["score"])
        x, y, width, height = (float(value) for value in row["bbox"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{where}: wanted image_id, category_id, bbox [x, y, width, height] and score, "
            f"got {type(error).__name__}: {error}"
        ) from None
    if not 0 <= position < len(dataset):
        raise DataError(f"{where}: image_id {position + 1} is outside 1..{len(dataset)}")
    if not 1 <= label <= len(dataset.categories):
        raise DataError(f"{where}: category_id {label} is outside 1..{len(dataset.categories)}")
    if not all(math.isfinite(value) for value in (score, x, y, width, height)):
        raise DataError(f"{where}: score or bbox is not finite")
    return position, score, label, [x, y, x + width, y + height]


def _to_detections(entries: list[tuple[float, int, list[float]]]) -> Detections:
    if not entries:
        return Detections.none()
    entries = sorted(entries, key=lambda entry: -entry[0])
    return Detections(
        boxes=np.array([box for _, _, box in entries], np.float32),
        scores=np.array([score for score, _, _ in entries], np.float32),
        labels=np.array([label for _, label, _ in entries], np.int64),
    )


def ground_truth(dataset: Dataset) -> dict[str, Any]:
    """Return the dataset as a COCO ground truth whose ids match :func:`save_detections`.

    Every image is registered, those without objects too. Ignored boxes become ``iscrowd``, the only
    flag that COCO's evaluation looks at.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for position, record in enumerate(dataset.records):
        images.append(
            {
                "id": image_id(position),
                "file_name": str(record.path),
                "width": record.width,
                "height": record.height,
            }
        )
        for box, label, ignore in zip(
            record.boxes.astype(np.float64).tolist(),
            record.labels.tolist(),
            record.ignore.tolist(),
            strict=True,
        ):
            left, top, right, bottom = box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id(position),
                    "category_id": label,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": (right - left) * (bottom - top),
                    "iscrowd": int(ignore),
                }
            )
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(dataset.categories)]
    return {"images": images, "annotations": annotations, "categories": categories}
