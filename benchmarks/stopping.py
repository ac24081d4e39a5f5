"""How often the guarded stop rule is wrong, in simulated loops.

    python -m benchmarks.stopping [--runs N]

A loop is simulated by scores alone: objects of the validation images and alarms of the stopping set have
a lasting difficulty and noise of their own in each round. In one kind of loop the rate of alarms at
recall .8 truly falls by 30 % in every round, in the other it does not fall. Printed per size of the
sets and rate of alarms: how often a falling loop is stopped within two, three and four rounds (wanted:
at most 10 %), and how often one that does not fall is stopped within two (wanted: at least 80 %) and
three.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from hardmine.evaluation.alarms import hits_needed
from hardmine.evaluation.paired import CHANGE_RECALLS, change_of_counts
from hardmine.loop.stopping import LONGER_ROUNDS, QUIET_ROUNDS, RoundPoint, guarded_rule

SPREAD, NOISE = 1.2, 0.7
"""Standard deviations of the lasting difficulty and of each round's noise, in logits."""
OBJECT_LOGIT = 2.0
RECALL = 0.8
DRAWS = 100
"""Bootstrap draws of a change; a loop takes 1,000."""


@dataclass(frozen=True)
class Setting:
    """Sizes of the sets, and alarms per image at recall .8 in round 0."""

    objects: int
    negatives: int
    rate: float


SETTINGS = tuple(
    Setting(objects, negatives, rate)
    for objects, negatives in ((30, 150), (60, 150), (60, 300), (200, 300))
    for rate in (0.02, 0.05, 0.1, 0.3, 0.7)
)


def draws_of(setting: Setting) -> tuple[np.ndarray, np.ndarray]:
    """Return which objects and which images each draw holds, i64[1 + D, N]; the first has each once."""
    rng = np.random.default_rng(0)
    sizes = setting.objects, setting.negatives
    drawn = (np.vstack([np.arange(n), rng.integers(0, n, (DRAWS, n))]) for n in sizes)
    return next(drawn), next(drawn)


def simulate(setting: Setting, fall: float, rounds: int, seed: int) -> int | None:
    """Return the round in which the rule stops a loop whose alarms truly fall by ``fall`` a round."""
    rng = np.random.default_rng(seed)
    deviation = float(np.hypot(SPREAD, NOISE))
    objects = OBJECT_LOGIT + SPREAD * rng.standard_normal(setting.objects)
    images = SPREAD * rng.standard_normal(setting.negatives)
    threshold = OBJECT_LOGIT + deviation * NormalDist().inv_cdf(1 - RECALL)
    which_objects, which_images = draws_of(setting)
    last = [hits_needed(setting.objects, recall) - 1 for recall in CHANGE_RECALLS]
    history: list[RoundPoint] = []
    alarms: list[np.ndarray] = []
    for number in range(rounds + 1):
        rate = setting.rate * (1 - fall) ** number
        centre = threshold - deviation * NormalDist().inv_cdf(1 - rate)
        hits = objects + NOISE * rng.standard_normal(setting.objects)
        fired = centre + images + NOISE * rng.standard_normal(setting.negatives)
        limits = -np.sort(-hits[which_objects], axis=1)[:, last]  # [1 + D, R]
        above = fired[which_images][:, None, :] >= limits[:, :, None]
        alarms.append(above.sum(2).T.astype(np.float64))
        changes = (
            change_of_counts(alarms[-1], alarms[-1 - back], CHANGE_RECALLS)
            if number >= back
            else None
            for back in (QUIET_ROUNDS, LONGER_ROUNDS)
        )
        history.append(RoundPoint(0.5, 0.9, 1.0, rate, rate, *changes))
        if guarded_rule(history) is not None:
            return number
    return None


def shares_stopped(
    setting: Setting, fall: float, rounds: Sequence[int], runs: int
) -> tuple[float, ...]:
    """Return the share of simulated loops that stop within each number of rounds."""
    stops = [simulate(setting, fall, max(rounds), seed) for seed in range(runs)]
    return tuple(sum(at is not None and at <= most for at in stops) / runs for most in rounds)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=1000)
    runs = parser.parse_args(argv).runs
    print(
        "objects  negatives  alarms/image  | falls by 30 %: in 2    in 3    in 4 rounds | does not "
        "fall: in 2    in 3"
    )
    for setting in SETTINGS:
        wrong = shares_stopped(setting, 0.3, (2, 3, 4), runs)
        right = shares_stopped(setting, 0.0, (2, 3), runs)
        sizes = f"{setting.objects:7d}  {setting.negatives:9d}  {setting.rate:12.2f}"
        shown = ("  ".join(f"{share:6.1%}" for share in shares) for shares in (wrong, right))
        print(f"{sizes}  | {' | '.join(shown)}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
