"""What `Dataset` and `Detections` are read from, written to and shown as.

These are the methods of the values in ``types.py`` that need the packages above it. They stand here,
beside the public names, so that the values themselves depend on nothing; each imports what it needs
when it is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hardmine.detections import Detections
from hardmine.errors import ConfigError, DataError, MissingExtraError
from hardmine.types import U8, Dataset

if TYPE_CHECKING:
    from PIL import Image

    from hardmine.data.convert import Conversion as Conversion  # noqa: PLC0414
    from hardmine.mining.mine import MiningResult


def read_as(
    kind: str,
    path: Path | str,
    images: Path | str | None,
    empty_is_verified: bool = False,
    split: str | None = None,
) -> Dataset:
    """Read a dataset that must be of one format.

    Raises:
        DataError: it is of another format, broken, or has no such split.
    """
    from hardmine.data.load_dataset import load_dataset, recognised_formats

    found = recognised_formats(path, images=images)
    if found != {kind}:
        got = " and ".join(sorted(found))
        raise DataError(f"{path}: got {got} data, wanted {kind}; load_dataset reads any format")
    return load_dataset(path, images=images, split=split, empty_is_verified=empty_is_verified)


def write_as(kind: str, dataset: Dataset, out: Path | str, link: bool) -> Conversion:
    """Write a dataset with copies of its images, or only the labels into a ``.json`` file."""
    from hardmine.data.convert import Conversion, convert
    from hardmine.data.formats.coco_writing import write_coco

    target = Path(out)
    if kind != "coco" or target.suffix.lower() != ".json":
        return convert(dataset, target, kind, link=link)
    write_coco(dataset, target)
    boxes = sum(len(record.labels) for record in dataset)
    ignored = sum(int(record.ignore.sum()) for record in dataset)
    return Conversion(target, {"all": len(dataset)}, boxes, ignored, 0, 0)


def split_as(
    dataset: Dataset,
    fractions: Mapping[str, float],
    seed: int,
    group: str | None,
    by_time: bool,
    gap: float | None,
) -> dict[str, Dataset]:
    """Split a dataset by groups of near-duplicates, or by time."""
    from hardmine.data.splits.split import split_by_group, split_by_time

    if by_time and group is not None:
        raise ConfigError("by_time and group at once: wanted one of them")
    if gap is not None and not by_time:
        raise ConfigError("gap goes with by_time")
    try:
        if by_time:
            return split_by_time(dataset, fractions, seed, gap=gap).splits
        return split_by_group(dataset, fractions, seed, group=group).splits
    except ValueError as error:
        raise ConfigError(str(error)) from None


def from_supervision(found: Any, categories: tuple[str, ...]) -> Detections:
    """Take over ``supervision.Detections``, best first."""
    if found.class_id is None:
        raise DataError("supervision.Detections: got no class_id, wanted one per detection")
    labels = np.asarray(found.class_id, np.int64) + 1
    if len(labels) and (labels.min() < 1 or (categories and labels.max() > len(categories))):
        raise DataError(
            f"supervision.Detections: class_id from {labels.min() - 1} to {labels.max() - 1}, wanted "
            f"0 to {len(categories) - 1} ({', '.join(categories)})"
        )
    boxes = np.asarray(found.xyxy, np.float32).reshape(-1, 4)
    scores = np.ones(len(labels), np.float32)
    if found.confidence is not None:
        scores = np.asarray(found.confidence, np.float32)
    order = np.argsort(-scores, kind="stable")
    return Detections(boxes[order], scores[order], labels[order], categories=categories)


def to_supervision(found: Detections) -> Any:
    """Return ``supervision.Detections``."""
    try:
        import supervision
    except ImportError:
        raise MissingExtraError(
            "supervision is not installed: pip install 'hardmine[supervision]'"
        ) from None
    data: dict[str, Any] = {}
    if found.categories:
        data["class_name"] = np.array([one.category for one in found], dtype=np.str_)
    return supervision.Detections(
        xyxy=found.boxes, confidence=found.scores, class_id=found.labels - 1, data=data
    )


def draw(found: Detections, image: Path | str | Image.Image | U8 | None) -> Image.Image:
    """Return a picture with boxes, classes and scores."""
    from PIL import Image

    from hardmine.inference.image_loading import open_item
    from hardmine.mining.sources.pool_source import open_image
    from hardmine.reports.drawing import draw_boxes
    from hardmine.reports.notebook import names_of

    if image is None:
        if found.path is None:
            raise ValueError("draw: these detections know no image; give one")
        image = found.path
    if isinstance(image, Path | str):
        image = open_item(open_image(str(image))).pixels
    elif isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    return draw_boxes(image, found, names_of(found))


def dataset_html(dataset: Dataset) -> str:
    """Return a dataset as a piece of HTML for a notebook."""
    from hardmine.reports.notebook import show_dataset

    return show_dataset(dataset)


def detections_html(found: Detections) -> str:
    """Return detections as a piece of HTML for a notebook."""
    from hardmine.reports.notebook import show_detections

    return show_detections(found)


def mining_html(result: MiningResult) -> str:
    """Return what mining found as a piece of HTML for a notebook."""
    from hardmine.reports.notebook import show_mining

    return show_mining(result)
