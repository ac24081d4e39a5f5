"""What the module of a label format offers: how its data are found and read, and how they are written.

Each format's module has a ``READER``, a ``WRITER`` or both; `format_table` has its row.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from hardmine.data.formats.label_validation import RawSplit
from hardmine.errors import DataError
from hardmine.types import F32, Dataset, ImageRecord

ALL = "all"
"""The name of the only split of data without splits."""
SPLITS = ("train", "val", "test")

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


class Source(Protocol):
    """One split of a dataset that has been found and not read yet."""

    @property
    def format(self) -> str:
        """The name of its format in `format_table`."""
        ...

    def read(self, *, empty_is_verified: bool = False) -> RawSplit:
        """Read it."""
        ...


Sources = Mapping[str, Source]
"""By split name; `ALL` where there are no splits."""


@dataclass(frozen=True, slots=True)
class LabelFiles:
    """Files that hold the labels of many images each: of a split (COCO) or a dataset (data.yaml).

    Attributes:
        suffixes: of such a file, lower case.
        looks_right: whether a file with one of the suffixes is of this format.
        sources: the splits in a file; called with the folder of images where the user named one.
        preferred: files whose names start so are taken in place of any others.
        whole: one file holds all splits; of several, the first is taken.
        after_pairs: looked for only where no image has a label file of its own.
    """

    suffixes: tuple[str, ...]
    looks_right: Callable[[Path], bool]
    sources: Callable[[Path, Path | None], Sources]
    preferred: str = ""
    whole: bool = False
    after_pairs: bool = False


@dataclass(frozen=True, slots=True)
class LabelPerImage:
    """A label file for each image, paired by their names.

    Attributes:
        suffix: of the label files, lower case.
        looks_right: whether a file with that suffix is of this format; an empty file is of any.
        source: a split from its root, its folder of images and its folder of label files; the root is
            the folder of images where the user named that.
    """

    suffix: str
    looks_right: Callable[[Path], bool]
    source: Callable[[Path, Path, Path], Source]

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The suffix, as `LabelFiles` has several."""
        return (self.suffix,)


@dataclass(frozen=True, slots=True)
class Reader:
    """How data of one format are found and read.

    Attributes:
        layout: the splits in a folder that is laid out as only this format is; empty if it is not.
    """

    layout: Callable[[Path], Sources] | None = None
    files: LabelFiles | None = None
    per_image: LabelPerImage | None = None


@dataclass(frozen=True, slots=True)
class LabelSet:
    """What is written: splits with one class list, whose images already lie where they belong.

    ``scores`` f32[N] by image: its boxes are a model's, and these are their scores. ``model`` names
    the model.
    """

    splits: Mapping[str, Dataset]
    scores: Mapping[Path, F32] = field(default_factory=dict)
    model: str = ""

    @property
    def categories(self) -> tuple[str, ...]:
        """The class list."""
        return next(iter(self.splits.values())).categories

    def shown_boxes(self, record: ImageRecord) -> Iterator[tuple[list[float], str, float | None]]:
        """Yield (xyxy pixels, class, score) of each box that is not to be ignored.

        The score is None where a person drew the box.
        """
        given = self.scores.get(record.path)
        scores = [None] * len(record.labels) if given is None else given.tolist()
        rows = zip(record.boxes.tolist(), record.labels, scores, record.ignore, strict=True)
        for box, label, score, ignore in rows:
            if not ignore:
                yield box, self.categories[label - 1], score


@dataclass(frozen=True, slots=True)
class Writer:
    """How data are written in one format.

    Attributes:
        write: writes the labels below a folder in which the images already lie; returns what to say
            of it, in whole sentences.
        image_folder: where the images of a split lie below that folder; ``""`` is the folder itself.
        any_split: splits may have any name; else only those in `SPLITS` and `ALL`.
    """

    write: Callable[[LabelSet, Path], Sequence[str]]
    image_folder: Callable[[str], str]
    any_split: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class NewImage:
    """An image that is added to a dataset: the name of its file, its size as displayed, its objects.

    ``boxes`` f32[N, 4] xyxy pixels with the ``classes`` of the same length; without any, the image is a
    verified negative. With ``place`` it stays where it is, and the labels name it there.
    """

    name: str
    width: int
    height: int
    boxes: F32
    classes: tuple[str, ...] = ()
    place: Path | None = None

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return Path(self.name).stem


@dataclass(slots=True)
class Additions:
    """What adding images to a split changes: ``pictures`` says where each image goes, by its name;
    ``new_files`` and ``edits`` hold the content of label files that are new and of those that are there.
    """

    pictures: dict[str, Path] = field(default_factory=dict)
    new_files: dict[Path, str] = field(default_factory=dict)
    edits: dict[Path, bytes] = field(default_factory=dict)


Appender = Callable[[Any, Dataset, Sequence[NewImage]], Additions]
"""``append(source, split, images)``: says what adding images to a split that was read changes.

The format's module has it as ``APPENDER``. It writes nothing. Raises ``DataError`` where it cannot be.
"""


def usual_folder(split: Dataset) -> Path:
    """Return the folder that holds most images of a split.

    Raises:
        DataError: the split has no image.
    """
    if not split.records:
        raise DataError(f"{split.root}: has no image, so that nothing says where further ones go")
    return Counter(record.path.parent for record in split.records).most_common(1)[0][0]


def written_beside(written: Iterable[str], known: Path, name: str) -> str:
    """Return how a label file is to name a new file that lies beside a known one.

    Args:
        written: the names of images in the label file.
    """
    for text in written:
        plain = text.strip().replace("\\", "/")
        if plain.rpartition("/")[2] == known.name:
            return plain[: len(plain) - len(known.name)] + name
    return name


def pictures_in(folder: Path, images: Sequence[NewImage]) -> dict[str, Path]:
    """Return where new images go, by name; those that stay where they are left out."""
    return {image.name: folder / image.name for image in images if image.place is None}


def written_as(image: NewImage, written: Sequence[str], known: Path, root: Path) -> str:
    """Return how a label file is to name a new image.

    One that stays where it is has a path relative to where the other names start if it lies below
    ``root``, else its absolute path.

    Args:
        written: the names of images in the label file.
        known: an image that is among them.
    """
    if image.place is None:
        return written_beside(written, known, image.name)
    if image.place.is_relative_to(root):
        for text in written:
            plain = "/" + text.strip().replace("\\", "/").removeprefix("./")
            if known.as_posix().endswith(plain):
                start = Path(known.as_posix().removesuffix(plain))
                return Path(os.path.relpath(image.place, start)).as_posix()
    return image.place.as_posix()


def with_lines(path: Path, lines: Iterable[str]) -> bytes:
    """Return the content of a text file with more lines, ended as its others are.

    Raises:
        DataError: the file is in an encoding of several bytes per character.
    """
    text = path.read_bytes()
    if text.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path}: is UTF-16, wanted UTF-8; nothing can be added to it")
    end = b"\r\n" if b"\r\n" in text else b"\n"
    joined = b"".join(line.encode() + end for line in lines)
    return text + (b"" if not text or text.endswith(b"\n") else end) + joined


def split_of(name: str) -> str | None:
    """Return the split that a file or folder name tells of (``train2017`` → ``train``), or None."""
    words = [_CANONICAL[word] for word in _SPLIT_WORD.findall(name.lower())]
    return words[0] if words else None


def split_folder(name: str) -> str | None:
    """Return the split that a folder with exactly that name holds, or None."""
    return _CANONICAL.get(name.lower())


def below_images(split: str) -> str:
    """Return ``images/train`` for the split ``train``, ``images`` for data without splits."""
    return "images" if split == ALL else f"images/{split}"
