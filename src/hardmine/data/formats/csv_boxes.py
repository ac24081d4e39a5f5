"""CSV: one line per object, ``image,xmin,ymin,xmax,ymax,label``, in pixels; read, and added to.

The header says which column is which, under any of the usual names and in any order, with commas,
semicolons, tabs or bars between; a file without a header has the six columns in the order above. In
place of the far corner there may be a size (``x``, ``y``, ``w``, ``h``). Before the header there may be
empty lines, comments (``#``) and Excel's ``sep=;``. A line
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
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
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
    is_number,
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
    "image": "image filename file_name file filepath file_path path image_path img img_path image_name "
    "imagename",
    "image_id": "imageid image_id",
    "xmin": "xmin x_min x1 left bbox_x1 box_x1 bbox_xmin",
    "ymin": "ymin y_min y1 top bbox_y1 box_y1 bbox_ymin",
    "xmax": "xmax x_max x2 right bbox_x2 box_x2 bbox_xmax",
    "ymax": "ymax y_max y2 bottom bbox_y2 box_y2 bbox_ymax",
    "label": "label class class_name classname category category_name name labels labelname cls",
    "width": "width image_width img_width",
    "height": "height image_height img_height",
    "state": "state hardmine_state",
    "ignore": "ignore difficult iscrowd isgroupof",
    "split": "split subset",
    "score": "score confidence conf probability prob detection_score",
    "x": "x bbox_x box_x",
    "y": "y bbox_y box_y",
    "box_width": "w bbox_w bbox_width box_w box_width",
    "box_height": "h bbox_h bbox_height box_h box_height",
}
_MAKESENSE = ("label", "xmin", "ymin", "box_width", "box_height", "image", "width", "height")
_SIZE = ("box_width", "box_height")
_SIZED = ("image", "xmin", "ymin", *_SIZE, "label")
_OF_VIA_3 = "; this is the CSV of VIA 3: give its project, saved as JSON"
_SEPARATOR = re.compile(r'"?sep=(.)"?', re.IGNORECASE)
"""What Excel writes in front of the header."""
_NOTHING = frozenset({"", "nan", "none", "null", "n/a", "na"})
_COLUMN = {name: column for column, names in _NAMES.items() for name in names.split()}
_FROM_0 = {"x0": "xmin", "y0": "ymin", "x1": "xmax", "y1": "ymax"}
"""What the sides are called where the near corner has the number 0."""


def looks_like_boxes(path: Path) -> bool:
    """Return whether a file's first line is a header of boxes, or a line of boxes without one."""
    return _columns(_first_cells(path)) is not None


def read_csv(path: Path) -> Iterator[ImageLabels]:
    """Yield what each line says.

    Raises:
        DataError: not readable, or no line of boxes.
    """
    columns, width, lines, delimiter = _lines(path)
    comma = delimiter != ","
    for index, cells in enumerate(lines):
        if any(cell.strip() for cell in cells[width:]):
            image = cells[columns["image"]].strip()
            reason = f"{len(cells)} cells, wanted {width}: {','.join(cells)[:80]!r}"
            fault = Fault(FindingKind.BOX_MALFORMED, index, reason)
            yield ImageLabels(image, index, rejected=[fault])
        elif any(cell.strip() for cell in cells):
            yield _line(columns, cells, index, decimal_comma=comma)


def _lines(path: Path) -> tuple[dict[str, int], int, list[list[str]], str]:
    """Return the place of each column, how many there are, the cells of each line, the delimiter."""
    try:
        whole = read_text(path)
        delimiter, text = csv_body(whole)
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except TextError as error:
        raise DataError(f"{path}: {error}") from None
    except (OSError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV ({error})") from None
    first = rows[0] if rows else []
    columns = _columns(first)
    if columns is None:
        wanted = ",".join(_PLAIN)
        line = text.split("\n")[0][:80]
        said = f"{path}: first line {line!r}, wanted {wanted} or a header with such columns"
        raise DataError(said + (_OF_VIA_3 if "CSV_HEADER = metadata_id" in whole else ""))
    return columns, len(first), rows[1:] if _header(first) is not None else rows, delimiter


def csv_body(text: str) -> tuple[str, str]:
    """Return what separates the columns, and the text from its header on."""
    declared = ""
    while text:
        first, _, rest = text.partition("\n")
        if found := _SEPARATOR.fullmatch(first.strip()):
            declared = found[1]
        elif first.strip() and not first.startswith("#"):
            break
        text = rest
    return declared or _delimiter(text.partition("\n")[0]), text


def _first_cells(path: Path) -> list[str]:
    """Return the cells of a file's header, or of its first line of boxes."""
    delimiter, text = csv_body(peek_text(path))
    return next(iter(csv.reader([text.partition("\n")[0]], delimiter=delimiter)), [])


def _columns(cells: Sequence[str]) -> dict[str, int] | None:
    """Return the column of each name, of a header or a first line without one; None: no boxes."""
    if (found := _header(cells)) is not None:
        return found
    for names, fits in ((_PLAIN, _is_plain), (_MAKESENSE, _is_makesense)):
        if fits(cells):
            return {name: index for index, name in enumerate(names)}
    return None


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
    sized = _SIZE[0] in columns
    sides = (*_BOX[:2], *_SIZE) if sized else _BOX
    label, written = cell("label"), [cell(name) for name in sides]
    if all(means_nothing(text) for text in (label, *written)):
        return labels
    try:
        x0, y0, x1, y1 = (csv_number(text, decimal_comma=decimal_comma) for text in written)
        if sized:
            x1, y1 = x0 + x1, y0 + y1
    except ValueError:
        reason = f"box {' '.join(written)!r} of {image}, wanted {' '.join(sides)}"
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


def _state(text: str) -> ImageState | None:
    return parse_state(text.lower()) if text else None


def _header(cells: Sequence[str]) -> dict[str, int] | None:
    """Return the column of each known name; None where an image or a box side is not among them."""
    found = name_columns(cells)
    wanted = _SIZED if _SIZE[0] in found else _PLAIN
    return found if all(name in found for name in wanted) else None


def name_columns(cells: Sequence[str]) -> dict[str, int]:
    """Return the place of each column of a header that has a known name.

    The box is ``xmin ymin xmax ymax``, or ``xmin ymin box_width box_height`` where the header gives
    sizes.
    """
    found: dict[str, int] = {}
    written = [cell.strip().lower().replace(" ", "_") for cell in cells]
    columns = {**_COLUMN, **_FROM_0} if "x0" in written else _COLUMN
    if "x3" in written:  # the corners of a turned box
        columns = {name: column for name, column in columns.items() if column not in _BOX}
    for index, cell in enumerate(written):
        column = columns.get(cell)
        if column is not None:
            found.setdefault(column, index)
    if "image_id" in found:  # only where no column has the file's name
        found.setdefault("image", found.pop("image_id"))
    beside = {name: found.pop(name) for name in ("x", "y", *_SIZE) if name in found}
    if "xmax" not in found and all(name in beside for name in _SIZE):
        near = {f"{name}min": beside[name] for name in ("x", "y") if name in beside}
        found = {**near, **found, **{name: beside[name] for name in _SIZE}}
    return found


def column_of(name: str) -> str:
    """Return which column a name stands for (``Confidence``: ``score``); empty where it is unknown."""
    return _COLUMN.get(name.strip().lower().replace(" ", "_"), "")


def means_nothing(cell: str) -> bool:
    """Return whether a cell is empty, or holds what programs write for nothing (``NaN``)."""
    return cell.strip().lower() in _NOTHING


def csv_number(text: str, *, decimal_comma: bool) -> float:
    """Return a number; ``decimal_comma`` where commas do not separate the columns.

    Raises:
        ValueError: it is none.
    """
    plain = text.replace(",", ".") if decimal_comma and "." not in text else text
    return float(plain)


def _is_plain(cells: Sequence[str]) -> bool:
    if len(cells) != len(_PLAIN) or not Path(cells[0]).suffix:
        return False
    return all(is_number(cell) for cell in cells[1:5]) or not any(cells[1:])


def _is_makesense(cells: Sequence[str]) -> bool:
    if len(cells) != len(_MAKESENSE) or not Path(cells[5]).suffix:
        return False
    return all(is_number(cell) for cell in (*cells[1:5], *cells[6:]))


def _delimiter(line: str) -> str:
    return max(",;\t|", key=line.count)


def _sources(path: Path, images: Path | None) -> dict[str, OneFileSource]:
    source = one_file_source("csv", path, images, read_csv, one_entry_per_image=False)
    columns = _columns(_first_cells(path)) or {}
    if _SIZE[0] in columns:
        source = replace(source, form="xywh")
    return by_split(source) if "split" in columns else {ALL: source}


READER = Reader(files=LabelFiles((".csv", ".tsv"), looks_like_boxes, _sources, after_pairs=True))


def append_csv(source: OneFileSource, split: Dataset, images: Sequence[NewImage]) -> Additions:
    """Add a line for each object, and for a negative one that names the image alone."""
    columns, width, lines, delimiter = _lines(source.file)
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
