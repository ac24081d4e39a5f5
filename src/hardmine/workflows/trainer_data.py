"""What other frameworks' trainers are given: the task, and the data as YOLO, RF-DETR's COCO or arrays.

The loop gives two COCO files with absolute paths. Boxes that are to be ignored have no form in these
frameworks, so an image that holds one is left out.
"""

from __future__ import annotations

import json
import math
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hardmine.data.formats.yolo_writing import READ_BY_ULTRALYTICS
from hardmine.data.images import decode_image, usual_suffix
from hardmine.errors import DataError
from hardmine.types import F32, I64


@dataclass(frozen=True, slots=True)
class TrainingTask:
    """One training of another framework.

    ``start`` are the weights of an earlier round, ``None`` for what ``model`` names. ``side`` is the
    image size in pixels, ``None`` for the model's own. ``steps`` are those that the loop asks for, of
    ``batch`` images each.
    """

    model: str
    start: Path | None
    side: int | None
    train_json: Path
    val_json: Path
    weights_out: Path
    seed: int
    steps: int | None
    epochs: float
    batch: int
    device: torch.device

    def count_epochs(self, images: int) -> int:
        """Return the epochs over so many images that give as many steps as the loop asks for."""
        if self.steps is None:
            return max(1, round(self.epochs))
        return max(1, round(self.steps / math.ceil(images / self.batch)))

    def count_steps(self, images: int) -> int:
        """Return the steps: those that the loop asks for, else those of the epochs."""
        if self.steps is not None:
            return self.steps
        return max(1, round(self.epochs * images / self.batch))


@dataclass(frozen=True, slots=True, eq=False)
class LabelledImage:
    """An image with its boxes, f32[N, 4] xyxy in its pixels, and class numbers from 0; N may be 0."""

    path: Path
    width: int
    height: int
    boxes: F32
    numbers: I64


@dataclass(frozen=True, slots=True, eq=False)
class LabelledImages:
    """The images that a loop trains or validates on, and the names of their classes in order."""

    names: tuple[str, ...]
    images: tuple[LabelledImage, ...]

    @staticmethod
    def read(path: Path) -> LabelledImages:
        """Read a COCO file that the loop wrote.

        Raises:
            DataError: it cannot be read.
        """
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read ({error})") from None
        numbers = {entry["id"]: i for i, entry in enumerate(tree["categories"])}
        rows: dict[Any, list[Any]] = defaultdict(list)
        for row in tree["annotations"]:
            rows[row["image_id"]].append(row)
        images = []
        for entry in tree["images"]:
            own = rows[entry["id"]]
            if any(row.get("iscrowd") or row.get("ignore") for row in own):
                continue
            boxes = np.array([row["bbox"] for row in own], np.float32).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            labels = np.array([numbers[row["category_id"]] for row in own], np.int64)
            place = path.parent / entry["file_name"]
            images.append(LabelledImage(place, entry["width"], entry["height"], boxes, labels))
        return LabelledImages(tuple(entry["name"] for entry in tree["categories"]), tuple(images))

    def require(self, file: Path) -> None:
        """Refuse to train on nothing.

        Raises:
            DataError: there is no image.
        """
        if not self.images:
            raise DataError(
                f"{file}: no image to train on (those with a box that is to be ignored are left out, "
                "since this trainer has no form for it)"
            )


def write_yolo(train: Path, val: Path, folder: Path) -> int:
    """Write two COCO files as YOLO data, images as links, and return how many images train.

    Those of formats that Ultralytics does not read become PNG files. An image without objects gets an
    empty label file: YOLOs learn from it as background.

    Raises:
        DataError: the files cannot be read, or there is no image to train on.
    """
    import yaml

    counts: dict[str, int] = {}
    names: tuple[str, ...] = ()
    for part, path in (("train", train), ("val", val)):
        data = LabelledImages.read(path)
        if part == "train":
            data.require(path)
        names = data.names
        for number, image in enumerate(data.images):
            place = folder / "images" / part / _plain_name(number, image.path)
            if place.suffix in READ_BY_ULTRALYTICS:
                _link(image.path, place)
            else:  # it would pass the image over without a word
                place = place.with_suffix(".png")
                place.parent.mkdir(parents=True, exist_ok=True)
                decode_image(image.path.read_bytes(), str(image.path)).pixels.save(place)
            label = folder / "labels" / part / f"{place.stem}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text("".join(_yolo_lines(image)), encoding="utf-8")
        counts[part] = len(data.images)
    content = {
        "path": str(folder),
        "train": "images/train",
        "val": "images/val",
        "names": dict(enumerate(names)),
    }
    (folder / "data.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return counts["train"]


def write_rfdetr(train: Path, val: Path, folder: Path) -> int:
    """Write two COCO files as RF-DETR wants them, images as links, and return how many images train.

    That is a folder for each split with ``_annotations.coco.json`` beside its images; an image without
    objects has an entry and no annotations. It takes the categories that have a ``supercategory``.

    Raises:
        DataError: the files cannot be read, or there is no image to train on.
    """
    counts: dict[str, int] = {}
    for part, path in (("train", train), ("valid", val)):
        data = LabelledImages.read(path)
        if part == "train":
            data.require(path)
        (folder / part).mkdir(parents=True, exist_ok=True)
        images: list[dict[str, Any]] = []
        rows: list[dict[str, Any]] = []
        for number, image in enumerate(data.images):
            name = _plain_name(number, image.path)
            _link(image.path, folder / part / name)
            size = {"width": image.width, "height": image.height}
            images.append({"id": number, "file_name": name, **size})
            rows += coco_rows(image, number, first=len(rows), offset=1)
        categories = [
            {"id": i, "name": name, "supercategory": "object"}
            for i, name in enumerate(data.names, start=1)
        ]
        tree = {"images": images, "annotations": rows, "categories": categories}
        (folder / part / "_annotations.coco.json").write_text(json.dumps(tree), encoding="utf-8")
        counts[part] = len(images)
    return counts["train"]


def coco_rows(
    image: LabelledImage, image_id: int, *, first: int = 0, offset: int = 0
) -> list[dict[str, Any]]:
    """Return an image's boxes as annotations of COCO, numbered from ``first``.

    Args:
        offset: added to the class numbers, which count from 0.
    """
    rows: list[dict[str, Any]] = []
    for (x0, y0, x1, y1), number in zip(image.boxes.tolist(), image.numbers.tolist(), strict=True):
        box = [x0, y0, x1 - x0, y1 - y0]
        row = {"id": first + len(rows), "image_id": image_id, "category_id": number + offset}
        rows.append({**row, "bbox": box, "area": box[2] * box[3], "iscrowd": 0})
    return rows


def _yolo_lines(image: LabelledImage) -> Sequence[str]:
    lines = []
    size = np.array([image.width, image.height], np.float64)
    for box, number in zip(image.boxes.astype(np.float64), image.numbers.tolist(), strict=True):
        centre, extent = (box[:2] + box[2:]) / 2 / size, (box[2:] - box[:2]) / size
        values = " ".join(f"{value:.6f}" for value in (*centre, *extent))
        lines.append(f"{number} {values}\n")
    return lines


def _plain_name(number: int, path: Path) -> str:
    """Return a name that no other image of the data has."""
    return f"{number:06}_{path.stem}{usual_suffix(path.suffix)}"


def _link(image: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        place.symlink_to(image.resolve())
    except OSError:  # a system that lets nobody make links
        shutil.copyfile(image, place)
