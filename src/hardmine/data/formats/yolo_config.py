"""The ``data.yaml`` of a YOLO dataset: its classes, its splits, and the slips that people make in it.

The file is the user's word: its entries may be absolute and lie anywhere. What *label and list files*
name stays inside the folders that it names.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from hardmine.data.formats.yolo_columns import Keypoints
from hardmine.errors import DataError
from hardmine.text import plain_name, read_yaml

SPLIT_KEYS = {"train": "train", "val": "val", "valid": "val", "test": "test"}
ONLY_REPEATS = "only_repeats"
"""Key of a written data.yaml: splits that only repeat another, since other programs ask for them."""


@dataclass(frozen=True, slots=True)
class YoloConfig:
    """What a ``data.yaml`` says.

    Attributes:
        names: class names by number; numbers may be missing.
        splits: the folders and list files of each split that are there.
        root: the folder under ``path``, or the yaml's own.
        keypoints: ``kpt_shape``, where it is declared.
        remarks: slips, each a sentence.
    """

    file: Path
    root: Path
    names: Mapping[int, str]
    splits: Mapping[str, tuple[Path, ...]]
    keypoints: Keypoints | None = None
    remarks: list[str] = field(default_factory=list)


def load_config(path: Path) -> dict[str, Any]:
    """Return the mapping in a yaml file, scalars as text.

    Raises:
        DataError: not readable, not yaml, or not a mapping.
    """
    return _load(path)[0]


def read_config(path: Path, images: Path | None = None) -> YoloConfig:
    """Return what a ``data.yaml`` says.

    Args:
        images: takes the place of ``path``.

    Raises:
        DataError: broken, without names or splits.
    """
    config, repeated = _load(path)
    remarks = [f"{key} is there twice, the last one is used" for key in repeated]
    names = _names(path, config, remarks)
    root = images or path.parent / str(config.get("path") or "").replace("\\", "/")
    if not root.is_dir():
        remarks.append(f"path {root} is not here, using {path.parent}")
        root = path.parent
    splits: dict[str, tuple[Path, ...]] = {}
    for key, split in SPLIT_KEYS.items():
        if key in config:
            entries = _entries(path, key, config[key], remarks)
            found = [_locate(path, root, key, entry, remarks) for entry in entries]
            present = tuple(entry for entry in found if entry is not None)
            if present:
                splits[split] = present
    if not splits:
        said = f" ({remarks[-1]})" if remarks else ""
        raise DataError(
            f"{path}: none of train, val, test names a folder or list that is here{said}; looked "
            f"below {root}; name the folder of the images with images= (--images)"
        )
    for name in config.get(ONLY_REPEATS) or ():
        if any(splits[other] == splits.get(name) for other in splits if other != name):
            del splits[name]
    return YoloConfig(path, root, names, splits, _keypoints(path, config), remarks)


def _load(path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    config, repeated = read_yaml(path)
    if not isinstance(config, dict):
        got = "nothing" if config is None else type(config).__name__
        raise DataError(f"{path}: got {got}, wanted keys such as train and names")
    return config, repeated


def _names(path: Path, config: Mapping[str, Any], remarks: list[str]) -> dict[int, str]:
    written = config.get("names")
    count = _whole(config.get("nc"))
    if written is None and count:
        remarks.append(f"has nc: {count} and no names; the classes are called class_0, class_1 …")
        return {number: f"class_{number}" for number in range(count)}
    if isinstance(written, list) and all(isinstance(name, str) for name in written):
        names = {number: plain_name(name) for number, name in enumerate(written)}
    elif isinstance(written, dict) and all(_whole(key) is not None for key in written):
        pairs = sorted((_whole(key) or 0, plain_name(name)) for key, name in written.items())
        names = dict(pairs)
    else:
        names = {}
    if not names:
        raise DataError(f"{path}: names is {written!r}, wanted a list of class names")
    _remark_on_names(names, remarks)
    if config.get("nc") is not None and count != len(names):
        remarks.append(f"nc is {config['nc']} and names has {len(names)}; names counts")
    return names


def _remark_on_names(names: Mapping[int, str], remarks: list[str]) -> None:
    missing = sorted(set(range(max(names) + 1)) - set(names))
    if missing:
        shown = ", ".join(map(str, missing[:10])) + (" …" if len(missing) > 10 else "")
        remarks.append(f"names has no class {shown}; the others keep their numbers in label files")
    empty = [number for number, name in names.items() if not name]
    if empty:
        remarks.append(f"names has no name for class {', '.join(map(str, empty))}")
    seen: dict[str, int] = {}
    for number, name in names.items():
        first = seen.setdefault(name, number)
        if first != number:
            remarks.append(f"names calls class {first} and class {number} {name!r}; taken as one")


def _entries(path: Path, key: str, value: object, remarks: list[str]) -> list[str]:
    values: list[object] = value if isinstance(value, list) else [value]
    entries = [entry.strip() for entry in values if isinstance(entry, str)]
    if len(entries) < len(values):
        raise DataError(f"{path}: {key} is {value!r}, wanted a path or a list of paths")
    written = [entry for entry in entries if entry not in ("", "null", "~")]
    if not written:
        remarks.append(f"{key} is empty; there is no such split")
    return written


def _locate(path: Path, root: Path, key: str, entry: str, remarks: list[str]) -> Path | None:
    """Return the file or folder that an entry names, None where there is none.

    Some exports write ``../train/images`` for what lies beside the yaml, so the ``../`` is dropped
    where it leads nowhere. A path that was true on another machine is found by its last parts.
    """
    plain = entry.replace("\\", "/")
    for spelling in (plain, plain.removeprefix("../")):
        found = Path(os.path.normpath(root / spelling))
        if found.exists():
            if found == Path(found.anchor):
                raise DataError(f"{path}: {key} names {found}, the whole file system")
            return found
    parts = [part for part in PurePosixPath(plain).parts if part not in ("/", "..", ".")]
    for start in range(1, len(parts)):
        for folder in dict.fromkeys((root, path.parent)):
            found = folder.joinpath(*parts[start:])
            if found.exists():
                remarks.append(f"{key} names {entry}, which is not here; using {found}")
                return found
    remarks.append(f"{key} names {entry}, which is not here")
    return None


def _keypoints(path: Path, config: Mapping[str, Any]) -> Keypoints | None:
    shape = config.get("kpt_shape")
    if shape is None:
        return None
    sizes = [_whole(value) for value in shape] if isinstance(shape, list) else []
    if len(sizes) == 2 and sizes[0] and sizes[1] in (2, 3):
        return sizes[0], sizes[1]
    raise DataError(f"{path}: kpt_shape is {shape!r}, wanted [keypoints, 2 or 3]")


def _whole(value: object) -> int | None:
    """Return a whole number of 0 or more that is written as such, else None."""
    text = value.strip() if isinstance(value, str) else ""
    return int(text) if text.isascii() and text.isdigit() else None
