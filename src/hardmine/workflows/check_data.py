"""``check``: a dataset's labels and images, what else must be apart from it, the shortcut test, and
its page.

The page is one HTML file with a picture of everything that was found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image

from hardmine.data.formats.image_files import load_images, plain_path
from hardmine.data.formats.label_validation import RawSplit
from hardmine.data.images import read_image
from hardmine.data.load_dataset import (
    build_splits,
    find_sources,
    is_label_file,
    load_splits,
    passed_over,
    read_splits,
)
from hardmine.data.quality.check_dataset import CheckReport, ModelInput, check_dataset
from hardmine.data.quality.findings import Finding, by_severity
from hardmine.data.quality.repair import Repair, repair
from hardmine.data.video import holds_videos
from hardmine.errors import ConfigError, DataError
from hardmine.evaluation.source_shortcut import MIN_GROUPS, ShortcutReport, find_shortcut
from hardmine.files import write_text
from hardmine.finding_kinds import FindingKind, Severity
from hardmine.mining.sources.local_files import load_pool
from hardmine.option_fields import takes_options
from hardmine.reports.drawing import QUALITY, Budget, Thumbnail, strip, with_margin
from hardmine.reports.html_page import jpeg_uri, render_page
from hardmine.types import Dataset, ImageState
from hardmine.workflows.image_sets import DataLike
from hardmine.workflows.train_options import CheckOptions, DataOptions

Step = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What was found, and whether the background alone separates positives from negatives."""

    report: CheckReport
    shortcut: ShortcutReport | None = None
    notes: tuple[str, ...] = ()
    repair: Repair | None = None

    def __repr__(self) -> str:
        report = self.report
        images = sum(split.images for split in report.splits.values())
        boxes = sum(split.boxes for split in report.splits.values())
        errors, warnings = (report.count(kind) for kind in (Severity.ERROR, Severity.WARNING))
        return (
            f"CheckResult({report.data}: {images} images, {boxes} boxes, "
            f"errors: {errors}, warnings: {warnings})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON knows it."""
        shortcut = None if self.shortcut is None else self.shortcut.to_dict()
        changed = None if self.repair is None else len(self.repair.changes)
        return {
            **self.report.to_dict(),
            "shortcut": shortcut,
            "notes": list(self.notes),
            "changes": changed,
        }


@takes_options(CheckOptions)
def check(
    data: DataLike,
    *,
    val: Path | str | None = None,
    against: Mapping[str, DataLike] | Sequence[DataLike] | DataLike = (),
    negatives: DataLike | None = None,
    progress: Step | None = None,
    options: CheckOptions | None = None,
) -> CheckResult:
    """Look at a dataset before training on it.

    Args:
        data: labelled data in any format that is read, or a dataset in memory.
        val: labelled data with the same classes, looked at as a further split.
        against: labelled data or images that must not share pictures with it (whatever may be a pool);
            by the name that findings use, a list, or one.
        negatives: images without objects, as anything that may be a pool. They must not share pictures
            either, and the shortcut test compares them with the positives. Images of archives and
            URLs lie in a temporary folder while it runs.
        progress: called with (what, done, total).
        options: how to look, and what to write: a page (``html``), a repaired copy (``fix``); each of
            its fields is also a keyword.

    Raises:
        DataError: nothing is recognised at one of the paths.
        ConfigError: there is no such model, or what needs label files is asked of a dataset in memory.

    Example:
        >>> result = hardmine.check("shelf")
        >>> result
        CheckResult(shelf: 12 images, 12 boxes, errors: 0, warnings: 2)
        >>> for problem in result.report.problems:
        ...     print(problem)
        images/01.png[0]: the same box in 6 images
        images/00.png[0]: the same box in 6 images
        boxes.csv: 1 file looks like CSV labels and is not read
    """
    with TemporaryDirectory() as unpacked:  # images of archives and URLs lie there while it runs
        parts = (val, against, negatives)
        return _check(data, *parts, progress or _silent, options or CheckOptions(), Path(unpacked))


def _check(
    data: DataLike,
    val: Path | str | None,
    against: Mapping[str, DataLike] | Sequence[DataLike] | DataLike,
    negatives: DataLike | None,
    step: Step,
    options: CheckOptions,
    unpacked: Path,
) -> CheckResult:
    model_input = None if options.model is None else input_of(options.model)
    if isinstance(data, Dataset):
        _refuse_files(val, options)
    more = {} if isinstance(data, Dataset) else _validation(data, val, options.reading)
    images = options.reading.keywords()["images"]
    several = [against] if isinstance(against, Dataset | Path | str) else against
    named = several if isinstance(several, Mapping) else _by_name(several)
    apart = {name: _images_of(path, unpacked, images) for name, path in named.items()}
    if negatives is not None:
        found = _images_of(negatives, unpacked, images)
        empty = [record.with_state(ImageState.VERIFIED_EMPTY) for record in found.records]
        apart["negatives"] = found.with_records(empty)
    report = check_dataset(
        data,
        **options.reading.keywords(),
        val=more,
        against=apart,
        model=model_input,
        progress=lambda done, total: step("images", done, total),
    )
    result = CheckResult(report)
    if negatives is not None:
        own = {"all": data} if isinstance(data, Dataset) else build_splits(report.raws)
        names = next(iter(own.values())).categories
        positives = [*own.values(), *build_splits(more, names).values()]
        result = _with_shortcut(report, positives, apart["negatives"], options.seed, step)
    if options.fix is not None:
        mended = repair(report.raws, report.seen, options.fix, link=options.link)
        result = replace(result, repair=mended)
    if options.html is not None:
        write_check_page(Path(options.html), result.report, result.shortcut, result.notes)
    return result


def input_of(model: str) -> ModelInput:
    """Return a named recipe's canvas and the stride of its finest feature map.

    Raises:
        ConfigError: there is no such model.
    """
    from hardmine.models.ssd import SSD, SSDConfig
    from hardmine.recipes.named_recipes import named_recipe

    recipe = named_recipe(model)
    if not isinstance(recipe.model, SSDConfig):
        raise ConfigError(f"model: {model} has no priors on a grid, wanted an SSD")
    rows, columns = SSD(recipe.model, ("object",)).priors.level_shapes[0]
    stride = max(recipe.model.height / rows, recipe.model.width / columns)
    return ModelInput(model, recipe.resize, stride)


def _validation(
    data: Path | str, val: Path | str | None, reading: DataOptions
) -> dict[str, RawSplit]:
    if val is None:
        return {}
    known = find_sources(plain_path(data), reading.keywords()["images"])
    found = read_splits(val, **reading.keywords())
    next(iter(found.values())).problems += passed_over(val, found)
    if len(found) == 1:
        return {"val" if "val" not in known else f"val of {val}": next(iter(found.values()))}
    return {f"val: {name}": raw for name, raw in found.items()}


def _refuse_files(val: Path | str | None, options: CheckOptions) -> None:
    """Refuse what is done with label files, for data that is in memory."""
    reading = options.reading
    asked: dict[str, Any] = {
        "val": val,
        "fix": options.fix,
        "images": reading.images,
        "empty_is_verified": reading.empty_is_verified or None,
    }
    named = [name for name, value in asked.items() if value is not None]
    if named:
        raise ConfigError(
            f"{', '.join(named)}: got a Dataset as data, wanted the path of its labels"
        )


def _by_name(several: Sequence[DataLike]) -> dict[str, DataLike]:
    """Return sets by what findings call them; datasets of one root are numbered."""
    found: dict[str, DataLike] = {}
    for one in several:
        name = str(one.root if isinstance(one, Dataset) else one)
        if isinstance(one, Dataset) and name in found:
            name = f"{name} ({len(found) + 1})"
        found[name] = one
    return found


def _images_of(given: DataLike, unpacked: Path, images: Path | None) -> Dataset:
    """Return all images of a folder, a dataset or whatever may be a pool, labels forgotten."""
    if isinstance(given, Dataset):
        return given
    path = Path(given)
    if path.is_dir() and not holds_videos(path):
        return load_images(path)
    if path.is_file() and is_label_file(path):
        splits = load_splits(path, images=images)
        first = next(iter(splits.values()))
        return first.with_records([record for ds in splits.values() for record in ds.records])
    return load_pool(given, unpacked)


def _with_shortcut(
    report: CheckReport, positives: list[Dataset], negatives: Dataset, seed: int, step: Step
) -> CheckResult:
    merged = positives[0].with_records([record for ds in positives for record in ds.records])
    found = find_shortcut(
        merged, negatives, seed=seed, progress=lambda done, total: step("crops", done, total)
    )
    if found is None:
        note = (
            f"shortcut test left out: it needs {MIN_GROUPS} different images on either side that "
            "leave room for a crop without objects"
        )
        return CheckResult(report, None, (note,))
    if found.told_apart:
        finding = Finding(
            FindingKind.SOURCE_TOLD_APART, str(negatives.root), -1, str(found), "negatives"
        )
        report = replace(report, problems=(*report.problems, finding))
    return CheckResult(report, found)


def _silent(name: str, done: int, total: int) -> None:
    del name, done, total


PICTURE_BYTES = 8_000_000
PICTURES_PER_KIND = 12
LISTED_PER_KIND = 500
_SIDE = 320
_SIDES_BY_SIDE = 4


@dataclass(frozen=True, slots=True)
class KindSection:
    """All findings of one kind, ready for the page."""

    kind: FindingKind
    count: int
    thumbnails: tuple[Thumbnail, ...]
    lines: tuple[str, ...]
    more: int


def write_check_page(
    path: Path,
    report: CheckReport,
    shortcut: ShortcutReport | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Write the page, atomically; it runs no script and fetches nothing.

    Pictures stop at about 8 MB and at `PICTURES_PER_KIND` a kind; what is left out is listed.
    """
    write_text(path, render_check_page(report, shortcut, notes))


def render_check_page(
    report: CheckReport, shortcut: ShortcutReport | None = None, notes: Sequence[str] = ()
) -> str:
    """Return the page as text."""
    budget = Budget(PICTURE_BYTES)
    return render_page(
        "hardmine.reports",
        "check.html",
        report=report,
        shortcut=shortcut,
        notes=notes,
        sections=[_section(kind, found, budget) for kind, found in by_severity(report.problems)],
        counts={severity: report.count(severity) for severity in Severity},
    )


def picture_of(finding: Finding) -> Thumbnail | None:
    """Return a finding's image with its boxes, near-copies beside it; None where it has no image."""
    if finding.image is None:
        return None
    paths = (finding.image, *finding.others[: _SIDES_BY_SIDE - 1])
    panels: list[Image.Image] = []
    side = _SIDE if len(paths) == 1 else _SIDE * 2 // 3
    try:
        for path in paths:
            boxes = finding.boxes if path == finding.image else ()
            panels.append(with_margin(read_image(path), boxes, side))
    except DataError as error:
        return Thumbnail("", 0, 0, str(finding), str(error))
    picture = strip(panels)
    uri = jpeg_uri(picture, QUALITY, sharp_colours=False)
    return Thumbnail(uri, *picture.size, str(finding))


def _section(kind: FindingKind, found: Sequence[Finding], budget: Budget) -> KindSection:
    shown: list[Thumbnail] = []
    for finding in found:
        if len(shown) == PICTURES_PER_KIND:
            break
        thumbnail = picture_of(finding)
        if thumbnail is not None and budget.take(len(thumbnail.uri)):
            shown.append(thumbnail)
    lines = tuple(_line(finding) for finding in found[:LISTED_PER_KIND])
    more = max(0, len(found) - LISTED_PER_KIND)
    return KindSection(kind, len(found), tuple(shown), lines, more)


def _line(finding: Finding) -> str:
    return str(finding) if finding.file == finding.split else f"{finding.split}: {finding}"
