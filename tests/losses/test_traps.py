"""The traps of assignment, selection, loss and normalisers, each under its number.

The numbers are those of the project's list of traps that SSD implementations fall into.
``ELSEWHERE`` says where the tests of the others are.
"""

from __future__ import annotations

import ast
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from hardmine.boxes import cxcywh_to_xyxy
from hardmine.errors import ConfigError
from hardmine.losses.loss_functions import FocalConfig, SigmoidConfig, SoftmaxConfig, class_loss
from hardmine.losses.matcher import AssignerConfig, assign_priors
from hardmine.losses.multibox_loss import (
    ByBatch,
    ByImage,
    ByMovingAverage,
    BySelected,
    Loss,
    LossConfig,
    MultiBoxLoss,
    NormaliserConfig,
)
from hardmine.losses.negative_mining import AllConfig, RatioConfig
from hardmine.models.backbones import SmallNetConfig
from hardmine.models.neck_and_head import ExtraLayersConfig, HeadConfig
from hardmine.models.priors import encode_boxes
from hardmine.models.ssd import SSD, SSDConfig
from hardmine.recipes.recipe import recipe_from_dict
from hardmine.tensors import Batch, Priors, RawOutput, ScoreForm
from hardmine.training.optimization import make_targets
from loss_worlds import ROW, batch_of, make_batch, make_priors, random_world

TESTS = Path(__file__).parents[1]
ELSEWHERE = {
    3: "test_trap_3_scales_start_at_k_1",
    9: "test_an_image_that_loses_all_boxes_is_no_negative",
    11: "test_trap_11_an_image_without_boxes_is_cropped_too",
    12: "test_trap_12_letterbox_scales_before_it_pads",
    13: "test_trap_13_nothing_without_detection_nothing_twice_no_duplicates_no_leaks",
    14: "test_threshold_of_zero_means_zero",
    15: "test_a_duplicate_is_a_false_positive",
    16: "test_false_alarms_on_negatives_lower_ap_with_negatives_only",
    17: "test_a_missing_label_file_can_be_trusted_on_request",
    18: "test_repeated_ids_leave_both_images_unreviewed",
}
"""The test of each trap that is tested elsewhere, in whichever file it stands."""
NORMALISERS: list[NormaliserConfig] = [BySelected(), ByBatch(), ByImage(), ByMovingAverage()]


def test_every_trap_has_a_test() -> None:
    names = functions(Path(__file__))
    own = {int(name.split("_")[2]) for name in names if name.startswith("test_trap_")}
    assert own | set(ELSEWHERE) == set(range(1, 21))
    others = {name for path in TESTS.rglob("test_*.py") for name in functions(path)}
    missing = set(ELSEWHERE.values()) - others
    assert not missing


def functions(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def test_trap_01_two_boxes_sharing_their_best_prior_both_match() -> None:
    priors = make_priors([[0, 0, 10, 10], [20, 0, 60, 20]])
    batch = make_batch([[[0, 0, 9, 10], [0, 0, 30, 10]]], [[1, 2]])
    # Prior 0: IoU .9 with box 0, 1/3 with box 1. Prior 1: 100 / (300 + 800 − 100) = .1 with box 1.
    assigned = assign_priors(batch, priors, AssignerConfig())
    assert assigned.labels.tolist() == [[1, 2]]
    assert assigned.box_index.tolist() == [[0, 1]]


def test_trap_02_a_box_that_overlaps_no_prior_takes_none() -> None:
    batch = batch_of([[100.0, 100, 120, 120]], [1])
    assert assign_priors(batch, ROW, AssignerConfig()).labels.tolist() == [[0, 0, 0, 0]]


def test_trap_04_the_head_gives_the_priors_order() -> None:
    """Level, row, column, shape: a head that copies the row and column of its cell."""
    config = SSDConfig(
        name="tiny",
        height=64,
        width=96,
        backbone=SmallNetConfig(widths=(4, 4, 4), depths=(1, 1, 1), num_taps=2),
        neck=ExtraLayersConfig(widths=(), depthwise=False),
        head=HeadConfig(depthwise=False),
    )
    model = SSD(config, ("a",))
    maps = []
    for rows, columns in model.priors.level_shapes:
        grid = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        plane = torch.stack([*grid, *grid]).float()[None] + 0.5
        maps.append(plane)
    for predictor in model.class_head.predictors:
        assert isinstance(predictor.last, nn.Conv2d)
        nn.init.zeros_(predictor.last.weight)
        nn.init.zeros_(predictor.last.bias)
        with torch.no_grad():  # column 0 of each prior takes the row, column 1 the column
            predictor.last.weight[0::2, 0, 1, 1] = 1
            predictor.last.weight[1::2, 1, 1, 1] = 1
    got = model.class_head(maps)[0]  # [A, 2]
    shapes = torch.tensor(model.priors.level_shapes, dtype=torch.float32)[model.priors.level]
    cell = torch.tensor([64.0, 96.0]) / shapes
    wanted = model.priors.cxcywh[:, [1, 0]] / cell  # cy belongs to the row, cx to the column
    assert torch.allclose(got, wanted)


def test_trap_05_matching_and_coding_see_the_same_unclipped_prior() -> None:
    """A prior half outside the canvas equals a box half outside: IoU 1, target 0."""
    priors = Priors(torch.tensor([[0.0, 5, 10, 10]]), torch.zeros(1, dtype=torch.int64), ((1, 1),))
    corners = cxcywh_to_xyxy(priors.cxcywh)
    assert corners.tolist() == [[-5, 0, 5, 10]]
    batch = batch_of(corners.tolist(), [1])
    assert assign_priors(batch, priors, AssignerConfig()).iou.tolist() == [[1.0]]
    assert encode_boxes(corners, priors.cxcywh).tolist() == [[0.0, 0.0, 0.0, 0.0]]


def test_trap_06_an_image_without_objects_has_no_made_up_box() -> None:
    priors, _, output = random_world(0)
    empty = make_batch([[], [], [], []], [[], [], [], []])
    deltas = output.box_deltas.clone().requires_grad_()
    moved = RawOutput(output.class_logits, deltas, output.score_form)
    loss = MultiBoxLoss(LossConfig(), priors)(moved, empty)
    loss.total.backward()
    assert deltas.grad is not None
    assert float(loss.localisation) == float(deltas.grad.abs().max()) == 0.0
    assert int(loss.num_positives) == 0
    assert all(target["boxes"].shape == (0, 4) for target in make_targets(empty))


def test_trap_07_pixels_go_through_the_backbones_mean_and_deviation() -> None:
    config = SSDConfig(name="tiny", backbone=SmallNetConfig(widths=(4, 4), depths=(1, 1)))
    model = SSD(config, ("a",))
    seen: list[torch.Tensor] = []
    model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(torch.full((2, 3, 320, 320), 255, dtype=torch.uint8))
    # White is 1; mean .5, deviation .25: (1 − .5) / .25 = 2.
    assert seen[0].unique().tolist() == [2.0]


def loss_of(config: LossConfig, batch: Batch, output: RawOutput, priors: Priors) -> Loss:
    return MultiBoxLoss(config, priors)(output, batch)


@pytest.mark.parametrize("normaliser", NORMALISERS, ids=lambda config: config.kind)
@pytest.mark.parametrize("floor", [0, 30])
def test_trap_08_a_batch_without_objects_has_a_loss_of_ordinary_size(
    normaliser: NormaliserConfig, floor: int
) -> None:
    """Divided by 0 it is not a number; by max(1, positives), 8 · 30 negatives sum to about 260."""
    priors = Priors(torch.rand(200, 4) * 50 + 10, torch.zeros(200, dtype=torch.int64), ((10, 20),))
    empty = batch_of([[0.0, 0, 0, 0]] * 8, [0] * 8)
    output = RawOutput(torch.zeros(8, 200, 3), torch.zeros(8, 200, 4), ScoreForm.SOFTMAX)
    rule = RatioConfig(neg_to_pos_ratio=3.0, floor=floor)
    loss = loss_of(LossConfig(selection=rule, normaliser=normaliser), empty, output, priors)
    # 240 selected · ln 3 / (240 / 4) = 4 ln 3, as three negatives and a positive would have.
    assert float(loss.total) == pytest.approx(4 * math.log(3) if floor else 0.0)


@pytest.mark.parametrize("normaliser", NORMALISERS, ids=lambda config: config.kind)
def test_trap_08_the_focal_loss_of_empty_images_stays_finite_and_whole(
    normaliser: NormaliserConfig,
) -> None:
    """Rule ``all`` has no quota: each image without objects counts as one positive."""
    priors, _, _ = random_world(0)
    empty = make_batch([[]] * 4, [[]] * 4)
    output = RawOutput(torch.zeros(4, 60, 3), torch.zeros(4, 60, 4), ScoreForm.SIGMOID)
    config = LossConfig(selection=AllConfig(), classification=FocalConfig(), normaliser=normaliser)
    # Each class at p = .5: .75 · .5² · ln 2; 4 · 60 · 3 of them over 4 images.
    wanted = 60 * 3 * 0.75 * 0.25 * math.log(2)
    assert float(loss_of(config, empty, output, priors).total) == pytest.approx(wanted)


@pytest.mark.parametrize("form", [SoftmaxConfig(), SigmoidConfig()], ids=lambda c: c.kind)
def test_trap_10_a_certain_mistake_costs_its_logits(form: SoftmaxConfig | SigmoidConfig) -> None:
    """From the log of a probability that has become 0 it would be infinite, or clipped to 16."""
    if isinstance(form, SoftmaxConfig):
        logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
        wanted = [400.0, 400.0]
    else:
        logits = torch.tensor([[-400.0], [400.0]], requires_grad=True)
        wanted = [400.0, 400.0]
    losses = class_loss(logits, torch.tensor([1, 0]), form)
    losses.sum().backward()
    assert losses.tolist() == wanted
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) == 1.0


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("logit", [-1000.0, -110.0, -95.0, 95.0, 110.0, 1000.0])
def test_trap_10_a_certain_answer_keeps_the_focal_gradient_finite(
    logit: float, gamma: float
) -> None:
    """Of a right answer 1 − p_t is 0 in float32, where the slope of its square root is infinite."""
    logits = torch.full((2, 1), logit, requires_grad=True)
    labels = torch.tensor([0, 1])
    losses = class_loss(logits, labels, FocalConfig(gamma=gamma, alpha=0.25))
    losses.sum().backward()
    assert losses.isfinite().all()
    assert logits.grad is not None
    right = 0 if logit < 0 else 1
    assert float(logits.grad[right].abs()) < 1e-15
    assert float(logits.grad[1 - right].abs()) == pytest.approx(0.25 if right == 0 else 0.75)


@pytest.mark.parametrize("normaliser", NORMALISERS, ids=lambda config: config.kind)
@pytest.mark.parametrize("labels", [[1, 2, 0, 1], [0, 0, 0, 0]])
def test_trap_19_doubling_the_batch_leaves_the_loss(
    normaliser: NormaliserConfig, labels: list[int]
) -> None:
    """Trap 8's other half, too: a mean of images times their number grows with the batch."""
    boxes = [[1.0, 0, 11, 9], [14.0, 1, 27, 10], [0, 0, 1, 1], [30.0, 0, 40, 10]]
    once, twice = batch_of(boxes, labels), batch_of(boxes * 2, labels * 2)
    g = torch.Generator().manual_seed(0)
    logits, deltas = torch.randn(4, 4, 3, generator=g), torch.randn(4, 4, 4, generator=g)
    config = LossConfig(selection=RatioConfig(floor=2), normaliser=normaliser)
    single = loss_of(config, once, RawOutput(logits, deltas, ScoreForm.SOFTMAX), ROW)
    out = RawOutput(logits.repeat(2, 1, 1), deltas.repeat(2, 1, 1), ScoreForm.SOFTMAX)
    double = loss_of(config, twice, out, ROW)
    assert float(double.total) == pytest.approx(float(single.total))
    assert float(double.localisation) == pytest.approx(float(single.localisation))


def test_trap_20_a_typo_in_the_loss_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'loss\.selection\.min_negatives'"):
        recipe_from_dict({"loss": {"selection": {"min_negatives": 3}}})
