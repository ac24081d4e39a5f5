"""KITTI: one text file per image in ``label_2`` beside ``image_2``, read and written.

A line is ``type truncated occluded alpha x1 y1 x2 y2 height width length x y z rotation_y``, maybe with
a score at its end; the four numbers from ``x1`` on are the box in pixels, the others are not used.
``DontCare`` is a region in which nothing was labelled: an object of every class to be ignored. A type
is one word, so that spaces in class names become ``_``.

Source: KITTI object development kit, ``readme.txt``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path

from hardmine.data.formats.image_files import relative_name, stem_name
from hardmine.data.formats.image_states import (
    Mark,
    has_label_file,
    mark_of,
    write_marks,
    write_plain,
)
from hardmine.data.formats.label_format import (
    ALL,
    Fault,
    ImageLabels,
    LabelledBox,
    LabelPerImage,
    LabelSet,
    Reader,
    Writer,
    class_names,
    is_number,
)
from hardmine.data.formats.label_readers import PerImageSource
from hardmine.errors import ConfigError
from hardmine.files import peek_text, read_lines
from hardmine.finding_kinds import FindingKind
from hardmine.types import ImageRecord

_COLUMNS = 15
_SCORED = 16
_DONT_CARE = "DontCare"
_FOLDERS = {"train": "training", "val": "validation", "test": "testing"}
_REST = "-1 -1 -1 -1000 -1000 -1000 -10"
"""Size, place and rotation in space, as KITTI writes what is not known."""


def parse_kitti(path: Path, names: Mapping[str, str] | None = None) -> ImageLabels:
    """Return what a text file says of its image.

    Args:
        names: class names by the word that stands for them.

    Raises:
        OSError: it cannot be read.
        TextError: it is not UTF-8.
    """
    labels = ImageLabels()
    for place, line in enumerate(read_lines(path)):
        words = line.split()
        if not words:
            continue
        try:
            numbers = [float(word) for word in words[1:]]
            x0, y0, x1, y1 = numbers[3:7]
            if len(words) not in (_COLUMNS, _SCORED):
                raise ValueError
        except ValueError:
            reason = (
                f"line {line.strip()[:80]!r}, wanted a type and 14 numbers, got {len(words)} words"
            )
            labels.rejected.append(Fault(FindingKind.BOX_MALFORMED, place, reason))
            continue
        if len(words) == _SCORED:
            reason = "a line with a score, left out"
            labels.remarks.append(Fault(FindingKind.COLUMNS_LEFT_OUT, place, reason))
        ignore = words[0] == _DONT_CARE
        name = (names or {}).get(words[0], words[0])
        labels.objects.append(LabelledBox(name, x0, y0, x1, y1, place, ignore))
    return labels


def _looks_like_kitti(path: Path) -> bool:
    """Return whether the first written line of a text file has a word and 14 or 15 numbers."""
    words = next((line.split() for line in peek_text(path).split("\n") if line.strip()), [])
    if len(words) not in (_COLUMNS, _SCORED) or is_number(words[0]):
        return False
    return all(map(is_number, words[1:]))


def _source(root: Path, images: Path, labels: Path) -> PerImageSource:
    names = class_names(root) or class_names(root.parent)
    return PerImageSource(
        "kitti",
        root,
        images,
        labels,
        ".txt",
        partial(parse_kitti, names={_word(name): name for name in names or ()}),
        names=names,
        by_base_name=root == images != labels,
        region=_DONT_CARE,
    )


def _layout(path: Path, named: Path | None = None) -> dict[str, PerImageSource]:
    images, labels = path / "image_2", path / "label_2"
    found = named is None and images.is_dir() and labels.is_dir()
    return {ALL: _source(path, images, labels)} if found else {}


def _word(name: str) -> str:
    return "_".join(name.split())


def write_kitti(labels: LabelSet, out: Path) -> Sequence[str]:
    """Write ``label_2`` beside each ``image_2``, and ``classes.txt``.

    Split ``train`` lies in ``out/training``, data without splits in ``out``. An object to ignore is
    ``DontCare`` where its box is to be ignored for every class; else it is written as what it is, with
    the occlusion 3 (unknown), which KITTI does not count either.

    Raises:
        ConfigError: two classes become one word.
    """
    words = [_word(name) for name in labels.categories]
    for first, second in combinations(range(len(words)), 2):
        if words[first] == words[second] or _DONT_CARE in words:
            pair = f"{labels.categories[first]!r} and {labels.categories[second]!r}"
            raise ConfigError(
                f"classes {pair}: KITTI needs words that differ, and not {_DONT_CARE}"
            )
    for name, dataset in labels.splits.items():
        images = out / _image_folder(name)
        folder = images.parent / "label_2"
        folder.mkdir(parents=True, exist_ok=True)
        marks: dict[str, Mark] = {}
        for record in dataset.records:
            lines, ignored = _lines(record, words)
            if has_label_file(record):
                write_plain(folder / f"{stem_name(record.path, images)}.txt", "".join(lines))
            marks[relative_name(record.path, images)] = mark_of(record, ignored)
        write_marks(folder, marks)
    write_plain(out / "classes.txt", "".join(f"{name}\n" for name in labels.categories))
    return ()


def _lines(record: ImageRecord, words: Sequence[str]) -> tuple[list[str], frozenset[int]]:
    """Return an image's lines, and the places of those that the side file must call ignored."""
    rows = list(
        zip(record.boxes.tolist(), record.labels.tolist(), record.ignore.tolist(), strict=True)
    )
    times = Counter(tuple(box) for box, _, ignore in rows if ignore)
    regions: set[tuple[float, ...]] = set()
    lines: list[str] = []
    ignored: set[int] = set()
    for box, label, ignore in rows:
        corners = " ".join(f"{value:.10g}" for value in box)
        if ignore and times[tuple(box)] == len(words):
            if tuple(box) not in regions:
                lines.append(f"{_DONT_CARE} -1 -1 -10 {corners} {_REST}\n")
            regions.add(tuple(box))
            continue
        if ignore:
            ignored.add(len(lines))
        lines.append(f"{words[label - 1]} 0 {3 if ignore else 0} -10 {corners} {_REST}\n")
    return lines, frozenset(ignored)


def _image_folder(split: str) -> str:
    return "image_2" if split == ALL else f"{_FOLDERS[split]}/image_2"


READER = Reader(layout=_layout, per_image=LabelPerImage(".txt", _looks_like_kitti, _source))
WRITER = Writer(write_kitti, _image_folder)
