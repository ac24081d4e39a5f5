"""The augmentation chain."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from hardmine.augment.chain import NO_AUGMENT, AugmentConfig, augment
from hardmine.augment.geometry_and_colour import (
    View,
    apply_colour,
    draw_view,
    flip,
    mirror,
    photometric_matrix,
    sample_crop,
)
from hardmine.augment.sample import Sample, Source
from hardmine.data.resize import Resize
from hardmine.errors import ConfigError

CROP = replace(NO_AUGMENT, crop=True)


def picture(width: int = 120, height: int = 80) -> Image.Image:
    return Image.new("RGB", (width, height), "navy")


def run(
    boxes: list[list[float]], config: AugmentConfig, seed: int = 0, mode: str = "stretch"
) -> Sample:
    array = np.array(boxes, np.float32).reshape(-1, 4)
    labels, ignore = np.ones(len(boxes), np.int64), np.zeros(len(boxes), bool)
    resize = Resize(64, 64, mode)  # type: ignore[arg-type]
    return augment(picture(), array, labels, ignore, resize, config, np.random.default_rng(seed))


def test_without_steps_it_is_the_plain_resize() -> None:
    """Training and mining see identical pixels."""
    rng = np.random.default_rng(1)
    image = Image.fromarray(rng.integers(0, 255, (80, 120, 3), np.uint8))
    for mode in ("stretch", "letterbox"):
        resize = Resize(64, 64, mode)  # type: ignore[arg-type]
        boxes = np.array([[12, 8, 60, 40]], np.float32)
        one = np.ones(1, np.int64), np.zeros(1, bool)
        sample = augment(image, boxes, *one, resize, NO_AUGMENT, rng)
        pixels, placement = resize.apply(image)
        assert (sample.image == pixels).all()
        assert np.allclose(sample.boxes, placement.forward(boxes), atol=0.5)


def test_trap_11_an_image_without_boxes_is_cropped_too() -> None:
    """Trap: torchvision's RandomIoUCrop never crops one."""
    window = np.array([0.0, 0, 120, 80])
    none = np.zeros((0, 4), np.float32)
    crops = [sample_crop(window, none, CROP, np.random.default_rng(s)) for s in range(300)]
    whole = sum((crop == window).all() for crop in crops)
    # One of seven samplers keeps the whole image: 300 / 7 = 43, three deviations are 18.
    assert 25 <= whole <= 61


def test_trap_11_any_box_suffices() -> None:
    """Trap: a crop needs one box that reaches the IoU, not all of them.

    No crop reaches .6 with both halves of an image. Were both asked for, that sampler would never
    succeed, and only the free one (a third of such crops at most by chance) and the whole image stay.
    """
    halves = np.array([[0, 0, 60, 80], [60, 0, 120, 80]], np.float32)
    config = replace(CROP, min_overlaps=(0.6,))
    window = np.array([0.0, 0, 120, 80])
    reached = 0
    for seed in range(300):
        crop = sample_crop(window, halves, config, np.random.default_rng(seed))
        side = np.minimum(crop[2], halves[:, 2]) - np.maximum(crop[0], halves[:, 0])
        inter = side.clip(min=0) * (crop[3] - crop[1])
        area = (crop[2] - crop[0]) * (crop[3] - crop[1])
        reached += bool((inter / (area + 4800 - inter)).max() >= 0.6)
    # Chosen in a third of the draws: 100, three deviations are 24; by chance alone about 15.
    assert reached >= 76


def test_the_sampler_without_a_condition_gives_crops_without_an_object_too() -> None:
    corner, window = np.array([[0, 0, 2, 2]], np.float32), np.array([0.0, 0, 120, 80])
    config = replace(CROP, min_overlaps=(), crop_trials=1)
    crops = [sample_crop(window, corner, config, np.random.default_rng(s)) for s in range(50)]
    assert sum((crop[:2] > 2).any() for crop in crops) > 10


@pytest.mark.parametrize(("expand", "low", "high"), [(0.0, 0, 0), (0.3, 39, 81), (1.0, 200, 200)])
def test_images_are_expanded_as_often_as_asked_for(expand: float, low: int, high: int) -> None:
    # .3 of 200: 60, three deviations are 3 · √(200 · .3 · .7) = 19
    config, none = replace(NO_AUGMENT, expand=expand), np.zeros((0, 4), np.float32)
    views = [
        draw_view(120, 80, none, Resize(64, 64), config, np.random.default_rng(seed))
        for seed in range(200)
    ]
    assert low <= sum(view.window[2] - view.window[0] > 120 for view in views) <= high


def test_crops_stay_inside_with_bounded_sides() -> None:
    window = np.array([-20.0, -10, 140, 110])
    for seed in range(100):
        crop = sample_crop(window, np.zeros((0, 4), np.float32), CROP, np.random.default_rng(seed))
        assert (crop[:2] >= window[:2] - 1e-9).all()
        assert (crop[2:] <= window[2:] + 1e-9).all()
        sides = (crop[2:] - crop[:2]) / (window[2:] - window[:2])
        assert (sides >= 0.3 / np.sqrt(2) - 1e-9).all()
        assert 0.5 - 1e-9 <= sides[0] / sides[1] <= 2 + 1e-9


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["stretch", "letterbox"]))
def test_boxes_stay_on_the_canvas(seed: int, mode: str) -> None:
    sample = run([[10, 10, 50, 40], [60, 20, 119, 79]], AugmentConfig(), seed, mode)
    assert sample.image.shape == (64, 64, 3)
    assert len(sample.boxes) == len(sample.labels) == len(sample.ignore)
    assert (sample.boxes >= -1e-3).all()
    assert (sample.boxes <= 64 + 1e-3).all()
    assert (sample.boxes[:, 2:] > sample.boxes[:, :2]).all()


@pytest.mark.parametrize("mode", ["stretch", "letterbox"])
def test_boxes_follow_the_pixels(mode: str) -> None:
    """A white square on black is where its box says, whatever the chain did to it."""
    config = replace(AugmentConfig(), photometric=0.0, random_interpolation=False)
    image = Image.new("RGB", (120, 80), "black")
    image.paste("white", (30, 20, 70, 60))
    boxes = np.array([[30, 20, 70, 60]], np.float32)
    resize = Resize(96, 96, mode, fill=(0, 0, 0))  # type: ignore[arg-type]
    seen = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        sample = augment(image, boxes, np.ones(1, np.int64), np.zeros(1, bool), resize, config, rng)
        if not len(sample.boxes):
            continue
        rows, columns = np.nonzero(sample.image[..., 0] > 127)
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert np.abs(sample.boxes[0] - found).max() <= 1.6
        seen += 1
    assert seen > 40


def test_mirror_golden() -> None:
    sample = run([[0, 0, 60, 40]], replace(NO_AUGMENT, mirror=1.0))
    # 0..60 of 120 px becomes 0..32 of 64, mirrored 32..64.
    assert sample.boxes.tolist() == [[32, 0, 64, 32]]


def test_grey_stays_grey_under_saturation_and_hue() -> None:
    for seed in range(20):
        matrix = photometric_matrix(1.0, np.random.default_rng(seed))
        grey = matrix[:, :3] @ np.full(3, 100.0)
        assert np.ptp(grey) < 1.0


YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


def parts_of(matrix: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Return a colour map's brightness, contrast, saturation and hue in degrees."""
    contrast = float(matrix[0, :3].sum())  # what grey is multiplied by
    turned = YIQ @ matrix[:, :3] @ np.linalg.inv(YIQ) / contrast
    assert turned[1:, 1:] == pytest.approx(
        np.array([[1, -1], [1, 1]]) * [[turned[1, 1], turned[2, 1]], [turned[2, 1], turned[1, 1]]]
    )
    assert turned[0] == pytest.approx([1, 0, 0], abs=0.01)  # the luma stays
    assert np.ptp(matrix[:, 3]) == 0
    hue = np.rad2deg(np.arctan2(turned[2, 1], turned[1, 1]))
    return matrix[0, 3], contrast, np.hypot(turned[2, 1], turned[1, 1]), hue


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_colours_vary_in_the_ranges_that_the_strength_multiplies(strength: float) -> None:
    maps = [photometric_matrix(1.0, np.random.default_rng(s), strength) for s in range(400)]
    parts = np.array([parts_of(matrix) for matrix in maps])
    middle, reach = np.array([0, 1, 1, 0]), strength * np.array([32, 0.5, 0.5, 18])
    far = (parts - middle) / reach
    assert (np.abs(far) <= 1.01).all()
    assert (far.min(0) < -0.95).all() and (far.max(0) > 0.95).all()
    assert np.abs(np.corrcoef(far.T) - np.eye(4)).max() < 0.2


def test_each_part_of_a_colour_map_has_its_own_chance() -> None:
    # .3 of 400: 120, three deviations are 3 · √(400 · .3 · .7) = 27
    maps = [photometric_matrix(0.3, np.random.default_rng(s)) for s in range(400)]
    changed = np.abs([parts_of(matrix) for matrix in maps] - np.array([0, 1, 1, 0])) > 1e-3
    assert (np.abs(changed.sum(0) - 120) <= 27).all()
    assert np.abs(np.corrcoef(changed.T) - np.eye(4)).max() < 0.2
    still = photometric_matrix(0.0, np.random.default_rng(0))
    assert still == pytest.approx(np.eye(3, 4), abs=1e-9)


def test_colours_are_mapped_rounded_and_clipped() -> None:
    pixels = np.array([[[10, 20, 30], [0, 255, 100]]], np.uint8)
    matrix = np.array([[0.5, 0.25, 0, 1], [0, 1, 1, 0], [-1, 0, 0, 7.4]])
    # 5 + 5 + 1, 20 + 30, 7.4 - 10; 63.75 + 1 = 64.75, 355, 7.4
    assert apply_colour(pixels, matrix).tolist() == [[[11, 50, 0], [65, 255, 7]]]


def test_settings_out_of_range() -> None:
    with pytest.raises(ConfigError, match=r"min_overlaps: got \[0.5, 70\], wanted an IoU of 0..1"):
        AugmentConfig(min_overlaps=(0.5, 70))
    with pytest.raises(ConfigError, match=r"augment.mirror: got 1.5, wanted 0..1"):
        AugmentConfig(mirror=1.5)


def test_padding_keeps_its_colour_and_its_place() -> None:
    """What evaluation and mining see around the image is what training saw."""
    config = replace(NO_AUGMENT, photometric=1.0, mirror=0.5, vertical_flip=0.5)
    image = Image.new("RGB", (120, 80), "navy")
    boxes = np.array([[0, 0, 120, 80]], np.float32)
    one = np.ones(1, np.int64), np.zeros(1, bool)
    resize = Resize(90, 90, "letterbox", fill=(9, 8, 7))
    for seed in range(12):
        sample = augment(image, boxes, *one, resize, config, np.random.default_rng(seed))
        padding = np.concatenate([sample.image[:15], sample.image[75:]])
        assert (padding == (9, 8, 7)).all()
        assert sample.boxes.tolist() == [[0, 15, 90, 75]]
        assert sample.inner == (0, 15, 90, 75)


def test_flips_move_the_image_on_its_canvas() -> None:
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool)
    sample = Sample(np.zeros((10, 20, 3), np.uint8), *nothing, inner=(2, 1, 10, 5))
    assert mirror(sample).inner == (10, 1, 18, 5)
    assert flip(sample).inner == (2, 5, 10, 9)
    assert (
        mirror(replace(sample, inner=None)).inner is flip(replace(sample, inner=None)).inner is None
    )


def test_flips_move_boxes_with_the_pixels() -> None:
    image = np.arange(10 * 20 * 3).reshape(10, 20, 3).astype(np.uint8)
    boxes = np.array([[2, 1, 10, 5]], np.float32)
    sample = Sample(image, boxes, np.ones(1, np.int64), np.zeros(1, bool))
    assert mirror(sample).boxes.tolist() == [[10, 1, 18, 5]]
    assert flip(sample).boxes.tolist() == [[2, 5, 10, 9]]
    assert (mirror(sample).image[1:5, 10:18] == image[1:5, 9:1:-1]).all()
    assert (flip(sample).image[5:9, 2:10] == image[4:0:-1, 2:10]).all()


def test_a_small_crop_asks_for_a_larger_decode() -> None:
    resize = Resize(64, 64)
    small = np.array([100.0, 100, 225, 200])  # an eighth and a tenth of 1,000 x 1,000
    view = View(1000, 1000, small, resize, Image.Resampling.BILINEAR, small)
    assert view.cover == (8 * 64, 10 * 64)
    large = np.array([-500.0, -500, 1500, 1500])
    assert replace(view, window=large).cover == (64, 64)  # never less than the plain resize
    boxed = Resize(64, 64, "letterbox")  # shows 1,000 x 500 at 64 x 32
    assert replace(view, height=500, resize=boxed, window=large).cover == (64, 32)


@pytest.mark.parametrize(
    ("expanded", "window", "shown"),
    [
        ((0, 0, 120, 80), (0, 0, 120, 80), {}),
        ((0, 0, 120, 80), (40, 20, 100, 60), {"crop": (40, 60)}),
        ((-60, -40, 180, 120), (-60, -40, 180, 120), {"expand": (80, 120)}),
        ((-60, -40, 180, 120), (0, 0, 60, 80), {"expand": (80, 120), "crop": (80, 60)}),
    ],
)
def test_only_what_was_done_is_a_step_no_larger_than_asked_for(
    expanded: tuple[int, ...], window: tuple[int, ...], shown: dict[str, tuple[int, int]]
) -> None:
    """The expanded image has 240 x 160 px, which are shown at half that size."""
    boxes = np.array([[50, 30, 60, 50]], np.float32)
    source = Source(picture(), boxes, np.ones(1, np.int64), np.zeros(1, bool))
    one, other = (np.array(rect, np.float64) for rect in (window, expanded))
    view = View(120, 80, one, Resize(64, 64), Image.Resampling.BILINEAR, other)
    steps = dict(view.steps(source, longest=120))
    assert {name: sample.image.shape[:2] for name, sample in steps.items()} == shown
    if "expand" in steps:
        assert steps["expand"].boxes.tolist() == [[55, 35, 60, 45]]


def test_a_region_to_be_ignored_stays_as_long_as_any_of_it_is_shown() -> None:
    """Its centre is outside, and yet what the crop shows of it is no background."""
    window = np.array([40.0, 0, 120, 80])
    shown, cut = [[0, 0, 60, 80], [0, 0, 60, 80]], [[0, 0, 40, 80], [0, 0, 40.5, 1]]
    boxes = np.array([*shown, *cut, [70, 10, 90, 30]], np.float32)
    ignore = np.array([True, False, True, True, False])
    source = Source(picture(), boxes, np.array([1, 2, 3, 4, 5]), ignore)
    view = View(120, 80, window, Resize(80, 80), Image.Resampling.BILINEAR, window)
    sample = view.render(source)
    # An object goes with its centre; a region that only touches the crop is not in it.
    assert sample.labels.tolist() == [1, 4, 5]
    assert sample.ignore.tolist() == [True, True, False]
    assert sample.boxes.tolist() == [[0, 0, 20, 80], [0, 0, 0.5, 1], [30, 10, 50, 30]]
