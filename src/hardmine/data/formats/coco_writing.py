"""COCO written: one file per split, one in each folder of a split (RF-DETR, Roboflow), and added to.

``WRITER`` is the layout of RF-DETR and Roboflow: a folder per split with ``_annotations.coco.json``
in it, read back as COCO in folders of splits (`coco`). RF-DETR asks for ``train`` and ``valid`` and
takes the categories that have a ``supercategory`` other than ``none``.

Source: RF-DETR, "Train an RF-DETR model", dataset format.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hardmine.data.formats.image_files import relative_name
from hardmine.data.formats.label_format import (
    ALL,
    Additions,
    LabelSet,
    NewImage,
    Writer,
    below_images,
    pictures_in,
    usual_folder,
    written_as,
)
from hardmine.errors import DataError
from hardmine.files import plain_name, read_json, write_text
from hardmine.types import Dataset, ImageRecord, ImageState

STATE_KEY = "hardmine_state"
SOURCE_KEY = "hardmine_source"

INSTANCES = "instances"
"""What the name of a COCO file begins with."""
_FILE = "_annotations.coco.json"
_FOLDERS = {ALL: "train", "train": "train", "val": "valid", "test": "test"}


def write_coco(
    dataset: Dataset,
    path: Path | str,
    *,
    images_root: Path | str | None = None,
    supercategory: str = "",
) -> None:
    """Write a dataset as one standard COCO file, atomically.

    Every record is written with its state under ``hardmine_state``, which other programs skip: to
    them each image without annotations is a negative, so leave out what must not be trained on.

    Args:
        images_root: folder that ``file_name`` starts from, default the folder of ``path``. Images
            outside it get their absolute path.
        supercategory: written into each category, for programs that ask for one.
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
        "categories": [
            {"id": i, "name": n} | ({"supercategory": supercategory} if supercategory else {})
            for i, n in enumerate(dataset.categories, start=1)
        ],
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


def write_splits(labels: LabelSet, out: Path) -> Sequence[str]:
    """Write a file per split into ``annotations/``, as COCO itself is laid out."""
    for name, dataset in labels.splits.items():
        file = out / "annotations" / f"{INSTANCES}_{name}.json"
        write_coco(dataset, file, images_root=out / below_images(name))
    return ()


def write_rfdetr(labels: LabelSet, out: Path) -> Sequence[str]:
    """Write the JSON file beside the images of each split."""
    for name, dataset in labels.splits.items():
        write_coco(dataset, out / _FOLDERS[name] / _FILE, supercategory="object")
    missing = [folder for folder in ("train", "valid") if not (out / folder).is_dir()]
    return [
        f"there is no {folder}/, and RF-DETR asks for it; split the data first (hardmine split)"
        for folder in missing
    ]


WRITER = Writer(write_rfdetr, lambda split: _FOLDERS[split], bare_is_empty=True)


def append_coco(file: Path, split: Dataset, images: Sequence[NewImage]) -> Additions:
    """Add images and annotations to the file; all else in it stays as it is."""
    data = read_json(file)
    folder = usual_folder(split)
    known = next(record.path for record in split.records if record.path.parent == folder)
    classes = [entry for entry in data.get("categories") or () if isinstance(entry, dict)]
    numbers = {plain_name(entry.get("name")): entry.get("id") for entry in classes}
    found = Additions(pictures=pictures_in(folder, images))
    written = [entry_name(entry) for entry in data["images"]]
    outlined = any(
        "segmentation" in e for e in data.get("annotations") or () if isinstance(e, dict)
    )
    next_image, next_object = (_next_id(data.get(key) or []) for key in ("images", "annotations"))
    for image_id, image in enumerate(images, start=next_image):
        state = ImageState.LABELLED if image.classes else ImageState.VERIFIED_EMPTY
        data["images"].append(
            {
                "id": image_id,
                "file_name": written_as(image, written, known, split.root),
                "width": image.width,
                "height": image.height,
                STATE_KEY: state.value,
            }
        )
        for (x0, y0, x1, y1), name in zip(image.boxes.tolist(), image.classes, strict=True):
            if name not in numbers:
                wanted = ", ".join(numbers)
                raise DataError(f"{file}: has no class {name!r}, wanted {wanted}")
            entry = {"id": next_object, "image_id": image_id, "category_id": numbers[name]}
            width, height = x1 - x0, y1 - y0
            entry |= {"bbox": [x0, y0, width, height], "area": width * height, "iscrowd": 0}
            if outlined:  # trainers of masks ask each object for it
                entry["segmentation"] = [[x0, y0, x1, y0, x1, y1, x0, y1]]
            data.setdefault("annotations", []).append(entry)
            next_object += 1
    found.edits[file] = json.dumps(data, ensure_ascii=False).encode()
    return found


def _next_id(entries: Sequence[Mapping[str, Any]]) -> int:
    """Return a number above all ids; those that are no numbers clash with none."""
    known = (_whole_number(e.get("id")) for e in entries if isinstance(e, dict))
    return max((number for number in known if number is not None), default=0) + 1


def _whole_number(value: Any) -> int | None:
    is_text_of_one = isinstance(value, str) and value.strip().isdecimal()
    return int(value) if isinstance(value, int) or is_text_of_one else None


def entry_name(entry: Any) -> str:
    """Return the ``file_name`` of an image's entry, or nothing where it has none.

    LVIS has a ``coco_url`` alone, whose last part is the name of the file.
    """
    if not isinstance(entry, dict):
        return ""
    name, url = entry.get("file_name"), entry.get("coco_url")
    if name is None and isinstance(url, str):
        return url.rpartition("/")[2]
    return name if isinstance(name, str) else ""
