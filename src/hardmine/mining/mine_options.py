"""What mining a pool is asked for, and the rules by which images are ranked: one row for each rule.

Light, so that a command line can import it. A rule gives an image one number from its alarms, larger
for a harder image.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardmine.device import RuntimeName
from hardmine.errors import ConfigError, not_one_of
from hardmine.option_fields import check_options, images_option, option

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hardmine.detections import Detections

SAME_PLACE = 0.5
"""IoU from which two boxes count as the same place, inclusive."""


@dataclass(frozen=True, slots=True)
class RankingRule:
    """A rule: its name, what help texts say of it, and the hardness of an image.

    Attributes:
        hardness: takes an image's alarms (at least one, best first) and the options; returns a number
            that is larger for a harder image.
        around_threshold: the hardest images have their highest score around ``threshold``, not at the
            top: where a ranking looks for them.
        of_each_class: scores of different classes are not compared as they are, so that a ranking
            looks at the highest scores of each class.
    """

    name: str
    help: str
    hardness: Callable[[Detections, RankOptions], float]
    around_threshold: bool = False
    of_each_class: bool = False


def _highest_score(alarms: Detections, options: RankOptions) -> float:
    return float(alarms.scores[0])


def _num_alarms(alarms: Detections, options: RankOptions) -> float:
    return float(len(alarms))


def _sum_of_scores(alarms: Detections, options: RankOptions) -> float:
    return float(alarms.scores.astype("float64").sum())


def _closeness_of_classes(alarms: Detections, options: RankOptions) -> float:
    return -class_margin(alarms)


def _closeness_to_threshold(alarms: Detections, options: RankOptions) -> float:
    return -float(abs(alarms.scores.astype("float64") - options.threshold).min())


def _highest_for_its_class(alarms: Detections, options: RankOptions) -> float:
    import numpy as np

    limits = np.array(options.class_scores)[alarms.labels - 1]
    return float((_logits(alarms.scores) - _logits(limits)).max())


def _logits(scores: NDArray[Any]) -> NDArray[np.float64]:
    import numpy as np

    inside = np.clip(scores.astype(np.float64), _EDGE, 1.0 - _EDGE)
    return np.log(inside / (1.0 - inside))


_EDGE = 1e-9
"""Keeps the logits of the scores 0 and 1 finite."""


RULES: dict[str, RankingRule] = {
    rule.name: rule
    for rule in (
        RankingRule("score", "the highest score", _highest_score),
        RankingRule(
            "class",
            "the highest score above the threshold of its class, in logits, so that a class with high "
            "scores does not hide the alarms of another",
            _highest_for_its_class,
            of_each_class=True,
        ),
        RankingRule("alarms", "the most alarms", _num_alarms),
        RankingRule("sum", "the largest sum of the alarms' scores", _sum_of_scores),
        RankingRule(
            "margin",
            "the two likeliest classes closest to each other at the best box, background being one",
            _closeness_of_classes,
        ),
        RankingRule(
            "uncertainty",
            "an alarm whose score is closest to --threshold: the images to look at where the truth is "
            "unknown, also for objects that were missed",
            _closeness_to_threshold,
            around_threshold=True,
        ),
    )
}
"""By name; the command line, help texts and tests are made from these rows."""


def class_margin(alarms: Detections) -> float:
    """Return the difference between the two likeliest classes at the best box.

    Background is a class: it has what the others leave of 1.
    """
    from hardmine.numpy_boxes import box_iou

    place = box_iou(alarms.boxes[:1], alarms.boxes)[0] >= SAME_PLACE
    place[0] = True  # a box without area overlaps nothing, not even itself
    best: dict[int, float] = {}
    for label, score in zip(alarms.labels[place], alarms.scores[place], strict=True):
        best[int(label)] = max(best.get(int(label), 0.0), float(score))
    values = sorted([*best.values(), max(0.0, 1.0 - sum(best.values()))])
    return values[-1] - values[-2]


_RULES = "; ".join(f"{rule.name} ({rule.help})" for rule in RULES.values())


FRAME_MARK = "#t="
"""Stands in the name of a video's frame between the file and the time (``data/video.py``)."""


EVERY_HELP = (
    "Which frames of videos are taken: one in so many seconds (0.5s), one in so many frames (25), or "
    "the key frames alone (key), for a quick first look; 1s if not given. Frames that look like the "
    "one before are left out."
)


def every_option() -> Any:
    """Return the option that says which frames of a pool's videos are taken."""
    return option(None, EVERY_HELP, metavar="1s|N|key", panel="Pool")


def from_labelled_option(what: str) -> Any:
    """Return the option that makes a pool of labelled images.

    Args:
        what: the beginning of the help, up to "that hold no object".
    """
    return option(
        False,
        f"{what} that hold no object. Each part is named by its image and its rectangle "
        "(00.png#xywh=64,0,320,240).",
        flags=("--pool-from-labelled",),
        panel="Pool",
    )


@dataclass(frozen=True, slots=True)
class RankOptions:
    """What counts as an alarm, how a pool is ranked by its alarms, and what is left out of the list.

    ``rule`` is the name of a row of `RULES`.

    Example:
        >>> by_count = hardmine.RankOptions(rule="alarms", group="folder", quota_group=5)
        >>> len(hardmine.mine(detector, "pool", rank=by_count).candidates)
        3
    """

    rule: str = option(
        "score",
        f"The rule by which images rank: {_RULES}.",
        flags=("--rank",),
        metavar="RULE",
        complete=lambda: list(RULES),
        panel="Ranking",
    )
    min_score: float = option(
        0.05,
        "The lowest score of a detection that counts as an alarm, and so of an image that is "
        "handed out.",
        metavar="S",
        minimum=0,
        maximum=1,
        panel="Ranking",
    )
    per_class: bool = option(
        False,
        "Rank each class by its own alarms, and hand out one image of each class in turn.",
        flags=("--per-class",),
        panel="Ranking",
    )
    quota_class: int | None = option(
        None, "Hand out at most N images per class.", metavar="N", minimum=1, panel="Ranking"
    )
    group: str | None = option(
        None,
        "Which images belong together, such as those of one camera: 'folder', or a regular "
        "expression that is matched against the name of the image inside the pool (its first "
        "group, or the whole match, names the group). The same alarm in the same place of a group "
        "is handed out once.",
        metavar="folder|REGEX",
        panel="Ranking",
    )
    quota_group: int | None = option(
        None, "Hand out at most N images per group.", metavar="N", minimum=1, panel="Ranking"
    )
    repeats: bool = option(
        True,
        "Hand out the same alarm in the same place of a group every time that it occurs.",
        flags=("--keep-repeats",),
        negated=True,
        panel="Ranking",
    )
    """Whether the same false alarm in the same place of a group's images is counted once."""
    threshold: float = option(
        0.5,
        "The score that --rank uncertainty compares with.",
        metavar="S",
        minimum=0,
        maximum=1,
        panel="Ranking",
    )
    class_scores: tuple[float, ...] = option(
        (),
        "The threshold of each class that --rank class compares with, in the order of the detector's "
        "classes. If not given: those that 'hardmine threshold --per-class --write' wrote into the "
        "model; in a loop those of recall 0.8 of each class.",
        on_command_line=False,
    )
    diverse: bool = option(
        False,
        "Take four times as many hard images, and hand out those that look least alike.",
        flags=("--diverse",),
        panel="Ranking",
    )

    def __post_init__(self) -> None:
        check_options(self)
        if self.rule not in RULES:
            raise ConfigError(not_one_of("rank", self.rule, RULES))
        if self.quota_group is not None and self.group is None:
            raise ConfigError("quota_group needs group: what makes a group (folder, or a pattern)")
        if self.group not in (None, "folder"):
            try:
                re.compile(self.group)
            except re.error as error:
                raise ConfigError(f"group: {self.group!r} is no pattern ({error})") from None

    def alarms(self, found: Detections) -> Detections:
        """Return the detections that count as alarms; the only place that decides it.

        Args:
            found: what the store keeps of one image, best first.
        """
        return found.at_least(self.min_score)

    def reaches(self, score: float) -> bool:
        """Return whether an image with this score has an alarm, as :meth:`alarms` decides it."""
        from hardmine.types import reaches

        return reaches(score, self.min_score)

    def group_of(self, name: str) -> str:
        """Return the group of an image by its name inside the pool; "" when it has none.

        Without ``group`` the frames of a video are one group, and images have none.
        """
        if self.group is None:
            return name.rpartition(FRAME_MARK)[0]  # a video is a group; images have none
        if self.group == "folder":
            return name.rpartition("/")[0] or "."
        found = re.search(self.group, name)
        if found is None:
            return ""
        return found.group(1) or "" if found.re.groups else found.group(0)


@dataclass(frozen=True, slots=True)
class MineOptions:
    """What mining a pool is asked for: how many images, which not, by which ranking, run how.

    ``top`` and ``fraction`` exclude each other; with neither, every image that fires is handed out.

    Example:
        >>> few = hardmine.MineOptions(top=1, rank=hardmine.RankOptions(rule="alarms"))
        >>> len(hardmine.mine(detector, "pool", options=few).candidates)
        1
    """

    top: int | None = option(
        None,
        "Hand out the N hardest images: list them in candidates.csv. If not given: all that fire.",
        metavar="N",
        minimum=1,
    )
    fraction: float | None = option(
        None,
        "Hand out this share of the pool's images, the hardest ones.",
        metavar="F",
        above=0,
        maximum=1,
    )
    exclude: tuple[Any, ...] = option(
        (),
        "Images that are not handed out, and neither are near-duplicates of them: a file of a "
        "dataset, such as the training and test data, a folder, or anything else that may be a pool. "
        "May be given several times.",
        metavar="DATA",
        panel="Pool",
        path="pool",
    )
    """Each a ``Dataset``, or the path of a dataset's file or of a folder of images."""
    every: str | None = every_option()
    pool_from_labelled: bool = from_labelled_option(
        "POOL is labelled data: mine the parts of its training images"
    )
    images: Path | None = images_option()
    rank: RankOptions = option(RankOptions, "How the pool is ranked.")
    runtime: RuntimeName = option(
        "auto",
        "The program that computes the fast scores; auto takes OpenVINO on a CPU if it is installed.",
        metavar="NAME",
        panel="Advanced",
    )
    ray: str | None = option(
        None,
        "Scan on a Ray cluster: HOST:PORT of its head, 'auto', or 'local' for this machine. "
        "Without an address: the cluster that answers, else this machine.",
        metavar="[ADDRESS]",
        panel="Advanced",
    )

    def __post_init__(self) -> None:
        check_options(self)
        top, fraction = self.top, self.fraction
        if top is not None and fraction is not None:
            raise ConfigError(
                f"top {top} and fraction {fraction} exclude each other: give one of them"
            )
        if self.images is not None and not (self.pool_from_labelled or self.exclude):
            raise ConfigError(
                f"images {self.images} is for labels, and none are given: it goes with "
                "pool_from_labelled (--pool-from-labelled) or exclude (--exclude)"
            )

    def count(self, scanned: int) -> int | None:
        """Return how many images to hand out of ``scanned``; ``None`` for all that fire."""
        if self.fraction is None:
            return self.top
        return max(1, round(self.fraction * scanned))
