"""Decoders against loops written from their definitions, and against torchvision's own."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection import ssd
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import nms

from hardmine.boxes import box_iou, clip_boxes, cxcywh_to_xyxy
from hardmine.detections import Detections
from hardmine.errors import ConfigError
from hardmine.models import postprocess as suppress_module
from hardmine.models.postprocess import (
    AnyDecodeConfig,
    DecodeConfig,
    SoftNmsDecode,
    batched_nms,
    decode_detections,
    foreground_scores,
)
from hardmine.models.priors import decode_boxes
from hardmine.tensors import Priors, RawOutput, ScoreForm

SIDE = 100
Row = tuple[int, int, float]
"""Prior, label, score."""


def outputs(
    seed: int,
    images: int = 3,
    priors: int = 60,
    classes: int = 4,
    form: ScoreForm = ScoreForm.SOFTMAX,
) -> tuple[RawOutput, Priors]:
    g = torch.Generator().manual_seed(seed)
    cxcywh = torch.rand(priors, 4, generator=g) * 50 + 20
    columns = classes + (form is ScoreForm.SOFTMAX)
    logits = torch.randn(images, priors, columns, generator=g) * 2.5
    deltas = torch.randn(images, priors, 4, generator=g) * 0.7
    level = torch.zeros(priors, dtype=torch.int64)
    return RawOutput(logits, deltas, form), Priors(cxcywh, level, ((1, priors),))


def overlap(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(box_iou(a[None], b[None])[0, 0])


def slowly(output: RawOutput, priors: Priors, image: int, config: AnyDecodeConfig) -> list[Row]:
    """One image, one pair at a time, as the docstrings have it."""
    scores = foreground_scores(output)[image].numpy()
    boxes = clip_boxes(decode_boxes(output.box_deltas[image], priors.cxcywh), SIDE, SIDE)
    overlaps = box_iou(boxes, boxes).tolist()
    corners = boxes.tolist()
    rows: list[Row] = []
    for prior in range(len(scores)):
        best = int(scores[prior].argmax())
        for column in range(scores.shape[1]):
            score = float(scores[prior, column])
            if score < config.score_threshold:
                continue
            if config.kind == "argmax" and column != best:
                continue
            rows.append((prior, column + 1, score))
    rows.sort(key=lambda row: -row[2])
    if config.class_candidates is not None:
        seen: dict[int, int] = {}
        few = []
        for row in rows:
            seen[row[1]] = seen.get(row[1], 0) + 1
            if seen[row[1]] <= config.class_candidates:
                few.append(row)
        rows = few
    rows = rows[: config.candidates]
    rows = [r for r in rows if corners[r[0]][2] > corners[r[0]][0]]
    rows = [r for r in rows if corners[r[0]][3] > corners[r[0]][1]]
    taken: list[Row] = []
    while rows:
        rows.sort(key=lambda row: -row[2])
        prior, label, score = rows.pop(0)
        taken.append((prior, label, score))
        rest: list[Row] = []
        for other, name, value in rows:
            iou = overlaps[prior][other]
            same = name == label or config.kind == "agnostic"
            if same and isinstance(config, SoftNmsDecode):
                if config.method == "gaussian":
                    value *= math.exp(-(iou**2) / config.sigma)
                elif iou >= config.nms_iou:
                    value *= 1 - iou
                if value < config.score_threshold:
                    continue
            elif same and iou > config.nms_iou:
                continue
            rest.append((other, name, value))
        rows = rest
    return sorted(taken, key=lambda row: -row[2])[: config.max_detections]


CONFIGS: list[AnyDecodeConfig] = [
    DecodeConfig(score_threshold=0.1),
    DecodeConfig(score_threshold=0.05, class_candidates=9, candidates=25, max_detections=11),
    DecodeConfig(score_threshold=0.0, candidates=1000, max_detections=1000),
    DecodeConfig(kind="argmax", score_threshold=0.1),
    DecodeConfig(kind="argmax", score_threshold=0.1, class_candidates=5, max_detections=7),
    DecodeConfig(kind="agnostic", score_threshold=0.1, nms_iou=0.3),
    SoftNmsDecode(score_threshold=0.1),
    SoftNmsDecode(score_threshold=0.05, sigma=0.2, candidates=40, max_detections=8),
    SoftNmsDecode(method="linear", score_threshold=0.1),
    SoftNmsDecode(method="linear", score_threshold=0.1, class_candidates=6),
]


@pytest.mark.parametrize("form", list(ScoreForm))
@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.kind}-{c.score_threshold}")
def test_equal_to_the_loop(config: AnyDecodeConfig, form: ScoreForm) -> None:
    output, priors = outputs(0, form=form)
    found = decode_detections(output, priors, SIDE, SIDE, config)
    for image, ours in enumerate(found):
        wanted = slowly(output, priors, image, config)
        got = list(zip(ours.prior.tolist(), ours.labels.tolist(), strict=True))
        assert len(got) > 3
        assert got == [(prior, label) for prior, label, _ in wanted]
        assert np.allclose(ours.scores, [score for _, _, score in wanted], atol=1e-5)


@pytest.mark.parametrize("classes", [1, 20, 90])
def test_equal_to_torchvision_ssd(classes: int) -> None:
    """Boxes, scores and labels of ``SSD.postprocess_detections``, with its own limits."""
    output, priors = outputs(1, images=2, priors=300, classes=classes)
    owner = type("Owner", (), {})()
    owner.box_coder = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
    owner.score_thresh, owner.nms_thresh = 0.05, 0.45
    owner.topk_candidates, owner.detections_per_img = 40, 50
    head = {"bbox_regression": output.box_deltas, "cls_logits": output.class_logits}
    anchors = [cxcywh_to_xyxy(priors.cxcywh)] * 2
    theirs = ssd.SSD.postprocess_detections(owner, head, anchors, [(SIDE, SIDE)] * 2)
    config = DecodeConfig(
        score_threshold=0.05, candidates=10**6, class_candidates=40, max_detections=50
    )
    ours = decode_detections(output, priors, SIDE, SIDE, config)
    for a, b in zip(ours, theirs, strict=True):
        area = (b["boxes"][:, 2:] > b["boxes"][:, :2]).all(1)  # torchvision keeps boxes without any
        assert area.all()
        assert a.labels.tolist() == b["labels"].tolist()
        assert a.scores.tolist() == b["scores"].tolist()
        assert np.allclose(a.boxes, b["boxes"].numpy(), atol=1e-4)


def test_an_image_in_which_nothing_fires_beside_one_in_which_something_does() -> None:
    output, priors = outputs(2, images=4)
    output.class_logits[0, :, 0] = output.class_logits[2, :, 0] = output.class_logits[3, :, 0] = 60
    for config in CONFIGS:
        if config.score_threshold > 0:
            sizes = [len(d) for d in decode_detections(output, priors, SIDE, SIDE, config)]
            assert [size > 0 for size in sizes] == [False, True, False, False]
    nothing = RawOutput(output.class_logits[:1], output.box_deltas[:1], output.score_form)
    for config in CONFIGS:
        if config.score_threshold > 0:
            assert len(decode_detections(nothing, priors, SIDE, SIDE, config)[0]) == 0


def test_a_score_threshold_of_zero_means_zero() -> None:
    """Trap 14: a floor of 0 that is read as "not given" silently becomes .05."""
    output, priors = outputs(3, images=1, priors=5, classes=2)
    output.class_logits[..., 0] = 40.0  # every class scores below 1e-12
    for config in (
        DecodeConfig(score_threshold=0.0),
        DecodeConfig(kind="argmax", score_threshold=0.0),
    ):
        (found,) = decode_detections(output, priors, SIDE, SIDE, config)
        assert len(found) > 0
        assert found.scores.max() < 1e-12
    assert len(decode_detections(output, priors, SIDE, SIDE, DecodeConfig())[0]) == 0


def test_thresholds_keep_their_fraction_and_are_inclusive() -> None:
    """Trap 15: a threshold cast to an integer ruins a curve."""
    p = torch.tensor([0.3, 0.30001, 0.29999])
    logits = torch.stack([torch.zeros(3), torch.logit(p)], -1)[None]
    cxcywh = torch.tensor([[20.0, 20, 10, 10], [50.0, 50, 10, 10], [80.0, 80, 10, 10]])
    priors = Priors(cxcywh, torch.zeros(3, dtype=torch.int64), ((1, 3),))
    output = RawOutput(logits, torch.zeros(1, 3, 4), ScoreForm.SOFTMAX)
    exact = float(foreground_scores(output)[0, 0, 0])
    for config in (
        DecodeConfig(score_threshold=exact),
        DecodeConfig(kind="argmax", score_threshold=exact),
        DecodeConfig(kind="agnostic", score_threshold=exact),
        SoftNmsDecode(score_threshold=exact),
    ):
        (found,) = decode_detections(output, priors, SIDE, SIDE, config)
        assert found.prior.tolist() == [1, 0]


def test_a_second_detection_of_one_box_is_suppressed_or_lowered() -> None:
    """Trap 15: a duplicate is a false positive. IoU of 10 × 10 and 10 × 8 inside it: .8."""
    cxcywh = torch.tensor([[50.0, 50, 10, 10], [50.0, 50, 10, 8]])
    priors = Priors(cxcywh, torch.zeros(2, dtype=torch.int64), ((1, 2),))
    logits = torch.logit(torch.tensor([0.9, 0.8]))
    output = RawOutput(
        torch.stack([torch.zeros(2), logits], -1)[None], torch.zeros(1, 2, 4), ScoreForm.SOFTMAX
    )

    def scores(config: AnyDecodeConfig) -> list[float]:
        return decode_detections(output, priors, SIDE, SIDE, config)[0].scores.tolist()

    assert scores(DecodeConfig()) == pytest.approx([0.9])
    assert scores(SoftNmsDecode(method="linear")) == pytest.approx([0.9, 0.8 * 0.2])
    assert scores(SoftNmsDecode()) == pytest.approx([0.9, 0.8 * math.exp(-0.64 / 0.5)])
    assert scores(SoftNmsDecode(score_threshold=0.5)) == pytest.approx([0.9])


def test_agnostic_gives_one_class_to_one_box() -> None:
    output, priors = outputs(4, images=1, priors=1, classes=3)
    output.class_logits[:] = torch.tensor([0.0, 1.0, 2.0, 0.5])
    several = decode_detections(output, priors, SIDE, SIDE, DecodeConfig())[0]
    assert several.labels.tolist() == [2, 1, 3]
    for config in (DecodeConfig(kind="agnostic"), DecodeConfig(kind="argmax")):
        assert decode_detections(output, priors, SIDE, SIDE, config)[0].labels.tolist() == [2]


def suppress_group_by_group(
    boxes: torch.Tensor, scores: torch.Tensor, group: torch.Tensor, iou: float
) -> list[int]:
    """The definition: torchvision's NMS on each group alone."""
    members = [(group == number).nonzero()[:, 0] for number in group.unique()]
    return sorted(i for m in members for i in m[nms(boxes[m], scores[m], iou)].tolist())


@given(
    seed=st.integers(0, 10**6),
    iou=st.floats(0.05, 0.95),
    pack=st.sampled_from([1, 9, 30, 512]),
    first=st.sampled_from([0, 10**6]),
)
@settings(max_examples=60, deadline=None)
def test_groups_that_share_a_call_stay_apart(seed: int, iou: float, pack: int, first: int) -> None:
    """Runs of one group, of several, larger than a run; moved apart exactly, even the millionth."""
    g = torch.Generator().manual_seed(seed)
    low = torch.rand(80, 2, generator=g) * 290
    boxes = torch.cat([low, low + torch.rand(80, 2, generator=g) * 60 + 1], 1)
    scores, group = torch.rand(80, generator=g), first + torch.randint(0, 9, (80,), generator=g)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suppress_module, "_PACK", pack)
        kept = batched_nms(boxes, scores, group, iou).tolist()
    assert kept == suppress_group_by_group(boxes, scores, group, iou)


def test_offsets_in_float32_would_change_overlaps() -> None:
    """Why the groups move apart in double precision: at 3·10⁵ px a float32 step is 1/32 px."""
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 4.4955]])
    moved = boxes + 300_000.0
    assert overlap(*boxes) == pytest.approx(0.44955)
    assert overlap(*moved) == pytest.approx(0.45)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SoftNmsDecode(sigma=0.0), "sigma: got 0.0"),
        (lambda: DecodeConfig(kind="argmax", nms_iou=0.0), "nms_iou 0.0"),
        (
            lambda: DecodeConfig(kind="agnostic", max_detections=0),
            "max_detections 0, wanted each >= 1",
        ),
        (lambda: DecodeConfig(class_candidates=0), "class_candidates 0"),
    ],
)
def test_bad_limits(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        make()  # type: ignore[operator]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.kind}-{c.score_threshold}")
def test_the_same_on_a_gpu(config: AnyDecodeConfig) -> None:
    output, priors = outputs(5)
    moved = RawOutput(output.class_logits.cuda(), output.box_deltas.cuda(), output.score_form)
    there = replace(priors, cxcywh=priors.cxcywh.cuda(), level=priors.level.cuda())
    here = decode_detections(output, priors, SIDE, SIDE, config)
    for a, b in zip(decode_detections(moved, there, SIDE, SIDE, config), here, strict=True):
        assert isinstance(a, Detections)
        assert a.prior.tolist() == b.prior.tolist()
        assert np.allclose(a.scores, b.scores, atol=1e-5)


class OnMps(torch.Tensor):
    """A tensor as on Apple's GPU: float64 is refused, all else runs (here on the CPU)."""

    @property
    def device(self) -> torch.device:
        return torch.device("mps")

    def double(self) -> torch.Tensor:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    def cpu(self) -> torch.Tensor:
        return self.as_subclass(torch.Tensor)


def test_a_device_without_float64_gets_the_same_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    g = torch.Generator().manual_seed(0)
    low = torch.rand(60, 2, generator=g) * 90
    boxes = torch.cat([low, low + torch.rand(60, 2, generator=g) * 60 + 1], 1)
    scores, group = torch.rand(60, generator=g), torch.randint(0, 3, (60,), generator=g)
    wanted = batched_nms(boxes, scores, group, 0.5)
    monkeypatch.setattr(torch.Tensor, "to", lambda kept, device: (kept, device))
    kept, device = batched_nms(*(t.as_subclass(OnMps) for t in (boxes, scores, group)), 0.5)
    assert kept.tolist() == wanted.tolist()
    assert device == torch.device("mps")
