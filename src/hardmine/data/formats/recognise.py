"""Recognising a dataset by looking at it, from what the rows of `format_table` say of their formats."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from hardmine.data.formats.format_table import READ, LabelFormat, looked_for
from hardmine.data.formats.image_folder import list_files, list_images
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
from hardmine.errors import DataError

logger = logging.getLogger(__name__)

_IMAGE_FOLDERS = ("images", "Images")
_LABEL_FOLDERS = ("labels", "annotations", "Annotations", "xmls")
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
    rows = [files for _, files in _label_files() if suffix in files.suffixes]
    if not rows:
        wanted = ", ".join(dict.fromkeys(s for _, files in _label_files() for s in files.suffixes))
        got = f"got a {suffix or 'suffixless'} file"
        raise DataError(f"{path}: {got}, wanted {wanted} or a folder")
    fitting = next((files for files in rows if files.looks_right(path)), rows[0])
    return fitting.sources(path, images)  # whose reader says what is wrong where none fits


def _from_folder(path: Path) -> Sources:
    return (
        _declared(path)
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


def _declared(path: Path) -> Sources:
    """Return what a folder says that it is, by its layout or by a file for all images."""
    for row in READ:
        layout = row.reader.layout
        if layout is not None and (found := layout(path)):
            return found
        files = row.reader.files
        if files is not None and not files.after_pairs and (found := _of_row(row, path, None)):
            return found
    return {}


def _in_files(path: Path, images: Path | None, *, after_pairs: bool) -> Sources:
    for row, files in _label_files():
        if files.after_pairs is after_pairs and (found := _of_row(row, path, images)):
            return found
    return {}


def _of_row(row: LabelFormat, path: Path, images: Path | None) -> Sources:
    """Return the splits in a format's label files in a folder or in ``annotations``, by their names."""
    files = row.reader.files
    if files is None:
        return {}
    named = [
        file
        for folder in (path, path / "annotations", path / "Annotations")
        for suffix in files.suffixes
        for file in sorted(folder.glob(f"*{suffix}"))
        if files.looks_right(file)
    ]
    chosen = [file for file in named if files.preferred and file.name.startswith(files.preferred)]
    chosen = chosen or named
    if files.whole:
        return files.sources(chosen[0], images) if chosen else {}
    found: dict[str, Source] = {}
    for file in chosen:
        name = split_of(file.stem) or (ALL if len(chosen) == 1 else file.stem)
        if name in found:
            listed = ", ".join(str(f.relative_to(path)) for f in chosen)
            kind = row.name.upper()
            raise DataError(
                f"{path}: several {kind} files for {name!r} ({listed}); name one of them"
            )
        found[name] = next(iter(files.sources(file, images).values()))
    return found


def _side_by_side(path: Path) -> Sources:
    images = next((path / name for name in _IMAGE_FOLDERS if (path / name).is_dir()), None)
    if images is None:
        return {}
    for name in _LABEL_FOLDERS:
        labels = path / name
        if labels.is_dir() and (row := _format_of(labels, empty_counts=True)):
            return {n: row.source(path, *pair) for n, pair in _pairs(images, labels).items()}
    return {}


def _pairs(images: Path, labels: Path) -> dict[str, tuple[Path, Path]]:
    """Return the splits of two folders with the same structure, one of images, one of labels."""
    folders = sorted(p for p in images.iterdir() if p.is_dir())
    loose = any(p.is_file() for p in images.iterdir())
    if folders and not loose and all(split_of(p.name) for p in folders):
        return {split_of(p.name) or "": (p, labels / p.name) for p in folders}
    return {ALL: (images, labels)}


def _split_folders(path: Path) -> Sources:
    found: dict[str, Source] = {}
    for folder in sorted(p for p in path.iterdir() if p.is_dir()):
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
