"""Necks, heads, initialisers: shapes, order of outputs, what is shared and what is not."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hardmine.errors import ConfigError
from hardmine.models.backbones import SmallNetConfig
from hardmine.models.layers import (
    InitConfig,
    NormalInit,
    Normalise,
    UniformInit,
    XavierInit,
    init_layers,
    set_prior_probability,
)
from hardmine.models.neck_and_head import (
    ExtraLayersConfig,
    Fpn,
    FpnConfig,
    Head,
    HeadConfig,
    NoNeckConfig,
    SharedHead,
    SharedHeadConfig,
    SharedTower,
    make_neck,
)
from hardmine.models.priors import ExplicitPriors, MultiscalePriors, make_priors
from hardmine.models.ssd import SSD, SSDConfig

TINY = SSDConfig(
    name="tiny",
    height=48,
    width=64,
    backbone=SmallNetConfig(widths=(4, 6, 8), depths=(1, 1, 1), num_taps=2),
    neck=FpnConfig(width=8, extra_levels=1),
    head=SharedHeadConfig(depth=2),
    priors=MultiscalePriors(min_level=2),
)


def test_extra_layers_with_caffes_kernels() -> None:
    # SSD300 from fc7, 19 x 19: stride 2 gives 10 and 5, an unpadded 3 x 3 gives 3 and 1.
    kernels = ((3, 2, 1), (3, 2, 1), (3, 1, 0), (3, 1, 0))
    config = ExtraLayersConfig(widths=(8, 8, 8, 8), depthwise=False, norm=False, kernels=kernels)
    neck = make_neck(config, [4])
    assert [tuple(m.shape[1:]) for m in neck([torch.zeros(1, 4, 19, 19)])] == [
        (4, 19, 19),
        (8, 10, 10),
        (8, 5, 5),
        (8, 3, 3),
        (8, 1, 1),
    ]
    # 4 x 5 is padded to 3 rows on the way: 2 x 3, then 1 x 1.
    shapes = [tuple(m.shape[2:]) for m in neck([torch.zeros(1, 4, 15, 20)])]
    assert shapes == [(15, 20), (8, 10), (4, 5), (2, 3), (1, 1)]
    assert not any(isinstance(m, nn.BatchNorm2d) for m in neck.modules())


def test_no_neck_passes_on() -> None:
    maps = [torch.zeros(1, 3, 2, 2)]
    neck = make_neck(NoNeckConfig(), [3])
    assert neck(maps) is maps
    assert neck.channels == [3]


@pytest.mark.parametrize("depthwise", [True, False])
def test_fpn_joins_coarse_into_fine(depthwise: bool) -> None:
    """Against the definition, level by level: lateral + doubled coarser one, then the 3 x 3."""
    torch.manual_seed(0)
    neck = make_neck(FpnConfig(width=8, depthwise=depthwise, extra_levels=2), [3, 5]).eval()
    assert isinstance(neck, Fpn)
    fine, coarse = torch.randn(1, 3, 6, 10), torch.randn(1, 5, 3, 5)
    with torch.no_grad():
        levels = neck([fine, coarse])
        top = neck.lateral[1](coarse)
        doubled = top.repeat_interleave(2, 2).repeat_interleave(2, 3)
        wanted = neck.smooth[0](neck.lateral[0](fine) + doubled)
    assert [tuple(m.shape[1:]) for m in levels] == [(8, 6, 10), (8, 3, 5), (8, 2, 3), (8, 1, 2)]
    assert torch.allclose(levels[0], wanted, atol=1e-6)
    assert torch.equal(levels[1], top)
    has_groups = any(isinstance(m, nn.Conv2d) and m.groups > 1 for m in neck.modules())
    assert has_groups == depthwise


def test_trap_4_a_heads_order_is_the_priors_order() -> None:
    """A head that says where it is: output = [row, column, shape] of each prior."""
    config = ExplicitPriors(levels=(((10, 10), (20, 5)),))
    priors = make_priors(config, [(2, 3)], height=40, width=60)
    head = Head(HeadConfig(depthwise=False), [2], [2], 3)
    last = head.predictors[0].last
    with torch.no_grad():
        last.weight.zero_()
        for shape in range(2):
            last.weight[3 * shape, 0, 1, 1] = 1  # the map's first channel holds the row
            last.weight[3 * shape + 1, 1, 1, 1] = 1  # and its second the column
        last.bias.copy_(torch.tensor([0.0, 0, 0, 0, 0, 1]))
        rows, columns = torch.meshgrid(torch.arange(2.0), torch.arange(3.0), indexing="ij")
        said = head([torch.stack([rows, columns])[None]])[0]  # [A, 3]
    centres = torch.stack([(said[:, 1] + 0.5) * 20, (said[:, 0] + 0.5) * 20], 1)
    assert torch.equal(centres, priors.cxcywh[:, :2])
    assert said[:, 2].tolist() == [0, 1] * 6
    assert priors.cxcywh[said[:, 2] == 1, 2].unique().tolist() == [20]


def test_shared_head_has_one_predictor_and_norms_of_each_levels_own() -> None:
    torch.manual_seed(0)
    config = SharedHeadConfig(depth=2)
    tower, head = SharedTower(config, [8, 8]), SharedHead(config, [8, 8], [3, 3], 5)
    assert len(tower.layers) == 2
    assert len(tower.norms) == 2
    first, second = torch.randn(2, 8, 4, 6), torch.randn(2, 8, 2, 3) * 9 + 5
    tower.train()([first, second])
    means = [level[0].running_mean for level in tower.norms]
    assert not torch.allclose(means[0], means[1])  # statistics do not mix
    with torch.no_grad():
        both = head([first, second])
        assert both.shape == (2, 3 * (24 + 6), 5)
        assert torch.allclose(both[:, 72:], head([second]), atol=1e-6)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in head.modules())


def test_shared_head_wants_equal_levels() -> None:
    with pytest.raises(ConfigError, match=r"levels of \[8, 16\] channels with \[6, 6\] priors"):
        SharedHead(SharedHeadConfig(), [8, 16], [6, 6], 4)
    with pytest.raises(ConfigError, match="wanted equal ones"):
        SSD(replace(TINY, neck=NoNeckConfig()), ("a",))


@pytest.mark.parametrize("depthwise", [True, False])
def test_a_tiny_fpn_model(depthwise: bool) -> None:
    torch.manual_seed(0)
    neck = FpnConfig(width=8, depthwise=depthwise, extra_levels=1)
    head = SharedHeadConfig(depth=1, depthwise=depthwise)
    model = SSD(replace(TINY, neck=neck, head=head, score_form="sigmoid"), ("a", "b", "c"))
    output = model(torch.randint(0, 256, (2, 3, 48, 64), dtype=torch.uint8))
    # 12 x 16, 6 x 8 and 3 x 4 cells of 6 priors; sigmoid has no column for background.
    assert output.class_logits.shape == (2, 6 * (192 + 48 + 12), 3)


@pytest.mark.parametrize(
    ("config", "std"),
    [
        (NormalInit(std=0.02), 0.02),
        # 64 in, 96 out, 3 x 3: √(2 / (9 · 96)) = .0481
        (XavierInit(), 0.0481),
        (XavierInit(magnitude=1.0), 0.0340),
        # limit √(6 / (9 · 64 + 9 · 96)) = .06455, deviation limit / √3 = .0373
        (UniformInit(), 0.0373),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_initialisers(config: InitConfig, std: float) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(64, 96, 3).requires_grad_(False)
    init_layers(nn.Sequential(layer), config)
    assert float(layer.weight.std()) == pytest.approx(std, rel=0.02)
    assert layer.bias is not None
    assert float(layer.bias.abs().max()) == 0
    if config.kind == "uniform":
        assert float(layer.weight.abs().max()) <= 0.06455


def test_prior_probability() -> None:
    # Softmax, 3 classes, π = .1: background b = ln(3 · .9 / .1) = 3.296, objects 3 / (3 + e^b) = .1.
    bias = torch.ones(2 * 4)
    set_prior_probability(bias, 0.1, 4, softmax=True)
    assert F.softmax(bias.view(2, 4), 1)[:, 1:].sum(1).tolist() == pytest.approx([0.1, 0.1])
    assert float(bias[0]) == pytest.approx(math.log(27))
    # Sigmoid: −ln(.99 / .01) = −4.595, the −4.6 of TF's and RetinaNet's focal models.
    set_prior_probability(bias, 0.01, 2, softmax=False)
    assert bias.tolist() == pytest.approx([-4.59512] * 8)


def test_prior_probability_reaches_the_model() -> None:
    config = replace(TINY, head=SharedHeadConfig(prior_probability=0.01), score_form="sigmoid")
    model = SSD(config, ("a", "b"))
    model.requires_grad_(False)
    assert model.class_head.predictors[0].last.bias.tolist() == pytest.approx([-4.59512] * 12)
    assert float(model.box_head.predictors[0].last.bias.abs().max()) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ExtraLayersConfig(widths=(8,), kernels=((3, 1, 0),) * 2), "got 2 levels, wanted"),
        (lambda: ExtraLayersConfig(norm=False), "depthwise levels without norm"),
        (lambda: FpnConfig(extra_levels=-1), "extra_levels -1"),
        (lambda: HeadConfig(prior_probability=0.0), r"prior_probability: got 0\.0"),
        (lambda: SharedHeadConfig(depth=-1), "head.depth: got -1"),
        (lambda: ExtraLayersConfig(widths=(64, 1)), r"widths: got \[64, 1\], wanted 2 channels"),
        (
            lambda: ExtraLayersConfig(widths=(64,), kernels=((3, 0, 1),)),
            r"kernels: got \[\[3, 0, 1\]\], wanted a kernel and a stride of 1",
        ),
        (
            lambda: SmallNetConfig(widths=(0, 8), depths=(1, 1)),
            r"widths \[0, 8\], depths \[1, 1\], wanted widths of 1",
        ),
        (lambda: NormalInit(std=0.0), r"init.std: got 0\.0"),
        (lambda: XavierInit(magnitude=-1.0), r"init.magnitude: got -1\.0"),
        (
            lambda: Normalise((0.5, 0.5, 0.5), (0.2, 0.0, 0.2)),
            r"backbone.std: got \[0\.2, 0\.0, 0\.2\], wanted > 0 for each",
        ),
    ],
)
def test_contradictions(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ConfigError, match=message):
        make()
