"""What mining a pool is asked for; light, so that a command line can import it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from hardmine.errors import ConfigError
from hardmine.option_fields import option

PANEL = "Ranking"
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
    """

    rule: RuleName = option(
        "score",
        "Hardest first by: score (the highest), alarms (how many), sum (of the scores of the alarms), "
        "margin (how close the two best classes are), uncertainty (how close to --threshold).",
        flags=("--rank",),
        panel=PANEL,
    )
    per_class: bool = option(
        False,
        "Rank each class by its own alarms; hand out one image of each class in turn.",
        flags=("--per-class",),
        panel=PANEL,
    )
    quota_class: int | None = option(
        None, "At most N images of a class.", metavar="N", minimum=1, panel=PANEL
    )
    group: str | None = option(
        None,
        "What makes a group (a camera): 'folder', or a regular expression whose first group (or whole "
        "match) in the name of the image inside the pool is its group. The same alarm in the same place "
        "of a group is then handed out once.",
        metavar="folder|REGEX",
        panel=PANEL,
    )
    quota_group: int | None = option(
        None, "At most N images of a group.", metavar="N", minimum=1, panel=PANEL
    )
    repeats: bool = option(
        True,
        "Hand out the same alarm in the same place each time.",
        flags=("--keep-repeats",),
        negated=True,
        panel=PANEL,
    )
    """Whether the same false alarm in the same place of a group's images is counted once."""
    threshold: float = option(
        0.5, "The score of --rank uncertainty.", metavar="S", minimum=0, maximum=1, panel=PANEL
    )
    diverse: bool = option(
        False,
        "Of four times as many hard images, take those that look least alike.",
        flags=("--diverse",),
        panel=PANEL,
    )

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
