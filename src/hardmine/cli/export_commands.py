"""``export`` and ``check-detector``: models that go out, and models that come in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hardmine.cli import options
from hardmine.cli.console import Console, usage_error


def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT", exists=True, help="Weights (.safetensors) or their run folder."
        ),
    ],
    *,
    to: Annotated[Literal["onnx", "openvino"], typer.Option("--to", help="What to write.")],
    with_nms: Annotated[
        bool, typer.Option("--with-nms", help="Suppress inside the graph: detections come out.")
    ] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="Convolutions in 8 bits; needs --calibrate.")
    ] = False,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            "--calibrate",
            metavar="DIR",
            exists=True,
            file_okay=False,
            help="Pictures like those of the field, for --int8 (128 of them are used).",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="DATA", exists=True, help="Labelled data to measure both on."
        ),
    ] = None,
    images: options.Images = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", dir_okay=False, help="The file to write."),
    ] = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Write a checkpoint as ONNX or OpenVINO and compare the result with torch."""
    if int8 and calibrate is None:
        raise usage_error("'--int8' needs '--calibrate': pictures to find the ranges on")
    suffix = ".onnx" if to == "onnx" else ".xml"
    if out is not None and out.suffix != suffix:
        raise usage_error(f"'--out' {out}: wanted a name that ends in {suffix}")
    import hardmine
    from hardmine.cli.tables import figure
    from hardmine.workflows.export_model import COMPARED_FROM

    console = Console(quiet=quiet, verbose=verbose)
    with console.progress() as step:
        result = hardmine.export(
            checkpoint,
            to=to,
            out=out,
            with_nms=with_nms,
            int8=int8,
            calibrate=calibrate,
            data=data,
            images=images,
            progress=step,
        )
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
            help="What the model's own framework finds on some of them (COCO results, or as "
            "Ultralytics and mmdetection write them).",
        ),
    ],
    classes: options.Classes = None,
    min_score: Annotated[
        float,
        typer.Option(
            "--min-score", metavar="S", min=0.0, max=1.0, help="Lowest score that must be there."
        ),
    ] = 0.25,
    max_score: Annotated[
        float,
        typer.Option("--max-score", metavar="D", min=0.0, help="Largest difference of a score."),
    ] = 0.02,
    max_box: Annotated[
        float,
        typer.Option("--max-box", metavar="PX", min=0.0, help="Largest difference of a box."),
    ] = 2.0,
    device: options.Device = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Compare a foreign detector with what its own framework finds; exit 3 when they differ."""
    from hardmine.errors import GateError
    from hardmine.inference.load_detector import load_detector
    from hardmine.workflows.export_model import check_detector as check

    console = Console(quiet=quiet, verbose=verbose)
    detector = load_detector(checkpoint, device, classes=classes)
    parity = check(detector, pool, reference, classes=classes, min_score=min_score)
    console.result(str(parity))
    differs = parity.score > max_score or parity.box > max_box
    if differs or parity.missing or parity.extra or not parity.matched:
        raise GateError(
            f"the detector does not give what {reference} says (wanted scores within {max_score:g} "
            f"and boxes within {max_box:g} px, none missing or extra, from score {min_score:g} on)"
        )
