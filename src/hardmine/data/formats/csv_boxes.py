"""CSV: one line per object, ``image,xmin,ymin,xmax,ymax,label``, in pixels.

The header says which column is which, under any of the usual names and in any order, with commas,
semicolons or tabs between; a file without a header has the six columns in the order above. A line
that names an image and leaves the rest empty says ``verified_empty``. The columns ``width``,
``height``, ``state`` and ``ignore`` are used where they are there.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hardmine.data.formats.image_folder import measure
from hardmine.data.formats.image_paths import ImageFinder, OutsideRootError, relative_name
from hardmine.data.formats.image_states import parse_state
from hardmine.data.formats.label_format import ALL, LabelFiles, Reader, split_of
from hardmine.data.formats.label_validation import RawImage, RawSplit
from hardmine.errors import DataError
from hardmine.finding_kinds import FindingKind
from hardmine.types import ImageState, Problem

_BOX = ("xmin", "ymin", "xmax", "ymax")
_PLAIN = ("image", *_BOX, "label")
_NAMES = {
    "image": "image filename file_name file filepath file_path path image_path img image_name",
    "xmin": "xmin x_min x1 left bbox_x1",
    "ymin": "ymin y_min y1 top bbox_y1",
    "xmax": "xmax x_max x2 right bbox_x2",
    "ymax": "ymax y_max y2 bottom bbox_y2",
    "label": "label class class_name classname category name labels",
    "width": "width image_width img_width",
    "height": "height image_height img_height",
    "state": "state hardmine_state",
    "ignore": "ignore difficult iscrowd",
}
_COLUMN = {name: column for column, names in _NAMES.items() for name in names.split()}
_PEEK = 65536


@dataclass(frozen=True, slots=True)
class CsvSource:
    """One CSV file and the folders, below ``root``, that its image names may start from."""

    root: Path
    file: Path
    bases: tuple[Path, ...]

    def read(self, *, empty_is_verified: bool = False) -> RawSplit:
        """Read the file; what it lists without an object is empty whatever ``empty_is_verified``.

        Raises:
            DataError: not readable, no line of boxes, or none of its images is found.
        """
        del empty_is_verified
        return _CsvReader(self).read()


def looks_like_boxes(path: Path) -> bool:
    """Return whether a file's first line is a header of boxes, or a line of boxes without one."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            text = file.read(_PEEK)
    except OSError:
        return False
    first = next(iter(text.splitlines()), "")
    cells = next(iter(csv.reader([first], delimiter=_delimiter(first))), [])
    return _header(cells) is not None or _is_plain(cells)


class _CsvReader:
    def __init__(self, source: CsvSource) -> None:
        self.source = source
        self.file = relative_name(source.file, source.root)
        self.finder = ImageFinder(source.root, source.bases)
        self.names: dict[str, int] = {}
        self.images: dict[str, RawImage | None] = {}
        self.problems: list[Problem] = []

    def read(self) -> RawSplit:
        """Return the file's images and boxes, lines of one image joined."""
        columns, lines = self._lines()
        for index, cells in enumerate(lines):
            if any(cell.strip() for cell in cells):
                self._line(columns, cells, index)
        found = self._merged()
        if not found:
            bases = ", ".join(str(base) for base in self.source.bases)
            first = f" (first: {self.problems[0].reason})" if self.problems else ""
            raise DataError(
                f"{self.source.file}: none of its images can be used{first}; looked in {bases}; "
                "name their folder with images= (--images)"
            )
        images = measure(found, self.source.root, self.problems)
        return RawSplit(
            self.source.root, list(self.names), images, self.problems, names_declared=False
        )

    def _lines(self) -> tuple[dict[str, int], list[list[str]]]:
        try:
            text = self.source.file.read_text(encoding="utf-8-sig", errors="replace")
            first = next(iter(text.splitlines()), "")
            rows = list(csv.reader(text.splitlines(), delimiter=_delimiter(first)))
        except (OSError, csv.Error) as error:
            raise DataError(f"{self.source.file}: cannot be read as CSV ({error})") from None
        columns = _header(rows[0]) if rows else None
        if columns is not None:
            return columns, rows[1:]
        if rows and _is_plain(rows[0]):
            return {name: index for index, name in enumerate(_PLAIN)}, rows
        wanted = ",".join(_PLAIN)
        raise DataError(f"{self.source.file}: first line {first[:80]!r}, wanted {wanted}")

    def _line(self, columns: Mapping[str, int], cells: Sequence[str], index: int) -> None:
        def cell(name: str) -> str:
            place = columns.get(name, len(cells))
            return cells[place].strip() if place < len(cells) else ""

        raw = self._image(cell("image"), index)
        if raw is None:
            return
        raw.width, raw.height = (
            raw.width or _pixels(cell("width")),
            raw.height or _pixels(cell("height")),
        )
        self._state(raw, cell("state"), index)
        label = cell("label")
        written = [cell(name) for name in _BOX]
        if not label and not any(written):
            return
        try:
            x0, y0, x1, y1 = map(float, written)
        except ValueError:
            reason = f"box {' '.join(written)!r} of {raw.path.name}, wanted xmin ymin xmax ymax"
            self._reject(raw, FindingKind.BOX_MALFORMED, index, reason)
            return
        if not label:
            self._reject(
                raw, FindingKind.CLASS_UNKNOWN, index, f"no label for a box of {raw.path.name}"
            )
            return
        number = self.names.setdefault(label, len(self.names))
        ignore = cell("ignore").lower() in ("1", "true", "yes")
        raw.objects.append((x0, y0, x1, y1, number, ignore, index))

    def _image(self, name: str, index: int) -> RawImage | None:
        """Return the image of that name; what is wrong with it is told at its first line only."""
        if name in self.images:
            return self.images[name]
        raw: RawImage | None = None
        try:
            path = self.finder.find(name) if name else None
        except OutsideRootError as error:
            self._report(FindingKind.PATH_OUTSIDE, index, str(error))
        else:
            if path is None:
                self._report(FindingKind.IMAGE_MISSING, index, f"no image {name!r}")
            else:
                state = ImageState.VERIFIED_EMPTY
                raw = RawImage(path, self.file, state_if_empty=state)
        self.images[name] = raw
        return raw

    def _state(self, raw: RawImage, text: str, index: int) -> None:
        if not text:
            return
        state = parse_state(text)
        if state is None:
            wanted = ", ".join(ImageState)
            self._report(
                FindingKind.STATE_UNKNOWN, index, f"state {text!r}, wanted one of {wanted}"
            )
        else:
            raw.state = state

    def _merged(self) -> list[RawImage]:
        """Return each file once, though two spellings of its name were used."""
        by_path: dict[Path, RawImage] = {}
        for raw in self.images.values():
            if raw is None:
                continue
            first = by_path.setdefault(raw.path, raw)
            if first is not raw:
                first.objects += raw.objects
                first.rejected += raw.rejected
        return list(by_path.values())

    def _reject(self, raw: RawImage, kind: FindingKind, index: int, reason: str) -> None:
        raw.rejected += 1
        self._report(kind, index, reason)

    def _report(self, kind: FindingKind, index: int, reason: str) -> None:
        self.problems.append(Problem(kind, self.file, index, reason))


def _header(cells: Sequence[str]) -> dict[str, int] | None:
    """Return the column of each known name; None where an image or a box side is not among them."""
    found: dict[str, int] = {}
    for index, cell in enumerate(cells):
        column = _COLUMN.get(cell.strip().lower())
        if column is not None:
            found.setdefault(column, index)
    return found if all(name in found for name in _PLAIN) else None


def _is_plain(cells: Sequence[str]) -> bool:
    if len(cells) != len(_PLAIN) or not Path(cells[0]).suffix:
        return False
    return all(_is_number(cell) for cell in cells[1:5]) or not any(cells[1:])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _delimiter(line: str) -> str:
    return max(",;\t", key=line.count)


def _pixels(text: str) -> int:
    """Return a size, 0 where it is missing or senseless (then the image's header is read)."""
    return int(float(text)) if _is_number(text) and 0 < float(text) < 1e9 else 0


def find_csv(path: Path, images: Path | None = None) -> dict[str, CsvSource]:
    """Return a CSV file as the only split, with the folders that its images may lie in."""
    if images is not None:
        return {ALL: CsvSource(images, path, (images,))}
    here = path.parent
    root = here.parent if here.name.lower() == "annotations" else here
    name = split_of(path.stem)
    own = (root / "images" / name, root / name) if name else ()
    return {ALL: CsvSource(root, path, (root, *own, root / "images"))}


READER = Reader(files=LabelFiles((".csv", ".tsv"), looks_like_boxes, find_csv, after_pairs=True))
