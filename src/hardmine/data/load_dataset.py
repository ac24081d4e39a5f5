"""Reading whatever labelled data people have, recognised by looking at it.

What lies in a folder of data and was not read is named: nothing is passed over without a word. Which
files are looked at for this follows from the rows of `format_table`; other files (notes, models,
configurations) are nobody's business.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from hardmine.data.formats.format_table import READ
from hardmine.data.formats.image_files import (
    PassedOver,
    list_files,
    list_images,
    load_images,
    plain_path,
    relative_name,
)
from hardmine.data.formats.label_validation import RawSplit, build_dataset, merge_names
from hardmine.data.formats.recognise import find_sources
from hardmine.errors import DataError
from hardmine.finding_kinds import FindingKind
from hardmine.types import Dataset, ImageState, Problem

__all__ = [
    "build_splits",
    "choose_split",
    "load_dataset",
    "load_images",
    "load_splits",
    "read_splits",
    "report_loaded",
    "split_to_look_at",
]

logger = logging.getLogger(__name__)


def load_splits(
    path: Path | str,
    *,
    images: Path | str | None = None,
    categories: Sequence[str] | None = None,
    empty_is_verified: bool = False,
) -> dict[str, Dataset]:
    """Read every split of a dataset, all with one class list.

    Args:
        path: a COCO json, a YOLO ``data.yaml``, or a folder in one of the layouts that
            `hardmine.data.formats.recognise` lists.
        images: the folder of images, where it is not found beside the labels.
        categories: the class list to use; default: as declared, or gathered and sorted (VOC).
        empty_is_verified: take images without annotations as verified negatives, not as unreviewed.

    Returns:
        The splits by name: ``train``, ``val`` and ``test`` as far as there are any, or ``all`` for
        data without splits.

    Raises:
        DataError: nothing is recognised (the message lists what was looked for), or a file that
            all others depend on is broken. Lesser faults become `Dataset.problems`.
    """
    raws = read_splits(path, images=images, empty_is_verified=empty_is_verified)
    datasets = build_splits(raws, categories)
    for name, dataset in datasets.items():
        report_loaded(f"{path} ({name})", dataset)
    for problem in passed_over(path, raws):
        logger.warning("%s: %s", path, problem)
    return datasets


def read_splits(
    path: Path | str, *, images: Path | str | None = None, empty_is_verified: bool = False
) -> dict[str, RawSplit]:
    """Read what the label files say, box by box and unjudged; arguments as for `load_splits`.

    Raises:
        DataError: nothing is recognised, or a file that all others depend on is broken.
    """
    sources = find_sources(plain_path(path), None if images is None else plain_path(images))
    raws = {name: s.read(empty_is_verified=empty_is_verified) for name, s in sources.items()}
    next(iter(raws.values())).problems += names_alike(raws)
    return raws


def build_splits(
    raws: Mapping[str, RawSplit], categories: Sequence[str] | None = None
) -> dict[str, Dataset]:
    """Judge what was read and return the splits, all with one class list."""
    names = tuple(categories) if categories is not None else merge_names(list(raws.values()))
    return {name: build_dataset(raw, names) for name, raw in raws.items()}


def load_dataset(
    path: Path | str,
    *,
    images: Path | str | None = None,
    split: str | None = None,
    categories: Sequence[str] | None = None,
    empty_is_verified: bool = False,
) -> Dataset:
    """Read one dataset; of data with several splits, the one that ``split`` names.

    The class list is that of all splits. See `load_splits` for the other arguments.

    Raises:
        DataError: as `load_splits`, and where there are several splits and none is chosen, or the
            chosen one does not exist.

    Example:
        >>> hardmine.load_dataset("shelf")
        Dataset(shelf: 12 images (8 labelled, 4 verified_empty), 12 objects (bottle 6, can 6))
    """
    found = load_splits(
        path, images=images, categories=categories, empty_is_verified=empty_is_verified
    )
    return choose_split(found, path, split)


def choose_split(
    found: Mapping[str, Dataset], path: Path | str, split: str | None = None
) -> Dataset:
    """Return the split of a name, or the only one.

    Raises:
        DataError: there are several and none is chosen, or the chosen one does not exist.
    """
    if split is None and len(found) == 1:
        return next(iter(found.values()))
    if split is None or split not in found:
        wanted = "none was chosen" if split is None else f"not {split!r}"
        raise DataError(f"{path}: has the splits {', '.join(found)}; {wanted}")
    return found[split]


def split_to_look_at(splits: Collection[str], split: str | None, path: Path | str) -> str:
    """Return the name of the split that is meant: the given one, else "train" where there are several.

    Raises:
        DataError: there is no split of that name.
    """
    chosen = split or ("train" if "train" in splits else next(iter(splits)))
    if chosen not in splits:
        raise DataError(f"{path}: has the splits {', '.join(splits)}; not {chosen!r}")
    return chosen


def recognised_formats(path: Path | str, *, images: Path | str | None = None) -> set[str]:
    """Return the formats of what is recognised at a path, by their names in `format_table`.

    Raises:
        DataError: nothing is recognised.
    """
    sources = find_sources(plain_path(path), None if images is None else plain_path(images))
    return {source.format for source in sources.values()}


def report_loaded(name: str, dataset: Dataset) -> None:
    """Say what would otherwise be overlooked: unreviewed images, ignored boxes, problems."""
    unreviewed = dataset.count_states().get(ImageState.UNREVIEWED, 0)
    if unreviewed:
        logger.warning(
            "%s: %d of %d images are not labelled and not verified empty: they are 'unreviewed' "
            "and will not be trained on (see empty_is_verified)",
            name,
            unreviewed,
            len(dataset),
        )
    boxes = sum(len(record.labels) for record in dataset.records)
    ignored = sum(int(record.ignore.sum()) for record in dataset.records)
    if ignored:
        logger.warning(
            "%s: %d of %d boxes are to be ignored (iscrowd, difficult): neither trained on nor "
            "counted",
            name,
            ignored,
            boxes,
        )
    if dataset.problems:
        logger.warning(
            "%s: %d problems, the first: %s", name, len(dataset.problems), dataset.problems[0]
        )


_LOOKED_AT = 3
"""Files of a folder that are opened to see whether they look like labels."""


def passed_over(data: Path | str, raws: Mapping[str, RawSplit]) -> list[Problem]:
    """Return what to say of the images and label files below a folder that no split has.

    Args:
        data: what the user named; of a file nothing is said, since others may lie beside it.
        raws: what was read from it.
    """
    folder = plain_path(data)
    if not folder.is_dir():
        return []
    images = {image.path for raw in raws.values() for image in raw.images}
    named = {
        raw.root / name
        for raw in raws.values()
        for name in (
            *(image.file for image in raw.images),
            *(problem.file for problem in raw.problems),
        )
    }
    looked = PassedOver()
    left = [
        path for path in list_images(folder, looked) if path not in images and path not in named
    ]
    problems = looked.problems()
    if left:
        reason = _counted(len(left), "image is in no split", "images are in no split")
        name = relative_name(left[0], folder)
        problems.append(Problem(FindingKind.IMAGES_NOT_READ, name, -1, reason))
    stems = {Path(problem.file).stem for raw in raws.values() for problem in raw.problems}
    for words, files in _unread_labels(folder, named, stems).items():
        kind = words.split(":")[0]
        one, many = (
            f"file looks like {kind} labels and is",
            f"files look like {kind} labels and are",
        )
        reason = _counted(len(files), f"{one} not read", f"{many} not read")
        name = relative_name(files[0], folder)
        problems.append(Problem(FindingKind.LABELS_NOT_READ, name, -1, reason))
    return problems


def _counted(number: int, one: str, many: str) -> str:
    return f"1 {one}" if number == 1 else f"{number} {many} (here the first)"


def names_alike(raws: Mapping[str, RawSplit]) -> list[Problem]:
    """Return what to say of class names that differ in capital letters only."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in merge_names(list(raws.values())):
        alike[name.casefold()].append(name)
    return [
        Problem(
            FindingKind.CLASS_NAMES_ALIKE,
            ", ".join(raws),
            -1,
            f"{' and '.join(map(repr, names))} differ in capital letters only; "
            "taken as different classes",
        )
        for names in alike.values()
        if len(names) > 1
    ]


def _unread_labels(folder: Path, read: set[Path], stems: set[str]) -> dict[str, list[Path]]:
    """Return the label files that were not read, by their format in words.

    Those of an image that a problem names (``stems``) are not meant.
    """
    groups: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for path in list_files(folder, {suffix for suffix, _, _ in _LOOKS}):
        if path not in read and path.stem not in stems:
            groups[path.parent, path.suffix.lower()].append(path)
    found: dict[str, list[Path]] = defaultdict(list)
    for (_, suffix), paths in groups.items():
        words = _format_of(paths, suffix)
        if words is not None:
            found[words] += paths
    return found


def _format_of(paths: Sequence[Path], suffix: str) -> str | None:
    for path in [path for path in paths if path.stat().st_size][:_LOOKED_AT]:
        for known, words, looks_right in _LOOKS:
            try:
                if known == suffix and looks_right(path):
                    return words
            except (OSError, DataError):
                continue
    return None


_LOOKS = tuple(
    (suffix, row.words, looks.looks_right)
    for row in READ
    for looks in (row.reader.per_image, row.reader.files)
    if looks is not None
    for suffix in looks.suffixes
    if not getattr(looks, "whole", False)
)
"""Suffixes, the format in words, and what recognises it; files for a whole dataset are left out."""
