"""One resize for training, evaluation, mining and export, with an exact inverse for boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar, assert_never, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hardmine.data.images import Cover, Picture
from hardmine.errors import ConfigError

Boxes = TypeVar("Boxes", NDArray[np.float32], NDArray[np.float64])
Mode = Literal["stretch", "letterbox", "shortest", "inscribe"]
Align = Literal["centre", "upper_left"]
Colour = tuple[int, int, int]

_BLACK: Colour = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an image lies on the model's canvas: ``x' = x · scale + offset`` on each axis."""

    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float
    width: float
    """Width of the original image, px."""
    height: float
    """Height of the original image, px."""

    def forward(self, boxes: Boxes) -> Boxes:
        """Map boxes ([N, 4], original pixels) onto the canvas; float64 stays float64."""
        return (boxes * self._scale + self._offset).astype(boxes.dtype)

    def inverse(self, boxes: Boxes) -> Boxes:
        """Map boxes ([N, 4], canvas pixels) back onto the original image, limited to it."""
        original = (boxes - self._offset) / self._scale
        limit = np.array([self.width, self.height, self.width, self.height], np.float64)
        return original.clip(0, limit).astype(boxes.dtype)

    @property
    def _scale(self) -> NDArray[np.float64]:
        return np.array([self.scale_x, self.scale_y, self.scale_x, self.scale_y], np.float64)

    @property
    def _offset(self) -> NDArray[np.float64]:
        return np.array([self.offset_x, self.offset_y, self.offset_x, self.offset_y], np.float64)


@dataclass(frozen=True, slots=True)
class Resize:
    """Bring any image of w × h pixels to ``height`` × ``width`` (H × W).

    - ``stretch`` fills the canvas and changes the aspect ratio.
    - ``letterbox`` scales by r = min(W / w, H / h).
    - ``shortest`` scales by r = min(side / min(w, h), W / w, H / h): objects come out equally large
      whichever way the camera is held, where letterbox shows those of an upright picture smaller on
      a wide canvas. It is torchvision's min_size / max_size on a canvas of fixed size.
    - ``inscribe`` stretches to side × side: the same for a camera turned by 90°.

    Where the image does not fill the canvas it is centred, or lies at the upper left with ``align``
    ``upper_left``, as YOLOX has it; the rest is ``fill``, or zeros in the mode ``inscribe``.
    """

    height: int
    width: int
    mode: Mode = "stretch"
    fill: Colour = (124, 116, 104)
    side: int | None = None
    """Of ``shortest`` (default ¾ of the canvas's shorter side: pictures of 4:3 then fit a square
    canvas both ways) and ``inscribe`` (default the canvas's shorter side), px."""
    align: Align = "centre"

    def __post_init__(self) -> None:
        limit = min(self.height, self.width)
        if limit < 1:
            raise ConfigError(f"resize: got {self.height}x{self.width}, wanted at least 1x1")
        if self.mode not in get_args(Mode):
            known = ", ".join(repr(mode) for mode in get_args(Mode))
            raise ConfigError(f"resize.mode: got {self.mode!r}, wanted one of {known}")
        if self.align not in get_args(Align):
            known = ", ".join(repr(align) for align in get_args(Align))
            raise ConfigError(f"resize.align: got {self.align!r}, wanted one of {known}")
        if self.side is None:
            return
        if self.mode not in ("shortest", "inscribe"):
            raise ConfigError(
                f"resize.side: got {self.side} with mode {self.mode!r}, which has no side; "
                "wanted mode 'shortest' or 'inscribe'"
            )
        if not 1 <= self.side <= limit:
            raise ConfigError(
                f"resize.side: got {self.side}, wanted 1..{limit} on a canvas of "
                f"{self.height}x{self.width}"
            )

    @property
    def padding(self) -> Colour:
        """The colour where no image lies."""
        return _BLACK if self.mode == "inscribe" else self.fill

    def cover(self, width: float, height: float) -> tuple[int, int]:
        """Return the (width, height) in canvas pixels to which such an image is resampled."""
        ratio = min(self.width / width, self.height / height)
        match self.mode:
            case "stretch":
                return self.width, self.height
            case "inscribe":
                side = self.side or min(self.height, self.width)
                return side, side
            case "shortest":
                side = self.side or max(1, round(0.75 * min(self.height, self.width)))
                ratio = min(ratio, side / min(width, height))
            case "letterbox":
                pass
            case _:
                assert_never(self.mode)
        inner_w = min(self.width, max(1, round(width * ratio)))
        inner_h = min(self.height, max(1, round(height * ratio)))
        return inner_w, inner_h

    @property
    def decoded_cover(self) -> Cover | None:
        """What a decoder must at least deliver; ``None``: all of a picture's pixels."""
        return self.cover

    def place(self, width: float, height: float) -> Placement:
        """Return where an image (or a window of one) of ``width`` × ``height`` pixels lies."""
        inner_w, inner_h = self.cover(width, height)
        x, y = self._offset(inner_w, inner_h)
        return Placement(inner_w / width, inner_h / height, float(x), float(y), width, height)

    def inner(self, width: float, height: float) -> tuple[int, int, int, int] | None:
        """Return where such an image lies, xyxy in canvas pixels; None when it fills the canvas."""
        inner_w, inner_h = self.cover(width, height)
        if (inner_w, inner_h) == (self.width, self.height):
            return None
        x, y = self._offset(inner_w, inner_h)
        return x, y, x + inner_w, y + inner_h

    def _offset(self, inner_w: int, inner_h: int) -> tuple[int, int]:
        """Return where the upper left corner of what is resampled lies, canvas pixels."""
        match self.align:
            case "centre":
                return (self.width - inner_w) // 2, (self.height - inner_h) // 2
            case "upper_left":
                return 0, 0
            case _:
                assert_never(self.align)

    def apply(self, image: Image.Image | Picture) -> tuple[NDArray[np.uint8], Placement]:
        """Return the canvas u8[H, W, 3] and the placement that maps boxes onto it.

        Args:
            image: an RGB image, or one read with ``cover=resize.cover``; boxes refer to its
                original size all the same.
        """
        picture = image if isinstance(image, Picture) else Picture.of(image)
        placement = self.place(picture.width, picture.height)
        inner = self.cover(picture.width, picture.height)
        resized = self._resample(picture, inner)
        if inner == (self.width, self.height):
            return np.asarray(resized), placement
        canvas = Image.new("RGB", (self.width, self.height), self.padding)
        canvas.paste(resized, (int(placement.offset_x), int(placement.offset_y)))
        return np.asarray(canvas), placement

    def _resample(self, picture: Picture, size: tuple[int, int]) -> Image.Image:
        return picture.resize(size)


class PlainBilinear(Resize):
    """A resize that reads four neighbours per pixel, as OpenCV's ``INTER_LINEAR`` does.

    Pillow's resampling, which our own models train with, averages all pixels that fall into one. A model
    that was trained on the other kind of pixels is fed with these, or its scores differ by several
    hundredths where a picture is made much smaller.
    """

    @property
    def decoded_cover(self) -> Cover | None:
        """All pixels: one that was averaged by the decoder is another."""
        return None

    def _resample(self, picture: Picture, size: tuple[int, int]) -> Image.Image:
        return Image.fromarray(plain_bilinear(np.asarray(picture.pixels), size))


_BITS = 11
"""OpenCV's weights are whole numbers of 1/2048."""


def plain_bilinear(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return u8[H, W, 3] resampled to ``size`` (width, height), bit for bit as OpenCV does.

    Centres of pixels lie at halves. The rounding is OpenCV's: rows are summed first, four bits are
    dropped, then columns. On one pixel in a thousand its float32 weights round the other way.
    """
    left, right, by_left, by_right = _neighbours(pixels.shape[1], size[0])
    upper, lower, by_upper, by_lower = _neighbours(pixels.shape[0], size[1])
    needed = np.unique(np.concatenate([upper, lower]))
    rows = pixels[needed]
    across = rows[:, left] * by_left[:, None] + rows[:, right] * by_right[:, None]  # [R, W, 3]
    across >>= 4
    top = across[np.searchsorted(needed, upper)] * by_upper[:, None, None]
    bottom = across[np.searchsorted(needed, lower)] * by_lower[:, None, None]
    mixed: NDArray[np.uint8] = (((top >> 16) + (bottom >> 16) + 2) >> 2).astype(np.uint8)
    return mixed


def _neighbours(
    old: int, new: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.int32], NDArray[np.int32]]:
    """Return the two source pixels of each new one along an axis, and their weights."""
    at = ((np.arange(new) + 0.5) * (old / new) - 0.5).astype(np.float32)
    first = np.floor(at).astype(np.intp)
    share = at - first.astype(np.float32)
    outside = (first < 0) | (first >= old - 1)
    share[outside] = 0
    first = first.clip(0, old - 1)
    one = np.float32(1 << _BITS)
    weights = (np.rint(part * one).astype(np.int32) for part in (1 - share, share))
    return first, np.minimum(first + 1, old - 1), *weights
