"""Selection of negatives and the loss around it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hardmine.errors import ConfigError
from hardmine.training.assign import assign_priors
from hardmine.training.loss import LossConfig, MultiBoxLoss, cross_entropy
from hardmine.training.select import RatioConfig, select_negatives
from hardmine.types import Assignment, Batch, Priors, RawOutput, ScoreForm


def assignment_of(labels: Tensor) -> Assignment:
    return Assignment(labels, torch.zeros_like(labels), torch.zeros(labels.shape))


def slow_select(ce: Tensor, labels: Tensor, ratio: float, floor: int) -> list[set[int]]:
    chosen = []
    for losses, row in zip(ce.tolist(), labels.tolist(), strict=True):
        background = [i for i, label in enumerate(row) if label == 0]
        wanted = max(math.floor(ratio * sum(label > 0 for label in row)), floor)
        chosen.append(set(sorted(background, key=lambda i: (-losses[i], i))[:wanted]))
    return chosen


def test_golden() -> None:
    labels = torch.tensor([[1, 0, 0, -1, 0, 0], [0, 0, 0, 0, 0, 0]])
    ce = torch.tensor([[9.0, 0.1, 0.5, 8.0, 0.3, 0.2], [0.1, 0.6, 0.2, 0.5, 0.4, 0.3]])
    picked = select_negatives(ce, assignment_of(labels), RatioConfig(3, floor=2))
    # Image 0: one positive asks for 3: losses .5 .3 .2; never the positive (9) or the ignored (8).
    # Image 1: no positive, the floor asks for 2: .6 and .5.
    assert picked.negatives.nonzero().tolist() == [[0, 2], [0, 4], [0, 5], [1, 1], [1, 3]]
    assert picked.positives.nonzero().tolist() == [[0, 0]]


def test_without_a_floor_an_empty_image_gives_nothing() -> None:
    labels = torch.zeros(1, 5, dtype=torch.int64)
    picked = select_negatives(torch.rand(1, 5), assignment_of(labels), RatioConfig(3, floor=0))
    assert not picked.negatives.any()


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_equal_to_the_slow_loop(data: st.DataObject) -> None:
    images, priors = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 12))
    labels = torch.tensor(
        data.draw(st.lists(st.lists(st.integers(-1, 2), min_size=priors, max_size=priors),
                           min_size=images, max_size=images))
    )  # fmt: skip
    few = st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0])  # ties on purpose
    ce = torch.tensor(
        data.draw(st.lists(st.lists(few, min_size=priors, max_size=priors),
                           min_size=images, max_size=images))
    )  # fmt: skip
    ratio, floor = data.draw(st.sampled_from([0.0, 1.0, 2.5, 3.0])), data.draw(st.integers(0, 5))
    picked = select_negatives(ce, assignment_of(labels), RatioConfig(ratio, floor))
    got = [set(row.nonzero()[:, 0].tolist()) for row in picked.negatives]
    assert got == slow_select(ce, labels, ratio, floor)
    assert not (picked.negatives & picked.positives).any()


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"got shape \(1, 4\), wanted \(1, 5\)"):
        select_negatives(
            torch.rand(1, 4), assignment_of(torch.zeros(1, 5, dtype=torch.int64)), RatioConfig()
        )


def test_negative_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="floor -1"):
        RatioConfig(floor=-1)


def test_cross_entropy_is_finite_for_certain_logits() -> None:
    """Trap: taken from logits, not from the log of a probability that has become 0."""
    logits = torch.tensor([[[200.0, -200.0], [-200.0, 200.0]]])
    ce = cross_entropy(logits, assignment_of(torch.tensor([[1, 0]])))
    assert ce.tolist() == [[400.0, 400.0]]


PRIORS = Priors(
    torch.tensor([[5.0, 5, 10, 10], [15, 5, 10, 10], [25, 5, 10, 10], [35, 5, 10, 10]]),
    torch.zeros(4, dtype=torch.int64),
    ((1, 4),),
)


def batch_of(boxes: list[list[float]], labels: list[int]) -> Batch:
    """One box an image; label 0 is an image without objects."""
    codes = torch.tensor(labels)[:, None]
    return Batch(
        torch.zeros(len(labels), 3, 1, 1, dtype=torch.uint8),
        torch.tensor(boxes)[:, None],
        codes,
        torch.zeros_like(codes, dtype=torch.bool),
        torch.arange(len(labels)),
    )


def output_of(images: int, seed: int = 0, classes: int = 2) -> RawOutput:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, 4, classes + 1, generator=generator, dtype=torch.float64)
    deltas = torch.randn(images, 4, 4, generator=generator, dtype=torch.float64)
    return RawOutput(logits, deltas, ScoreForm.SOFTMAX)


def slow_loss(output: RawOutput, batch: Batch, config: LossConfig) -> tuple[float, float]:
    """Per-element oracle: (classification, localisation)."""
    assignment = assign_priors(batch, PRIORS, config.assigner)
    ce = cross_entropy(output.class_logits, assignment)
    rule = config.selection
    negatives = slow_select(ce, assignment.labels, rule.neg_to_pos_ratio, rule.floor)
    class_sum, box_sum, positives, selected = 0.0, 0.0, 0, 0
    for b, row in enumerate(assignment.labels.tolist()):
        for a, label in enumerate(row):
            if label <= 0 and a not in negatives[b]:
                continue
            logits = output.class_logits[b, a].float().tolist()
            class_sum += math.log(sum(math.exp(x) for x in logits)) - logits[label]
            selected += 1
            if label <= 0:
                continue
            positives += 1
            x0, y0, x1, y1 = batch.boxes[b, int(assignment.box_index[b, a])].tolist()
            cx, cy, w, h = PRIORS.cxcywh[a].tolist()
            target = [
                ((x0 + x1) / 2 - cx) / w / 0.1,
                ((y0 + y1) / 2 - cy) / h / 0.1,
                math.log((x1 - x0) / w) / 0.2,
                math.log((y1 - y0) / h) / 0.2,
            ]
            for got, wanted in zip(output.box_deltas[b, a].tolist(), target, strict=True):
                d = abs(got - wanted)
                box_sum += 0.5 * d * d if d < 1 else d - 0.5
    return class_sum / max(1.0, selected / (1 + rule.neg_to_pos_ratio)), box_sum / max(1, positives)


@pytest.mark.parametrize("labels", [[1, 2, 0], [0, 0, 0], [2, 2, 1]])
@pytest.mark.parametrize("floor", [0, 1, 3])
def test_loss_equal_to_the_slow_loop(labels: list[int], floor: int) -> None:
    config = LossConfig(selection=RatioConfig(1.0, floor))
    batch = batch_of([[1.0, 0, 11, 9], [14, 1, 27, 10], [0, 0, 1, 1]], labels)
    output = output_of(3)
    loss = MultiBoxLoss(config, PRIORS)(output, batch)
    wanted = slow_loss(output, batch, config)
    got = (float(loss.classification), float(loss.localisation))
    assert got == pytest.approx(wanted, rel=1e-5)


def test_doubling_the_batch_leaves_the_loss() -> None:
    """Trap: a per-image normaliser times the batch size grows with the batch."""
    once = batch_of([[1.0, 0, 11, 9], [0, 0, 1, 1]], [1, 0])
    twice = batch_of([[1.0, 0, 11, 9], [0, 0, 1, 1]] * 2, [1, 0] * 2)
    out = output_of(2)
    doubled = RawOutput(
        out.class_logits.repeat(2, 1, 1), out.box_deltas.repeat(2, 1, 1), out.score_form
    )
    loss = MultiBoxLoss(LossConfig(), PRIORS)
    assert float(loss(doubled, twice).total) == pytest.approx(float(loss(out, once).total))


def test_all_negative_batch_has_a_loss_of_ordinary_size() -> None:
    """Trap: divided by max(1, positives), eight empty images at a floor of 30 sum to about 1,000."""
    priors = Priors(torch.rand(200, 4) * 50 + 10, torch.zeros(200, dtype=torch.int64), ((10, 20),))
    empty = batch_of([[0.0, 0, 0, 0]] * 8, [0] * 8)
    logits = torch.zeros(8, 200, 3)  # ln 3 nats each
    output = RawOutput(logits, torch.zeros(8, 200, 4), ScoreForm.SOFTMAX)
    loss = MultiBoxLoss(LossConfig(selection=RatioConfig(3.0, 30)), priors)(output, empty)
    # 240 selected · ln 3 / (240 / 4) = 4 ln 3
    assert float(loss.total) == pytest.approx(4 * math.log(3), rel=1e-5)
    assert float(loss.localisation) == 0.0


def test_paper_normaliser_when_every_image_holds_objects() -> None:
    """With the ratio met and no floor the divisor is the number of positives, as in the paper."""
    config = LossConfig(selection=RatioConfig(3.0, 0))
    batch = batch_of([[0.0, 0, 10, 10]], [1])  # exactly prior 0: 1 positive, 3 negatives
    output = output_of(1)
    loss = MultiBoxLoss(config, PRIORS)(output, batch)
    assignment = assign_priors(batch, PRIORS, config.assigner)
    assert int(loss.num_positives) == 1
    assert int(loss.num_negatives) == 3
    wanted = float(cross_entropy(output.class_logits, assignment).sum()) / 1
    assert float(loss.classification) == pytest.approx(wanted)


def test_gradcheck() -> None:
    batch = batch_of([[1.0, 0, 11, 9], [0, 0, 1, 1]], [1, 0])
    loss = MultiBoxLoss(LossConfig(selection=RatioConfig(1.0, 2)), PRIORS)
    output = output_of(2)
    assignment = assign_priors(batch, PRIORS, loss.config.assigner)
    ce = cross_entropy(output.class_logits, assignment)
    chosen = select_negatives(ce, assignment, loss.config.selection)
    assert chosen.negatives.any()

    def total(logits: Tensor, deltas: Tensor) -> Tensor:
        return loss(RawOutput(logits, deltas, ScoreForm.SOFTMAX), batch).total

    inputs = (output.class_logits.requires_grad_(), output.box_deltas.requires_grad_())
    assert torch.autograd.gradcheck(total, inputs, eps=1e-3, atol=2e-2)
