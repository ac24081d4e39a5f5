"""A negative image trains: the size of its gradient against an image with objects.

Gradient share: the 2-norm of dL/d(class logits) of one image, at fixed initial weights, against an
image with objects in the same batch, or, for a batch of negatives only, against the same image in a
mixed batch.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hardmine.demo.run_demo import fridge160
from hardmine.losses.multibox_loss import (
    ByBatch,
    ByImage,
    BySelected,
    LossConfig,
    MultiBoxLoss,
    NormaliserConfig,
)
from hardmine.losses.negative_mining import (
    AllConfig,
    BandConfig,
    BatchRatioConfig,
    HardExamplesConfig,
    LevelQuotaConfig,
    MixedConfig,
    RandomConfig,
    RatioConfig,
    SelectionConfig,
)
from hardmine.models.ssd import SSD
from hardmine.recipes.named_recipes import RECIPES
from hardmine.tensors import Batch, RawOutput

NEAR = (0.25, 4.0)
WIDER = (0.2, 5.1)
"""Under the normalisers that are not the default."""


def _batch(model: SSD, boxes_per_image: list[list[list[float]]]) -> Batch:
    config = model.config
    generator = torch.Generator().manual_seed(3)
    size = (len(boxes_per_image), 3, config.height, config.width)
    images = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    slots = max(1, *(len(boxes) for boxes in boxes_per_image))
    boxes = torch.zeros(len(boxes_per_image), slots, 4)
    labels = torch.zeros(len(boxes_per_image), slots, dtype=torch.int64)
    for row, image_boxes in enumerate(boxes_per_image):
        for slot, box in enumerate(image_boxes):
            boxes[row, slot] = torch.tensor(box) * config.width
            labels[row, slot] = 1
    ignore = torch.zeros_like(labels, dtype=torch.bool)
    return Batch(images, boxes, labels, ignore, torch.arange(len(boxes_per_image)))


def _gradient_norms(model: SSD, batch: Batch, loss: MultiBoxLoss) -> Tensor:
    output = model(batch.images)
    logits = output.class_logits.detach().requires_grad_()
    loss(RawOutput(logits, output.box_deltas.detach(), output.score_form), batch).total.backward()
    assert logits.grad is not None
    return logits.grad.flatten(1).norm(dim=1)


QUICK = ("small160", "ssdlite320_mobilenet_v2", "ssd320_mobilenet_v2_fpnlite")
RECIPES_IN_USE = {name: RECIPES[name]() for name in QUICK} | {"fridge160": fridge160()}


@pytest.fixture(scope="module", params=sorted(RECIPES_IN_USE))
def model(request: pytest.FixtureRequest) -> SSD:
    torch.manual_seed(0)
    return SSD(RECIPES_IN_USE[request.param].model, ("raccoon",)).eval()


def _loss(model: SSD) -> MultiBoxLoss:
    return MultiBoxLoss(RECIPES_IN_USE[model.config.name].loss, model.priors)


OBJECTS = [
    [[0.2, 0.2, 0.8, 0.9]],
    [[0.1, 0.3, 0.5, 0.7], [0.6, 0.1, 0.9, 0.5]],
    [[0.3, 0.3, 0.6, 0.7]],
]


@pytest.mark.parametrize("index", [3, 4])
def test_negative_image_in_a_mixed_batch(model: SSD, index: int) -> None:
    norms = _gradient_norms(model, _batch(model, [*OBJECTS, [], []]), _loss(model))
    share = norms[index] / norms[:3].median()
    assert NEAR[0] <= share <= NEAR[1]


def test_all_negative_batch_against_the_same_image_in_a_mixed_one(model: SSD) -> None:
    mixed = _batch(model, [[], [], *OBJECTS])
    empty = _batch(model, [[], [], [], [], []])
    empty.images.copy_(mixed.images)
    loss = _loss(model)
    share = _gradient_norms(model, empty, loss)[:2] / _gradient_norms(model, mixed, loss)[:2]
    assert ((share >= NEAR[0]) & (share <= NEAR[1])).all()


def test_torchvision_ssd_gives_exactly_nothing() -> None:
    """The fault that the floor mends, in the field's most used implementation."""
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    torch.manual_seed(0)
    network = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=2)
    network.train()
    target = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    losses = network([torch.rand(3, 320, 320)] * 2, [target, target])
    total = losses["classification"] + losses["bbox_regression"]
    total.backward()
    assert float(total.detach()) == 0.0
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert all(float(g.abs().max()) == 0.0 for g in gradients)


RULES: list[SelectionConfig] = [
    AllConfig(),
    RandomConfig(),
    RatioConfig(),
    RatioConfig(rank="both", nms_iou=0.6),
    HardExamplesConfig(),
    HardExamplesConfig(count=0, neg_to_pos_ratio=3.0, floor=32),
    BatchRatioConfig(),
    BandConfig(),
    LevelQuotaConfig(),
    MixedConfig(),
]


@pytest.fixture(scope="module")
def small() -> SSD:
    torch.manual_seed(0)
    return SSD(RECIPES_IN_USE["small160"].model, ("raccoon",)).eval()


@pytest.mark.parametrize("normaliser", [BySelected(), ByBatch(), ByImage()], ids=lambda c: c.kind)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.kind)
def test_share_of_every_rule(
    small: SSD, rule: SelectionConfig, normaliser: NormaliserConfig
) -> None:
    """In a mixed batch and alone, under every normaliser without a memory.

    The extremes: 5.0 for rule ``all`` with each image divided by its own positives (5 here, 1 equivalent
    in an empty one); .22 for a batch of empty images under ``hard_examples``, 64 · 5 / 4 = 80 equivalent
    positives against 18 real ones in the mixed batch.
    """
    loss = MultiBoxLoss(LossConfig(selection=rule, normaliser=normaliser), small.priors)
    mixed = _batch(small, [*OBJECTS, [], []])
    norms = _gradient_norms(small, mixed, loss)
    share = norms[3:] / norms[:3].median()
    empty = _batch(small, [[], [], [], [], []])
    empty.images.copy_(mixed.images)
    alone = _gradient_norms(small, empty, loss)[3:] / norms[3:]
    low, high = NEAR if isinstance(normaliser, BySelected) else WIDER
    assert ((share >= low) & (share <= high)).all()
    assert ((alone >= low) & (alone <= high)).all()


def test_without_a_floor_a_negative_image_teaches_nothing(small: SSD) -> None:
    loss = MultiBoxLoss(LossConfig(selection=RatioConfig(floor=0)), small.priors)
    assert _gradient_norms(small, _batch(small, [*OBJECTS, []]), loss)[3] == 0.0
