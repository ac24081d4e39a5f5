"""YOLO data written whole: label files beside the images, and the ``data.yaml`` of Ultralytics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from hardmine.data.formats.image_files import relative_name, stem_name
from hardmine.data.formats.image_states import (
    Mark,
    has_label_file,
    mark_of,
    write_marks,
    write_plain,
)
from hardmine.data.formats.label_format import ALL, LabelSet, below_images
from hardmine.data.formats.yolo_config import ONLY_REPEATS
from hardmine.plurals import counted
from hardmine.types import ImageRecord

_REPEATED = (
    "data.yaml names {folder} as {name} too, since other programs want both train and val: what is "
    "measured there was trained on; split the data first (hardmine split DATA OUT --copy)"
)
_PASSED_OVER = (
    "Ultralytics passes over {images} ending in {suffixes} without a word; save as .jpg or .png"
)
READ_BY_ULTRALYTICS = frozenset(
    (".bmp", ".dng", ".heic", ".jpeg", ".jpg", ".mpo", ".pfm", ".png", ".tif", ".tiff", ".webp")
)
"""Suffixes of the images that it reads (`IMG_FORMATS`, version 8.4)."""


def warn_of_suffixes(names: Iterable[str]) -> list[str]:
    """Return what to say of images whose suffix Ultralytics does not read, if there are any."""
    suffixes = [Path(name).suffix.lower() for name in names]
    unread = sorted(set(suffixes) - READ_BY_ULTRALYTICS)
    if not unread:
        return []
    count = sum(suffix in unread for suffix in suffixes)
    return [_PASSED_OVER.format(images=counted(count, "image"), suffixes=", ".join(unread))]


def write_yolo(labels: LabelSet, out: Path) -> Sequence[str]:
    """Write label files beside ``out/images``, and a ``data.yaml`` that Ultralytics trains on.

    The images of split ``train`` lie in ``out/images/train``; those of ``all`` in ``out/images``,
    which the ``data.yaml`` then calls ``train``. Without ``path`` in it, its own folder counts, from
    whatever folder a training is started. It must name ``train`` and ``val``: where there is no such
    split, the name stands for another one's images, and ``only_repeats`` says so.

    Returns:
        What to say of it.
    """
    folders: dict[str, str] = {}
    for name, dataset in labels.splits.items():
        part = "" if name == ALL else name
        images, folder = out / below_images(name), out / "labels" / part
        marks: dict[str, Mark] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for record in dataset.records:
            if has_label_file(record):
                path = folder / f"{stem_name(record.path, images)}.txt"
                write_plain(path, "".join(_yolo_lines(record)))
            ignored = frozenset(record.ignore.nonzero()[0].tolist())
            marks[relative_name(record.path, images)] = mark_of(record, ignored)
        write_marks(folder, marks)
        folders["train" if name == ALL else name] = below_images(name)
    config: dict[str, object] = {}
    repeated = [name for name in ("train", "val") if name not in folders]
    stand_in = folders[next(name for name in ("train", "val", "test") if name in folders)]
    config |= dict.fromkeys(repeated, stand_in) | folders
    if repeated:
        config[ONLY_REPEATS] = repeated
    config["names"] = dict(enumerate(labels.categories))
    write_plain(out / "data.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    names = (record.path.name for dataset in labels.splits.values() for record in dataset.records)
    said = [_REPEATED.format(name=name, folder=stand_in) for name in repeated]
    return [*said, *warn_of_suffixes(names)]


def _yolo_lines(record: ImageRecord) -> list[str]:
    lines: list[str] = []
    for (x0, y0, x1, y1), label in zip(record.boxes.tolist(), record.labels.tolist(), strict=True):
        cx, width = (x0 + x1) / 2 / record.width, (x1 - x0) / record.width
        cy, height = (y0 + y1) / 2 / record.height, (y1 - y0) / record.height
        lines.append(f"{label - 1} {cx:.10g} {cy:.10g} {width:.10g} {height:.10g}\n")
    return lines
