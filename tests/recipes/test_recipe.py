"""Recipes: round trips, typos, contradictions."""

from __future__ import annotations

import json
import re
from dataclasses import field, fields, make_dataclass, replace
from pathlib import Path

import pytest
import yaml

from hardmine.errors import ConfigError
from hardmine.losses.loss_functions import GIoUConfig, SmoothL1Config
from hardmine.losses.multibox_loss import LossConfig
from hardmine.losses.negative_mining import MixedConfig
from hardmine.models.backbones import SmallNetConfig
from hardmine.models.layers import NormalInit, XavierInit
from hardmine.models.ssd import SSDConfig
from hardmine.recipes.named_recipes import RECIPES, named_recipe
from hardmine.recipes.recipe import (
    Recipe,
    current_form,
    load_recipe,
    recipe_from_dict,
    recipe_identity,
    recipe_to_dict,
)


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
        ("loss: {selection: {kind: hardest}}", r"loss\.selection: .*'all', 'random', 'ratio'"),
        ("loss: {selection: {kind: band, count: 3}}", r"unknown key 'loss\.selection\.count'"),
        ("loss: {selection: {nms_iou: 2}}", r"nms_iou: got 2\.0, wanted 0 < nms_iou <= 1"),
        (
            "loss: {localisation: {kind: giou, delta: 1}}",
            r"unknown key 'loss\.localisation\.delta'",
        ),
        ("loss: {normaliser: {kind: mean}}", r"loss\.normaliser: .*'selected', 'batch', 'image'"),
        (
            "{model: {score_form: softmax}, loss: {classification: {kind: focal}}}",
            "score_form: got 'softmax', wanted 'sigmoid' for loss.classification 'focal'",
        ),
        (
            "model: {backbone: {kind: resnet}}",
            r"model\.backbone: .*'taps', 'timm', 'vgg16', 'small'",
        ),
        ("batch: {min_object_share: 2}", r"min_object_share: got 2\.0, wanted 0\.\.1"),
        (
            "batch: {min_object_share: 0.75, negative_share: 0.5}",
            r"negative_share: got 0\.5, but batch\.min_object_share 0\.75 leaves 0\.25 at most",
        ),
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


@pytest.mark.parametrize(
    "selection",
    [
        "{kind: all}",
        "{kind: random, count: 16, neg_to_pos_ratio: 0}",
        "{kind: ratio, rank: both, nms_iou: 0.6}",
        "{kind: hard_examples, count: 0, neg_to_pos_ratio: 3, floor: 8}",
        "{kind: batch_ratio, least: 5}",
        "{kind: band, low: 0.1, high: 0.4}",
        "{kind: level_quota, shares: [2, 1]}",
        "{kind: mixed, hard_start: 0.2, ramp: 0.7}",
    ],
)
@pytest.mark.parametrize(
    "rest",
    [
        "classification: {kind: sigmoid}, localisation: {kind: giou}, normaliser: {kind: batch}",
        "classification: {kind: focal, gamma: 1.5}, normaliser: {kind: image}, suspect_score: 0.9",
        "localisation: {delta: 0.11}, normaliser: {kind: moving_average, momentum: 0.99}",
    ],
)
def test_every_part_of_the_loss_is_a_setting(tmp_path: Path, selection: str, rest: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"loss: {{selection: {selection}, {rest}}}")
    recipe = load_recipe(path)
    values = recipe_to_dict(recipe)
    assert recipe_from_dict(json.loads(json.dumps(values))) == recipe
    assert isinstance(recipe.model, SSDConfig)
    assert recipe.model.score_form == recipe.loss.score_form
    for part, chosen in yaml.safe_load(path.read_text())["loss"].items():
        if isinstance(chosen, dict):
            assert chosen.items() <= values["loss"][part].items()


def test_the_settings_in_the_page_of_differences_load() -> None:
    page = Path(__file__).parents[2] / "docs" / "differences.md"
    cells = re.findall(r"`((?:selection|normaliser): \{[^`]*\})`", page.read_text(encoding="utf-8"))
    assert len(cells) >= 9
    for cell in cells:
        values = yaml.safe_load("{" + cell + "}")
        recipe = recipe_from_dict({"loss": values})
        assert (
            values.items()
            <= {
                key: {k: v for k, v in part.items() if k in values.get(key, {})}
                if isinstance(part, dict)
                else part
                for key, part in recipe_to_dict(recipe)["loss"].items()
            }.items()
        )


def test_the_first_checkpoints_delta_is_moved() -> None:
    old = current_form({"loss": {"smooth_l1_delta": 0.5, "box_weight": 2.0}})
    loss = recipe_from_dict(old).loss
    assert loss == LossConfig(localisation=SmoothL1Config(delta=0.5), box_weight=2.0)


def test_a_former_key_is_accepted_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    recipe = recipe_from_dict({"loss": {"quarantine": 0.9, "box_weight": 2.0}})
    assert recipe.loss == LossConfig(suspect_score=0.9, box_weight=2.0)
    assert caplog.messages == ["recipe: loss.quarantine is now called loss.suspect_score"]
    assert current_form({"loss": {"quarantine": 0.9}}) == {"loss": {"suspect_score": 0.9}}
    with pytest.raises(ConfigError, match=r"unknown key 'loss.box_wieght', .*mean 'box_weight'"):
        recipe_from_dict({"loss": {"box_wieght": 2.0}})


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


def test_the_file_of_a_recipe_as_the_name_of_a_model_leads_to_the_option_for_it() -> None:
    with pytest.raises(ConfigError, match=r"got 'my/small\.yaml', .* goes to --recipe"):
        named_recipe("my/small.yaml")


def test_unknown_model_lists_the_known_and_says_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"got 'ssd9000', wanted one of .*small160, ssd300"):
        named_recipe("ssd9000")
    with pytest.raises(ConfigError, match=r"got 'small16', .*; did you mean 'small160'\?"):
        named_recipe("small16")


def test_steps() -> None:
    # 40 passes over 160 images in batches of 16.
    assert Recipe(epochs=40).steps(160) == 400


def test_an_identity_holds_only_what_differs_from_the_defaults() -> None:
    assert recipe_identity(Recipe()) == {}
    assert recipe_identity(replace(Recipe(), epochs=7.0)) == {"epochs": 7.0}
    loss = LossConfig(selection=MixedConfig(ramp=0.25), localisation=GIoUConfig())
    assert recipe_identity(replace(Recipe(), loss=loss)) == {
        "loss": {"selection": {"kind": "mixed", "ramp": 0.25}, "localisation": {"kind": "giou"}}
    }


def test_a_new_field_with_a_default_changes_no_identity() -> None:
    """A copy of the class with one more field stands for the next version."""
    recipe = named_recipe("ssd300_vgg16")
    newer = make_dataclass(
        "Recipe", [("added", int, field(default=3))], bases=(Recipe,), frozen=True, slots=True
    )
    values = {item.name: getattr(recipe, item.name) for item in fields(recipe)}
    assert recipe_identity(newer(**values)) == recipe_identity(recipe)
    assert recipe_identity(newer(**values, added=4))["added"] == 4


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_different_recipes_have_different_identities(name: str) -> None:
    identity = recipe_identity(named_recipe(name))
    assert all(identity != recipe_identity(named_recipe(other)) for other in {*RECIPES} - {name})


def test_a_network_of_torchvision_is_not_compiled() -> None:
    with pytest.raises(ConfigError, match="compile: the shapes inside fasterrcnn_resnet50_fpn"):
        replace(named_recipe("fasterrcnn_resnet50_fpn"), compile=True)
