"""Coverage as files: a page, its plots and its pictures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hardmine.data.resize import Resize
from hardmine.errors import DataError
from hardmine.files import write_bytes, write_text
from hardmine.prior_design.coverage import Coverage
from hardmine.prior_design.pictures import choose_images, describe_choice, draw_priors
from hardmine.prior_design.plots import coverage_figure
from hardmine.prior_design.prior_drawing import MOST_DRAWN
from hardmine.prior_design.prior_layout import PriorLayout
from hardmine.reports.page_shell import data_uri, jpeg_uri, png_bytes, render_template
from hardmine.types import Dataset

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Shown:
    caption: str
    uri: str
    width: int
    height: int


def write_coverage(
    out: Path,
    dataset: Dataset,
    resize: Resize,
    layout: PriorLayout,
    coverage: Coverage,
    *,
    model: str,
    pictures: int = 6,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write ``coverage.html`` (whole in itself), ``coverage.png`` and ``priors-N.png``; return the page.

    Args:
        out: folder for the files.
        resize: of the model.
        layout: the priors.
        coverage: of ``dataset``'s boxes.
        model: the model's name, for the title.
        pictures: how many images are shown with the priors laid over them.
        seed: of the choice of images.
        progress: told (done, total) after each picture.
    """
    figure = coverage_figure({model: (layout, coverage)})
    write_bytes(out / "coverage.png", figure)
    chosen = choose_images(coverage, pictures, seed)
    shown = []
    for index, choice in enumerate(chosen):
        boxes = coverage.boxes.take(choice.rows)
        try:
            sheet = draw_priors(dataset, resize, boxes, layout, coverage.threshold)
        except DataError as error:
            _log.warning("%s", error)
            continue
        write_bytes(out / f"priors-{index}.png", png_bytes(sheet))
        caption = describe_choice(dataset, coverage, choice)
        shown.append(_Shown(caption, jpeg_uri(sheet), sheet.width, sheet.height))
        if progress is not None:
            progress(index + 1, len(chosen))
    title = f"{'/'.join(dataset.root.parts[-2:])} on {model}"
    write_text(out / "coverage.html", _page(title, layout, coverage, figure, shown))
    return out / "coverage.html"


def _page(
    title: str, layout: PriorLayout, coverage: Coverage, figure: bytes, shown: Sequence[_Shown]
) -> str:
    return render_template(
        "hardmine.design",
        "coverage.html",
        title=title,
        layout=layout,
        coverage=coverage,
        rows=coverage.rows(),
        levels=list(zip(layout.levels, coverage.level_rows(), strict=True)),
        figure=data_uri(figure, "png"),
        pictures=shown,
        most_drawn=MOST_DRAWN,
    )
