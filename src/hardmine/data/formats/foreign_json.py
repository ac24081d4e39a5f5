"""JSON files that are no labels in a format that is read: whose they are, and what to do with them.

A row of ``_PROGRAMS`` names a program by the keys of its file; of a list, the keys of the first entry
count. Files of detections are told from labels here, too, since both are called ``.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PREDICTIONS = (
    "detections of a model, which are no labels: give the file to val or mine in place of a model, "
    "and name the labels here"
)
_EXPORT = "export from it as {}"

_PROGRAMS: tuple[tuple[frozenset[str], str, str], ...] = (
    (frozenset({"images", "detection_categories"}), "MegaDetector's results", _PREDICTIONS),
    (frozenset({"predictions"}), "SpeciesNet's results", _PREDICTIONS),
    (frozenset({"bbox", "score"}), "a list of detections", _PREDICTIONS),
    (frozenset({"box", "confidence"}), "a list of detections", _PREDICTIONS),
    (frozenset({"bboxes", "scores"}), "detections by image", _PREDICTIONS),
    (frozenset({"boxes", "scores"}), "detections by image", _PREDICTIONS),
    (
        frozenset({"candidates"}),
        "the candidates of a run of mine",
        "look at them with review, or give them to convert with --to labelstudio, cvat or fiftyone",
    ),
    (
        frozenset({"items", "categories"}),
        "Datumaro's own format",
        _EXPORT.format("COCO (datum convert -f coco_instances)"),
    ),
    (frozenset({"objects", "tags", "size"}), "Supervisely", _EXPORT.format("COCO or Pascal VOC")),
    (frozenset({"classes", "tags"}), "Supervisely", _EXPORT.format("COCO or Pascal VOC")),
    (
        frozenset({"shapes", "imagePath"}),
        "LabelMe's labels of one image",
        "name the folder that holds them and the pictures",
    ),
    (
        frozenset({"samples"}),
        "FiftyOne's own format",
        _EXPORT.format("FiftyOneImageDetectionDataset or COCODetectionDataset"),
    ),
    (frozenset({"data_row"}), "Labelbox", _EXPORT.format("COCO")),
    (
        frozenset({"name", "labels"}),
        "BDD100K (Scalabel)",
        "turn it into COCO with scalabel.label.to_coco",
    ),
    (frozenset({"item", "annotations"}), "V7 Darwin", _EXPORT.format("COCO")),
    (frozenset({"type", "features"}), "GeoJSON", "write the shapes as COCO, in pixels"),
)
"""The keys that a file has, whose it is, what to do; the first row that fits is taken."""


def whose_json(content: Any) -> str:
    """Return what a file looks like and what to do, as a part of a sentence; "" where nobody knows.

    Args:
        content: what the file holds.

    Example:
        >>> whose_json([{"data_row": {}}])
        'looks like Labelbox; export from it as COCO'
    """
    found = content
    if isinstance(content, list):
        found = next(iter(content), None)
    elif isinstance(content, Mapping) and len(content) and not _row_of(content):
        found = next(iter(content.values()))  # by the name of the image
    row = _row_of(found)
    return "" if row is None else f"looks like {row[1]}; {row[2]}"


def _row_of(value: Any) -> tuple[frozenset[str], str, str] | None:
    if not isinstance(value, Mapping):
        return None
    return next((row for row in _PROGRAMS if row[0] <= value.keys()), None)
