"""What a page of an inspection holds."""

from __future__ import annotations

from dataclasses import dataclass, field

from PIL import Image


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture and what stands below it; ``mark`` puts a frame around it: "good" or "bad".

    ``new_row`` starts a new row of pictures.
    """

    image: Image.Image
    caption: str
    mark: str = ""
    new_row: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text; the first column is a name."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Stage:
    """One step: ``name`` is its anchor, ``warning`` says in one line what is wrong there."""

    name: str
    title: str
    note: str
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    warning: str = ""


@dataclass(frozen=True, slots=True)
class Story:
    """One image's stages; ``reason`` says why it was chosen."""

    title: str
    reason: str
    facts: tuple[str, ...]
    stages: tuple[Stage, ...] = field(default=())
