"""Reading pictures as a person sees them: RGB, upright, 8 bits, first frame.

Training, evaluation and mining all read through here, so that they see identical pixels.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from hardmine.errors import DataError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff"})
"""Suffixes (lower case) of files that count as images when a folder is listed."""

_TRANSPOSED = frozenset({5, 6, 7, 8})
_ORIENTATION = 0x0112
_READ_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


def read_image(path: Path) -> Image.Image:
    """Decode one image file.

    EXIF orientation is applied, CMYK, palette and grey become RGB, transparency is laid on white,
    16-bit grey is scaled to 8 bits, and of an animation the first frame is taken.

    Raises:
        DataError: the file is missing, empty, truncated, too large or no image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                image.load()
                return _to_rgb(ImageOps.exif_transpose(image))
    except _READ_ERRORS as error:
        raise DataError(f"{path}: {_reason(path, error)}") from None


def image_size(path: Path) -> tuple[int, int]:
    """Return (width, height) as displayed, reading the header only.

    Raises:
        DataError: the file is missing, empty or no image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                width, height = image.size
                turned = image.getexif().get(_ORIENTATION) in _TRANSPOSED
    except _READ_ERRORS as error:
        raise DataError(f"{path}: {_reason(path, error)}") from None
    return (height, width) if turned else (width, height)


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


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "a folder, not an image"
    if isinstance(error, PermissionError):
        return "not readable (permission denied)"
    if path.stat().st_size == 0:
        return "zero bytes long"
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a known format"
    if isinstance(error, Image.DecompressionBombError):
        return "too many pixels (decompression bomb)"
    return f"broken image ({error})"
