"""Priors: scales, order, shapes."""

from __future__ import annotations

import pytest
import torch

from hardmine.errors import ConfigError
from hardmine.model.priors import ExplicitPriors, LinearPriors, make_priors

SHAPES = [(20, 20), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1)]


def test_scales_start_at_k_1() -> None:
    """Trap: counting from k = 0 shifts every scale. Six levels from .2 to .9 step (.9 − .2) / 5."""
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


def test_column_gives_x_and_row_gives_y() -> None:
    """Trap: cx belongs to the column, cy to the row; row-major; all shapes of a cell together."""
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


def test_not_clipped() -> None:
    """Trap: clipping for matching but not for coding is inconsistent; neither is done."""
    priors = make_priors(LinearPriors(), SHAPES, 320, 320).cxcywh
    assert (priors[:, 0] - priors[:, 2] / 2 < 0).any()


def test_wrong_number_of_levels() -> None:
    with pytest.raises(ConfigError, match="got 1 levels, wanted 2"):
        make_priors(ExplicitPriors(levels=(((1, 1),),)), [(1, 1), (1, 1)], 8, 8)
