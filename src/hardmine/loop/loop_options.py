"""What a loop is asked for, and how many images a round adds; light, for the command line to import.

The user sets a share or a number, or lets it be chosen from what fires. With ``--add auto`` a round
adds ``USUAL_SHARE`` of the labelled images, and more where more images of the pool fire. How far each
firing image scores above the operating point is summed; the hardest images that together hold half of
this sum are added. Beyond ``USUAL_SHARE``, all added images never become more than the labelled ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hardmine.errors import ConfigError
from hardmine.loop.control_arms import (
    MINED,
    Arm,
    arm_names,
    arms_help,
    arms_named,
    check_arms,
    leader,
)
from hardmine.mining.mine_options import RankOptions, every_option, from_labelled_option
from hardmine.option_fields import check_options, option, seed_option
from hardmine.plurals import counted
from hardmine.workflows.train_options import (
    DataOptions,
    NetworkOptions,
    TrainerCommands,
    device_option,
    draws_option,
)

USUAL_SHARE = 0.15
"""The least that a round adds, as a share of the labelled images."""
PART_PER_ROUND = 0.5
"""Share of what is left to teach that one round adds."""

Add = float | Literal["auto"]


def read_add(text: str) -> Add:
    """Return what the text after ``--add`` says: "auto" or a number.

    Raises:
        ConfigError: neither.
    """
    if text == "auto":
        return "auto"
    try:
        return float(text)
    except ValueError:
        raise ConfigError(
            f"add: got {text!r}, wanted auto, a share or a number of images"
        ) from None


def check_add(add: Add) -> None:
    """Check a value of ``add``.

    Raises:
        ConfigError: not above 0, or a number of images that is not whole.
    """
    if add == "auto":
        return
    if not 0 < add < math.inf or (add > 1 and add != int(add)):
        raise ConfigError(
            f"add: got {add}, wanted auto, a share above 0 and at most 1, or a whole number of images"
        )


@dataclass(frozen=True, slots=True)
class Amount:
    """How many images an arm is to be handed in a round.

    Attributes:
        count: the number, or the least number when ``limit`` is given.
        limit: the most that may be chosen by what fires; ``None``: ``count`` is pinned.
        threshold: the score of the operating point; ``None`` where it is not reached.
    """

    count: int
    limit: int | None = None
    threshold: float | None = None

    def inputs(self) -> dict[str, Any]:
        """Return what a step depends on; for a number that the user set only this number."""
        if self.limit is None:
            return {"count": self.count}
        return {"count": self.count, "limit": self.limit, "threshold": self.threshold}


@dataclass(frozen=True, slots=True)
class ChosenAmount:
    """How many images a round adds, and why; ``why`` is empty for a number that the user set."""

    count: int
    why: str


def amount_for(add: Add, num_labelled: int, *, added: int, threshold: float | None) -> Amount:
    """Return the amount that the option ``add`` asks for.

    Args:
        num_labelled: the labelled images of round 0.
        added: the images without objects that the arm trains on already.
        threshold: the score at which the arm's model reaches the reference recall.
    """
    if add != "auto":
        return Amount(max(1, round(add * num_labelled if add <= 1 else add)))
    usual = max(1, round(USUAL_SHARE * num_labelled))
    return Amount(usual, max(usual, num_labelled - added), threshold)


def choose_amount(amount: Amount, scores: Iterable[float]) -> ChosenAmount:
    """Choose from the scores of the images that may still be handed out.

    Args:
        scores: highest first, each near-duplicate group once; read only as far as they reach the
            threshold.
    """
    usual, threshold = amount.count, amount.threshold
    if amount.limit is None:
        return ChosenAmount(usual, "")
    usually = f"{counted(usual, 'image')}, the usual number"
    if threshold is None:
        return ChosenAmount(usual, f"{usually}: recall 0.8 is not reached")
    above = []
    for score in scores:
        if score < threshold:
            break
        above.append(score - threshold)
    fire = counted(len(above), "image of the pool fires", "images of the pool fire")
    firing = f"{fire} at score {threshold:.2f} (recall 0.8)"
    if len(above) <= usual:
        return ChosenAmount(usual, f"{usually}: {firing}")
    import numpy as np

    summed = np.cumsum(above)
    half = int(np.searchsorted(summed, PART_PER_ROUND * summed[-1])) + 1
    if half <= usual:
        why = f"{usually}: {firing}, and half of what they score above it is in the hardest {half}"
        return ChosenAmount(usual, why)
    if half <= amount.limit:
        return ChosenAmount(
            half,
            f"{counted(half, 'image')}: {firing}, and half of what they score above it is in these "
            f"{half}",
        )
    if amount.limit == usual:  # the earlier ones and these are as many as are labelled, or more
        why = (
            "more are not taken, since with these at least as many are added in all as are labelled"
        )
        return ChosenAmount(usual, f"{usually}: {firing}; {why}")
    why = "with more, the images that were added would be more than the labelled ones"
    return ChosenAmount(amount.limit, f"{counted(amount.limit, 'image')}: {firing}; {why}")


def steps_factor(num_labelled: int, negatives: int, rounds: int) -> float:
    """Return how much longer a round trains because more than the usual number was added.

    Each labelled image is then met as often as with the usual number.

    Args:
        negatives: images without objects that the mined arm trains on in this round.
        rounds: the number of this round.
    """
    usual = rounds * max(1, round(USUAL_SHARE * num_labelled))
    return max(1.0, (num_labelled + negatives) / (num_labelled + usual))


Retrain = Literal["branch", "fresh", "continue"]
StopChoice = Literal["guarded", "recipe", "never"]


Accept = Path | Literal["auto", "review"]


def read_accept(text: str) -> Accept:
    """Return what the text after ``--accept`` says: "auto", "review", or a file of verdicts."""
    if text == "auto":
        return "auto"
    return "review" if text == "review" else Path(text)


def read_arms(text: str) -> tuple[str, ...]:
    """Return the arms of a text such as ``mined,random``.

    Raises:
        ConfigError: an unknown or repeated name, or none.
    """
    return check_arms([name.strip() for name in text.split(",") if name.strip()])


@dataclass(frozen=True, slots=True)
class LoopOptions:
    """How a loop goes: its rounds, what they add, how they train and how they are measured.

    Example:
        >>> hardmine.LoopOptions(rounds=2, arms=("mined", "random")).leader.name
        'mined'
    """

    rounds: int = option(3, "Number of mining rounds after round 0.", metavar="N", minimum=1)
    add: Add = option(
        "auto",
        "How many negatives each round adds. 'auto': 0.15 of the labelled images of round 0, and "
        "more where many images of the pool fire. A number up to 1: a share of the labelled images. "
        "A whole number above 1: so many images.",
        metavar="auto|F|N",
        parse=read_add,
        panel="Loop",
    )
    accept: Accept = option(
        "auto",
        "Who confirms that mined images are empty. 'auto': nobody; the whole pool is "
        "taken as empty. 'review': the loop stops after mining until every candidate has a decision "
        "(hardmine review), and goes on with --resume. A CSV file with the columns image,verdict, "
        "or the file of a labelling program (Label Studio, CVAT, FiftyOne, COCO): the loop waits until "
        "this file has a verdict for every candidate.",
        metavar="auto|review|FILE",
        parse=read_accept,
        panel="Loop",
    )
    retrain: Retrain = option(
        "branch",
        "The weights that each round starts from: those of round 0 (branch), none (fresh), or "
        "those of the round before (continue).",
        panel="Loop",
    )
    arms: tuple[str, ...] = option(
        (MINED.name,),
        f"The arms to run, with commas between them. {arms_help()}.",
        metavar="A,B",
        parse=read_arms,
        complete=arm_names,
        panel="Loop",
    )
    stop: StopChoice = option(
        "guarded",
        "The rule that may end the loop early; the report shows what both rules say.",
        panel="Loop",
    )
    quarantine: float | None = option(
        None,
        "Do not train on candidates that score S or more, because an object may be hidden there; "
        "they are listed in quarantine.csv. Off if not given.",
        metavar="S",
        minimum=0,
        maximum=1,
        panel="Loop",
    )
    every: str | None = every_option()
    pool_from_labelled: bool = from_labelled_option(
        "Use no pool: mine the parts of the training images"
    )
    rank: RankOptions = option(RankOptions, "How the mined arm's images are ranked and chosen.")
    network: NetworkOptions = option(NetworkOptions, "The network and its recipe.")
    reading: DataOptions = option(DataOptions, "How labelled data is read.")
    trainer: TrainerCommands = option(TrainerCommands, "Commands in place of Hardmine's training.")
    seed: int = seed_option()
    draws: int = draws_option()
    device: str | None = device_option()

    def __post_init__(self) -> None:
        check_options(self)
        check_add(self.add)
        object.__setattr__(self, "accept", read_accept(str(self.accept)))
        object.__setattr__(self, "arms", check_arms(self.arms))
        if self.rank.diverse and self.trainer.predict_command is not None:
            raise ConfigError("diverse: predict_command gives boxes but no features; leave it out")

    @property
    def chosen_arms(self) -> tuple[Arm, ...]:
        """The arms in the order in which a round goes through them."""
        return arms_named(self.arms)

    @property
    def leader(self) -> Arm:
        """The arm whose history the stop rules look at."""
        return leader(self.chosen_arms)
