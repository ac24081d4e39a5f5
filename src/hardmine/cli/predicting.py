"""The pictures, lines and JSON of ``hardmine predict``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardmine.errors import DataError
from hardmine.types import Detections, ImageState, Problem

if TYPE_CHECKING:
    from hardmine.cli.console import Console
    from hardmine.inference.detector import Detector


def predict_images(
    console: Console,
    detector: Detector,
    sources: Sequence[Path],
    *,
    save: Path | None,
    as_json: bool,
    min_score: float,
) -> None:
    """Detect on every image and print the result; pictures with boxes go into ``save``.

    Raises:
        DataError: no image in the sources; or some could not be read, after all others were done.
    """
    from hardmine.inference.images import score_images

    targets, problems = find_images(sources)
    rows: list[dict[str, Any]] = []
    with console.progress() as step:
        for done, item in enumerate(score_images(detector, list(targets)), start=1):
            step("images", done, len(targets))
            if isinstance(item, Problem):
                problems.append(item)
                continue
            found = item.detections.at_least(min_score)
            if as_json:
                rows += result_rows(item.path, found, detector.categories)
            else:
                console.result(describe(item.path, found, detector.categories))
            if save is not None:
                _save(item.path, found, detector.categories, save / targets[item.path])
    if as_json:
        console.json(rows)
    if save is not None:
        console.note(f"pictures with boxes: {save}")
    _report(console, problems)


def find_images(sources: Sequence[Path]) -> tuple[dict[Path, Path], list[Problem]]:
    """Return the images of files and folders, each with the relative path to save its picture at.

    No two images share such a path. Folders are searched recursively; what cannot be read in them
    is returned as problems.

    Raises:
        DataError: there is no image at all.
    """
    from hardmine.data.load_dataset import load_images

    targets: dict[Path, Path] = {}
    problems: list[Problem] = []
    for source in sources:
        if source.is_dir():
            images = load_images(source, state=ImageState.UNREVIEWED, source="predict")
            problems += images.problems
            for record in images.records:
                _add(targets, record.path, source)
        else:
            _add(targets, source, source.parent)
    if not targets and not problems:
        raise DataError(f"no image in {', '.join(str(source) for source in sources)}")
    return targets, problems


def _add(targets: dict[Path, Path], path: Path, root: Path) -> None:
    if path in targets:
        return
    inside = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
    wanted = inside.with_suffix(".jpg")
    taken = set(targets.values())
    number = 2
    while wanted in taken:
        wanted = inside.with_name(f"{inside.stem}-{number}.jpg")
        number += 1
    targets[path] = wanted


def result_rows(path: Path, found: Detections, categories: Sequence[str]) -> list[dict[str, Any]]:
    """Return one image's detections as COCO results that name file and category."""
    return [
        {
            "file_name": str(path),
            "category_id": int(label),
            "category": categories[label - 1],
            "bbox": [round(float(v), 2) for v in (x1, y1, x2 - x1, y2 - y1)],
            "score": round(float(score), 6),
        }
        for (x1, y1, x2, y2), score, label in zip(
            found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
        )
    ]


def describe(path: Path, found: Detections, categories: Sequence[str]) -> str:
    """Return one line: the path and each detection's class and score, best first."""
    names = [
        f"{categories[label - 1]} {score:.2f}"
        for label, score in zip(found.labels.tolist(), found.scores.tolist(), strict=True)
    ]
    return f"{path}: {', '.join(names) or 'nothing'}"


def _save(path: Path, found: Detections, categories: Sequence[str], target: Path) -> None:
    from hardmine.data.images import read_image
    from hardmine.files import write_atomic
    from hardmine.reports.draw import draw_boxes

    picture = draw_boxes(read_image(path), found, categories)
    write_atomic(target, lambda part: picture.save(part, format="JPEG", quality=90))


def _report(console: Console, problems: Sequence[Problem]) -> None:
    for problem in problems:
        console.note(f"unreadable: {problem}")
    if problems:
        raise DataError(
            f"{len(problems)} images could not be read (the first: {problems[0]}); "
            "all others are done"
        )
