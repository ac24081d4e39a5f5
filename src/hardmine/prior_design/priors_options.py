"""What `priors coverage` and `priors fit` are asked for; light, for the command line to import."""

from __future__ import annotations

from dataclasses import dataclass

from hardmine.errors import ConfigError
from hardmine.option_fields import check_options, option, seed_option


@dataclass(frozen=True, slots=True)
class CoverageOptions:
    """What the page about coverage shows."""

    pictures: int = option(6, "How many images to show with their priors.", metavar="N", minimum=0)
    seed: int = seed_option("Options")

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, slots=True)
class FitOptions:
    """How priors are fitted to a dataset."""

    budget: int | None = option(
        None, "At most N priors. If not given: as many as the model has.", metavar="N", minimum=1
    )
    held_out: float = option(
        0.3, "The share of the images that is held out to judge the result.", metavar="SHARE"
    )
    max_shapes: int = option(8, "At most N shapes per cell.", metavar="N", minimum=1)
    seed: int = seed_option("Options")

    def __post_init__(self) -> None:
        check_options(self)
        if not 0.0 < self.held_out < 1.0:
            raise ConfigError(f"held_out: got {self.held_out}, wanted between 0 and 1")
