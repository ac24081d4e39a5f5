"""Looking at a dataset before training on it: every label judged, every image decoded."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from PIL import Image

from hardmine.data.folder import image_problem
from hardmine.data.image_io import read_image
from hardmine.data.load import load_splits
from hardmine.data.phash import group_duplicates, perceptual_hash
from hardmine.data.roots import relative_name
from hardmine.errors import DataError
from hardmine.types import Dataset, ImageRecord, Problem

_THREADS = 4
_ORIENTATION = 0x0112


class Severity(StrEnum):
    """How much a finding matters."""

    ERROR = "error"
    """Something was rejected, or would spoil training or measuring."""
    WARNING = "warning"
    """Probably not what was meant; used all the same."""
    INFO = "info"
    """Handled; good to know."""


_SEVERITY = {
    "box_clipped": Severity.WARNING,
    "box_repeated": Severity.WARNING,
    "category_repeated": Severity.WARNING,
    "class_empty": Severity.WARNING,
    "duplicate_images": Severity.WARNING,
    "file_repeated": Severity.WARNING,
    "images_unreviewed": Severity.WARNING,
    "label_ambiguous": Severity.WARNING,
    "image_16bit": Severity.INFO,
    "image_animated": Severity.INFO,
    "image_cmyk": Severity.INFO,
    "image_turned": Severity.INFO,
}
"""By kind of problem; every other kind is an error."""


@dataclass(frozen=True, slots=True)
class SplitCounts:
    """Numbers of images by state, and of objects by class, of one split."""

    images: int
    states: dict[str, int]
    boxes: int
    ignored_boxes: int
    classes: dict[str, int]


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What `check_dataset` found."""

    data: str
    categories: tuple[str, ...]
    splits: dict[str, SplitCounts]
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """True when no problem is an error."""
        return not any(severity_of(problem) is Severity.ERROR for problem in self.problems)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON knows it."""
        problems = [asdict(p) | {"severity": severity_of(p).value} for p in self.problems]
        return {
            "data": self.data,
            "ok": self.ok,
            "categories": list(self.categories),
            "splits": {name: asdict(counts) for name, counts in self.splits.items()},
            "counts": dict(Counter(problem.kind for problem in self.problems)),
            "problems": problems,
        }

    def rows(self) -> list[str]:
        """Return the report as lines of text: the splits, then each problem, worst first."""
        lines = [_split_row(name, counts) for name, counts in self.splits.items()]
        for severity in Severity:
            found = [p for p in self.problems if severity_of(p) is severity]
            kinds = Counter(problem.kind for problem in found)
            lines += [f"{severity.value}: {number} x {kind}" for kind, number in kinds.items()]
            lines += [f"  {problem.kind}: {problem}" for problem in found]
        return lines if self.problems else [*lines, "no problems"]


def severity_of(problem: Problem) -> Severity:
    """Return how much a problem matters."""
    return _SEVERITY.get(problem.kind, Severity.ERROR)


def check_dataset(
    data: Dataset | Mapping[str, Dataset] | Path | str,
    *,
    images: Path | str | None = None,
    categories: Sequence[str] | None = None,
    empty_is_verified: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Read a dataset, decode every image, look for copies, and report all that is wrong.

    Args:
        data: a path as for `load_splits` (the other arguments go there), or what it returned.
        progress: called with the number of images decoded so far and the number of all.

    Raises:
        DataError: nothing is recognised at the path.
    """
    if isinstance(data, Dataset):
        splits: Mapping[str, Dataset] = {"all": data}
    elif isinstance(data, Mapping):
        splits = data
    else:
        splits = load_splits(
            data, images=images, categories=categories, empty_is_verified=empty_is_verified
        )
    problems = [problem for dataset in splits.values() for problem in dataset.problems]
    for name, dataset in splits.items():
        problems += _labels_amiss(name, dataset)
    seen = _inspect_all(splits, progress)
    problems += [problem for image in seen for problem in image.problems]
    problems += _copies(seen)
    shown = data if isinstance(data, Path | str) else next(iter(splits.values())).root
    categories = next(iter(splits.values())).categories
    counts = {name: _count(dataset) for name, dataset in splits.items()}
    return CheckReport(str(shown), tuple(categories), counts, tuple(problems))


@dataclass(frozen=True, slots=True)
class _Inspected:
    split: str
    name: str
    hash: int | None
    problems: tuple[Problem, ...]


def _inspect_all(
    splits: Mapping[str, Dataset], progress: Callable[[int, int], None] | None
) -> list[_Inspected]:
    work = [(name, ds.root, record) for name, ds in splits.items() for record in ds.records]
    seen: list[_Inspected] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for image in pool.map(lambda item: _inspect(*item), work):
            seen.append(image)
            if progress is not None:
                progress(len(seen), len(work))
    return seen


def _inspect(split: str, root: Path, record: ImageRecord) -> _Inspected:
    name = relative_name(record.path, root)
    try:
        picture = read_image(record.path)
    except DataError as error:
        return _Inspected(split, name, None, (image_problem(record.path, root, error),))
    problems = [Problem(kind, name, -1, reason) for kind, reason in _peculiarities(record.path)]
    if picture.size != (record.width, record.height):
        width, height = picture.size
        reason = f"image is {width} x {height}, its label says {record.width} x {record.height}"
        problems.append(Problem("size_differs", name, -1, reason))
    return _Inspected(split, name, perceptual_hash(picture), tuple(problems))


def _peculiarities(path: Path) -> list[tuple[str, str]]:
    """Return what other programs may stumble over in an image that can be read."""
    with Image.open(path) as image:
        found: list[tuple[str, str]] = []
        if image.mode == "CMYK":
            found.append(("image_cmyk", "CMYK colours, read as RGB"))
        if image.mode.startswith("I;16") or image.mode == "I":
            found.append(("image_16bit", "16 bits a pixel, scaled to 8"))
        if getattr(image, "is_animated", False):
            found.append(("image_animated", "animated, only the first frame is used"))
        turn = image.getexif().get(_ORIENTATION, 1)
        if turn != 1:
            found.append(("image_turned", f"EXIF orientation {turn}, turned upright"))
    return found


def _labels_amiss(split: str, dataset: Dataset) -> list[Problem]:
    counts = _count(dataset)
    found: list[Problem] = []
    unreviewed = counts.states.get("unreviewed", 0)
    if unreviewed:
        reason = f"{unreviewed} of {counts.images} images are unreviewed: not trained on"
        found.append(Problem("images_unreviewed", split, -1, reason))
    for name, number in counts.classes.items():
        if number == 0:
            found.append(Problem("class_empty", split, -1, f"no object of class {name!r}"))
    return found


def _copies(seen: Sequence[_Inspected]) -> list[Problem]:
    """Report groups of near-copies, and say when a group lies in more than one split."""
    hashed = [(image, image.hash) for image in seen if image.hash is not None]
    groups: dict[int, list[_Inspected]] = defaultdict(list)
    for (image, _), group in zip(hashed, group_duplicates([h for _, h in hashed]), strict=True):
        groups[group].append(image)
    found: list[Problem] = []
    for first, *rest in groups.values():
        if not rest:
            continue
        leaks = any(image.split != first.split for image in rest)
        names = ", ".join(
            f"{image.name} ({image.split})" if leaks else image.name for image in rest
        )
        kind = "split_leak" if leaks else "duplicate_images"
        where = f" in {first.split}" if leaks else ""
        found.append(Problem(kind, first.name, -1, f"near-copy{where} of {names}"))
    return found


def _count(dataset: Dataset) -> SplitCounts:
    classes = Counter(label for record in dataset.records for label in record.labels.tolist())
    return SplitCounts(
        len(dataset),
        {state.value: number for state, number in dataset.count_states().items()},
        sum(classes.values()),
        sum(int(record.ignore.sum()) for record in dataset.records),
        {name: classes[label] for label, name in enumerate(dataset.categories, start=1)},
    )


def _split_row(name: str, counts: SplitCounts) -> str:
    states = ", ".join(f"{number} {state}" for state, number in counts.states.items())
    classes = ", ".join(f"{name} {number}" for name, number in counts.classes.items())
    return f"{name}: {counts.images} images ({states}), {counts.boxes} boxes ({classes})"
