from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hardmine.data.load_dataset import load_dataset
from hardmine.detections import Detections
from hardmine.errors import ConfigError, DataError
from hardmine.files import write_atomic
from hardmine.types import ImageState
from hardmine.workflows.cached_models import TrainingRequest
from loop_fakes import (
    FakeDetector,
    World,
    draw,
    labelled,
    pool_of,
    rows_of,
    run,
    sheet_of,
    trained_on,
)

pytestmark = pytest.mark.usefixtures("no_page")


def kinds(names: list[str]) -> set[str]:
    return {name.split("-")[0] for name in names}


def test_each_round_mines_what_the_last_model_still_fires_on(
    inputs: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    result = run(inputs, out, World())
    rows = rows_of(out)
    assert list(result.rows) == rows
    assert result.checkpoint == out / "models" / rows[-1]["model"] / "last.safetensors"
    # .15 * 20 labelled = 3 a round
    assert [row["negatives_added"] for row in rows] == [0, 3, 3, 3]
    assert [row["negatives_total"] for row in rows] == [0, 3, 6, 9]
    assert [row["train_images"] for row in rows] == [20, 23, 26, 29]
    # Kind k fires with .95 - k / 10 until it was trained on, with a fifth of it afterwards.
    assert [kinds(sheet_of(out, "mined", n)) for n in (1, 2, 3)] == [{"k0"}, {"k1"}, {"k2"}]


def test_the_figures_of_a_row(inputs: dict[str, Any], tmp_path: Path) -> None:
    run(inputs, tmp_path / "run", World(), rounds=1)
    first, second = rows_of(tmp_path / "run")
    assert {
        "arm",
        "round",
        "train_images",
        "negatives_added",
        "AP",
        "AP50",
        "recall",
        "alarms_per_image_at_recall_0.8",
        "interval",
        "score_threshold",
    } <= set(first)
    # 10 objects with scores .900, .899 … .891: recall .8 is reached at the eighth, .893. Of the 12
    # held-out pictures two, .95 and .94, score as much: 2 / 12 an image, and none once k0 is known.
    assert first["score_threshold"] == pytest.approx(0.893)
    assert first["alarms_per_image_at_recall_0.8"] == pytest.approx(2 / 12)
    assert first["recall_at_first_threshold"] == 0.8
    assert second["alarms_per_image_at_recall_0.8"] == 0
    assert set(first["negatives"]) == {"held_out", "stop"}  # 16 px boxes in 32 px leave no crop
    # Of the 23 images of round 1 three have no objects.
    measured = json.loads((tmp_path / "run" / "metrics.json").read_text())["measurements"]
    assert [measured[f"mined-{n}"]["training"] for n in (0, 1)] == [{"images": 20, "AP50": 1.0}] * 2


def test_crops_of_validation_images_are_measured_beside(
    inputs: dict[str, Any], tmp_path: Path
) -> None:
    from dataclasses import replace

    import numpy as np

    small = [
        replace(record, boxes=np.array([[0, 0, 6, 6]], np.float32))
        for record in inputs["val"].records
    ]
    inputs["val"] = inputs["val"].with_records(small)
    world = World()
    real = world.detect_images

    def detect(detector: Any, paths: Any, *, progress: Any = None) -> Any:
        renamed = [Path("k5-40-0.png") if "crops" in str(path) else path for path in paths]
        return real(detector, renamed, progress=progress)

    world.detect_images = detect  # type: ignore[method-assign]
    run(inputs, tmp_path / "run", world, rounds=1)
    assert rows_of(tmp_path / "run")[0]["negatives"]["crops"]["images"] >= 10


def test_all_arms_branch_from_the_same_weights_with_equal_steps(
    inputs: dict[str, Any], tmp_path: Path
) -> None:
    out, world = tmp_path / "run", World()
    run(inputs, out, world, rounds=2, arms=("none", "random", "mined"))
    base, *branches = world.trainings
    assert base["init"] is None
    assert {branch["init"] for branch in branches} == {
        next((out / "models").glob("*")).parent / rows_of(out)[0]["model"] / "last.safetensors"
    }
    assert len({branch["steps"] for branch in branches}) == 1
    assert len({branch["seed"] for branch in branches}) == 1
    # mined and random twice each; none has the same inputs in both rounds and is trained once
    assert sorted(branch["images"] for branch in branches) == [20, 23, 23, 26, 26]
    rows = {(row["arm"], row["round"]): row for row in rows_of(out)}
    assert len(rows) == 9
    assert rows["none", 1]["model"] == rows["none", 2]["model"]
    assert rows["none", 2]["negatives_total"] == 0
    assert rows["random", 2]["negatives_total"] == rows["mined", 2]["negatives_total"] == 6


def test_steps_come_from_the_labelled_images_of_round_zero(
    inputs: dict[str, Any], tmp_path: Path
) -> None:
    from dataclasses import replace

    from hardmine.recipes.named_recipes import named_recipe

    base = named_recipe("small160")
    recipe = replace(base, epochs=16.0, branch=replace(base.branch, epochs=8.0))
    for retrain, expected in (("branch", 5), ("continue", 5), ("fresh", 10)):
        world = World()
        run(inputs, tmp_path / retrain, world, rounds=2, recipe=recipe, retrain=retrain)
        # batches of 32: 16 * 20 / 32 = 10 steps at first, 8 * 20 / 32 = 5 in a branch
        assert [t["steps"] for t in world.trainings] == [10, expected, expected]


def test_fresh_starts_anew_and_continue_goes_on(inputs: dict[str, Any], tmp_path: Path) -> None:
    fresh, on = World(), World()
    run(inputs, tmp_path / "fresh", fresh, rounds=2, retrain="fresh")
    assert [t["init"] for t in fresh.trainings] == [None, None, None]
    run(inputs, tmp_path / "on", on, rounds=2, retrain="continue")
    models = [row["model"] for row in rows_of(tmp_path / "on")]
    inits = [t["init"].parent.name for t in on.trainings if t["init"]]
    assert inits == models[:2]
    assert len({t["seed"] for t in on.trainings}) == 3


def test_no_image_is_handed_out_twice_and_none_lies_outside_the_mined_set(
    inputs: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    run(inputs, out, World(), arms=("mined", "random"))
    metrics = json.loads((out / "metrics.json").read_text())
    # 60 in the pool, 30 % for stopping
    assert metrics["sets"]["images"] == {
        "train": 20,
        "val": 10,
        "mined_from": 42,
        "stop": 18,
        "held_out": 12,
    }
    for arm in ("mined", "random"):
        handed = [name for n in (1, 2, 3) for name in sheet_of(out, arm, n)]
        assert len(handed) == len(set(handed)) == 9


def test_near_duplicates_are_handed_out_once_over_all_rounds(
    inputs: dict[str, Any], tmp_path: Path
) -> None:
    pool = tmp_path / "copies"
    for i in range(12):
        for copy in range(3):  # kind 9 is never learned from kind 8
            draw(pool / f"k{i}-{90 - i:02}-{copy}.png", 100 + i)
    inputs["pool"] = pool
    out = tmp_path / "run"
    run(inputs, out, World(), rounds=2)
    handed = sheet_of(out, "mined", 1) + sheet_of(out, "mined", 2)
    assert len(handed) == len(kinds(handed)) == 6
    assert (
        rows_of(out)[1]["mining"]["near_duplicates_passed_over"] == 6
    )  # two copies of each of three


def test_images_that_the_pool_shares_with_other_sets_are_left_out(
    inputs: dict[str, Any], tmp_path: Path
) -> None:
    draw(inputs["pool"] / "k7-99-copy-of-val.png", 2000)
    draw(inputs["pool"] / "k8-99-copy-of-train.png", 1000)
    draw(inputs["pool"] / "k9-99-copy-of-final.png", 9000)
    out = tmp_path / "run"
    run(inputs, out, World(), rounds=1, arms=("mined", "random"))
    leaks = json.loads((out / "metrics.json").read_text())["sets"]["leaks"]
    assert sorted(leak["sets"] for leak in leaks) == ["pool/final", "pool/train", "pool/val"]
    handed = [n for arm in ("mined", "random") for n in sheet_of(out, arm, 1)]
    assert not [name for name in handed if "copy-of" in name]


def test_every_round_writes_a_coco_file_that_reads_back(
    inputs: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    run(inputs, out, World(), rounds=2)
    assert trained_on(out, "mined", 2) == sheet_of(out, "mined", 1) + sheet_of(out, "mined", 2)
    data = load_dataset(out / "rounds" / "mined-2" / "train.coco.json", images=tmp_path)
    assert data.count_states() == {ImageState.LABELLED: 20, ImageState.ASSUMED_EMPTY: 6}
    first = load_dataset(out / "rounds" / "round-0" / "train.coco.json", images=tmp_path)
    assert len(first) == 20


def test_what_still_fires_after_training_comes_back_for_a_second_look(
    inputs: dict[str, Any], tmp_path: Path
) -> None:
    world = World()
    real = world.load_detector

    def stubborn(checkpoint: Path, device: str | None = None) -> Any:
        return replace(real(checkpoint, device), learned=frozenset())

    world.load_detector = stubborn  # type: ignore[method-assign]
    out = tmp_path / "run"
    run(inputs, out, world, rounds=1)
    with (out / "rounds" / "mined-1" / "second_look.csv").open(newline="") as handle:
        again = [row["image"] for row in csv.DictReader(handle)]
    assert again == sheet_of(out, "mined", 1)
    assert rows_of(out)[1]["second_look"] == 3
    assert rows_of(out)[0]["known_alarms"] is None
    known = {"alarms": 3, "images": 3, "again": 3, "again_images": 3}
    assert rows_of(out)[1]["known_alarms"] == known
    run(inputs, tmp_path / "learns", World(), rounds=2, arms=("mined", "random"))
    rows = {(row["arm"], row["round"]): row for row in rows_of(tmp_path / "learns")}
    assert rows["mined", 1]["second_look"] == 0
    assert rows["mined", 1]["known_alarms"] == {**known, "again": 0, "again_images": 0}
    # The alarms of both rounds, asked of the model of the second one.
    assert rows["mined", 2]["known_alarms"]["alarms"] == 6
    assert rows["random", 2]["known_alarms"] is None  # no model said anything of its images


def test_quarantine_sets_aside_what_scores_too_high(inputs: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(inputs, out, World(), rounds=1, quarantine=0.86)
    assert len(sheet_of(out, "mined", 1)) == 3
    assert all(int(name.split("-")[1]) < 86 for name in sheet_of(out, "mined", 1))
    aside = json.loads((out / "rounds" / "mined-1" / "quarantine.json").read_text())["candidates"]
    assert all(row["score"] >= 0.86 for row in aside)
    assert rows_of(out)[1]["mining"]["quarantined"] == len(aside) > 0


def test_quarantine_takes_a_score_that_is_written_alike(
    inputs: dict[str, Any], tmp_path: Path
) -> None:
    """.9 in float32, as scores are kept, is a little less than .9 in float64."""
    pool = tmp_path / "ninety"
    for number in range(12):
        draw(pool / f"k{number}-{90 if number < 6 else 40}-{number}.png", 5000 + number)
    out = tmp_path / "run"
    run({**inputs, "pool": pool}, out, World(), rounds=1, quarantine=0.9)
    aside = json.loads((out / "rounds/mined-1/quarantine.json").read_text())["candidates"]
    assert {Path(row["path"]).stem.split("-")[1] for row in aside} == {"90"}
    handed_out = sheet_of(out, "mined", 1)
    assert handed_out
    assert all("-40-" in name for name in handed_out)


def test_what_was_trained_on_as_empty_is_not_set_aside_later(
    inputs: dict[str, Any], tmp_path: Path
) -> None:
    """A later model that fires at .97 on everything says nothing new of what the arm has."""
    world = World()
    real = world.load_detector

    class Rising(FakeDetector):
        def look(self, path: Path) -> Detections:
            found = super().look(path)
            rises = self.learned and path.stem.startswith("k")
            return replace(found, scores=np.full(1, 0.97, np.float32)) if rises else found

    def rising(checkpoint: Path, device: str | None = None) -> Any:
        detector = real(checkpoint, device)
        return Rising(detector.learned, detector.model_id)

    world.load_detector = rising  # type: ignore[method-assign]
    out = tmp_path / "run"
    run(inputs, out, world, rounds=2, quarantine=0.96)
    had = set(sheet_of(out, "mined", 1))
    assert len(had) == 3
    aside = json.loads((out / "rounds/mined-2/quarantine.json").read_text())["candidates"]
    names = {Path(row["path"]).name for row in aside}
    assert names
    assert not names & {Path(name).name for name in had}


def test_a_pool_on_which_nothing_fires_any_more_ends_the_loop(
    inputs: dict[str, Any], tmp_path: Path
) -> None:
    inputs["pool"] = pool_of(tmp_path / "one", 1, 30, 7000)
    out = tmp_path / "run"
    result = run(inputs, out, World(), stop="guarded", min_score=0.5, arms=("mined", "random"))
    assert result.stopped is not None
    assert "nothing is left to mine" in result.stopped
    assert [(row["arm"], row["round"]) for row in result.rows] == [
        ("mined", 0),
        ("random", 0),
        ("mined", 1),
        ("random", 1),
    ]
    kept_on = run(inputs, out, World(), stop="never", rounds=2, resume=True)
    assert kept_on.stopped is None
    assert [row["negatives_total"] for row in kept_on.rows] == [0, 0, 3, 3, 3, 3]


def test_the_end_of_a_loop_names_the_images_that_score_too_high_to_be_added(
    inputs: dict[str, Any], tmp_path: Path
) -> None:
    # Kind 0 fires with .95 to .66 and all of it is set aside; no other picture is in the pool.
    inputs["pool"] = pool_of(tmp_path / "one", 1, 30, 7000)
    result = run(inputs, tmp_path / "run", World(), stop="guarded", quarantine=0.6)
    assert result.stopped == (
        "round 1, mined: nothing is left to mine that scores 0.05 or more, apart from 21 images that "
        "score 0.6 or more and were set aside"  # 9 of the 30 are kept for stopping
    )


def test_the_end_of_a_loop_names_the_copies_on_which_the_model_still_fires(
    inputs: dict[str, Any], tmp_path: Path
) -> None:
    for i in range(24):  # four pictures, six times each; two of the four are kept for stopping
        draw(tmp_path / f"copies/k0-{95 - i}-{i:02}.png", 7000 + i % 4)
    inputs["pool"] = tmp_path / "copies"
    result = run(inputs, tmp_path / "run", World(), stop="guarded", rounds=2)
    assert result.stopped == (
        "round 2, mined: nothing is left to mine that scores 0.05 or more, apart from 10 images that "
        "repeat images added before"
    )


def test_the_end_of_a_loop_of_random_images_speaks_of_no_score(
    inputs: dict[str, Any], tmp_path: Path
) -> None:
    inputs["pool"] = pool_of(tmp_path / "few", 1, 5, 7000)  # 2 of the 5 are for the stop rules
    result = run(inputs, tmp_path / "run", World(), stop="recipe", arms=("random",), rounds=2)
    assert result.stopped == (
        "round 2, random: every image of the pool was handed out, or repeats one that was"
    )


def test_a_pool_with_fewer_images_than_asked_for_is_said(
    inputs: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    inputs["pool"] = pool_of(tmp_path / "few", 1, 10, 7000)  # 3 of the 10 are for the stop rules
    both = {"arms": ("mined", "random"), "stop": "never", "rounds": 2}
    run(inputs, tmp_path / "auto", World(), **both)
    assert "handed out" not in caplog.text
    run(inputs, tmp_path / "run", World(), add=5, min_score=0.5, **both)
    said = [record.getMessage() for record in caplog.records if "handed out" in record.message]
    # kind 0 fires with .95 and more until it was trained on, with a fifth of it afterwards
    assert said == [
        "round 2, mined: 0 images are handed out, not 5: 7 images are to mine from, of which 5 were "
        "handed out before and 2 score below 0.5, repeat another one or are set aside",
    ]
    caplog.clear()
    run(inputs, tmp_path / "many", World(), add=20, **both)
    said = [record.getMessage() for record in caplog.records if "handed out" in record.message]
    assert said == [
        "round 1, mined: 7 images are handed out, not 20: 7 images are to mine from",
        "round 2, mined: 0 images are handed out, not 20: 7 images are to mine from, of which 7 were "
        "handed out before",
    ]
    caplog.clear()
    inputs["pool"] = pool_of(tmp_path / "mixed", 4, 5, 7000)
    run(inputs, tmp_path / "quota", World(), add=5, rounds=1, quota_class=2)
    said = [record.getMessage() for record in caplog.records if "handed out" in record.message]
    assert len(said) == 1
    assert "score below 0.05, are over a quota, repeat another one or are set aside" in said[0]


def test_the_guard_ends_the_loop_and_the_metrics_say_what_each_rule_would_have_done(
    inputs: dict[str, Any], tmp_path: Path
) -> None:
    inputs["pool"] = pool_of(tmp_path / "weak", 6, 20, 7000)
    for path in sorted(inputs["pool"].iterdir()):  # all below the threshold: alarms cannot fall
        kind, score, number = path.stem.split("-")
        path.rename(path.with_name(f"{kind}-{int(score) // 2}-{number}.png"))
    result = run(inputs, tmp_path / "run", World(), stop="guarded", rounds=5)
    assert result.stopped is not None
    assert result.stopped.startswith("round 2, mined, guarded rule: alarms at recall ")
    assert result.rows[-1]["round"] == 2
    rules = json.loads((tmp_path / "run" / "metrics.json").read_text())["stop_rules"]["mined"]
    assert rules["guarded"]["round"] == 2
    assert rules["recipe"]["round"] == 1
    never = run(inputs, tmp_path / "run", World(), stop="never", rounds=3, resume=True)
    assert never.stopped is None
    assert never.rows[-1]["round"] == 3


def test_the_stop_rules_look_at_the_stopping_set_and_never_at_the_final_one() -> None:
    from hardmine.loop.loop_summary import stop_point
    from hardmine.workflows.cached_models import MeasuredModel, TrainedModel

    part = {"alarms_per_image_at_recall_0.8": 1.0, "share_of_images_that_fire": 0.25}
    figures = {
        "AP": 0.5,
        "AP50": 0.6,
        "max_recall": 0.7,
        "negatives": {"stop": part, "held_out": {}},
    }
    point = stop_point(MeasuredModel(TrainedModel("k", Path()), Path(), figures))
    assert (point.alarms, point.firing, point.recall) == (1.0, 0.25, 0.7)


def test_comparisons_pair_the_arms(inputs: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(inputs, out, World(), rounds=1, arms=("mined", "random", "none"))
    rows = json.loads((out / "metrics.json").read_text())["comparisons"]
    pairs = {(r["arm"], r["round"], r["against_arm"], r["against_round"]) for r in rows}
    assert pairs == {
        ("mined", 1, "random", 1),
        ("mined", 1, "none", 1),
        ("random", 1, "none", 1),
        ("mined", 1, "mined", 0),
        ("random", 1, "random", 0),
        ("none", 1, "none", 0),
    }
    assert {r["negatives"] for r in rows} == {"held_out", "stop"}
    assert all({"ratio", "ap50"} <= set(r) for r in rows)


def test_the_control_arms_run_alone_too(inputs: dict[str, Any], tmp_path: Path) -> None:
    none = run(inputs, tmp_path / "none", World(), rounds=1, arms=("none",), stop="guarded")
    assert [row["train_images"] for row in none.rows] == [20, 20]
    drawn = run(inputs, tmp_path / "random", World(), rounds=1, arms=("random",))
    assert [row["negatives_added"] for row in drawn.rows] == [0, 3]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"rounds": 0}, "rounds: got 0"),
        ({"add": 0.0}, r"add: got 0\.0"),
        ({"add": 1.5}, r"add: got 1\.5"),
        ({"retrain": "again"}, "retrain: got 'again', wanted one of branch, fresh, continue"),
        ({"stop": "now"}, "stop: got 'now', wanted one of guarded, recipe, never"),
        ({"arms": ()}, r"arms: got \[\]"),
        ({"arms": ("mined", "mined")}, "arms: got"),
        ({"arms": ("hard",)}, "arms: got 'hard', wanted one of mined"),
        ({"min_score": -0.1}, "min_score"),
        ({"quarantine": 2.0}, "quarantine"),
        ({"weights": "nowhere.pth"}, r"weights: no file nowhere\.pth"),
        ({"val": 1.5}, r"val is 1\.5"),
    ],
)
def test_impossible_options_are_refused(
    inputs: dict[str, Any], tmp_path: Path, option: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(inputs, tmp_path / "run", World(), **option)


def test_a_directory_with_a_run_needs_resume(inputs: dict[str, Any], tmp_path: Path) -> None:
    run(inputs, tmp_path / "run", World(), rounds=1)
    with pytest.raises(ConfigError, match="holds a run already; go on with --resume"):
        run(inputs, tmp_path / "run", World(), rounds=1)


def test_a_loop_whose_first_training_fails_leaves_the_folder_free(
    inputs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(world: World, request: TrainingRequest) -> Path:
        raise ConfigError("device: got cuda")

    with monkeypatch.context() as patched:
        patched.setattr(World, "fit", fail)
        with pytest.raises(ConfigError, match="device: got cuda"):
            run(inputs, tmp_path / "run", World(), rounds=1)
    run(inputs, tmp_path / "run", World(), rounds=1)


def test_more_rounds_can_be_added_to_a_finished_run(inputs: dict[str, Any], tmp_path: Path) -> None:
    world = World()
    run(inputs, tmp_path / "run", World(), rounds=1)
    run(inputs, tmp_path / "run", world, rounds=2, resume=True)
    assert world.calls.count("fit") == 1
    run(inputs, tmp_path / "whole", World(), rounds=2)
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "whole")


def test_an_empty_pool_or_a_second_run_is_one_clear_error(
    inputs: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    for _ in range(2):  # what failed before anything was done does not count as a run
        with pytest.raises(DataError, match="empty: no image"):
            run({**inputs, "pool": tmp_path / "empty"}, tmp_path / "run", World())

    from hardmine.mining.pool_store import PoolStore

    with (
        PoolStore(tmp_path / "run" / "pool.sqlite"),
        pytest.raises(DataError, match="another run is writing"),
    ):
        run(inputs, tmp_path / "run", World(), resume=True)


@pytest.mark.parametrize("kind", ["tar", "zip", "list", "glob"])
def test_the_pool_may_be_whatever_mining_takes(
    inputs: dict[str, Any], tmp_path: Path, kind: str
) -> None:
    run(inputs, tmp_path / "plain", World(), rounds=1)
    folder = inputs["pool"]
    names = sorted(path.name for path in folder.iterdir())
    if kind == "list":
        (folder / "pool.txt").write_text("".join(f"{name}\n" for name in names))
        inputs["pool"] = folder / "pool.txt"
    elif kind == "glob":
        inputs["pool"] = f"{folder}/*.png"
    else:
        inputs["pool"] = shutil.make_archive(str(tmp_path / "packed"), kind, folder)
    out = tmp_path / "run"
    run(inputs, out, World(), rounds=1)
    for row, plain in zip(rows_of(out), rows_of(tmp_path / "plain"), strict=True):
        assert row | {"model": ""} == plain | {"model": ""}  # its key names where the images lie
    assert sheet_of(out, "mined", 1) == sheet_of(tmp_path / "plain", "mined", 1)
    if kind in ("tar", "zip"):
        assert sorted(path.name for path in (out / "pool").rglob("*.png")) == names
    world = World()
    run(inputs, out, world, rounds=1, resume=True)
    assert world.calls == []  # nothing was unpacked or done again under another name


def test_negatives_with_labelled_objects_are_refused(
    inputs: dict[str, Any], tmp_path: Path
) -> None:
    inputs["negatives"] = labelled(tmp_path / "objects", 3, 400)
    with pytest.raises(DataError, match=r"object-000\.png: holds 1 boxes, wanted no objects"):
        run(inputs, tmp_path / "run", World())


def test_a_full_disk_is_one_clear_error_and_the_run_goes_on_later(
    inputs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from hardmine import files

    writes = []

    def full(path: Path, write: Any) -> None:
        writes.append(path)
        if len(writes) > 20:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write_atomic(path, write)

    out = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(DataError, match="no space left"):
        patch.setattr(files, "write_atomic", full)
        run(inputs, out, World(), rounds=1)
    run(inputs, out, World(), rounds=1, resume=True)
    run(inputs, tmp_path / "whole", World(), rounds=1)
    assert rows_of(out) == rows_of(tmp_path / "whole")
