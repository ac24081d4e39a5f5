"""The whole loss against a per-element loop, in every combination of its parts; its gradient."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor

from hardmine.boxes import cxcywh_to_xyxy
from hardmine.errors import ConfigError
from hardmine.losses import multibox_loss as weigh
from hardmine.losses.loss_functions import (
    ClassificationConfig,
    FocalConfig,
    GIoUConfig,
    LocalisationConfig,
    SigmoidConfig,
    SmoothL1Config,
    SoftmaxConfig,
    class_loss,
)
from hardmine.losses.matcher import assign_priors
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
from hardmine.tensors import Batch, Priors, RawOutput, ScoreForm
from loss_worlds import ROW, batch_of, random_world

CLASSIFICATION: list[ClassificationConfig] = [
    SoftmaxConfig(),
    SigmoidConfig(),
    FocalConfig(),
    FocalConfig(alpha=0.75, gamma=0.5),
]
LOCALISATION: list[LocalisationConfig] = [
    SmoothL1Config(),
    SmoothL1Config(delta=0.2),
    GIoUConfig(),
]
NORMALISERS: list[NormaliserConfig] = [BySelected(), ByBatch(), ByImage(), ByMovingAverage()]
RULES: list[SelectionConfig] = [
    AllConfig(),
    RandomConfig(floor=4),
    RatioConfig(floor=4),
    RatioConfig(floor=4, rank="class", nms_iou=0.5),
    RatioConfig(floor=4, rank="localisation"),
    RatioConfig(floor=4, rank="both"),
    HardExamplesConfig(count=8),
    HardExamplesConfig(count=0, neg_to_pos_ratio=2.0, floor=3, rank="class"),
    BatchRatioConfig(floor=4, least=9),
    BandConfig(floor=4),
    LevelQuotaConfig(floor=4),
    MixedConfig(hard_start=0.5, floor=4),
]


def slow_class_loss(logits: list[float], label: int, config: ClassificationConfig) -> float:
    """From the definition, with probabilities."""
    if isinstance(config, SoftmaxConfig):
        return -math.log(math.exp(logits[label]) / sum(math.exp(x) for x in logits))
    total = 0.0
    for index, logit in enumerate(logits, start=1):
        p = 1 / (1 + math.exp(-logit))
        p_t = p if index == label else 1 - p
        weight = 1.0
        if isinstance(config, FocalConfig):
            alpha = config.alpha if index == label else 1 - config.alpha
            weight = alpha * (1 - p_t) ** config.gamma
        total -= weight * math.log(p_t)
    return total


def slow_background(logits: list[float], form: ScoreForm) -> float:
    if form is ScoreForm.SOFTMAX:
        return -math.log(math.exp(logits[0]) / sum(math.exp(x) for x in logits))
    return -sum(math.log(1 - 1 / (1 + math.exp(-x))) for x in logits)


def slow_box_loss(
    deltas: list[float], box: list[float], prior: list[float], config: LocalisationConfig
) -> float:
    cx, cy, w, h = prior
    x0, y0, x1, y1 = box
    if isinstance(config, SmoothL1Config):
        target = [
            ((x0 + x1) / 2 - cx) / w / 0.1,
            ((y0 + y1) / 2 - cy) / h / 0.1,
            math.log((x1 - x0) / w) / 0.2,
            math.log((y1 - y0) / h) / 0.2,
        ]
        total = 0.0
        for d in (abs(a - b) for a, b in zip(deltas, target, strict=True)):
            total += 0.5 * d * d / config.delta if d < config.delta else d - 0.5 * config.delta
        return total
    px, py = cx + deltas[0] * 0.1 * w, cy + deltas[1] * 0.1 * h
    pw, ph = w * math.exp(deltas[2] * 0.2), h * math.exp(deltas[3] * 0.2)
    a0, b0, a1, b1 = px - pw / 2, py - ph / 2, px + pw / 2, py + ph / 2
    inter = max(0.0, min(a1, x1) - max(a0, x0)) * max(0.0, min(b1, y1) - max(b0, y0))
    union = pw * ph + (x1 - x0) * (y1 - y0) - inter
    hull = (max(a1, x1) - min(a0, x0)) * (max(b1, y1) - min(b0, y0))
    return 1 - (inter / union - (hull - union) / hull)


def slow_loss(
    priors: Priors, output: RawOutput, batch: Batch, config: LossConfig
) -> tuple[float, float]:
    """Per-element oracle of (classification, localisation) under the ratio rule."""
    rule = config.selection
    assert isinstance(rule, RatioConfig)
    assignment = assign_priors(batch, priors, config.assigner)
    rows = []  # (classification sum, localisation sum, positives, negatives) of each image
    for b, labels in enumerate(assignment.labels.tolist()):
        logits = output.class_logits[b].tolist()
        hardness = [slow_background(row, output.score_form) for row in logits]
        background = [a for a, label in enumerate(labels) if label == 0]
        positives = [a for a, label in enumerate(labels) if label > 0]
        wanted = max(math.floor(rule.neg_to_pos_ratio * len(positives)), rule.floor)
        negatives = sorted(background, key=lambda a: (-hardness[a], a))[:wanted]
        classes = sum(
            slow_class_loss(logits[a], labels[a], config.classification)
            for a in positives + negatives
        )
        boxes = sum(
            slow_box_loss(
                output.box_deltas[b, a].tolist(),
                batch.boxes[b, int(assignment.box_index[b, a])].tolist(),
                priors.cxcywh[a].tolist(),
                config.localisation,
            )
            for a in positives
        )
        rows.append((classes, boxes, len(positives), len(negatives)))
    pos, neg = sum(row[2] for row in rows), sum(row[3] for row in rows)
    equivalent = max(1.0, (pos + neg) / (1 + rule.neg_to_pos_ratio))
    class_sum, box_sum = sum(row[0] for row in rows), sum(row[1] for row in rows)
    if isinstance(config.normaliser, BySelected):
        return class_sum / equivalent, box_sum / max(1, pos)
    if not isinstance(config.normaliser, ByImage):  # the moving average starts at the batch's value
        return class_sum / (pos or equivalent), box_sum / (pos or equivalent)
    own = [row[2] or max(1.0, row[3] / (1 + rule.neg_to_pos_ratio)) for row in rows]
    with_objects = sum(row[2] > 0 for row in rows)
    return (
        sum(row[0] / n for row, n in zip(rows, own, strict=True)) / len(rows),
        sum(row[1] / max(1, row[2]) for row in rows) / max(1, with_objects),
    )


@pytest.mark.parametrize(
    ("classification", "localisation", "normaliser"),
    [
        *itertools.product(CLASSIFICATION, LOCALISATION[:1], NORMALISERS[:1]),
        *itertools.product(CLASSIFICATION[:1], LOCALISATION[1:], NORMALISERS[:1]),
        *itertools.product(CLASSIFICATION[1:2], LOCALISATION[2:], NORMALISERS[1:]),
    ],
    ids=lambda config: config.kind,
)
@pytest.mark.parametrize("floor", [0, 7])
def test_equal_to_the_slow_loop(
    classification: ClassificationConfig,
    localisation: LocalisationConfig,
    normaliser: NormaliserConfig,
    floor: int,
) -> None:
    config = LossConfig(
        selection=RatioConfig(neg_to_pos_ratio=2.5, floor=floor),
        classification=classification,
        localisation=localisation,
        normaliser=normaliser,
    )
    priors, batch, output = random_world(1, form=config.score_form)
    loss = MultiBoxLoss(config, priors)(output, batch)
    got = (float(loss.classification), float(loss.localisation))
    assert got == pytest.approx(slow_loss(priors, output, batch, config), rel=1e-4)
    assert float(loss.total.detach()) == pytest.approx(sum(got))


def masked(loss: MultiBoxLoss, output: RawOutput, batch: Batch, step: int) -> tuple[Loss, Tensor]:
    """Return the loss by the accelerator's way, and its classification gradient."""
    logits = output.class_logits.clone().requires_grad_()
    deltas = output.box_deltas.clone().requires_grad_()
    moved = RawOutput(logits, deltas, output.score_form)
    result = loss(moved, batch, step, 10)
    result.total.backward()
    assert logits.grad is not None
    assert deltas.grad is not None
    return result, torch.cat([logits.grad.flatten(), deltas.grad.flatten()])


@pytest.mark.parametrize("rule", RULES, ids=lambda config: config.kind)
@pytest.mark.parametrize("classification", CLASSIFICATION[:3], ids=lambda config: config.kind)
def test_both_ways_give_the_same(
    rule: SelectionConfig, classification: ClassificationConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gathered rows (CPU) and masks (accelerators): equal losses, counts and gradients."""
    config = LossConfig(
        selection=rule, classification=classification, localisation=GIoUConfig(), suspect_score=0.95
    )
    priors, batch, output = random_world(2, form=config.score_form)
    rows, rows_gradient = masked(MultiBoxLoss(config, priors), output, batch, 3)
    assert int(rows.num_positives) > 0
    monkeypatch.setattr("hardmine.losses.multibox_loss.gathers_rows", lambda *_: False)
    masks, masks_gradient = masked(MultiBoxLoss(config, priors), output, batch, 3)
    assert float(rows.total.detach()) == pytest.approx(float(masks.total.detach()), rel=1e-5)
    assert int(rows.num_positives) == int(masks.num_positives)
    assert int(rows.num_negatives) == int(masks.num_negatives)
    assert torch.allclose(rows_gradient, masks_gradient, atol=1e-6)


@pytest.mark.parametrize("way", ["rows", "masks"])
@pytest.mark.parametrize("rank", ["background", "class"])
def test_the_hardest_of_sure_negatives_are_found_by_sigmoids(
    rank: Literal["background", "class"], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At logits of −17 a loss of 4e-8 is not 0, on accelerators neither."""
    monkeypatch.setattr("hardmine.losses.multibox_loss.gathers_rows", lambda *_: way == "rows")
    config = LossConfig(
        selection=RatioConfig(neg_to_pos_ratio=2.0, floor=0, rank=rank),
        classification=SigmoidConfig(),
    )
    batch = batch_of([[0.0, 0, 10, 10]], [1])  # exactly prior 0
    logits = torch.tensor([[[0.0], [-19.0], [-17.0], [-18.0]]])
    output = RawOutput(logits, torch.zeros(1, 4, 4), ScoreForm.SIGMOID)
    selection = MultiBoxLoss(config, ROW)(output, batch).selection
    assert selection is not None
    assert selection.negatives.tolist() == [[False, False, True, True]]


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("logit", [5.0, 12.0, 17.0, 30.0, 80.0])
def test_the_sigmoid_loss_of_a_sure_answer_is_exact(logit: float, label: int) -> None:
    right = torch.tensor([logit if label else -logit])
    loss = class_loss(right, torch.tensor([label]), SigmoidConfig())
    assert float(loss) == pytest.approx(math.log1p(math.exp(-logit)), rel=1e-5)


def test_pieces_join(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hardness computed piece by piece is the hardness computed at once."""
    priors, batch, output = random_world(3)
    whole = MultiBoxLoss(LossConfig(), priors)(output, batch)
    for module in ("loss_functions", "multibox_loss"):
        monkeypatch.setattr(f"hardmine.losses.{module}.PIECE", 17)
    pieces = MultiBoxLoss(LossConfig(), priors)(output, batch)
    assert float(whole.total.detach()) == float(pieces.total.detach())


@pytest.mark.parametrize(
    ("classification", "localisation", "normaliser"),
    [
        (SoftmaxConfig(), SmoothL1Config(), BySelected()),
        (SoftmaxConfig(), GIoUConfig(), ByImage()),
        (SigmoidConfig(), SmoothL1Config(delta=0.2), ByBatch()),
        (FocalConfig(), GIoUConfig(), ByMovingAverage()),
    ],
    ids=lambda config: config.kind,
)
def test_gradcheck(
    classification: ClassificationConfig,
    localisation: LocalisationConfig,
    normaliser: NormaliserConfig,
) -> None:
    config = LossConfig(
        selection=RatioConfig(neg_to_pos_ratio=1.0, floor=2),
        classification=classification,
        localisation=localisation,
        normaliser=normaliser,
    )
    priors, batch, output = random_world(
        4, images=2, priors=6, classes=2, slots=2, form=config.score_form, dtype=torch.float64
    )

    def total(logits: Tensor, deltas: Tensor) -> Tensor:
        loss = MultiBoxLoss(config, priors)
        return loss(RawOutput(logits, deltas, config.score_form), batch).total

    inputs = (output.class_logits.requires_grad_(), output.box_deltas.requires_grad_())
    assert torch.autograd.gradcheck(total, inputs, eps=1e-6, atol=1e-5, fast_mode=True)


def test_paper_normaliser_when_every_image_holds_objects() -> None:
    """With the ratio met and no floor the divisor is the number of positives, as in the paper."""
    config = LossConfig(selection=RatioConfig(neg_to_pos_ratio=3.0, floor=0))
    batch = batch_of([[0.0, 0, 10, 10]], [1])  # exactly prior 0: 1 positive, 3 negatives
    output = RawOutput(torch.randn(1, 4, 3), torch.randn(1, 4, 4), ScoreForm.SOFTMAX)
    loss = MultiBoxLoss(config, ROW)(output, batch)
    labels = torch.tensor([[1, 0, 0, 0]])
    assert (int(loss.num_positives), int(loss.num_negatives)) == (1, 3)
    wanted = float(class_loss(output.class_logits, labels, SoftmaxConfig()).sum()) / 1
    assert float(loss.classification) == pytest.approx(wanted)
    paper = MultiBoxLoss(replace(config, normaliser=ByBatch()), ROW)(output, batch)
    assert float(paper.classification) == pytest.approx(wanted)


def test_moving_average_over_three_batches() -> None:
    config = LossConfig(
        normaliser=ByMovingAverage(momentum=0.5),
        selection=RatioConfig(neg_to_pos_ratio=3.0, floor=0),
    )
    loss = MultiBoxLoss(config, ROW)
    two = batch_of([[0.0, 0, 10, 10], [10.0, 0, 20, 10]], [1, 1])
    half = batch_of([[0.0, 0, 10, 10], [0.0, 0, 1, 1]], [1, 0])
    none = batch_of([[0.0, 0, 1, 1]] * 2, [0, 0])
    output = RawOutput(torch.zeros(2, 4, 2), torch.zeros(2, 4, 4), ScoreForm.SOFTMAX)
    averages = []
    for batch in (none, two, half, none, half):
        loss(output, batch)
        assert loss.normaliser.average is not None
        averages.append(float(loss.normaliser.average))
    # No object yet: 0. Then 2 positives in 2 images, .5 · 1 + .5 · ½ and .5 · ¾ + .5 · ½; empty batches
    # leave it.
    assert averages == [0.0, 1.0, 0.75, 0.75, 0.625]


@pytest.mark.parametrize(
    ("rule", "box_weight", "negative"),
    [
        (RatioConfig(neg_to_pos_ratio=1, floor=0), 1.0, 0),
        (RatioConfig(neg_to_pos_ratio=1, floor=0, rank="localisation"), 1.0, 2),
        (RatioConfig(neg_to_pos_ratio=1, floor=0, rank="both"), 1.0, 2),
        (RatioConfig(neg_to_pos_ratio=1, floor=0, rank="both"), 0.5, 0),
        (HardExamplesConfig(count=2, nms_iou=None, rank="both"), 1.0, 0),
    ],
)
def test_the_localisation_loss_of_negatives_ranks_them(
    rule: SelectionConfig, box_weight: float, negative: int
) -> None:
    """Prior 3 has the object, prior 2 overlaps it by IoU .2, prior 0 fires most.

    The object against prior 2: (33 - 25) / 10 / .1 = 8 and ln 1.4 / .2 = 1.68, a smooth L1 of 7.5 +
    1.18 = 8.68. Prior 0 is ahead by 5 in the classification loss: more than half of 8.68, less than all.
    In ``hard_examples`` a negative has no localisation loss.
    """
    batch = batch_of([[26.0, 0, 40, 10]], [1])
    logits = torch.tensor([[[0.0, 5], [0, 0], [0, 0], [0, 9]]])
    background = class_loss(logits, torch.zeros(1, 4, dtype=torch.int64), SoftmaxConfig())[0]
    logits[0, 2, 1] = math.log(math.exp(float(background[0]) - 5) - 1)  # −log p(background): 5 less
    output = RawOutput(logits, torch.zeros(1, 4, 4), ScoreForm.SOFTMAX)
    config = LossConfig(selection=rule, box_weight=box_weight)
    selection = MultiBoxLoss(config, ROW)(output, batch).selection
    assert selection is not None
    assert selection.negatives[0].nonzero().flatten().tolist() == [negative]


def test_suspected_objects_are_left_out() -> None:
    batch = batch_of([[0.0, 0, 1, 1]], [0])
    logits = torch.tensor([[[0.0, 5.0], [0.0, 1.0], [0.0, 0.0], [0.0, -1.0]]])
    output = RawOutput(logits, torch.zeros(1, 4, 4), ScoreForm.SOFTMAX)
    # Foreground probabilities: .993, .731, .5, .269.
    config = LossConfig(selection=RatioConfig(neg_to_pos_ratio=3.0, floor=2), suspect_score=0.9)
    assert int(MultiBoxLoss(config, ROW)(output, batch).num_negatives) == 2
    kept = float(MultiBoxLoss(config, ROW)(output, batch).classification)
    assert kept == pytest.approx(math.log(1 + math.e) + math.log(2))  # ÷ max(1, 2 / 4)
    strict = replace(config, suspect_score=0.2)
    assert int(MultiBoxLoss(strict, ROW)(output, batch).num_negatives) == 0


@pytest.mark.parametrize("rule", RULES, ids=lambda config: config.kind)
def test_a_diverged_network_shows(rule: SelectionConfig) -> None:
    """NaN logits are never selected away, in an image without objects either."""
    priors, batch, output = random_world(5)
    bad = RawOutput(output.class_logits * torch.nan, output.box_deltas, output.score_form)
    assert not torch.isfinite(MultiBoxLoss(LossConfig(selection=rule), priors)(bad, batch).total)


def test_score_form_must_fit() -> None:
    priors, batch, output = random_world(6)
    loss = MultiBoxLoss(LossConfig(classification=SigmoidConfig()), priors)
    with pytest.raises(ConfigError, match=r"softmax scores, wanted sigmoid for .*'sigmoid'"):
        loss(output, batch)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LossConfig(box_weight=-1), "box_weight: got -1, wanted >= 0"),
        (lambda: LossConfig(suspect_score=1.5), r"suspect_score: got 1\.5, wanted 0 < score <= 1"),
        (lambda: FocalConfig(alpha=1.0), r"alpha 1\.0, gamma 2\.0, wanted 0 < alpha < 1"),
        (lambda: SmoothL1Config(delta=0), "delta: got 0, wanted > 0"),
        (lambda: ByMovingAverage(momentum=1), "momentum: got 1, wanted 0 <= m < 1"),
    ],
)
def test_bad_settings_are_refused(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ConfigError, match=message):
        make()


def test_giou_of_known_boxes() -> None:
    """Two unit squares, one to the right by 2: IoU 0, hull 3 x 1, union 2: GIoU = −1/3."""
    prior = torch.tensor([[0.5, 0.5, 1.0, 1.0]])
    loss = weigh.box_loss(
        torch.zeros(1, 4), cxcywh_to_xyxy(prior + torch.tensor([2.0, 0, 0, 0])), prior, GIoUConfig()
    )
    assert loss.tolist() == pytest.approx([4 / 3])


def test_step_reaches_the_rule() -> None:
    """A ramp from random to hard: at the end what is selected is the hardest, so the loss is larger."""
    priors, batch, output = random_world(7)
    config = LossConfig(selection=MixedConfig(ramp=1.0, floor=0, neg_to_pos_ratio=1.0))
    loss = MultiBoxLoss(config, priors)
    start, end = loss(output, batch, 0, 100), loss(output, batch, 100, 100)
    hardest = MultiBoxLoss(
        LossConfig(selection=RatioConfig(neg_to_pos_ratio=1.0, floor=0)), priors
    )(output, batch)
    assert float(end.total.detach()) == float(hardest.total.detach()) > float(start.total.detach())
    assert int(start.num_negatives) == int(end.num_negatives)
