"""``convert`` and ``split``: commands that read and write labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hardmine.cli import options
from hardmine.cli.console import Console
from hardmine.data.formats.format_table import WRITTEN, LabelFormat, written_format
from hardmine.errors import ConfigError

_FORMATS = "; ".join(f"{row.name} ({row.words}: {row.written})" for row in WRITTEN)


def _format(name: str) -> LabelFormat:
    try:
        return written_format(name)
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from None


def _format_names() -> list[str]:
    return [row.name for row in WRITTEN]


def convert(
    data: options.Data,
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The folder to write; it must be new or empty.")
    ],
    *,
    to: Annotated[
        LabelFormat,
        typer.Option(
            "--to",
            metavar="FORMAT",
            parser=_format,
            autocompletion=_format_names,
            help=f"The format to write: {_FORMATS}.".replace("`", ""),
        ),
    ],
    link: Annotated[
        bool, typer.Option("--link", help="Make hard links to the images instead of copies.")
    ] = False,
    images: options.Images = None,
    empty_is_verified: options.EmptyIsVerified = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Write a dataset in another format, with its images and their states.

    For a labelling program, DATA may also be the candidates.json of a mining run: the detections
    become predictions.

    Example: hardmine convert raccoon raccoon_yolo --to yolo
    """
    from hardmine.data.convert import convert as convert_splits
    from hardmine.data.load_dataset import load_splits
    from hardmine.mining.candidates_file import hand_over

    console = Console(quiet=quiet, verbose=verbose)
    if to.for_labelling:
        given = hand_over(
            data, out, to.name, images=images, empty_is_verified=empty_is_verified, link=link
        )
        console.result(
            f"{given.out}: {given.images} images, {given.annotations} boxes as annotations, "
            f"{given.predictions} as predictions"
        )
        return
    splits = load_splits(data, images=images, empty_is_verified=empty_is_verified)
    done = convert_splits(splits, out, to.name, link=link)
    images_of = ", ".join(f"{number} {name}" for name, number in done.images.items())
    console.result(
        f"{done.out}: images {images_of}; {done.boxes} boxes ({done.ignored_boxes} ignored)"
    )
    if done.renamed:
        console.note(f"{done.renamed} images got a new name, because their name was taken")
    for remark in done.remarks:
        console.note(f"note: {remark}")


def split(
    data: options.Data,
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The folder to write; it must be new or empty.")
    ],
    *,
    fractions: Annotated[
        str,
        typer.Option(
            "--fractions", metavar="NAME=SHARE,…", help="The parts and their shares; the sum is 1."
        ),
    ] = "train=0.8,val=0.2",
    group: Annotated[
        str | None,
        typer.Option(
            "--group",
            metavar="REGEX",
            help="Keep images together whose paths give the same match of the groups of this "
            "pattern, such as '(cam[0-9]+)/'.",
        ),
    ] = None,
    by_time: Annotated[
        bool,
        typer.Option(
            "--by-time",
            help="Keep neighbours in time in one part (by EXIF, a time in the name, or a number).",
        ),
    ] = False,
    gap: Annotated[
        float | None,
        typer.Option(
            "--gap",
            metavar="N",
            min=0.0,
            help="With --by-time: images closer than this are neighbours; 60 seconds or 30 frame "
            "numbers if not given.",
        ),
    ] = None,
    copy: Annotated[
        bool,
        typer.Option(
            "--copy",
            help="Write a whole dataset with copies of the images.",
            rich_help_panel="Output",
        ),
    ] = False,
    link: Annotated[
        bool,
        typer.Option(
            "--link",
            help="Write a whole dataset with hard links to the images.",
            rich_help_panel="Output",
        ),
    ] = False,
    seed: options.Seed = 0,
    images: options.Images = None,
    empty_is_verified: options.EmptyIsVerified = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Split labelled data into parts with even classes; near-duplicates stay in one part.

    Example: hardmine split raccoon raccoon_parts --fractions train=0.7,val=0.3 --copy
    """
    import hardmine
    from hardmine.data.splits.split import parse_fractions

    console = Console(quiet=quiet, verbose=verbose)
    result = hardmine.split(
        data,
        out,
        parse_fractions(fractions),
        group=group,
        by_time=by_time,
        gap=gap,
        seed=seed,
        pictures="link" if link else "copy" if copy else "none",
        images=images,
        empty_is_verified=empty_is_verified,
    )
    names = next(iter(result.splits.values())).categories
    rows = [
        (
            name,
            str(len(dataset)),
            str(sum(len(record.labels) == 0 for record in dataset.records)),
            *(
                str(sum(int((record.labels == label).sum()) for record in dataset.records))
                for label in range(1, len(names) + 1)
            ),
        )
        for name, dataset in result.splits.items()
    ]
    console.table(("part", "images", "without box", *names), rows)
    console.result(f"{out}: {result.num_groups} groups by {result.how}")
    if result.left_out:
        console.result(
            f"{len(result.left_out)} images between neighbours are left out; left_out.txt lists them"
        )
    if result.straddling:
        console.note(f"{result.straddling} pairs of near-duplicates are in different parts")
    if not (copy or link):
        console.note(f"the files name images below {data}: use them with --images")
