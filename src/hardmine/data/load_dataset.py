"""Reading whatever labelled data people have, recognised by looking at it.

What is recognised follows from what the rows of `format_table` say of their formats. What lies in a
folder of data and was not read is named: nothing is passed over without a word. Which files are
looked at for this follows from the same rows; other files (notes, models, configurations) are
nobody's business.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from hardmine.data.formats.format_table import READ, LabelFormat, looked_for
from hardmine.data.formats.image_files import (
    ARCHIVES,
    PassedOver,
    files_in,
    list_files,
    list_images,
    load_images,
    pair_name,
    plain_path,
    relative_name,
)
from hardmine.data.formats.label_format import (
    ALL,
    SPLITS,
    LabelFiles,
    LabelPerImage,
    Source,
    Sources,
    split_folder,
    split_of,
)
from hardmine.data.formats.label_validation import (
    RawImage,
    RawSplit,
    build_dataset,
    merge_names,
    object_table,
)
from hardmine.data.images import picture_suffixes
from hardmine.errors import DataError
from hardmine.finding_kinds import FindingKind
from hardmine.plurals import counted
from hardmine.types import Dataset, ImageState, Problem

__all__ = [
    "build_splits",
    "choose_split",
    "find_sources",
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
            `hardmine.data.load_dataset` lists.
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
        report_loaded(f"{path} ({name})", dataset, raws[name])
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


def report_loaded(name: str, dataset: Dataset, raw: RawSplit) -> None:
    """Say what would otherwise be overlooked: unreviewed images, ignored boxes, problems.

    Args:
        raw: what the dataset was built from.
    """
    _report_unreviewed(name, dataset, raw)
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
            "%s: %s, the first: %s",
            name,
            counted(len(dataset.problems), "problem"),
            dataset.problems[0],
        )


def _report_unreviewed(name: str, dataset: Dataset, raw: RawSplit) -> None:
    """Count the images that nobody labelled apart from those whose labels were all refused."""
    labelled = set(object_table(raw).owner.tolist())
    bare: list[RawImage] = []
    refused: list[RawImage] = []
    for index, (record, image) in enumerate(zip(dataset.records, raw.images, strict=True)):
        if record.state is ImageState.UNREVIEWED:
            (refused if index in labelled or image.rejected else bare).append(image)
    way_on = " (--empty-is-verified says that somebody looked and saw no object)"
    for images, what, hint in (
        (bare, "are not labelled and not verified empty", way_on),
        (refused, "have labels none of which can be used", ""),
    ):
        if images:
            logger.warning(
                "%s: %d of %d images %s: they are 'unreviewed' and will not be trained on%s",
                name,
                len(images),
                len(dataset),
                what,
                hint if any(image.state is None for image in images) else "",
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
        reason = _the_first(len(left), "image is in no split", "images are in no split")
        name = relative_name(left[0], folder)
        problems.append(Problem(FindingKind.IMAGES_NOT_READ, name, -1, reason))
    stems = {Path(problem.file).stem for raw in raws.values() for problem in raw.problems}
    for words, files in _unread_labels(folder, named, stems).items():
        kind = words.split(":")[0]
        one, many = (
            f"file looks like {kind} labels and is",
            f"files look like {kind} labels and are",
        )
        reason = _the_first(len(files), f"{one} not read", f"{many} not read")
        name = relative_name(files[0], folder)
        problems.append(Problem(FindingKind.LABELS_NOT_READ, name, -1, reason))
    return problems


def _the_first(number: int, one: str, many: str) -> str:
    return counted(number, one, f"{many} (here the first)")


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
        words = _words_for(paths, suffix)
        if words is not None:
            found[words] += paths
    return found


def _words_for(paths: Sequence[Path], suffix: str) -> str | None:
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


_IMAGE_FOLDERS = ("images", "image", "imgs", "img", "image_2", "data", "jpegimages")
"""Names of folders of images, lower case, in the order of looking; else any that holds images."""
_LABEL_FOLDERS = ("labels", "annotations", "xmls", "label_2")
"""Names of folders of labels, lower case; others must hold a label for one of the images."""
_REASONS = 2
"""Files of a folder that an error gives a reason for."""
_LABELS_LOOKED_AT = 50
"""Label files of a folder that are opened to find out their format; the first that fits decides."""


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
    found = _from_labels(path, images) if images is not None else _from_folder(path)
    if not found:
        number = len(list_images(path))
        raise DataError(
            f"{path}: no labelled data recognised ({counted(number, 'image')} below it){_why_none(path)}"
            f"{_UNLABELLED if number else ''}; looked for {looked_for()}"
        )
    order = [*SPLITS, ALL, *found]
    return dict(sorted(found.items(), key=lambda item: order.index(item[0])))


_UNLABELLED = (
    "; images without labels can be a pool ('hardmine mine CHECKPOINT POOL') or, where they hold no "
    "object, --negatives and --train-negatives"
)


def is_label_file(path: Path) -> bool:
    """Return whether a file's suffix is that of a file with the labels of many images."""
    return any(path.suffix.lower() in files.suffixes for _, files in _label_files())


def _why_none(path: Path) -> str:
    """Return what is wrong with the first files of a folder that might have been its labels."""
    reasons: list[str] = []
    for file in files_in(path, _suffixes(list(_label_files())))[:_REASONS]:
        try:
            next(iter(_from_file(file, None).values())).read()
        except DataError as error:
            reasons.append(f"; {error}")
    return "".join(reasons)


def _from_file(path: Path, images: Path | None) -> Sources:
    suffix = path.suffix.lower()
    rows = {row.name: files for row, files in _label_files() if suffix in files.suffixes}
    if not rows:
        wanted = ", ".join(dict.fromkeys(s for _, files in _label_files() for s in files.suffixes))
        got = f"got a {suffix or 'suffixless'} file"
        way = "; unpack it and name its folder" if suffix in ARCHIVES else ""
        raise DataError(f"{path}: {got}, wanted {wanted} or a folder{way}")
    # Where none fits, the reader of the commonest format with that suffix says what is wrong.
    usual = rows.get(suffix[1:], next(iter(rows.values())))
    fitting = next((files for files in rows.values() if files.looks_right(path)), usual)
    return fitting.sources(path, images)


def _from_folder(path: Path) -> Sources:
    return (
        _laid_out(path)
        or _in_files(path, None, after_pairs=False)
        or _side_by_side(path)
        or _split_folders(path)
        or _beside(path)
        or _in_files(path, None, after_pairs=True)
    )


def _from_labels(path: Path, images: Path) -> Sources:
    """Return the data of a folder of labels whose images lie in another folder."""
    found = (
        _in_files(path, images, after_pairs=False)
        or _laid_out(path, images)
        or _labels_below(path, images)
        or _in_files(path, images, after_pairs=True)
    )
    row = None if found else _format_of(path)
    return found or ({} if row is None else {ALL: row.source(images, images, path)})


def _laid_out(path: Path, images: Path | None = None) -> Sources:
    looks = (row.reader.layout for row in READ)
    return next((found for look in looks if look is not None and (found := look(path, images))), {})


def _labels_below(path: Path, images: Path) -> Sources:
    """Return the data of a folder in which a folder of labels lies, for images elsewhere."""
    for labels in _called(path, _LABEL_FOLDERS):
        row = _format_of(labels, empty_counts=True)
        if row is not None:
            pairs = _pairs(images, labels)
            return {name: row.source(place, place, own) for name, (place, own) in pairs.items()}
    return {}


def _in_files(path: Path, images: Path | None, *, after_pairs: bool) -> Sources:
    """Return what files for many images hold, in the folder, in ``annotations`` or in ``images``.

    Of several formats, the first of the table is taken.
    """
    rows = [(row, files) for row, files in _label_files() if files.after_pairs is after_pairs]
    folders = [path, *_called(path, ("annotations", "images"))]
    found: dict[str, list[Path]] = {}
    for file in (file for folder in folders for file in files_in(folder, _suffixes(rows))):
        for row, files in rows:
            if file.suffix.lower() in files.suffixes and files.looks_right(file):
                found.setdefault(row.name, []).append(file)
                break
    for row, files in rows:
        if row.name in found:
            return _of_files(path, images, row, files, found[row.name])
    return {}


def _of_files(
    path: Path, images: Path | None, row: LabelFormat, files: LabelFiles, named: list[Path]
) -> Sources:
    """Return the splits in a format's files, by their names."""
    chosen = [file for file in named if files.preferred and file.name.startswith(files.preferred)]
    chosen = chosen or named
    if files.whole:
        return files.sources(chosen[0], images)
    found: dict[str, Source] = {}
    for file in chosen:
        own = split_of(file.stem) or (ALL if len(chosen) == 1 else file.stem)
        for split, source in files.sources(file, images).items():
            name = own if split == ALL else split
            if name in found:
                listed = ", ".join(str(f.relative_to(path)) for f in chosen)
                raise DataError(
                    f"{path}: several {row.name.upper()} files for {name!r} ({listed}); name one of "
                    "them"
                )
            found[name] = source
    return found


def _side_by_side(path: Path) -> Sources:
    """Return the data of a folder of images beside a folder of labels for them."""
    for images in _image_folders(path):
        known = _called(path, _LABEL_FOLDERS)
        others = [p for p in _folders(path) if p not in known and split_folder(p.name) is None]
        for labels in (*known, *others):
            if labels == images:
                continue
            row = _format_of(labels, empty_counts=labels in known)
            if row is not None and (labels in known or _fits(images, labels, row)):
                return {n: row.source(path, *pair) for n, pair in _pairs(images, labels).items()}
    return {}


def _image_folders(path: Path) -> list[Path]:
    """Return the folders that may hold the images: those called so, else those that hold any."""
    called = _called(path, _IMAGE_FOLDERS)
    if called:
        return called
    return [f for f in _folders(path) if split_folder(f.name) is None and _holds_images(f)]


def _holds_images(folder: Path) -> bool:
    return bool(files_in(folder, picture_suffixes()))


def _fits(images: Path, labels: Path, row: LabelPerImage) -> bool:
    """Return whether an image and a label have the same name."""
    names = {pair_name(path, images) for path in list_images(images)}
    return any(pair_name(path, labels) in names for path in list_files(labels, row.suffixes))


def _folders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))


def _called(path: Path, names: Sequence[str]) -> list[Path]:
    """Return the folders with one of the names, in any case of letters, in the order of the names."""
    found = [folder for folder in _folders(path) if folder.name.lower() in names]
    return sorted(found, key=lambda folder: names.index(folder.name.lower()))


def _pairs(images: Path, labels: Path) -> dict[str, tuple[Path, Path]]:
    """Return the splits of two folders with the same structure, one of images, one of labels."""
    folders = _folders(images)
    loose = any(p.is_file() and not p.name.startswith(".") for p in images.iterdir())
    if folders and not loose and all(split_of(p.name) for p in folders):
        return {split_of(p.name) or "": (p, labels / p.name) for p in folders}
    return {ALL: (images, labels)}


def _split_folders(path: Path) -> Sources:
    found: dict[str, Source] = {}
    for folder in _folders(path):
        name = split_folder(folder.name)
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
    row = _format_of(path) if list_images(path) else None
    return {} if row is None else {ALL: row.source(path, path, path)}


def _format_of(labels: Path, *, empty_counts: bool = False) -> LabelPerImage | None:
    """Return the format of a folder's label files; the first file that is of one decides.

    Args:
        empty_counts: a folder of nothing but empty files is of the first format with their suffix.
    """
    for row in READ:
        one = row.reader.per_image
        files = list_files(labels, {one.suffix}) if one is not None else []
        if one is None or not files:
            continue
        written = [file for file in files if file.stat().st_size][:_LABELS_LOOKED_AT]
        if any(map(one.looks_right, written)) or (empty_counts and not written):
            return one
    return None


def _label_files() -> Iterator[tuple[LabelFormat, LabelFiles]]:
    for row in READ:
        if row.reader.files is not None:
            yield row, row.reader.files


def _suffixes(rows: Sequence[tuple[LabelFormat, LabelFiles]]) -> set[str]:
    return {suffix for _, files in rows for suffix in files.suffixes}
