"""``convert`` and ``split``: commands that read and write labels."""

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
    to: Annotated[
        Literal["coco", "yolo", "voc", "labelstudio", "cvat", "fiftyone"],
        typer.Option("--to", help="Format to write; the last three hand images to be labelled."),
    ],
    link: Annotated[
        bool, typer.Option("--link", help="Hard links to the images instead of copies.")
    ] = False,
    images: options.Images = None,
    empty_is_verified: options.EmptyIsVerified = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a dataset in another format, images too; the states of its images survive.

    For a labelling program DATA may also be the candidates.json of a mining run: what the model saw
    becomes predictions.
    """
    from hardmine.data.convert import convert as convert_splits
    from hardmine.data.labelling import LABELLING
    from hardmine.data.load import load_splits
    from hardmine.pool.to_label import hand_over

    console = Console(quiet=quiet)
    if to in LABELLING:
        given = hand_over(
            data, out, to, images=images, empty_is_verified=empty_is_verified, link=link
        )
        console.result(
            f"{given.out}: {given.images} images, {given.annotations} boxes as annotations, "
            f"{given.predictions} as predictions"
        )
        return
    splits = load_splits(data, images=images, empty_is_verified=empty_is_verified)
    done = convert_splits(splits, out, to, link=link)
    images_of = ", ".join(f"{number} {name}" for name, number in done.images.items())
    console.result(
        f"{done.out}: images {images_of}; {done.boxes} boxes ({done.ignored_boxes} ignored)"
    )
    if done.renamed:
        console.note(f"{done.renamed} images got a new name: theirs was taken")
