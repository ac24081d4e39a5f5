"""From any format to any other, states included."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hardmine.data.cut_tiles import Tiles, cut_into_tiles
from hardmine.data.formats.format_table import LabelFormat, written_format
from hardmine.data.formats.label_format import ALL, SPLITS, LabelSet
from hardmine.data.quality.usable_data import load_usable
from hardmine.errors import ConfigError, DataError
from hardmine.files import clear_disk_errors, write_json
from hardmine.plurals import counted
from hardmine.types import F32, Dataset, ImageRecord, ImageState

TILES = ".tiles"
"""The folder in which tiles lie until they are placed."""
NAMES_FILE = "image_names.json"
"""The file, written for a labelling program, that says which image each picture is a copy of."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was written: the folder, and the number of images of each split and of boxes."""

    out: Path
    images: dict[str, int]
    boxes: int
    ignored_boxes: int
    """How many of ``boxes`` are to be ignored; other programs take these for objects."""
    predicted_boxes: int
    """How many of ``boxes`` are those of a model."""
    renamed: int
    """Images whose name was already taken by one from another folder."""
    remarks: tuple[str, ...] = ()
    """What to know of it before it is used, in whole sentences."""
    left_out_boxes: int = 0
    """Objects that a labelling program does not get, since their image is not labelled."""

    @property
    def num_images(self) -> int:
        """Images of all splits."""
        return sum(self.images.values())

    @property
    def annotated_boxes(self) -> int:
        """Boxes that a person drew and that are objects."""
        return self.boxes - self.ignored_boxes - self.predicted_boxes - self.left_out_boxes


def convert(
    data: Dataset | Mapping[str, Dataset] | Path | str,
    out: Path | str,
    to: str,
    *,
    link: bool = False,
    tile: int | None = None,
    scores: Mapping[Path, F32] | None = None,
    model: str = "hardmine",
    origins: Mapping[Path, str] | None = None,
) -> Conversion:
    """Write a dataset in another format, with a copy of its images, or cut into tiles.

    The folder appears whole or not at all. Images come to lie where the format wants them, mostly in
    one folder per split; where two of different folders share a name, the second is named after its
    folder too.

    Args:
        data: one dataset, splits by name with the same categories, or a path to read them from.
        out: a folder that is missing or empty.
        to: the name of a format that `format_table` can write (``coco``, ``yolo``, ``voc`` …).
        link: make hard links instead of copies, where the file system can.
        tile: cut each image into overlapping squares of this side, px (`cut_into_tiles`).
        scores: f32[N] by image, for images whose boxes are a model's and not a person's; only formats
            of labelling programs take them.
        model: named as the source of those boxes.
        origins: by image, what it is a copy of, where that is not its path; for labelling programs,
            whose folder gets an ``image_names.json`` that says it.

    Raises:
        ConfigError: an unknown format, or splits or scores that the format has no place for.
        DataError: ``out`` holds something, an image cannot be copied, or the disk is full.

    Example:
        >>> written = hardmine.convert("shelf", "shelf_yolo", "yolo")
        >>> written.images, written.boxes
        ({'all': 12}, 12)
    """
    splits = _splits(data)
    target = Path(out)
    row = written_format(to)
    _check_fits(row, splits, scores)
    tiles = None if tile is None else Tiles(tile)
    if tiles is not None and row.for_labelling:
        raise ConfigError(f"format {row.name!r}: gets whole images, not tiles")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(f"{target}: exists and is not empty, wanted a new folder")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part"))
        try:
            with clear_disk_errors(target):  # before the part is removed, which frees its space
                said: list[str] = []
                if tiles is not None:
                    splits, too_large = cut_into_tiles(splits, tiles, part / TILES)
                    said = _lost(too_large, tiles)
                labels, renamed = _place(splits, part, row, link, scores or {})
                shutil.rmtree(part / TILES, ignore_errors=True)
                said += [*_lost_states(row, labels), *_lost_boxes(row, labels)]
                remarks = [*said, *row.writer.write(replace(labels, model=model), part)]
                if row.for_labelling:
                    write_json(part / NAMES_FILE, {"copies": _copies(splits, origins or {})})
            part.chmod(0o755)
            part.replace(target)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    except OSError as error:
        raise DataError(f"{target}: not converted ({error})") from error
    done = _summary(labels, target, renamed, tuple(remarks))
    return replace(done, left_out_boxes=_left_out(labels)) if row.for_labelling else done


def _lost(boxes: int, tiles: Tiles) -> list[str]:
    """Say how many objects are lost because no tile holds half of them."""
    if not boxes:
        return []
    ones = counted(boxes, "object is", "objects are")
    return [f"{ones} too large for tiles of {tiles.size} px: no tile holds half, so all ignore it"]


def _lost_states(row: LabelFormat, labels: LabelSet) -> list[str]:
    """Say what is known of images and what the format, or others that read it, cannot know."""
    counts = Counter(record.state for record in _unscored(labels))
    lost = [f"{counts[s]} '{s}'" for s in ImageState if counts[s] and s not in row.writer.states]
    unsure = [f"{counts[s]} '{s}'" for s in ImageState if counts[s] and not s.is_trainable]
    if row.writer.bare_is_empty and unsure:
        return [
            "programs that know no states train on these images as they are labelled, or as empty ones: "
            + ", ".join(unsure)
        ]
    if not lost:
        return []
    return [
        f"{row.name} has no place for the state of these images: {', '.join(lost)}; read from there, "
        "they are 'unreviewed'"
    ]


def _lost_boxes(row: LabelFormat, labels: LabelSet) -> list[str]:
    """Say which boxes a labelling program does not get."""
    if not row.for_labelling:
        return []
    looked_at = [r for r in _unscored(labels) if r.state.is_looked_at]
    ignored = sum(int(record.ignore.sum()) for record in looked_at)
    alone = sum(not labels.is_said(record) for record in looked_at)
    images = counted(alone, "image with no other box is", "images with no other box are")
    said = []
    if ignored:
        rest = f"; read from there, {images} 'unreviewed'" if alone else ""
        said.append(f"{row.name} has no place for boxes to be ignored: {ignored} left out{rest}")
    if left_out := _left_out(labels):
        said.append(f"boxes of images that are not 'labelled' are left out: {left_out}")
    return said


def _unscored(labels: LabelSet) -> list[ImageRecord]:
    """Return the images whose boxes are not a model's."""
    records = (record for dataset in labels.splits.values() for record in dataset.records)
    return [record for record in records if record.path not in labels.scores]


def _left_out(labels: LabelSet) -> int:
    """Return how many objects lie in images that are not labelled."""
    unsure = (record for record in _unscored(labels) if not record.state.is_looked_at)
    return sum(int((~record.ignore).sum()) for record in unsure)


def _copies(splits: Mapping[str, Dataset], origins: Mapping[Path, str]) -> dict[str, str]:
    """Return by the name of each picture what it is a copy of."""
    paths = [record.path for dataset in splits.values() for record in dataset.records]
    return {
        name: origins.get(path, str(path))
        for name, path in zip(unique_names(paths), paths, strict=True)
    }


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
    splits = dict(data) if isinstance(data, Mapping) else load_usable(data)
    if len({dataset.categories for dataset in splits.values()}) != 1:
        raise ConfigError(f"splits {', '.join(splits)}: differ in their categories")
    return splits


def _check_fits(
    row: LabelFormat, splits: Mapping[str, Dataset], scores: Mapping[Path, F32] | None
) -> None:
    if not row.writer.any_split and set(splits) != {ALL} and not set(SPLITS).issuperset(splits):
        wanted = ", ".join(SPLITS)
        raise ConfigError(f"splits {', '.join(splits)}: {row.name} has names for {wanted} only")
    if scores and not row.for_labelling:
        raise ConfigError(f"format {row.name!r}: has no place for a model's boxes and their scores")


def _place(
    splits: Mapping[str, Dataset],
    out: Path,
    row: LabelFormat,
    link: bool,
    scores: Mapping[Path, F32],
) -> tuple[LabelSet, int]:
    """Copy the images; return the splits with their new paths, and how many images were renamed."""
    records = [(name, record) for name, ds in splits.items() for record in ds.records]
    names = unique_names([record.path for _, record in records])
    moved: dict[str, list[ImageRecord]] = {name: [] for name in splits}
    moved_scores: dict[Path, F32] = {}
    for (split, record), name in zip(records, names, strict=True):
        one = row.for_labelling and len(splits) == 1
        path = out / row.writer.image_folder(ALL if one else split) / name
        copy_image(record.path, path, link)
        moved[split].append(replace(record, path=path))
        if record.path in scores:
            moved_scores[path] = scores[record.path]
    placed = {name: splits[name].with_records(records) for name, records in moved.items()}
    renamed = sum(n != record.path.name for (_, record), n in zip(records, names, strict=True))
    return LabelSet(placed, moved_scores), renamed


def copy_image(source: Path, target: Path, link: bool) -> None:
    """Copy a file, or make a hard link to it where the file system can."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if link:
        try:
            os.link(source.resolve(), target)  # a link to a symbolic link would lead nowhere
        except OSError:
            pass  # another file system, or one without links
        else:
            return
    shutil.copyfile(source, target)


def _summary(labels: LabelSet, out: Path, renamed: int, remarks: tuple[str, ...]) -> Conversion:
    records = [record for dataset in labels.splits.values() for record in dataset.records]
    return Conversion(
        out,
        {name: len(dataset) for name, dataset in labels.splits.items()},
        sum(len(record.labels) for record in records),
        sum(int(record.ignore.sum()) for record in records),
        sum(len(record.labels) for record in records if record.path in labels.scores),
        renamed,
        remarks,
    )
