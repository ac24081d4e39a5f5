"""Predictions files of any framework: they enter the loop at ranking, with no model."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from torch import Tensor

from hardmine.data.images import encoded_size, image_size
from hardmine.data.resize import Resize
from hardmine.data.splits.near_duplicates import hash_encoded
from hardmine.detections import Detections
from hardmine.errors import ConfigError, DataError
from hardmine.files import peek_text, plain_name
from hardmine.finding_kinds import FindingKind
from hardmine.inference.class_names import is_background, read_class_file
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
from hardmine.inference.prediction_checks import (
    require_form,
    say_other_folders,
    warn_of_oddities,
)
from hardmine.inference.prediction_json import (
    JsonReader,
    are_rows,
    coco_images,
    counts_from_0,
    form_of_json,
    may_be_of_image,
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
    looks_like_table,
    number_of,
    read_csv_rows,
)
from hardmine.plurals import some_of
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
        by_name = {name: _detections(boxes, label_of) for name, boxes in rows.items()}
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
        say_other_folders(found.name_of, self.path)
        warn_of_oddities((self.by_name.get(name) for name in found.name_of.values()), self.path)
        require_form(*self._boxes_of(found.name_of, sizes or {}), self.form, self.path)
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

    def _boxes_of(
        self, name_of: Mapping[Path, str], known: Mapping[Path, tuple[int, int]]
    ) -> tuple[F64, F64]:
        """Return the boxes (xyxy [N, 4]) of some images, and the sizes of these images [N, 2]."""
        found, sizes = [np.zeros((0, 4))], [np.zeros((0, 2))]
        for path, name in name_of.items():
            one = self.by_name.get(name)
            if one is None or not len(one):
                continue
            try:
                size = known.get(path) or image_size(path)
            except (DataError, OSError):
                continue  # a member of an archive, or said where it is read
            found.append(one.boxes.astype(np.float64))
            sizes.append(np.tile(np.array(size, np.float64), (len(one), 1)))
            if len(found) > _JUDGED:
                break
        return np.concatenate(found), np.concatenate(sizes)

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
        listed = read_class_file(classes)
        names, images = listed.names, coco_images(classes)
        numbers = dict(zip(listed.numbers or (), listed.names, strict=False))
    elif classes is not None:
        names = tuple(classes)
    path = _file_within(path)
    program, tree = _read(path)
    if program is not None:
        return _of_program(program, path, names, JsonReader(path, images), numbers)
    held = "" if path.is_dir() else _held(tree)
    more: Mapping[str, str] = {}
    if held:
        more, own = tables_of(tree, path)
        images, numbers = {**images, **more}, {**own, **numbers}
        names = names or tuple(own[number] for number in sorted(own)) or None
        tree = tree[held]
    refuse_labels(tree, path)
    # What the file's own list of images names was looked at, detections or not; of names that differ
    # only in the folder, which may not be that of the pictures, those with detections alone count.
    alike = Counter(PurePosixPath(name).name for name in more.values())
    looked_at = [name for name in more.values() if alike[PurePosixPath(name).name] == 1]
    rows = {**{name: [] for name in looked_at}, **JsonReader(path, images).read(tree)}
    rows = _with_numbers(rows, names)
    if counts_from_0(tree):
        numbers = dict(enumerate(names or ()))  # places in the list, whatever ids the data have
    elif names is not None and not numbers:
        numbers = _numbered(rows, names, path)
    known = names if images else _without_background(names, rows, path)
    categories, number_of = _categories(rows, known, numbers, path)
    by_name = {name: _detections(boxes, number_of) for name, boxes in rows.items()}
    digest = hashlib.sha256(repr((categories, sorted(images.items()))).encode())
    for file in sorted(path.glob("*.json")) if path.is_dir() else [path]:
        digest.update(file.read_bytes())
    return Predictions(path, categories, digest.hexdigest()[:16], by_name, form=form_of_json(tree))


def _file_within(path: Path) -> Path:
    """Return the one JSON file of a folder where that holds the detections of several images."""
    files = list(path.glob("*.json")) if path.is_dir() else []
    if len(files) != 1:
        return path
    tree = read_predictions_json(files[0])
    return files[0] if rows_of_tree(tree, files[0]) or not may_be_of_image(tree) else path


def _read(path: Path) -> tuple[ProgramRows | None, Any]:
    """Return what a known program wrote, or the JSON whose form its entries show."""
    if path.is_dir() and is_prediction_texts(path) and not any(path.glob("*.json")):
        return read_texts(path), None
    if path.suffix.lower() in TABLES or (path.is_file() and looks_like_table(path)):
        return read_csv_rows(path), None
    if path.is_dir():
        return None, read_json_folder(path)
    tree = read_predictions_json(path)
    return rows_of_tree(tree, path), tree


def _held(tree: Any) -> str:
    """Return the key under which an object holds the list of detections; empty where it has none."""
    if not isinstance(tree, Mapping):
        return ""
    found = [key for key in _HELD if are_rows(tree.get(key))]
    # An empty list may be what was found in an image of that name.
    by_image = any(may_be_of_image(value) for key, value in tree.items() if key not in _HELD)
    return next((key for key in found if tree[key] or not by_image), "")


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
        renamed = _renamed(found.names, chosen, path, are_of_data=bool(reader.images))
        found.rows = {
            image: [(score, renamed[str(kind)], box) for score, kind, box in boxes]
            for image, boxes in found.rows.items()
        }
    if found.first is None:  # a table, in which images and classes may be ids
        found.rows = reader.named(_with_numbers(found.rows, names))
        numbers = ids or _numbered(found.rows, chosen, path)
    else:
        used = {kind for boxes in found.rows.values() for _, kind, _ in boxes}
        # Where a data.yaml leaves numbers out, its texts do so, too.
        own = found.first == 0 and 0 in ids and used <= ids.keys()
        numbers = dict(ids) if own else dict(enumerate(chosen, start=found.first))
    whole = names is None or bool(reader.images)
    known = chosen if whole else _without_background(chosen, found.rows, path)
    categories, label_of = _categories(found.rows, known or None, numbers, path)
    by_name = {name: _detections(boxes, label_of) for name, boxes in found.rows.items()}
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


def _renamed(
    own: Sequence[str], given: Sequence[str], path: Path, *, are_of_data: bool
) -> dict[str, str]:
    """Return which of the given names a program's class gets: that in the same place, which is said.

    Args:
        own: the names in the program's file; ``given``: those of ``--classes``.
        are_of_data: they are those of labelled data, in an order of their own.

    Raises:
        DataError: places do not tell, since one of the file's names is in another place.
    """
    alike = [a.casefold() == b.casefold() for a, b in zip(own, given, strict=False)]
    shared = {name.casefold() for name in own} & {name.casefold() for name in given}
    renamed = dict(zip(own, given, strict=False))
    if len(own) != len(given) or sum(alike) != len(shared) or (are_of_data and not all(alike)):
        raise DataError(
            f"{path}: has classes {', '.join(own[:6])}, --classes gives {', '.join(given[:6])}; give "
            "--classes a list of other names for them, each in its place"
        )
    said = ", ".join(f"{name!r} is {new!r}" for name, new in list(renamed.items())[:6])
    _log.warning("%s: its classes get the names of --classes by their places: %s", path, said)
    return renamed


def _without_background(
    names: tuple[str, ...] | None, rows: Mapping[str, Sequence[Box]], path: Path
) -> tuple[str, ...] | None:
    """Return the names without the background in front of them, unless a detection is called so."""
    if names is None or len(names) < 2 or not is_background(names[0]):
        return names
    if any(kind == names[0] for boxes in rows.values() for _, kind, _ in boxes):
        return names
    _log.warning("%s: %r in front of the class names is number 0 and no class", path, names[0])
    return names[1:]


def _with_numbers(
    rows: Mapping[str, list[Box]], names: tuple[str, ...] | None
) -> dict[str, list[Box]]:
    """Return the boxes with classes as numbers, where names are given and all classes are numbers."""
    kinds = {kind for boxes in rows.values() for _, kind, _ in boxes if isinstance(kind, str)}
    numbers = {kind: number_of(kind) for kind in kinds}
    texts = any(isinstance(number, str) for number in numbers.values())
    if names is None or texts or kinds <= set(names):
        return dict(rows)
    return {
        image: [(score, numbers.get(str(kind), kind), box) for score, kind, box in boxes]
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
    for kind in kinds - label_of.keys():
        if isinstance(kind, str) and (plain := plain_name(kind)) in label_of:
            label_of[kind] = label_of[plain]
    unknown = sorted(str(kind) for kind in kinds if kind not in label_of)
    if unknown:
        known = some_of([_with_number(name, numbers) for name in names], 6)
        raise DataError(
            f"{path}: has detections of class {', '.join(unknown[:6])}; the classes are {known}"
        )
    return names, label_of


def _with_number(name: str, numbers: Mapping[int, str]) -> str:
    number = next((number for number, known in numbers.items() if known == name), None)
    return repr(name) if number is None else f"{name!r} (number {number})"


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


def _detections(boxes: Sequence[Box], label_of: Mapping[str | int, int]) -> Detections:
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
