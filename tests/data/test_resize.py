"""Resize and its inverse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from hardmine.data.resize import Align, Mode, PlainBilinear, Resize, plain_bilinear
from hardmine.errors import ConfigError
from hardmine.recipes.recipe import Recipe, recipe_from_dict

MODES: list[Mode] = ["stretch", "letterbox", "shortest", "inscribe"]
SIZE = st.integers(1, 4000)
MODE = st.sampled_from(MODES)
ALIGNS: list[Align] = ["centre", "upper_left"]
ALIGN = st.sampled_from(ALIGNS)


def some_boxes(width: int, height: int) -> NDArray[np.float64]:
    return np.array([[0, 0, width, height], [width / 3, height / 4, width / 2, height]])


@given(SIZE, SIZE, MODE, ALIGN, st.integers(1, 2000), st.integers(1, 2000))
def test_inverse_undoes_forward(
    width: int, height: int, mode: Mode, align: Align, rows: int, columns: int
) -> None:
    placement = Resize(rows, columns, mode, align=align).place(width, height)
    boxes = some_boxes(width, height)
    back = placement.inverse(placement.forward(boxes))
    assert back.dtype == np.float64
    assert np.abs(back - boxes).max() < 1e-6


@given(SIZE, SIZE, MODE, st.integers(160, 1024), st.integers(160, 1024))
def test_inverse_undoes_forward_in_float32(
    width: int, height: int, mode: Mode, rows: int, columns: int
) -> None:
    """Within .001 px: rounding at 1,024 px of canvas is 3e-5 px, of which one stands for <= 25."""
    placement = Resize(rows, columns, mode).place(width, height)
    boxes = some_boxes(width, height).astype(np.float32)
    back = placement.inverse(placement.forward(boxes))
    assert back.dtype == np.float32
    assert np.abs(back - boxes).max() < 1e-3


@given(SIZE, SIZE, MODE, ALIGN, st.integers(1, 700), st.integers(1, 700))
def test_the_image_lies_on_the_canvas(
    width: int, height: int, mode: Mode, align: Align, rows: int, columns: int
) -> None:
    placement = Resize(rows, columns, mode, align=align).place(width, height)
    low_x, low_y, high_x, high_y = placement.forward(np.array([[0.0, 0, width, height]]))[0]
    assert 0 <= low_x < high_x <= columns + 1e-9
    assert 0 <= low_y < high_y <= rows + 1e-9


def test_trap_12_letterbox_scales_before_it_pads() -> None:
    """Trap: warping to a square first, then padding, still distorts."""
    # 200 x 100 into 100 x 100: r = min(100/200, 100/100) = .5, so 100 x 50 with 25 rows above.
    resize = Resize(100, 100, "letterbox", fill=(1, 2, 3))
    image = Image.new("RGB", (200, 100), "white")
    image.paste("black", (80, 30, 120, 70))  # a square of 40 px
    pixels, placement = resize.apply(image)
    assert (placement.scale_x, placement.scale_y) == (0.5, 0.5)
    assert (placement.offset_x, placement.offset_y) == (0.0, 25.0)
    assert pixels[24, 50].tolist() == [1, 2, 3]
    assert pixels[25, 2].tolist() == [255, 255, 255]
    rows, columns = np.nonzero((pixels[25:75, :, 0]) < 128)
    assert np.ptp(rows) == np.ptp(columns) == 19  # still a square, 20 px
    box = placement.forward(np.array([[80.0, 30, 120, 70]]))
    assert box.tolist() == [[40, 40, 60, 60]]
    assert placement.inverse(box).tolist() == [[80, 30, 120, 70]]


@pytest.mark.parametrize("mode", ["letterbox", "shortest"])
@given(width=st.integers(100, 4000), height=st.integers(100, 4000))
def test_trap_12_aspect_ratios_are_kept(mode: Mode, width: int, height: int) -> None:
    placement = Resize(320, 480, mode).place(width, height)
    # The canvas has whole pixels: at most half a pixel of the resized side is lost to rounding.
    short = min(width * placement.scale_x, height * placement.scale_y)
    assert placement.scale_x / placement.scale_y == pytest.approx(1, abs=1.2 / (short - 1))


def test_shortest_keeps_the_scale_of_a_turned_camera() -> None:
    # 640 x 480 and 480 x 640 on 320 x 320, side 240: r = 240 / 480 = .5 both ways.
    resize = Resize(320, 320, "shortest")
    wide, upright = resize.place(640, 480), resize.place(480, 640)
    assert (wide.scale_x, wide.scale_y, wide.offset_x, wide.offset_y) == (0.5, 0.5, 0, 40)
    assert (upright.scale_x, upright.scale_y, upright.offset_x, upright.offset_y) == (
        *(0.5, 0.5, 40, 0),
    )
    # 2 : 1 would be 480 wide: the canvas limits it to 320, r = 320 / 960.
    assert resize.place(960, 480).scale_x == pytest.approx(1 / 3)
    assert Resize(320, 320, "shortest", side=120).place(960, 480).scale_x == 0.25


@pytest.mark.parametrize("size", [(1280, 720), (720, 1280)])
@pytest.mark.parametrize("canvas", [(240, 320), (320, 240)])
def test_inscribe_golden(size: tuple[int, int], canvas: tuple[int, int]) -> None:
    """720 x 1280 and 1280 x 720 -> 224 x 224 -> a canvas of zeros, 240 x 320, both ways round."""
    resize = Resize(*canvas, "inscribe", fill=(124, 116, 104), side=224)
    pixels, placement = resize.apply(Image.new("RGB", size, "white"))
    assert pixels.shape == (*canvas, 3)
    top, left = (canvas[0] - 224) // 2, (canvas[1] - 224) // 2
    assert (placement.offset_x, placement.offset_y) == (left, top)
    assert (pixels[top : top + 224, left : left + 224] == 255).all()
    assert pixels.sum() == 224 * 224 * 3 * 255  # everything else is zero
    whole = np.array([[0.0, 0, *size]])
    assert placement.forward(whole).tolist() == [[left, top, left + 224, top + 224]]
    assert np.allclose(placement.inverse(placement.forward(whole)), whole, atol=1e-9)


def test_inscribe_gives_a_turned_camera_the_same_picture_turned() -> None:
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 255, (9, 16, 3), np.uint8))
    image = small.resize((1280, 720), Image.Resampling.BICUBIC)
    resize = Resize(240, 320, "inscribe", side=224)
    upright, _ = resize.apply(image)
    turned, _ = resize.apply(image.transpose(Image.Transpose.ROTATE_90))
    square = slice(8, 232), slice(48, 272)
    difference = np.rot90(upright[square]).astype(int) - turned[square].astype(int)
    assert np.abs(difference).max() <= 1  # rows and columns are rounded in another order


def test_canvas_is_height_by_width() -> None:
    pixels, _ = Resize(40, 60).apply(Image.new("RGB", (10, 10)))
    assert pixels.shape == (40, 60, 3)


def test_inverse_stays_inside_the_image() -> None:
    placement = Resize(10, 10, "letterbox").place(20, 10)
    outside = np.array([[-5, -5, 50, 50]], np.float32)
    assert placement.inverse(outside).tolist() == [[0, 0, 20, 10]]


def test_unknown_mode() -> None:
    with pytest.raises(ConfigError, match="'squash', wanted one of"):
        Resize(10, 10, "squash")  # type: ignore[arg-type]


def test_a_side_that_does_not_fit() -> None:
    with pytest.raises(ConfigError, match=r"got 241, wanted 1\.\.240 on a canvas of 240x320"):
        Resize(240, 320, "inscribe", side=241)
    with pytest.raises(ConfigError, match="'letterbox', which has no side"):
        Resize(240, 320, "letterbox", side=100)


def test_a_recipe_chooses_it() -> None:
    recipe = recipe_from_dict({"resize_mode": "inscribe", "resize_side": 100})
    assert (recipe.resize.mode, recipe.resize.side) == ("inscribe", 100)
    assert Recipe().resize.mode == "stretch"
    with pytest.raises(ConfigError, match=r"wanted 1\.\.320"):
        recipe_from_dict({"resize_mode": "shortest", "resize_side": 1000})


def test_at_the_upper_left_nothing_lies_left_or_above() -> None:
    """200 × 100 into 100 × 100: r = .5, so 100 × 50 at the top, 50 rows of filling below."""
    resize = Resize(100, 100, "letterbox", (1, 2, 3), align="upper_left")
    canvas, placement = resize.apply(Image.new("RGB", (200, 100), (200, 0, 0)))
    assert (canvas[:50] == (200, 0, 0)).all()
    assert (canvas[50:] == (1, 2, 3)).all()
    assert resize.inner(200, 100) == (0, 0, 100, 50)
    box = np.array([[20.0, 10, 40, 30]])
    assert placement.forward(box).tolist() == [[10, 5, 20, 15]]
    assert placement.inverse(placement.forward(box)).tolist() == box.tolist()


def test_an_unknown_place_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"resize\.align: got 'left', wanted one of 'centre'"):
        Resize(10, 10, "letterbox", align="left")  # type: ignore[arg-type]


def test_plain_bilinear_rounds_as_opencv_does() -> None:
    """By hand: 4 pixels to 2; each new one lies halfway between two old ones.

    10, 21 → weights 1024: (10 + 21) × 1024 = 31744, >> 4 = 1984; the same row above and below, each
    (1984 × 1024) >> 16 = 31; (31 + 31 + 2) >> 2 = 16. 20, 31: 52224 >> 4 = 3264, 51, (104) >> 2 = 26.
    """
    row = np.array([10, 21, 20, 31], np.uint8)
    pixels = np.repeat(np.stack([row, row])[..., None], 3, axis=2)
    found = plain_bilinear(pixels, (2, 1))
    assert found[..., 0].tolist() == [[16, 26]]


@pytest.mark.parametrize("size", [(40, 30), (17, 9), (100, 80), (1, 1)])
def test_plain_bilinear_is_opencvs(size: tuple[int, int]) -> None:
    cv2 = pytest.importorskip("cv2")
    pixels = np.random.default_rng(0).integers(0, 256, (61, 47, 3), np.uint8)
    wanted = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR).astype(int)
    differs = np.abs(plain_bilinear(pixels, size) - wanted)
    assert differs.max() <= 1
    assert (differs > 0).mean() < 0.005


def test_plain_bilinear_reads_all_pixels_and_places_boxes_alike() -> None:
    """Nothing is averaged by the decoder, and the canvas is the other resize's."""
    plain, other = (kind(64, 64, "letterbox", (1, 2, 3)) for kind in (PlainBilinear, Resize))
    assert plain.decoded_cover is None
    assert other.decoded_cover is not None
    image = Image.new("RGB", (100, 50), (9, 9, 9))
    for (canvas, placement), (same, at) in [(plain.apply(image), other.apply(image))]:
        assert placement == at
        np.testing.assert_array_equal(canvas, same)
