"""Label files that are about many images, which they name.

Shared by the formats that are so (CSV, CreateML, VIA, CVAT, Label Studio, FiftyOne); each gives a
function that yields what its file says of each image. COCO, whose files are the largest, reads its own
way (`coco`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from hardmine.data.formats.image_folder import list_images, measure
from hardmine.data.formats.image_labels import ClassList, ImageLabels, Remarks, fill_image
from hardmine.data.formats.image_paths import ImageFinder, OutsideRootError, relative_name
from hardmine.data.formats.image_states import NO_MARK, STATES_FILE, Mark, read_marks
from hardmine.data.formats.label_format import split_of
from hardmine.data.formats.label_validation import RawImage, RawSplit
from hardmine.errors import DataError
from hardmine.finding_kinds import FindingKind
from hardmine.types import ImageState, Problem

Entries = Callable[[Path], Iterable[ImageLabels]]
"""Reads a file, entry by entry; raises `DataError`, naming it, where it cannot be used at all."""


@dataclass(frozen=True, slots=True)
class OneFileSource:
    """One split.

    Attributes:
        format: the name of the format in `format_table`.
        root: no name in the file may leave it.
        bases: the folders, below ``root``, that names may start from.
        entries: reads the file.
        names: the class list, where the data come with one.
        by_base_name: the user named the folder of images, see `ImageFinder`.
        one_entry_per_image: a second entry for an image is reported.
        folder: images in it that the file does not name are ``unreviewed`` ones of the split.
    """

    format: str
    root: Path
    file: Path
    bases: tuple[Path, ...]
    entries: Entries
    names: tuple[str, ...] | None = None
    by_base_name: bool = False
    one_entry_per_image: bool = True
    folder: Path | None = None

    def read(self, *, empty_is_verified: bool = False) -> RawSplit:
        """Read the file; ``empty_is_verified``: an image without an object is a negative.

        Raises:
            DataError: not readable, not of its format, or none of its images is found.
        """
        return _OneFileReader(self, empty_is_verified).read()


def one_file_source(
    format: str,
    path: Path,
    images: Path | None,
    entries: Entries,
    *,
    names: tuple[str, ...] | None = None,
    one_entry_per_image: bool = True,
) -> OneFileSource:
    """Return a label file with the folders that its images may lie in.

    Args:
        format: its name in `format_table`.
        images: the folder of images, where the user named it.
    """
    if images is not None:
        bases: tuple[Path, ...] = (images,)
        root = images
    else:
        root, bases = likely_folders(path)
    return OneFileSource(
        format,
        root,
        path,
        bases,
        entries,
        names=names,
        by_base_name=images is not None,
        one_entry_per_image=one_entry_per_image,
    )


def likely_folders(path: Path) -> tuple[Path, tuple[Path, ...]]:
    """Return the root of a label file's data, and the folders below it that may hold its images."""
    here = path.parent
    root = here.parent if here.name.lower() == "annotations" else here
    stem = path.stem.removeprefix("instances_")
    names = dict.fromkeys([stem, split_of(stem) or stem])
    bases = [folder / name for name in names for folder in (root / "images", root)]
    return root, (*dict.fromkeys([*bases, root / "images", root / "data", here, root]),)


class _OneFileReader:
    def __init__(self, source: OneFileSource, empty_is_verified: bool) -> None:
        self.source = source
        self.file = relative_name(source.file, source.root)
        self.finder = ImageFinder(source.root, source.bases, by_base_name=source.by_base_name)
        self.empty = ImageState.VERIFIED_EMPTY if empty_is_verified else ImageState.UNREVIEWED
        self.classes = ClassList(source.names)
        self.images: dict[str, RawImage | None] = {}
        self.by_path: dict[Path, RawImage] = {}
        self.notes = Remarks()
        self.problems: list[Problem] = []
        here = source.file.parent
        self.marked = here if (here / STATES_FILE).is_file() else here.parent
        self.marks = read_marks(self.marked, source.root, self.problems)

    def read(self) -> RawSplit:
        """Return the file's images and boxes; entries of one image are joined."""
        for labels in self.source.entries(self.source.file):
            raw = self._image(labels)
            if raw is not None:
                ignored = self._mark(raw.path).ignore
                found = fill_image(raw, labels, self.classes, ignored, self.notes)
                self.problems += found
        if self.source.folder is not None:
            for path in list_images(self.source.folder):
                if path not in self.by_path:
                    self._add(path, self.file, self.empty)
        if not self.by_path:
            raise DataError(none_found(self.source.file, self.source.bases, self.problems))
        images = measure(self.by_path.values(), self.source.root, self.problems)
        self.problems += self.notes.problems() + self.finder.remarks(self.file)
        names = self.classes.names
        return RawSplit(self.source.root, names, images, self.problems, self.classes.declared)

    def _image(self, labels: ImageLabels) -> RawImage | None:
        """Return the image of an entry; what is wrong with its name is said at its first entry only."""
        name = labels.image
        if name in self.images:
            raw = self.images[name]
            if raw is not None and self.source.one_entry_per_image:
                self._repeated(name, labels.place)
            return raw
        self.images[name] = None
        try:
            path = self.finder.find(name) if name else None
        except OutsideRootError as error:
            self._report(FindingKind.PATH_OUTSIDE, labels.place, str(error))
            return None
        if path is None:
            reason = f"no image {name!r}{self.finder.hint(name)}"
            self._report(FindingKind.IMAGE_MISSING, labels.place, reason)
            return None
        raw = self.by_path.get(path)
        if raw is None:
            state = ImageState.VERIFIED_EMPTY if labels.looked_at else self.empty
            raw = self._add(path, self.file, state)
        elif self.source.one_entry_per_image:
            self._repeated(name, labels.place)
        self.images[name] = raw
        return raw

    def _add(self, path: Path, file: str, state: ImageState) -> RawImage:
        mark = self._mark(path)
        raw = RawImage(path, file, state=mark.state, state_if_empty=state, source=mark.source)
        self.by_path[path] = raw
        return raw

    def _mark(self, path: Path) -> Mark:
        return self.marks.get(relative_name(path, self.marked), NO_MARK)

    def _repeated(self, name: str, place: int) -> None:
        reason = f"{name} is listed before; objects are merged"
        self._report(FindingKind.FILE_REPEATED, place, reason)

    def _report(self, kind: FindingKind, index: int, reason: str) -> None:
        self.problems.append(Problem(kind, self.file, index, reason))


def none_found(file: Path, bases: Iterable[Path], problems: list[Problem]) -> str:
    """Return the message for a label file none of whose images can be used."""
    number = f"{len(problems)} images" if problems else "images"
    first = f" (first: {problems[0].reason})" if problems else ""
    looked = ", ".join(str(base) for base in bases)
    return (
        f"{file}: none of its {number} can be used{first}; looked in {looked}; "
        "name their folder with images= (--images), where they are found by their base names too"
    )
