"""The options of ``mine`` that say how a pool is ranked."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

Rank = Annotated[
    Literal["score", "alarms", "sum", "margin", "uncertainty"],
    typer.Option(
        "--rank",
        help="Hardest first by: score (the highest), alarms (how many), sum (of the alarms' scores), "
        "margin (how close the two best classes are), uncertainty (how close to --threshold).",
    ),
]
PerClass = Annotated[
    bool,
    typer.Option("--per-class", help="Rank each class by itself; hand out one of each in turn."),
]
QuotaClass = Annotated[
    int | None,
    typer.Option("--quota-class", metavar="N", min=1, help="At most N images of a class."),
]
Group = Annotated[
    str | None,
    typer.Option(
        "--group",
        metavar="folder|REGEX",
        help="What makes a group (a camera): its folder, or a pattern in its name inside the pool. "
        "The same alarm in the same place of a group is then handed out once.",
    ),
]
QuotaGroup = Annotated[
    int | None,
    typer.Option("--quota-group", metavar="N", min=1, help="At most N images of a group."),
]
KeepRepeats = Annotated[
    bool,
    typer.Option("--keep-repeats", help="Hand out the same alarm in the same place each time."),
]
Threshold = Annotated[
    float,
    typer.Option(
        "--threshold", metavar="S", min=0.0, max=1.0, help="The score of --rank uncertainty."
    ),
]
Diverse = Annotated[
    bool,
    typer.Option(
        "--diverse", help="Of four times as many hard images take those that look least alike."
    ),
]
Explain = Annotated[
    str | None,
    typer.Option(
        "--explain",
        metavar="IMAGE",
        help="Say why this image is where it is, and hand out nothing.",
    ),
]
