from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from hardmine.errors import DataError
from hardmine.mining.pool_store import PoolStore
from hardmine.reports import loop_report
from hardmine.reports.content import ReportData
from hardmine.review.candidate_list import open_candidates
from hardmine.review.decisions import Asked, DecisionDesk
from hardmine.types import Verdict
from loop_fakes import World, rows_of, run, sheet_of, trained_on

pytestmark = pytest.mark.usefixtures("no_page")


def fill_in(sheet: Path, said: Path, *verdicts: str) -> list[str]:
    """Copy the sheet to ``said`` with these verdicts, the last one repeated; return the images."""
    with sheet.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    for i, row in enumerate(rows):
        row["verdict"] = verdicts[min(i, len(verdicts) - 1)]
    with said.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return [row["image"] for row in rows]


def test_the_loop_waits_for_verdicts_and_goes_on_when_they_are_there(
    inputs: dict[str, Any], tmp_path: Path
) -> None:
    out, said = tmp_path / "run", tmp_path / "said.csv"
    options = {"rounds": 2, "accept": said}
    world = World()
    result = run(inputs, out, world, **options)
    assert result.waiting is not None
    assert result.waiting.candidates == out / "candidates-round-1.csv"
    assert str(said) in str(result.waiting)
    assert "--resume" in str(result.waiting)
    assert world.calls.count("fit") == 1
    assert [row["round"] for row in rows_of(out)] == [0]

    again = World()
    assert run(inputs, out, again, resume=True, **options).waiting is not None
    assert again.calls == []

    first = fill_in(result.waiting.candidates, said, "contains_object", "empty")
    result = run(inputs, out, World(), resume=True, **options)
    assert result.waiting is not None
    assert result.waiting.round_number == 2
    assert trained_on(out, "mined", 1) == first[1:]
    assert rows_of(out)[1]["negatives_added"] == 2
    table = json.loads((out / "rounds" / "mined-1" / "train.coco.json").read_text())
    assert "verified_empty" in json.dumps(table)
    assert "assumed_empty" not in json.dumps(table)

    second = fill_in(result.waiting.candidates, said, "empty")  # the old verdicts are gone
    assert not set(first) & set(second)
    result = run(inputs, out, World(), resume=True, **options)
    assert result.waiting is None
    assert trained_on(out, "mined", 2) == first[1:] + second
    with PoolStore(out / "pool.sqlite") as store:
        verdicts = [decision.verdict for decision in store.decisions().values()]
    assert verdicts.count(Verdict.CONTAINS_OBJECT) == 1
    assert verdicts.count(Verdict.EMPTY) == 5


def test_verdicts_typed_into_the_sheet_itself_stay_there(
    inputs: dict[str, Any], tmp_path: Path
) -> None:
    out, said = tmp_path / "run", tmp_path / "said.csv"
    waiting = run(inputs, out, World(), rounds=1, accept=said).waiting
    assert waiting is not None
    fill_in(waiting.candidates, waiting.candidates, "empty")
    filled = waiting.candidates.read_text()
    assert run(inputs, out, World(), rounds=1, accept=said, resume=True).waiting is not None
    assert waiting.candidates.read_text() == filled
    lines = filled.splitlines()
    waiting.candidates.write_text("\n".join(lines[:2]))  # a list of other images
    run(inputs, out, World(), rounds=1, accept=said, resume=True)
    assert waiting.candidates.read_text().count("\n") == len(lines)
    assert (out / "candidates-round-1-old.csv").read_text() == "\n".join(lines[:2])


def test_the_loop_goes_on_with_the_export_of_a_labelling_program(
    inputs: dict[str, Any], tmp_path: Path
) -> None:
    out, said = tmp_path / "run", tmp_path / "tasks.json"
    waiting = run(inputs, out, World(), rounds=1, accept=said).waiting
    assert waiting is not None
    assert f"in your labelling program, save its export as {said}, then run" in str(waiting)
    with waiting.candidates.open(newline="") as handle:
        images = [row["image"] for row in csv.DictReader(handle)]
    tasks: list[dict[str, Any]] = [
        {
            "data": {"image": name},
            "annotations": [{"result": [], "was_cancelled": name == images[0]}],
        }
        for name in images
    ]
    said.write_text(json.dumps([*tasks[:-1], tasks[-1] | {"annotations": []}]))
    with pytest.raises(DataError, match=r"tasks\.json: 1 of 3 candidates have no verdict"):
        run(inputs, out, World(), rounds=1, accept=said, resume=True)
    said.write_text(json.dumps(tasks))
    assert run(inputs, out, World(), rounds=1, accept=said, resume=True).waiting is None
    assert trained_on(out, "mined", 1) == images[1:]


def test_the_loop_waits_for_the_review_page_and_goes_on_with_its_decisions(
    inputs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages: list[ReportData] = []
    monkeypatch.setattr(loop_report, "write_report", lambda path, page: pages.append(page))
    out = tmp_path / "my run"
    waiting = run(inputs, out, World(), rounds=1, accept="review").waiting
    assert waiting is not None
    assert str(waiting) == (
        f"round 1 waits for decisions on 3 images: run hardmine review '{out}', then: "
        f"hardmine loop --out '{out}' --resume"
    )
    listed = open_candidates(out)
    items = [item for item in listed.items if item.leader < 0]
    with DecisionDesk(listed.store) as desk:
        desk.decide([Asked(items[0])], Verdict.CONTAINS_OBJECT, "ann")
        desk.decide([Asked(item) for item in items[1:-1]], Verdict.EMPTY, "ann")
        again = World()
        left = run(inputs, out, again, rounds=1, accept="review", resume=True).waiting
        assert left is not None
        assert (left.num_images, again.calls) == (1, [])
        desk.decide([Asked(items[-1])], Verdict.EMPTY, "ben")
    assert run(inputs, out, World(), rounds=1, accept="review", resume=True).waiting is None
    assert trained_on(out, "mined", 1) == [item.name for item in items[1:]]
    assert [(row.people, row.nobody) for row in pages[0].looked] == [({"ann": 2, "ben": 1}, 0)]
    lines = [(line.verdict, line.who) for line in pages[0].looked[0].lines]
    assert lines == [("holds an object", "ann"), ("empty", "ann"), ("empty", "ben")]
    assert all(line.when.startswith("20") for line in pages[0].looked[0].lines)
    # Of the image that holds an object, no alarm is known to be false.
    known = pages[0].looked[0].known_alarms
    assert known is not None
    assert known["images"] == 2
    captions = [picture.caption for picture in pages[0].mined[0].pictures]
    assert captions[0].endswith("· holds an object (ann)")
    assert captions[-1].endswith("· empty (ben)")


@pytest.mark.parametrize("verdict", ["contains_object", "ignore", "unsure"])
def test_only_empty_images_are_added_and_the_others_never_come_back(
    inputs: dict[str, Any], tmp_path: Path, verdict: str
) -> None:
    out, said = tmp_path / "run", tmp_path / "said.csv"
    options = {"rounds": 2, "accept": said}
    waiting = run(inputs, out, World(), **options).waiting
    assert waiting is not None
    refused = fill_in(waiting.candidates, said, verdict)
    run(inputs, out, World(), resume=True, **options)
    assert rows_of(out)[1]["negatives_added"] == 0
    assert not set(refused) & set(sheet_of(out, "mined", 2))


def test_a_half_filled_file_is_refused_and_nothing_is_trained(
    inputs: dict[str, Any], tmp_path: Path
) -> None:
    out, said = tmp_path / "run", tmp_path / "said.csv"
    waiting = run(inputs, out, World(), accept=said).waiting
    assert waiting is not None
    fill_in(waiting.candidates, said, "empty", "")
    world = World()
    with pytest.raises(DataError, match=r"said\.csv: 2 of 3 candidates have no verdict"):
        run(inputs, out, world, accept=said, resume=True)
    assert world.calls == []


def test_a_changed_verdict_changes_the_round_and_keeps_the_history(
    inputs: dict[str, Any], tmp_path: Path
) -> None:
    out, said = tmp_path / "run", tmp_path / "said.csv"
    options = {"rounds": 1, "accept": said}
    waiting = run(inputs, out, World(), **options).waiting
    assert waiting is not None
    images = fill_in(waiting.candidates, said, "empty")
    run(inputs, out, World(), resume=True, **options)
    assert rows_of(out)[1]["negatives_added"] == 3
    fill_in(waiting.candidates, said, "contains_object", "empty")
    run(inputs, out, World(), resume=True, **options)
    assert trained_on(out, "mined", 1) == images[1:]
    with PoolStore(out / "pool.sqlite") as store:
        kept = store._database.execute("SELECT COUNT(*) FROM decisions").fetchone()[0]
    assert kept == 4


def test_two_arms_share_one_sheet_and_random_adds_no_more_than_mined(
    inputs: dict[str, Any], tmp_path: Path
) -> None:
    out, said = tmp_path / "run", tmp_path / "said.csv"
    options = {"rounds": 1, "accept": said, "arms": ("mined", "random", "none")}
    waiting = run(inputs, out, World(), **options).waiting
    assert waiting is not None
    mined, drawn = sheet_of(out, "mined", 1), sheet_of(out, "random", 1)
    sheet = fill_in(waiting.candidates, said, "empty")
    assert sheet == list(dict.fromkeys(mined + drawn))
    refused = next(name for name in mined if name not in drawn)
    lines = said.read_text().splitlines()
    said.write_text(
        "\n".join(
            line.replace("empty", "contains_object") if line.startswith(refused) else line
            for line in lines
        )
    )
    run(inputs, out, World(), resume=True, **options)
    rows = {row["arm"]: row for row in rows_of(out) if row["round"] == 1}
    assert rows["mined"]["negatives_added"] == rows["random"]["negatives_added"] == 2


def test_auto_takes_the_pool_as_empty_except_what_a_person_said_otherwise(
    inputs: dict[str, Any], tmp_path: Path
) -> None:
    out, said = tmp_path / "run", tmp_path / "said.csv"
    waiting = run(inputs, out, World(), rounds=1, accept=said).waiting
    assert waiting is not None
    images = fill_in(waiting.candidates, said, "contains_object", "empty")
    run(inputs, out, World(), rounds=1, accept=said, resume=True)
    run(inputs, out, World(), rounds=2, accept="auto", resume=True)
    assert trained_on(out, "mined", 1) == images[1:]
    states = (out / "rounds" / "mined-2" / "decisions.csv").read_text()
    assert states.count("assumed_empty") == 3


def test_the_page_says_that_nobody_looked_only_where_that_is_so(
    inputs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages: list[ReportData] = []
    monkeypatch.setattr(loop_report, "write_report", lambda path, data: pages.append(data))
    out, said = tmp_path / "run", tmp_path / "said.csv"
    waiting = run(inputs, out, World(), rounds=1, accept=said).waiting
    assert waiting is not None
    fill_in(waiting.candidates, said, "empty", "empty")
    run(inputs, out, World(), rounds=1, accept=said, resume=True)
    run(inputs, out, World(), rounds=2, accept="auto", resume=True)
    run(inputs, tmp_path / "auto", World(), rounds=1)
    assert [[note for note in page.notes if "nobody" in note] for page in pages] == [
        [],
        ["Candidates on which nobody decided were taken as empty (--accept auto)."],
        ["The whole pool was taken as empty (--accept auto); nobody looked at it."],
    ]
