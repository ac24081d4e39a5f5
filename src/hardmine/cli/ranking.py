"""The options that say how a pool is ranked, the same for ``mine`` and ``loop``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from hardmine.mining.rank_options import RankOptions, RuleName

LowestScore = Annotated[
    float | None,
    typer.Option(
        "--min-score",
        metavar="S",
        min=0.0,
        max=1.0,
        help="Lowest score of an image that is handed out; .05 if not given, and 0 means 0.",
    ),
]
Rank = Annotated[
    RuleName,
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


def _options(
    rank: Rank = "score",
    per_class: PerClass = False,
    quota_class: QuotaClass = None,
    group: Group = None,
    quota_group: QuotaGroup = None,
    keep_repeats: KeepRepeats = False,
    threshold: Threshold = 0.5,
    diverse: Diverse = False,
) -> RankOptions:
    return RankOptions(
        rank, per_class, quota_class, group, quota_group, not keep_repeats, threshold, diverse
    )


def ranked(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command these options in place of its parameter ``rank: RankOptions``."""
    options = inspect.signature(_options, eval_str=True).parameters
    signature = inspect.signature(command, eval_str=True)
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        more = [p.replace(kind=p.KEYWORD_ONLY) for p in options.values()]
        parameters += more if name == "rank" else [parameter]

    @wraps(command)
    def run(**given: Any) -> None:
        chosen = {name: given.pop(name) for name in options}
        command(**given, rank=_options(**chosen))

    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return run
