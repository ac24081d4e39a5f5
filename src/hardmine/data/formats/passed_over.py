"""What lies in a folder of data and was not read: nothing is passed over without a word.

Which files are looked at here follows from the rows of `format_table`; other files (notes, models,
configurations) are nobody's business.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from hardmine.data.file_walk import PassedOver
from hardmine.data.formats.format_table import READ
from hardmine.data.formats.image_folder import list_files, list_images
from hardmine.data.formats.image_paths import plain_path, relative_name
from hardmine.data.formats.label_validation import RawSplit, merge_names
from hardmine.errors import DataError
from hardmine.finding_kinds import FindingKind
from hardmine.types import Problem

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
