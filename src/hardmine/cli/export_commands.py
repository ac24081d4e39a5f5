"""``export`` and ``check-detector``: models that go out, and models that come in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hardmine.cli import options
from hardmine.cli.console import Console, usage_error
from hardmine.cli.option_flags import expand_options
from hardmine.workflows.train_options import ExportOptions


@expand_options
def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT",
            exists=True,
            help="Weights (.safetensors) or the folder of their run.",
        ),
    ],
    *,
    to: Annotated[Literal["onnx", "openvino"], typer.Option("--to", help="The format to write.")],
    choices: ExportOptions,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", dir_okay=False, help="The file to write."),
    ] = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Write a checkpoint as ONNX or OpenVINO, and compare the result with torch.

    Example: hardmine export runs/train --to onnx --data raccoon
    """
    suffix = ".onnx" if to == "onnx" else ".xml"
    if out is not None and out.suffix != suffix:
        raise usage_error(f"'--out' {out}: wanted a name that ends in {suffix}")
    import hardmine
    from hardmine.cli.tables import figure
    from hardmine.workflows.export_model import COMPARED_FROM

    console = Console(quiet=quiet, verbose=verbose)
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


def check_detector(
    checkpoint: options.Checkpoint,
    pool: Annotated[
        Path,
        typer.Argument(metavar="IMAGES", exists=True, file_okay=False, help="A folder of images."),
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
    min_score: Annotated[
        float,
        typer.Option(
            "--min-score",
            metavar="S",
            min=0.0,
            max=1.0,
            help="Compare detections from this score on.",
        ),
    ] = 0.25,
    max_score: Annotated[
        float,
        typer.Option(
            "--max-score",
            metavar="D",
            min=0.0,
            help="The largest difference of a score that is allowed.",
        ),
    ] = 0.02,
    max_box: Annotated[
        float,
        typer.Option(
            "--max-box",
            metavar="PX",
            min=0.0,
            help="The largest difference of a box that is allowed, in pixels.",
        ),
    ] = 2.0,
    device: options.Device = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Compare a detector with the results of its own framework; exit with code 3 when they differ.

    Example: hardmine check-detector best.onnx:yolov8 images --reference predictions.json
    """
    from hardmine.errors import GateError
    from hardmine.inference.load_detector import load_detector
    from hardmine.workflows.export_model import check_detector as check

    console = Console(quiet=quiet, verbose=verbose)
    detector = load_detector(checkpoint, device, classes=classes)
    parity = check(detector, pool, reference, classes=classes, min_score=min_score)
    console.result(str(parity))
    if not parity.matched + parity.missing + parity.extra:
        raise GateError(
            f"nothing was compared: neither the detector nor {reference} has a detection of score "
            f"{min_score:g} or more; lower --min-score, or take images with objects"
        )
    differs = parity.score > max_score or parity.box > max_box
    if differs or parity.missing or parity.extra or not parity.matched:
        raise GateError(
            f"the detector does not give what {reference} says (wanted scores within {max_score:g} "
            f"and boxes within {max_box:g} px, none missing or extra, from score {min_score:g} on)"
        )
