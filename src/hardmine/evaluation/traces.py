"""What a picture tells of where it comes from, whatever it shows: size, encoding, colour, spectrum."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin

from hardmine.types import F64

FAMILIES = ("size", "encoding", "colour", "spectrum")
BANDS = 20
"""Radial bands from 0 to half a cycle a pixel."""
TILE = 64
"""Side in pixels of the squares whose spectra are averaged."""
_TILES = 4
"""Most squares along each side of a crop."""
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF")


def size_traces(width: int, height: int) -> F64:
    """Return what the size of the whole image tells: sides, area and aspect ratio, [6]."""
    longer, shorter = max(width, height), min(width, height)
    logs = np.log([width, height, longer, shorter])
    return np.array([*logs, logs[2] - logs[3], float(width > height)])


def encoding_traces(path: Path) -> F64:
    """Return what the file's header tells: format, quantisation, subsampling, metadata, [20].

    Raises:
        OSError: the file cannot be opened as an image.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path) as image:
            tables = getattr(image, "quantization", None) or {}
            luma, chroma = _table(tables, 0), _table(tables, 1)
            sampling = JpegImagePlugin.get_sampling(image) if image.format == "JPEG" else -1
            marks = (
                *(image.format == name for name in _FORMATS),
                *(sampling == value for value in (0, 1, 2)),
                "progressive" in image.info,
                "exif" in image.info,
                "icc_profile" in image.info,
                "jfif" in image.info,
                image.mode == "L",
            )
    return np.array([*map(float, marks), *luma, *chroma])


def colour_traces(pixels: NDArray[np.uint8]) -> F64:
    """Return means and spreads of the colours of a crop (u8[H, W, 3]), [12]."""
    rgb = pixels.reshape(-1, 3).astype(np.float64) / 255
    luma = rgb @ np.array([0.299, 0.587, 0.114])
    chroma = rgb[:, [2, 0]] - luma[:, None]
    saturation = rgb.max(axis=1) - rgb.min(axis=1)
    columns = np.column_stack([rgb, chroma, saturation])
    return np.concatenate([columns.mean(axis=0), columns.std(axis=0)])


def spectrum_traces(pixels: NDArray[np.uint8]) -> F64:
    """Return the log power of a crop's brightness in `BANDS` radial bands, at its own resolution.

    Squares of `TILE` pixels, spread over the crop (u8[H, W, 3]), are weighted by a Hann window and
    their power is averaged; a crop smaller than that is continued by reflection.
    """
    luma = pixels.astype(np.float64) @ np.array([0.299, 0.587, 0.114]) / 255
    short = [(0, max(0, TILE - side)) for side in luma.shape]
    luma = np.pad(luma, short, mode="reflect" if min(luma.shape) > 1 else "edge")
    window = np.hanning(TILE)[:, None] * np.hanning(TILE)[None, :]
    power = np.zeros((TILE, TILE))
    starts = [_spread(side) for side in luma.shape]
    for top in starts[0]:
        for left in starts[1]:
            tile = luma[top : top + TILE, left : left + TILE]
            power += np.abs(np.fft.fft2((tile - tile.mean()) * window)) ** 2
    radius = np.hypot(np.fft.fftfreq(TILE)[:, None], np.fft.fftfreq(TILE)[None, :])
    band = np.minimum((radius / 0.5 * BANDS).astype(np.int64), BANDS).ravel()  # corners: last, cut
    total = np.bincount(band, power.ravel(), BANDS + 1)[:BANDS]
    count = np.bincount(band, minlength=BANDS + 1)[:BANDS]
    return np.log(total / count / (len(starts[0]) * len(starts[1])) + 1e-6)


def _spread(side: int) -> list[int]:
    """Return where the squares begin along a side."""
    number = min(_TILES, side // TILE)
    return np.linspace(0, side - TILE, number).astype(int).tolist() if number > 1 else [0]


def _table(tables: dict[int, Any], index: int) -> list[float]:
    """Return log means of a quantisation table: all, the finest and the coarsest quarter, the first."""
    values = np.array(tables.get(index, ()), np.float64)
    if len(values) != 64:
        return [0.0, 0.0, 0.0, 0.0]
    logs = np.log(np.maximum(values, 1))
    return [float(logs.mean()), float(logs[:16].mean()), float(logs[48:].mean()), float(logs[0])]
