"""Class names from the files in which people keep them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hardmine.errors import MALFORMED, ConfigError, DataError
from hardmine.files import TextError, plain_name, read_json, read_lines, read_yaml


def read_classes(path: Path) -> tuple[str, ...]:
    """Return class names in the order of their numbers.

    Args:
        path: a text file with one name a line; a COCO json (its ``categories`` by id); a YOLO
            ``data.yaml`` (``names`` as a list or a mapping); or a YAML list. Names in YAML stay as
            they are written: ``no`` and ``010`` are names.

    Raises:
        DataError: missing, unreadable, not UTF-8, empty, or a name that occurs twice.
    """
    suffix = path.suffix.lower()
    if suffix == ".json":
        names = _from_tree(read_json(path), path)
    elif suffix in {".yaml", ".yml"}:
        names = _from_tree(read_yaml(path)[0], path)
    else:
        names = _from_lines(path)
    names = [plain_name(name) for name in names]
    if not names or len(set(names)) < len(names):
        raise DataError(f"{path}: wanted class names, each once, got {names[:10]}")
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


def _from_lines(path: Path) -> list[str]:
    try:
        return [line for line in read_lines(path) if line.strip()]
    except (OSError, TextError) as error:
        raise DataError(f"{path}: cannot be read as a list of classes ({error})") from None


def _from_tree(tree: Any, path: Path) -> list[str]:
    try:
        if isinstance(tree, Mapping) and "categories" in tree:
            entries = sorted(tree["categories"], key=lambda entry: int(entry["id"]))
            return [str(entry["name"]) for entry in entries]
        if isinstance(tree, Mapping) and "names" in tree:
            tree = tree["names"]
        if isinstance(tree, Mapping):
            return [str(tree[key]) for key in sorted(tree, key=int)]
        if isinstance(tree, list):
            return [str(name) for name in tree]
    except MALFORMED as error:
        raise DataError(f"{path}: unreadable class list ({error!r})") from None
    raise DataError(f"{path}: wanted a list of names, 'names' or 'categories', got {type(tree)}")


def choose_classes(
    given: Sequence[str] | None, known: Sequence[str] | None, where: str
) -> tuple[str, ...]:
    """Return the classes that the user gave, else those that the model knows.

    Raises:
        ConfigError: neither is there, or their numbers differ.
    """
    if given is None and not known:
        raise ConfigError(f"{where}: has no class names; give --classes FILE, one name a line")
    if given is not None and known and len(given) != len(known):
        raise ConfigError(
            f"{where}: the model has {_short(known)} classes, --classes gives {_short(given)}"
        )
    return tuple(given if given is not None else known or ())
