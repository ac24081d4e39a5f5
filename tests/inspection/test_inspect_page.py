"""The page holds every stage, and what it says of them is so."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hardmine.boxes import cxcywh_to_xyxy
from hardmine.inference.checkpoint_detector import TorchDetector
from hardmine.inspection.image_with_labels import InspectedImage, open_image, read_labels
from hardmine.inspection.inspect_image import InspectOptions, inspect_images
from hardmine.inspection.inspect_stages import (
    Trained,
    assigned,
    augmented,
    coded,
    detected,
    load_trained,
    prepare,
    resized,
    selected,
)
from hardmine.losses.negative_mining import RatioConfig
from hardmine.models.ssd import SSD, SSDConfig
from hardmine.prior_design.prior_layout import layout_of_recipe
from hardmine.recipes.checkpoint import save_checkpoint
from hardmine.recipes.recipe import Recipe, apply_settings

Blocks = Callable[[str, Callable[[list[float]], Sequence[float]]], Path]
STAGES = ("read", "forms", "augment", "resize", "assign", "targets", "negatives")


@pytest.fixture
def subject(blocks: Blocks) -> InspectedImage:
    folder = blocks("right", lambda b: [b[0], b[1], b[2] - b[0], b[3] - b[1]])
    return open_image(read_labels(folder), 4)


def checkpoint(recipe: Recipe, path: Path) -> Path:
    assert isinstance(recipe.model, SSDConfig)
    torch.manual_seed(0)
    model = SSD(recipe.model, ("block",))
    save_checkpoint(path, model.state_dict(), recipe, ("block",))
    return path


def test_the_page_holds_all_stages(
    subject: InspectedImage, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    trained = load_trained(checkpoint(tiny_recipe, tmp_path / "w.safetensors"))
    out = tmp_path / "page.html"
    done = inspect_images(
        subject.labels, trained.recipe, out, trained=trained, options=InspectOptions("b04", draws=2)
    )
    page = out.read_text(encoding="utf-8")
    assert done.images == ("b04.png",)
    places = [page.index(f'<section id="{name}-1">') for name in (*STAGES, "detections")]
    assert places == sorted(places)
    for section in page.split("<section ")[1:]:
        assert 'src="data:image/jpeg;base64,' in section
    links = re.findall(r'(?:src|href)="([^"]{1,40})', page)
    assert all(link.startswith(("data:", "#")) for link in links)


def test_without_a_checkpoint_the_page_says_what_is_missing(
    subject: InspectedImage, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    out = tmp_path / "page.html"
    done = inspect_images(subject.labels, tiny_recipe, out, options=InspectOptions("b04", draws=1))
    assert "Give --checkpoint to see this" in out.read_text(encoding="utf-8")
    assert done.page == out


def test_several_images_are_chosen_where_none_is_named(
    subject: InspectedImage, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    out = tmp_path / "page.html"
    done = inspect_images(subject.labels, tiny_recipe, out, options=InspectOptions(draws=1))
    assert len(done.images) >= 2
    assert out.read_text(encoding="utf-8").count("<article") == len(done.images)


def test_targets_come_back(subject: InspectedImage, tiny_recipe: Recipe) -> None:
    prepared = prepare(subject, tiny_recipe, layout_of_recipe(tiny_recipe))
    assert len(prepared.positives) > 0
    stage = coded(prepared)
    assert stage.warning == ""
    assert sum(int(row[1]) for row in stage.tables[0].rows) == len(prepared.positives)


def test_the_assignment_is_that_of_the_training(
    subject: InspectedImage, tiny_recipe: Recipe
) -> None:
    prepared = prepare(subject, tiny_recipe, layout_of_recipe(tiny_recipe))
    stage = assigned(subject, prepared, tiny_recipe)
    boxes, levels = stage.tables
    assert sum(int(row[3]) for row in levels.rows) == len(prepared.positives)
    assert int(boxes.rows[0][3]) == len(prepared.positives)
    counts = [[int(v) for v in row[2:]] for row in levels.rows]
    assert all(total == sum(parts) for total, *parts in counts)


def test_a_limit_of_positives_is_said(subject: InspectedImage, tiny_recipe: Recipe) -> None:
    limited = apply_settings(tiny_recipe, ["loss.assigner.max_positives=1"])
    prepared = prepare(subject, limited, layout_of_recipe(limited))
    assert len(prepared.positives) == 1
    assert (
        "a box keeps its best 1, the others are ignored"
        in assigned(subject, prepared, limited).note
    )
    whole = prepare(subject, tiny_recipe, layout_of_recipe(tiny_recipe))
    assert len(whole.positives) > 1
    assert "keeps" not in assigned(subject, whole, tiny_recipe).note


def test_the_resize_is_undone(subject: InspectedImage, tiny_recipe: Recipe) -> None:
    prepared = prepare(subject, tiny_recipe, layout_of_recipe(tiny_recipe))
    # 120 × 90 stretched to 48 × 48: x · .4, y · .5333
    wanted = subject.record.boxes * np.array([0.4, 48 / 90, 0.4, 48 / 90])
    assert prepared.boxes == pytest.approx(wanted, abs=1e-4)
    assert "x · 0.4000 + 0, y · 0.5333 + 0" in resized(subject, prepared, tiny_recipe).note


def test_augmentation_keeps_the_numbers_of_boxes(
    subject: InspectedImage, tiny_recipe: Recipe
) -> None:
    still = replace(tiny_recipe.augment, photometric=0, expand=0, crop=False, mirror=1.0)
    stage = augmented(subject, replace(tiny_recipe, augment=still), 2, 0)
    captions = [figure.caption for figure in stage.figures]
    assert captions[0] == "draw 0, 0: read, 1 box"
    assert captions[-1] == "draw 1, 2: mirror, 1 box → training sees this"
    assert [figure.new_row for figure in stage.figures] == [True, False, False] * 2


def test_selected_negatives_are_the_hardest(subject: InspectedImage, tiny_recipe: Recipe) -> None:
    """The ratio rule: three background priors for each positive, those of the largest loss."""
    loss = replace(tiny_recipe.loss, selection=RatioConfig(floor=4))
    recipe = replace(tiny_recipe, loss=loss)
    assert isinstance(recipe.model, SSDConfig)
    torch.manual_seed(1)
    model = SSD(recipe.model, ("block",)).eval()
    layout = layout_of_recipe(recipe)
    prepared = prepare(subject, recipe, layout)
    stage = selected(prepared, Trained(model, recipe, layout, "x"))
    levels, hardest = stage.tables
    number = max(4, 3 * len(prepared.positives))
    assert sum(int(row[2]) for row in levels.rows) == number
    with torch.no_grad():
        ce = -model(prepared.batch.images).class_logits[0].log_softmax(-1)[:, 0]
    ce[prepared.assignment.labels[0] != 0] = -1
    top = ce.topk(min(12, number))
    assert [float(row[3]) for row in hardest.rows] == pytest.approx(top.values.tolist(), abs=1e-3)
    corners = cxcywh_to_xyxy(prepared.priors.cxcywh)[int(hardest.rows[0][0])].tolist()
    assert hardest.rows[0][2] == " ".join(f"{v:.0f}" for v in corners)


def test_more_detections_than_are_drawn_are_counted(
    subject: InspectedImage, tiny_recipe: Recipe
) -> None:
    decode = replace(tiny_recipe.decode, nms_iou=1.0, score_threshold=0.0)
    recipe = replace(tiny_recipe, decode=decode)
    assert isinstance(recipe.model, SSDConfig)
    torch.manual_seed(1)
    model = SSD(recipe.model, ("block",)).eval()
    layout = layout_of_recipe(recipe)
    trained = Trained(model, recipe, layout, "x")
    detector = TorchDetector(model, recipe, "x", torch.device("cpu"))
    prepared = prepare(subject, recipe, layout)
    sure = len(detector.detect(prepared.batch.images)[0].at_least(0.3))
    assert sure > 20
    (figure,) = detected(subject, prepared, trained).figures
    expected = f"{sure} detections with a score of 0.3 or more, the best 20 of which are drawn"
    assert figure.caption == expected
