"""Pillow's own way to open a picture, whatever other packages have put in its place."""

from __future__ import annotations

import io
import sys
from typing import Any

from PIL import Image


def pillow_open(file: Any) -> Image.Image:
    """Open a picture (a path, or a binary file) as ``PIL.Image.open`` does, without decoding it.

    ultralytics replaces ``PIL.Image.open`` for the whole process by a function that installs a package
    when a file is no picture. Here a broken file is an error and nothing is installed, whether or not
    ultralytics was imported before; it keeps Pillow's function as ``_image_open``.

    Raises:
        PIL.UnidentifiedImageError: no picture of a known format.
    """
    replaced = sys.modules.get(Image.open.__module__)
    opener = getattr(replaced, "_image_open", Image.open)
    opened: Image.Image = opener(io.BytesIO(file) if isinstance(file, bytes) else file)
    return opened
