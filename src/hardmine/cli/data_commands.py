"""``check`` and ``convert``: commands that read and write labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hardmine.cli import options
from hardmine.cli.console import Console
from hardmine.errors import DataError


def check(
    data: options.Data,
    *,
    images: options.Images = None,
    empty_is_verified: options.EmptyIsVerified = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Say what is in a dataset and what is wrong with it, before training; exit 1 on errors."""
    from hardmine.data.check import Severity, check_dataset, severity_of

    # The report names every problem; the log would name them once more.
    console = Console(quiet=quiet, log=False)
    with console.progress() as step:
        report = check_dataset(
            data,
            images=images,
            empty_is_verified=empty_is_verified,
            progress=lambda done, total: step("images", done, total),
        )
    if as_json:
        console.json(report.to_dict())
    else:
        console.result("\n".join(report.rows()))
    if not report.ok:
        errors = sum(severity_of(problem) is Severity.ERROR for problem in report.problems)
        raise DataError(f"{data}: {errors} errors (see the report above)")


def convert(
    data: options.Data,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder that is new or empty.")],
    *,
    to: Annotated[Literal["coco", "yolo", "voc"], typer.Option("--to", help="Format to write.")],
    link: Annotated[
        bool, typer.Option("--link", help="Hard links to the images instead of copies.")
    ] = False,
    images: options.Images = None,
    empty_is_verified: options.EmptyIsVerified = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a dataset in another format, images too; the states of its images survive."""
    from hardmine.data.convert import convert as convert_splits
    from hardmine.data.load import load_splits

    console = Console(quiet=quiet)
    splits = load_splits(data, images=images, empty_is_verified=empty_is_verified)
    done = convert_splits(splits, out, to, link=link)
    images_of = ", ".join(f"{number} {name}" for name, number in done.images.items())
    console.result(
        f"{done.out}: images {images_of}; {done.boxes} boxes ({done.ignored_boxes} ignored)"
    )
    if done.renamed:
        console.note(f"{done.renamed} images got a new name: theirs was taken")
