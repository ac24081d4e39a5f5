"""What a loop is asked for; light, so that a command line can import it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hardmine.errors import ConfigError
from hardmine.loop.amount import Add, check_add, read_add
from hardmine.loop.control_arms import (
    MINED,
    Arm,
    arm_names,
    arms_help,
    arms_named,
    check_arms,
    leader,
)
from hardmine.mining.mine_options import RankOptions, every_option
from hardmine.option_fields import check_options, option, seed_option
from hardmine.workflows.train_options import (
    DataOptions,
    NetworkOptions,
    TrainerCommands,
    device_option,
    draws_option,
)

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
        "Who confirms that mined images are empty. 'auto': you vouch that the whole pool is "
        "empty. 'review': the loop stops after mining until every candidate has a decision "
        "(hardmine review), and goes on with --resume. A CSV file with the columns image,verdict, "
        "or the file of a labelling program (Label Studio, CVAT, FiftyOne, COCO): the same with the "
        "verdicts in this file.",
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
