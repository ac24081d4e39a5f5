"""What `inspect` is asked for; light, so that the command line can import it."""

from __future__ import annotations

from dataclasses import dataclass

from hardmine.option_fields import check_options, option, seed_option


@dataclass(frozen=True, slots=True)
class InspectOptions:
    """What the page shows."""

    image: str | None = option(
        None,
        "The name or path of one image; if not given: a few informative ones.",
        on_command_line=False,
    )
    draws: int = option(3, "How many draws of the augmentation to show.", metavar="N", minimum=1)
    split: str | None = option(
        None,
        "The split to look at; if not given and there are several: 'train'.",
        metavar="NAME",
        panel="Data",
    )
    seed: int = seed_option("Options")

    def __post_init__(self) -> None:
        check_options(self)
