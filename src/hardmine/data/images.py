"""Reading pictures as a person sees them: RGB, upright, 8 bits, first frame.

Training, evaluation, mining and export all read through here, so that they see identical pixels. JPEGs
much larger than what the model takes are decoded at ½, ¼ or ⅛ of their size inside the decoder (DCT
scaling). simplejpeg does it for plain files and Pillow for odd ones: both give the same pixels.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from hardmine.errors import DataError

try:
    import simplejpeg
except ImportError:  # Pillow alone decodes to the same pixels, more slowly
    simplejpeg = None

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff"})
"""Suffixes (lower case) of files that count as images when a folder is listed."""

Cover = Callable[[int, int], tuple[float, float]]
"""Told an image's (width, height) as displayed, says the (width, height) to which it will be resized,
pixels: what a decoder must at least deliver. ``Resize.cover`` is one.
"""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF orientation; 5 to 8 exchange width and height."""
_SIDEWAYS = 5
_ORIENTATION = 0x0112
_FACTORS = (8, 4, 2)
_READ_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What the decoders of so many formats raise when a file is damaged."""


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """An image of ``width`` × ``height`` pixels as displayed, maybe held at a fraction of that size.

    Boxes and windows always speak of the whole image: point (x, y) of it lies at ``origin`` +
    (x, y) / ``factor`` of ``pixels``. ``factor`` is 1, 2, 4 or 8.
    """

    pixels: Image.Image
    width: int
    height: int
    factor: int = 1
    origin: tuple[float, float] = (0.0, 0.0)

    @staticmethod
    def of(image: Image.Image) -> Picture:
        """Return an image that is held at its own size."""
        return Picture(image, image.width, image.height)

    def resize(
        self,
        size: tuple[int, int],
        resample: Image.Resampling = Image.Resampling.BILINEAR,
        window: tuple[float, float, float, float] | None = None,
    ) -> Image.Image:
        """Resample the part inside ``window`` (xyxy of the whole image; default all) to ``size``."""
        if window is None:
            window = (0, 0, self.width, self.height)
        (x, y), (w, h) = self.origin, self.pixels.size
        low_x, low_y, high_x, high_y = (value / self.factor for value in window)
        box = (max(0.0, low_x + x), max(0.0, low_y + y), min(w, high_x + x), min(h, high_y + y))
        return self.pixels.resize(size, resample, box=box)


def read_image(path: Path) -> Image.Image:
    """Decode one image file at its full size; see :func:`decode_image`.

    Raises:
        DataError: the file is missing, empty, truncated, too large or no image.
    """
    return read_picture(path).pixels


def read_picture(path: Path, cover: Cover | None = None) -> Picture:
    """Read and decode one image file; see :func:`decode_image`.

    Raises:
        DataError: the file is missing, empty, truncated, too large or no image.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {_missing(error)}") from None
    return decode_image(data, str(path), cover)


def decode_image(data: bytes, name: str, cover: Cover | None = None) -> Picture:
    """Decode an image file's content, wherever it came from (a file, an archive, a network).

    EXIF orientation is applied, CMYK, palette and grey become RGB, transparency is laid on white,
    16-bit grey is scaled to 8 bits, and of an animation the first frame is taken.

    Args:
        data: the encoded image.
        name: what an error calls it.
        cover: the size to which the image will be resized. A JPEG that is at least twice as wide and
            twice as high is decoded at the smallest of ½, ¼ and ⅛ that still covers it; without
            ``cover`` all of it is decoded.

    Returns:
        Picture: with the original size, in which boxes are given.

    Raises:
        DataError: the content is empty, truncated, too large or no image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as image:
                return _decode(image, data, cover)
    except _READ_ERRORS as error:
        raise DataError(f"{name}: {_reason(len(data), error)}") from None


def as_picture(image: Image.Image) -> Picture:
    """Return an image that somebody else has opened as :func:`decode_image` would: upright, RGB."""
    turn = _orientation(image)
    pixels = _to_rgb(image)
    return Picture.of(pixels.transpose(_TURNS[turn]) if turn in _TURNS else pixels)


def image_size(path: Path) -> tuple[int, int]:
    """Return (width, height) as displayed, reading the header only.

    Raises:
        DataError: the file is missing, empty or no image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                return _displayed(image.size, _orientation(image))
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise DataError(f"{path}: {_missing(error)}") from None
    except _READ_ERRORS as error:
        raise DataError(f"{path}: {_reason(path.stat().st_size, error)}") from None


def _decode(image: Image.Image, data: bytes, cover: Cover | None) -> Picture:
    turn = _orientation(image)
    width, height = _displayed(image.size, turn)
    jpeg = image.format in {"JPEG", "MPO"}
    factor = _factor(width, height, cover) if jpeg and cover is not None else 1
    stored_width, stored_height = image.size
    pixels = _plain_jpeg(image, data, factor) if jpeg else None
    if pixels is None:
        if factor > 1:
            image.draft(image.mode, (stored_width // factor, stored_height // factor))
        image.load()
        pixels = _to_rgb(image)
    # What the last column and row reach beyond the image, in columns and rows.
    spare_x = pixels.width - stored_width / factor
    spare_y = pixels.height - stored_height / factor
    if turn in _TURNS:
        pixels = pixels.transpose(_TURNS[turn])
    return Picture(pixels, width, height, factor, _origin(turn, spare_x, spare_y))


def _plain_jpeg(image: Image.Image, data: bytes, factor: int) -> Image.Image | None:
    """Decode by simplejpeg, twice as quick; None for what it cannot or would judge otherwise."""
    if simplejpeg is None or image.mode not in {"RGB", "L"}:
        return None
    width, height = (-(-side // factor) for side in image.size)
    try:
        array = simplejpeg.decode_jpeg(
            data, "RGB", min_width=width, min_height=height, min_factor=float(factor)
        )
    except (ValueError, RuntimeError):
        return None  # truncated, or merely unusual: Pillow decides, and says what is wrong
    return Image.fromarray(array) if array.shape[:2] == (height, width) else None


def _factor(width: int, height: int, cover: Cover) -> int:
    """Return the largest reduction at which the decoded image still covers what is needed."""
    wide, high = cover(width, height)
    for factor in _FACTORS:
        if width >= factor * wide and height >= factor * high:
            return factor
    return 1


def _orientation(image: Image.Image) -> int:
    return int(image.getexif().get(_ORIENTATION, 1) or 1)


def _displayed(size: tuple[int, int], turn: int) -> tuple[int, int]:
    width, height = size
    return (height, width) if turn in _TURNS and turn >= _SIDEWAYS else (width, height)


def _origin(turn: int, spare_x: float, spare_y: float) -> tuple[float, float]:
    """Return where the image's corner lies after turning: the spare part may now come first."""
    return {
        2: (spare_x, 0.0),
        3: (spare_x, spare_y),
        4: (0.0, spare_y),
        6: (spare_y, 0.0),
        7: (spare_y, spare_x),
        8: (0.0, spare_x),
    }.get(turn, (0.0, 0.0))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in {"I;16", "I;16L", "I;16B", "I", "F"}:
        return _from_deep_grey(image).convert("RGB")
    if image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info:
        layered = image.convert("RGBA")
        canvas = Image.new("RGBA", layered.size, "white")
        return Image.alpha_composite(canvas, layered).convert("RGB")
    return image.convert("RGB")


def _from_deep_grey(image: Image.Image) -> Image.Image:
    """Scale 16-bit (or float) grey to 8 bits: by 257 when values pass 255, else as they are."""
    values = np.asarray(image, dtype=np.float64)
    if values.size and values.max() > 255:
        values = values / 257.0
    return Image.fromarray(values.clip(0, 255).round().astype(np.uint8))


def _missing(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "a folder, not an image"
    if isinstance(error, PermissionError):
        return "not readable (permission denied)"
    return f"not readable ({error.strerror or error})"


def _reason(length: int, error: Exception) -> str:
    if length == 0:
        return "zero bytes long"
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a known format"
    if isinstance(error, Image.DecompressionBombError | MemoryError):
        return "too many pixels (decompression bomb)"
    return f"broken image ({error})"
