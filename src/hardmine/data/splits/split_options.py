"""What `split` is asked for; light, so that the command line can import it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hardmine.errors import ConfigError
from hardmine.option_fields import check_options, option, seed_option

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
