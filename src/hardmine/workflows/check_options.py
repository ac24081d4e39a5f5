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
        "Name the boxes that are too small for this model's input.",
        metavar="NAME",
    )
    link: bool = option(
        False, "With --fix: hard links to the images, no copies.", flags=("--link",), panel="Output"
    )
    reading: DataOptions = option(DataOptions, "How labelled data is read.")
    seed: int = seed_option()

    def __post_init__(self) -> None:
        check_options(self)
