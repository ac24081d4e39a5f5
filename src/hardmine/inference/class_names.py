"""Class names from the files in which people keep them."""

from __future__ import annotations

import csv
import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hardmine.errors import ConfigError, DataError
from hardmine.files import TextError, plain_name, read_json, read_text, read_yaml

_log = logging.getLogger(__name__)
_BACKGROUND = frozenset({"background", "__background__", "_background_", "bg"})
_NUMBERED = re.compile(r"(\d+)\s*[:;,.)]?\s+(.+)")
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
_KEYS = frozenset(
    {"categories", "names", "classes", "id2label", "label2id", "label_map", "detection_categories"}
)
"""Under which keys programs write their classes."""
_FOREIGN = frozenset({".data", ".xml", ".py", ".toml", ".cfg", ".ini"})
_WANTED = "text with one name a line, YAML, JSON, CSV or a label_map.pbtxt"


def read_classes(path: Path) -> tuple[str, ...]:
    """Return class names in the order of their numbers.

    Args:
        path: a text file with one name a line (also ``0 cat``, ``1: dog``); a COCO json (its
            ``categories`` by id); a YOLO ``data.yaml`` (``names`` as a list or a mapping); JSON or YAML
            of a list, a mapping of numbers and names, or objects with ``name`` (and ``id``); a CSV with
            names and numbers; or a ``label_map.pbtxt``. Names in YAML stay as they are written: ``no``
            and ``010`` are names. LabelMe's ``__ignore__`` is no class.

    Raises:
        DataError: missing, unreadable, not UTF-8, empty, a name or number that occurs twice, or
            something in place of a name.
    """
    suffix = path.suffix.lower()
    if suffix == ".json":
        names = _from_tree(read_json(path), path)
    elif suffix in {".yaml", ".yml"}:
        tree, repeated = read_yaml(path)
        if repeated:
            raise DataError(f"{path}: has the key {repeated[0]!r} twice")
        names = _from_tree(tree, path)
    elif suffix in _FOREIGN:
        raise DataError(f"{path}: got a {suffix} file, wanted {_WANTED}")
    else:
        names = _from_text(path)
    names = [plain_name(name) for name in names]
    if not names or len(set(names)) < len(names):
        raise DataError(f"{path}: wanted class names, each once, got {names[:10]}")
    alike = Counter(name.casefold() for name in names)
    twins = [name for name in names if alike[name.casefold()] > 1]
    if twins:
        _log.warning("%s: names differ in capital letters only: %s", path, ", ".join(twins[:6]))
    return tuple(names)


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


def _from_text(path: Path) -> list[str]:
    try:
        text = read_text(path)
    except (OSError, TextError) as error:
        raise DataError(f"{path}: cannot be read as a list of classes ({error})") from None
    items = items_of_label_map(text)
    if items:
        return [items[number] for number in sorted(items)]
    written = [line.strip() for line in text.split("\n")]
    lines = [line for line in written if line and not line.startswith("#")]
    first = next((i for i, line in enumerate(written) if line in lines[:1]), 0)
    if any(not line for line in text.rstrip().split("\n")[first:]):
        _log.warning(
            "%s: has empty lines between the names; the names are counted without them", path
        )
    table = _from_table(lines, path, is_csv=path.suffix.lower() in {".csv", ".tsv"})
    if table is not None:
        return table
    _refuse_structure(lines, path)
    if lines and all(line[0] == line[-1] and line[0] in "\"'" and len(line) > 2 for line in lines):
        lines = [line[1:-1] for line in lines]
    return lines[1:] if lines[:1] == ["__ignore__"] else lines  # LabelMe's number -1


def _from_table(lines: Sequence[str], path: Path, *, is_csv: bool) -> list[str] | None:
    """Return the names of lines with a number and a name, by number; None where they are names only.

    The lines of a text are so read where the numbers are 0, 1, 2 … or 1, 2, 3 …; other numbers may
    belong to the names there.
    """
    delimiter = max(",;\t", key=lines[0].count) if lines else ","
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter)]
    if not is_csv and not (rows and _columns(rows[0])):
        found = [_NUMBERED.fullmatch(line) for line in lines]
        numbers = [int(one[1]) for one in found if one]
        if len(lines) > 1 and len(numbers) == len(lines) and _are_consecutive(numbers):
            return _by_number([(int(one[1]), one[2]) for one in found if one], path)
        return None
    header = _columns(rows[0]) if rows else None
    if header is None and rows and len(rows[0]) == 1 and rows[0][0].lower() in _NAME_COLUMNS:
        return [row[0] for row in rows[1:]]
    if header is not None:
        rows = rows[1:]
    elif all(len(row) == 1 for row in rows):
        return None
    else:
        header = next(
            (h for h in ((0, 1), (1, 0)) if all(_is_numbered(row, h) for row in rows)), None
        )
    if header is None:
        raise DataError(
            f"{path}: got a table that begins {lines[0][:80]!r}, wanted id,name or name,id"
        )
    number_at, name_at = header
    if number_at is None:
        return [row[name_at] for row in rows if len(row) > name_at]
    if bad := next((row for row in rows if not _is_numbered(row, (number_at, name_at))), None):
        raise DataError(f"{path}: got {delimiter.join(bad)[:80]!r}, wanted a number and a name")
    return _by_number([(int(row[number_at]), row[name_at]) for row in rows], path)


def _columns(header: Sequence[str]) -> tuple[int | None, int] | None:
    """Return in which columns a header has the number (or none) and the name; None: it is no header."""
    words = [cell.lower().replace(" ", "_") for cell in header]
    name = next((words.index(word) for word in _NAME_COLUMNS if word in words), None)
    number = next((words.index(word) for word in _NUMBER_COLUMNS if word in words), None)
    return None if name is None or (number is None and len(words) < 2) else (number, name)


def _is_numbered(row: Sequence[str], columns: tuple[int, int]) -> bool:
    number, name = columns
    return len(row) > max(columns) and row[number].isdecimal() and bool(row[name])


def _are_consecutive(numbers: Sequence[int]) -> bool:
    return sorted(numbers) in [list(range(i, i + len(numbers))) for i in (0, 1)]


def _by_number(pairs: Iterable[tuple[int, str]], path: Path) -> list[str]:
    found: dict[int, str] = {}
    for number, name in pairs:
        if number in found:
            raise DataError(f"{path}: number {number} is {found[number]!r} and {name!r}")
        found[number] = name
    return [found[number] for number in sorted(found)]


def items_of_label_map(text: str) -> dict[int, str]:
    """Return the names by id of a ``label_map.pbtxt``; none where a text is none."""
    found: dict[int, str] = {}
    for item in _ITEM.findall(text):
        number = re.search(r"\bid\s*:\s*(\d+)", item)
        name = re.search(r"\b(?:display_name|name)\s*:\s*([\"'])(.*?)\1", item)
        shown = re.search(r"\bdisplay_name\s*:\s*([\"'])(.*?)\1", item) or name
        if number and shown:
            found[int(number[1])] = shown[2]
    return found


def _refuse_structure(lines: Sequence[str], path: Path) -> None:
    """Refuse text that is no list of names: JSON, YAML, a table or code under the name of a text."""
    first = lines[0] if lines else ""
    several = len(lines) == 1 and "," in first
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


def is_background(name: str) -> bool:
    """Return whether a name is that of the background, which some lists have in front as number 0."""
    return name.strip().lower() in _BACKGROUND


def _from_tree(tree: Any, path: Path) -> list[str]:
    if isinstance(tree, Mapping):
        key = next((k for k in tree if str(k).lower() in _KEYS), None)
        if key is not None:
            names = _from_tree(tree[key], path)
            said = str(tree.get("nc", len(names)))
            if said != str(len(names)):
                _log.warning("%s: nc is %s, but %d names are given", path, said, len(names))
            return names
        return _from_pairs(tree, path)
    if not isinstance(tree, list):
        got = "nothing" if tree is None or tree == "" else repr(tree)[:80]
        raise DataError(f"{path}: wanted a list of names, 'names' or 'categories', got {got}")
    if tree and all(isinstance(entry, Mapping) and "id" in entry for entry in tree):
        return _by_number([_entry(entry, path) for entry in tree], path)
    found = [entry.get("name") if isinstance(entry, Mapping) else entry for entry in tree]
    for index, name in enumerate(found):
        if not isinstance(name, str | int | float) or isinstance(name, bool):
            raise DataError(f"{path}: entry {index} is {tree[index]!r}, wanted a name")
    return [str(name) for name in found]


def _from_pairs(tree: Mapping[Any, Any], path: Path) -> list[str]:
    """Return the names of a mapping from numbers to names, or from names to numbers 0, 1 … or 1, 2 …"""
    pairs = {k: v.get("name") if isinstance(v, Mapping) else v for k, v in tree.items()}
    keys, values = ([str(one) for one in side] for side in (pairs, pairs.values()))
    if all(key.isdecimal() for key in keys) and all(isinstance(v, str) for v in pairs.values()):
        return _by_number(
            [(int(key), value) for key, value in zip(keys, values, strict=True)], path
        )
    if all(v.isdecimal() for v in values) and _are_consecutive([int(v) for v in values]):
        return _by_number(
            [(int(value), key) for key, value in zip(keys, values, strict=True)], path
        )
    shown = ", ".join(keys[:6])
    raise DataError(
        f"{path}: has {shown}; wanted 'names' or 'categories', or a mapping of numbers and names"
    )


def _entry(entry: Mapping[str, Any], path: Path) -> tuple[int, str]:
    number, name = str(entry["id"]), entry.get("name")
    if not number.isdecimal() or not isinstance(name, str):
        raise DataError(
            f"{path}: got {dict(entry)}, wanted a category with a whole-number id and a name"
        )
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
