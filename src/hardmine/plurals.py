"""Numbers in sentences: "1 image is" and "3 images are"."""

from __future__ import annotations


def counted(number: int, one: str, many: str | None = None) -> str:
    """Return a number with the word that fits it.

    Args:
        one: what follows a 1, such as "image", or "image is".
        many: what follows other numbers; ``one`` with an s when not given.

    Example:
        >>> counted(1, "image is", "images are"), counted(0, "image")
        ('1 image is', '0 images')
    """
    return f"1 {one}" if number == 1 else f"{number} {many or one + 's'}"
