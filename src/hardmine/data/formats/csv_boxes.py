"""CSV: one line per object, ``image,xmin,ymin,xmax,ymax,label``, in pixels; read, and added to.

The header says which column is which, under any of the usual names and in any order, with commas,
semicolons or tabs between; a file without a header has the six columns in the order above. A line
that names an image and leaves the rest empty (or NaN, as pandas writes it) says ``verified_empty``. The
columns ``width``, ``height``, ``state``, ``ignore`` and ``split`` are used where they are there. Where
the columns are not separated by commas, a comma in a number is its decimal point.

Two layouts of other programs are read too: Open Images (``ImageID``, ``LabelName``, ``XMin`` …; its
boxes are shares of the image, which `check` says), and MakeSense (``label,x,y,width,height,image,image
width,image height`` without a header).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from hardmine.data.formats.image_states import parse_state
from hardmine.data.formats.label_format import (
    ALL,
    Additions,
    Fault,
    ImageLabels,
    LabelFiles,
    LabelledBox,
    NewImage,
    Reader,
    pictures_in,
    read_side,
    score_left_out,
    usual_folder,
    with_lines,
    written_as,
)
from hardmine.data.formats.label_readers import OneFileSource, by_split, one_file_source
from hardmine.errors import DataError
from hardmine.files import TextError, peek_text, read_text
from hardmine.finding_kinds import FindingKind
from hardmine.types import Dataset, ImageState

_BOX = ("xmin", "ymin", "xmax", "ymax")
_PLAIN = ("image", *_BOX, "label")
_NAMES = {
    "image": "image filename file_name file filepath file_path path image_path img img_path image_name",
    "image_id": "imageid image_id",
    "xmin": "xmin x_min x1 left bbox_x1",
    "ymin": "ymin y_min y1 top bbox_y1",
    "xmax": "xmax x_max x2 right bbox_x2",
    "ymax": "ymax y_max y2 bottom bbox_y2",
    "label": "label class class_name classname category name labels labelname",
    "width": "width image_width img_width",
    "height": "height image_height img_height",
    "state": "state hardmine_state",
    "ignore": "ignore difficult iscrowd isgroupof",
    "split": "split subset",
    "score": "score confidence conf probability",
}
_MAKESENSE = ("label", "xmin", "ymin", "box_width", "box_height", "image", "width", "height")
_NOTHING = frozenset({"", "nan", "none", "null", "n/a", "na"})
_COLUMN = {name: column for column, names in _NAMES.items() for name in names.split()}


def looks_like_boxes(path: Path) -> bool:
    """Return whether a file's first line is a header of boxes, or a line of boxes without one."""
    first = peek_text(path).split("\n")[0]
    cells = next(iter(csv.reader([first], delimiter=_delimiter(first))), [])
    return _header(cells) is not None or _is_plain(cells) or _is_makesense(cells)


def read_csv(path: Path) -> Iterator[ImageLabels]:
    """Yield what each line says.

    Raises:
        DataError: not readable, or no line of boxes.
    """
    columns, width, lines = _lines(path)
    comma = _delimiter(read_text(path).split("\n")[0]) != ","
    for index, cells in enumerate(lines):
        if any(cell.strip() for cell in cells[width:]):
            image = cells[columns["image"]].strip()
            reason = f"{len(cells)} cells, wanted {width}: {','.join(cells)[:80]!r}"
            fault = Fault(FindingKind.BOX_MALFORMED, index, reason)
            yield ImageLabels(image, index, rejected=[fault])
        elif any(cell.strip() for cell in cells):
            yield _line(columns, cells, index, decimal_comma=comma)


def _lines(path: Path) -> tuple[dict[str, int], int, list[list[str]]]:
    """Return the place of each column, the number of columns, and the cells of each line."""
    try:
        text = read_text(path)
        first = text.split("\n")[0]
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(first)))
    except TextError as error:
        raise DataError(f"{path}: {error}") from None
    except (OSError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV ({error})") from None
    columns = _header(rows[0]) if rows else None
    if columns is not None:
        return columns, len(rows[0]), rows[1:]
    if rows and _is_plain(rows[0]):
        return {name: index for index, name in enumerate(_PLAIN)}, len(_PLAIN), rows
    if rows and _is_makesense(rows[0]):
        return {name: index for index, name in enumerate(_MAKESENSE)}, len(_MAKESENSE), rows
    wanted = ",".join(_PLAIN)
    raise DataError(f"{path}: first line {first[:80]!r}, wanted {wanted}")


def _line(
    columns: Mapping[str, int], cells: Sequence[str], index: int, *, decimal_comma: bool
) -> ImageLabels:
    def cell(name: str) -> str:
        """Return the text of a column, empty where the line is too short."""
        place = columns.get(name, len(cells))
        return cells[place].strip() if place < len(cells) else ""

    width, height = read_side(cell("width")), read_side(cell("height"))
    image = cell("image")
    labels = ImageLabels(image, index, width, height, state=_state(cell("state")))
    labels.split = cell("split")
    if cell("state") and labels.state is None:
        wanted = ", ".join(ImageState)
        reason = f"state {cell('state')!r}, wanted one of {wanted}"
        labels.remarks.append(Fault(FindingKind.STATE_UNKNOWN, index, reason))
    label, written = cell("label"), [cell(name) for name in _BOX]
    if "box_width" in columns:
        written[2:] = _far_corner(written[:2], [cell("box_width"), cell("box_height")])
    if label.lower() in _NOTHING and all(text.lower() in _NOTHING for text in written):
        return labels
    try:
        x0, y0, x1, y1 = (_number(text, decimal_comma=decimal_comma) for text in written)
    except ValueError:
        reason = f"box {' '.join(written)!r} of {image}, wanted xmin ymin xmax ymax"
        labels.rejected.append(Fault(FindingKind.BOX_MALFORMED, index, reason))
        return labels
    if not label:
        reason = f"no label for a box of {image}"
        labels.rejected.append(Fault(FindingKind.CLASS_UNKNOWN, index, reason))
        return labels
    ignore = labels.flag(cell("ignore"), "ignore", index)
    labels.objects.append(LabelledBox(label, x0, y0, x1, y1, index, ignore))
    if cell("score") not in ("1", "1.0"):  # Open Images says that a person drew the box
        labels.remarks += score_left_out(cell("score"), index)
    return labels


def _number(text: str, *, decimal_comma: bool) -> float:
    plain = text.replace(",", ".") if decimal_comma and "." not in text else text
    return float(plain)


def _state(text: str) -> ImageState | None:
    return parse_state(text.lower()) if text else None


def _header(cells: Sequence[str]) -> dict[str, int] | None:
    """Return the column of each known name; None where an image or a box side is not among them."""
    found: dict[str, int] = {}
    for index, cell in enumerate(cells):
        column = _COLUMN.get(cell.strip().lower())
        if column is not None:
            found.setdefault(column, index)
    if "image_id" in found:  # only where no column has the file's name
        found.setdefault("image", found.pop("image_id"))
    return found if all(name in found for name in _PLAIN) else None


def _is_plain(cells: Sequence[str]) -> bool:
    if len(cells) != len(_PLAIN) or not Path(cells[0]).suffix:
        return False
    return all(_is_number(cell) for cell in cells[1:5]) or not any(cells[1:])


def _is_makesense(cells: Sequence[str]) -> bool:
    if len(cells) != len(_MAKESENSE) or not Path(cells[5]).suffix:
        return False
    return all(_is_number(cell) for cell in (*cells[1:5], *cells[6:]))


def _far_corner(near: Sequence[str], size: Sequence[str]) -> list[str]:
    """Return the corner at the other end of a box, as text; what is no number stays one side's text."""
    return [
        str(float(a) + float(b)) if _is_number(a) and _is_number(b) else b
        for a, b in zip(near, size, strict=True)
    ]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _delimiter(line: str) -> str:
    return max(",;\t", key=line.count)


def _sources(path: Path, images: Path | None) -> dict[str, OneFileSource]:
    source = one_file_source("csv", path, images, read_csv, one_entry_per_image=False)
    first = peek_text(path).split("\n")[0]
    cells = next(iter(csv.reader([first], delimiter=_delimiter(first))), [])
    return by_split(source) if "split" in (_header(cells) or ()) else {ALL: source}


READER = Reader(files=LabelFiles((".csv", ".tsv"), looks_like_boxes, _sources, after_pairs=True))


def append_csv(source: OneFileSource, split: Dataset, images: Sequence[NewImage]) -> Additions:
    """Add a line for each object, and for a negative one that names the image alone."""
    columns, width, lines = _lines(source.file)
    delimiter = _delimiter(read_text(source.file).split("\n")[0])
    folder = usual_folder(split)
    known = next(record.path for record in split.records if record.path.parent == folder)
    written = [line[columns["image"]] for line in lines if len(line) > columns["image"]]
    found = Additions(pictures=pictures_in(folder, images))
    added: list[str] = []
    for image in images:
        values = {"image": written_as(image, written, known, split.root)}
        values |= {"width": str(image.width), "height": str(image.height)}
        values["state"] = (
            ImageState.LABELLED if image.classes else ImageState.VERIFIED_EMPTY
        ).value
        values["split"] = source.split or ""
        boxes = [dict(zip(_BOX, map(_short, box), strict=True)) for box in image.boxes.tolist()]
        sizes = [(_short(x1 - x0), _short(y1 - y0)) for x0, y0, x1, y1 in image.boxes.tolist()]
        rows = [
            {**box, "label": name, "box_width": wide, "box_height": high}
            for box, name, (wide, high) in zip(boxes, image.classes, sizes, strict=True)
        ]
        for row in rows or [{}]:
            cells = [""] * width
            for name, place in columns.items():
                cells[place] = {**values, **row}.get(name, "")
            out = io.StringIO()
            csv.writer(out, delimiter=delimiter, lineterminator="").writerow(cells)
            added.append(out.getvalue())
    found.edits[source.file] = with_lines(source.file, added)
    return found


def _short(value: float) -> str:
    return f"{value:.10g}"


APPENDER = append_csv
