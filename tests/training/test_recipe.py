"""Recipes: round trips, typos, contradictions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hardmine.errors import ConfigError
from hardmine.model.backbone import SmallNetConfig
from hardmine.model.init import NormalInit, XavierInit
from hardmine.training.recipe import (
    Recipe,
    current_form,
    load_recipe,
    recipe_from_dict,
    recipe_to_dict,
)
from hardmine.training.recipes import RECIPES, named_recipe


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_round_trip_through_json(name: str) -> None:
    recipe = named_recipe(name)
    assert recipe_from_dict(json.loads(json.dumps(recipe_to_dict(recipe)))) == recipe
    assert recipe.model.name == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", "unknown key 'epoch', wanted one of .*epochs"),
        ("loss: {selection: {flor: 3}}", r"unknown key 'loss\.selection\.flor'"),
        ("loss: {selection: {floor: many}}", r"loss\.selection\.floor: .* got 'many'"),
        (
            "model: {backbone: {kind: resnet}}",
            r"model\.backbone: .*'taps', 'timm', 'vgg16', 'small'",
        ),
        ("batch: {min_object_share: 2}", r"min_object_share: got 2\.0, wanted 0\.\.1"),
        ("augment: {max_expand: 0.5}", "max_expand >= 1"),
        ("- 1", "wanted a mapping of recipe keys, got list"),
        ("a: [", "not a readable recipe"),
    ],
)
def test_faults_are_named(tmp_path: Path, text: str, message: str) -> None:
    """Trap: a typo in an option must be an error, not ignored."""
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        load_recipe(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_a_fragment_is_laid_over_the_base(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "epochs: 7\nmodel: {backbone: {kind: small, widths: [8, 16], depths: [1, 1]}}\n"
    )
    recipe = load_recipe(path, named_recipe("ssdlite320_mobilenet_v2"))
    assert recipe.epochs == 7
    assert recipe.model.backbone == SmallNetConfig(widths=(8, 16), depths=(1, 1))
    assert recipe.model.neck == named_recipe("ssdlite320_mobilenet_v2").model.neck


@pytest.mark.parametrize(
    ("std", "init"), [(0.03, NormalInit(std=0.03)), (0.0, XavierInit(magnitude=1.0))]
)
def test_the_recipe_of_an_earlier_checkpoint(std: float, init: NormalInit | XavierInit) -> None:
    """Before necks and initialisers had kinds."""
    old = recipe_to_dict(named_recipe("small160"))
    for part, key in (("neck", "kind"), ("neck", "norm"), ("neck", "kernels"), ("head", "kind")):
        del old["model"][part][key]
    del old["model"]["head"]["prior_probability"]
    del old["model"]["init"]
    old["model"]["head"]["init_std"] = std
    recipe = recipe_from_dict(current_form(old))
    assert recipe.model == replace(named_recipe("small160").model, init=init)


def test_unknown_model_lists_the_known() -> None:
    with pytest.raises(ConfigError, match=r"got 'ssd9000', wanted one of .*small160, ssd300"):
        named_recipe("ssd9000")


def test_steps() -> None:
    # 40 passes over 160 images in batches of 16.
    assert Recipe(epochs=40).steps(160) == 400
