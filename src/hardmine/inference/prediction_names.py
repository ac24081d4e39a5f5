"""Which image each entry of a predictions file speaks of.

An entry names its image by an id that a COCO file resolves to a file name, by a file name, or by a
file's stem. Files come from other machines, so a name fits an image by the longest tail of their
paths. Nothing is given to an image in doubt: a name or stem must fit one image only, and an image
one name only.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hardmine.data.images import has_picture_name
from hardmine.errors import DataError

FEW_ROWS, FEW_IMAGES = 0.2, 0.5
"""Fewer matched detections and fewer named images than these shares are an error."""
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class NameMatch:
    """Which entry each image has, and what was left over."""

    name_of: Mapping[Path, str]
    rows: int
    """Detections in the file."""
    matched: int
    """Detections that belong to one of the images."""
    images: int
    unmatched: tuple[str, ...]
    """Names of entries that fit none of the images, or several."""

    def __str__(self) -> str:
        lost = ""
        if self.unmatched:
            more = " …" if len(self.unmatched) > _SHOWN else ""
            lost = f"; it also names {', '.join(self.unmatched[:_SHOWN])}{more}"
        return (
            f"{self.matched} of {self.rows} detections belong to the images, "
            f"{len(self.name_of)} of {self.images} images are named{lost}"
        )

    def require(self, path: Path, images: Sequence[Path]) -> None:
        """Refuse a file that speaks of other images.

        Raises:
            DataError: no entry matches, or few detections and few images do.
        """
        few_rows = self.matched < FEW_ROWS * self.rows
        few_images = len(self.name_of) < FEW_IMAGES * self.images
        if self.rows and self.images and few_images and (few_rows or not self.name_of):
            first = ", ".join(image.name for image in images[:_SHOWN])
            raise DataError(
                f"{path}: speaks of other images: {self}, the images are {first} …; names must be ids "
                "of the COCO file that --classes gives, file names, or stems that occur once"
            )


def match_names(rows: Mapping[str, int], images: Sequence[Path]) -> NameMatch:
    """Give each image its entry.

    Args:
        rows: number of detections of each entry, by the name in the file.
        images: paths of the images.
    """
    entries = [_Entry.of(name) for name in rows]
    by_file, by_stem = _index(entries)
    claims: dict[str, list[tuple[int, Path]]] = defaultdict(list)
    for image in dict.fromkeys(images):
        found = _entry_of(image, by_file, by_stem)
        if found is not None:
            claims[found[1]].append((found[0], image))
    name_of: dict[Path, str] = {}
    for name, claimed in claims.items():
        best = max(length for length, _ in claimed)
        winners = [image for length, image in claimed if length == best]
        if len(winners) == 1:  # else it fits several images as well as each other
            name_of[winners[0]] = name
    given = set(name_of.values())
    return NameMatch(
        name_of,
        sum(rows.values()),
        sum(rows[name] for name in given),
        len(dict.fromkeys(images)),
        tuple(name for name in rows if name not in given),
    )


@dataclass(frozen=True, slots=True)
class _Entry:
    """``parts`` of the name as a path, and its stem."""

    name: str
    parts: tuple[str, ...]
    stem: str

    @staticmethod
    def of(name: str) -> _Entry:
        """Return a name with its parts and its stem; a number loses the zeros before it."""
        plain = PurePosixPath(unicodedata.normalize("NFC", name.replace("\\", "/")))
        stem = plain.stem if has_picture_name(plain.name) else plain.name
        return _Entry(name, tuple(p for p in plain.parts if p != "/"), _number(stem))


_Index = Mapping[str, Sequence[_Entry]]


def _index(entries: Sequence[_Entry]) -> tuple[_Index, _Index]:
    by_file: dict[str, list[_Entry]] = defaultdict(list)
    by_stem: dict[str, list[_Entry]] = defaultdict(list)
    for entry in entries:
        if entry.parts:
            by_file[entry.parts[-1]].append(entry)
            by_stem[entry.stem].append(entry)
    return by_file, by_stem


def _entry_of(image: Path, by_file: _Index, by_stem: _Index) -> tuple[int, str] | None:
    """Return how many parts of an image's path an entry shares, and the entry's name."""
    parts = tuple(unicodedata.normalize("NFC", part) for part in image.parts)
    alike = [(_common(parts, entry.parts), entry) for entry in by_file.get(parts[-1], ())]
    if alike:
        best = max(length for length, _ in alike)
        winners = [entry for length, entry in alike if length == best]
        whole = [entry for entry in winners if len(entry.parts) == best]
        chosen = whole or winners
        # A file name alone is enough where no folder says otherwise, or no other entry has it.
        if len(chosen) == 1 and (best > 1 or whole or len(alike) == 1):
            return best, chosen[0].name
        return None
    stems = by_stem.get(_number(Path(parts[-1]).stem), ())
    return (0, stems[0].name) if len(stems) == 1 else None


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    """Return how many parts two paths share, counted from their ends."""
    count = 0
    for one, other in zip(reversed(a), reversed(b), strict=False):
        if one != other:
            break
        count += 1
    return count


def _number(stem: str) -> str:
    """Return a stem without the zeros before a number: ids of images are often written so."""
    return str(int(stem)) if stem.isdecimal() else stem
