"""Predictions files of any framework: they enter the loop at ranking, with no model."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from hardmine.data.images import encoded_size, image_size
from hardmine.data.quality.label_coordinates import judge_numbers
from hardmine.data.resize import Resize
from hardmine.data.splits.near_duplicates import hash_encoded
from hardmine.detections import Detections
from hardmine.errors import ConfigError, DataError
from hardmine.files import peek_text
from hardmine.finding_kinds import FindingKind
from hardmine.inference.class_names import is_background, read_classes
from hardmine.inference.detector import BatchScores
from hardmine.inference.image_loading import (
    ImageItem,
    batched,
    count_cores,
    item_problem,
    path_of,
    read_item,
    run_ordered,
)
from hardmine.inference.predict import PredictMixin, ScoredImage
from hardmine.inference.prediction_json import (
    JsonReader,
    are_rows,
    coco_tables,
    form_of_json,
    has_keys,
    read_json_folder,
    read_predictions_json,
    refuse_labels,
    tables_of,
)
from hardmine.inference.prediction_programs import (
    Box,
    NameMatch,
    ProgramRows,
    checked_box,
    is_prediction_texts,
    match_names,
    names_beside,
    read_texts,
    rows_of_tree,
)
from hardmine.inference.prediction_tables import (
    kind_of,
    looks_like_table,
    read_csv_rows,
)
from hardmine.types import F64, Dataset, Problem

_log = logging.getLogger(__name__)
_NO_CANVAS = Resize(1, 1)
_CHUNK = 16
_HELD = ("annotations", "predictions", "detections", "results")
"""Keys of a mapping that may hold the list of detections."""
TABLES = (".csv", ".tsv")
_FAILED = "failed when it was predicted"
_JUDGED = 64
"""Images whose detections are looked at to see in which form their boxes are."""
_SOUND = 0.5
"""Detections may pass the edge of their image; with fewer inside, another form that fits is right."""


@dataclass
class Predictions(PredictMixin):
    """What a file says, as a detector whose answers are looked up by the image's path.

    How an image is found: `prediction_programs`. One that the file does not name has no detection.
    """

    path: Path
    categories: tuple[str, ...]
    model_id: str
    by_name: Mapping[str, Detections]
    resize: Resize = field(default=_NO_CANVAS)
    name_of: Mapping[Path, str] | None = None
    """Entries of the images that it is bound to; see `bound_to`."""
    shares: bool = False
    """Whether the boxes of ``by_name`` are shares of the image's sides, as MegaDetector writes them."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Images that the program could not read, and why. Such an image is no empty one."""
    form: str = "xyxy"
    """How the four numbers of a box are written in the file, one of `FORMS`."""

    @staticmethod
    def from_supervision(found: Mapping[str, Any], categories: Sequence[str] = ()) -> Predictions:
        """Take over ``supervision.Detections`` by image name.

        Args:
            found: file names (or paths) and what was found in them.
            categories: class names in the order of ``class_id``; when not given, those that the
                detections carry (``data["class_name"]``), and ``class N`` for ids that none has.

        Raises:
            DataError: there is no ``class_id``, one outside the class names, or one with two names.

        Example:
            >>> answers = hardmine.Predictions.from_supervision(
            ...     {"00.png": found.to_supervision()}, found.categories
            ... )
            >>> answers.predict("shelf/images/00.png", score_threshold=0.5)
            Detections(1: bottle 0.90)
        """
        names = tuple(categories) or _carried_names(found)
        by_name = {
            str(name): Detections.from_supervision(one, names) for name, one in found.items()
        }
        return _in_memory(by_name, names, shares=False)

    @staticmethod
    def from_fiftyone(samples: Iterable[Any], field_name: str = "predictions") -> Predictions:
        """Take over the detections of a FiftyOne data set or view.

        Args:
            samples: each with ``filepath`` and, in ``field_name``, ``detections`` of ``label``,
                ``confidence`` and ``bounding_box`` (x, y, width, height as shares).

        Raises:
            DataError: a sample without the field, or a detection without a confidence.
        """
        rows: dict[str, list[Box]] = {}
        for sample in samples:
            where = f"{sample.filepath}: {field_name}"
            try:
                found = sample[field_name]
            except (KeyError, AttributeError):
                raise DataError(f"{where}: no such field") from None
            boxes = rows.setdefault(str(sample.filepath), [])
            for i, one in enumerate(found.detections if found is not None else ()):
                if one.confidence is None:
                    raise DataError(f"{where}.detections[{i}]: has no confidence")
                x, y, w, h = one.bounding_box
                box = (x, y, x + w, y + h)
                boxes.append(checked_box(one.confidence, str(one.label), box, f"{where}[{i}]"))
        names = tuple(sorted({str(kind) for boxes in rows.values() for _, kind, _ in boxes}))
        label_of: dict[str | int, int] = {name: i for i, name in enumerate(names, start=1)}
        by_name = {name: _detections(boxes, label_of, Path()) for name, boxes in rows.items()}
        return _in_memory(by_name, names, shares=True)

    def match(self, images: Sequence[Path]) -> NameMatch:
        """Return which entry each image has; an entry that fits several of them has none."""
        rows = {name: len(found) for name, found in self.by_name.items()}
        return match_names({**dict.fromkeys(self.failed, 0), **rows}, images)

    def bound_to(
        self, images: Sequence[Path], sizes: Mapping[Path, tuple[int, int]] | None = None
    ) -> Predictions:
        """Return the same predictions for these images, and say how many detections belong to them.

        Args:
            sizes: width and height of images that are no files of their own, as far as they are known.

        Raises:
            DataError: few detections belong to these images: the file is about others; or their boxes
                make sense in another form only, or lie outside the images.
        """
        found = self.match(images)
        found.require(self.path, images)
        if not found.rows:
            _log.warning("%s: has no detection at all", self.path)
        level = logging.INFO if found.matched == found.rows else logging.WARNING
        _log.log(level, "%s: %s", self.path, found)
        failed = sorted(set(self.failed) & set(found.name_of.values()))
        if failed:
            _log.warning(
                "%s: %d of the images failed when they were predicted (%s: %s); they count as unread, "
                "not as images without detections",
                self.path,
                len(failed),
                failed[0],
                self.failed[failed[0]],
            )
        self._warn_of_repeats(found.name_of.values())
        self._require_form(found.name_of, sizes or {})
        return replace(self, name_of=found.name_of)

    def failed_among(self, images: Iterable[Path]) -> dict[Path, str]:
        """Return which of the images the program could not read, and why: nothing is known of them."""
        paths = list(images)
        names = self._names_of(paths)
        named = ((path, names.get(path)) for path in paths)
        return {
            path: self.failed[name]
            for path, name in named
            if name is not None and name in self.failed
        }

    def _warn_of_repeats(self, names: Iterable[str]) -> None:
        """Say how many detections equal another one in every number: a program gives none twice."""
        repeats = 0
        for name in names:
            found = self.by_name.get(name)
            if found is not None and len(found) > 1:
                rows = np.column_stack([found.boxes, found.scores, found.labels])
                repeats += len(rows) - len(np.unique(rows, axis=0))
        if repeats:
            _log.warning(
                "%s: %d detections are repeated in every number (box, score and class); they count as "
                "often as they are written",
                self.path,
                repeats,
            )

    def _require_form(
        self, name_of: Mapping[Path, str], known: Mapping[Path, tuple[int, int]]
    ) -> None:
        """Refuse boxes that make sense only in another form than the file's, judged on some images."""
        boxes, sizes = [np.zeros((0, 4))], [np.zeros((0, 2))]
        for path, name in name_of.items():
            found = self.by_name.get(name)
            if found is None or not len(found):
                continue
            try:
                size = known.get(path) or image_size(path)
            except (DataError, OSError):
                continue  # a member of an archive, or said where it is read
            boxes.append(found.boxes.astype(np.float64))
            sizes.append(np.tile(np.array(size, np.float64), (len(found), 1)))
            if len(boxes) > _JUDGED:
                break
        numbers = _as_written(np.concatenate(boxes), self.form)
        telling = ~np.isin(numbers, (0.0, 1.0)).all(axis=1)  # else a pixel, or the whole image
        verdict = judge_numbers(numbers[telling], np.concatenate(sizes)[telling], self.form)
        if verdict is not None and verdict.doubtful:
            if verdict.best != self.form and verdict.sound[self.form] < _SOUND:
                raise DataError(f"{self.path}: boxes in another form: {verdict}")
            _log.warning("%s: boxes may be in another form: %s", self.path, verdict)
        self._require_inside(np.concatenate(boxes), np.concatenate(sizes))

    def _require_inside(self, boxes: F64, sizes: F64) -> None:
        """Refuse boxes (xyxy) of which most lie outside their images, and say how many others do."""
        sides = np.ones_like(sizes) if self.shares else sizes
        outside = ((boxes[:, 2:] <= 0) | (boxes[:, :2] >= sides)).any(axis=1)
        number = int(outside.sum())
        if not number:
            return
        first = int(outside.argmax())
        said = (
            f"{self.path}: {number} of {len(boxes)} boxes lie wholly outside their image, such as "
            f"{' '.join(f'{value:g}' for value in boxes[first])} (xyxy) in an image of "
            f"{sides[first, 0]:g} x {sides[first, 1]:g}; boxes must be those of the original image, "
            "not of a resized one"
        )
        if number > _SOUND * len(boxes):
            raise DataError(said)
        _log.warning("%s", said)

    def _names_of(self, images: Sequence[Path]) -> Mapping[Path, str]:
        return self.match(images).name_of if self.name_of is None else self.name_of

    def _found(self, name: str | None, size: Callable[[], tuple[int, int]]) -> Detections:
        """Return an entry's detections in pixels of an image of (width, height) ``size()``."""
        found = Detections.none() if name is None else self.by_name.get(name, Detections.none())
        if not self.shares or not len(found):
            return found
        sides = np.array([*size(), *size()], np.float32)
        return replace(found, boxes=found.boxes * sides)

    def look(self, image: Path) -> Detections:
        """Return the detections of one image file, best first."""
        return self._found(self._names_of([image]).get(image), partial(image_size, image))

    def names(self, image: Path) -> bool:
        """True when the file says something of the image."""
        return image in self._names_of([image])

    def score(self, images: Tensor) -> BatchScores:
        """Refuse: a file cannot look at pixels."""
        raise ConfigError(f"{self.path}: a predictions file cannot be run on pictures")

    def detect(self, images: Tensor) -> list[Detections]:
        """Refuse: a file cannot look at pixels."""
        raise ConfigError(f"{self.path}: a predictions file cannot be run on pictures")

    def detect_images(
        self,
        paths: Sequence[Path],
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Detections]:
        """Return the detections of every image, in order."""
        names = self._names_of(paths)
        found = [self._found(names.get(path), partial(image_size, path)) for path in paths]
        if progress is not None:
            progress(len(found), len(paths))
        return found

    def score_items(self, items: Iterable[ImageItem]) -> Iterator[ScoredImage | Problem]:
        """Yield every image's score in order; pictures are read for their perceptual hash only."""
        if self.name_of is None:
            images = list(items)
            bound = replace(self, name_of=self._names_of([path_of(item.name) for item in images]))
            yield from bound.score_items(images)
            return
        for batch in run_ordered(batched(items, _CHUNK), self._score_batch, count_cores()):
            yield from batch

    def _score_batch(self, items: Sequence[ImageItem]) -> list[ScoredImage | Problem]:
        return [self._score(item) for item in items]

    def _score(self, item: ImageItem) -> ScoredImage | Problem:
        path = path_of(item.name)
        name = self._names_of([path]).get(path)
        try:
            if name is not None and name in self.failed:
                raise DataError(f"{_FAILED}: {self.failed[name]}")
            data = read_item(item)
            phash = hash_encoded(data, item.name)
            found = self._found(name, partial(encoded_size, data, item.name))
        except DataError as error:
            return item_problem(item, error)
        score = float(found.scores[0]) if len(found) else 0.0
        label = int(found.labels[0]) if len(found) else 0
        return ScoredImage(path, score, label, -1, found, phash, item.name)


def bind(detector: Any, images: Sequence[Path]) -> Any:
    """Return a predictions file bound to images (see `Predictions.bound_to`), others as they are.

    Raises:
        DataError: the file is about other images.
    """
    return detector.bound_to(images) if isinstance(detector, Predictions) else detector


def leave_out_failed(detector: Any, part: Dataset) -> tuple[Dataset, tuple[Problem, ...]]:
    """Return the images of which something is known, and a problem for each other one.

    An image that the program behind a predictions file could not read is neither missed nor quiet.
    """
    if not isinstance(detector, Predictions):
        return part, ()
    failed = detector.failed_among(record.path for record in part.records)
    kept = [record for record in part.records if record.path not in failed]
    problems = (
        Problem(FindingKind.IMAGE_UNREADABLE, str(path), -1, f"{_FAILED}: {why}")
        for path, why in failed.items()
    )
    return part.with_records(kept), tuple(problems)


def load_predictions(path: Path, classes: Path | Sequence[str] | None = None) -> Predictions:
    """Read a predictions file, or a folder of one json per image (mmdetection).

    Forms, recognised by looking, in one JSON or one value per line: COCO results (``image_id``,
    ``category_id`` or its name, ``bbox`` xywh, ``score``; with ``file_name`` and ``category`` as
    ``hardmine predict --json`` writes them, or with
    stems as ids as Ultralytics does); a COCO file whose annotations have scores; Ultralytics'
    ``Results.to_json`` lists (``name``, ``confidence``, ``box``) by image; mmdetection's
    ``{"bboxes", "scores", "labels"}`` by image; and those of `prediction_programs`: MegaDetector's and
    SpeciesNet's JSON, a folder of YOLO text files with confidences, VOC's detection files, CSV.

    Args:
        classes: names, or a file with them; a COCO json also gives the images' names by id.

    Raises:
        DataError: no such form, an entry that is faulty (named by its index), or no class names.
    """
    images: dict[str, str] = {}
    names: tuple[str, ...] | None = None
    numbers: dict[int, str] = {}
    if isinstance(classes, Path):
        names = read_classes(classes)
        images, numbers = coco_tables(classes)
    elif classes is not None:
        names = tuple(classes)
    counted = names
    if not numbers:
        names = _without_background(names, path)
    program, tree = _read(path)
    if program is not None:
        return _of_program(program, path, counted, JsonReader(path, images), numbers)
    held = next((key for key in _HELD if isinstance(tree, Mapping) and are_rows(tree.get(key))), "")
    if held:
        more, own = tables_of(tree, path)
        images, numbers = {**images, **more}, {**own, **numbers}
        names = names or tuple(own[number] for number in sorted(own)) or None
        tree = tree[held]
    refuse_labels(tree, path)
    rows = JsonReader(path, images).read(tree)
    if not isinstance(tree, list) and not has_keys(next(iter(tree.values()), None), "boxes"):
        # mmdetection and Ultralytics count the classes, whatever ids the data has
        numbers = dict(enumerate(counted or (), start=1))
    elif counted is not None and not numbers:
        numbers = _numbered(rows, counted, path)
    categories, number_of = _categories(rows, names, numbers, path)
    by_name = {name: _detections(boxes, number_of, path) for name, boxes in rows.items()}
    digest = hashlib.sha256(repr((categories, sorted(images.items()))).encode())
    for file in sorted(path.glob("*.json")) if path.is_dir() else [path]:
        digest.update(file.read_bytes())
    return Predictions(path, categories, digest.hexdigest()[:16], by_name, form=form_of_json(tree))


def _read(path: Path) -> tuple[ProgramRows | None, Any]:
    """Return what a known program wrote, or the JSON whose form its entries show."""
    if path.is_dir() and is_prediction_texts(path) and not any(path.glob("*.json")):
        return read_texts(path), None
    if path.suffix.lower() in TABLES or (path.is_file() and looks_like_table(path)):
        return read_csv_rows(path), None
    tree = read_json_folder(path) if path.is_dir() else read_predictions_json(path)
    return rows_of_tree(tree, path), tree


def _of_program(
    found: ProgramRows,
    path: Path,
    names: tuple[str, ...] | None,
    reader: JsonReader,
    ids: Mapping[int, str],
) -> Predictions:
    if names is None and path.is_dir():
        names = names_beside(path)
    chosen = found.names if names is None else names
    if found.names and not set(found.names) <= set(chosen):
        if len(chosen) != len(found.names):
            raise DataError(
                f"{path}: has classes {', '.join(found.names[:6])}, --classes gives "
                f"{', '.join(chosen[:6])}"
            )
        renamed = dict(zip(found.names, chosen, strict=True))
        found.rows = {
            image: [(score, renamed[str(kind)], box) for score, kind, box in boxes]
            for image, boxes in found.rows.items()
        }
    if found.first is None:  # a table, in which images and classes may be ids
        found.rows = reader.named(_with_numbers(found.rows, names))
        numbers = ids or _numbered(found.rows, chosen, path)
    else:
        numbers = dict(enumerate(chosen, start=found.first))
    known = chosen if names is None or ids else _without_background(chosen, path)
    categories, label_of = _categories(found.rows, known or None, numbers, path)
    by_name = {name: _detections(boxes, label_of, path) for name, boxes in found.rows.items()}
    digest = hashlib.sha256(repr(categories).encode())
    files = [path] if path.is_file() else [f for f in sorted(path.iterdir()) if f.is_file()]
    for file in files:
        digest.update(file.read_bytes())
    return Predictions(
        path,
        categories,
        digest.hexdigest()[:16],
        by_name,
        shares=found.shares,
        failed=found.failed,
        form=found.form,
    )


def _without_background(names: tuple[str, ...] | None, path: Path) -> tuple[str, ...] | None:
    """Return the names without the background in front of them, which no detection has."""
    if names is None or len(names) < 2 or not is_background(names[0]):
        return names
    _log.warning("%s: %r in front of the class names is number 0 and no class", path, names[0])
    return names[1:]


def _with_numbers(
    rows: Mapping[str, Sequence[Box]], names: tuple[str, ...] | None
) -> dict[str, list[Box]]:
    """Return the boxes with classes as numbers, where names are given and all classes are numbers."""
    kinds = {kind for boxes in rows.values() for _, kind, _ in boxes}
    numbers = {kind: kind_of(kind) for kind in kinds}
    if names is None or kinds <= set(names) or any(isinstance(n, str) for n in numbers.values()):
        return {image: list(boxes) for image, boxes in rows.items()}
    return {
        image: [(score, numbers[kind], box) for score, kind, box in boxes]
        for image, boxes in rows.items()
    }


def _carried_names(found: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the class names that ``supervision.Detections`` carry, in the order of their ids."""
    by_id: dict[int, str] = {}
    for image, one in found.items():
        names = one.data.get("class_name", ())
        numbers = () if one.class_id is None else one.class_id
        for number, name in zip(numbers, names, strict=False):
            if by_id.setdefault(int(number), str(name)) != str(name):
                raise DataError(
                    f"supervision.Detections of {image}: class_id {number} is {str(name)!r} here and "
                    f"{by_id[int(number)]!r} before; give the class names"
                )
    last = max(
        (int(n) for d in found.values() if d.class_id is not None for n in d.class_id), default=-1
    )
    return tuple(by_id.get(number, f"class {number}") for number in range(last + 1))


def _in_memory(
    by_name: Mapping[str, Detections], names: tuple[str, ...], *, shares: bool
) -> Predictions:
    digest = hashlib.sha256(repr((names, shares)).encode())
    for name in sorted(by_name):
        one = by_name[name]
        digest.update(name.encode() + one.boxes.tobytes() + one.scores.tobytes())
        digest.update(one.labels.tobytes())
    where = Path("predictions in memory")
    # Corners from supervision; x, y, width and height as shares from FiftyOne.
    form = "xywh_shares" if shares else "xyxy"
    return Predictions(where, names, digest.hexdigest()[:16], by_name, shares=shares, form=form)


def _as_written(boxes: F64, form: str) -> F64:
    """Return corners (xyxy [N, 4]) as the numbers that a file of that form has."""
    order = form.removesuffix("_shares")
    if order == "xyxy":
        return boxes
    extent = boxes[:, 2:] - boxes[:, :2]
    near = boxes[:, :2] if order == "xywh" else boxes[:, :2] + extent / 2
    return np.concatenate([near, extent], axis=1)


def _categories(
    rows: Mapping[str, Sequence[Box]],
    names: tuple[str, ...] | None,
    numbers: Mapping[int, str],
    path: Path,
) -> tuple[tuple[str, ...], dict[str | int, int]]:
    """Return the class names and the label of each name and number that the rows hold."""
    kinds = {kind for boxes in rows.values() for _, kind, _ in boxes}
    if names is None:
        if not kinds:
            raise DataError(
                f"{path}: has no detection to show its classes; name them with --classes"
            )
        if any(isinstance(kind, int) for kind in kinds):
            raise DataError(
                f"{path}: names its classes by number only; give --classes with their names "
                "(a text file, a YOLO data.yaml or a COCO json)"
            )
        names = tuple(sorted(str(kind) for kind in kinds))
    label_of: dict[str | int, int] = {name: i for i, name in enumerate(names, start=1)}
    for number, name in (numbers or dict(enumerate(names, start=1))).items():
        if name in label_of:
            label_of[number] = label_of[name]
    unknown = sorted(str(kind) for kind in kinds if kind not in label_of)
    if unknown:
        raise DataError(
            f"{path}: has detections of class {', '.join(unknown[:6])}, which is none of "
            f"{len(names)} ({', '.join(names[:6])}){_ids_said(numbers)}"
        )
    return names, label_of


def _ids_said(numbers: Mapping[int, str]) -> str:
    """Return which class numbers there are, for an error."""
    said = ", ".join(f"{number} is {name}" for number, name in sorted(numbers.items())[:6])
    return f"; as a number, {said}" if said else ""


def _numbered(
    rows: Mapping[str, Sequence[Box]], names: tuple[str, ...], path: Path
) -> dict[int, str]:
    """Return the names by number, counted from 1, or from 0 where only that fits; doubt is said."""
    found = {kind for boxes in rows.values() for _, kind, _ in boxes if isinstance(kind, int)}
    shown = ", ".join(str(kind) for kind in sorted(found)[:6])
    if (names and is_background(names[0])) or (0 in found and max(found) < len(names)):
        _log.info("%s: class numbers (%s) were read as counted from 0", path, shown)
        return dict(enumerate(names))
    if found and min(found) >= 1 and max(found) < len(names):
        _log.warning(
            "%s: class numbers (%s) may count from 0 or from 1, which these numbers cannot tell; it was "
            "assumed to count from 1. If it counts from 0, add 1 to each, or give --classes a COCO "
            "file that has the ids",
            path,
            shown,
        )
    return dict(enumerate(names, start=1))


def _detections(boxes: Sequence[Box], label_of: Mapping[str | int, int], path: Path) -> Detections:
    if not boxes:
        return Detections.none()
    ordered = sorted(boxes, key=lambda box: -box[0])
    return Detections(
        np.array([box for _, _, box in ordered], np.float32),
        np.array([score for score, _, _ in ordered], np.float32),
        np.array([label_of[kind] for _, kind, _ in ordered], np.int64),
    )


def looks_like_predictions(path: Path) -> bool:
    """Return whether a file of whatever name begins like JSON or like a table of detections."""
    head = peek_text(path, 4096)
    if "\0" in head:  # the length that safetensors begin with may read " {"
        return False
    return head.lstrip()[:1] in ("[", "{") or looks_like_table(path)
