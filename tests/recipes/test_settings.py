"""``key=value`` laid over a recipe: what it changes, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hardmine.errors import ConfigError
from hardmine.models.backbones import SmallNetConfig
from hardmine.recipes.named_recipes import named_recipe
from hardmine.recipes.recipe import Recipe, apply_settings


def test_settings_change_what_they_name_and_nothing_else() -> None:
    base = named_recipe("ssdlite320_mobilenet_v2")
    changed = apply_settings(
        base, ["batch.size=16", "model.backbone.frozen_to=null", "model.neck.widths=[64, 32]"]
    )
    model = replace(
        base.model,
        backbone=replace(base.model.backbone, frozen_to=None),
        neck=replace(base.model.neck, widths=(64, 32)),
    )
    assert changed == replace(base, batch=replace(base.batch, size=16), model=model)


def test_another_kind_starts_from_its_own_defaults_in_any_order() -> None:
    settings = ["model.backbone.num_taps=1", "model.backbone.kind=small"]
    wanted = SmallNetConfig(num_taps=1)
    assert apply_settings(Recipe(), settings).model.backbone == wanted
    assert apply_settings(Recipe(), settings[::-1]).model.backbone == wanted


def test_numbers_as_people_write_them() -> None:
    # YAML 1.1 reads 1e-4 (no point) as text; the field's type decides.
    assert apply_settings(Recipe(), ["optim.lr=1e-4"]).optim.lr == 1e-4


def test_gradients_may_be_clipped_at_infinity_which_is_never() -> None:
    assert apply_settings(Recipe(), ["optim.clip_norm=.inf"]).optim.clip_norm == float("inf")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["batch.size"], "'batch.size': wanted KEY=VALUE"),
        (["=3"], "wanted KEY=VALUE"),
        (["batch..size=3"], "wanted KEY=VALUE"),
        (["batch.sise=3"], r"unknown key 'batch\.sise', wanted one of .*size"),
        (["model.backbone.num_taps=3"], r"unknown key 'model\.backbone\.num_taps'"),
        (["batch=3"], "batch: .* got 3"),
        (["batch.size=many"], r"batch\.size: .* got 'many'"),
        (["batch.size=[1"], "the value is no YAML"),
        (["batch.size=8", "batch.size=16"], "'size' is set already; give it once"),
        (["batch=null", "batch.size=8"], "'batch' is set as a whole already"),
        (["augment.max_expand=0.5"], "max_expand >= 1"),
        (["loss.selection.neg_to_pos_ratio=.inf"], "neg_to_pos_ratio inf, .* and finite; all"),
        (["loss.selection.neg_to_pos_ratio=.nan"], "neg_to_pos_ratio nan, .* and finite; all"),
        (["optim.lr=.nan"], r"recipe: optim\.lr: got nan, wanted a finite number"),
        (["epochs=.inf"], "recipe: epochs: got inf, wanted a finite number"),
        (["augment.min_overlaps=[.1, .nan]"], r"augment\.min_overlaps: got nan, wanted a finite"),
        (["optim.clip_norm=.nan"], r"optim\.clip_norm: got nan, wanted a finite number"),
        (["optim.backbone_lr_scale=-1"], r"backbone_lr_scale -1\.0, .* wanted each >= 0"),
        (["optim.weight_decay=-.1"], r"weight_decay -0\.1, .* wanted each >= 0"),
        (["optim.warmup_steps=-5"], "warmup_steps -5, wanted each >= 0"),
        (["branch.lr_scale=0"], r"branch\.lr_scale: got 0\.0, wanted > 0"),
        (["model.backbone.kind=resnet"], r"model\.backbone: "),
    ],
)
def test_faults_are_one_line(settings: list[str], message: str) -> None:
    """Trap: a typo in an option must be an error, not ignored."""
    with pytest.raises(ConfigError, match=message) as error:
        apply_settings(Recipe(), settings)
    assert "\n" not in str(error.value)
