"""What the files of labelling programs say that a person found in each image.

The programs are Label Studio, CVAT, FiftyOne, and those that write COCO (CVAT, Roboflow). Each says
in its own way what a person found in an image, and some cannot say that a person looked and found
nothing. What a file does not say stays undecided here; nothing is guessed.

Source: Label Studio, "Export annotations"; CVAT, "XML annotation format", version 1.1; FiftyOne,
"Exporting datasets"; COCO, "Data format".
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hardmine.data.formats.coco import looks_like_coco
from hardmine.data.formats.coco_writing import STATE_KEY
from hardmine.data.formats.createml import READER as CREATEML
from hardmine.data.formats.cvat import READER as CVAT
from hardmine.data.formats.cvat import read_cvat
from hardmine.data.formats.fiftyone import EMPTY_LIST
from hardmine.data.formats.fiftyone import READER as FIFTYONE
from hardmine.data.formats.format_table import READ
from hardmine.data.formats.label_format import ImageLabels, parse_xml, read_side
from hardmine.data.formats.label_studio import READER as LABEL_STUDIO
from hardmine.data.formats.label_studio import read_label_studio
from hardmine.data.images import encoded_size
from hardmine.errors import MALFORMED, DataError
from hardmine.files import TextError, parse_flag, peek_text, read_json
from hardmine.inference.image_loading import read_item
from hardmine.mining.sources.pool_source import open_image
from hardmine.plurals import counted
from hardmine.review.known_images import ROBOFLOW, base_name
from hardmine.types import ImageState, NamedBox, Verdict

_log = logging.getLogger("hardmine")
SUFFIXES = (".json", ".xml")
"""Suffixes of the files of labelling programs."""
_WORDS = {verdict.value: verdict for verdict in Verdict}
_OF_STATE = {
    ImageState.VERIFIED_EMPTY.value: Verdict.EMPTY,
    ImageState.CONTAINS_OBJECT.value: Verdict.CONTAINS_OBJECT,
    ImageState.IGNORED.value: Verdict.IGNORE,
}
_SAMPLES = re.compile(r'"samples"\s*:\s*\[')
_CHOICES = ("choice", "choices", "verdict")
"""Under which keys JSON-MIN has a choice; columns of the task stand beside them."""
_BY_MODEL = ("auto", "file")
"""CVAT's sources of shapes that no person has touched."""
_WANTED = (
    "a CSV with the columns image,verdict, Label Studio's JSON, CVAT for images 1.1, FiftyOne's "
    "labels.json or samples.json, or COCO"
)


class _EntryError(ValueError):
    """An entry that leaves open what is meant; the message says what."""


@dataclass(slots=True)
class FileEntry:
    """What a file says of one image.

    Attributes:
        name: the image, as the file names it.
        place: of the entry in the file, from 0.
        verdict: None where the file does not say that a person decided.
        drawn: a person drew or changed an object.
        boxes: the objects that a person drew or accepted; pixels, or shares of the image where
            ``is_share``. Empty where any of them is unknown, since an image with a part of its labels
            must not be trained on.
        size: width and height of the image that the boxes are of; 0 where the file does not say.
    """

    name: str
    place: int
    verdict: Verdict | None = None
    boxes: tuple[NamedBox, ...] = ()
    is_share: bool = False
    drawn: bool = False
    size: tuple[int, int] = (0, 0)


def is_labelling_file(path: Path) -> bool:
    """Return whether a file holds labels by its beginning, also of a program that is not read here."""
    if path.suffix.lower() not in SUFFIXES:
        return False
    return _reader_of(path) is not None or bool(_other_labels(path))


def read_labelling_file(path: Path) -> list[FileEntry]:
    """Return what a labelling program's file says of each image.

    Raises:
        DataError: no such file, or an entry is broken; the entry is named.
    """
    reader = _reader_of(path)
    if reader is None:
        raise DataError(f"{path}: {_other_file(path)}")
    entries: list[FileEntry] = []
    try:
        entries.extend(reader(path))
    except _EntryError as error:
        raise DataError(f"{path}[{len(entries)}]: {error}") from None
    except (*MALFORMED, TextError) as error:
        raise DataError(
            f"{path}[{len(entries)}]: got a broken entry ({error!r}), wanted {_WANTED}"
        ) from None
    if not entries:
        raise DataError(f"{path}: got no image, wanted {_WANTED}")
    _doubt_empty(entries, path)
    return entries


def _doubt_empty(entries: Sequence[FileEntry], path: Path) -> None:
    """Count images that are called empty and in which a person drew an object as `unsure`."""
    both = [each for each in entries if each.verdict is Verdict.EMPTY and each.drawn]
    for each in both:
        each.verdict = Verdict.UNSURE
    if both:
        _log.warning(
            "%s: %s called empty, though a person drew objects there: that counts as unsure (%s)",
            path,
            counted(len(both), "image is", "images are"),
            ", ".join(each.name for each in both[:3]),
        )


def _other_file(path: Path) -> str:
    """Return what a file that holds no verdicts looks like, and what to do where it holds labels."""
    if words := _other_labels(path):
        return (
            f"holds labels of {words}; turn them into COCO (hardmine convert FOLDER OUT --to coco) and "
            "give the file that this writes"
        )
    start = peek_text(path, 40).strip().partition("\n")[0]
    return f"got {f'a file that begins {start!r}' if start else 'nothing'}, wanted {_WANTED}"


def _other_labels(path: Path) -> str:
    """Return in words which label format a file is in; empty where it is in none."""
    for row in READ:
        files = row.reader.files or row.reader.per_image
        is_one = files is not None and path.suffix.lower() in files.suffixes
        if files is not None and is_one and peek_text(path, 1) and files.looks_right(path):
            return row.words.partition(":")[0]
    return ""


def _reader_of(path: Path) -> Callable[[Path], Iterator[FileEntry]] | None:
    if path.suffix.lower() == ".xml":
        return _cvat if CVAT.files is not None and CVAT.files.looks_right(path) else None
    if CREATEML.files is not None and CREATEML.files.looks_right(path):
        return None
    if LABEL_STUDIO.files is not None and LABEL_STUDIO.files.looks_right(path):
        return _label_studio
    if FIFTYONE.files is not None and FIFTYONE.files.looks_right(path):
        return _fiftyone_labels
    text = peek_text(path)
    if _SAMPLES.search(text) is not None and text.lstrip().startswith("{"):
        return _fiftyone_samples
    return _coco if looks_like_coco(path) else None


def _label_studio(path: Path) -> Iterator[FileEntry]:
    unread = ""
    for task, labels in zip(read_json(path), read_label_studio(path), strict=True):
        entry = FileEntry(labels.image, labels.place, size=(labels.width, labels.height))
        if "data" not in task:  # JSON-MIN says nothing of a task without a result
            entry.verdict = next(
                (w for key in _CHOICES if (w := verdict_of_word(task.get(key)))), None
            )
            entry.drawn = _holds_shapes(labels)
            if entry.verdict is None and entry.drawn:
                entry.verdict = Verdict.CONTAINS_OBJECT
            elif entry.verdict is None:
                words = (key for key in task if key != "state" and verdict_of_word(task[key]))
                unread = unread or next(words, "")
        else:
            entry.verdict, entry.drawn = _verdict_of_task(task)
        if entry.verdict is Verdict.CONTAINS_OBJECT:
            entry.boxes = _boxes_of(labels)
        yield entry
    if unread:
        _log.warning(
            "%s: %r may be a choice or a column of the tasks, which JSON-MIN does not tell; it was not "
            "read: export as JSON",
            path,
            unread,
        )


def _verdict_of_task(task: Mapping[str, Any]) -> tuple[Verdict | None, bool]:
    """Return the verdict, and whether a person drew something.

    It is `unsure` where several people differ and none is the ground truth.
    """
    annotations = list(task.get("annotations") or ())
    done = [each for each in annotations if not each.get("was_cancelled")]
    if not done:
        skipped = bool(annotations) or bool(task.get("cancelled_annotations"))
        return (Verdict.IGNORE if skipped else None), False
    truth = [each for each in done if each.get("ground_truth")]
    results = [list(each.get("result") or ()) for each in truth[:1] or done]
    said = {_verdict_of_result(result) for result in results}
    drawn = any(i.get("origin") != "prediction" and _is_drawn(i) for r in results for i in r)
    return (said.pop() if len(said) == 1 else Verdict.UNSURE), drawn


def _verdict_of_result(result: Sequence[Mapping[str, Any]]) -> Verdict | None:
    chosen = [word for item in result for word in item.get("value", {}).get("choices", ())]
    if (word := _one_word(chosen)) is not None:
        return word
    if not result:
        return Verdict.EMPTY
    return Verdict.CONTAINS_OBJECT if any(map(_is_drawn, result)) else None


def _is_drawn(item: Mapping[str, Any]) -> bool:
    """Return whether a result of Label Studio is a shape."""
    return bool({"x", "points", "rle"} & set(item.get("value", {})))


def _cvat(path: Path) -> Iterator[FileEntry]:
    labels_of = list(read_cvat(path))
    images = list(parse_xml(path, "annotations").iter("image"))
    unknown = 0
    for image, labels in zip(images, labels_of, strict=True):
        entry = FileEntry(labels.image, labels.place, size=(labels.width, labels.height))
        tags = [tag for tag in image.iter("tag") if tag.get("source") not in _BY_MODEL]
        entry.verdict = _one_word(tag.get("label") for tag in tags)
        shapes = [shape for shape in image if shape.tag != "tag"] if _holds_shapes(labels) else []
        entry.drawn = any(shape.get("source") not in _BY_MODEL for shape in shapes)
        unknown += bool(shapes) and all(shape.get("source") is None for shape in shapes)
        if entry.verdict is None and entry.drawn:
            entry.verdict = Verdict.CONTAINS_OBJECT
        if entry.verdict is Verdict.CONTAINS_OBJECT:
            entry.boxes = _boxes_of(labels)
        yield entry
    if unknown:
        _log.warning(
            "%s: does not say of %s whether a person or a model drew the boxes (no 'source', "
            "which CVAT's own export has): all of these count as drawn by a person",
            path,
            counted(unknown, "image"),
        )


def _fiftyone_labels(path: Path) -> Iterator[FileEntry]:
    data = read_json(path)
    classes = data.get("classes")
    if number := sum(found == [] for found in data["labels"].values()):
        _log.warning("%s: %s: %s", path, counted(number, "image"), EMPTY_LIST)
    for place, (name, found) in enumerate(data["labels"].items()):
        entry = FileEntry(name, place)
        if found is not None and not found:
            entry.verdict = Verdict.EMPTY
        elif found:
            _add_shares(entry, found, classes)
        yield entry


def _fiftyone_samples(path: Path) -> Iterator[FileEntry]:
    for place, sample in enumerate(read_json(path)["samples"]):
        entry = FileEntry(sample["filepath"], place)
        word = _one_word(sample.get("tags") or ())
        fields = [value["detections"] for value in sample.values() if _is_detections(value)]
        for found in fields:
            if entry.verdict is None and found:
                _add_shares(entry, found, None)
        if word is not None:
            entry.verdict = word
        if entry.verdict is not Verdict.CONTAINS_OBJECT:
            entry.boxes = ()
        yield entry


def _is_detections(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("detections"), list)


def _add_shares(entry: FileEntry, found: list[Any], classes: Any) -> None:
    """Take FiftyOne's boxes of an image, unless all of them are still a model's."""
    if all(item.get("confidence") is not None for item in found):
        return
    entry.verdict, entry.is_share, entry.drawn = Verdict.CONTAINS_OBJECT, True, True
    boxes = []
    for item in found:
        label = item["label"]
        x, y, width, height = (float(value) for value in item["bounding_box"])
        if isinstance(label, int) and classes:
            if isinstance(label, bool) or not 0 <= label < len(classes):
                raise _EntryError(f"label {label}, wanted 0 to {len(classes) - 1}")
            label = classes[label]
        name = str(label)
        boxes.append(NamedBox((x, y, x + width, y + height), name))
    entry.boxes = tuple(boxes)


def _coco(path: Path) -> Iterator[FileEntry]:
    data = read_json(path)
    names = {str(each["id"]): str(each["name"]) for each in data.get("categories") or ()}
    by_image: dict[str, list[Mapping[str, Any]]] = {
        str(image["id"]): [] for image in data["images"]
    }
    for each in data.get("annotations") or ():
        number = str(each["image_id"])
        if number not in by_image:
            raise _EntryError(f"an annotation has the image_id {number}, which no image has")
        by_image[number].append(each)
    silent = 0
    for place, image in enumerate(data["images"]):
        name, extra, state = str(image["file_name"]), image.get("extra"), image.get(STATE_KEY)
        if isinstance(extra, dict) and extra.get("name") and ROBOFLOW.match(base_name(name)):
            name = str(extra["name"])
        entry = FileEntry(name, place, _OF_STATE.get(state))
        entry.size = read_side(image.get("width")), read_side(image.get("height"))
        if state and entry.verdict is None and state not in set(ImageState):
            raise _EntryError(f"{STATE_KEY} {state!r}, wanted one of {', '.join(ImageState)}")
        found = [each for each in by_image[str(image["id"])] if each.get("score") is None]
        entry.drawn = bool(found)
        if entry.verdict is None and found:
            entry.verdict = Verdict.CONTAINS_OBJECT
        silent += entry.verdict is None
        if entry.verdict is Verdict.CONTAINS_OBJECT and name == str(image["file_name"]):
            entry.boxes = _boxes_of_coco(found, names)
        yield entry
    if silent:
        _log.warning(
            "%s: %s undecided: COCO cannot say whether a person looked",
            path,
            counted(silent, "image without annotations stays", "images without annotations stay"),
        )


def _boxes_of_coco(
    found: Iterable[Mapping[str, Any]], names: Mapping[str, str]
) -> tuple[NamedBox, ...]:
    """Return the boxes; none where one of the objects is a crowd or has no box."""
    boxes = []
    for each in found:
        if parse_flag(each.get("iscrowd")) is not False or not each.get("bbox"):
            return ()
        x, y, width, height = (float(value) for value in each["bbox"])
        boxes.append(NamedBox((x, y, x + width, y + height), names[str(each["category_id"])]))
    return tuple(boxes)


def _one_word(texts: Iterable[object]) -> Verdict | None:
    """Return the verdict that some of the words name.

    Raises:
        _EntryError: they name several.
    """
    words = {word for text in texts if (word := verdict_of_word(text)) is not None}
    if len(words) > 1:
        said = ", ".join(sorted(word.value for word in words))
        raise _EntryError(f"got {said}, wanted one verdict on an image")
    return next(iter(words), None)


def verdict_of_word(text: object) -> Verdict | None:
    """Return the verdict or state that a word names, in any case, with spaces or hyphens."""
    if not isinstance(text, str):
        return None
    plain = text.strip().lower().replace(" ", "_").replace("-", "_")
    return _WORDS.get(plain) or _OF_STATE.get(plain)


def _holds_shapes(labels: ImageLabels) -> bool:
    return bool(labels.objects or labels.rejected or labels.remarks)


def _boxes_of(labels: ImageLabels) -> tuple[NamedBox, ...]:
    if labels.rejected or labels.remarks:
        return ()
    return tuple(NamedBox((o.x0, o.y0, o.x1, o.y1), o.name) for o in labels.objects)


def boxes_in_pixels(entry: FileEntry, path: str) -> tuple[NamedBox, ...]:
    """Return the boxes clipped to the image; none where one has no area in it, no size is known, or the
    image that was labelled has another shape.

    Args:
        path: the image's path in the pool.
    """
    if not entry.boxes:
        return ()
    try:
        width, height = encoded_size(read_item(open_image(path)), path)
    except (DataError, OSError):
        if entry.is_share:
            return ()
        width = height = 0
    scale = _scale_to(entry.size, (width, height))
    if scale is None:
        return ()
    found = []
    for each in entry.boxes:
        x0, y0, x1, y1 = each.box
        if entry.is_share:
            x0, y0, x1, y1 = x0 * width, y0 * height, x1 * width, y1 * height
        else:
            x0, y0, x1, y1 = (value * scale for value in (x0, y0, x1, y1))
        if width and height:
            x0, x1 = (min(max(x, 0.0), float(width)) for x in (x0, x1))
            y0, y1 = (min(max(y, 0.0), float(height)) for y in (y0, y1))
        if not (math.isfinite(x0 + y0 + x1 + y1) and x1 > x0 and y1 > y0):
            return ()
        found.append(NamedBox((x0, y0, x1, y1), each.category))
    return tuple(found)


def _scale_to(labelled: tuple[int, int], own: tuple[int, int]) -> float | None:
    """Return by what boxes of an image of another size are scaled; None where its shape differs."""
    if 0 in (*labelled, *own) or labelled in (own, own[::-1]):  # swapped: turned by its orientation
        return 1.0
    across, down = own[0] / labelled[0], own[1] / labelled[1]
    # Each side may have been rounded to a whole pixel.
    return across if abs(across - down) * min(labelled) <= max(across, down) else None
