"""FiftyOne's image detection dataset: ``labels.json`` beside ``data/``; written only.

Boxes that a model suggests have a confidence.

Source: FiftyOne, "Importing data", ``FiftyOneImageDetectionDataset``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hardmine.data.formats.label_format import ALL, LabelSet, Writer
from hardmine.files import write_text
from hardmine.types import ImageRecord


def write_fiftyone(labels: LabelSet, out: Path) -> None:
    """Write ``labels.json`` beside each folder ``data`` (one per split, where there are several)."""
    del out
    folders: dict[Path, dict[str, Any]] = {}
    for dataset in labels.splits.values():
        for record in dataset.records:
            known = record.path in labels.scores or record.state.is_trainable
            found = folders.setdefault(record.path.parent.parent, {})
            found[record.path.stem] = _objects(labels, record) if known else None
    for folder, objects in folders.items():
        value = {"classes": list(labels.categories), "labels": objects}
        text = json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False)
        write_text(folder / "labels.json", text + "\n")


def _objects(labels: LabelSet, record: ImageRecord) -> list[dict[str, Any]]:
    """Return an image's boxes; places and sizes are shares of the image."""
    found = []
    for (x0, y0, x1, y1), name, score in labels.shown_boxes(record):
        share = [x0 / record.width, y0 / record.height]
        share += [(x1 - x0) / record.width, (y1 - y0) / record.height]
        item: dict[str, Any] = {
            "label": labels.categories.index(name),
            "bounding_box": share,
        }
        found.append(item | ({} if score is None else {"confidence": score}))
    return found


WRITER = Writer(
    write_fiftyone, lambda split: "data" if split == ALL else f"{split}/data", any_split=True
)
