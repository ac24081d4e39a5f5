"""What a loop writes for programs: rows of rounds, comparisons of arms, what the stop rules say."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hardmine.evaluation.known_alarms import RepeatedAlarms
from hardmine.evaluation.paired import AlarmChange
from hardmine.files import write_text
from hardmine.loop.arm import ArmCandidates, ArmState
from hardmine.loop.stopping import STOP_RULES, RoundPoint
from hardmine.reports.round_columns import ALARMS, RoundRow, csv_header, csv_rows
from hardmine.workflows.cached_models import CachedMeasurement, MeasuredModel
from hardmine.workflows.image_sets import LoopSets


def round_row(
    state: ArmState,
    round_number: int,
    *,
    num_train: int,
    added: int = 0,
    first_recall: float | None,
    candidates: ArmCandidates | None = None,
    second_look: Sequence[str] = (),
    known_alarms: RepeatedAlarms | None = None,
) -> dict[str, Any]:
    """Return the row of an arm's last round, as ``rounds.json`` holds it.

    Args:
        num_train: the training images of round 0.
        added: the negatives that this round added.
        first_recall: recall at the score threshold of round 0.
    """
    total = len(state.negatives)
    return RoundRow(
        arm=state.name,
        round=round_number,
        train_images=num_train + total,
        negatives_added=added,
        figures=state.result.figures,
        negatives_total=total,
        recall_at_first_threshold=first_recall,
        mining=None if candidates is None else _search_counts(candidates),
        second_look=len(second_look),
        known_alarms=None if known_alarms is None else _known_counts(known_alarms),
        model=state.model.key,
    ).to_dict()


def _known_counts(known: RepeatedAlarms) -> dict[str, Any]:
    return {
        "alarms": known.alarms,
        "images": known.images,
        "again": known.again,
        "again_images": len(known.again_images),
    }


def _search_counts(candidates: ArmCandidates) -> dict[str, Any]:
    return {
        "handed_out": len(candidates.images),
        "near_duplicates_passed_over": candidates.duplicates,
        "quarantined": len(candidates.quarantined),
        "unreadable": candidates.unreadable,
        "amount": candidates.why,
    }


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the main figures of ``rounds.json`` as a table; blank where there is no value."""
    text = io.StringIO()
    writer = csv.DictWriter(text, csv_header(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(csv_rows(rows))
    write_text(path, text.getvalue())


def stop_point(result: MeasuredModel, change: AlarmChange | None = None) -> RoundPoint:
    """Return what the stop rules look at: the stopping set, never the final one.

    Args:
        change: of the alarms since ``QUIET_ROUNDS`` rounds ago; ``None`` in the first rounds.
    """
    part = result.figures["negatives"]["stop"]
    return RoundPoint(
        average_precision=result.figures["AP"],
        ap50=result.figures["AP50"],
        recall=result.figures["max_recall"],
        alarms=part[ALARMS],
        firing=part["share_of_images_that_fire"],
        change=change,
    )


def stop_rule_states(states: Sequence[ArmState]) -> dict[str, dict[str, Any]]:
    """Return, for each arm and rule, the first round in which the rule fired and why (or None)."""
    return {state.name: {rule: _first_fire(state, rule) for rule in STOP_RULES} for state in states}


def _first_fire(state: ArmState, rule: str) -> dict[str, Any] | None:
    for rounds in range(2, len(state.history) + 1):
        reason = STOP_RULES[rule](state.history[:rounds])
        if reason is not None:
            return {"round": rounds - 1, "reason": reason}
    return None


def compare_arms(
    measurement: CachedMeasurement, states: Sequence[ArmState]
) -> list[dict[str, Any]]:
    """Return paired ratios of alarms on every negative set.

    In each round an arm is compared with the arms that it names, and after the last round with its own
    round 0.
    """
    by_name = {state.name: state for state in states}
    rows = []
    for state in states:
        for other in (by_name[n] for n in state.arm.compared_with if n in by_name):
            for number in range(1, state.last_round + 1):
                rows += _compare(measurement, (state, number), (other, number))
    for state in states:
        if state.last_round > 0:
            rows += _compare(measurement, (state, state.last_round), (state, 0))
    return rows


def _compare(
    measurement: CachedMeasurement, a: tuple[ArmState, int], b: tuple[ArmState, int]
) -> list[dict[str, Any]]:
    head = {"arm": a[0].name, "round": a[1], "against_arm": b[0].name, "against_round": b[1]}
    left, right = a[0].results[a[1]], b[0].results[b[1]]
    return [
        {**head, "negatives": name, **measurement.compare(left, right, name)}
        for name in measurement.negatives
    ]


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
