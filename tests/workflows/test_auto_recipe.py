"""Choosing a model by the boxes of a dataset, and what is said of a pinned one. No pixel is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hardmine.errors import DataError
from hardmine.recipes.named_recipes import named_recipe
from hardmine.types import Dataset, ImageRecord, ImageState
from hardmine.workflows.auto_recipe import choose_for, measure_fit, warnings_of

SIDE = 320


def dataset(*sides: float, per_image: int = 1, images: int = 12) -> Dataset:
    """Squares of those sides, a class for each side, on images as large as the canvas."""
    records = []
    for index in range(images):
        boxes, labels = [], []
        for label, side in enumerate(sides, start=1):
            for copy in range(per_image):
                x = (37 * index + 53 * copy + 11 * label) % (SIDE - side)
                y = (29 * index + 71 * copy + 17 * label) % (SIDE - side)
                boxes.append([x, y, x + side, y + side])
                labels.append(label)
        records.append(
            ImageRecord(
                Path(f"{index}.jpg"),
                SIDE,
                SIDE,
                np.array(boxes, np.float32),
                np.array(labels, np.int64),
                np.zeros(len(labels), bool),
                ImageState.LABELLED,
            )
        )
    names = tuple(f"class{label}" for label in range(1, len(sides) + 1))
    return Dataset(names, tuple(records), Path())


def test_large_objects_get_the_quickest_model() -> None:
    choice = choose_for(dataset(150))
    assert choice.model == "ssdlite320_mobilenet_v2"
    assert choice.settings == ()
    assert len(choice.lines) == 3
    assert choice.recipe == named_recipe("ssdlite320_mobilenet_v2")


def test_a_class_that_no_prior_reaches_decides() -> None:
    # 45 px: the plain model's smallest prior has 64 px, IoU (45/64)² = .49 < .5; FPNLite has 32·√2.
    choice = choose_for(dataset(150, 45))
    assert choice.model == "ssd320_mobilenet_v2_fpnlite"
    assert choice.settings == ("loss.selection.kind=level_quota",)
    assert "reach 0% of the boxes of 'class2'" in choice.lines[0]
    assert choice.recipe.loss.selection.kind == "level_quota"


def test_small_objects_get_smaller_priors_and_tiny_ones_a_larger_canvas() -> None:
    # 22 px: against 32 px IoU (22/32)² = .47; against 20 px (scale 2.5 at stride 8) (20/22)² = .83.
    small = choose_for(dataset(22))
    assert "model.priors.anchor_scale=2.5" in small.settings
    # 13 px: against 20 px .42; on the 640 canvas 26 px against 32 px (26/32)² = .66 at best.
    tiny = choose_for(dataset(13))
    assert tiny.model == "ssd640_mobilenet_v2_fpnlite"


def test_crowded_images_share_one_head() -> None:
    assert choose_for(dataset(100, per_image=6)).model == "ssd320_mobilenet_v2_fpnlite"
    assert choose_for(dataset(100, per_image=2)).model == "ssdlite320_mobilenet_v2"


def test_a_rare_class_with_few_boxes_does_not_decide() -> None:
    rare = dataset(20, images=1)
    many = dataset(150)
    records = [*many.records, *(r for r in rare.records)]
    assert choose_for(many.with_records(records)).model == "ssdlite320_mobilenet_v2"


def test_a_pinned_model_that_misses_a_class_is_warned_of_with_the_way_out() -> None:
    data = dataset(150, 45)
    (line,) = warnings_of(data, named_recipe("ssdlite320_mobilenet_v2"))
    assert (
        "no prior of ssdlite320_mobilenet_v2 reaches 100% of the 12 boxes of class 'class2'" in line
    )
    assert "--model ssd320_mobilenet_v2_fpnlite reaches 100%" in line
    assert warnings_of(dataset(150), named_recipe("ssdlite320_mobilenet_v2")) == ()


def test_a_model_without_priors_of_its_own_is_left_alone() -> None:
    data = dataset(20)
    recipe = named_recipe("fasterrcnn_mobilenet_v3_large_320_fpn")
    assert measure_fit(data, recipe) is None
    assert warnings_of(data, recipe) == ()


def test_no_labelled_box_is_an_error() -> None:
    data = dataset(100)
    with pytest.raises(DataError, match="no labelled box"):
        choose_for(data.with_records([]))
