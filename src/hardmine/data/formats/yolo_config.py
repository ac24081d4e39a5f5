"""The ``data.yaml`` of a YOLO dataset, and its lists of class names."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from hardmine.data.formats.yolo import YoloSource
from hardmine.errors import DataError

logger = logging.getLogger(__name__)

_KEYS = {"train": "train", "val": "val", "valid": "val", "test": "test"}
_CLASS_FILES = ("classes.txt", "obj.names", "labels/classes.txt", "images/classes.txt")


def read_config(path: Path, images: Path | None = None) -> dict[str, YoloSource]:
    """Return the splits that a ``data.yaml`` names.

    The root is the folder under ``path`` (seen from the yaml's folder), or the yaml's folder when
    there is none or it does not exist here; no entry may leave it.

    Args:
        images: takes the place of ``path``.

    Raises:
        DataError: broken, without names or splits, or an entry is missing or leaves the root.
    """
    config = load_yaml(path)
    names = _names(path, config)
    root = images or path.parent / str(config.get("path") or "")
    if not root.is_dir():
        logger.warning("%s: path %s is not here, using %s", path, root, path.parent)
        root = path.parent
    sources: dict[str, YoloSource] = {}
    for key, split in _KEYS.items():
        value = config.get(key)
        entries = [value] if isinstance(value, str) else value or []
        if not isinstance(entries, list):
            raise DataError(f"{path}: {key} is {value!r}, wanted a path or a list of paths")
        found = [_locate(path, root, key, str(entry)) for entry in entries]
        present = tuple(entry for entry in found if entry is not None)
        if present:
            sources[split] = YoloSource(root, present, names)
    if not sources:
        raise DataError(f"{path}: none of train, val, test names a folder or list below {root}")
    return sources


def load_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a yaml file.

    Raises:
        DataError: not readable, not yaml, or not a mapping.
    """
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: cannot be read as YAML ({reason})") from None
    if not isinstance(config, dict):
        raise DataError(f"{path}: got {type(config).__name__}, wanted keys such as train and names")
    return config


def class_names(folder: Path) -> tuple[str, ...] | None:
    """Return the names in a folder's ``classes.txt`` (or ``obj.names``), None where it has none."""
    for name in _CLASS_FILES:
        path = folder / name
        if path.is_file():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            return tuple(line.strip() for line in lines if line.strip())
    return None


def _names(path: Path, config: Mapping[str, Any]) -> tuple[str, ...]:
    names = config.get("names")
    if isinstance(names, dict):
        try:
            by_number = {int(number): str(name) for number, name in names.items()}
        except (TypeError, ValueError):
            by_number = {}
        if sorted(by_number) != list(range(len(names))):
            raise DataError(f"{path}: names has the keys {list(names)}, wanted 0, 1, 2 …")
        names = [by_number[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DataError(f"{path}: names is {names!r}, wanted a list of class names")
    return tuple(str(name) for name in names)


def _locate(path: Path, root: Path, key: str, entry: str) -> Path | None:
    """Return the file or folder that an entry names, None where there is none.

    Some exports write ``../train/images`` for what lies beside the yaml, so the ``../`` is dropped
    where it leads nowhere.
    """
    plain = entry.replace("\\", "/")
    for spelling in (plain, plain.removeprefix("../")):
        found = Path(os.path.normpath(root / spelling))
        if found.exists():
            if not Path(os.path.realpath(found)).is_relative_to(os.path.realpath(root)):
                raise DataError(f"{path}: {key} names {found}, outside {root}")
            return found
    logger.warning("%s: %s names %s, which is not in %s", path, key, entry, root)
    return None
