"""The letters of the labels on pictures: a font that has them, and a text that fits."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


_NO_LETTERS = ("Cc", "Cs", "Zl", "Zp")
"""Unicode's kinds of signs that no font draws: control signs, halves of a sign, ends of lines."""


def on_one_line(text: str) -> str:
    """Return a text as it can be written on a picture: a line's end and the like become spaces."""
    return "".join(" " if unicodedata.category(c) in _NO_LETTERS else c for c in text)


def font_for(text: str, size: float) -> Font:
    """Return a font in which ``text`` can be read.

    Pillow's own font has hardly a letter beyond ASCII. matplotlib's has the Latin, Greek, Cyrillic and
    others; for letters that it lacks, such as Chinese ones, the fonts of this machine are searched.
    """
    if text.isascii():
        return ImageFont.load_default(size)
    return ImageFont.truetype(_font_with(frozenset(text)), max(1.0, size))


@lru_cache(maxsize=256)
def _font_with(letters: frozenset[str]) -> str:
    """Return the file of the font that has most of these letters; of equals, that of matplotlib."""
    import matplotlib
    from matplotlib.font_manager import findSystemFonts

    best = str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))
    missing = _missing(best, letters)
    for path in sorted(findSystemFonts()) if missing else ():
        lacks = _missing(path, letters)
        if lacks < missing:
            best, missing = path, lacks
    return best


def _missing(path: str, letters: frozenset[str]) -> int:
    """Return how many of the letters a font lacks; all, where it cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
        ImageFont.truetype(path, 12)
    except (OSError, RuntimeError):
        return len(letters)
    return sum(font.get_char_index(ord(letter)) == 0 for letter in letters)


def shorten(name: str, rest: str, font: Font, width: float) -> str:
    """Return ``name`` and ``rest``; a name that is too long for so many pixels loses its end."""
    text, kept = name + rest, len(name)
    while kept and font.getlength(text) > width:
        kept -= 1
        text = f"{name[:kept]}...{rest}"
    return text
