"""How often a threshold's promise is broken on real images: choose on one half, count on the other.

    python -m benchmarks promise CHECKPOINT [--negatives DIR] [--splits 200]

Detects once on images without objects (``negatives/held_out`` of HARDMINE_DATA), then divides them at
random in two halves, many times. On the first half a threshold is chosen for each limit, with and
without the promise; on the second half it is seen whether more images fire (or alarms occur) than the
limit. The second half is a sample too, so that a promise that is kept exceeds the limit there at times:
for a share of images this must happen in as many splits as `expected` says. What the promise says itself
is seen where the truth is known: halves are drawn from the images with replacement, as if these were the
whole source (`broken_in_source`). Writes ``benchmarks/results/promise.json``.
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from hardmine.device import describe_machine
from hardmine.evaluation.alarms import AlarmScores, collect_alarms
from hardmine.evaluation.operating_promise import AlarmUnit, most_allowed, promise_alarms
from hardmine.evaluation.scored_images import Scored
from hardmine.files import write_json
from hardmine.inference.load_detector import load_detector
from hardmine.inference.predict import detect_images
from hardmine.types import I64
from hardmine.workflows.image_sets import load_negatives

DATA = Path(os.environ.get("HARDMINE_DATA", "../shared/data"))
RESULT = Path(__file__).parent / "results" / "promise.json"
MORE = 10
"""Draws with replacement for each split."""
CASES: tuple[tuple[AlarmUnit, float, int], ...] = (
    ("images", 0.02, 1),
    ("images", 0.05, 1),
    ("images", 0.1, 1),
    ("alarms", 0.1, 3),
    ("alarms", 0.2, 5),
)


def half(alarms: AlarmScores, images: I64) -> AlarmScores:
    """Return the alarms on some of the images."""
    position = np.full(alarms.num_images, -1)
    position[images] = np.arange(len(images))
    kept = position[alarms.image] >= 0
    return AlarmScores(alarms.score[kept], position[alarms.image[kept]], len(images))


def drawn(alarms: AlarmScores, images: I64) -> AlarmScores:
    """Return the alarms on images that may be drawn several times."""
    parts = [np.flatnonzero(alarms.image == image) for image in images.tolist()]
    rows = np.concatenate(parts)
    image = np.repeat(np.arange(len(images)), [len(part) for part in parts])
    order = np.argsort(-alarms.score[rows], kind="stable")
    return AlarmScores(alarms.score[rows][order], image[order], len(images))


def expected(images: int, limit: float) -> float | None:
    """Return how often another sample of the size exceeds a limit that was promised by the exact test.

    One more image than allowed lies at the threshold. Of the images above it in both samples each
    belongs to either sample with the same chance, so that the other sample's count is negative binomial.
    """
    allowed = most_allowed(images, limit, 0.95)
    if allowed is None:
        return None
    more = math.floor(limit * images + 1e-9)
    total = allowed + 1 + more
    return sum(math.comb(total, k) for k in range(allowed + 1)) / 2.0**total


def exceeds(alarms: AlarmScores, score: float, unit: AlarmUnit, limit: float, cap: int) -> bool:
    """Return whether images that chose nothing go beyond the limit at a score."""
    image = alarms.image[: int(alarms.count_at(score))]
    counts = np.bincount(image, minlength=alarms.num_images)
    most = 1 if unit == "images" else cap
    return float(np.minimum(counts, most).mean()) > limit


def count_broken(alarms: AlarmScores, splits: int) -> list[dict[str, Any]]:
    """Return a row per case: how many splits and draws break the promise, and the sample's own score."""
    rows = []
    for unit, limit, cap in CASES:
        generator = np.random.default_rng(0)
        broken = naive = given = in_source = 0
        for _ in range(splits):
            order = generator.permutation(alarms.num_images)
            middle = alarms.num_images // 2
            first, second = half(alarms, order[:middle]), half(alarms, order[middle:])
            found = promise_alarms(first, limit, unit=unit, cap=cap)
            if found.score_threshold is not None:
                given += 1
                broken += exceeds(second, found.score_threshold, unit, limit, cap)
            assert found.sample_threshold is not None
            naive += exceeds(second, found.sample_threshold, unit, limit, cap)
        for _ in range(MORE * splits):
            again = drawn(alarms, generator.integers(0, alarms.num_images, middle))
            other = promise_alarms(again, limit, unit=unit, cap=cap)
            if other.score_threshold is not None:
                in_source += exceeds(alarms, other.score_threshold, unit, limit, cap)
        rows.append(
            {"unit": unit, "limit": limit, "cap": cap, "splits": splits, "given": given}
            | {"broken": broken, "broken_without_promise": naive, "broken_in_source": in_source}
            | {"draws": MORE * splits}
            | {"expected": expected(middle, limit) if unit == "images" else None}
        )
    return rows


def describe(row: dict[str, Any]) -> str:
    """Return a row as one line."""
    cap = f" (cap {row['cap']})" if row["cap"] > 1 else ""
    by_chance = "" if row["expected"] is None else f" (expected {row['expected']:.1%})"
    return (
        f"{row['limit']:g} {row['unit']}{cap}: given in {row['given']} of {row['splits']} splits; "
        f"exceeded on the other half in {row['broken']}{by_chance}, without a promise in "
        f"{row['broken_without_promise']}; broken in the source in {row['broken_in_source']} of "
        f"{row['draws']} draws"
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks promise")
    parser.add_argument("checkpoint")
    parser.add_argument("--negatives", type=Path, default=DATA / "negatives" / "held_out")
    parser.add_argument("--splits", type=int, default=200)
    chosen = parser.parse_args(argv)
    detector = load_detector(chosen.checkpoint)
    empty = load_negatives(chosen.negatives, detector.categories, "held_out")
    found = detect_images(detector, [record.path for record in empty.records])
    alarms = collect_alarms(Scored(empty, tuple(found)))
    rows = count_broken(alarms, chosen.splits)
    for row in rows:
        print(describe(row))
    machine = describe_machine()
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    write_json(RESULT, {"images": alarms.num_images, "rows": rows, "machine": machine})
    return 0
