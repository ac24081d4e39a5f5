"""Resize and its inverse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hardmine.data.resize import Resize
from hardmine.errors import ConfigError

SIZE = st.integers(1, 4000)


@given(
    SIZE,
    SIZE,
    st.sampled_from(["stretch", "letterbox"]),
    st.integers(32, 640),
    st.integers(32, 640),
)
def test_inverse_undoes_forward(
    width: int, height: int, mode: str, rows: int, columns: int
) -> None:
    placement = Resize(rows, columns, mode).place(width, height)  # type: ignore[arg-type]
    boxes = np.array(
        [[0, 0, width, height], [width / 3, height / 4, width / 2, height]], np.float32
    )
    back = placement.inverse(placement.forward(boxes))
    # float32 holds 4,000 px to 2.4e-4; a canvas pixel may stand for hundreds of image pixels.
    assert np.abs(back - boxes).max() < max(
        1e-3, 2e-6 * max(width, height) ** 2 / min(rows, columns)
    )


def test_letterbox_golden() -> None:
    """Trap: warping to a square first, then padding, still distorts."""
    # 200 x 100 into 100 x 100: r = min(100/200, 100/100) = .5, so 100 x 50 with 25 rows above.
    placement = Resize(100, 100, "letterbox").place(200, 100)
    assert (placement.scale_x, placement.scale_y) == (0.5, 0.5)
    assert (placement.offset_x, placement.offset_y) == (0.0, 25.0)
    pixels, _ = Resize(100, 100, "letterbox", fill=(1, 2, 3)).apply(
        Image.new("RGB", (200, 100), "white")
    )
    assert pixels[24, 50].tolist() == [1, 2, 3]
    assert pixels[25, 50].tolist() == [255, 255, 255]


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
