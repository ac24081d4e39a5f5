"""Fitted priors: better than bad ones, and never recommended where the default is as good."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hardmine.augment.geometry_and_colour import draw_view
from hardmine.augment.sample import Source
from hardmine.data.images import Picture
from hardmine.data.load_dataset import load_dataset
from hardmine.errors import ConfigError
from hardmine.models.priors import ExplicitPriors
from hardmine.prior_design.coverage import augmented_boxes, boxes_on_canvas, join
from hardmine.prior_design.fit_priors import (
    FitOptions,
    SearchConfig,
    box_values,
    cluster_sizes,
    fit_priors,
    recipe_fragment,
    search_shapes,
)
from hardmine.prior_design.prior_layout import LevelGrid, PriorLayout, layout_of_recipe
from hardmine.recipes.recipe import Recipe, load_recipe
from hardmine.types import Dataset, ImageRecord, ImageState


def with_priors(recipe: Recipe, *levels: tuple[tuple[float, float], ...]) -> Recipe:
    return replace(recipe, model=replace(recipe.model, priors=ExplicitPriors(levels=levels)))


def grids() -> PriorLayout:
    one = np.ones((1, 2))
    fine = LevelGrid(6, 6, 4.0, 4.0, 8.0, 8.0, one)
    return PriorLayout((fine, LevelGrid(3, 3, 8.0, 8.0, 16.0, 16.0, one)), 48, 48)


def test_clusters_by_hand() -> None:
    # Two kinds of boxes; the medians are those of each kind, whatever the start.
    sizes = np.array([[10, 10], [11, 10], [12, 10], [40, 80], [40, 82], [44, 84]], np.float64)
    for seed in range(5):
        assert cluster_sizes(sizes, 2, seed).tolist() == [[11, 10], [40, 82]]


def test_no_more_clusters_than_sizes() -> None:
    sizes = np.array([[10, 10], [10, 10], [30, 30]], np.float64)
    assert cluster_sizes(sizes, 5).tolist() == [[10, 10], [30, 30]]


def test_value_by_hand() -> None:
    # One cell of 48 px with a 24 × 24 prior at (24, 24); the box is the prior moved by 6 px:
    # IoU = 18 · 24 / (2 · 576 − 432) = .6, which reaches .5: one match of four that count.
    layout = PriorLayout((LevelGrid(1, 1, 24, 24, 48, 48, np.array([[24.0, 24.0]])),), 48, 48)
    value = box_values(np.array([[18.0, 12, 42, 36]]), layout, SearchConfig(budget=9))
    assert value.tolist() == pytest.approx([0.6 + 0.5 * 1 / 4])


def test_the_search_finds_the_shape_of_all_boxes() -> None:
    rng = np.random.default_rng(0)
    low = rng.random((60, 2)) * (48 - np.array([24, 6]))
    boxes = np.concatenate([low, low + np.array([24, 6])], 1)
    config = SearchConfig(budget=100)
    start = [np.array([[16.0, 16.0]]), np.array([[16.0, 16.0]])]
    found = search_shapes(boxes, grids(), start, config)
    before = box_values(boxes, grids().with_shapes(start), config).mean()
    assert box_values(boxes, found, config).mean() > before + 0.3
    # From a square, by steps: the widest of the fine level is near 24 × 6.
    shape = max(found.levels[0].shapes.tolist(), key=lambda s: s[0] / s[1])
    assert shape == pytest.approx([24, 6], rel=0.2)
    assert found.count <= 100
    assert all(len(grid.shapes) >= 1 for grid in found.levels)


def test_equal_numbers_of_shapes_for_a_shared_head() -> None:
    rng = np.random.default_rng(1)
    low = rng.random((40, 2)) * 20
    boxes = np.concatenate([low, low + rng.uniform(6, 28, (40, 2))], 1)
    start = [rng.uniform(6, 40, (9, 2)) for _ in range(2)]
    found = search_shapes(boxes, grids(), start, SearchConfig(budget=140, equal=True))
    numbers = [len(grid.shapes) for grid in found.levels]
    assert numbers[0] == numbers[1] > 1  # 45 priors a pair: at most three
    assert found.count <= 140


def test_a_budget_too_small_is_refused() -> None:
    start = [np.ones((1, 2))] * 2
    with pytest.raises(ConfigError, match="got a budget of 44, wanted at least 45"):
        search_shapes(np.array([[0.0, 0, 9, 9]]), grids(), start, SearchConfig(budget=44))


def test_the_fit_beats_bad_priors_on_held_out_boxes(long_boxes: Path, tiny_recipe: Recipe) -> None:
    """Tall priors for long boxes: none reaches .5; on the canvas the boxes are about 24 × 10."""
    bad = with_priors(tiny_recipe, ((6, 24), (5, 30)), ((6, 40),))
    found = fit_priors(load_dataset(long_boxes), bad, FitOptions(budget=200))
    was, now = (coverage.total() for coverage in found.plain)
    assert was.reach == 0 and was.no_level == was.boxes
    assert now.reach > 0.8 and now.mean_iou > 0.55
    assert found.recommended and found.gain.low > 0.3
    assert found.fitted.count <= 200


def test_a_gain_on_a_few_images_is_not_recommended(long_boxes: Path, tiny_recipe: Recipe) -> None:
    """Whatever a single image gains, its interval of images drawn again has no width."""
    bad = with_priors(tiny_recipe, ((6, 24), (5, 30)), ((6, 40),))
    few = load_dataset(long_boxes).subset(list(range(4)))
    found = fit_priors(few, bad, FitOptions(budget=200))
    assert found.gain.low > 0
    assert found.reasons_against == [
        "1 held-out image with boxes is too few to judge by, wanted 6 or more"
    ]


def test_priors_that_cannot_be_bettered_are_kept(tmp_path: Path, tiny_recipe: Recipe) -> None:
    """Every box is one of the default's priors: IoU 1 and full matches, nothing to gain."""
    recipe = with_priors(tiny_recipe, ((16, 16), (18, 14)), ((20, 20),))
    centres = layout_of_recipe(recipe).to_priors().cxcywh.numpy()
    inside = [c for c in centres if (c[:2] > 12).all() and (c[:2] < 36).all() and c[2] == 16]
    records = []
    for index in range(30):
        cx, cy, w, h = inside[index % len(inside)]
        box = np.array([[cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]], np.float32)
        path = tmp_path / f"{index}.jpg"
        one, no = np.ones(1, np.int64), np.zeros(1, np.bool_)
        records.append(ImageRecord(path, 48, 48, box, one, no, ImageState.LABELLED))
    found = fit_priors(Dataset(("thing",), tuple(records), tmp_path), recipe)
    assert not found.recommended
    assert "not surely above 0" in found.reasons_against[0]


def test_the_fragment_is_a_recipe(tmp_path: Path, tiny_recipe: Recipe) -> None:
    fitted = grids().with_shapes([np.array([[24.0, 6.5], [10, 10]]), np.array([[30.0, 20]])])
    path = tmp_path / "priors.yaml"
    path.write_text(recipe_fragment(fitted, "tiny", "planks"), encoding="utf-8")
    recipe = load_recipe(path, tiny_recipe)
    assert recipe == with_priors(tiny_recipe, ((24.0, 6.5), (10, 10)), ((30, 20),))
    again = layout_of_recipe(recipe)
    assert again.count == fitted.count == 36 * 2 + 9
    assert again.to_priors().cxcywh.equal(fitted.to_priors().cxcywh)


def test_augmented_boxes_are_those_of_the_window(long_boxes: Path, tiny_recipe: Recipe) -> None:
    dataset = load_dataset(long_boxes)
    plain = boxes_on_canvas(dataset, tiny_recipe.resize)
    still = augmented_boxes(dataset, tiny_recipe, 1)  # this recipe moves nothing
    assert still.boxes == pytest.approx(plain.boxes, abs=1e-3)
    zoom = replace(tiny_recipe, augment=replace(tiny_recipe.augment, expand=1.0, max_expand=2.0))
    moved = augmented_boxes(dataset, zoom, 3)
    assert len(moved) == 3 * len(plain)
    assert (moved.sizes <= np.repeat(plain.sizes, 3, axis=0) + 1e-6).all()
    assert moved.sizes.mean() < 0.9 * plain.sizes.mean()
    assert len(np.unique(join([plain, moved]).image)) == len(plain) + len(moved)


def test_augmented_boxes_are_those_that_training_shows(tmp_path: Path, tiny_recipe: Recipe) -> None:
    # The step of training that cuts a window out of the pixels, drawn by the same numbers.
    rng = np.random.default_rng(3)
    augment = replace(tiny_recipe.augment, expand=0.5, max_expand=2.0, crop=True, min_crop=0.3)
    recipe, picture = replace(tiny_recipe, augment=augment), Image.new("RGB", (90, 60))
    records, shown = [], []
    for index in range(6):
        low = rng.uniform(0, (80, 50), (5, 2))
        boxes = np.concatenate([low, low + rng.uniform(0.5, 40, (5, 2))], 1).clip(
            0, (90, 60, 90, 60)
        )
        boxes, ignore = boxes.astype(np.float32), np.arange(5) == 4
        labels, path = np.array([1, 2, 1, 2, 1]), tmp_path / f"{index}.png"
        records.append(ImageRecord(path, 90, 60, boxes, labels, ignore, ImageState.LABELLED))
        for draw in range(4):
            draws = np.random.default_rng([7, index, draw])
            view = draw_view(90, 60, boxes, recipe.resize, augment, draws)
            seen = view.render(Source(Picture.of(picture), boxes, labels, ignore))
            large = (seen.boxes[:, 2:] - seen.boxes[:, :2]).min(axis=1) >= 1.0
            for box, label in zip(
                *(x[~seen.ignore & large] for x in (seen.boxes, seen.labels)), strict=True
            ):
                shown.append((*box.tolist(), int(label), index * 4 + draw))
    found = augmented_boxes(Dataset(("a", "b"), tuple(records), tmp_path), recipe, 4, seed=7)
    assert len(found) > 40
    rows = np.column_stack([found.boxes, found.labels, found.image])
    assert rows == pytest.approx(np.array(shown), abs=1e-3)
