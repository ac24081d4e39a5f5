"""The public call ``threshold``: the score from which detections count, with a promise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardmine.data.quality.findings import lost_images
from hardmine.detections import OperatingPoint
from hardmine.errors import ConfigError, DataError, GateError
from hardmine.files import clear_disk_errors, write_json
from hardmine.option_fields import split_settings, takes_options
from hardmine.plurals import counted, some_of
from hardmine.types import Dataset, ImageRecord
from hardmine.workflows.cached_models import Backend, detect_sets, own_backend
from hardmine.workflows.image_sets import DataLike, load_negatives, load_val
from hardmine.workflows.sets_apart import read_all, set_apart
from hardmine.workflows.step_cache import Notify, Steps, silent
from hardmine.workflows.train_options import ThresholdOptions
from hardmine.workflows.trained_images import warn_of_trained_negatives

if TYPE_CHECKING:
    from hardmine.evaluation.alarms import AlarmScores
    from hardmine.evaluation.operating_promise import AlarmPromise, Hits, RecallPromise
    from hardmine.evaluation.scored_images import Scored
    from hardmine.inference.detector import Detector
    from hardmine.reports.threshold_page import ThresholdRow

ALL = "all classes"
_NAMED = 6
"""How many classes without a promise of their own are named."""


@dataclass(frozen=True, repr=False)
class ThresholdResult:
    """The thresholds that were found.

    Attributes:
        tables: one for each promise asked for; its first row is that of all classes, then come the
            classes and the groups.
        point: what a detector is to use, with what it promises; None where no promise can be given, or
            two were asked for.
        notes: what was left out of the images and why.
        page: the HTML page.
        written: the model file that ``point`` was written into.
    """

    tables: tuple[tuple[ThresholdRow, ...], ...]
    point: OperatingPoint | None
    notes: tuple[str, ...]
    page: Path
    written: Path | None = None

    @property
    def score_threshold(self) -> float | None:
        """The threshold, inclusive, for all classes; None where the promise cannot be given."""
        return None if self.point is None else self.point.score

    @property
    def statements(self) -> tuple[str, ...]:
        """What was found, in whole sentences."""
        from hardmine.reports.threshold_page import statements

        return tuple(line for rows in self.tables for line in statements(rows[0]))

    @property
    def is_promised(self) -> bool:
        """True where each promise that was asked for can be given for all classes together."""
        return all(rows[0].score is not None for rows in self.tables)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "point": None if self.point is None else self.point.to_dict(),
            "tables": [[row.to_dict() for row in rows] for rows in self.tables],
            "statements": list(self.statements),
            "notes": list(self.notes),
            "written": None if self.written is None else str(self.written),
        }

    def __repr__(self) -> str:
        return f"ThresholdResult({' '.join(self.statements[:1])})"


@takes_options(ThresholdOptions)
def threshold(
    checkpoint: Detector | Path | str,
    data: DataLike,
    *,
    negatives: DataLike | None = None,
    out: Path | str = Path("runs/threshold"),
    progress: Notify | None = None,
    options: ThresholdOptions | None = None,
) -> ThresholdResult:
    """Choose the score from which detections count, so that a promise about new images holds.

    ``max_alarms=0.01``: the lowest score at which, with the confidence asked for, at most 1 % of new
    images without objects fire. ``min_recall=0.95``: the highest score at which at least 95 % of new
    objects are found. How it is computed and why it holds: ``evaluation/operating_promise.py``.

    Args:
        checkpoint: a detector, or what names one (``hardmine.load_detector``).
        data: labelled images that the detector was not trained on: of data with splits the validation
            part, of data that it was trained on those that the training split off. Recall is measured on
            them.
        negatives: images without objects that it was not trained on. Of images that are near-copies of
            each other one counts, since they are no independent draws.
        out: gets ``threshold.json``, ``threshold.html`` and the detections, so that another promise
            about the same model and images is found at once.
        progress: called with (what, done, total).
        options: what to promise; each of its fields is also a keyword.

    Raises:
        ConfigError: nothing is promised, ``max_alarms`` without negatives, or a model that cannot hold
            a threshold with ``write``.
        DataError: unusable data.
        GateError: ``write`` where the promise cannot be given.

    Example:
        >>> result = hardmine.threshold(detector, "shelf", negatives="pool", max_alarms=0.5)
        >>> round(result.score_threshold, 2), result.tables[0][0].recall.found
        (0.95, 0)
        >>> print(result.statements[0])
        At score 0.9501 at most 50 % of new empty images fire, with a confidence of 95 %.
    """
    options = options or ThresholdOptions()
    _check(options, checkpoint, negatives)
    root, backend = Path(out).resolve(), own_backend()
    steps = Steps(root, progress or silent)
    with clear_disk_errors(root):
        detector = _detector(checkpoint, options)
        parts = {
            "val": load_val(data, detector.categories, options.reading, checkpoint),
            "held_out": load_negatives(
                negatives, detector.categories, "negatives", root / "negatives"
            ),
        }
        warn_of_trained_negatives(parts["held_out"], checkpoint)
        sets, notes = _independent(parts, steps)
        detector = _bound(detector, sets)
        sets, failed = _without_failed(detector, sets)
        notes += failed
        known = {name: part for name, part in sets.items() if len(part)}
        scored = _detect_once(detector, known, backend, steps)
        tables = _tables(scored, sets, options)
        point, lacking = _point(tables, options)
        result = ThresholdResult(tables, point, notes + lacking, root / "threshold.html")
        _write_files(root, result)
        if options.write:
            result = replace(result, written=_write_into_model(checkpoint, point, tables))
    return result


def _check(
    options: ThresholdOptions, checkpoint: Detector | Path | str, negatives: DataLike | None
) -> None:
    asked = [options.max_alarms is not None, options.min_recall is not None]
    if not any(asked):
        raise ConfigError(
            "threshold: nothing is promised; give max_alarms, such as .01, or min_recall"
        )
    if options.max_alarms is not None and negatives is None:
        raise ConfigError("max_alarms needs negatives: images without objects, to count alarms on")
    if not options.write:
        return
    if all(asked):
        raise ConfigError(
            "write: give either max_alarms or min_recall; a model holds one threshold"
        )
    _model_file(checkpoint)


def _model_file(checkpoint: Detector | Path | str) -> Path:
    """Return the file that a threshold can be written into.

    Raises:
        ConfigError: the model is held in memory or is none of ours.
    """
    from hardmine.inference.load_detector import named_path
    from hardmine.recipes.checkpoint import find_checkpoint

    path = named_path(str(checkpoint)) if isinstance(checkpoint, (str, Path)) else None
    if split_settings(str(checkpoint))[1]:
        raise ConfigError(
            f"write: {path} keeps the decoder that it was trained with, for which another threshold "
            f"would hold; export {checkpoint} and write the threshold into the export"
        )
    if path is not None:
        path = find_checkpoint(path)
        if path.suffix.lower() in (".safetensors", ".onnx", ".xml", ".tflite"):
            return path
    raise ConfigError(
        "write: only a checkpoint or an export of Hardmine holds a threshold; give other models the "
        "score with 'hardmine predict --min-score'"
    )


def _detector(given: Detector | Path | str, options: ThresholdOptions) -> Detector:
    from hardmine.inference.detector import require_detector
    from hardmine.inference.load_detector import load_detector

    if not isinstance(given, (str, Path)):
        return require_detector(given)
    return load_detector(given, options.device, classes=options.classes)


def _bound(detector: Detector, parts: Mapping[str, Dataset]) -> Detector:
    from hardmine.inference.predictions_file import bind

    bound: Detector = bind(detector, [r.path for part in parts.values() for r in part.records])
    return bound


def _without_failed(
    detector: Detector, sets: Mapping[str, Dataset]
) -> tuple[dict[str, Dataset], tuple[str, ...]]:
    """Leave out the images that a predictions file knows nothing of, and say how many there are."""
    from hardmine.inference.predictions_file import leave_out_failed

    parts = {name: leave_out_failed(detector, part) for name, part in sets.items()}
    problems = [problem for _, found in parts.values() for problem in found]
    lost = counted(len(problems), "image is", "images are")
    note = f"{lost} left out, such as {problems[0]}" if problems else ""
    return {name: part for name, (part, _) in parts.items()}, (note,) if note else ()


def _detect_once(
    detector: Detector, parts: Mapping[str, Dataset], backend: Backend, steps: Steps
) -> dict[str, Scored]:
    """Detect on the sets, once for all promises about the same model and images."""
    from hardmine.evaluation.scored_images import load_detections, save_detections

    def compute(folder: Path, name: str) -> None:
        """Detect on one part and write what was found."""
        found = detect_sets(detector, {name: parts[name]}, backend, steps.progress, "detect")
        save_detections(folder / f"{name}.json", found[name])

    scored = {}
    for name, part in parts.items():
        inputs = {"model": detector.model_id, "data": steps.identity(part)}
        outputs = [f"{name}.json"]
        steps.run(f"detections/{name}", inputs, partial(compute, name=name), outputs)
        scored[name] = load_detections(steps.root / "detections" / f"{name}.json", part)
    return scored


def _independent(
    parts: Mapping[str, Dataset], steps: Steps
) -> tuple[dict[str, Dataset], tuple[str, ...]]:
    """Return the sets of images that are independent draws, and what was left out of them."""
    good, group_of, problems = read_all(parts, steps)
    apart, leaks = set_apart(good, "held_out", ("val",), group_of)
    lost = lost_images(problems)
    images = counted(len(lost), "image")
    notes = [f"{images} cannot be read, such as {lost[0]}"] if lost else []
    notes += [str(leak) for leak in leaks]
    kept = {
        name: _one_of_each(records, group_of)
        for name, records in (("val", good["val"].records), ("held_out", apart))
    }
    before = {"val": len(good["val"]), "held_out": len(apart)}
    what = {"val": "labelled images", "held_out": "images without objects"}
    notes += [
        f"{before[name] - len(records)} of {before[name]} {what[name]} are near-copies of others; of "
        "each kind one counts, since copies are no independent draws"
        for name, records in kept.items()
        if len(records) < before[name]
    ]
    return {name: good[name].with_records(records) for name, records in kept.items()}, tuple(notes)


def _one_of_each(records: Sequence[ImageRecord], group_of: Mapping[str, int]) -> list[ImageRecord]:
    """Return an image of each kind: the first that holds an object, else the first.

    A camera that does not move gives near-copies with and without an object; recall is measured on
    those with one.
    """
    chosen: dict[int, ImageRecord] = {}
    for record in records:
        first = chosen.setdefault(group_of[str(record.path)], record)
        if not _holds_object(first) and _holds_object(record):
            chosen[group_of[str(record.path)]] = record
    return list(chosen.values())


def _holds_object(record: ImageRecord) -> bool:
    return not bool(record.ignore.all())


@dataclass(frozen=True)
class _Part:
    """What a row is made from: the alarms and hits of all classes, of one class or of one group."""

    name: str
    kind: Any
    alarms: AlarmScores
    hits: Hits


def _tables(
    scored: Mapping[str, Scored], sets: Mapping[str, Dataset], options: ThresholdOptions
) -> tuple[tuple[ThresholdRow, ...], ...]:
    from hardmine.evaluation.scored_images import Scored

    val, empty = (scored.get(name) or Scored(sets[name], ()) for name in ("val", "held_out"))
    parts = _parts(val, empty, options)
    asked = [options.max_alarms is not None, options.min_recall is not None]
    return tuple(
        _rows(parts, options, by_alarms=by_alarms)
        for by_alarms, wanted in zip((True, False), asked, strict=True)
        if wanted
    )


def _parts(val: Scored, empty: Scored, options: ThresholdOptions) -> list[_Part]:
    from hardmine.evaluation.alarms import collect_alarms
    from hardmine.evaluation.detection_matching import match
    from hardmine.evaluation.operating_promise import collect_hits

    matches, alarms = match(val.with_known_truth()), collect_alarms(empty)
    parts = [_Part(ALL, "all", alarms, collect_hits(matches))]
    names = val.dataset.categories
    for label, name in enumerate(names, start=1):
        if len(names) > 1:
            of_class = alarms.of_class(label)
            parts.append(_Part(name, "class", of_class, collect_hits(matches, label)))
    if options.group is not None:
        in_val = _groups(val.dataset, options.group)
        in_empty = _groups(empty.dataset, options.group)
        for name in sorted(set(in_val) | set(in_empty)):
            found = match(val.subset(in_val.get(name, [])).with_known_truth())
            there = collect_alarms(empty.subset(in_empty.get(name, [])))
            parts.append(_Part(name, "group", there, collect_hits(found)))
    return parts


def _groups(data: Dataset, pattern: str) -> dict[str, list[int]]:
    """Return the positions of the images of each group; those that fit no group are in none."""
    from hardmine.data.splits.split import group_by_pattern

    found: dict[str, list[int]] = {}
    try:
        names = group_by_pattern(data.records, data.root, pattern)
    except DataError:  # it may fit the other set; which has no group simply has no row
        return found
    for position, name in enumerate(names):
        if name is not None:
            found.setdefault(name.replace("\0", " "), []).append(position)
    return found


def _rows(
    parts: Sequence[_Part], options: ThresholdOptions, *, by_alarms: bool
) -> tuple[ThresholdRow, ...]:
    from hardmine.evaluation.operating_promise import recall_figures
    from hardmine.reports.threshold_page import ThresholdRow, firing_share

    rows: list[ThresholdRow] = []
    sure, common = options.confidence, None
    for number, part in enumerate(parts):
        promise = _promise(part, options, by_alarms=by_alarms)
        score = promise.score_threshold
        common = score if number == 0 else common
        rows.append(
            ThresholdRow(
                part.name,
                part.kind,
                promise,
                firing_share(part.alarms, score, sure),
                firing_share(part.alarms, common, sure),
                recall_figures(part.hits, score, sure),
                part.alarms,
                part.hits,
            )
        )
    return tuple(rows)


def _promise(
    part: _Part, options: ThresholdOptions, *, by_alarms: bool
) -> AlarmPromise | RecallPromise:
    from hardmine.evaluation.operating_promise import promise_alarms, promise_recall

    sure = options.confidence
    if not by_alarms:
        assert options.min_recall is not None
        return promise_recall(part.hits, options.min_recall, confidence=sure, unit=options.per)
    assert options.max_alarms is not None
    return promise_alarms(
        part.alarms, options.max_alarms, confidence=sure, unit=options.count, cap=options.cap
    )


def _point(
    tables: Sequence[Sequence[ThresholdRow]], options: ThresholdOptions
) -> tuple[OperatingPoint | None, tuple[str, ...]]:
    """Return what a detector is to use, and which classes have no promise of their own in it."""
    from hardmine.reports.threshold_page import promise_sentence

    first = tables[0][0]
    if len(tables) > 1 or first.score is None:
        return None, ()
    said = promise_sentence(first.promise)
    if not options.per_class:
        return OperatingPoint(first.score, promise=said), ()
    each = {row.name: row.score for row in tables[0] if row.kind == "class"}
    known = {name: score for name, score in each.items() if score is not None}
    lacking = _lacking(first, [name for name, score in each.items() if score is None])
    if known:
        some = " with a promise of its own" if lacking else ""
        its = "that" if lacking else "its own"
        said += f" Each class{some} has the score of {its} promise instead."
    return OperatingPoint(first.score, known, " ".join((said, *lacking))), lacking


def _lacking(common: ThresholdRow, names: Sequence[str]) -> tuple[str, ...]:
    from hardmine.reports.threshold_page import shown_score

    line = (
        "No promise can be given for these classes alone, which keep the score of all classes, "
        f"{shown_score(common.promise)}: {some_of(names, _NAMED)}."
    )
    return (line,) if names else ()


def _write_files(root: Path, result: ThresholdResult) -> None:
    from hardmine.reports.threshold_page import write_threshold_page

    write_json(root / "threshold.json", result.to_dict())
    write_threshold_page(result.page, result.tables, result.notes)


def _write_into_model(
    checkpoint: Detector | Path | str,
    point: OperatingPoint | None,
    tables: Sequence[Sequence[ThresholdRow]],
) -> Path:
    from hardmine.reports.threshold_page import statements

    path = _model_file(checkpoint)
    if point is None:
        raise GateError(f"nothing is written into {path}: {statements(tables[0][0])[0]}")
    if path.suffix.lower() == ".safetensors":
        from hardmine.recipes.checkpoint import write_operating_point

        write_operating_point(path, point)
    elif path.suffix.lower() == ".tflite":
        from hardmine.inference.litert_export import write_point_into_tflite

        write_point_into_tflite(path, point)
    else:
        from hardmine.inference.export import write_into_export

        write_into_export(path, point)
    return path
