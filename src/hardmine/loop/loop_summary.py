"""What a loop writes of its results: rows of rounds and comparisons for programs, a page for people."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hardmine.detections import Detections
from hardmine.evaluation.alarms import RepeatedAlarms
from hardmine.evaluation.paired import AlarmChange
from hardmine.files import write_text
from hardmine.loop.control_arms import ARMS, Arm
from hardmine.loop.loop_options import LoopOptions
from hardmine.loop.round_candidates import ArmCandidates, ArmState
from hardmine.loop.stopping import STOP_RULES, RoundPoint, undecided
from hardmine.reports.content import (
    CurveLine,
    Gallery,
    Picture,
    ReportData,
    TrainingCourse,
    curve_line,
    read_course,
    worst_alarms,
)
from hardmine.reports.round_columns import ALARMS, RoundRow, csv_header, csv_rows
from hardmine.reports.wording import Comparison, Looked, LookedLine, Stop
from hardmine.types import Decision, Verdict
from hardmine.workflows.cached_models import CachedMeasurement, MeasuredModel
from hardmine.workflows.sets_apart import LoopSets, describe_leaks


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


def stop_point(
    result: MeasuredModel, change: AlarmChange | None = None, longer: AlarmChange | None = None
) -> RoundPoint:
    """Return what the stop rules look at: the stopping set, never the final one.

    Args:
        change: of the alarms since ``QUIET_ROUNDS`` rounds ago; ``None`` in the first rounds.
        longer: the same since ``LONGER_ROUNDS`` rounds ago.
    """
    part = result.figures["negatives"]["stop"]
    return RoundPoint(
        average_precision=result.figures["AP"],
        ap50=result.figures["AP50"],
        recall=result.figures["max_recall"],
        alarms=part[ALARMS],
        firing=part["share_of_images_that_fire"],
        change=change,
        longer=longer,
    )


def stop_rule_states(states: Sequence[ArmState]) -> dict[str, dict[str, Any]]:
    """Return, for each arm and rule, the first round in which the rule fired and why (or None)."""
    return {state.name: {rule: _first_fire(state, rule) for rule in STOP_RULES} for state in states}


def undecided_rounds(state: ArmState) -> list[str]:
    """Return in which rounds before the last the guarded rule could not tell, each in a sentence."""
    said = []
    for number in range(1, state.last_round):
        doubt = undecided(state.history[: number + 1])
        if doubt is not None:
            said.append(f"round {number}, {state.name}: {doubt}")
    return said


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


CONVERGED_AP50 = 0.8
"""Below this at round 0, more training alone may explain what later rounds gain."""
_PICTURES = 24
_NOBODY = "nobody looked"
_VERDICTS = {
    Verdict.EMPTY: "empty",
    Verdict.CONTAINS_OBJECT: "holds an object",
    Verdict.IGNORE: "ignored",
    Verdict.UNSURE: "unsure",
}


def _rows_of(metrics: Mapping[str, Any]) -> tuple[RoundRow, ...]:
    return tuple(
        RoundRow(
            row["arm"],
            row["round"],
            row["train_images"],
            row["negatives_added"],
            metrics["measurements"][f"{row['arm']}-{row['round']}"],
        )
        for row in metrics["rounds"]
    )


def report_content(
    options: LoopOptions,
    sets: LoopSets,
    measurement: CachedMeasurement,
    states: Sequence[ArmState],
    metrics: Mapping[str, Any],
    decisions: Mapping[str, Decision],
) -> ReportData:
    """Return the page of a loop.

    Args:
        metrics: what goes into ``metrics.json``.
        decisions: what people said of the pool's images, by path.
    """
    leader = next(state for state in states if state.arm == options.leader)
    stops = tuple(
        Stop(rule, fired["round"] if fired else None, fired["reason"] if fired else None)
        for rule, fired in metrics["stop_rules"][leader.name].items()
    )
    looked = tuple(_looked(measurement.steps.root, states, decisions, metrics["rounds"]))
    return ReportData(
        title="Mining rounds",
        categories=sets.train.categories,
        rows=_rows_of(metrics),
        arms={state.name: state.arm.help for state in states},
        recipe=metrics["recipe"],
        model_choice=tuple(metrics["model_choice"]),
        versions=metrics["versions"],
        comparisons=tuple(comparison_of(row, metrics) for row in metrics["comparisons"]),
        mined=tuple(
            _galleries(
                measurement.steps.root,
                states,
                sets.train.categories,
                metrics["rounds"],
                decisions,
            )
        ),
        looked=looked,
        worst=worst_alarms(measurement.scored(leader.result, "held_out")),
        curves=tuple(_curves(measurement, leader, states)),
        stops=stops,
        problems=sets.problems,
        leaks=_leak_lines(sets, metrics),
        courses=tuple(courses_of(leader)),
        notes=tuple(_notes(options, states, metrics, looked)),
    )


def courses_of(leader: ArmState) -> Iterator[TrainingCourse]:
    """Yield what was selected in the first and in the last training of the arm that leads."""
    for number in sorted({0, leader.last_round}):
        run = leader.results[number].model.checkpoint.parent
        course = read_course(f"{leader.name}, round {number}" if number else "round 0", run)
        if course is not None:
            yield course


def _leak_lines(sets: LoopSets, metrics: Mapping[str, Any]) -> tuple[str, ...]:
    pairs = [(str(a), str(b)) for a, b in metrics["train_val_leaks"]]
    return (*(str(leak) for leak in sets.leaks), *describe_leaks(pairs))


def comparison_of(row: Mapping[str, Any], metrics: Mapping[str, Any]) -> Comparison:
    """Return one row of the comparisons of ``metrics.json``."""
    measured = metrics["measurements"][f"{row['arm']}-{row['round']}"]
    return Comparison(
        row["arm"],
        row["round"],
        row["against_arm"],
        row["against_round"],
        row["negatives"],
        row["ratio"],
        row["ap50"],
        measured["negatives"][row["negatives"]]["images"],
    )


def _galleries(
    root: Path,
    states: Sequence[ArmState],
    categories: Sequence[str],
    rounds: Sequence[Mapping[str, Any]],
    decisions: Mapping[str, Decision],
) -> list[Gallery]:
    """Return what each arm was handed in each round, and why so many."""
    why = {
        (row["arm"], row["round"]): row["mining"].get("amount", "")
        for row in rounds
        if row.get("mining")
    }
    found = []
    for state in states:
        for number in range(1, state.last_round + 1):
            rows = _candidates(root, state.arm, number)
            if rows is not None:
                pictures = tuple(_picture(row, categories, decisions) for row in rows[:_PICTURES])
                title = f"{state.name.capitalize()} in round {number}"
                amount = why.get((state.name, number), "")
                note = f"The round was to add at most {amount}." if amount else ""
                found.append(Gallery(title, pictures, len(rows), note))
    return found


def _candidates(root: Path, arm: Arm, number: int) -> list[dict[str, Any]] | None:
    """Return what an arm was handed in a round, if its images are shown."""
    return _handed_out(root, arm, number) if arm.shows_images else None


def _handed_out(root: Path, arm: Arm, number: int) -> list[dict[str, Any]] | None:
    sheet = root / "rounds" / f"{arm.name}-{number}" / "candidates.json"
    if not sheet.exists():
        return None
    rows: list[dict[str, Any]] = json.loads(sheet.read_text(encoding="utf-8"))["candidates"]
    return rows


def _looked(
    root: Path,
    states: Sequence[ArmState],
    decisions: Mapping[str, Decision],
    rounds: Sequence[Mapping[str, Any]],
) -> list[Looked]:
    """Return for each arm and round who decided on its candidates, and which alarms came again."""
    known = {(row["arm"], row["round"]): row["known_alarms"] for row in rounds}
    found = []
    for state in states:
        for number in range(1, state.last_round + 1):
            rows = _handed_out(root, state.arm, number) or []
            paths = [row["path"] for row in rows]
            said = [decisions[path] for path in paths if path in decisions]
            if paths:
                verdicts = Counter(each.verdict.value for each in said)
                people = dict(Counter(each.who for each in said).most_common())
                lines = tuple(_line(row, decisions) for row in rows) if said else ()
                again = known[state.name, number]
                found.append(Looked(state.name, number, len(paths), verdicts, people, lines, again))
    return found


def _line(row: Mapping[str, Any], decisions: Mapping[str, Decision]) -> LookedLine:
    said = decisions.get(row["path"])
    if said is None:
        return LookedLine(row["image"], row["score"], _NOBODY)
    boxes = f", {len(said.boxes)} drawn" if said.boxes else ""
    when = said.when[:16].replace("T", " ")
    return LookedLine(row["image"], row["score"], _VERDICTS[said.verdict] + boxes, said.who, when)


def _picture(
    row: Mapping[str, Any], categories: Sequence[str], decisions: Mapping[str, Decision]
) -> Picture:
    said = decisions.get(row["path"])
    verdict = (
        f" · {_NOBODY}" if decisions else ""
    )  # where all were taken as empty, the page says so
    if said is not None:
        verdict = f" · {_VERDICTS[said.verdict]} ({said.who})"
    return Picture(Path(row["path"]), _alarms(row, categories), _caption(row) + verdict)


def _alarms(row: Mapping[str, Any], categories: Sequence[str]) -> Detections:
    """Return what fired on a candidate; its boxes are [x1, y1, x2, y2, score, class]."""
    boxes = row["boxes"]
    return Detections(
        np.array([box[:4] for box in boxes], np.float32).reshape(-1, 4),
        np.array([box[4] for box in boxes], np.float32),
        np.array([categories.index(box[5]) + 1 for box in boxes], np.int64),
    )


def _caption(row: Mapping[str, Any]) -> str:
    score = "" if row["score"] is None else f"{row['score']:.2f} · "
    return f"{score}{row['image']}"


def show_in_notebook(
    root: Path, title: str, rows: Sequence[Mapping[str, Any]], report: Path | None
) -> str:
    """Return a loop's table and the images of its last round, as HTML for a notebook."""
    from hardmine.reports.notebook import PICTURES, Shown, show_loop

    pictures = []
    for arm in ARMS:
        last = max((row["round"] for row in rows if row["arm"] == arm.name), default=0)
        for row in (_candidates(root, arm, last) or [])[:PICTURES]:
            names = sorted({box[5] for box in row["boxes"]})
            found = _alarms(row, names)
            pictures.append(Shown(row["path"], found.boxes, found.labels, _caption(row)))
    return show_loop(title, rows, pictures, report)


def _curves(
    measurement: CachedMeasurement, leader: ArmState, states: Sequence[ArmState]
) -> list[CurveLine]:
    """Return a curve for every round of the first arm, and for the last round of each other one."""
    results = {"round 0": leader.results[0]}
    results |= {
        f"{leader.name}, round {number}": leader.results[number]
        for number in range(1, leader.last_round + 1)
    }
    results |= {
        f"{state.name}, round {state.last_round}": state.result
        for state in states
        if state is not leader and state.last_round
    }
    lines = [
        curve_line(name, measurement.scored(result, "val"), measurement.scored(result, "held_out"))
        for name, result in results.items()
    ]
    return [line for line in lines if line is not None]


def _notes(
    options: LoopOptions,
    states: Sequence[ArmState],
    metrics: Mapping[str, Any],
    looked: Sequence[Looked],
) -> list[str]:
    notes = []
    ap50 = states[0].results[0].figures["AP50"]
    if ap50 is None or ap50 < CONVERGED_AP50:
        shown = "undefined" if ap50 is None else f"{ap50:.3f}"
        notes.append(
            f"Round 0 has not converged (AP50 {shown}, wanted {CONVERGED_AP50}): more training alone "
            "may explain what later rounds gain."
        )
    if options.accept == "auto":
        notes.append(
            "Candidates on which nobody decided were taken as empty (--accept auto)."
            if any(row.people for row in looked)
            else "The whole pool was taken as empty (--accept auto); nobody looked at it."
        )
    if metrics["stopped"]:
        notes.append(f"The loop ended early: {metrics['stopped']}.")
    notes += [f"{each[0].upper()}{each[1:]}." for each in metrics["undecided"]]
    again = sum(row["second_look"] for row in metrics["rounds"])
    if again:
        notes.append(
            f"{again} times a model still fired on an image that it was trained on as empty: see "
            "second_look.csv in the rounds' folders; an object may be in it."
        )
    return notes
