"""What a ranking of a pool is asked for; light enough for a command line to import."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from hardmine.errors import ConfigError

RuleName = Literal["score", "alarms", "sum", "margin", "uncertainty"]
RULES: tuple[RuleName, ...] = get_args(RuleName)


@dataclass(frozen=True, slots=True)
class RankOptions:
    """How a pool is ranked, and what is left out of the list.

    Rules, on the alarms at or above the score floor:

    - ``score``: the highest score;
    - ``alarms``: how many there are;
    - ``sum``: the sum of their scores;
    - ``margin``: the smallest difference first between the two best classes at the best box, of
      which background is one (with what the others leave of 1);
    - ``uncertainty``: the smallest distance first of any alarm to ``threshold``: where truth is
      unknown, the images to look at, also for objects that were missed.

    Attributes:
        per_class: rank each class by its own alarms and hand out in turn, a class at a time.
        quota_class: at most so many images of a class.
        group: "folder", or a regular expression whose first group (or whole match) in the image's
            name is its group (a camera); images that do not match have none.
        quota_group: at most so many images of a group.
        repeats: count the same false alarm in the same place of a group's images once.
        diverse: of several times as many, take those whose features lie farthest apart.
    """

    rule: RuleName = "score"
    per_class: bool = False
    quota_class: int | None = None
    group: str | None = None
    quota_group: int | None = None
    repeats: bool = True
    threshold: float = 0.5
    diverse: bool = False

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ConfigError(f"rank: got {self.rule!r}, wanted one of {', '.join(RULES)}")
        for name, quota in (("class", self.quota_class), ("group", self.quota_group)):
            if quota is not None and quota < 1:
                raise ConfigError(f"quota_{name}: got {quota}, wanted 1 or more")
        if self.quota_group is not None and self.group is None:
            raise ConfigError("quota_group needs group: what makes a group (folder, or a pattern)")
        if not 0 <= self.threshold <= 1:
            raise ConfigError(f"threshold: got {self.threshold}, wanted a score from 0 to 1")
        if self.group not in (None, "folder"):
            try:
                re.compile(self.group)
            except re.error as error:
                raise ConfigError(f"group: {self.group!r} is no pattern ({error})") from None

    def group_of(self, name: str) -> str:
        """Return the group of an image by its name inside the pool; "" when it has none."""
        if self.group is None:
            return ""
        if self.group == "folder":
            return name.rpartition("/")[0] or "."
        found = re.search(self.group, name)
        if found is None:
            return ""
        return found.group(1) or "" if found.re.groups else found.group(0)
