"""How often the guarded stop rule is wrong, in simulated loops.

    python -m benchmarks.stopping [--runs N]

A loop is simulated by scores alone: objects of the validation images and alarms of the stopping set have
a lasting difficulty and noise of their own in each round. In one kind of loop the rate of alarms at
recall .8 truly falls by 30 % in every round, in the other it does not fall. Printed per size of the
sets and rate of alarms: how often a falling loop is stopped after two rounds (wanted: at most 10 %) and
within four, and how often one that does not fall is stopped after two (wanted: at least 80 %).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np

from hardmine.evaluation.alarms import AlarmScores
from hardmine.evaluation.detection_matching import Matches, Outcome
from hardmine.evaluation.intervals import ArmScores
from hardmine.evaluation.paired import alarm_change
from hardmine.evaluation.scored_images import Scored
from hardmine.loop.stopping import QUIET_ROUNDS, RoundPoint, guarded_rule
from hardmine.types import Dataset

SPREAD, NOISE = 1.2, 0.7
"""Standard deviations of the lasting difficulty and of each round's noise, in logits."""
OBJECT_LOGIT = 2.0
RECALL = 0.8


@dataclass(frozen=True)
class Setting:
    """Sizes of the sets, and alarms per image at recall .8 in round 0."""

    objects: int
    negatives: int
    rate: float


SETTINGS = tuple(
    Setting(objects, negatives, rate)
    for objects, negatives in ((60, 150), (60, 300), (200, 300))
    for rate in (0.1, 0.3, 0.7)
)


def arm_scores(hits: np.ndarray, alarms: np.ndarray) -> ArmScores:
    """Return results that hold one object or one alarm per image, with the given logits."""
    scores = 1 / (1 + np.exp(-hits))
    order = np.argsort(-scores)
    count = len(hits)
    matches = Matches(
        image=order.astype(np.int64),
        label=np.ones(count, np.int64),
        score=scores[order].astype(np.float32),
        outcome=np.full(count, Outcome.HIT, np.int8),
        background=np.zeros(count, np.bool_),
        objects=np.ones((count, 1), np.int64),
    )
    fired = 1 / (1 + np.exp(-alarms))
    first = np.argsort(-fired)
    nothing = Scored(Dataset((), (), Path()), ())
    made = ArmScores(nothing, nothing)
    made.__dict__["matches"] = matches
    made.__dict__["alarms"] = AlarmScores(
        fired[first].astype(np.float32), first.astype(np.int64), len(alarms)
    )
    return made


def simulate(setting: Setting, fall: float, rounds: int, seed: int) -> int | None:
    """Return the round in which the rule stops a loop whose alarms truly fall by ``fall`` a round."""
    rng = np.random.default_rng(seed)
    deviation = float(np.hypot(SPREAD, NOISE))
    objects = OBJECT_LOGIT + SPREAD * rng.standard_normal(setting.objects)
    images = SPREAD * rng.standard_normal(setting.negatives)
    threshold = OBJECT_LOGIT + deviation * NormalDist().inv_cdf(1 - RECALL)
    history: list[RoundPoint] = []
    arms: list[ArmScores] = []
    for number in range(rounds + 1):
        rate = setting.rate * (1 - fall) ** number
        centre = threshold - deviation * NormalDist().inv_cdf(1 - rate)
        arms.append(
            arm_scores(
                objects + NOISE * rng.standard_normal(setting.objects),
                centre + images + NOISE * rng.standard_normal(setting.negatives),
            )
        )
        change = None
        if number >= QUIET_ROUNDS:
            change = alarm_change(arms[-1], arms[-1 - QUIET_ROUNDS], draws=0)
        history.append(RoundPoint(0.5, 0.9, 1.0, rate, rate, change))
        if guarded_rule(history) is not None:
            return number
    return None


def share_stopped(setting: Setting, fall: float, rounds: int, runs: int) -> float:
    """Return the share of simulated loops that stop within so many rounds."""
    return sum(simulate(setting, fall, rounds, seed) is not None for seed in range(runs)) / runs


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=1000)
    runs = parser.parse_args(argv).runs
    print(
        "objects  negatives  alarms/image  | falls by 30 %: in 2  in 4 rounds | does not fall: in 2"
    )
    for setting in SETTINGS:
        wrong = share_stopped(setting, 0.3, 2, runs)
        later = share_stopped(setting, 0.3, 4, runs)
        right = share_stopped(setting, 0.0, 2, runs)
        sizes = f"{setting.objects:7d}  {setting.negatives:9d}  {setting.rate:12.1f}"
        print(f"{sizes}  | {wrong:19.1%}  {later:11.1%} | {right:19.1%}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
