"""From any format to any other, states included."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hardmine.data.formats.coco import write_coco
from hardmine.data.formats.writers import write_voc, write_yolo
from hardmine.data.load_dataset import load_splits
from hardmine.errors import ConfigError, DataError
from hardmine.types import Dataset, ImageRecord

FORMATS = ("coco", "yolo", "voc")
_SPLITS = frozenset({"train", "val", "test"})


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was written: the folder, and the number of images of each split and of boxes."""

    out: Path
    images: dict[str, int]
    boxes: int
    ignored_boxes: int
    """Of ``boxes``; YOLO programs do not know the side file and take these for objects."""
    renamed: int
    """Images whose name was already taken by one from another folder."""


def convert(
    data: Dataset | Mapping[str, Dataset] | Path | str,
    out: Path | str,
    to: str,
    *,
    link: bool = False,
) -> Conversion:
    """Write a dataset in another format, with a copy of its images.

    The folder appears whole or not at all. Images come to lie in one folder per split (one for all
    in VOC); where two of different folders share a name, the second is named after its folder too.

    Args:
        data: one dataset, splits by name with the same categories, or a path to read them from.
        out: a folder that is missing or empty.
        to: ``coco``, ``yolo`` or ``voc``.
        link: make hard links instead of copies, where the file system can.

    Raises:
        ConfigError: an unknown format, or splits that the format has no name for.
        DataError: ``out`` holds something, an image cannot be copied, or the disk is full.
    """
    splits = _splits(data)
    target = Path(out)
    if to not in FORMATS:
        raise ConfigError(f"format {to!r}, wanted one of {', '.join(FORMATS)}")
    if to != "coco" and set(splits) != {"all"} and not _SPLITS.issuperset(splits):
        wanted = ", ".join(sorted(_SPLITS))
        raise ConfigError(f"splits {', '.join(splits)}: {to} has names for {wanted} only")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(f"{target}: exists and is not empty, wanted a new folder")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part"))
        try:
            renamed = _fill(splits, part, to, link)
            part.chmod(0o755)
            part.replace(target)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    except OSError as error:
        raise DataError(f"{target}: not converted ({error})") from error
    return _summary(splits, target, renamed)


def unique_names(paths: Sequence[Path]) -> list[str]:
    """Return a file name for each path, no two with the same stem (in any case).

    A name that is taken gets its folder's name in front, and then a number.
    """
    taken: set[str] = set()
    names: list[str] = []
    for path in paths:
        stem = path.stem
        if stem.lower() in taken:
            stem = f"{path.parent.name}_{path.stem}"
        number = 2
        while stem.lower() in taken:
            stem = f"{path.parent.name}_{path.stem}_{number}"
            number += 1
        taken.add(stem.lower())
        names.append(stem + path.suffix)
    return names


def _splits(data: Dataset | Mapping[str, Dataset] | Path | str) -> dict[str, Dataset]:
    if isinstance(data, Dataset):
        return {"all": data}
    splits = dict(data) if isinstance(data, Mapping) else load_splits(data)
    if len({dataset.categories for dataset in splits.values()}) != 1:
        raise ConfigError(f"splits {', '.join(splits)}: differ in their categories")
    return splits


def _fill(splits: Mapping[str, Dataset], out: Path, to: str, link: bool) -> int:
    """Write images and labels; return how many images were renamed."""
    records = [(name, record) for name, ds in splits.items() for record in ds.records]
    names = unique_names([record.path for _, record in records])
    moved: dict[str, list[ImageRecord]] = {name: [] for name in splits}
    for (split, record), name in zip(records, names, strict=True):
        path = _image_folder(out, split, to) / name
        copy_image(record.path, path, link)
        moved[split].append(replace(record, path=path))
    placed = {name: splits[name].with_records(records) for name, records in moved.items()}
    if to == "yolo":
        write_yolo(placed, out)
    elif to == "voc":
        write_voc(placed, out)
    else:
        for name, dataset in placed.items():
            file = out / "annotations" / f"instances_{name}.json"
            write_coco(dataset, file, images_root=_image_folder(out, name, to))
    return sum(name != record.path.name for (_, record), name in zip(records, names, strict=True))


def _image_folder(out: Path, split: str, to: str) -> Path:
    if to == "voc":
        return out / "JPEGImages"
    return out / "images" if split == "all" else out / "images" / split


def copy_image(source: Path, target: Path, link: bool) -> None:
    """Copy a file, or make a hard link to it where the file system can."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if link:
        try:
            os.link(source, target)
        except OSError:
            pass  # another file system, or one without links
        else:
            return
    shutil.copyfile(source, target)


def _summary(splits: Mapping[str, Dataset], out: Path, renamed: int) -> Conversion:
    records = [record for dataset in splits.values() for record in dataset.records]
    return Conversion(
        out,
        {name: len(dataset) for name, dataset in splits.items()},
        sum(len(record.labels) for record in records),
        sum(int(record.ignore.sum()) for record in records),
        renamed,
    )
