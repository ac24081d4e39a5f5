"""The quick way through a COCO file without faults: typed decoding, objects straight into columns.

Outlines and everything else that is not used are skipped while the text is parsed, without ever
becoming Python objects. What does not fit (a missing key, a box of three numbers, an unknown id, a
repeated name …) makes `read_fast` give up, and the careful reader in `hardmine.data.formats.coco` names
each fault.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from hardmine.data.formats.image_paths import OutsideRootError
from hardmine.data.formats.image_states import parse_state
from hardmine.data.formats.label_validation import ObjectTable, RawImage
from hardmine.types import ImageState

Find = Callable[[str], Path | None]


class _Image(msgspec.Struct, gc=False):
    id: int | str
    file_name: str
    width: float = 0
    height: float = 0
    hardmine_state: str | None = None
    hardmine_source: str = ""


class _Annotation(msgspec.Struct, gc=False):
    image_id: int | str
    category_id: int | str
    bbox: tuple[float, float, float, float]
    iscrowd: int = 0


class _Category(msgspec.Struct, gc=False):
    id: int | str
    name: str


class _Coco(msgspec.Struct, gc=False):
    images: list[_Image]
    annotations: list[_Annotation] = []
    categories: list[_Category] = []


FastSplit = tuple[list[str], list[RawImage], ObjectTable]


def read_fast(
    file: Path, name: str, choose: Callable[[Sequence[str]], Find], empty: ImageState
) -> FastSplit | None:
    """Return class names, images and objects; None where anything is out of the ordinary.

    Args:
        name: the file, as problems name it.
        choose: gives the function that finds images, from the names in the file.
        empty: state of an image without annotations that has none written.
    """
    try:
        data = _decode(file)
    except (OSError, ValueError, msgspec.MsgspecError, RecursionError):
        return None
    names = [category.name for category in data.categories]
    class_of = {category.id: index for index, category in enumerate(data.categories)}
    position = {image.id: index for index, image in enumerate(data.images)}
    if not len(set(names)) == len(class_of) == len(names) or len(position) != len(data.images):
        return None
    try:
        owner = [position[entry.image_id] for entry in data.annotations]
        classes = [class_of[entry.category_id] for entry in data.annotations]
    except KeyError:
        return None
    images = _images(data.images, name, choose([image.file_name for image in data.images]), empty)
    return None if images is None else (names, images, _table(data.annotations, owner, classes))


def _decode(file: Path) -> _Coco:
    """Parse the file where the system keeps it, without a copy of the bytes."""
    with (
        file.open("rb") as opened,
        mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as text,
    ):
        return msgspec.json.decode(text, type=_Coco)


def _images(
    entries: Sequence[_Image], file: str, find: Find, empty: ImageState
) -> list[RawImage] | None:
    images: list[RawImage] = []
    for entry in entries:
        try:
            path = find(entry.file_name) if entry.file_name else None
        except OutsideRootError:
            return None
        state = None if entry.hardmine_state is None else parse_state(entry.hardmine_state)
        if path is None or (state is None) != (entry.hardmine_state is None):
            return None
        width, height = (int(side) if 0 < side < 1e9 else 0 for side in (entry.width, entry.height))
        raw = RawImage(path, file, width, height, state=state, source=entry.hardmine_source)
        raw.state_if_empty = empty
        images.append(raw)
    distinct = {os.fspath(image.path) for image in images}
    return images if images and len(distinct) == len(images) else None


def _table(
    entries: Sequence[_Annotation], owner: Sequence[int], classes: Sequence[int]
) -> ObjectTable:
    values = (value for entry in entries for value in entry.bbox)
    boxes = np.fromiter(values, np.float64, 4 * len(entries)).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    crowd = np.fromiter((entry.iscrowd != 0 for entry in entries), np.bool_, len(entries))
    owners = np.array(owner, np.int64)
    order = np.argsort(owners, kind="stable")
    return ObjectTable(
        owners[order], boxes[order], np.array(classes, np.int64)[order], crowd[order], order
    )
