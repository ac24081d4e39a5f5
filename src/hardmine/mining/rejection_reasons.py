"""Why an image of a pool is not handed out: one row for each reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class Reason(Enum):
    """A reason why an image is not handed out; its value is what a summary calls such images."""

    BELOW_MIN_SCORE = "score below --min-score"
    NO_ALARM = "no detection that counts as an alarm"
    HANDED_OUT_BEFORE = "handed out before"
    DECIDED = "decided on by a person"
    SET_ASIDE = "set aside as they may hold an object"
    LEAK = "repeats of an excluded image"
    NEAR_DUPLICATE = "near-duplicates of another image"
    SAME_ALARM = "the same alarm in the same place as in another image"
    QUOTA_OF_CLASS = "over the quota of their class"
    QUOTA_OF_GROUP = "over the quota of their group"
    BEYOND_COUNT = "beyond the number asked for"
    LESS_DIVERSE = "more alike than those handed out"
    NOT_LOOKED_AT = "others score higher"

    @property
    def is_represented(self) -> bool:
        """True when another image, handed out now or before, stands for such an image."""
        return self in (Reason.NEAR_DUPLICATE, Reason.SAME_ALARM)


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why one image is not handed out; ``text`` says it of this image, for ``--explain``."""

    reason: Reason
    text: str

    def __str__(self) -> str:
        return self.text


def count_reasons(rejections: Iterable[Rejection]) -> Counter[Reason]:
    """Return how many images fell for each reason."""
    return Counter(rejection.reason for rejection in rejections)
