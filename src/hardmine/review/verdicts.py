"""Verdicts on candidates: read from a CSV or from a labelling program's file, kept in the pool store.

The programs are Label Studio, CVAT, FiftyOne, and those that write COCO (CVAT, Roboflow). Each says
in its own way what a person found in an image, and some cannot say that a person looked and found
nothing. What a file does not say stays undecided here; nothing is guessed.

Source: Label Studio, "Export annotations"; CVAT, "XML annotation format", version 1.1; FiftyOne,
"Exporting datasets"; COCO, "Data format".
"""

from __future__ import annotations

import csv
import io
import logging
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from hardmine.data.convert import NAMES_FILE
from hardmine.data.formats.coco import looks_like_coco
from hardmine.data.formats.coco_writing import STATE_KEY
from hardmine.data.formats.csv_boxes import column_of, csv_body
from hardmine.data.formats.cvat import READER as CVAT
from hardmine.data.formats.cvat import read_cvat
from hardmine.data.formats.fiftyone import READER as FIFTYONE
from hardmine.data.formats.label_format import ImageLabels, parse_xml
from hardmine.data.formats.label_studio import READER as LABEL_STUDIO
from hardmine.data.formats.label_studio import read_label_studio
from hardmine.data.images import encoded_size, has_picture_name
from hardmine.errors import MALFORMED, DataError
from hardmine.files import TextError, peek_text, read_json, read_text, same_text
from hardmine.inference.image_loading import read_item
from hardmine.mining.pool_store import LABELS, PoolStore
from hardmine.mining.sources.pool_source import open_image
from hardmine.types import Decision, ImageState, NamedBox, Verdict

_log = logging.getLogger("hardmine")
_VERDICTS = ", ".join(verdict.value for verdict in Verdict)


class Said(NamedTuple):
    """A verdict, where a file says it (``v.csv:7``, ``tasks.json[3]``), and the objects drawn there."""

    verdict: Verdict
    where: str
    boxes: tuple[NamedBox, ...] = ()


def read_verdicts(path: Path, known: Mapping[str, str]) -> dict[str, Said]:
    """Read ``image,verdict`` rows, or a labelling program's file (``.json``, ``.xml``).

    Further columns (those of ``candidates.csv``) are allowed. Rows whose verdict is blank, and images
    on which a program's file does not say that a person decided, count as not decided yet.

    Args:
        path: the CSV file, UTF-8, with a header line; or the file of a labelling program.
        known: every image ever handed out, by the name it has in ``candidates.csv`` and by its
            path, each to its path.

    Returns:
        dict: verdict, place and boxes by the image's path.

    Raises:
        DataError: no such columns, an unknown verdict, an image that was never handed out, or two
            different verdicts on one image; the line or entry is named.
    """
    if path.suffix.lower() in SUFFIXES:
        return _read_labelled(path, known)
    verdicts: dict[str, Said] = {}
    images = KnownImages(known, read_copies(path))
    for line, row in read_sheet(path, ("image", "verdict")):
        name, said = (row.get("image") or "").strip(), (row.get("verdict") or "").strip()
        if not name and not said:
            continue
        where = f"{path}:{line}"
        image = images.find(name, where, with_folders=True)
        if said and said.lower() != "nan":  # as pandas writes an empty cell
            _add(verdicts, image, name, Said(_verdict(said, where), where))
    return verdicts


def _read_labelled(path: Path, known: Mapping[str, str]) -> dict[str, Said]:
    images = KnownImages(known, read_copies(path))
    verdicts: dict[str, Said] = {}
    for entry in read_labelling_file(path):
        where = f"{path}[{entry.place}]"
        image = images.find(entry.name, where)
        if entry.verdict is not None:
            said = Said(entry.verdict, where, boxes_in_pixels(entry, image))
            _add(verdicts, image, entry.name, said)
    return verdicts


def _add(verdicts: dict[str, Said], image: str, name: str, said: Said) -> None:
    earlier = verdicts.setdefault(image, said)
    if earlier.verdict is not said.verdict:
        raise DataError(
            f"{said.where}: {name} is {said.verdict.value} here and {earlier.verdict.value} in "
            f"{earlier.where}"
        )


def read_sheet(
    path: Path, wanted: Sequence[str] = ("image",)
) -> list[tuple[int, dict[str, str | None]]]:
    """Return the rows of a CSV that a person may have edited, each with the number of its line.

    The columns may be separated by whatever a spreadsheet writes, and their names in any case.

    Raises:
        DataError: it cannot be read, or lacks one of the ``wanted`` columns or has it twice.
    """
    try:
        whole = read_text(path)
        delimiter, text = csv_body(whole)
        before = whole.removesuffix(text).count("\n")
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
        written = [str(name).strip() for name in reader.fieldnames or ()]
        names = [name.lower().replace(" ", "_") for name in written]
        if "image" not in names:  # under another of the usual names
            names = ["image" if column_of(name) == "image" else name for name in names]
        if not all(names.count(name) == 1 for name in wanted):
            raise DataError(
                f"{path}:{before + 1}: got columns {written}, wanted {' and '.join(wanted)}, each once"
            )
        reader.fieldnames = names
        return [(before + reader.line_num, row) for row in reader]
    except (OSError, TextError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV: {error}") from error


def has_verdicts(path: Path) -> bool:
    """Return whether a CSV has a column of verdicts."""
    delimiter, text = csv_body(peek_text(path))
    cells = next(csv.reader([text.partition("\n")[0]], delimiter=delimiter), [])
    return "verdict" in {cell.strip().lower() for cell in cells}


def _verdict(said: str, where: str) -> Verdict:
    found = _word(said)
    if found is None:
        raise DataError(f"{where}: verdict {said!r}, wanted one of {_VERDICTS}")
    return found


def store_verdicts(store: PoolStore, verdicts: Mapping[str, Said], who: str, model_id: str) -> int:
    """Append the verdicts that differ from the latest on file; return how many those were.

    Boxes are added to a verdict that has none yet. What a person decided on the page after this file's
    verdict was taken in holds, and is named in a warning.

    Raises:
        DataError: the file contradicts a decision of the page, and nothing shows which of them is later.
    """
    history = _history(store, verdicts)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    fresh: list[Decision] = []
    overruled: list[str] = []
    for image, (verdict, where, boxes) in verdicts.items():
        said = history.get(image, [])
        if said and said[-1].verdict is verdict and not _adds_boxes(said[-1], boxes):
            continue
        same = bool(said) and said[-1].verdict is verdict
        if not said or same or said[-1].who == who or _is_file(said[-1].who):
            fresh.append(Decision(image, verdict, who, now, model_id, boxes=boxes))
        elif any(each.who == who and each.verdict is verdict for each in said):
            overruled.append(f"{image} ({said[-1].verdict.value}, {said[-1].who})")
        else:
            raise DataError(
                f"{where}: {image} is {verdict.value} here, and {said[-1].who} said "
                f"{said[-1].verdict.value} on the page at {said[-1].when}: change the file, or decide "
                "on the page again"
            )
    if overruled:
        some = ", ".join(overruled[:3]) + (" …" if len(overruled) > 3 else "")
        _log.warning("%s: %d verdicts were changed on the page: %s", who, len(overruled), some)
    if fresh:
        store.add_decisions(fresh)
    return len(fresh)


def _adds_boxes(said: Decision, boxes: tuple[NamedBox, ...]) -> bool:
    """Return whether a file's boxes count: those of the page stay, those of a file are replaced."""
    if not boxes or not said.boxes:
        return bool(boxes)
    return _is_file(said.who) and said.boxes != boxes


def _history(store: PoolStore, images: Collection[str]) -> dict[str, list[Decision]]:
    found: dict[str, list[Decision]] = {}
    for each in store.decisions_after(0, list(images)):
        if each.queue != LABELS:
            found.setdefault(each.decision.image, []).append(each.decision)
    return found


def _is_file(who: str) -> bool:
    return who.lower().endswith((".csv", *SUFFIXES))


def undecided(
    candidates: Sequence[str], decided: Collection[str], path: Path, mentioned: Collection[str]
) -> list[str]:
    """Return the candidates that still lack a verdict.

    Raises:
        DataError: the file has verdicts for some of these candidates and not for others: it is
            half filled in, which is a mistake rather than a file of an earlier round.
    """
    missing = [image for image in candidates if image not in decided]
    if missing and any(image in mentioned for image in candidates):
        some = ", ".join(missing[:3]) + (" …" if len(missing) > 3 else "")
        raise DataError(
            f"{path}: {len(missing)} of {len(candidates)} candidates have no verdict: {some}"
        )
    return missing


SUFFIXES = (".json", ".xml")
"""Suffixes of the files of labelling programs."""
_WORDS = {verdict.value: verdict for verdict in Verdict}
_OF_STATE = {
    ImageState.VERIFIED_EMPTY.value: Verdict.EMPTY,
    ImageState.CONTAINS_OBJECT.value: Verdict.CONTAINS_OBJECT,
    ImageState.IGNORED.value: Verdict.IGNORE,
}
_SAMPLES = re.compile(r'"samples"\s*:\s*\[')
_UPLOADED = re.compile(r"^[0-9a-f]{8}-(?=.)")
"""What Label Studio puts before the name of an uploaded file."""
_ROBOFLOW = re.compile(r"^(?P<stem>.+)_(?P<suffix>[A-Za-z]+)\.rf\.\w+\.\w+$")
_WANTED = (
    "a CSV with the columns image,verdict, Label Studio's JSON, CVAT for images 1.1, FiftyOne's "
    "labels.json or samples.json, or COCO"
)


@dataclass(slots=True)
class FileEntry:
    """What a file says of one image.

    Attributes:
        name: the image, as the file names it.
        place: of the entry in the file, from 0.
        verdict: None where the file does not say that a person decided.
        boxes: the objects that a person drew or accepted; pixels, or shares of the image where
            ``is_share``. Empty where any of them is unknown, since an image with a part of its labels
            must not be trained on.
    """

    name: str
    place: int
    verdict: Verdict | None = None
    boxes: tuple[NamedBox, ...] = ()
    is_share: bool = False


def is_labelling_file(path: Path) -> bool:
    """Return whether the beginning of a file is that of a labelling program."""
    return path.suffix.lower() in SUFFIXES and _reader_of(path) is not None


def read_labelling_file(path: Path) -> list[FileEntry]:
    """Return what a labelling program's file says of each image.

    Raises:
        DataError: no such file, or an entry is broken; the entry is named.
    """
    reader = _reader_of(path)
    if reader is None:
        start = peek_text(path, 40).strip().partition("\n")[0]
        raise DataError(
            f"{path}: got {f'a file that begins {start!r}' if start else 'nothing'}, wanted {_WANTED}"
        )
    entries: list[FileEntry] = []
    try:
        entries.extend(reader(path))
    except (*MALFORMED, TextError) as error:
        raise DataError(
            f"{path}[{len(entries)}]: got a broken entry ({error!r}), wanted {_WANTED}"
        ) from None
    if not entries:
        raise DataError(f"{path}: got no image, wanted {_WANTED}")
    return entries


def _reader_of(path: Path) -> Callable[[Path], Iterator[FileEntry]] | None:
    if path.suffix.lower() == ".xml":
        return _cvat if CVAT.files is not None and CVAT.files.looks_right(path) else None
    if LABEL_STUDIO.files is not None and LABEL_STUDIO.files.looks_right(path):
        return _label_studio
    if FIFTYONE.files is not None and FIFTYONE.files.looks_right(path):
        return _fiftyone_labels
    text = peek_text(path)
    if _SAMPLES.search(text) is not None and text.lstrip().startswith("{"):
        return _fiftyone_samples
    return _coco if looks_like_coco(path) else None


def _label_studio(path: Path) -> Iterator[FileEntry]:
    for task, labels in zip(read_json(path), read_label_studio(path), strict=True):
        entry = FileEntry(labels.image, labels.place)
        if "data" not in task:  # JSON-MIN says nothing of a task without a result
            said = (_word(value) for key, value in task.items() if key != "state")
            entry.verdict = next((word for word in said if word), None)
            if entry.verdict is None and _holds_shapes(labels):
                entry.verdict = Verdict.CONTAINS_OBJECT
        else:
            entry.verdict = _verdict_of_task(task)
        if entry.verdict is Verdict.CONTAINS_OBJECT:
            entry.boxes = _boxes_of(labels)
        yield entry


def _verdict_of_task(task: Mapping[str, Any]) -> Verdict | None:
    """Return the verdict; `unsure` where several people differ and none is the ground truth."""
    annotations = list(task.get("annotations") or ())
    done = [each for each in annotations if not each.get("was_cancelled")]
    if not done:
        skipped = bool(annotations) or bool(task.get("cancelled_annotations"))
        return Verdict.IGNORE if skipped else None
    truth = [each for each in done if each.get("ground_truth")]
    said = {_verdict_of_result(each.get("result") or ()) for each in truth[:1] or done}
    return said.pop() if len(said) == 1 else Verdict.UNSURE


def _verdict_of_result(result: Iterable[Mapping[str, Any]]) -> Verdict | None:
    found = list(result)
    for item in found:
        for choice in item.get("value", {}).get("choices", ()):
            if _word(choice) is not None:
                return _word(choice)
    if not found:
        return Verdict.EMPTY
    drawn = any({"x", "points", "rle"} & set(item.get("value", {})) for item in found)
    return Verdict.CONTAINS_OBJECT if drawn else None


def _cvat(path: Path) -> Iterator[FileEntry]:
    labels_of = list(read_cvat(path))
    images = list(parse_xml(path, "annotations").iter("image"))
    unknown = 0
    for image, labels in zip(images, labels_of, strict=True):
        entry = FileEntry(labels.image, labels.place)
        tags = (_word(tag.get("label")) for tag in image.iter("tag"))
        entry.verdict = next((word for word in tags if word), None)
        if entry.verdict is None and _holds_shapes(labels):
            shapes = [shape for shape in image if shape.tag != "tag"]
            unknown += all(shape.get("source") is None for shape in shapes)
            if any(shape.get("source") != "auto" for shape in shapes):
                entry.verdict = Verdict.CONTAINS_OBJECT
        if entry.verdict is Verdict.CONTAINS_OBJECT:
            entry.boxes = _boxes_of(labels)
        yield entry
    if unknown:
        _log.warning(
            "%s: does not say of %d images whether a person or a model drew their boxes (no 'source', "
            "which CVAT's own export has): all of these count as drawn by a person",
            path,
            unknown,
        )


def _fiftyone_labels(path: Path) -> Iterator[FileEntry]:
    data = read_json(path)
    classes = data.get("classes")
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
        words = [word for tag in sample.get("tags") or () if (word := _word(tag))]
        if len(set(words)) > 1:
            raise ValueError(f"{entry.name} has the tags {', '.join(words)}, wanted one verdict")
        fields = [value["detections"] for value in sample.values() if _is_detections(value)]
        for found in fields:
            if entry.verdict is None and found:
                _add_shares(entry, found, None)
        if words:
            entry.verdict = words[0]
        if entry.verdict is not Verdict.CONTAINS_OBJECT:
            entry.boxes = ()
        yield entry


def _is_detections(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("detections"), list)


def _add_shares(entry: FileEntry, found: list[Any], classes: Any) -> None:
    """Take FiftyOne's boxes of an image, unless all of them are still a model's."""
    if all(item.get("confidence") is not None for item in found):
        return
    entry.verdict, entry.is_share = Verdict.CONTAINS_OBJECT, True
    boxes = []
    for item in found:
        label = item["label"]
        x, y, width, height = (float(value) for value in item["bounding_box"])
        name = classes[label] if isinstance(label, int) and classes else str(label)
        boxes.append(NamedBox((x, y, x + width, y + height), name))
    entry.boxes = tuple(boxes)


def _coco(path: Path) -> Iterator[FileEntry]:
    data = read_json(path)
    names = {each["id"]: str(each["name"]) for each in data.get("categories") or ()}
    by_image: dict[Any, list[Mapping[str, Any]]] = {}
    for each in data.get("annotations") or ():
        by_image.setdefault(each["image_id"], []).append(each)
    silent = 0
    for place, image in enumerate(data["images"]):
        written = str(image["file_name"])
        renamed = _ROBOFLOW.match(_base_name(written))
        extra = image.get("extra")
        original = str(extra.get("name") or "") if isinstance(extra, dict) else ""
        if renamed is not None:
            written = original or f"{renamed['stem']}.{renamed['suffix']}"
        entry = FileEntry(written, place, _OF_STATE.get(image.get(STATE_KEY)))
        found = [each for each in by_image.get(image["id"], ()) if each.get("score") is None]
        if entry.verdict is None and found:
            entry.verdict = Verdict.CONTAINS_OBJECT
        silent += entry.verdict is None
        # Roboflow has resized, turned and cropped the image: its boxes are of another picture.
        if entry.verdict is Verdict.CONTAINS_OBJECT and renamed is None:
            entry.boxes = _boxes_of_coco(found, names)
        yield entry
    if silent:
        _log.warning(
            "%s: %d images without annotations stay undecided: COCO cannot say whether a person looked",
            path,
            silent,
        )


def _boxes_of_coco(
    found: Iterable[Mapping[str, Any]], names: Mapping[Any, str]
) -> tuple[NamedBox, ...]:
    boxes = []
    for each in found:
        x, y, width, height = (float(value) for value in each["bbox"])
        if each.get("iscrowd"):
            return ()
        boxes.append(NamedBox((x, y, x + width, y + height), names[each["category_id"]]))
    return tuple(boxes)


def _word(text: object) -> Verdict | None:
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
    """Return the boxes clipped to the image; none where one has no area in it, or no size is known.

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
    found = []
    for each in entry.boxes:
        x0, y0, x1, y1 = each.box
        if entry.is_share:
            x0, y0, x1, y1 = x0 * width, y0 * height, x1 * width, y1 * height
        if width and height:
            x0, x1 = (min(max(x, 0.0), float(width)) for x in (x0, x1))
            y0, y1 = (min(max(y, 0.0), float(height)) for y in (y0, y1))
        if not (math.isfinite(x0 + y0 + x1 + y1) and x1 > x0 and y1 > y0):
            return ()
        found.append(NamedBox((x0, y0, x1, y1), each.category))
    return tuple(found)


def read_copies(path: Path) -> dict[str, str]:
    """Return what the pictures are copies of, where the file still lies in the folder that was written.

    Raises:
        DataError: the list of names beside the file is broken.
    """
    names = path.with_name(NAMES_FILE)
    if not names.is_file():
        return {}
    value = read_json(names)
    copies = value.get("copies") if isinstance(value, dict) else None
    if not isinstance(copies, dict) or not all(isinstance(each, str) for each in copies.values()):
        raise DataError(f"{names}: got {str(value)[:80]}, wanted 'copies': names, each with a path")
    return copies


class KnownImages:
    """Finds the pool's image that a labelling program's file names.

    Args:
        known: every image handed out, by its name in the pool and by its path, each to its path.
        copies: by the name of a picture that was written for the program, what it is a copy of.
    """

    def __init__(self, known: Mapping[str, str], copies: Mapping[str, str]) -> None:
        self._exact = {same_text(name): path for name, path in known.items()}
        self._copies = {
            same_text(text): known[origin]
            for name, origin in copies.items()
            for text in (name, name.rpartition(".")[0])
            if origin in known
        }
        self._names: dict[str, set[str]] = {}
        for name, path in known.items():
            self._names.setdefault(path, set()).update((same_text(name), same_text(path)))
        self._by_name: dict[str, set[str]] = {}
        for path in set(known.values()):
            base = _base_name(path)
            folder = _base_name(path.replace("\\", "/").rpartition("/")[0])
            for name in (base, f"{folder}_{base}"):  # the second where convert had to rename
                for text in (name, name.rpartition(".")[0]):
                    self._by_name.setdefault(same_text(text), set()).add(path)

    def find(self, written: str, where: str, *, with_folders: bool = False) -> str:
        """Return the image's path.

        Args:
            where: the place in the file, for errors.
            with_folders: folders that the file names are those of the pool, maybe on another machine;
                a labelling program has folders of its own.

        Raises:
            DataError: no such image was handed out, or several have this name.
        """
        for name in dict.fromkeys((written, unquote(written))):
            plain = same_text(name.strip().replace("\\", "/"))
            if plain in self._exact:
                return self._exact[plain]
            base = _base_name(plain)
            for text in dict.fromkeys((base, _UPLOADED.sub("", base))):
                if text in self._copies:
                    return self._copies[text]
                found = self._by_name.get(text, set())
                if with_folders:
                    found = {path for path in found if self._fits(path, plain)}
                ending = {path for path in found if _ends_with(path, plain)}
                if len(found) == 1 or len(ending) == 1:
                    return next(iter(ending or found))
                if found:
                    some = ", ".join(sorted(found)[:3])
                    raise DataError(
                        f"{where}: image {written!r} may be {some}, wanted a name of one image alone"
                    )
        raise DataError(f"{where}: image {written!r} was never handed out")

    def _fits(self, path: str, name: str) -> bool:
        """Return whether a name with folders is the end of the image's own name, or ends with it."""
        name = name.removeprefix("./").rpartition("../")[2]
        stem = name.rpartition(".")[0] if has_picture_name(name) else name
        for own in self._names[path]:
            plain = own.replace("\\", "/").rpartition(".")[0]
            if f"/{plain}".endswith(f"/{stem}") or f"/{stem}".endswith(f"/{plain}"):
                return True
        return False


def _base_name(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2]


def _ends_with(path: str, name: str) -> bool:
    return "/" in name and f"/{same_text(path)}".endswith(f"/{name}")
