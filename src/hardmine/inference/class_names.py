"""Class names from the files in which people keep them."""

from __future__ import annotations

import csv
import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hardmine.data.formats.csv_boxes import name_columns
from hardmine.data.formats.label_format import said_name, without_comments
from hardmine.data.images import has_picture_name
from hardmine.errors import MALFORMED, NOTICE, ConfigError, DataError
from hardmine.files import TextError, plain_name, read_json, read_text, read_yaml

_log = logging.getLogger(__name__)
_BACKGROUND = frozenset({"background", "__background__", "_background_", "bg"})
_NUMBERED = re.compile(r"(\d+)\s*[:;,.)]?\s+(.+)")
_COMMENT = re.compile(r"^\s*#.*$", re.MULTILINE)
_NUMBER = re.compile(r"-?\d*\.?\d+(e-?\d+)?", re.IGNORECASE)
_ITEM = re.compile(r"item\s*\{(.*?)\}", re.DOTALL)
_NUMBER_COLUMNS = ("id", "class_id", "category_id", "number", "index")
_NAME_COLUMNS = (
    "display_name",
    "class_name",
    "category_name",
    "name",
    "class",
    "label",
    "category",
)
_Names = list[str] | dict[int, str]
"""Names in their order, or by the numbers that the file gives."""
_KEYS = frozenset(
    {"categories", "names", "classes", "id2label", "label2id", "label_map", "detection_categories"}
)
"""Under which keys programs write their classes."""
_FOREIGN = frozenset({".data", ".xml", ".py", ".toml", ".cfg", ".ini"})
_WANTED = "text with one name a line, YAML, JSON, CSV or a label_map.pbtxt"


class ClassList(NamedTuple):
    """Class names, and the numbers that the file itself gives them; ``None`` where it gives none."""

    names: tuple[str, ...]
    numbers: tuple[int, ...] | None = None


def read_classes(path: Path) -> tuple[str, ...]:
    """Return class names in the order of their numbers; see `read_class_file`."""
    return read_class_file(path).names


def read_class_file(path: Path) -> ClassList:
    """Return class names in the order of their numbers, and these numbers.

    Args:
        path: a text file with one name a line (also ``0 cat``, ``1: dog``; lines that begin with ``#``
            are comments); a COCO json (its ``categories`` by id); a YOLO ``data.yaml`` (``names`` as a
            list or a mapping); JSON or YAML of a list, a mapping of numbers and names, or objects with
            ``name`` (and ``id``); a CSV with names and numbers; or a ``label_map.pbtxt``. Names in YAML
            stay as they are written: ``no`` and ``010`` are names. LabelMe's ``__ignore__`` is no class.

    Raises:
        DataError: missing, unreadable, not UTF-8, empty, a name or number that occurs twice, a place
            without a name, or something in place of a list of names.
    """
    suffix = path.suffix.lower()
    if suffix == ".json":
        found = _from_tree(read_json(path), path)
    elif suffix in {".yaml", ".yml"}:
        tree, repeated = read_yaml(path)
        if repeated:
            raise DataError(f"{path}: has the key {repeated[0]!r} twice")
        found = _from_tree(tree, path)
        if isinstance(found, dict) and list(found) == list(range(len(found))):
            # Numbers of YOLO's texts; the same programs count from 1 in their COCO results.
            found = list(found.values())
    elif suffix in _FOREIGN:
        raise DataError(f"{path}: got a {suffix} file, wanted {_WANTED}")
    else:
        found = _from_text(path)
    names = [plain_name(name) for name in (found.values() if isinstance(found, dict) else found)]
    if not names or len(set(names)) < len(names):
        raise DataError(f"{path}: wanted class names, each once, got {names[:10]}")
    if "" in names:
        raise DataError(f"{path}: place {names.index('')} of {len(names)} has no name")
    alike = Counter(name.casefold() for name in names)
    twins = [name for name in names if alike[name.casefold()] > 1]
    if twins:
        _log.warning("%s: names differ in capital letters only: %s", path, ", ".join(twins[:6]))
    return ClassList(tuple(names), tuple(found) if isinstance(found, dict) else None)


def require_classes(
    found: Sequence[str], wanted: Sequence[str], where: str, *, who: str = "the dataset"
) -> None:
    """Hold a model's classes to those of the data.

    Raises:
        DataError: another number, other names or another order.
    """
    if tuple(found) != tuple(wanted):
        raise DataError(
            f"{where}: the model has classes {_short(found)}, {who} has {_short(wanted)}; "
            "give --classes FILE with the data's names in the model's order"
        )


def _short(names: Sequence[str]) -> str:
    shown = ", ".join(names[:6])
    return f"{len(names)} ({shown}{', …' if len(names) > 6 else ''})"


def _from_text(path: Path) -> _Names:
    try:
        text = read_text(path)
        items = items_of_label_map(text)
    except (OSError, TextError) as error:
        raise DataError(f"{path}: cannot be read as a list of classes ({error})") from None
    if items:
        return dict(sorted(items.items()))
    written = without_comments([line.strip() for line in text.split("\n")], path)
    lines = [line for line in written if line]
    first = written.index(lines[0]) if lines else 0
    if "" in "\n".join(written).rstrip().split("\n")[first:] and lines:
        _log.warning(
            "%s: has empty lines between the names; the names are counted without them", path
        )
    _refuse_structure(lines, path)
    if path.suffix.lower() in {".csv", ".tsv"} or (lines and _heading(_cells(lines)[0])):
        return _from_table(_cells(lines), path)
    numbered = _numbered(lines)
    if numbered:
        return _by_number(numbered, path)
    if lines and all(line[0] == line[-1] and line[0] in "\"'" and len(line) > 2 for line in lines):
        lines = [line[1:-1] for line in lines]
    return lines[1:] if lines[:1] == ["__ignore__"] else lines  # LabelMe's number -1


def _cells(lines: Sequence[str]) -> list[list[str]]:
    """Return the cells of the lines of a table, separated by what its first line has most of."""
    first = re.sub('"[^"]*"', "", lines[0]) if lines else ""
    rows = csv.reader(lines, delimiter=max(",;\t", key=first.count))
    return [[cell.strip() for cell in row] for row in rows]


def _numbered(lines: Sequence[str]) -> list[tuple[int, str]]:
    """Return the numbers and names of lines such as ``0 cat``; none where the numbers may be names'.

    They are 0, 1, 2 … or 1, 2, 3 …, and no name occurs twice without them (``1 Euro``, ``2 Euro``).
    """
    found = [(int(one[1]), one[2]) for line in lines if (one := _NUMBERED.fullmatch(line))]
    whole = len(found) == len(lines) > 1 and _are_consecutive([number for number, _ in found])
    return found if whole and len({name for _, name in found}) == len(found) else []


def _from_table(rows: list[list[str]], path: Path) -> _Names:
    """Return the names of a table, by number where it has numbers."""
    heading = _heading(rows[0]) if rows else None
    if heading is None and all(len(row) == 1 for row in rows):
        names = [row[0] for row in rows]
        if names and names[0].lower() in _NAME_COLUMNS:
            _log.log(NOTICE, "%s: its first line, %r, is the heading and no class", path, names[0])
            return names[1:]
        return names
    if heading is not None:
        number_at, name_at = _columns(heading, rows[1:])
        rows = rows[1:]
    else:
        fits = [
            columns
            for columns in ((0, 1), (1, 0))
            if all(len(row) == 2 and _is_numbered(row, *columns) for row in rows)
        ]
        if len(fits) != 1:
            both = "; the number may be either column: give them a heading" if fits else ""
            raise DataError(
                f"{path}: got a table that begins {','.join(rows[0])[:80]!r}, wanted id,name or "
                f"name,id{both}"
            )
        number_at, name_at = fits[0]
    if number_at is None:
        return [row[name_at] for row in rows if len(row) > name_at]
    if bad := next((row for row in rows if not _is_numbered(row, number_at, name_at)), None):
        raise DataError(f"{path}: got {','.join(bad)[:80]!r}, wanted a number and a name")
    return _by_number([(int(row[number_at]), row[name_at]) for row in rows], path)


def _heading(cells: Sequence[str]) -> list[str] | None:
    """Return the words of a line that names the columns of a table; None where it is none."""
    words = [cell.lower().replace(" ", "_") for cell in cells]
    known = [word for word in words if word in _NAME_COLUMNS]
    return words if len(words) > 1 and known else None


def _columns(words: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[int | None, int]:
    """Return in which columns the number (or None) and the name are.

    A column that is called like one of names and holds whole numbers alone is that of the numbers, where
    another one holds names (``label,name``).
    """
    named = [words.index(word) for word in _NAME_COLUMNS if word in words]
    whole = [at for at in named if all(len(row) > at and row[at].isdecimal() for row in rows)]
    name = next((at for at in named if at not in whole), named[0])
    numbers = [words.index(word) for word in _NUMBER_COLUMNS if word in words]
    return next(iter([*numbers, *(at for at in whole if at != name)]), None), name


def _is_numbered(row: Sequence[str], number: int, name: int) -> bool:
    return len(row) > max(number, name) and row[number].isdecimal() and bool(row[name])


def _are_consecutive(numbers: Sequence[int]) -> bool:
    return sorted(numbers) in [list(range(i, i + len(numbers))) for i in (0, 1)]


def _by_number(pairs: Iterable[tuple[int, str]], path: Path) -> dict[int, str]:
    found: dict[int, str] = {}
    for number, name in pairs:
        if number in found:
            raise DataError(f"{path}: number {number} is {found[number]!r} and {name!r}")
        found[number] = name
    return dict(sorted(found.items()))


def items_of_label_map(text: str) -> dict[int, str]:
    """Return the names by id of a ``label_map.pbtxt``; none where a text is none.

    Raises:
        TextError: an item without an id or a name, or two with one id.
    """
    found: dict[int, str] = {}
    for item in _ITEM.findall(_COMMENT.sub("", text)):
        number = re.search(r"\bid\s*:\s*(\d+)", item)
        name = re.search(r"\b(?:display_name|name)\s*:\s*([\"'])(.*?)\1", item)
        shown = re.search(r"\bdisplay_name\s*:\s*([\"'])(.*?)\1", item) or name
        if not number or not shown:
            raise TextError(f"item {' '.join(item.split())[:60]!r}, wanted an id and a name")
        if int(number[1]) in found:
            raise TextError(f"two items have the id {number[1]}")
        found[int(number[1])] = shown[2]
    return found


def _refuse_structure(lines: Sequence[str], path: Path) -> None:
    """Refuse text that is no list of names: JSON, YAML, a table or code under the name of a text."""
    first = lines[0] if lines else ""
    other = next((words for words, fits in _NO_NAMES if lines and all(map(fits, lines))), "")
    if other or {"image", "xmin"} <= set(name_columns(_cells(lines)[0] if lines else ())):
        raise DataError(
            f"{path}: begins {first[:60]!r}: {other or 'a table of boxes'}; wanted {_WANTED}"
        )
    is_table = path.suffix.lower() in {".csv", ".tsv"}
    several = len(lines) == 1 and "," in first and not is_table
    is_other = (
        several
        or first.startswith(("{", "[", "<", "item {"))
        or first in ("names:", "item{")
        or all(line.startswith("- ") for line in lines)
        or any(re.fullmatch(r"names\s*=.*", line) for line in lines)
    )
    if lines and is_other:
        raise DataError(
            f"{path}: begins {first[:60]!r}, wanted one name a line; YAML, JSON and CSV need an "
            "ending that says so"
        )


def _is_box(line: str) -> bool:
    words = line.replace(",", " ").split()
    return len(words) > 4 and all(_NUMBER.fullmatch(word) for word in words)


_NO_NAMES = (("numbers of boxes", _is_box), ("a list of images", has_picture_name))
"""What all lines of a text may be in place of names."""


def is_background(name: str) -> bool:
    """Return whether a name is that of the background, which some lists have in front as number 0."""
    return name.strip().lower() in _BACKGROUND


def _from_tree(tree: Any, path: Path) -> _Names:
    if isinstance(tree, Mapping):
        key = next((k for k in tree if str(k).lower() in _KEYS), None)
        held = tree if key is None else tree[key]
        if isinstance(held, Mapping):
            names: _Names = _from_pairs(held, path, by_name=str(key).lower() == "label2id")
        else:
            names = _from_list(held, path)
        said = str(tree.get("nc", len(names)))
        if key is not None and said != str(len(names)):
            _log.warning("%s: nc is %s, but %d names are given", path, said, len(names))
        return names
    return _from_list(tree, path)


def _from_list(tree: Any, path: Path) -> _Names:
    if not isinstance(tree, list):
        got = "nothing" if tree is None or tree == "" else repr(tree)[:80]
        raise DataError(f"{path}: wanted a list of names, 'names' or 'categories', got {got}")
    if any(isinstance(entry, Mapping) and "id" in entry for entry in tree):
        return _by_number([_entry(entry, path) for entry in tree], path)
    found = [entry.get("name") if isinstance(entry, Mapping) else entry for entry in tree]
    for index, name in enumerate(found):
        if not isinstance(name, str | int | float) or isinstance(name, bool):
            raise DataError(f"{path}: entry {index} is {tree[index]!r}, wanted a name")
    return [str(name) for name in found]


def _from_pairs(tree: Mapping[Any, Any], path: Path, *, by_name: bool) -> dict[int, str]:
    """Return the names of a mapping from numbers to names, or from names to numbers 0, 1 … or 1, 2 …

    Args:
        by_name: the mapping is known to be from names to numbers.
    """
    pairs = {k: v.get("name") if isinstance(v, Mapping) else v for k, v in tree.items()}
    keys, values = ([str(one) for one in side] for side in (pairs, pairs.values()))
    to_names = all(key.isdecimal() for key in keys) and all(
        isinstance(v, str) for v in pairs.values()
    )
    to_numbers = all(v.isdecimal() for v in values) and _are_consecutive([int(v) for v in values])
    if to_names and to_numbers and not by_name and not _are_consecutive([int(k) for k in keys]):
        raise DataError(
            f"{path}: has {keys[0]}: {values[0]}, where either may be the number of the class; name "
            "the classes in a list"
        )
    if to_names and not (by_name and to_numbers):
        return _by_number(zip(map(int, keys), values, strict=True), path)
    if to_numbers:
        return _by_number(zip(map(int, values), keys, strict=True), path)
    shown = ", ".join(keys[:6])
    raise DataError(
        f"{path}: has {shown}; wanted 'names' or 'categories', or a mapping of numbers and names"
    )


def _entry(entry: Any, path: Path) -> tuple[int, str]:
    try:
        number, name = float(entry["id"]), said_name(entry["name"])
        if number != int(number) or number < 0 or isinstance(entry["id"], bool):
            raise ValueError(number)
    except MALFORMED:
        shown = dict(entry) if isinstance(entry, Mapping) else entry
        raise DataError(
            f"{path}: got {str(shown)[:120]}, wanted a category with a whole-number id and a name"
        ) from None
    return int(number), name


def choose_classes(
    given: Sequence[str] | None, known: Sequence[str] | None, where: str
) -> tuple[str, ...]:
    """Return the classes that the user gave, else those that the model knows.

    Raises:
        ConfigError: neither is there, or their numbers differ.
    """
    if given is None and not known:
        raise ConfigError(f"{where}: has no class names; give --classes FILE, one name a line")
    if given is not None and known and len(given) == len(known) + 1 and is_background(given[0]):
        _log.warning("%s: %r in front of the given names is no class", where, given[0])
        given = given[1:]
    if given is not None and known and len(given) != len(known):
        raise ConfigError(
            f"{where}: the model has {_short(known)} classes, --classes gives {_short(given)}"
        )
    return tuple(given if given is not None else known or ())
