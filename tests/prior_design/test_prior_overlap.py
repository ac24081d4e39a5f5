"""Overlap of boxes with grids of priors: goldens by hand, and every prior one by one as the oracle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hardmine.boxes import box_iou, cxcywh_to_xyxy
from hardmine.errors import ConfigError
from hardmine.models.neck_and_head import ExtraLayersConfig
from hardmine.models.priors import ExplicitPriors, LinearPriors, make_priors
from hardmine.models.ssd import SSD, SSDConfig
from hardmine.prior_design.prior_layout import (
    LevelGrid,
    PriorLayout,
    count_reaching,
    find_best,
    layout_from_priors,
    layout_of_recipe,
    reaching_by_level,
    shape_iou,
)
from hardmine.recipes.recipe import Recipe
from hardmine.tensors import Priors


def grid_of(rows: int, columns: int, step: float, *shapes: tuple[float, float]) -> LevelGrid:
    return LevelGrid(rows, columns, step / 2, step / 2, step, step, np.array(shapes, np.float64))


def all_ious(boxes: np.ndarray, layout: PriorLayout) -> np.ndarray:
    """Every box against every prior: [N, A]."""
    priors = layout.to_priors().cxcywh.double()
    return box_iou(torch.from_numpy(boxes), cxcywh_to_xyxy(priors)).numpy()


def test_best_iou_by_hand() -> None:
    # 4 × 4 cells of 10 px, priors 10 × 10 at centres 5, 15, 25, 35. The box 12..22 × 10..20 has its
    # centre at (17, 15): nearest cell (15, 15), overlap 8 × 10 = 80, union 100 + 100 − 80 = 120.
    layout = PriorLayout((grid_of(4, 4, 10, (10, 10)),), 40, 40)
    best = find_best(np.array([[12.0, 10, 22, 20]]), layout)
    assert best.iou.tolist() == pytest.approx([80 / 120])
    assert (best.level.tolist(), best.index.tolist()) == ([0], [1 * 4 + 1])


def test_count_by_hand() -> None:
    # Priors 20 × 20 every 5 px (centres 2.5, 7.5 … 37.5), box 20 × 20 at centre (20, 20): offsets
    # are 2.5, 7.5 … on each axis. Intersection must reach 1/3 · 800 = 266.7: (17.5, 17.5) gives 306
    # yes; (17.5, 12.5) gives 219 no. So the 2 × 2 nearest cells.
    grid = grid_of(8, 8, 5, (20, 20))
    box = np.array([[10.0, 10, 30, 30]])
    assert count_reaching(box, grid, grid.shapes, 0.5).tolist() == [[4]]
    # At t = .35 the need is .35 / 1.35 · 800 = 207.4: (17.5, 12.5) does, (12.5, 12.5) = 156 does
    # not, (17.5, 7.5) = 131 does not: 4 + 8 cells.
    assert count_reaching(box, grid, grid.shapes, 0.35).tolist() == [[12]]


def test_an_exact_tie_reaches() -> None:
    # A prior of 10 × 20 with a box of 10 × 10 inside it: IoU exactly 1/2, in reach (inclusive).
    grid = LevelGrid(1, 1, 20.0, 20.0, 40.0, 40.0, np.array([[10.0, 20.0]]))
    assert count_reaching(np.array([[15.0, 15, 25, 25]]), grid, grid.shapes, 0.5).tolist() == [[1]]


def test_shape_iou_by_hand() -> None:
    # 20 × 10 and 10 × 20 on one centre: 100 / (200 + 200 − 100).
    assert shape_iou(np.array([[20.0, 10]]), np.array([[10.0, 20]])).tolist() == [[1 / 3]]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), threshold=st.sampled_from([0.3, 0.5, 0.7]))
def test_equal_to_every_prior_one_by_one(seed: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    levels = [
        LevelGrid(
            int(rng.integers(1, 7)),
            int(rng.integers(1, 7)),
            *rng.uniform(0, 20, 2),
            *rng.uniform(6, 30, 2),
            rng.uniform(4, 80, (int(rng.integers(1, 4)), 2)),
        )
        for _ in range(2)
    ]
    layout = PriorLayout(tuple(levels), 100, 120)
    low = rng.uniform(-10, 90, (20, 2))
    boxes = np.concatenate([low, low + rng.uniform(2, 90, (20, 2))], 1)
    iou = all_ious(boxes, layout)
    best = find_best(boxes, layout)
    assert best.iou == pytest.approx(iou.max(1), abs=1e-5)
    assert iou[np.arange(20), best.index] == pytest.approx(iou.max(1), abs=1e-5)
    level = layout.to_priors().level.numpy()
    assert (best.level == level[best.index]).all()
    wanted = np.stack([(iou[:, level == k] >= threshold).sum(1) for k in range(2)], 1)
    close = (np.abs(iou - threshold) < 1e-5).any(1)  # float32 priors may fall either way
    assert (reaching_by_level(boxes, layout, threshold) == wanted)[~close].all()


def test_the_layout_of_a_model_is_read_back() -> None:
    shapes = [(5, 6), (3, 3), (1, 1)]
    priors = make_priors(LinearPriors(), shapes, 160, 192)
    layout = layout_from_priors(priors, 160, 192)
    assert layout.count == len(priors.cxcywh)
    again = layout.to_priors()
    assert torch.allclose(again.cxcywh, priors.cxcywh, atol=1e-3)
    assert again.level.equal(priors.level)
    assert (layout.levels[0].step_y, layout.levels[0].step_x) == (32, 32)


def test_levels_with_different_numbers_of_shapes() -> None:
    config = ExplicitPriors(levels=(((10, 10), (20, 5)), ((30, 30),)))
    layout = layout_from_priors(make_priors(config, [(2, 2), (1, 1)], 40, 40), 40, 40)
    assert [grid.count for grid in layout.levels] == [8, 1]


def test_priors_off_a_grid_are_refused() -> None:
    cxcywh = torch.tensor([[5.0, 5, 10, 10], [15, 5, 10, 10], [29, 5, 10, 10]])
    priors = Priors(cxcywh, torch.zeros(3, dtype=torch.int64), ((1, 3),))
    with pytest.raises(ConfigError, match="priors of level 0: wanted the same shapes"):
        layout_from_priors(priors, 10, 30)


def test_the_network_of_a_model_is_built_once(
    tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []

    class Counted(SSD):
        def __init__(self, config: SSDConfig, categories: tuple[str, ...]) -> None:
            built.append(config.name)
            super().__init__(config, categories)

    monkeypatch.setattr("hardmine.models.ssd.SSD", Counted)
    recipe = replace(tiny_recipe, model=replace(tiny_recipe.model, name="once"))
    wide = replace(recipe, model=replace(recipe.model, name="wide", width=96))
    assert [layout_of_recipe(r).levels[0].columns for r in (recipe, wide, recipe)] == [6, 12, 6]
    assert layout_of_recipe(replace(recipe, epochs=1.0)).width == 48  # the model is the same
    assert built == ["once", "wide"]
    neck = ExtraLayersConfig(widths=[8], depthwise=False)  # type: ignore[arg-type] # a list has no hash
    listed = replace(recipe, model=replace(recipe.model, neck=neck))
    assert layout_of_recipe(listed).count == layout_of_recipe(recipe).count
