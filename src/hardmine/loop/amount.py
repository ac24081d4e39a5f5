"""How many images a round adds: a share or a number that the user pins, or chosen from what fires.

With ``--add auto`` a round adds ``USUAL_SHARE`` of the labelled images, and more where the pool shows
more: enough of the hardest images to hold half of what is left to teach, but never so many that the
images without objects outnumber the labelled ones. What is left to teach is measured by how far each
image scores above the operating point, summed over the images that fire there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from hardmine.errors import ConfigError

USUAL_SHARE = 0.15
"""Of the labelled images: the least that a round adds."""
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
    if not add > 0 or (add > 1 and add != int(add)):
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
        """Return what a step depends on; of a pinned number only the number."""
        if self.limit is None:
            return {"count": self.count}
        return {"count": self.count, "limit": self.limit, "threshold": self.threshold}


@dataclass(frozen=True, slots=True)
class ChosenAmount:
    """How many images a round adds, and why; nothing is said of a pinned number."""

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
    if threshold is None:
        return ChosenAmount(usual, f"{usual} images, the usual number: recall 0.8 is not reached")
    above = []
    for score in scores:
        if score < threshold:
            break
        above.append(score - threshold)
    firing = f"{len(above)} images of the pool fire at score {threshold:.2f} (recall 0.8)"
    if len(above) <= usual:
        return ChosenAmount(usual, f"{usual} images, the usual number: {firing}")
    import numpy as np

    summed = np.cumsum(above)
    half = int(np.searchsorted(summed, PART_PER_ROUND * summed[-1])) + 1
    if half <= usual:
        why = (
            f"{usual} images, the usual number: {firing}, and the hardest {half} outweigh the rest"
        )
        return ChosenAmount(usual, why)
    if half <= amount.limit:
        return ChosenAmount(half, f"{half} images: {firing}, and these outweigh the rest")
    why = f"{amount.limit} images: {firing}, but more would outnumber the labelled images"
    return ChosenAmount(amount.limit, why)


def steps_factor(num_labelled: int, negatives: int, rounds: int) -> float:
    """Return how much longer a round trains because more than the usual number was added.

    Each labelled image is then met as often as with the usual number.

    Args:
        negatives: images without objects that the mined arm trains on in this round.
        rounds: the number of this round.
    """
    usual = rounds * max(1, round(USUAL_SHARE * num_labelled))
    return max(1.0, (num_labelled + negatives) / (num_labelled + usual))
