"""The step inside one compiled graph, and on an accelerator without waiting for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hardmine.losses.loss_functions import FocalConfig, GIoUConfig, SmoothL1Config
from hardmine.losses.matcher import AssignerConfig, match_boxes, match_slots
from hardmine.losses.multibox_loss import ByImage, ByMovingAverage, LossConfig, MultiBoxLoss
from hardmine.losses.negative_mining import (
    BandConfig,
    BatchRatioConfig,
    HardExamplesConfig,
    LevelQuotaConfig,
    MixedConfig,
    RandomConfig,
    RatioConfig,
    SelectionConfig,
)
from hardmine.losses.prior_picking import pick_hardest
from hardmine.models.backbones import SmallNetConfig
from hardmine.models.neck_and_head import ExtraLayersConfig
from hardmine.models.ssd import SSD, SSDConfig
from hardmine.tensors import Batch, RawOutput
from loss_worlds import random_world

gpu = pytest.mark.gpu
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["default", "delta", "everything"])
def test_fullgraph_compiled_step_equals_the_eager_one(name: str) -> None:
    """Through aot_eager: the whole graph, forward and backward, without a C++ compiler's minute."""
    config = LossConfig()
    if name == "delta":
        config = LossConfig(localisation=SmoothL1Config(delta=0.11), box_weight=0.25)
    if name == "everything":
        config = LossConfig(
            assigner=AssignerConfig(max_positives=3),
            selection=RatioConfig(rank="both", nms_iou=0.5, nms_candidates=16, floor=4),
            classification=FocalConfig(),
            localisation=GIoUConfig(),
            normaliser=ByImage(),
            suspect_score=0.95,
        )
    torch.compiler.reset()
    priors, _, _ = random_world(1)
    loss = MultiBoxLoss(config, priors)

    def step(logits: Tensor, deltas: Tensor, batch: Batch) -> Tensor:
        return loss(RawOutput(logits, deltas, config.score_form), batch, 2, 9).total

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for seed, slots in ((1, 5), (2, 9), (3, 12)):
        _, batch, output = random_world(seed, slots=slots, form=config.score_form)
        got, wanted = (run(f, output, batch) for f in (compiled, step))
        for a, b in zip(got, wanted, strict=True):
            assert torch.allclose(a, b, atol=1e-6)


Step = Callable[[Tensor, Tensor, Batch], Tensor]


def run(step: Step, output: RawOutput, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss and both gradients."""
    logits = output.class_logits.clone().requires_grad_()
    deltas = output.box_deltas.clone().requires_grad_()
    total = step(logits, deltas, batch)
    total.backward()
    assert logits.grad is not None
    assert deltas.grad is not None
    return total.detach(), logits.grad, deltas.grad


@pytest.mark.parametrize("seed", range(25))
def test_both_ways_of_matching_agree(seed: int) -> None:
    """Boxes on a coarse grid, so that many overlaps are equal and many boxes want one prior."""
    g = torch.Generator().manual_seed(seed)
    images, slots, priors = (int(torch.randint(1, n, (), generator=g)) for n in (5, 9, 20))

    def boxes(*shape: int) -> Tensor:
        low = torch.randint(0, 8, (*shape, 2), generator=g).float()
        return torch.cat([low, low + torch.randint(1, 6, (*shape, 2), generator=g)], -1)

    real = torch.rand(images, slots, generator=g) < 0.7
    ignore = ~real & (torch.rand(images, slots, generator=g) < 0.5)
    inputs = (boxes(images, slots), real, ignore, boxes(priors))
    for a, b in zip(match_boxes(*inputs), match_slots(*inputs), strict=True):
        assert torch.equal(a, b)


def test_a_refused_box_displaces_an_equal_rival_of_a_higher_slot() -> None:
    """All 10 px high. Box 2 is prior 0; box 0 wants it too (.5) and is refused. Its second choice,
    prior 1 at 10 / 30, is as good for box 1: the lower slot wins, box 1 takes prior 2 (2 / 40).
    Prior 3, which is free, would be a worse choice for box 0: 4 / 20.
    """
    across = (
        torch.tensor([[0.0, 20], [20, 40], [0, 10]]),
        torch.tensor([[0.0, 10], [10, 30], [38, 60], [15, 19]]),
    )
    boxes, priors = (
        torch.stack([x[:, 0], 0 * x[:, 0], x[:, 1], 0 * x[:, 0] + 10], 1) for x in across
    )
    real = torch.ones(1, 3, dtype=torch.bool)
    for way in (match_boxes, match_slots):
        assert way(boxes[None], real, ~real, priors)[2].tolist() == [[2, 0, 1, -1]]


def test_sixty_equal_boxes_each_get_a_prior_of_their_own() -> None:
    """The longest chain of refusals: all want the same prior, then the same next one …"""
    boxes = torch.tensor([10.0, 10, 50, 50]).expand(1, 60, 4)
    steps = torch.arange(80)[:, None]
    priors = torch.tensor([10.0, 10, 50, 50]) + steps * torch.tensor([0.1, 0.0, 0.1, 0.0])
    real, none = torch.ones(1, 60, dtype=torch.bool), torch.zeros(1, 60, dtype=torch.bool)
    _, _, given, _ = match_boxes(boxes, real, none, priors)
    assert given.tolist() == [[*range(60), *[-1] * 20]]


RULES: list[SelectionConfig] = [
    RandomConfig(),
    RatioConfig(),
    RatioConfig(rank="both", nms_iou=0.5),
    HardExamplesConfig(),
    BatchRatioConfig(),
    BandConfig(),
    LevelQuotaConfig(),
    MixedConfig(),
]


@gpu
@needs_cuda
@pytest.mark.parametrize("rule", RULES, ids=lambda config: config.kind)
def test_a_whole_step_never_waits_for_the_device(rule: SelectionConfig) -> None:
    """Network, loss, backward, clipping and optimiser under the mode that forbids a wait."""
    model_config = SSDConfig(
        name="tiny",
        height=64,
        width=64,
        backbone=SmallNetConfig(widths=(8, 16, 16), depths=(1, 1, 1)),
        neck=ExtraLayersConfig(widths=(), depthwise=False),
    )
    model = SSD(model_config, ("a", "b", "c")).cuda().train()
    config = LossConfig(
        selection=rule, localisation=GIoUConfig(), normaliser=ByMovingAverage(), suspect_score=0.99
    )
    loss = MultiBoxLoss(config, model.priors)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    _, batch, _ = random_world(0)
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    batch = Batch(images, batch.boxes, batch.labels, batch.ignore, batch.image_ids).to("cuda")
    torch.cuda.synchronize()
    try:
        for step in range(3):
            torch.cuda.set_sync_debug_mode("error" if step else "default")  # the first one warms up
            with torch.autocast("cuda", torch.bfloat16):
                output = model(batch.images)
            loss(output, batch, step, 3).total.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@gpu
@needs_cuda
@pytest.mark.parametrize("rule", RULES, ids=lambda config: config.kind)
def test_the_device_gives_what_the_cpu_gives(rule: SelectionConfig) -> None:
    priors, batch, output = random_world(1)
    loss = MultiBoxLoss(LossConfig(selection=rule), priors)

    def on(device: str) -> tuple[Tensor, Tensor, Tensor]:
        moved = type(priors)(priors.cxcywh.to(device), priors.level.to(device), priors.level_shapes)
        there = MultiBoxLoss(loss.config, moved)
        out = RawOutput(
            output.class_logits.to(device), output.box_deltas.to(device), output.score_form
        )
        return run(
            lambda x, d, b: there(RawOutput(x, d, out.score_form), b, 1, 4).total,
            out,
            batch.to(device),
        )

    for a, b in zip(on("cpu"), on("cuda"), strict=True):
        assert torch.allclose(a, b.cpu(), atol=1e-5)


@gpu
@needs_cuda
def test_picking_on_the_device_breaks_ties_as_on_the_cpu() -> None:
    score = torch.tensor([[1.0, 2.0, 2.0, 2.0, 0.0]])
    eligible, wanted = torch.ones(1, 5, dtype=torch.bool), torch.tensor([2])
    got = pick_hardest(score.cuda(), eligible.cuda(), wanted.cuda()).cpu()
    assert torch.equal(got, pick_hardest(score, eligible, wanted))
