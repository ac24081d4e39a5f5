"""What the commands that look at labelled data are asked for: ``split``, ``inspect`` and ``priors``.

Light, so that the command line can import it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hardmine.errors import ConfigError
from hardmine.option_fields import check_options, images_option, option, seed_option

Pictures = Literal["none", "copy", "link"]


@dataclass(frozen=True, slots=True)
class SplitOptions:
    """Which images stay together, and what is written.

    Example:
        >>> hardmine.SplitOptions(group="(cam[0-9]+)/").pictures
        'none'
    """

    group: str | None = option(
        None,
        "Keep images together whose paths give the same match of the groups of this pattern, such as "
        "'(cam[0-9]+)/'.",
        metavar="REGEX",
    )
    by_time: bool = option(
        False,
        "Keep neighbours in time in one part (by EXIF, a time in the name, or a number).",
        flags=("--by-time",),
    )
    gap: float | None = option(
        None,
        "With --by-time: images closer than this are neighbours; 60 seconds or 30 frame numbers if not "
        "given.",
        metavar="N",
        minimum=0,
    )
    pictures: Pictures = option(
        "none",
        "Whether to write a whole dataset: with copies of the images, or with hard links to them.",
        on_command_line=False,
    )
    seed: int = seed_option("Options")

    def __post_init__(self) -> None:
        check_options(self)
        if self.by_time and self.group is not None:
            raise ConfigError("by time and by group pattern at once: wanted one of them")
        if self.gap is not None and not self.by_time:
            raise ConfigError("gap goes with by_time")


@dataclass(frozen=True, slots=True)
class SplitChoice:
    """Which split of labelled data is looked at, and where its images are."""

    split: str | None = option(
        None,
        "The split to look at; if not given and there are several: 'train'.",
        metavar="NAME",
        panel="Data",
    )
    images: Path | None = images_option()


@dataclass(frozen=True, slots=True)
class InspectOptions:
    """What the page shows."""

    image: str | None = option(
        None,
        "The name or path of one image; if not given: a few informative ones.",
        on_command_line=False,
    )
    draws: int = option(3, "How many draws of the augmentation to show.", metavar="N", minimum=1)
    part: SplitChoice = option(SplitChoice, "Which images are looked at.")
    seed: int = seed_option("Options")

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, slots=True)
class CoverageOptions:
    """What the page about coverage shows."""

    pictures: int = option(6, "How many images to show with their priors.", metavar="N", minimum=0)
    part: SplitChoice = option(SplitChoice, "Which images are looked at.")
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
    max_shapes: int = option(8, "The most shapes that a cell may get.", metavar="N", minimum=1)
    part: SplitChoice = option(SplitChoice, "Which images are looked at.")
    seed: int = seed_option("Options")

    def __post_init__(self) -> None:
        check_options(self)
        if not 0.0 < self.held_out < 1.0:
            raise ConfigError(f"held_out: got {self.held_out}, wanted between 0 and 1")
