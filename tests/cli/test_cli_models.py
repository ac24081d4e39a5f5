"""``hardmine models``: the list, one model, the nodes of a backbone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

Cli = Callable[..., tuple[int, str, str]]


def test_one_model_shows_levels_strides_and_cells(cli: Cli) -> None:
    code, out, err = cli("models small160 --classes 3")
    assert (code, err) == (0, "")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    # 3 classes: 6 shapes, 10² + 5² + 3² + 2² cells.
    assert any(line.startswith("small160 160x160 0.7 M") and "828" in line for line in lines)
    assert any(line.startswith("stage 4 96 10x10 16 6 600 32x32") for line in lines)
    assert any(line.startswith("added 2 96 2x2 80 6 24") for line in lines)


def test_settings_reach_it_and_json_is_clean(cli: Cli, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "model: {height: 96, width: 128, backbone: {num_taps: 3}, neck: {kind: none}}"
    )
    code, out, err = cli("models small160 --json --recipe", recipe)
    assert (code, err) == (0, "")
    card = json.loads(out)
    assert [(level["rows"], level["columns"]) for level in card["levels"]] == [
        (12, 16),
        (6, 8),
        (3, 4),
    ]
    assert card["num_priors"] == 6 * (192 + 48 + 12)
    assert card["neck"] == "none"


def test_nodes_of_any_network(cli: Cli) -> None:
    code, out, err = cli(
        "models --nodes --json --set model.backbone.kind=timm --set model.backbone.name=resnet10t "
        "--set model.backbone.out_indices=[3]"
    )
    assert (code, err) == (0, "")
    strides = {320 // card["rows"] for card in json.loads(out)}
    assert strides == {2, 4, 8, 16, 32}


def test_mistakes(cli: Cli) -> None:
    code, _, err = cli("models ssd9000")
    assert code == 2
    assert "got 'ssd9000', wanted one of" in err
    code, _, err = cli("models --nodes")
    assert code == 2
    assert "'--nodes' needs a model" in err
    code, _, err = cli("models small160 --nodes")
    assert code == 2
    assert "the backbone of small160 has fixed taps, not chosen nodes" in err
    code, _, err = cli("models --set model.backbone.taps=[features.99]")
    assert code == 2
    assert "features.99" in err
