"""Recognising a dataset by looking at it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from hardmine.data.formats.coco import CocoSource
from hardmine.data.formats.csv_boxes import CsvSource, looks_like_boxes
from hardmine.data.formats.image_folder import list_files, list_images
from hardmine.data.formats.label_validation import RawSplit
from hardmine.data.formats.voc import VocSource
from hardmine.data.formats.yolo import (
    YoloSource,
    class_names,
    load_yaml,
    looks_like_labels,
    read_config,
)
from hardmine.errors import DataError

logger = logging.getLogger(__name__)

LOOKED_FOR = (
    "a YOLO data.yaml",
    "JPEGImages/ and Annotations/ (VOC)",
    "COCO json files in the folder or in annotations/",
    "images/ and labels/ or annotations/ with txt (YOLO) or xml (VOC) files",
    "folders train/, val/ (or valid/), test/ with one of these in each",
    "xml (VOC) or txt (YOLO) files beside the images",
    "csv files with the columns image, xmin, ymin, xmax, ymax, label",
)
"""What a folder may hold, in the order of looking; the first that fits is taken."""

_CANONICAL = {
    "train": "train",
    "training": "train",
    "trainval": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_SPLIT_WORD = re.compile(rf"(?<![a-z])({'|'.join(_CANONICAL)})(?![a-z])")
_COCO_KEYS = re.compile(rb'"(images|annotations)"\s*:\s*\[')
_PEEK = 65536


class Source(Protocol):
    """One split of a dataset that has been found and not read yet."""

    def read(self, *, empty_is_verified: bool = False) -> RawSplit:
        """Read it."""
        ...


Sources = Mapping[str, Source]


def find_sources(path: Path, images: Path | None = None) -> Sources:
    """Return what is recognised at ``path``, by split name (``all`` where there are no splits).

    Args:
        images: the folder of images, where it is elsewhere.

    Raises:
        DataError: nothing is recognised; the message lists what was looked for.
    """
    if images is not None and not images.is_dir():
        raise DataError(f"{images}: not a folder, wanted the folder of images")
    if path.is_file():
        return _from_file(path, images)
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder")
    found = _labels_elsewhere(path, images) if images is not None else _from_folder(path)
    if not found:
        number = len(list_images(path))
        raise DataError(
            f"{path}: no labelled data recognised ({number} images below it); looked for "
            + "; ".join(LOOKED_FOR)
        )
    order = [*dict.fromkeys(_CANONICAL.values())]
    return dict(sorted(found.items(), key=lambda item: (*order, item[0]).index(item[0])))


def split_of(name: str) -> str | None:
    """Return the split that a file or folder name tells of (``train2017`` → ``train``), or None."""
    words = [_CANONICAL[word] for word in _SPLIT_WORD.findall(name.lower())]
    return words[0] if words else None


def _from_file(path: Path, images: Path | None) -> Sources:
    suffix = path.suffix.lower()
    if suffix == ".json":
        return {"all": _coco_source(path, images)}
    if suffix in (".yaml", ".yml"):
        return read_config(path, images)
    if suffix in (".csv", ".tsv"):
        return {"all": _csv_source(path, images)}
    got = f"got a {suffix or 'suffixless'} file"
    raise DataError(f"{path}: {got}, wanted .json, .yaml, .csv or a folder")


def _from_folder(path: Path) -> Sources:
    looks: tuple[Callable[[Path], Sources], ...] = (
        _yaml_in,
        _voc_devkit,
        _coco_in,
        _side_by_side,
        _split_folders,
        _beside,
        _csv_in,
    )
    return next((found for look in looks if (found := look(path))), {})


def _yaml_in(path: Path) -> Sources:
    for file in sorted([*path.glob("*.yaml"), *path.glob("*.yml")]):
        if file.stem == "data" or "names" in load_yaml(file):
            return read_config(file)
    return {}


def _voc_devkit(path: Path) -> Sources:
    images, labels = path / "JPEGImages", path / "Annotations"
    if not (images.is_dir() and labels.is_dir()):
        return {}
    files = sorted((path / "ImageSets" / "Main").glob("*.txt"))
    lists = {file.stem: file for file in files if "_" not in file.stem}  # not aeroplane_train.txt
    chosen: dict[str, Path] = {
        name: lists[name] for name in ("train", "val", "test") if name in lists
    }
    if "trainval" in lists and "train" not in chosen:
        chosen["train"] = lists["trainval"]
    if not chosen:
        chosen = lists
    names = class_names(path)
    if not chosen:
        return {"all": VocSource(path, images, labels, None, names)}
    return {n: VocSource(path, images, labels, file, names) for n, file in chosen.items()}


def _coco_in(path: Path) -> Sources:
    folders = [path, path / "annotations", path / "Annotations"]
    files = [f for folder in folders for f in sorted(folder.glob("*.json")) if _is_coco(f)]
    instances = [file for file in files if file.name.startswith("instances")]
    files = instances or files
    if len(files) == 1:
        return {split_of(files[0].stem) or "all": _coco_source(files[0])}
    found: dict[str, Source] = {}
    for file in files:
        name = split_of(file.stem) or file.stem
        if name in found:
            listed = ", ".join(str(f.relative_to(path)) for f in files)
            raise DataError(f"{path}: several COCO files for {name!r} ({listed}); name one of them")
        found[name] = _coco_source(file)
    return found


def _is_coco(path: Path) -> bool:
    with path.open("rb") as file:
        return _COCO_KEYS.search(file.read(_PEEK)) is not None


def _coco_source(path: Path, images: Path | None = None) -> CocoSource:
    if images is not None:
        return CocoSource(images, path, (images,))
    here = path.parent
    root = here.parent if here.name.lower() == "annotations" else here
    stem = path.stem.removeprefix("instances_")
    names = [stem, split_of(stem) or stem]
    bases = [root / "images" / name for name in names] + [root / name for name in names]
    return CocoSource(root, path, (*dict.fromkeys(bases), root / "images", here, root))


def _csv_in(path: Path) -> Sources:
    """Return the splits of CSV files in the folder or in ``annotations``, by their names."""
    files = [
        file
        for folder in (path, path / "annotations")
        for file in sorted(folder.glob("*.csv"))
        if looks_like_boxes(file)
    ]
    if len(files) == 1:
        return {split_of(files[0].stem) or "all": _csv_source(files[0])}
    found: dict[str, Source] = {}
    for file in files:
        name = split_of(file.stem) or file.stem
        if name in found:
            listed = ", ".join(str(f.relative_to(path)) for f in files)
            raise DataError(f"{path}: several CSV files for {name!r} ({listed}); name one of them")
        found[name] = _csv_source(file)
    return found


def _csv_source(path: Path, images: Path | None = None) -> CsvSource:
    if images is not None:
        return CsvSource(images, path, (images,))
    here = path.parent
    root = here.parent if here.name.lower() == "annotations" else here
    name = split_of(path.stem)
    own = (root / "images" / name, root / name) if name else ()
    return CsvSource(root, path, (root, *own, root / "images"))


def _side_by_side(path: Path) -> Sources:
    images = next((p for p in (path / "images", path / "Images") if p.is_dir()), None)
    if images is None:
        return {}
    for name in ("labels", "annotations", "Annotations", "xmls"):
        labels = path / name
        if labels.is_dir() and (found := _pair(path, images, labels)):
            return found
    return {}


def _pair(root: Path, images: Path, labels: Path) -> Sources:
    """Return the splits of two folders with the same structure, one of images, one of labels."""
    folders = sorted(p for p in images.iterdir() if p.is_dir())
    loose = any(p.is_file() for p in images.iterdir())
    if folders and not loose and all(split_of(p.name) for p in folders):
        pairs = {split_of(p.name) or "": (p, labels / p.name) for p in folders}
    else:
        pairs = {"all": (images, labels)}
    if list_files(labels, {".xml"}):
        return {name: VocSource(root, *pair) for name, pair in pairs.items()}
    if list_files(labels, {".txt"}):
        names = class_names(root)
        return {n: YoloSource(root, (i,), names, label) for n, (i, label) in pairs.items()}
    return {}


def _labels_elsewhere(path: Path, images: Path) -> Sources:
    """Return the data of a folder of labels whose images lie in another folder."""
    files = [file for file in sorted(path.glob("*.json")) if _is_coco(file)]
    if files:
        return {split_of(file.stem) or file.stem: _coco_source(file, images) for file in files}
    tables = [file for file in sorted(path.glob("*.csv")) if looks_like_boxes(file)]
    if tables:
        return {split_of(file.stem) or file.stem: _csv_source(file, images) for file in tables}
    if list_files(path, {".xml"}):
        return {"all": VocSource(images, images, path)}
    if any(map(looks_like_labels, list_files(path, {".txt"}))):
        return {"all": YoloSource(images, (images,), class_names(path), path)}
    return {}


def _split_folders(path: Path) -> Sources:
    found: dict[str, Source] = {}
    for folder in sorted(p for p in path.iterdir() if p.is_dir()):
        name = _CANONICAL.get(folder.name.lower())
        if name is None:
            continue
        inner = _from_folder(folder)
        if not inner:
            logger.warning("%s: no labels recognised, left out", folder)
        elif len(inner) > 1:
            raise DataError(f"{folder}: holds the splits {', '.join(inner)}, wanted one dataset")
        else:
            found[name] = next(iter(inner.values()))
    return found


def _beside(path: Path) -> Sources:
    if not list_images(path):
        return {}
    if list_files(path, {".xml"}):
        return {"all": VocSource(path, path, path)}
    if any(map(looks_like_labels, list_files(path, {".txt"}))):
        return {"all": YoloSource(path, (path,), class_names(path), path)}
    return {}
