"""``train``, ``val``, ``predict``, ``threshold``, ``export`` and ``check-detector``: one detector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hardmine.cli import options
from hardmine.cli.console import Console, ConsoleOptions, OutputOptions, usage_error
from hardmine.cli.option_flags import expand_options, pool_spec, pool_specs
from hardmine.errors import DataError, GateError, on_one_line
from hardmine.finding_kinds import FindingKind
from hardmine.option_fields import Given
from hardmine.plurals import counted
from hardmine.workflows.train_options import (
    AgreementOptions,
    DetectorOptions,
    EvaluateOptions,
    ExportOptions,
    ThresholdOptions,
    TrainOptions,
)

if TYPE_CHECKING:
    from hardmine.detections import Detections
    from hardmine.inference.detector import Detector
    from hardmine.inference.export import Parity
    from hardmine.types import Problem
    from hardmine.workflows.choose_threshold import ThresholdResult


@expand_options
def train(
    data: options.DataOrResume = None,
    *,
    val: options.Val = None,
    negatives: options.Negatives = None,
    train_negatives: Annotated[
        str | None,
        typer.Option(
            "--train-negatives",
            metavar="DIR",
            callback=pool_spec,
            help="Images to train on that hold no object; Hardmine does not check this.",
        ),
    ] = None,
    choices: Given[TrainOptions],
    out: options.Out = Path("runs/train"),
    resume: options.Resume = False,
    talk: ConsoleOptions,
) -> None:
    """Train a detector and measure it on --val, or on a part of the data that is held back.

    Example: hardmine train raccoon --val 0.2 --weights imagenet --out runs/train
    """
    held_out = options.data_or_fraction(val)
    if not resume:
        options.require(data, "argument 'DATA'")
    import hardmine
    from hardmine.cli.console import show_measurement

    console = talk.console()
    with console.progress() as step:
        result = hardmine.train(
            data,
            val=held_out,
            negatives=negatives,
            train_negatives=train_negatives,
            out=out,
            resume=resume,
            progress=step,
            **choices,
        )
    show_measurement(console, result.measurement)
    console.result(str(result))


@expand_options
def val(
    checkpoint: options.Checkpoint,
    data: options.Data,
    *,
    negatives: options.Negatives = None,
    choices: EvaluateOptions,
    out: options.Out = Path("runs/val"),
    output: OutputOptions,
) -> None:
    """Measure a detector: AP, recall, and false alarms on images without objects.

    Example: hardmine val runs/train raccoon --negatives held_out --max-alarms 0.1
    """
    if choices.max_alarms is not None and negatives is None:
        raise usage_error("'--max-alarms' needs '--negatives': alarms are counted on those images")
    import hardmine
    from hardmine.cli.console import show_measurement
    from hardmine.workflows.train_and_evaluate import check_gates

    console = output.console()
    without_gates = replace(choices, max_alarms=None, min_ap50=None, max_known_alarms=None)
    with console.progress() as step:
        measurement = hardmine.evaluate(
            checkpoint, data, negatives=negatives, out=out, progress=step, options=without_gates
        )
    show_measurement(console, measurement, as_json=output.as_json)
    if not output.as_json:
        console.result(f"report: {out / 'report.html'}")
    check_gates(
        measurement,
        max_alarms=choices.max_alarms,
        min_ap50=choices.min_ap50,
        max_known_alarms=choices.max_known_alarms,
    )


@expand_options
def predict(
    checkpoint: options.Checkpoint,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE|VIDEO|DIR…",
            callback=pool_specs,
            help="Images, videos, folders of these, globs, .txt lists, tar or zip archives, or URLs.",
        ),
    ],
    *,
    every: options.Every = None,
    save: Annotated[
        bool,
        typer.Option("--save", help="Write the pictures with their boxes into the folder --out."),
    ] = False,
    min_score: options.MinScore = None,
    out: options.Out = Path("runs/predict"),
    choices: DetectorOptions,
    output: OutputOptions,
) -> None:
    """Run a detector on images and print what it finds.

    Example: hardmine predict runs/train photos --min-score 0.5 --save --out runs/predict
    """
    console = output.console()
    detector = options.chosen_detector(checkpoint, choices)
    predict_images(
        console,
        detector,
        sources,
        every=every,
        save=out if save else None,
        as_json=output.as_json,
        min_score=min_score,
    )


def predict_images(
    console: Console,
    detector: Detector,
    sources: Sequence[str],
    *,
    every: str | None,
    save: Path | None,
    as_json: bool,
    min_score: float | None,
) -> None:
    """Detect on every image and frame and print the result; pictures with boxes go into ``save``.

    Raises:
        ConfigError: a picture would replace one of the images.
        DataError: no image in the sources; or some could not be read, after all others were done.
    """
    from hardmine.inference.predict import chosen_point, score_items
    from hardmine.mining.sources.listed_images import ListedImages
    from hardmine.types import Problem

    listed = ListedImages(sources, every)
    total, problems = listed.count() or 0, listed.problems
    point = chosen_point(detector, min_score)
    if point.promise:
        console.note(f"from the model's own threshold on: {point.promise}")
    rows: list[dict[str, Any]] = []
    with console.progress() as step:
        for done, item in enumerate(score_items(detector, listed.items(), batch_size=16), start=1):
            step("images", done, total)
            if isinstance(item, Problem):
                problems.append(item)
                continue
            found = point.keep(item.detections, detector.categories)
            if as_json:
                rows += result_rows(item.name, found, detector.categories)
            else:
                console.result(describe(item.name, found, detector.categories))
            if save is not None:
                _save(item.name, found, detector.categories, listed.place(item.name, save))
    if not listed.targets and all(p.kind == FindingKind.FILES_PASSED_OVER for p in problems):
        raise DataError("; ".join([f"no image in {', '.join(sources)}", *map(str, problems)]))
    if as_json:
        console.json(rows)
    if save is not None:
        console.note(f"pictures with boxes: {save}")
    _report(console, problems)


def result_rows(
    path: Path | str, found: Detections, categories: Sequence[str]
) -> list[dict[str, Any]]:
    """Return one image's detections as COCO results that name file and category."""
    return [
        {
            "file_name": str(path),
            "category_id": int(label),
            "category": categories[label - 1],
            "bbox": [round(float(v), 2) for v in (x1, y1, x2 - x1, y2 - y1)],
            "score": round(float(score), 6),
        }
        for (x1, y1, x2, y2), score, label in zip(
            found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
        )
    ]


_NAMED = 10
"""Detections of an image that the terminal names; ``--json`` gives all."""


def describe(path: Path | str, found: Detections, categories: Sequence[str]) -> str:
    """Return one line: the path, class and score of the best detections, and how many more there are."""
    pairs = list(zip(found.labels.tolist(), found.scores.tolist(), strict=True))
    names = [f"{categories[label - 1]} {score:.2f}" for label, score in pairs[:_NAMED]]
    if left := pairs[_NAMED:]:
        names.append(f"and {len(left)} more down to {left[-1][1]:.2f}")
    return on_one_line(f"{path}: {', '.join(names) or 'nothing'}")


_JPEG_SIDE = 65_500
"""The longest side that libjpeg writes, px."""


def _save(name: str, found: Detections, categories: Sequence[str], target: Path) -> None:
    from hardmine.files import write_atomic
    from hardmine.inference.image_loading import open_item
    from hardmine.mining.sources.pool_source import open_image
    from hardmine.reports.drawing import draw_boxes

    picture = draw_boxes(open_item(open_image(name)).pixels, found, categories)
    picture.thumbnail((_JPEG_SIDE, _JPEG_SIDE))  # only shrinks
    write_atomic(target, lambda part: picture.save(part, format="JPEG", quality=90))


def _report(console: Console, problems: Sequence[Problem]) -> None:
    unreadable = [p for p in problems if p.kind != FindingKind.FILES_PASSED_OVER]
    for problem in problems:
        console.note(f"unreadable: {problem}" if problem in unreadable else str(problem))
    if unreadable:
        raise DataError(
            f"{counted(len(unreadable), 'image')} could not be read (the first: "
            f"{unreadable[0]}); all others are done"
        )


@expand_options
def threshold(
    checkpoint: options.Checkpoint,
    data: options.Data,
    *,
    negatives: options.Negatives = None,
    choices: ThresholdOptions,
    out: options.Out = Path("runs/threshold"),
    output: OutputOptions,
) -> None:
    """Choose the score from which detections count, so that a promise about new images holds.

    Example: hardmine threshold runs/train raccoon --negatives held_out --max-alarms 0.01 --write
    """
    if choices.max_alarms is None and choices.min_recall is None:
        raise usage_error(
            "Nothing is promised: give '--max-alarms', such as 0.01, or '--min-recall'"
        )
    if choices.max_alarms is not None and negatives is None:
        raise usage_error("'--max-alarms' needs '--negatives': alarms are counted on those images")
    import hardmine

    console = output.console()
    with console.progress() as step:
        result = hardmine.threshold(
            checkpoint, data, negatives=negatives, out=out, progress=step, options=choices
        )
    if output.as_json:
        console.json(result.to_dict())
    else:
        _show_threshold(console, result)
    if not result.is_promised:
        raise GateError("gate not met: a promise cannot be given at any score")


def _show_threshold(console: Console, result: ThresholdResult) -> None:
    from hardmine.reports.threshold_page import HEADINGS, cells, statements

    for rows in result.tables:
        if len(rows) > 1:
            console.table(HEADINGS, [cells(row) for row in rows])
        for line in statements(rows[0]):
            console.result(line)
    for note in result.notes:
        console.note(note)
    if result.written is not None:
        console.result(f"written into: {result.written}")
    console.result(f"page: {result.page}")


@expand_options
def export(
    checkpoint: options.OwnCheckpoint,
    *,
    to: Annotated[
        Literal["onnx", "openvino", "litert"], typer.Option("--to", help="The format to write.")
    ],
    choices: ExportOptions,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            dir_okay=False,
            help="The file to write. If not given: beside the weights, with the ending of its format.",
        ),
    ] = None,
    talk: ConsoleOptions,
) -> None:
    """Write a checkpoint as ONNX, OpenVINO or LiteRT (.tflite), and compare the result with torch.

    Example: hardmine export runs/train --to onnx --data raccoon
    """
    suffix = {"onnx": ".onnx", "openvino": ".xml", "litert": ".tflite"}[to]
    if out is not None and out.suffix != suffix:
        raise usage_error(f"'--out' {out}: wanted a name that ends in {suffix}")
    import hardmine
    from hardmine.cli.console import figure
    from hardmine.workflows.export_model import COMPARED_FROM

    console = talk.console()
    with console.progress() as step:
        result = hardmine.export(checkpoint, to=to, out=out, options=choices, progress=step)
    console.result(f"written: {result.path} ({result.megabytes:.1f} MB)")
    if result.parity is None:
        console.result("not compared with torch: give --data or --calibrate for pictures")
    else:
        console.result(f"against torch, from score {COMPARED_FROM:g} on: {result.parity}")
    for name, pair in (("AP", result.ap), ("AP50", result.ap50)):
        if pair is not None:
            console.result(f"{name}: torch {figure(pair[0])}, export {figure(pair[1])}")


@expand_options
def check_detector(
    checkpoint: options.Checkpoint,
    pool: Annotated[
        str,
        typer.Argument(
            metavar="IMAGES",
            callback=pool_spec,
            help="A folder of images, a glob, a .txt list, a tar or zip archive, or a URL.",
        ),
    ],
    *,
    reference: Annotated[
        Path,
        typer.Option(
            "--reference",
            metavar="FILE",
            exists=True,
            help="The detections of the model's own framework on some of these images: COCO "
            "results, or a file as Ultralytics or mmdetection write it.",
        ),
    ],
    classes: options.Classes = None,
    near: AgreementOptions,
    device: options.Device = None,
    talk: ConsoleOptions,
) -> None:
    """Compare a detector with the results of its own framework; exit with code 3 when they differ.

    Example: hardmine check-detector best.onnx:yolov8 images --reference predictions.json
    """
    from hardmine.inference.load_detector import load_detector
    from hardmine.workflows.export_model import check_detector as check

    console = talk.console()
    detector = load_detector(checkpoint, device, classes=classes)
    parity = check(detector, pool, reference, classes=classes, min_score=near.min_score)
    console.result(str(parity))
    _require_agreement(parity, near, reference)


def _require_agreement(parity: Parity, near: AgreementOptions, reference: Path) -> None:
    if not parity.matched + parity.missing + parity.extra:
        raise GateError(
            f"nothing was compared: neither the detector nor {reference} has a detection of score "
            f"{near.min_score:g} or more; lower --min-score, or take images with objects"
        )
    differs = parity.score > near.max_score or parity.box > near.max_box
    if differs or parity.missing or parity.extra or not parity.matched:
        raise GateError(
            f"the detector does not give what {reference} says (wanted scores within "
            f"{near.max_score:g} and boxes within {near.max_box:g} px, none missing or extra, "
            f"from score {near.min_score:g} on)"
        )
