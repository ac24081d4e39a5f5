"""How often the 95 % limits of a comparison hold the true value, and how wide they are.

    python -m benchmarks.intervals [--runs N] [--seeds N …]

Two recipes are compared whose alarms at recall .8 are truly one half (the mean over all trainings and
all images). Scores are drawn: an object and a false alarm have a part that their image shares, one of
their own, and one of each training; beside it the alarms of a training lie higher or lower as a whole,
by the luck of the training. Printed per size of the sets, alarms per image of the second recipe and
spread of the trainings (the standard deviation of the logarithm of their alarms): how often the limits
hold the one half, how wide they are (median of high / low), and how often they lie below 1.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np

from hardmine.evaluation.alarms import AlarmScores
from hardmine.evaluation.detection_matching import Matches, Outcome
from hardmine.evaluation.intervals import ArmScores
from hardmine.evaluation.paired import paired_ratio_over_seeds
from hardmine.evaluation.scored_images import Scored
from hardmine.types import F64, Dataset

OF_IMAGE, OWN, OF_TRAINING = 0.8, 0.9, 0.7
"""Standard deviations of the parts of a score, in logits."""
SPREAD = math.sqrt(OF_IMAGE**2 + OWN**2 + OF_TRAINING**2)
NORMAL = NormalDist()
RECALL, FALL, DRAWS = 0.8, 0.5, 200
PER_IMAGE, PLACES = 2, 4
"""Objects of a validation image, and places of an empty image that may fire."""
NOTHING = Scored(Dataset(("thing",), (), Path()), ())


@dataclass(frozen=True)
class Setting:
    """Sizes of the sets, alarms per image of the second recipe, and the luck of a training in logits."""

    images: int
    negatives: int
    rate: float
    luck: float


SETTINGS = tuple(
    Setting(images, negatives, rate, luck)
    for images, negatives, rate in ((40, 150, 0.2), (100, 300, 0.5), (100, 300, 2.0))
    for luck in (0.0, 0.1, 0.2, 0.4)
)


def arm_of(hits: F64, alarms: F64) -> ArmScores:
    """Return an arm whose objects (f64[N, K]) all are hits and whose alarms are f64[M, J]."""
    arm = ArmScores(NOTHING, NOTHING)
    found = hits.size
    arm.__dict__["matches"] = Matches(
        np.repeat(np.arange(len(hits)), hits.shape[1]),
        np.ones(found, np.int64),
        hits.ravel().astype(np.float32),
        np.full(found, Outcome.HIT, np.int8),
        np.zeros(found, np.bool_),
        np.full((len(hits), 1), hits.shape[1]),
    )
    score = alarms.ravel().astype(np.float32)
    order = np.argsort(-score, kind="stable")
    image = np.repeat(np.arange(len(alarms)), alarms.shape[1])
    arm.__dict__["alarms"] = AlarmScores(score[order], image[order], len(alarms))
    return arm


def draw_pairs(
    setting: Setting, seeds: int, rng: np.random.Generator
) -> list[tuple[ArmScores, ArmScores]]:
    """Return a pair of arms for each seed, all on the same images."""
    objects, places = (
        OF_IMAGE * rng.standard_normal((images, 1)) + OWN * rng.standard_normal((images, each))
        for images, each in ((setting.images, PER_IMAGE), (setting.negatives, PLACES))
    )

    def train(rate: float) -> ArmScores:
        centre = _centre(rate) + setting.luck * rng.standard_normal()
        hits = objects + OF_TRAINING * rng.standard_normal(objects.shape)
        return arm_of(hits, centre + places + OF_TRAINING * rng.standard_normal(places.shape))

    return [(train(setting.rate * FALL), train(setting.rate)) for _ in range(seeds)]


def _centre(rate: float) -> float:
    """Return where alarms lie so that ``rate`` of an image exceed the objects' threshold."""
    return SPREAD * (NORMAL.inv_cdf(1 - RECALL) - NORMAL.inv_cdf(1 - rate / PLACES))


def _rates(rate: float, luck: float) -> F64:
    """Return the true alarms per image of trainings at 2,001 quantiles of their luck."""
    shares = (np.arange(2001) + 0.5) / 2001
    z = NORMAL.inv_cdf(1 - rate / PLACES)
    over = [1 - NORMAL.cdf(z - luck * NORMAL.inv_cdf(share) / SPREAD) for share in shares]
    return PLACES * np.array(over)


def measure(setting: Setting, seeds: int, runs: int) -> tuple[float, float, float, float]:
    """Return the spread of the trainings, and of the limits: coverage, width, share below 1."""
    second = _rates(setting.rate, setting.luck)
    truth = float(_rates(setting.rate * FALL, setting.luck).mean() / second.mean())
    held, below, widths = 0, 0, []
    for run in range(runs):
        pairs = draw_pairs(setting, seeds, np.random.default_rng((run, seeds)))
        found = paired_ratio_over_seeds(pairs, draws=DRAWS)
        low = found.low or 0.0
        high = math.inf if found.high is None else found.high
        held += low <= truth <= high
        below += high < 1
        widths.append(high / low if low else math.inf)
    return float(np.log(second).std()), held / runs, float(np.median(widths)), below / runs


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seeds", nargs="*", type=int, default=[1, 2, 3, 5])
    given = parser.parse_args(argv)
    print("images  negatives  alarms/image  spread | seeds: limits hold, high / low, below 1")
    for setting in SETTINGS:
        rows = {seeds: measure(setting, seeds, given.runs) for seeds in given.seeds}
        spread = next(iter(rows.values()))[0]
        shown = " | ".join(
            f"{seeds}: {held:4.0%} {width:5.2f} {below:4.0%}"
            for seeds, (_, held, width, below) in rows.items()
        )
        sizes = f"{setting.images:6d}  {setting.negatives:9d}  {setting.rate:12.2f}  {spread:6.2f}"
        print(f"{sizes} | {shown}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
