"""What a check of a dataset is asked for; light, so that a command line can import it."""

from __future__ import annotations

from dataclasses import dataclass

from hardmine.option_fields import check_options, option
from hardmine.workflows.train_options import DataOptions, seed_option


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """How a dataset is looked at.

    Example:
        >>> hardmine.CheckOptions(model="ssdlite320_mobilenet_v2").link
        False
    """

    model: str | None = option(
        None,
        "Report the boxes that are too small for the input of this model.",
        metavar="NAME",
    )
    link: bool = option(
        False,
        "With --fix: make hard links to the images instead of copies.",
        flags=("--link",),
        panel="Output",
    )
    reading: DataOptions = option(DataOptions, "How labelled data is read.")
    seed: int = seed_option("Advanced")

    def __post_init__(self) -> None:
        check_options(self)
