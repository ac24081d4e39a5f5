"""What a network does on a set: by hand for one image, and against a slow loop for the losses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from hardmine.data.images import read_picture
from hardmine.data.resize import Placement
from hardmine.detections import Detections
from hardmine.diagnosis.probe import _Collected, probe_gradients, probe_set
from hardmine.losses.multibox_loss import Loss, MultiBoxLoss
from hardmine.losses.negative_mining import AllConfig
from hardmine.models.ssd import SSD, make_network
from hardmine.recipes.recipe import Recipe
from hardmine.tensors import Batch, Priors, RawOutput
from hardmine.types import Dataset, ImageRecord, ImageState

PRIORS = Priors(
    torch.tensor([[50.0, 20, 40, 20], [150, 20, 40, 20], [5, 5, 4, 4]]),
    torch.tensor([0, 1, 2]),
    ((1, 1), (1, 1), (1, 1)),
)
PLACE = Placement(2.0, 1.0, 10.0, 0.0, 100.0, 50.0)
"""x' = 2x + 10, y' = y."""
RECORD = ImageRecord(
    Path("a.png"),
    100,
    50,
    np.array([[10, 10, 30, 30], [60, 10, 80, 30], [0, 40, 10, 50]], np.float32),
    np.array([1, 2, 1]),
    np.array([False, False, True]),
    ImageState.LABELLED,
)


def detections(*rows: tuple[list[float], float, int]) -> Detections:
    """Return detections on the canvas: box, score, class."""
    boxes, scores, labels = zip(*rows, strict=True)
    return Detections(
        np.array(boxes, np.float32), np.array(scores, np.float32), np.array(labels, np.int64)
    )


def test_one_image_by_hand() -> None:
    """The first label is met by 30 / 40 of its class; the second by a detection of the first class,
    which does not count, and by 12 / 40 of its own. One place is explained by no label; one by a
    label that is ignored, and one scores too little.
    """
    data = Dataset(("a", "b"), (RECORD, RECORD), Path())
    found = _Collected(PRIORS)
    first = detections(
        ([80, 35, 100, 45], 0.95, 1),
        ([30, 10, 60, 30], 0.9, 1),
        ([130, 10, 170, 30], 0.8, 1),
        ([10, 40, 30, 50], 0.7, 1),
        ([130, 10, 142, 30], 0.6, 2),
        ([180, 35, 200, 45], 0.2, 1),
    )
    found.add_image(data, 0, PLACE, first)
    found.add_image(data, 1, PLACE, detections(([30, 10, 70, 30], 0.5, 1)))
    said = found.result(2)
    assert said.object_iou == pytest.approx([0.75, 0.3, 1.0, 0.0])
    assert said.object_score == pytest.approx([0.9, 0.6, 0.5, 0.0])
    assert said.object_label.tolist() == [1, 2, 1, 2]
    assert said.object_level.tolist() == [0, 1, 0, 1]
    assert said.object_area.tolist() == [800.0] * 4
    assert said.object_image.tolist() == [0, 0, 1, 1]
    assert said.object_box[1].tolist() == [60, 10, 80, 30]
    assert said.detected_box[0].tolist() == [10, 10, 25, 30]
    assert np.isnan(said.detected_box[3]).all()
    assert [(each.image, each.label, each.area) for each in said.suspects] == [(0, 1, 200.0)]
    assert said.suspects[0].box.tolist() == [35, 35, 45, 45]
    assert said.recall == 0.5  # two of four by .5
    assert said.half_met == pytest.approx(1 / 3)  # one of three that are touched
    assert said.usual_score == pytest.approx(0.7)  # between .5 and .9


def network(recipe: Recipe, data: Dataset) -> SSD:
    torch.manual_seed(3)
    model = make_network(recipe.model, data.categories)
    assert isinstance(model, SSD)
    return model.eval()


def batch_of(data: Dataset, recipe: Recipe) -> Batch:
    """Return all images, of one label each, as one batch."""
    pictures = [np.array(recipe.resize.apply(read_picture(record.path))[0]) for record in data]
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    return Batch(
        images,
        torch.from_numpy(np.stack([record.boxes for record in data])),
        torch.from_numpy(np.stack([record.labels for record in data])),
        torch.zeros(len(data), 1, dtype=torch.bool),
        torch.arange(len(data)),
    )


def losses(model: SSD, recipe: Recipe, data: Dataset) -> tuple[RawOutput, Loss]:
    """Return what the network gives for all images, and the loss of the recipe."""
    batch = batch_of(data, recipe)
    output = model(batch.images)
    return output, MultiBoxLoss(recipe.loss, model.priors)(output, batch, 1, 1)


def of_two_classes(data: Dataset) -> Dataset:
    """Call every other object one of a second class."""
    records = [
        replace(record, labels=record.labels + index % 2) for index, record in enumerate(data)
    ]
    return Dataset(("square", "other"), tuple(records), data.root)


def test_probabilities_and_losses_are_those_of_a_slow_loop(
    squares: Dataset, tiny_recipe: Recipe
) -> None:
    data = of_two_classes(squares.subset(range(8)))
    model = network(tiny_recipe, data)
    with torch.no_grad():
        output, loss = losses(model, tiny_recipe, data)
    assert loss.assignment is not None
    own, hard, least = [], [], []
    for logits, labels in zip(output.class_logits, loss.assignment.labels, strict=True):
        own += [float(row.softmax(-1)[k]) for row, k in zip(logits, labels, strict=True) if k > 0]
        background = logits[labels == 0]
        costs = cross_entropy(
            background, torch.zeros(len(background), dtype=torch.long), reduction="none"
        )
        wanted = max(16, 3 * int((labels > 0).sum()))
        hard += sorted(costs.tolist())[-wanted:]
        least += sorted(costs.tolist())[:wanted]
    said = probe_set(model, tiny_recipe, data)
    assert said.own_probability == pytest.approx(np.mean(own), rel=1e-4)
    assert said.hard_loss == pytest.approx(np.mean(hard), rel=1e-4)
    assert said.random_loss is not None
    assert np.mean(least) < said.random_loss < np.mean(hard)


def test_gradients_are_those_of_the_parts_of_the_loss(
    squares: Dataset, tiny_recipe: Recipe
) -> None:
    """The gradient of the boxes is that of the box loss alone; where all negatives are taken, the hard
    ones are the random ones.
    """
    data = squares.subset(range(8))
    model = network(tiny_recipe, data)
    said = probe_gradients(model, tiny_recipe, data)
    assert said is not None
    shared = [p for name, p in model.named_parameters() if "_head." not in name]
    output, loss = losses(model, tiny_recipe, data)

    def norm(value: torch.Tensor) -> float:
        parts = torch.autograd.grad(value, shared, retain_graph=True, allow_unused=True)
        return float(torch.cat([part.flatten() for part in parts if part is not None]).norm())

    bare = replace(tiny_recipe, loss=replace(tiny_recipe.loss, box_weight=0.0))
    same = MultiBoxLoss(bare.loss, model.priors)(output, batch_of(data, tiny_recipe), 1, 1)
    assert said.classification == pytest.approx(norm(same.total), rel=1e-3)
    assert said.boxes == pytest.approx(norm(loss.total - same.total), rel=1e-3)
    assert loss.selection is not None
    costs = cross_entropy(
        output.class_logits.flatten(0, 1),
        torch.zeros(output.class_logits[..., 0].numel(), dtype=torch.long),
        reduction="none",
    ).view(output.class_logits.shape[:2])
    assert said.hard == pytest.approx(norm((costs * loss.selection.negatives).sum()), rel=1e-3)
    assert said.hard_and_random < 0.9999
    every = replace(tiny_recipe, loss=replace(tiny_recipe.loss, selection=AllConfig()))
    whole = probe_gradients(model, every, data)
    assert whole is not None
    assert whole.hard == pytest.approx(whole.random, rel=1e-4)
    assert whole.hard_and_random == pytest.approx(1.0, abs=1e-4)
