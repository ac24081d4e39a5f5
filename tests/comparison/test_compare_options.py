"""How a recipe of a comparison is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from hardmine.comparison.compare_options import (
    MINING,
    STOCK,
    Variant,
    base_shown,
    mining_variants,
    parse_variant,
)
from hardmine.errors import ConfigError
from hardmine.losses.loss_functions import FocalConfig
from hardmine.recipes.named_recipes import named_recipe, ssd320_mobilenet_v2_fpnlite
from hardmine.recipes.recipe import apply_settings, recipe_to_dict


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("default", Variant("default")),
        ("ssd300_vgg16", Variant("ssd300_vgg16", "ssd300_vgg16")),
        (
            "default+loss.selection.kind=level_quota+loop.add=0.5+loop.retrain=fresh",
            Variant(
                "default+loss.selection.kind=level_quota+loop.add=0.5+loop.retrain=fresh",
                "",
                ("loss.selection.kind=level_quota",),
                {"add": 0.5, "retrain": "fresh"},
            ),
        ),
        ("quota:default+batch.size=4", Variant("quota", "", ("batch.size=4",))),
        ("b:default+batch.size=4", Variant("b", "", ("batch.size=4",))),
        (r"C:\recipe.yaml", Variant(r"C:\recipe.yaml", r"C:\recipe.yaml")),
        (
            "mine.yaml+loop.rounds=2",
            Variant("mine.yaml+loop.rounds=2", "mine.yaml", (), {"rounds": 2}),
        ),
        ("a+b/c.yaml", Variant("a+b/c.yaml", "a+b/c.yaml")),
        (
            "low:a+b/c.yaml+optim.lr=1e+0+batch.size=4",
            Variant("low", "a+b/c.yaml", ("optim.lr=1e+0", "batch.size=4")),
        ),
    ],
)
def test_a_recipe_with_changes(text: str, wanted: Variant) -> None:
    assert parse_variant(text) == wanted


def test_changes_for_all_come_first_and_a_recipe_has_the_last_word() -> None:
    """A key may be set once, so that of a recipe takes the place of that for all."""
    found = parse_variant("default+batch.size=4", ["batch.size=8", "epochs=2", "loop.add=1"])
    assert found.settings == ("epochs=2", "batch.size=4")
    assert found.loop == {"add": 1}
    assert apply_settings(ssd320_mobilenet_v2_fpnlite(), found.settings).batch.size == 4


def test_the_folder_of_a_recipe_may_be_named_like_a_change(tmp_path: Path) -> None:
    recipe = tmp_path / "base+optim.lr=0.1" / "recipe.yaml"
    recipe.parent.mkdir()
    recipe.touch()
    assert parse_variant(str(recipe)) == Variant(str(recipe), str(recipe))
    found = parse_variant(f"low:{recipe}+batch.size=4")
    assert (found.base, found.settings) == (str(recipe), ("batch.size=4",))
    many = "+".join(["default", *(f"model.priors.a{n}=1" for n in range(99))])
    assert len(parse_variant(many).settings) == 99  # longer than the name of a file may be


def test_a_change_for_all_may_hold_a_plus() -> None:
    found = parse_variant("default", ["optim.lr=1e+0", "augment.alarm_paste.source=a+b=c.json"])
    assert found.settings == ("optim.lr=1e+0", "augment.alarm_paste.source=a+b=c.json")


def test_a_change_without_a_value_is_named() -> None:
    with pytest.raises(ConfigError, match=r"after a '\+': got 'batch.size', wanted KEY=VALUE"):
        parse_variant("default+batch.size")
    with pytest.raises(ConfigError, match=r"--set: got 'batch.size', wanted KEY=VALUE"):
        parse_variant("default", ["batch.size"])


def test_the_preset_has_every_way_of_selecting_negatives_once() -> None:
    """What the first selects is what most frameworks do: nothing for an image without objects."""
    base = parse_variant("mine.yaml+batch.size=4")
    made = mining_variants(base, with_negatives=False)
    assert [variant.name for variant in made] == list(MINING)
    assert made[0].name == STOCK
    recipes = [apply_settings(ssd320_mobilenet_v2_fpnlite(), variant.settings) for variant in made]
    assert all(recipe.batch.size == 4 for recipe in recipes)
    assert recipes[0].loss.selection.floor == 0  # type: ignore[union-attr]
    chosen = [(r.loss.selection, r.loss.classification) for r in recipes]
    assert all(chosen.count(each) == 1 for each in chosen)
    assert {r.loss.selection.kind for r in recipes} >= {
        "all", "random", "ratio", "band", "level_quota", "mixed",
    }  # fmt: skip


def test_the_preset_over_a_recipe_without_a_floor_gives_every_rule_but_the_first_one() -> None:
    """A run without a floor is what the preset is asked about; its recipe is the base then."""
    base = apply_settings(ssd320_mobilenet_v2_fpnlite(), ["loss.selection.floor=0"])
    made = mining_variants(Variant("base"), with_negatives=False)
    rules = [apply_settings(base, variant.settings).loss for variant in made]
    chosen = [(loss.selection, loss.classification) for loss in rules]
    assert all(chosen.count(each) == 1 for each in chosen)
    floors = [getattr(loss.selection, "floor", None) for loss in rules]
    assert floors == [0, None, 32, 32, 32, 32, 32, 32, None]


def test_the_preset_lays_its_choices_over_those_of_the_recipe() -> None:
    base = parse_variant("default+loss.classification.kind=focal+loss.classification.gamma=1")
    focal = mining_variants(base, with_negatives=False)[-1]
    loss = apply_settings(ssd320_mobilenet_v2_fpnlite(), focal.settings).loss
    assert loss.classification == FocalConfig(gamma=1.0)
    taken = parse_variant("default", ["loss.selection.floor=16"])
    with pytest.raises(ConfigError, match=r"got loss\.selection\.floor=16, which the preset"):
        mining_variants(taken, with_negatives=False)


def test_with_negatives_each_is_there_twice() -> None:
    made = mining_variants(Variant("default"), with_negatives=True)
    assert len({variant.name for variant in made}) == 2 * len(MINING)
    assert [variant.with_negatives for variant in made] == [False] * 9 + [True] * 9


def test_of_auto_the_page_says_what_it_took() -> None:
    recipe = apply_settings(
        named_recipe("ssd320_mobilenet_v2_fpnlite"),
        [
            "loss.selection.kind=level_quota",
            "model.priors.anchor_scale=2.5",
            "optim.lr=0.5",
            "epochs=3",
        ],
    )
    values = recipe_to_dict(recipe)
    shown = base_shown("auto", values, ("optim.lr=0.5",))
    assert shown.startswith("auto, here ssd320_mobilenet_v2_fpnlite ")
    changed = shown.split()[3:]
    # The quota has another floor than the rule of the named recipe.
    assert sorted(changed) == [
        "loss.selection.floor=32",
        "loss.selection.kind=level_quota",
        "model.priors.anchor_scale=2.5",
    ]
    assert base_shown("", values) == "default"
    assert base_shown("mine.yaml", values) == "mine.yaml"
