"""What a loop writes for people and programs: rows, comparisons, metrics."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hardmine.files import write_text
from hardmine.loop.arm import Arm, Handed
from hardmine.loop.options import MINED, NONE, RANDOM
from hardmine.loop.stopping import STOP_RULES, RoundPoint
from hardmine.workflows.cached_measurement import RECALL, Examiner, Result
from hardmine.workflows.image_sets import LoopSets

ALARMS = f"alarms_per_image_at_recall_{RECALL:g}"
_SET_FIGURES = ("images", "alarms", ALARMS, "interval", "share_of_images_that_fire")


def row_of(
    arm: str,
    round_number: int,
    result: Result,
    *,
    train_images: int,
    added: int,
    total: int,
    first_recall: float | None,
    handed: Handed | None = None,
    second_look: Sequence[str] = (),
) -> dict[str, Any]:
    """Return one row of ``rounds.json``; ``None`` where a value cannot be measured."""
    figures = result.figures
    parts: Mapping[str, Any] = figures["negatives"]
    return {
        "arm": arm,
        "round": round_number,
        "train_images": train_images,
        "negatives_added": added,
        "negatives_total": total,
        "AP": figures["AP"],
        "AP50": figures["AP50"],
        "AP50_interval": figures["AP50_interval"],
        "recall": figures["recall"],
        "max_recall": figures["max_recall"],
        "recall_at_first_threshold": first_recall,
        ALARMS: parts["held_out"][ALARMS],
        "interval": parts["held_out"]["interval"],
        "score_threshold": figures["score_threshold"],
        "negatives": {
            name: {key: part[key] for key in _SET_FIGURES} for name, part in parts.items()
        },
        "stray_alarms": figures["stray_alarms"],
        "mining": None if handed is None else _mining(handed),
        "second_look": len(second_look),
        "model": str(result.model.key),
    }


def _mining(handed: Handed) -> dict[str, int]:
    return {
        "handed_out": len(handed.images),
        "near_duplicates_passed_over": handed.duplicates,
        "quarantined": len(handed.quarantined),
        "unreadable": handed.unreadable,
    }


def point_of(result: Result) -> RoundPoint:
    """Return what the stop rules look at: the stopping set, never the final one."""
    part = result.figures["negatives"]["stop"]
    limits = part["interval"]
    bounded = limits is not None and None not in limits
    return RoundPoint(
        result.figures["AP"],
        result.figures["AP50"],
        result.figures["max_recall"],
        part[ALARMS],
        (limits[0], limits[1]) if bounded else None,
    )


def compare_arms(examiner: Examiner, arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Return paired ratios of alarms: mined against its twins in each round, each arm's last round
    against round 0; on the final set and on the stopping set.
    """
    by_name = {arm.name: arm for arm in arms}
    rows = []
    for first, second in ((MINED, RANDOM), (MINED, NONE), (RANDOM, NONE)):
        if first not in by_name or second not in by_name:
            continue
        pairs = zip(by_name[first].results[1:], by_name[second].results[1:], strict=True)
        for number, (a, b) in enumerate(pairs, start=1):
            rows += _compare(examiner, (first, number, a), (second, number, b))
    for arm in arms:
        last = len(arm.results) - 1
        if last > 0:
            rows += _compare(
                examiner, (arm.name, last, arm.results[last]), (arm.name, 0, arm.results[0])
            )
    return rows


def _compare(
    examiner: Examiner, a: tuple[str, int, Result], b: tuple[str, int, Result]
) -> list[dict[str, Any]]:
    head = {"arm": a[0], "round": a[1], "against_arm": b[0], "against_round": b[1]}
    return [
        {**head, "negatives": name, **examiner.compare(a[2], b[2], name)} for name in examiner.sets
    ]


COLUMNS = (
    "arm",
    "round",
    "train_images",
    "negatives_added",
    "AP",
    "AP50",
    "recall",
    ALARMS,
    "interval_low",
    "interval_high",
    "score_threshold",
)


def write_rows_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the main figures of ``rounds.json`` as a table; blank where there is no value."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        low, high = row["interval"] or (None, None)
        writer.writerow({**row, "interval_low": low, "interval_high": high})
    write_text(path, text.getvalue())


def rule_states(arms: Sequence[Arm]) -> dict[str, dict[str, Any]]:
    """Return, for each arm and rule, the first round in which the rule fired and why (or None)."""
    return {arm.name: {name: _first_fire(arm, name) for name in STOP_RULES} for arm in arms}


def _first_fire(arm: Arm, rule: str) -> dict[str, Any] | None:
    for rounds in range(2, len(arm.history) + 1):
        reason = STOP_RULES[rule](arm.history[:rounds])
        if reason is not None:
            return {"round": rounds - 1, "reason": reason}
    return None


def describe_sets(sets: LoopSets) -> dict[str, Any]:
    """Return sizes, leaks and problems of what the loop works on."""
    parts = {
        "train": sets.train,
        "val": sets.val,
        "mined_from": sets.mine_from,
        "stop": sets.stop,
        "held_out": sets.final,
    }
    return {
        "images": {name: len(part) for name, part in parts.items()},
        "fingerprints": {name: part.fingerprint for name, part in parts.items()},
        "leaks": [
            {"image": leak.image, "repeats": leak.repeats, "sets": leak.sets} for leak in sets.leaks
        ],
        "problems": [str(problem) for problem in sets.problems],
    }
