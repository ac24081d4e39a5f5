"""A comparison: cells are trained once, a failed one is named, differences are paired."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hardmine.cli.main import run as run_line
from hardmine.comparison import compare_figures
from hardmine.comparison import compare_recipes as comparing
from hardmine.comparison.compare_figures import (
    CellResult,
    Contrast,
    Sets,
    VariantSummary,
    cell_text,
    contrasts_of,
    figure_text,
    figures_of,
)
from hardmine.comparison.compare_options import CompareOptions, Variant, mining_variants
from hardmine.comparison.compare_page import write_compare_report
from hardmine.comparison.compare_recipes import ComparedData, compare_recipes, loop_options
from hardmine.comparison.compare_statements import chance_note, conclusion, statements_of
from hardmine.comparison.compare_summary import Comparison
from hardmine.data.formats.coco_writing import write_coco
from hardmine.detections import Detections
from hardmine.errors import ConfigError, DataError
from hardmine.evaluation.intervals import ArmScores
from hardmine.evaluation.scored_images import Scored
from hardmine.recipes.recipe import Recipe
from hardmine.types import Dataset, ImageRecord, ImageState
from hardmine.workflows.cached_models import recipe_text
from hardmine.workflows.step_cache import silent
from hardmine.workflows.train_options import DataOptions


@pytest.fixture
def tiny_yaml(tmp_path: Path, tiny_recipe: Recipe) -> str:
    path = tmp_path / "tiny.yaml"
    path.write_text(recipe_text(tiny_recipe))
    return str(path)


def run(squares: Dataset, variants: list[Variant], out: Path, seeds: int = 1, jobs: int = 1):
    options = CompareOptions(seeds=seeds, epochs=1, draws=20, jobs=jobs)
    empty = squares.subset([8, 9, 10, 11])
    return compare_recipes(
        variants,
        ComparedData(squares.subset([0, 1, 2, 3]), squares.subset([4, 5, 6, 7]), empty),
        weights="none",
        options=options,
        out=out,
    )


def test_a_failed_cell_is_named_and_the_others_stand(
    squares: Dataset, tiny_yaml: str, tmp_path: Path
) -> None:
    variants = [
        Variant("plain", tiny_yaml),
        Variant("quota", tiny_yaml, ("loss.selection.kind=level_quota",)),
        Variant(
            "broken",
            tiny_yaml,
            ("augment.alarm_paste.source=absent.json", "augment.alarm_paste.probability=1"),
        ),
    ]
    found = run(squares, variants, tmp_path / "out", seeds=2)
    plain, quota, broken = found.variants
    assert [cell.seed for cell in plain.cells] == [0, 1]
    assert all(cell.error is None for cell in (*plain.cells, *quota.cells))
    assert all("absent.json" in str(cell.error) for cell in broken.cells)
    assert quota.means["AP50"] is not None
    assert quota.contrasts[0].figure == "AP50"
    assert quota.contrasts[0].reference == pytest.approx(plain.means["AP50"], abs=0.02)
    assert broken.contrasts == ()
    assert any(line.startswith("broken: 2 of 2 trainings failed") for line in found.statements)
    written = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert [item["name"] for item in written["variants"]] == ["plain", "quota", "broken"]
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "absent.json" in page
    assert "http" not in page.replace("http-equiv", "")


def test_a_finished_cell_is_found_and_not_trained_again(
    squares: Dataset, tiny_yaml: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variants = [Variant("a", tiny_yaml), Variant("b", tiny_yaml, ("batch.size=2",))]
    first = run(squares, variants, tmp_path / "out")

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("hardmine.workflows.train_and_evaluate.train", fail)
    again = run(squares, variants, tmp_path / "out")
    assert again.to_dict() == first.to_dict()
    kept = first.variants[0].cells[0].folder / "detections" / "val.json"
    text = kept.read_text()
    kept.unlink()
    lost = run(squares, variants, tmp_path / "out")  # one cell is made anew, the other stands
    assert [v.cells[0].error for v in lost.variants] == ["AssertionError: trained again", None]
    kept.write_text(text)
    picture = squares.records[0].path
    Image.new("RGB", (48, 48), "red").save(picture)  # another picture under the same name
    with pytest.raises((AssertionError, DataError), match="trained again"):
        run(squares, variants, tmp_path / "out")


def test_the_data_choose_a_recipe_once_for_all_seeds(
    squares: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is said of the choice is said once, and its commands name the data."""
    sources, trained = [], []

    def choose(recipe: Recipe, *given: object) -> tuple[Recipe, tuple[str, ...]]:
        sources.append(given[-1])
        return replace(recipe, loss=replace(recipe.loss, box_weight=7.0)), ()

    def train(*_: object, recipe: Recipe, **__: object) -> None:
        trained.append(recipe.loss.box_weight)
        raise DataError("enough")

    monkeypatch.setattr("hardmine.workflows.auto_recipe.fit_to_data", choose)
    monkeypatch.setattr("hardmine.workflows.train_and_evaluate.train", train)
    write_coco(squares.subset([0, 1, 2, 3]), tmp_path / "some.json")
    variants = [Variant("auto", "auto"), Variant("default")]
    with pytest.raises(DataError, match="enough"):
        compare_recipes(
            variants,
            ComparedData(tmp_path / "some.json", squares.subset([4, 5, 6, 7])),
            weights="none",
            options=CompareOptions(seeds=2, reading=DataOptions(images=squares.root)),
            out=tmp_path / "out",
        )
    assert sources == [f"{tmp_path / 'some.json'} --images {squares.root}"]
    assert trained == [7.0, Recipe().loss.box_weight] * 2


def test_equal_recipes_of_other_names_share_their_cells_and_it_is_said(
    squares: Dataset, tiny_yaml: str, tmp_path: Path
) -> None:
    found = run(squares, [Variant("a", tiny_yaml), Variant("same", tiny_yaml)], tmp_path / "out")
    assert found.variants[0].cells[0].folder == found.variants[1].cells[0].folder
    assert found.variants[1].contrasts[0].verdict == "no difference shown"
    assert "same is the same recipe as a: both have the same trainings." in found.statements


def test_the_minutes_of_a_cell_that_was_killed_hold_those_before(
    squares: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after 90 s, of which the first 60 s are written down; then 30 s: 1.5 minutes."""
    now = [1000.0]
    monkeypatch.setattr(comparing, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    sets = Sets(squares, squares, None, None, {}, "")
    cell = comparing._Cell(Variant("a"), Recipe(), 0, tmp_path / "cell", sets, CompareOptions())

    def work(_: Any, notify: Any) -> dict[str, Any]:
        (tmp_path / "cell").mkdir(exist_ok=True)
        now[0] += 60.0 if notify.before == 0 else 30.0
        notify("train", 1, 2)
        if notify.before:
            return {"measurement": {}, "detections": "detections"}
        now[0] += 30.0
        raise KeyboardInterrupt

    monkeypatch.setattr(comparing, "_run_training", work)
    with pytest.raises(KeyboardInterrupt):
        comparing._run_cell(cell, silent)
    assert comparing._run_cell(cell, silent).minutes == 1.5


def test_cells_trained_at_the_same_time_give_the_same_figures(
    squares: Dataset, tiny_yaml: str, tmp_path: Path
) -> None:
    variants = [Variant("a", tiny_yaml), Variant("b", tiny_yaml, ("batch.size=2",))]
    one = run(squares, variants, tmp_path / "one")
    two = run(squares, variants, tmp_path / "two", jobs=2)
    for mine, other in zip(two.variants, one.variants, strict=True):
        assert {**mine.means, "minutes": 0} == {**other.means, "minutes": 0}
    assert all(cell.error is None for variant in two.variants for cell in variant.cells)


def test_equal_recipes_do_not_disturb_each_other_at_the_same_time(
    squares: Dataset, tiny_yaml: str, tmp_path: Path
) -> None:
    variants = [Variant("a", tiny_yaml), Variant("same", tiny_yaml)]
    found = run(squares, variants, tmp_path / "out", jobs=2)
    (one,), (other,) = (variant.cells for variant in found.variants)
    assert (one.error, other.error) == (None, None)
    assert (one.variant, other.variant) == ("a", "same")
    assert one.figures["measurement"] == other.figures["measurement"]


class Deadly:
    """Ends the process that reads it, as a kill or a lack of memory would."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (9,)


def test_a_process_that_dies_takes_no_other_cell_with_it(
    squares: Dataset, tiny_yaml: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_all = comparing._run_all

    def with_a_deadly_cell(cells: Any, *others: Any) -> Any:
        return run_all([replace(cells[0], options=Deadly()), *cells[1:]], *others)

    monkeypatch.setattr(comparing, "_run_all", with_a_deadly_cell)
    variants = [Variant("a", tiny_yaml), Variant("b", tiny_yaml, ("batch.size=2",))]
    found = run(squares, variants, tmp_path / "out", jobs=2)
    (dead,), (alive,) = (variant.cells for variant in found.variants)
    assert str(dead.error).startswith("the process died: ")
    assert alive.error is None


def fill_pool(pool: Path, seed: int = 100) -> Path:
    pool.mkdir(exist_ok=True)
    for index in range(12):
        rng = np.random.default_rng(seed + index)
        Image.fromarray(rng.integers(0, 255, (48, 48, 3), np.uint8)).save(pool / f"{index}.png")
    return pool


def run_loops(
    squares: Dataset,
    variants: list[Variant],
    pool: Path | str | None,
    out: Path,
    arm: str = "mined",
) -> Comparison:
    return compare_recipes(
        variants,
        ComparedData(
            squares.subset([0, 1, 2, 3]),
            squares.subset([4, 5, 6, 7]),
            squares.subset([8, 9, 10, 11]),
            pool,
        ),
        weights="none",
        options=CompareOptions(seeds=1, epochs=1, rounds=1, draws=20, arm=arm),
        out=out,
    )


def test_with_a_pool_whole_loops_are_compared(
    squares: Dataset, tiny_yaml: str, tmp_path: Path
) -> None:
    variants = [
        Variant("one", tiny_yaml, loop={"add": 0.25, "min_score": 0.0}),
        Variant("three", tiny_yaml, loop={"add": 3, "min_score": 0.0}),
    ]
    found = run_loops(squares, variants, fill_pool(tmp_path / "pool"), tmp_path / "out")
    added = {}
    for variant in found.variants:
        (cell,) = variant.cells
        assert cell.error is None
        added[variant.name] = json.loads((cell.folder / "cell.json").read_text())["added"]
        learned = variant.means["AP50_training"]
        assert learned is not None  # one epoch is too short, and it is said
        assert f"{variant.name} ({learned:.3f})" in found.statements[1]
    assert added == {"one": [1], "three": [3]}  # a quarter of four images; three images
    assert found.statements[1].startswith("AP50 on the training images themselves is below 0.97")
    page = (tmp_path / "out" / "compare.html").read_text()
    assert f'<td>three</td><td class="text">{tiny_yaml}</td><td' in page
    assert "loop.add=3 loop.min_score=0.0" in page
    assert f"loops that mined from {tmp_path / 'pool'}: the figures" in page


def test_a_finished_loop_stands_for_its_own_arm_and_pool_alone(
    squares: Dataset, tiny_yaml: str, tmp_path: Path
) -> None:
    variants = [Variant("one", tiny_yaml, loop={"add": 1}), Variant("two", tiny_yaml)]
    pool, out = fill_pool(tmp_path / "pool"), tmp_path / "out"

    def images_of(arm: str) -> str:
        found = run_loops(squares, variants, pool, out, arm)
        folder = found.variants[0].cells[0].folder
        assert found.variants[0].cells[0].figures["measurement"]["arm"] == arm
        return (folder / "rounds" / f"{arm}-1" / "candidates.csv").read_text()

    first = images_of("mined")
    assert images_of("mined") == first
    images_of("random")
    fill_pool(pool, seed=900)  # other pictures under the same names
    assert images_of("mined") != first


def test_a_pool_is_the_same_by_its_relative_and_its_whole_path(
    squares: Dataset, tiny_yaml: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variants = [Variant("one", tiny_yaml, loop={"add": 1}), Variant("two", tiny_yaml)]
    pool = fill_pool(tmp_path / "pool")
    monkeypatch.chdir(tmp_path)

    def cells(given: Path | str, out: str) -> list[str]:
        found = run_loops(squares, variants, given, tmp_path / out)
        assert [cell.error for v in found.variants for cell in v.cells] == [None, None]
        return sorted(path.name for path in (tmp_path / out / "cells").iterdir())

    first = cells("pool", "out")
    assert cells(pool, "out") == cells("./pool/", "out") == first


@pytest.mark.parametrize(
    ("loop", "with_pool", "said"),
    [
        ({"add": 0.5}, False, "changed: got loop.add without a pool to mine from"),
        ({"ad": 0.5}, True, "changed: LoopOptions: no option 'ad'"),
        ({"add": "much"}, True, "changed: add: got 'much'"),
        ({"seed": 3}, True, "changed: got loop.seed, which compare itself sets"),
        ({"arms": "random,none"}, True, "changed: no arm 'mined' among its arms"),
    ],
)
def test_options_of_a_loop_are_judged_before_anything_is_trained(
    squares: Dataset, loop: dict[str, Any], with_pool: bool, said: str, tmp_path: Path
) -> None:
    pool = fill_pool(tmp_path / "pool") if with_pool else None
    variants = [Variant("plain"), Variant("changed", loop=loop)]
    with pytest.raises(ConfigError, match=said):
        run_loops(squares, variants, pool, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_there_are_named_before_anything_is_trained(
    squares: Dataset, tiny_yaml: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"weights: no file .*absent\.pth"):
        compare_recipes(
            [Variant("one", tiny_yaml), Variant("two", tiny_yaml, ("batch.size=2",))],
            ComparedData(squares.subset([0, 1]), squares.subset([4, 5])),
            weights=tmp_path / "absent.pth",
            out=tmp_path / "out",
        )
    assert not (tmp_path / "out").exists()


def test_without_negatives_it_is_said_that_alarms_were_not_counted(
    squares: Dataset, tiny_yaml: str, tmp_path: Path
) -> None:
    variants = [Variant("one", tiny_yaml), Variant("two", tiny_yaml, ("batch.size=2",))]
    options = CompareOptions(seeds=1, epochs=1, draws=20, weights="none")
    without = ComparedData(squares.subset([0, 1, 2, 3]), squares.subset([4, 5]))
    found = compare_recipes(variants, without, options=options, out=tmp_path / "out")
    assert "alarms were not counted" in found.statements[-1]
    assert "alarms were not counted" in (tmp_path / "out" / "compare.html").read_text()
    assert "not counted" not in " ".join(run(squares, variants, tmp_path / "with").statements)


def test_options_of_a_loop_win_over_those_of_the_comparison() -> None:
    given = Variant("a", loop={"rounds": 2, "arms": "mined,none", "accept": "review"})
    found = loop_options(given, CompareOptions(rounds=5))
    assert found == {"rounds": 2, "arms": ("mined", "none"), "stop": "never", "accept": "review"}


def test_a_loop_that_waits_for_decisions_is_no_result(
    squares: Dataset, tiny_yaml: str, tmp_path: Path
) -> None:
    variants = [
        Variant("plain", tiny_yaml),
        Variant("careful", tiny_yaml, loop={"accept": "review", "min_score": 0.0}),
    ]
    found = run_loops(squares, variants, fill_pool(tmp_path / "pool"), tmp_path / "out")
    assert "waits for decisions" in str(found.variants[1].cells[0].error)


def test_negatives_that_are_trained_on_anyway_stay_training_images(
    squares: Dataset, tiny_yaml: str, tmp_path: Path
) -> None:
    """Image 8 is in the data already; only image 9 makes a difference."""
    found = compare_recipes(
        [Variant("a", tiny_yaml), Variant("b", tiny_yaml, with_negatives=True)],
        ComparedData(
            squares.subset([0, 1, 2, 3, 8]),
            squares.subset([4, 5, 6, 7]),
            train_negatives=squares.subset([8, 9]),
        ),
        weights="none",
        options=CompareOptions(seeds=1, epochs=1, draws=20),
        out=tmp_path / "out",
    )
    assert (found.sets["train_images"], found.sets["train_negatives"]) == (5, 1)
    eight = str(squares.records[8].path)
    assert found.sets["left_out"][0] == (
        f"{eight} repeats {eight} (train_negatives/train); it was left out"
    )


def test_images_in_two_parts_and_unreadable_ones_are_named(
    squares: Dataset, tmp_path: Path
) -> None:
    (squares.root / "9.png").write_bytes(b"no picture")
    data = ComparedData(
        squares.subset([0, 1, 2, 3]), squares.subset([3, 4, 5]), squares.subset([8, 9])
    )
    sets = comparing._prepare(data, tmp_path, DataOptions(), silent)
    assert sets.names["left_out"] == [
        "1 validation image is trained on as well; still in use",
        f"{squares.root / '9.png'}: the image does not decode",
    ]


def test_one_recipe_or_one_name_twice_is_refused(squares: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two or more recipes"):
        run(squares, [Variant("a")], tmp_path)
    with pytest.raises(ConfigError, match="each once"):
        run(squares, [Variant("a"), Variant("a")], tmp_path)


def test_all_cells_failed_is_an_error(squares: Dataset, tiny_yaml: str, tmp_path: Path) -> None:
    bad = ("augment.alarm_paste.source=absent.json", "augment.alarm_paste.probability=1")
    variants = [Variant("a", tiny_yaml, bad), Variant("b", tiny_yaml, (*bad, "batch.size=2"))]
    with pytest.raises(DataError, match="every cell failed"):
        run(squares, variants, tmp_path / "out")


def scores(offset: float, alarm_scores: list[float], num_images: int = 40) -> ArmScores:
    """Images with one object each, found at a score; negatives with one alarm each."""
    records, found = [], []
    box = np.array([[10, 10, 30, 30]], np.float32)
    for index in range(num_images):
        path = Path(f"{index}.jpg")
        one = np.ones(1, np.int64)
        records.append(ImageRecord(path, 50, 50, box, one, np.zeros(1, bool), ImageState.LABELLED))
        score = np.array([0.5 + index / 100], np.float32)
        found.append(Detections(box + np.float32(offset), score, one))
    val = Scored(Dataset(("a",), tuple(records), Path()), tuple(found))
    empty, fired = [], []
    for index, score in enumerate(alarm_scores):
        empty.append(ImageRecord.empty(Path(f"n{index}.jpg"), 50, 50, ImageState.VERIFIED_EMPTY))
        fired.append(Detections(box, np.array([score], np.float32), np.ones(1, np.int64)))
    return ArmScores(val, Scored(Dataset(("a",), tuple(empty), Path()), tuple(fired)))


def test_better_and_worse_are_said_of_the_right_side() -> None:
    # Threshold at recall .8 of 40 objects: the 32nd best of scores .50 .. .89, that is .58.
    few = scores(0.0, [0.9] * 5 + [0.1] * 35)  # 5 of 40 negatives fire
    many = scores(0.0, [0.9] * 30 + [0.1] * 10)  # 30 of 40
    by_figure = {item.figure: item for item in contrasts_of([(few, many)] * 3, 200)}
    assert by_figure["AP50"].verdict == "no difference shown"
    assert by_figure["alarms_at_0.8"].verdict == "better"
    assert by_figure["alarms_at_0.8"].value == pytest.approx(5 / 40)
    assert by_figure["alarms_at_0.8"].reference == pytest.approx(30 / 40)
    turned = {item.figure: item for item in contrasts_of([(many, few)] * 3, 200)}
    assert turned["alarms_at_0.8"].verdict == "worse"
    away = scores(15.0, [0.9] * 5 + [0.1] * 35)  # IoU 25 / 775 with the object: nothing is found
    missed = {item.figure: item for item in contrasts_of([(away, few)] * 3, 200)}
    assert missed["AP50"].verdict == "worse"
    assert missed["alarms_at_0.8"].verdict == "not measured"


def test_alarms_are_compared_at_each_recall_where_there_are_negatives() -> None:
    """At recall .5 (score .70) 2 of 40 images fire, at .8 (.58) and .9 (.54) 10."""
    arm, calm = scores(0.0, [0.895] * 2 + [0.6] * 8 + [0.1] * 30), scores(0.0, [0.1] * 40)
    found = contrasts_of([(calm, arm)], 20)
    assert [(item.figure, item.value, item.reference) for item in found[1:]] == [
        ("alarms_at_0.5", 0.0, 2 / 40),
        ("alarms_at_0.8", 0.0, 10 / 40),
        ("alarms_at_0.9", 0.0, 10 / 40),
    ]
    without = scores(0.0, [])
    assert [item.figure for item in contrasts_of([(without, without)], 20)] == ["AP50"]
    assert contrasts_of([], 20) == ()


def test_alarms_of_each_class_are_compared_where_there_are_several() -> None:
    """Forty objects of "a" at .50 to .89, eight of "b" at .3, whose alarms lie below all of "a"."""

    def arm(alarms_of_b: int) -> ArmScores:
        one = scores(0.0, [0.1] * 40)
        first, empty = one.val.dataset.records[0], one.negatives.dataset.records
        rare = [replace(first, path=Path(f"b{i}.jpg"), labels=np.array([2])) for i in range(8)]
        data = Dataset(("a", "b"), (*one.val.dataset.records, *rare), Path())
        box = first.boxes
        hit = Detections(box, np.array([0.3], np.float32), np.array([2]))
        low = Detections(box, np.array([0.35], np.float32), np.array([2]))
        fired = [low if i < alarms_of_b else Detections.none() for i in range(len(empty))]
        negatives = Scored(Dataset(("a", "b"), empty, Path()), tuple(fired))
        return ArmScores(Scored(data, (*one.val.detections, *[hit] * 8)), negatives)

    few, many = arm(12), arm(36)
    found = {item.figure: item for item in contrasts_of([(few, many)] * 3, 200)}
    assert found["alarms_at_0.8"].value == found["alarms_at_0.8"].reference == 0.0
    each = found["alarms_at_0.8_each_class"]
    assert (each.verdict, each.value, each.reference) == ("better", 12 / 40, 36 / 40)
    assert figures_of(few)["alarms_at_0.8_each_class"] == 12 / 40
    assert "alarms_at_0.8_each_class" not in figures_of(scores(0.0, [0.1] * 40))


@pytest.mark.parametrize(
    ("low", "high", "more", "less"),
    [
        (0.01, 0.2, "better", "worse"),
        (-0.2, -0.01, "worse", "better"),
        (0.0, 0.2, "no difference shown", "no difference shown"),
        (-0.2, 0.0, "no difference shown", "no difference shown"),
        (0.01, None, "better", "worse"),
        (None, -0.01, "worse", "better"),
        (None, 0.2, "no difference shown", "no difference shown"),
        (None, None, "not measured", "not measured"),
    ],
)
def test_limits_on_one_side_of_no_difference_decide(
    low: float | None, high: float | None, more: str, less: str
) -> None:
    for higher_is_better, verdict in ((True, more), (False, less)):
        found = compare_figures._verdict(low, high, none=0.0, higher_is_better=higher_is_better)
        assert found == verdict


def test_one_negative_image_makes_no_recipe_better() -> None:
    # Of the scores .50 .. .89 the threshold at recall .8 is .58: the image fires once in either arm.
    arm = scores(0.0, [0.9])
    found = {item.figure: item for item in contrasts_of([(arm, arm)], 20)}["alarms_at_0.8"]
    assert (found.verdict, found.value, found.low, found.high) == ("not measured", 1.0, None, None)
    base, other = judged("base", 1.0), replace(judged("other", 1.0), contrasts=(found,))
    said = statements_of([base, other])[-1]
    assert said.endswith("(one negative image does not show how much images differ)")


def test_few_alarms_on_very_many_images_are_not_nothing() -> None:
    """40 and 10 alarms on 100,000 frames of a video."""
    fewer = Contrast("alarms_at_0.8", 0.0001, 0.0004, 0.12, 0.5, "ratio", "better")
    known = [
        VariantSummary(name, {}, (), {"alarms_at_0.8": value}, contrasts)
        for name, value, contrasts in (("a", 0.0004, ()), ("b", 0.0001, (fewer,)))
    ]
    said = statements_of(known)[-1]
    assert "0.00010 against 0.00040 of a (95 % of the ratio: 0.120 to 0.500)" in said
    assert "b (alarms at recall .8 0.00010), against a" in conclusion(known)


def test_figures_at_several_recalls_and_rates() -> None:
    arm = scores(0.0, [0.895] * 2 + [0.6] * 8 + [0.1] * 30)
    found = figures_of(arm)
    # recall .5: the 20th best score, .70: 2 alarms; recall .8: .58: 10 alarms; recall .9: .54: 10.
    assert found["alarms_at_0.5"] == pytest.approx(2 / 40)
    assert found["alarms_at_0.8"] == pytest.approx(10 / 40)
    assert found["alarms_at_0.9"] == pytest.approx(10 / 40)
    assert found["threshold"] == pytest.approx(0.58, abs=1e-6)
    assert found["AP50"] == pytest.approx(1.0)
    # .1 alarms per image are 4 alarms: the score must stay above .6, which 29 objects reach.
    assert found["recall_at_0.1"] == pytest.approx(29 / 40)


def test_what_cannot_be_measured_has_no_figure() -> None:
    found = figures_of(scores(0.0, []))
    assert found["AP50 of a"] == pytest.approx(1.0)
    assert not any(key.startswith(("alarms", "recall")) for key in found)
    away = figures_of(scores(15.0, [0.9]))  # nothing is found
    assert (away["threshold"], away["alarms_at_0.8"]) == (None, None)


def test_the_preset_says_what_is_worth_it_and_trains_with_and_without_negatives(
    squares: Dataset, tiny_yaml: str, tmp_path: Path
) -> None:
    base = Variant("base", tiny_yaml)
    stock, *_, focal = mining_variants(base, with_negatives=False)
    found = compare_recipes(
        [stock, focal, replace(stock, name="more", with_negatives=True)],
        ComparedData(
            squares.subset([0, 1, 2, 3]),
            squares.subset([4, 5, 6, 7]),
            squares.subset([8, 9]),
            train_negatives=squares.subset([10, 11]),
        ),
        weights="none",
        options=CompareOptions(seeds=1, epochs=1, draws=20, preset="mining"),
        out=tmp_path,
    )
    assert "worth it" in found.statements[0].lower()
    assert found.sets["train_negatives"] == 2
    negatives = [
        json.loads((item.cells[0].folder / "metrics.json").read_text())["train_negatives"]
        for item in found.variants
    ]
    assert negatives == [0, 0, 2]
    # One epoch teaches these networks nothing, not even on what they were trained on.
    learned = [item.means["AP50_training"] for item in found.variants]
    assert all(value is not None and value < 0.97 for value in learned)
    said = [line for line in found.statements if line.startswith("AP50 on the training images")]
    assert len(said) == 1
    assert f"{found.variants[0].name} ({learned[0]:.3f}), {found.variants[1].name} (" in said[0]


def judged(name: str, alarms: float, *verdicts: str) -> VariantSummary:
    contrasts = tuple(Contrast("AP50", 0.5, 0.5, 0.0, 0.0, "difference", v) for v in verdicts)
    cells = tuple(CellResult(name, seed, Path()) for seed in range(3))
    return VariantSummary(name, {}, cells, {"alarms_at_0.8": alarms, "AP50": 0.5}, contrasts)


def test_what_is_worth_it_is_better_somewhere_and_worse_nowhere() -> None:
    first = judged("stock", 1.0)
    mixed, worse = judged("mixed", 0.1, "better", "worse"), judged("worse", 0.1, "worse")
    good, better = (
        judged("good", 0.8, "better"),
        judged("best", 0.5, "better", "no difference shown"),
    )
    assert conclusion([first, mixed, worse]).startswith("None of the 2 others")
    said = conclusion([first, mixed, good, better])
    assert said == (
        "Worth it on these data: best (AP50 0.500, alarms at recall .8 0.500), against stock "
        "(AP50 0.500, alarms at recall .8 1.000). Also better in some figure and worse in none: "
        "good (AP50 0.500, alarms at recall .8 0.800)."
    )
    bare = [replace(item, means={}) for item in (first, better)]
    assert conclusion(bare) == "Worth it on these data: best, against stock."
    few = [replace(item, cells=item.cells[:2]) for item in (first, better)]
    assert conclusion(few).startswith("Perhaps worth it on these data: best (AP50")


def page_of(out: Path, *summaries: VariantSummary, preset: bool = True) -> str:
    """Return the text of the page of a comparison."""
    options = CompareOptions(seeds=1, preset="mining" if preset else None)
    said = statements_of(summaries) or ["a sentence"]
    said = [conclusion(summaries), *said] if preset else said
    counts = {"train_images": 9, "val_images": 8, "negative_images": 7, "train_negatives": 6}
    write_compare_report(
        out / "c.html",
        Comparison(out, summaries, options, {**counts, "pool": None, "left_out": []}, tuple(said)),
    )
    return " ".join((out / "c.html").read_text().split())


def test_the_page_of_the_preset_says_what_to_change_or_to_keep(tmp_path: Path) -> None:
    first, same = judged("stock", 1.0), judged("same", 1.0, "no difference shown")
    best = replace(
        judged("best", 0.5, "better"), settings=("a.b=1", "c=[2, 3]"), with_negatives=True
    )
    page = page_of(tmp_path, first, same, best)
    assert "Worth it on these data: best (AP50 0.500" in page
    assert "<pre>--set a.b=1 --set &#39;c=[2, 3]&#39;</pre>" in page
    assert "trained on the 6 images without objects too" in page
    assert '<td class="better">better (+0.000 to +0.000)</td>' in page
    page = page_of(tmp_path, first, same)
    assert "None of the 1 others" in page
    assert "Keep what you have" in page
    page = page_of(tmp_path, first, same, preset=False)
    assert "What to change:" not in page
    assert "Keep what you have" not in page


def test_networks_that_have_hardly_learned_recommend_nothing(tmp_path: Path) -> None:
    first, best = judged("stock", 1.0), judged("best", 0.5, "better")
    low = [replace(item, means={**item.means, "AP50": 0.09}) for item in (first, best)]
    page = page_of(tmp_path, *low)
    assert "no recipe reaches an AP50 of 0.1" in page
    assert "What to change" not in page
    assert "Keep what you have" not in page
    low[0] = replace(first, means={"AP50": 0.1})
    assert "What to change" in page_of(tmp_path, *low)


def test_recipes_that_have_not_learned_their_own_images_are_named() -> None:
    def statements(*learned: float | None) -> str:
        items = [
            replace(judged(f"r{i}", 1.0), means={"AP50": 0.5, "AP50_training": value})
            for i, value in enumerate(learned)
        ]
        return " ".join(statements_of(items))

    assert "is below 0.97 with r1 (0.969): these trainings ended" in statements(0.98, 0.969, 0.97)
    assert "training images" not in statements(0.98, 0.97)
    assert "training images" not in statements(None, None)


def test_a_reference_that_was_not_trained_is_no_reason_to_keep_it(tmp_path: Path) -> None:
    bad = CellResult("odd", 0, tmp_path, error="no memory")
    first, odd = judged("stock", 1.0), replace(judged("odd", 0.5), cells=(bad, bad))
    page = page_of(tmp_path, first, odd)
    assert "Nothing could be compared with stock." in page
    assert "Keep what you have" not in page
    assert "odd: 2 of 2 trainings failed" in page


def test_failed_trainings_of_the_reference_are_said_and_leave_fewer_seeds(tmp_path: Path) -> None:
    first, good = judged("stock", 1.0), judged("good", 0.5, "better")
    failed = replace(first.cells[0], error="no memory")
    first = replace(first, cells=(failed, *first.cells[1:]))
    said = statements_of([first, good])
    assert said[0].startswith("2 seeds only: the intervals")
    assert said[1] == "stock, the reference: 1 of 3 trainings failed: no memory"
    assert said[-1].startswith("good is better in AP50 with these 2 seeds: 0.500 against 0.500")
    assert conclusion([first, good]).startswith("Perhaps worth it")
    assert "2 seeds only" in page_of(tmp_path, first, good).split("What differs from")[0]
    none = replace(first, cells=(failed,) * 3)
    assert statements_of([none, good])[0].startswith(
        "stock, the reference: 3 of 3 trainings failed"
    )


def test_a_failed_training_of_another_recipe_leaves_fewer_seeds_too() -> None:
    first, good = judged("stock", 1.0), judged("good", 0.5, "better")
    failed = replace(good.cells[1], error="no memory")
    said = statements_of([first, replace(good, cells=(good.cells[0], failed, good.cells[2]))])
    assert said[0].startswith("2 seeds only: the intervals")
    assert said[1] == "good: 1 of 3 trainings failed: no memory"


def test_a_figure_that_a_seed_lacks_has_no_mean() -> None:
    """A mean over some of the seeds would compare unlike things."""
    rows: list[dict[str, float | None]] = [
        {"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0},
        {"a": 3.0, "b": None, "d": math.inf},
    ]
    assert compare_figures.means_of(rows) == {"a": 2.0, "b": None, "c": None, "d": None}
    note = "recall 0.8 is not reached"
    lacks = Contrast("alarms_at_0.8", None, 0.2, None, None, "ratio", "not measured", note)
    first, other = judged("stock", 1.0), replace(judged("other", 1.0), contrasts=(lacks,))
    assert statements_of([first, other])[-1] == (
        "other: alarms per image at recall .8 is not defined for every seed (recall 0.8 is not "
        "reached)"
    )


def test_a_ratio_of_alarms_is_shown_as_a_factor(tmp_path: Path) -> None:
    fewer = Contrast("alarms_at_0.8", 0.1, 0.4, 0.12, 0.5, "ratio", "better")
    page = page_of(tmp_path, judged("stock", 1.0), replace(judged("b", 0.1), contrasts=(fewer,)))
    assert '<td class="better">better (× 0.120 to × 0.500)</td>' in page


def test_without_any_interval_it_is_said_that_nothing_could_be_compared(
    squares: Dataset, tiny_yaml: str, tmp_path: Path
) -> None:
    bad = ("augment.alarm_paste.source=absent.json", "augment.alarm_paste.probability=1")
    found = run(squares, [Variant("a", tiny_yaml, bad), Variant("b", tiny_yaml)], tmp_path / "out")
    assert found.statements[-1] == "Nothing could be compared with a."
    assert "only: the intervals" not in " ".join(found.statements)
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "Nothing could be compared with a." in page


def test_the_chart_names_lines_of_any_name_and_number_below_it(tmp_path: Path) -> None:
    """The seventh line has the colour of the first again, and is dashed."""
    names = ["plain", "_mine.yaml", *(f"r{n}" for n in range(4)), f"{'long+' * 60}end"]
    curve = ((0.01, 0.5), (0.1, 0.8))
    page = page_of(tmp_path, *(replace(judged(name, 1.0), curve=curve) for name in names))
    legend = page.split('<ul class="legend">')[1].split("</ul>")[0]
    assert [item.split("</i>")[1].split("</li>")[0] for item in legend.split("<li>")[1:]] == names
    looks = [item.split('"')[1] for item in legend.split("<li>")[1:]]
    assert looks[0] == "border-top: 3px solid var(--arm-0)"
    assert looks[6] == "border-top: 3px dashed var(--arm-0)"
    assert len(set(looks)) == 7
    assert page.split("<svg")[1].count("stroke-dasharray") == 1


def test_what_chance_alone_calls_better_is_said() -> None:
    """A twentieth of the intervals of 95 % exclude what is true, half of them on the good side."""
    first = judged("stock", 1.0)
    many = [judged(str(i), 1.0, "better", *["no difference shown"] * 4) for i in range(16)]
    said = chance_note([first, *many])
    assert said.startswith(
        "80 intervals of 95 % are compared, 16 of which say better and 0 worse; "
    )
    assert "; on average 2 would say better" in said
    assert "25 intervals of 95 % are compared, 5 of which" in chance_note(many[:5])
    assert "on average .6 would" in chance_note(many[:5])
    assert chance_note([first, many[0], judged("odd", 1.0, *["not measured"] * 9)]) == ""


def test_the_command_trains_every_recipe_on_images_without_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Variant] = []
    monkeypatch.chdir(tmp_path)
    for name in ("data", "mined", "pool"):
        (tmp_path / name).mkdir()

    def stand_in(variants: list[Variant], *_: object, **__: object) -> None:
        seen.extend(variants)
        raise DataError("enough")

    monkeypatch.setattr("hardmine.comparison.compare_recipes.compare_recipes", stand_in)
    words = ["compare", "default", "auto", "data", "--train-negatives", "mined"]
    assert run_line(words) == 1
    assert [variant.with_negatives for variant in seen] == [True, True]
    assert run_line([*words, "--pool", "pool"]) == 2
    assert "wanted one of them" in " ".join(capsys.readouterr().err.split())
    assert len(seen) == 2


def test_a_negative_figure_has_one_minus_sign_whatever_its_size() -> None:
    assert [figure_text(value) for value in (-0.055, -0.0005, 0.25, None)] == [
        "−0.055",
        "−0.00050",
        "0.250",
        "–",
    ]


def test_a_threshold_near_one_is_told_from_one() -> None:
    assert cell_text("threshold", 0.99979) == "0.99979"
    assert cell_text("AP50", 0.99979) == "1.000"
