"""The options of ``loop`` for a trainer that is not Hardmine's."""

from __future__ import annotations

from typing import Annotated

import typer

TrainCommand = Annotated[
    str | None,
    typer.Option(
        "--train-command",
        metavar="COMMAND",
        help="Train by your own command, such as 'python train.py {train_json} {weights_out}'; also "
        "{val_json} {classes} {init_weights} {seed} {steps} {epochs} {round} {arm} {device}.",
    ),
]
PredictCommand = Annotated[
    str | None,
    typer.Option(
        "--predict-command",
        metavar="COMMAND",
        help="Predict by your own command: {weights} {images_txt} or {images_json}, {predict_json}.",
    ),
]
DetectorOf = Annotated[
    str | None,
    typer.Option(
        "--detector",
        metavar="SPEC",
        help="How trained weights are loaded, such as '{weights_out}:yolov8'; as CHECKPOINT of mine.",
    ),
]
WeightsName = Annotated[
    str | None,
    typer.Option(
        "--weights-name",
        metavar="NAME",
        help="File name of the weights that the command writes (last.safetensors; best.onnx).",
    ),
]
