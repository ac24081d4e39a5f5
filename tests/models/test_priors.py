"""Priors: scales, order, shapes; goldens of the published rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

import pytest
import torch

from hardmine.boxes import box_iou, cxcywh_to_xyxy
from hardmine.errors import ConfigError
from hardmine.models.priors import (
    CaffePriors,
    ExplicitPriors,
    LinearPriors,
    MultiscalePriors,
    PriorsConfig,
    caffe_priors,
    encode_boxes,
    make_priors,
)

SHAPES = [(20, 20), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1)]
SSD300 = [(38, 38), (19, 19), (10, 10), (5, 5), (3, 3), (1, 1)]
SSD512 = [(64, 64), (32, 32), (16, 16), (8, 8), (4, 4), (2, 2), (1, 1)]


def test_trap_3_scales_start_at_k_1() -> None:
    """Counting from k = 0 shifts every scale. Six levels from .2 to .9 step (.9 − .2) / 5."""
    config = LinearPriors(min_scale=0.2, max_scale=0.9)
    first = [config.shapes(k, 6, 1.0)[0][0] for k in range(6)]
    assert first == pytest.approx([0.2, 0.34, 0.48, 0.62, 0.76, 0.9])


def test_cell_golden() -> None:
    # Level 0 of six, .2 … .95 on 320 px: s = 64, next = .35 · 320 = 112, √(64 · 112) = 84.664;
    # ratio 2: 64 · 1.41421 = 90.510 by 64 / 1.41421 = 45.255, then its transpose; ratio 3 likewise.
    got = LinearPriors().shapes(0, 6, 320.0)
    wanted = [
        (64.0, 64.0),
        (84.664, 84.664),
        (90.510, 45.255),
        (45.255, 90.510),
        (110.851, 36.950),
        (36.950, 110.851),
    ]
    assert got == [pytest.approx(pair, abs=1e-3) for pair in wanted]


def test_trap_4_column_gives_x_and_row_gives_y() -> None:
    """cx belongs to the column, cy to the row; row-major; all shapes of a cell together."""
    config = ExplicitPriors(levels=(((10, 10), (20, 5)),))
    priors = make_priors(config, [(2, 3)], height=40, width=60)
    # Cells are 20 px wide and 20 px high: centres x 10, 30, 50, y 10, 30.
    centres = priors.cxcywh[:, :2].tolist()
    assert centres[0::2] == [[10, 10], [30, 10], [50, 10], [10, 30], [30, 30], [50, 30]]
    assert centres[0::2] == centres[1::2]
    assert priors.cxcywh[1, 2:].tolist() == [20, 5]


def test_equal_to_torchvision() -> None:
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
    from torchvision.models.detection.image_list import ImageList

    generator = DefaultBoxGenerator([[2, 3]] * 6, min_ratio=0.2, max_ratio=0.95, clip=False)
    images = ImageList(torch.zeros(1, 3, 320, 320), [(320, 320)])
    theirs = generator(images, [torch.zeros(1, 1, *shape) for shape in SHAPES])[0]
    ours = make_priors(LinearPriors(), SHAPES, 320, 320).cxcywh
    corners = torch.cat([ours[:, :2] - ours[:, 2:] / 2, ours[:, :2] + ours[:, 2:] / 2], 1)
    assert len(ours) == 6 * (400 + 100 + 25 + 9 + 4 + 1) == 3234
    assert torch.allclose(corners, theirs, atol=1e-3)


@pytest.mark.parametrize(
    "config", [LinearPriors(), caffe_priors("coco", 300), MultiscalePriors()], ids=lambda c: c.kind
)
def test_trap_5_neither_matching_nor_coding_clips(config: PriorsConfig) -> None:
    """Clipped corners for the IoU and whole boxes for coding are inconsistent: whole boxes for both.

    An object at the border whose size is a prior's lies outside; it meets that prior exactly.
    """
    shapes = SSD300 if config.kind == "caffe" else SHAPES
    priors = make_priors(config, shapes, 300, 300)
    outside = (priors.cxcywh[:, 0] - priors.cxcywh[:, 2] / 2 < 0).nonzero()[0, 0]
    box = cxcywh_to_xyxy(priors.cxcywh[outside])[None]
    iou = box_iou(box, cxcywh_to_xyxy(priors.cxcywh))[0]
    assert float(iou[outside]) == pytest.approx(1.0)
    coded = encode_boxes(box, priors.cxcywh[outside][None])
    assert torch.allclose(coded, torch.zeros(1, 4), atol=1e-5)


@pytest.mark.parametrize(
    ("dataset", "side", "wanted"),
    [
        # VOC: step floor((90 − 20) / 4) = 17 % from 20 %; 10 % on the first map; of 300 px.
        ("voc", 300, [30, 60, 111, 162, 213, 264, 315]),
        # COCO: floor((90 − 15) / 4) = 18 % from 15 %; 7 % first.
        ("coco", 300, [21, 45, 99, 153, 207, 261, 315]),
        # VOC, seven maps: floor((90 − 15) / 5) = 15 % from 15 %; 7 % first; of 512 px.
        ("voc", 512, [35.84, 76.8, 153.6, 230.4, 307.2, 384, 460.8, 537.6]),
        # COCO: floor((90 − 10) / 5) = 16 % from 10 %; 4 % first.
        ("coco", 512, [20.48, 51.2, 133.12, 215.04, 296.96, 378.88, 460.8, 542.72]),
    ],
)
def test_caffe_sizes(
    dataset: Literal["voc", "coco"], side: Literal[300, 512], wanted: list[float]
) -> None:
    config, levels = caffe_priors(dataset, side), len(wanted) - 1
    assert [size * side / 100 for size in config.sizes(levels)] == pytest.approx(wanted)
    squares = [config.shapes(k, levels, float(side))[:2] for k in range(levels)]
    assert [pair[0][0] for pair in squares] == pytest.approx(wanted[:-1])
    between = [(a * b) ** 0.5 for a, b in pairwise(wanted)]
    assert [pair[1][1] for pair in squares] == pytest.approx(between)


def test_caffe_counts() -> None:
    # 300 px: 4 (38² + 3² + 1²) + 6 (19² + 10² + 5²) = 4 · 1454 + 6 · 486 = 5816 + 2916 = 8732.
    # 512 px: 4 (64² + 2² + 1²) + 6 (32² + 16² + 8² + 4²) = 4 · 4101 + 6 · 1360 = 16404 + 8160.
    assert len(make_priors(caffe_priors("voc", 300), SSD300, 300, 300).cxcywh) == 8732
    assert len(make_priors(caffe_priors("coco", 512), SSD512, 512, 512).cxcywh) == 24564


def test_caffe_golden() -> None:
    # Level 0 steps 8 px from 4; cell (row 1, column 2) is cell 38 + 2 = 40, priors 160 to 163.
    priors = make_priors(caffe_priors("voc", 300), SSD300, 300, 300).cxcywh
    # 30 · √2 = 42.426, 30 / √2 = 21.213, √(30 · 60) = 42.426.
    wanted = [
        [20, 12, 30, 30],
        [20, 12, 42.426, 42.426],
        [20, 12, 42.426, 21.213],
        [20, 12, 21.213, 42.426],
    ]
    assert priors[160:164].tolist() == [pytest.approx(row, abs=1e-3) for row in wanted]
    # The fifth level, 3 x 3, steps 100 px: its last cell is centred at 250; the single cell at 150.
    assert priors[-8:, :2].tolist() == [[250, 250]] * 4 + [[150, 150]] * 4


@pytest.mark.parametrize("limit", [True, False])
def test_caffe_equals_torchvisions_ssd300(limit: bool) -> None:
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator

    generator = DefaultBoxGenerator(
        [[2], [2, 3], [2, 3], [2, 3], [2], [2]],
        scales=[0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05],
        steps=[8, 16, 32, 64, 100, 300],
        clip=limit,
    )
    ours = make_priors(replace(caffe_priors("coco", 300), limit_size=limit), SSD300, 300, 300)
    assert torch.allclose(
        cxcywh_to_xyxy(ours.cxcywh), _torchvision(generator, SSD300, 300), atol=1e-3
    )


def test_limited_sizes_equal_torchvisions_ssdlite() -> None:
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator

    generator = DefaultBoxGenerator([[2, 3]] * 6, min_ratio=0.2, max_ratio=0.95)
    ours = make_priors(LinearPriors(limit_size=True), SHAPES, 320, 320)
    assert torch.allclose(
        cxcywh_to_xyxy(ours.cxcywh), _torchvision(generator, SHAPES, 320), atol=1e-3
    )


def _torchvision(generator: Any, shapes: list[tuple[int, int]], side: int) -> torch.Tensor:
    from torchvision.models.detection.image_list import ImageList

    images = ImageList(torch.zeros(1, 3, side, side), [(side, side)])
    boxes: torch.Tensor = generator(images, [torch.zeros(1, 1, *shape) for shape in shapes])[0]
    return boxes


def test_steps_that_do_not_fit_the_maps() -> None:
    with pytest.raises(ConfigError, match=r"steps\[4\]: 100 px over a map of 4x4 does not fit"):
        make_priors(caffe_priors("coco", 300), [*SSD512[:5], (1, 1)], 512, 512)
    with pytest.raises(ConfigError, match="steps: got 6, wanted 7"):
        make_priors(replace(caffe_priors("coco", 300), aspect_ratios=((2.0,),)), SSD512, 512, 512)


def test_multiscale_golden() -> None:
    # Level 3, stride 8: 4 · 8 = 32 px and 32 · √2 = 45.255; ratio 2: 32 · √2 by 32 / √2.
    # A level further everything doubles.
    wanted = [(32, 32), (45.255, 22.627), (22.627, 45.255)]
    wanted += [(45.255, 45.255), (64, 32), (32, 64)]
    assert MultiscalePriors().shapes(0, 5, 320) == [pytest.approx(w, abs=1e-3) for w in wanted]
    doubled = [pytest.approx((2 * w, 2 * h), abs=2e-3) for w, h in wanted]
    assert MultiscalePriors().shapes(1, 5, 320) == doubled


def test_levels_that_cover_two_octaves_share_sizes() -> None:
    # Stride 8: 2.5 · 8 = 20 px, 28.284, and an octave on 40 and 56.569; stride 16 begins at 40 px.
    two = MultiscalePriors(anchor_scale=2.5, octaves=2, aspect_ratios=(1.0,))
    fine, coarser = two.shapes(0, 5, 320), two.shapes(1, 5, 320)
    assert fine == [pytest.approx((w, w), abs=1e-3) for w in (20, 28.284, 40, 56.569)]
    assert coarser[:2] == fine[2:]
    assert len(coarser) == 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CaffePriors(first=20), "first 20, lowest 15, highest 90"),
        (lambda: MultiscalePriors(per_octave=0), "per_octave 0"),
        (lambda: MultiscalePriors(octaves=0), "octaves 0"),
        (lambda: CaffePriors().shapes(0, 2, 300.0), "wants 3 or more levels, got 2"),
        (lambda: CaffePriors().shapes(0, 7, 300.0), "aspect_ratios: got 6 levels, wanted 1 or 7"),
        (
            lambda: LinearPriors(aspect_ratios=((2.0,), (0.0,))),
            "aspect_ratios: got 0, wanted number",
        ),
        (
            lambda: CaffePriors(aspect_ratios=((-2.0,),)),
            "aspect_ratios: got -2, wanted numbers above",
        ),
        (lambda: CaffePriors(steps=(8.0, 0.0)), "steps: got 0, wanted numbers above 0"),
        (
            lambda: MultiscalePriors(aspect_ratios=(1.0, 0.0)),
            "aspect_ratios: got 0, wanted numbers",
        ),
        (lambda: ExplicitPriors(levels=(((9, 9),), ())), r"levels\[1\]: got no shape, wanted at"),
        (lambda: ExplicitPriors(levels=(((9, 9), (9, 0)),)), r"levels\[0\]: got 0, wanted numbers"),
    ],
)
def test_bad_rules(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_wrong_number_of_levels() -> None:
    with pytest.raises(ConfigError, match="got 1 levels, wanted 2"):
        make_priors(ExplicitPriors(levels=(((1, 1),),)), [(1, 1), (1, 1)], 8, 8)


def test_rows_and_columns_have_distances_of_their_own() -> None:
    """A map of 2 x 4 cells on 120 x 40 px: cells of 30 x 20 px."""
    priors = make_priors(ExplicitPriors(levels=(((4, 4),),)), [(2, 4)], 40, 120)
    assert priors.cxcywh[:, 0].tolist() == [15, 45, 75, 105] * 2
    assert priors.cxcywh[:, 1].tolist() == [10] * 4 + [30] * 4


@pytest.mark.parametrize(("height", "width"), [(40, 80), (80, 40)])
def test_given_steps_have_to_fit_both_sides(height: int, width: int) -> None:
    with pytest.raises(ConfigError, match=r"steps\[0\]: 10 px over a map of 4x4 does not fit"):
        make_priors(CaffePriors(steps=(10.0,)), [(4, 4)], height, width)


def test_the_caffe_rule_with_the_fewest_levels() -> None:
    """Three: from 20 % one step of 70 % to 90 %, and the size beyond the last."""
    assert CaffePriors(first=10, lowest=20).sizes(3) == [10, 20, 90, 160]
