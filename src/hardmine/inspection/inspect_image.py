"""Following images through every step, from the label file to the loss, on one page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hardmine.data.data_options import InspectOptions
from hardmine.files import write_text
from hardmine.inspection.image_with_labels import (
    Labels,
    choose_images,
    find_image,
    form_words,
    open_image,
)
from hardmine.inspection.inspect_stages import (
    NO_CHECKPOINT,
    Figure,
    Stage,
    Trained,
    as_read,
    assigned,
    augmented,
    coded,
    detected,
    prepare,
    readings,
    resized,
    selected,
)
from hardmine.prior_design.prior_layout import PriorLayout, layout_of_recipe
from hardmine.recipes.recipe import Recipe
from hardmine.reports.html_page import jpeg_uri, render_page

PAGE = "inspect.html"


@dataclass(frozen=True, slots=True)
class Inspection:
    """The page, its images and the warnings on it (stage by stage, "image, stage: text")."""

    page: Path
    images: tuple[str, ...]
    warnings: tuple[str, ...]


def inspect_images(
    labels: Labels,
    recipe: Recipe,
    out: Path,
    *,
    trained: Trained | None = None,
    options: InspectOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Inspection:
    """Write the page.

    Args:
        labels: the split to look into.
        recipe: of the model; that of ``trained`` where there is one.
        out: where the page goes; see `page_path`.
        trained: for the stages that need weights.
        progress: called with (done, total) after each image.

    Raises:
        DataError: no such image, or it cannot be read.
        ConfigError: the model has no priors.
    """
    how = options or InspectOptions()
    layout = trained.layout if trained is not None else layout_of_recipe(recipe)
    if how.image is None:
        chosen = choose_images(labels, how.seed)
    else:
        chosen = [(find_image(labels.dataset, how.image), "")]
    page = page_path(out)
    shown = []
    for done, (index, reason) in enumerate(chosen, start=1):
        shown.append(_stages(labels, index, reason, recipe, layout, trained, how))
        if progress is not None:
            progress(done, len(chosen))
    title = f"{labels.dataset.root.name} through {recipe.model.name}"
    write_text(page, render_inspection(title, shown))
    warnings = [
        f"{image.title}, {stage.title.lower()}: {stage.warning}"
        for image in shown
        for stage in image.stages
        if stage.warning
    ]
    return Inspection(page, tuple(image.title for image in shown), tuple(warnings))


def page_path(out: Path) -> Path:
    """Return the file that the page is written to.

    ``out`` is a folder, which gets ``inspect.html``; a name that ends in ``.html`` or ``.htm``, or
    that of an existing file, is the page itself.
    """
    is_page = out.suffix.lower() in (".html", ".htm") or out.is_file()
    return out if is_page else out / PAGE


def _stages(
    labels: Labels,
    index: int,
    reason: str,
    recipe: Recipe,
    layout: PriorLayout,
    trained: Trained | None,
    how: InspectOptions,
) -> ImageStages:
    subject = open_image(labels, index)
    prepared = prepare(subject, recipe, layout)
    stages: list[Stage | None] = [
        as_read(subject),
        readings(subject),
        augmented(subject, recipe, how.draws, how.seed),
        resized(subject, prepared, recipe),
        assigned(subject, prepared, recipe),
        coded(prepared),
    ]
    if trained is not None:
        stages.append(selected(prepared, trained))
        stages.append(detected(subject, prepared, trained))
    else:
        stages.append(Stage("negatives", "Selected negatives by loss", NO_CHECKPOINT))
    record = subject.record
    facts = (
        f"state: {record.state.value}",
        f"label file: {subject.file}",
        f"boxes written as: {form_words(labels.raw.form)}",
        f"model: {recipe.model.name}",
        *(f"problem: {problem}" for problem in subject.problems),
    )
    return ImageStages(record.path.name, reason, facts, tuple(s for s in stages if s is not None))


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
        """Return a figure as the page takes it."""
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
