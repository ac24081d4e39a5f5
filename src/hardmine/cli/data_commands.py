"""``convert``: from one format of labels to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hardmine.cli import options
from hardmine.cli.console import Console


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
