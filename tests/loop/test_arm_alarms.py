"""The alarms of confirmed negatives reach the trainings of later rounds."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hardmine.augment.paste import AlarmPasteConfig, read_alarms
from hardmine.recipes.recipe import Recipe
from hardmine.workflows.cached_models import TrainingRequest
from loop_fakes import BOX, World, run, sheet_of

pytestmark = pytest.mark.usefixtures("no_page")


class Noting(World):
    """Also notes the recipe of each training."""

    def fit(self, request: TrainingRequest) -> Path:
        self.recipes = [*getattr(self, "recipes", []), request.recipe]
        return super().fit(request)


def pasting(source: str | None = None) -> Recipe:
    recipe = Recipe()
    config = AlarmPasteConfig(probability=0.5, source=source)
    return replace(recipe, augment=replace(recipe.augment, alarm_paste=config))


def test_a_round_pastes_the_alarms_of_all_rounds_before(
    inputs: dict[str, Any], tmp_path: Path
) -> None:
    world, out = Noting(), tmp_path / "run"
    run(inputs, out, world, rounds=2, recipe=pasting())
    sources = [recipe.augment.alarm_paste.source for recipe in world.recipes]
    assert sources == [None, *(str(out / f"rounds/mined-{n}/alarms.json") for n in (1, 2))]
    alarms = read_alarms(Path(sources[2] or ""))
    assert [a.image.name for a in alarms] == sheet_of(out, "mined", 1) + sheet_of(out, "mined", 2)
    assert {a.box for a in alarms} == {BOX}


def test_only_confirmed_images_give_alarms(inputs: dict[str, Any], tmp_path: Path) -> None:
    out, verdicts = tmp_path / "run", tmp_path / "verdicts.csv"
    run(inputs, out, World(), rounds=1, accept=verdicts, recipe=pasting())
    names = sheet_of(out, "mined", 1)
    with verdicts.open("w", newline="") as handle:
        rows = zip(names, ["empty", "contains_object", "empty"], strict=True)
        csv.writer(handle).writerows([("image", "verdict"), *rows])
    run(inputs, out, World(), rounds=1, accept=verdicts, recipe=pasting(), resume=True)
    found = [a.image.name for a in read_alarms(out / "rounds/mined-1/alarms.json")]
    assert found == [names[0], names[2]]


def test_a_given_source_stays_and_counts_by_content(inputs: dict[str, Any], tmp_path: Path) -> None:
    given = tmp_path / "given.json"
    given.write_text('[{"image": "a.jpg", "bbox": [1, 2, 3, 4], "score": 0.5}]')
    world, out = Noting(), tmp_path / "run"
    run(inputs, out, world, rounds=1, recipe=pasting(str(given)))
    assert {recipe.augment.alarm_paste.source for recipe in world.recipes} == {str(given)}
    shutil.copy(given, tmp_path / "copy.json")
    again = Noting()
    recipe = pasting(str(tmp_path / "copy.json"))
    run(inputs, out, again, rounds=1, recipe=recipe, resume=True)
    assert again.calls.count("fit") == 0, "the same alarms under another name: trained already"
    given.write_text('[{"image": "b.jpg", "bbox": [1, 2, 3, 4], "score": 0.5}]')
    run(inputs, out, again, rounds=1, recipe=pasting(str(given)), resume=True)
    assert again.calls.count("fit") == 2


def test_nothing_changes_where_nothing_is_pasted(inputs: dict[str, Any], tmp_path: Path) -> None:
    world = Noting()
    run(inputs, tmp_path / "run", world, rounds=1, arms=("mined", "random"))
    assert {recipe.augment.alarm_paste.source for recipe in world.recipes} == {None}
    assert (tmp_path / "run/rounds/mined-1/alarms.json").is_file()
    assert not (tmp_path / "run/rounds/random-1/alarms.json").exists()
