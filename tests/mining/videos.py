"""Short videos with a moving square, written by PyAV."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

RATE, SIZE = 10, (96, 64)


def drawn(index: int) -> NDArray[np.uint8]:
    """A grey frame that grows brighter, with a green square that moves."""
    pixels = np.full((SIZE[1], SIZE[0], 3), 20 + index * 3 % 200, np.uint8)
    x, y = index * 7 % 60, index * 5 % 30
    pixels[y : y + 20, x : x + 24, 1] = 230
    return pixels


def write_video(
    path: Path,
    frames: Sequence[NDArray[np.uint8]] | int = 40,
    *,
    times: Sequence[float] | None = None,
    every_key: int = 15,
) -> Path:
    """Write frames, at ``RATE`` per second or at the times that are given."""
    pictures = [drawn(i) for i in range(frames)] if isinstance(frames, int) else frames
    codec = "mpeg4" if path.suffix == ".avi" else "libx264"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.gop_size = every_key
        if codec == "libx264":
            stream.options = {"sc_threshold": "0"}  # key frames at their places alone
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index, pixels in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times is not None:
                frame.time_base = Fraction(1, 1000)
                frame.pts = round(times[index] * 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
