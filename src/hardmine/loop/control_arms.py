"""The arms of a loop: the one that mines, and the control arms that it is compared with.

All arms start from the same round-0 weights and train for the same number of steps. An arm is one value
here; the command line, the loop, the comparisons and the report read it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from hardmine.errors import ConfigError, not_one_of

Draw = Literal["hardest", "random", "nothing"]
"""How an arm's images are chosen; ``loop.round_candidates`` does it."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to choose the images that a round adds.

    Attributes:
        name: as ``--arms`` and the files of a run have it.
        help: what it adds, for help texts.
        draw: how its images are chosen.
        as_many_as: the arm whose number of images it takes, when that arm runs too.
        compared_with: the arms whose alarms its own are compared with in every round.
        shows_images: whether the report shows what it was handed.
    """

    name: str
    help: str
    draw: Draw
    as_many_as: str | None = None
    compared_with: tuple[str, ...] = ()
    shows_images: bool = False

    @property
    def adds_images(self) -> bool:
        """Whether it is handed any images at all."""
        return self.draw != "nothing"


MINED = Arm(
    "mined",
    "the images on which its model fires hardest",
    "hardest",
    compared_with=("random", "none"),
    shows_images=True,
)
RANDOM = Arm(
    "random",
    "as many images, drawn at random",
    "random",
    as_many_as="mined",
    compared_with=("none",),
)
NONE = Arm("none", "no images", "nothing")

ARMS = (MINED, RANDOM, NONE)
"""All arms in the order in which a round goes through them."""


def arm_names() -> list[str]:
    """Return the names of all arms."""
    return [arm.name for arm in ARMS]


def arms_help() -> str:
    """Return what the arms add, for help texts."""
    return "; ".join(f"{arm.name}: {arm.help}" for arm in ARMS)


def check_arms(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of arms as a tuple.

    Raises:
        ConfigError: an unknown or repeated name, or none.
    """
    known = arm_names()
    for name in names:
        if name not in known:
            raise ConfigError(not_one_of("arms", name, known))
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"arms: got {list(names)}, wanted some of {', '.join(known)}, each once")
    return tuple(names)


def arms_named(names: Iterable[str]) -> tuple[Arm, ...]:
    """Return the arms of those names in the order in which a round goes through them."""
    wanted = set(names)
    return tuple(arm for arm in ARMS if arm.name in wanted)


def leader(arms: Sequence[Arm]) -> Arm:
    """Return the arm whose history the stop rules look at: the first that adds images."""
    return next((arm for arm in arms if arm.adds_images), arms[0])
