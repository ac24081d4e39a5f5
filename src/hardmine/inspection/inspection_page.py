"""The page of an inspection: what it holds, and how it becomes HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image

from hardmine.reports.page_shell import jpeg_uri, render_page


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
class ImageStages:
    """One image with all its stages; ``reason`` says why it was chosen."""

    title: str
    reason: str
    facts: tuple[str, ...]
    stages: tuple[Stage, ...] = field(default=())


def render_inspection(title: str, images: Sequence[ImageStages]) -> str:
    """Return the page as text; its pictures are inside it."""

    def show(figure: Figure) -> _Shown:
        size = figure.image.size
        return _Shown(jpeg_uri(figure.image), figure.caption, figure.mark, figure.new_row, *size)

    return render_page("hardmine.inspection", "inspect.html", title=title, images=images, show=show)


@dataclass(frozen=True, slots=True)
class _Shown:
    uri: str
    caption: str
    mark: str
    new_row: bool
    width: int
    height: int
