"""Writing COCO files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hardmine.data.formats.coco import SOURCE_KEY, STATE_KEY
from hardmine.data.formats.image_paths import relative_name
from hardmine.files import write_text
from hardmine.types import Dataset, ImageRecord


def write_coco(
    dataset: Dataset, path: Path | str, *, images_root: Path | str | None = None
) -> None:
    """Write a dataset as one standard COCO file, atomically.

    Every record is written with its state under ``hardmine_state``, which other programs skip: to
    them each image without annotations is a negative, so leave out what must not be trained on.

    Args:
        images_root: folder that ``file_name`` starts from, default the folder of ``path``. Images
            outside it get their absolute path.
    """
    target = Path(path)
    root = Path(images_root) if images_root is not None else target.parent
    images = [_image_entry(r, i, root.absolute()) for i, r in enumerate(dataset.records, start=1)]
    annotations: list[dict[str, Any]] = []
    for image_id, record in enumerate(dataset.records, start=1):
        _add_annotations(annotations, record, image_id)
    parts = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": n} for i, n in enumerate(dataset.categories, start=1)],
    }
    lines = ",\n".join(f'"{key}": {_one_per_line(entries)}' for key, entries in parts.items())
    write_text(target, f"{{\n{lines}\n}}\n")


def _image_entry(record: ImageRecord, image_id: int, root: Path) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "id": image_id,
        "file_name": relative_name(record.path.absolute(), root),
        "width": record.width,
        "height": record.height,
        STATE_KEY: record.state.value,
    }
    return entry | ({SOURCE_KEY: record.source} if record.source else {})


def _add_annotations(out: list[dict[str, Any]], record: ImageRecord, image_id: int) -> None:
    rows = zip(record.boxes.tolist(), record.labels.tolist(), record.ignore.tolist(), strict=True)
    for (x0, y0, x1, y1), label, ignore in rows:
        width, height = x1 - x0, y1 - y0
        out.append(
            {
                "id": len(out) + 1,
                "image_id": image_id,
                "category_id": label,
                "bbox": [x0, y0, width, height],
                "area": width * height,
                "iscrowd": int(ignore),
            }
        )


def _one_per_line(entries: Sequence[Mapping[str, Any]]) -> str:
    if not entries:
        return "[]"
    rows = (json.dumps(entry, ensure_ascii=False, allow_nan=False) for entry in entries)
    return "[\n" + ",\n".join(rows) + "\n]"
