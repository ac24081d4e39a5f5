"""Numbers in sentences: "1 image is" and "3 images are", "a, b and 2 more"."""

from __future__ import annotations

from collections.abc import Sequence


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


def some_of(names: Sequence[str], most: int) -> str:
    """Return the first names, and how many more there are.

    Example:
        >>> some_of(["can", "jar", "cup"], 2), some_of(["can", "jar"], 2)
        ('can, jar and 1 more', 'can, jar')
    """
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
