"""The page: one HTML file that follows images through every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hardmine.files import write_text
from hardmine.inspection import checkpoint_stages, label_stages, model_stages
from hardmine.inspection.checkpoint_stages import Trained
from hardmine.inspection.story import Figure, Stage, Story
from hardmine.inspection.subject import (
    Labels,
    choose_images,
    find_image,
    form_words,
    open_subject,
)
from hardmine.prior_design.prior_layout import PriorLayout, layout_of_recipe
from hardmine.recipes.recipe import Recipe
from hardmine.reports.page_shell import jpeg_uri, render_page


@dataclass(frozen=True, slots=True)
class InspectOptions:
    """``image``: a name, or None for a choice of informative ones; ``draws`` of the augmentation."""

    image: str | None = None
    draws: int = 3
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Inspected:
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
) -> Inspected:
    """Write the page.

    Args:
        labels: the split to look into.
        recipe: of the model; that of ``trained`` where there is one.
        out: the HTML file.
        trained: for the stages that need weights.
        progress: told (done, total) after each image.

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
    stories = []
    for done, (index, reason) in enumerate(chosen, start=1):
        stories.append(_tell(labels, index, reason, recipe, layout, trained, how))
        if progress is not None:
            progress(done, len(chosen))
    title = f"{labels.dataset.root.name} through {recipe.model.name}"
    write_text(out, render_stories(title, stories))
    warnings = [
        f"{story.title}, {stage.title.lower()}: {stage.warning}"
        for story in stories
        for stage in story.stages
        if stage.warning
    ]
    return Inspected(out, tuple(story.title for story in stories), tuple(warnings))


def _tell(
    labels: Labels,
    index: int,
    reason: str,
    recipe: Recipe,
    layout: PriorLayout,
    trained: Trained | None,
    how: InspectOptions,
) -> Story:
    subject = open_subject(labels, index)
    prepared = model_stages.prepare(subject, recipe, layout)
    stages: list[Stage | None] = [
        label_stages.as_read(subject),
        label_stages.readings(subject),
        model_stages.augmented(subject, recipe, how.draws, how.seed),
        model_stages.resized(subject, prepared, recipe),
        model_stages.assigned(subject, prepared, recipe),
        model_stages.coded(prepared),
    ]
    if trained is not None:
        stages.append(checkpoint_stages.selected(prepared, trained))
        stages.append(checkpoint_stages.detected(subject, prepared, trained))
    else:
        stages.append(checkpoint_stages.absent("negatives", "Selected negatives by loss"))
    record = subject.record
    facts = (
        f"state: {record.state.value}",
        f"label file: {subject.file}",
        f"boxes written as: {form_words(labels.raw.form)}",
        f"model: {recipe.model.name}",
        *(f"problem: {problem}" for problem in subject.problems),
    )
    return Story(record.path.name, reason, facts, tuple(s for s in stages if s is not None))


@dataclass(frozen=True, slots=True)
class _Shown:
    uri: str
    caption: str
    mark: str
    new_row: bool
    width: int
    height: int


def render_stories(title: str, stories: Sequence[Story]) -> str:
    """Return the page as text; its pictures are inside it."""

    def show(figure: Figure) -> _Shown:
        size = figure.image.size
        return _Shown(jpeg_uri(figure.image), figure.caption, figure.mark, figure.new_row, *size)

    return render_page(
        "hardmine.inspection", "inspect.html", title=title, stories=stories, show=show
    )
