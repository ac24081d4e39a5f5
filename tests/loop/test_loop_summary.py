from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from hardmine.loop.control_arms import ARMS
from hardmine.loop.loop_summary import courses_of
from hardmine.loop.round_candidates import ArmState
from hardmine.workflows.cached_models import MeasuredModel, TrainedModel
from loop_fakes import World, draw, run, sheet_of


def test_the_page_shows_rounds_pictures_stop_rules_leaks_and_what_to_beware_of(
    inputs: dict[str, Any], tmp_path: Path
) -> None:
    draw(inputs["pool"] / "k9-99-copy.png", 2000)
    out = tmp_path / "run"
    result = run(inputs, out, World(), rounds=2, arms=("mined", "random"))
    assert result.report == out / "report.html"
    page = result.report.read_text()
    assert "Mined in round 1" in page
    assert "Mined in round 2" in page
    assert "Worst remaining alarms" in page
    assert "mined, round 2" in page
    assert "k9-99-copy.png repeats" in page
    assert "The whole pool was taken as empty (--accept auto)" in page
    # .15 * 20 labelled = 3 a round
    assert "The round was to add at most 3 images" in page
    assert "has not converged" not in page  # AP50 is 1 from round 0 on
    assert "http://" not in page.replace("http://www.w3.org", "")
    with (out / "metrics.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [(row["arm"], row["round"], row["train_images"]) for row in rows] == [
        ("mined", "0", "20"),
        ("random", "0", "20"),
        ("mined", "1", "23"),
        ("random", "1", "23"),
        ("mined", "2", "26"),
        ("random", "2", "26"),
    ]


@pytest.mark.usefixtures("no_page")
def test_a_result_shows_itself(inputs: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = run(inputs, out, World(), rounds=1, arms=("mined", "random"))
    assert repr(result).startswith("LoopResult(run: 1 round, mined ")
    assert ", random " in repr(result)
    page = result._repr_html_()
    for name in sheet_of(out, "mined", 1):
        assert name in page
    only_random = set(sheet_of(out, "random", 1)) - set(sheet_of(out, "mined", 1))
    assert not [name for name in only_random if name in page]
    assert page.count("<img") == 3
    assert "trained on" in page
    assert str(result.report) in page


def test_the_first_and_the_last_training_of_the_leading_arm_are_shown(tmp_path: Path) -> None:
    mined = next(arm for arm in ARMS if arm.name == "mined")
    results = []
    for number in range(3):
        (tmp_path / f"k{number}").mkdir()
        (tmp_path / f"k{number}/telemetry.csv").write_text(f"step,images\n5,{number}\n")
        model = TrainedModel(f"k{number}", tmp_path / f"k{number}/last.safetensors")
        results.append(MeasuredModel(model, tmp_path, {}))
    shown = list(courses_of(ArmState(mined, results, [])))
    assert [(each.name, each.rows[0]["images"]) for each in shown] == [
        ("round 0", 0.0),
        ("mined, round 2", 2.0),
    ]
    (tmp_path / "k2/telemetry.csv").unlink()  # of an earlier version, or switched off
    assert [each.name for each in courses_of(ArmState(mined, results, []))] == ["round 0"]
