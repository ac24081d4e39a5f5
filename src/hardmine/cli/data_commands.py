"""``check`` and ``convert``: commands that read and write labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hardmine.cli import options
from hardmine.cli.console import Console


def check(
    data: options.Data,
    *,
    images: options.Images = None,
    empty_is_verified: options.EmptyIsVerified = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Read a dataset and say what is in it and what is wrong with it, before training."""
    from hardmine.data.check import check_dataset

    console = Console(quiet=quiet)
    report = check_dataset(data, images=images, empty_is_verified=empty_is_verified)
    if as_json:
        console.json(report.to_dict())
    else:
        console.result(report.to_text())


def convert(
    data: options.Data,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A json file (coco) or a folder.")],
    *,
    to: Annotated[
        Literal["coco", "yolo", "voc"], typer.Option("--to", help="The format to write.")
    ],
    images: options.Images = None,
    empty_is_verified: options.EmptyIsVerified = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a dataset in another format; the states of its images survive."""
    from hardmine.data.convert import convert as convert_dataset

    console = Console(quiet=quiet)
    written = convert_dataset(data, out, to, images=images, empty_is_verified=empty_is_verified)
    console.result(f"{written}")
