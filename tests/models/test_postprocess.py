"""Decoding: per class, suppressed within a class, cut at the canvas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.ops import batched_nms

from hardmine.boxes import clip_boxes
from hardmine.errors import ConfigError
from hardmine.models import postprocess
from hardmine.models.postprocess import DecodeConfig, decode_detections, foreground_scores
from hardmine.models.priors import decode_boxes
from hardmine.tensors import Priors, RawOutput, ScoreForm

PRIORS = Priors(
    torch.tensor([[20.0, 20, 20, 20], [21, 20, 20, 20], [70, 70, 20, 20]]),
    torch.zeros(3, dtype=torch.int64),
    ((1, 3),),
)


def raw(probabilities: list[list[float]]) -> RawOutput:
    logits = torch.tensor(probabilities).log()[None]
    return RawOutput(logits, torch.zeros(1, len(probabilities), 4), ScoreForm.SOFTMAX)


def test_golden() -> None:
    # Priors 0 and 1 overlap (IoU 19/21 = .905); class 1 is suppressed among them, class 2 is not.
    output = raw([[0.1, 0.8, 0.1], [0.2, 0.6, 0.2], [0.97, 0.02, 0.01]])
    found = decode_detections(output, PRIORS, 100, 100, DecodeConfig(score_threshold=0.05))[0]
    assert found.labels.tolist() == [1, 2]
    assert found.scores.tolist() == pytest.approx([0.8, 0.2])
    assert found.prior.tolist() == [0, 1]
    assert found.boxes[0].tolist() == pytest.approx([10, 10, 30, 30], abs=1e-4)


def test_threshold_of_zero_means_zero() -> None:
    """Trap: 0 read as "not given" silently becomes a default."""
    output = raw([[0.999, 0.0007, 0.0003], [1.0, 1e-9, 1e-9], [1.0, 1e-9, 1e-9]])
    found = decode_detections(output, PRIORS, 100, 100, DecodeConfig(score_threshold=0.0))[0]
    assert len(found) > 2
    assert found.scores.min() < 1e-8


def test_limits() -> None:
    output = raw([[0.1, 0.5, 0.4], [0.2, 0.5, 0.3], [0.3, 0.5, 0.2]])
    found = decode_detections(output, PRIORS, 100, 100, DecodeConfig(max_detections=1))[0]
    assert len(found) == 1


def test_boxes_outside_the_canvas_are_none() -> None:
    output = raw([[0.1, 0.8, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1]])
    found = decode_detections(output, PRIORS, 50, 50, DecodeConfig(score_threshold=0.5))[0]
    assert found.prior.tolist() == [0]  # prior 2 lies at 60..80


def test_equal_to_a_loop_over_classes() -> None:
    generator = torch.Generator().manual_seed(0)
    priors = Priors(
        torch.rand(200, 4, generator=generator) * 60 + 20, torch.zeros(200).long(), ((10, 20),)
    )
    output = RawOutput(
        torch.randn(2, 200, 4, generator=generator) * 2,
        torch.randn(2, 200, 4, generator=generator),
        ScoreForm.SOFTMAX,
    )
    config = DecodeConfig(score_threshold=0.05, candidates=600, max_detections=1000)
    ours = decode_detections(output, priors, 100, 100, config)
    for image in range(2):
        scores = output.class_logits[image].softmax(-1)
        boxes = clip_boxes(decode_boxes(output.box_deltas[image], priors.cxcywh), 100, 100)
        wanted = []
        for label in (1, 2, 3):
            chosen = (scores[:, label] >= 0.05).nonzero()[:, 0]
            keep = batched_nms(boxes[chosen], scores[chosen, label], torch.zeros(len(chosen)), 0.45)
            wanted += [(float(scores[chosen[k], label]), label, int(chosen[k])) for k in keep]
        wanted.sort(reverse=True)
        got = list(zip(ours[image].scores, ours[image].labels, ours[image].prior, strict=True))
        assert [g[1:] for g in got] == [w[1:] for w in wanted]
        assert np.allclose([g[0] for g in got], [w[0] for w in wanted])


def test_boxes_of_different_groups_never_meet_below_zero_either() -> None:
    boxes = torch.tensor([[-50.0, -50, 50, 50]] * 3)
    kept = postprocess.batched_nms(
        boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 1, 0]), 0.5
    )
    assert kept.tolist() == [0, 1]  # one of each group


def test_scores_are_float32_and_do_not_tie() -> None:
    """Trap: bf16 probabilities tie and spoil rankings."""
    logits = torch.tensor([[[0.0, 6.0], [0.0, 6.03125]]], dtype=torch.bfloat16)
    output = RawOutput(logits, torch.zeros(1, 2, 4), ScoreForm.SOFTMAX)
    scores = foreground_scores(output)
    assert scores.dtype == torch.float32
    assert scores[0, 0, 0] != scores[0, 1, 0]
    assert logits.softmax(-1)[0, 0, 1] == logits.softmax(-1)[0, 1, 1]


def test_bad_limits() -> None:
    with pytest.raises(ConfigError, match=r"score_threshold 1\.5"):
        DecodeConfig(score_threshold=1.5)
