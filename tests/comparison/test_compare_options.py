"""How a recipe of a comparison is written."""

from __future__ import annotations

import pytest

from hardmine.comparison.compare_options import Variant, parse_variant
from hardmine.errors import ConfigError


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
        (
            "mine.yaml+loop.rounds=2",
            Variant("mine.yaml+loop.rounds=2", "mine.yaml", (), {"rounds": 2}),
        ),
    ],
)
def test_a_recipe_with_changes(text: str, wanted: Variant) -> None:
    assert parse_variant(text) == wanted


def test_changes_for_all_come_first_so_that_a_recipe_has_the_last_word() -> None:
    found = parse_variant("default+batch.size=4", "+batch.size=8+epochs=2")
    assert found.settings == ("batch.size=8", "epochs=2", "batch.size=4")


def test_a_change_without_a_value_is_named() -> None:
    with pytest.raises(ConfigError, match="wanted KEY=VALUE"):
        parse_variant("default+batch.size")
