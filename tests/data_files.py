"""Small datasets on disk for the tests of reading, checking and converting."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hardmine.types import Dataset, ImageRecord, ImageState


def picture(seed: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    """Return coloured blobs; another seed looks different to a person and to the hash."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def put_image(path: Path, seed: int = 0, size: tuple[int, int] = (40, 30)) -> Path:
    """Save a picture, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed, size).save(path)
    return path


def put_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def voc_object(name: str, box: Sequence[object], difficult: int = 0) -> str:
    keys = ("xmin", "ymin", "xmax", "ymax")
    corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(keys, box, strict=True))
    return (
        f"<object><name>{name}</name><difficult>{difficult}</difficult>"
        f"<bndbox>{corners}</bndbox></object>"
    )


def voc_xml(
    objects: Iterable[str] = (),
    *,
    size: tuple[int, int] = (40, 30),
    filename: str = "",
    extra: str = "",
) -> str:
    return (
        f"<annotation><filename>{filename}</filename>{extra}"
        f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
        f"{''.join(objects)}</annotation>"
    )


def coco(
    images: Sequence[dict[str, Any]],
    annotations: Sequence[dict[str, Any]] = (),
    categories: Sequence[dict[str, Any]] = ({"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}),
) -> str:
    return json.dumps(
        {"images": images, "annotations": annotations, "categories": list(categories)}
    )


def coco_image(image_id: object, name: str, **more: Any) -> dict[str, Any]:
    return {"id": image_id, "file_name": name, "width": 40, "height": 30, **more}


def coco_box(
    image_id: object, box: Sequence[object], category: object = 1, **more: Any
) -> dict[str, Any]:
    return {"image_id": image_id, "bbox": list(box), "category_id": category, **more}


def kinds(dataset: Dataset) -> list[str]:
    return [problem.kind for problem in dataset.problems]


def by_name(dataset: Dataset) -> dict[str, ImageRecord]:
    return {record.path.name: record for record in dataset.records}


def states(dataset: Dataset) -> dict[str, ImageState]:
    return {record.path.name: record.state for record in dataset.records}


def real_data() -> Path:
    root = Path(__file__).parents[2]
    return Path(os.environ.get("HARDMINE_DATA") or root / "../shared/data").resolve()
