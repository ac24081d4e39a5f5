"""Recognising a dataset by looking at it, from what the rows of `format_table` say of their formats."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from hardmine.data.formats.format_table import READ, LabelFormat, looked_for
from hardmine.data.formats.image_files import (
    files_in,
    list_files,
    list_images,
    pair_name,
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
from hardmine.data.images import picture_suffixes
from hardmine.errors import DataError

logger = logging.getLogger(__name__)

_IMAGE_FOLDERS = ("images", "image", "imgs", "img", "image_2", "data", "jpegimages")
"""Names of folders of images, lower case, in the order of looking; else any that holds images."""
_LABEL_FOLDERS = ("labels", "annotations", "xmls", "label_2")
"""Names of folders of labels, lower case; others must hold a label for one of the images."""
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
            f"{path}: no labelled data recognised ({number} images below it); looked for "
            + looked_for()
        )
    order = [*SPLITS, ALL, *found]
    return dict(sorted(found.items(), key=lambda item: order.index(item[0])))


def _from_file(path: Path, images: Path | None) -> Sources:
    suffix = path.suffix.lower()
    rows = {row.name: files for row, files in _label_files() if suffix in files.suffixes}
    if not rows:
        wanted = ", ".join(dict.fromkeys(s for _, files in _label_files() for s in files.suffixes))
        got = f"got a {suffix or 'suffixless'} file"
        raise DataError(f"{path}: {got}, wanted {wanted} or a folder")
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
    found = _in_files(path, images, after_pairs=False) or _in_files(path, images, after_pairs=True)
    row = None if found else _format_of(path)
    return found or ({} if row is None else {ALL: row.source(images, images, path)})


def _laid_out(path: Path) -> Sources:
    layouts = (row.reader.layout for row in READ)
    return next((found for look in layouts if look is not None and (found := look(path))), {})


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
