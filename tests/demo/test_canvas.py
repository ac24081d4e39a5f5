"""The analytic painter: areas against geometry, edges, layers."""

import math

import numpy as np
import pytest

from hardmine.demo.items import CLUTTER, HELD_OUT_ONLY, LOOK_ALIKES, TARGETS, Canvas, Family

EVERY = (*TARGETS, *LOOK_ALIKES, *HELD_OUT_ONLY, *CLUTTER)


def make_canvas(tilt: float = 0.0, width: float = 40, height: float = 80) -> Canvas:
    return Canvas.for_item(
        center=100.3, base=120.7, width=width, height=height, tilt=tilt, light=0.4
    )


def test_rectangle_covers_its_area() -> None:
    # Half the width (20 px) by a quarter of the height (20 px) = 400 px, at any tilt.
    points = [(-0.5, 0.5), (0.5, 0.5), (0.5, 0.75), (-0.5, 0.75)]
    for tilt in (0.0, 0.07, -0.3):
        assert make_canvas(tilt).polygon(points).sum() == pytest.approx(400, rel=0.02)


def test_polygon_given_anticlockwise_covers_nothing() -> None:
    points = [(-0.5, 0.75), (0.5, 0.75), (0.5, 0.5), (-0.5, 0.5)]
    assert make_canvas().polygon(points).sum() == pytest.approx(0, abs=1)


def test_ellipse_covers_its_area() -> None:
    # Radii 0.5 of 20 px and 0.25 of 80 px: pi * 10 * 20 = 628 px.
    assert make_canvas(0.1).ellipse(0, 0.5, 0.5, 0.25).sum() == pytest.approx(628.3, rel=0.02)


def test_cone_covers_its_area() -> None:
    # Half width from 0 to 1 over the height: a triangle of 40 * 80 / 2 = 1600 px.
    cone = make_canvas().turned([(0.0, 1e-6), (1.0, 1.0)], bend=0.0)
    assert cone.cover.sum() == pytest.approx(1600, rel=0.02)


def test_band_of_a_cylinder_covers_its_share() -> None:
    cylinder = make_canvas().turned([(0.0, 1.0), (1.0, 1.0)], bend=0.0)
    assert cylinder.band(0.25, 0.5).sum() == pytest.approx(40 * 80 / 4, rel=0.02)
    assert cylinder.band(0.5, 0.25).sum() == 0


def test_tilt_is_about_the_base_and_clockwise() -> None:
    # The top's centre moves right by 80 * sin(0.3) = 23.6 px.
    canvas = make_canvas(0.3)
    cover = canvas.ellipse(0, 0, 0.2, 0.05)
    columns = np.arange(cover.shape[1]) + canvas.left + 0.5
    center = float((cover.sum(axis=0) * columns).sum() / cover.sum())
    assert center - 100.3 == pytest.approx(80 * math.sin(0.3), abs=0.3)


def test_layers_add_up_like_paint() -> None:
    canvas = make_canvas()
    half, whole = np.full_like(canvas.x, 0.5), np.ones_like(canvas.x)
    canvas.over(half, (1.0, 0.0, 0.0))
    assert canvas.alpha[0, 0] == pytest.approx(0.5)
    canvas.over(half, (0.0, 1.0, 0.0))
    # 0.5 green over 0.5 red: red 0.25, green 0.5, alpha 0.75.
    assert canvas.rgb[0, 0].tolist() == pytest.approx([0.25, 0.5, 0.0])
    assert canvas.alpha[0, 0] == pytest.approx(0.75)
    canvas.over(whole, (0.0, 0.0, 1.0))
    assert canvas.rgb[0, 0].tolist() == pytest.approx([0, 0, 1])


@pytest.mark.parametrize("family", EVERY, ids=lambda family: family.name)
def test_every_family_fills_its_box_and_stays_inside(family: Family) -> None:
    rng = np.random.default_rng(1)
    for _ in range(6):
        height = 70.0
        width = height * float(rng.uniform(*family.aspect))
        tilt = float(rng.uniform(-0.08, 0.08))
        canvas = make_canvas(tilt, width, height)
        family.paint(canvas, rng)
        solid = canvas.alpha > 0.4
        assert 0.3 * width * height < solid.sum() <= 1.02 * width * height
        border = np.concatenate(
            [canvas.alpha[0], canvas.alpha[-1], canvas.alpha[:, 0], canvas.alpha[:, -1]]
        )
        assert border.max() < 0.02
        assert np.isfinite(canvas.rgb).all()
        assert canvas.alpha.min() >= 0
        assert canvas.alpha.max() <= 1 + 1e-5
