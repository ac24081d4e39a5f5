"""COCO as RF-DETR and Roboflow lay it out: a folder per split with ``_annotations.coco.json`` in it.

Written only; read, such folders are COCO in folders of splits (`coco`). RF-DETR asks for ``train`` and
``valid`` and takes the categories that have a ``supercategory`` other than ``none``.

Source: RF-DETR, "Train an RF-DETR model", dataset format.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hardmine.data.formats.coco import write_coco
from hardmine.data.formats.label_format import ALL, LabelSet, Writer

_FILE = "_annotations.coco.json"
_FOLDERS = {ALL: "train", "train": "train", "val": "valid", "test": "test"}


def write_rfdetr(labels: LabelSet, out: Path) -> Sequence[str]:
    """Write the JSON file beside the images of each split."""
    for name, dataset in labels.splits.items():
        write_coco(dataset, out / _FOLDERS[name] / _FILE, supercategory="object")
    missing = [folder for folder in ("train", "valid") if not (out / folder).is_dir()]
    return [
        f"there is no {folder}/, and RF-DETR asks for it; split the data first (hardmine split)"
        for folder in missing
    ]


WRITER = Writer(write_rfdetr, lambda split: _FOLDERS[split])
