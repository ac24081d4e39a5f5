"""Looking at a dataset before training on it: every label judged, every image decoded.

Where a model is named, what its input does to the images and boxes is looked at too: aspect ratios,
sizes, padding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardmine.data.formats.image_files import relative_name
from hardmine.data.formats.label_validation import RawSplit, object_table
from hardmine.data.load_dataset import build_splits, passed_over, read_splits
from hardmine.data.quality.findings import Box, Finding, Notes, by_severity
from hardmine.data.quality.image_checks import (
    CopyGroup,
    Inspected,
    describe_copies,
    group_copies,
    inspect_images,
    shared_files,
)
from hardmine.data.quality.label_checks import find_suspects, flatten
from hardmine.data.quality.label_coordinates import (
    FormVerdict,
    Relation,
    is_sound,
    judge_units,
    to_xyxy,
    written_numbers,
)
from hardmine.data.quality.usable_data import (
    Headers,
    as_raw,
    is_wrong_form,
    judge_forms,
    place_splits,
    why_nothing_to_learn,
)
from hardmine.data.resize import Resize
from hardmine.finding_kinds import FindingKind, Severity
from hardmine.plurals import counted
from hardmine.types import F64, Dataset, ImageState, Problem

ROWS_PER_KIND = 20
DEFAULT_SIDE = 320
"""Pixels of the square input that resize rules are compared at when no model is named."""


@dataclass(frozen=True, slots=True)
class SplitCounts:
    """Numbers of images by state, and of objects by class, of one split."""

    images: int
    states: dict[str, int]
    boxes: int
    ignored_boxes: int
    classes: dict[str, int]


@dataclass(frozen=True, slots=True)
class Compared:
    """How many images of a set could be read, and how many of these the data have too."""

    images: int
    shared: int

    def __str__(self) -> str:
        shared = f"{self.shared} {'is' if self.shared == 1 else 'are'} in the data too"
        return (
            f"{counted(self.images, 'image')}, {shared if self.shared else 'none is in the data'}"
        )


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What `check_dataset` found."""

    data: str
    categories: tuple[str, ...]
    splits: dict[str, SplitCounts]
    problems: tuple[Finding, ...]
    mixtures: dict[str, SizeMixture] = field(default_factory=dict)
    """Image sizes, by split."""
    grey: dict[str, int] = field(default_factory=dict)
    """Number of images without colour, by split."""
    forms: dict[str, FormVerdict] = field(default_factory=dict)
    """What the form of the boxes was judged by, for splits with enough of them."""
    copy_groups: int = 0
    copy_pairs: int = 0
    compared: dict[str, Compared] = field(default_factory=dict)
    """The sets that must not share pictures with the data."""
    placements: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What was decided where labels and pictures differ in size, by split."""
    raws: Mapping[str, RawSplit] = field(default_factory=dict, repr=False)
    """The splits as they were read, where ``data`` was a path."""
    seen: tuple[Inspected, ...] = field(default=(), repr=False)
    """Every image that was opened."""

    @property
    def ok(self) -> bool:
        """True when no problem is an error."""
        return not self.count(Severity.ERROR)

    def count(self, severity: Severity) -> int:
        """Return the number of problems of a severity."""
        return sum(problem.kind.severity is severity for problem in self.problems)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON knows it."""
        return {
            "data": self.data,
            "ok": self.ok,
            "categories": list(self.categories),
            "splits": {name: asdict(counts) for name, counts in self.splits.items()},
            "copies": {"groups": self.copy_groups, "pairs": self.copy_pairs},
            "compared": {name: asdict(found) for name, found in self.compared.items()},
            "grey": self.grey,
            "sizes": {name: mixture.to_dict() for name, mixture in self.mixtures.items()},
            "forms": {name: asdict(verdict) for name, verdict in self.forms.items()},
            "placements": {name: list(lines) for name, lines in self.placements.items()},
            "counts": dict(Counter(problem.kind for problem in self.problems)),
            "problems": [problem.to_dict() for problem in self.problems],
        }

    def rows(self, limit: int = ROWS_PER_KIND) -> list[str]:
        """Return the report as lines of text: the splits, then the problems, worst first.

        Args:
            limit: problems of one kind that are named; the rest is counted.
        """
        lines = [_split_row(name, counts) for name, counts in self.splits.items()]
        lines += [
            f"{name}: {number} of {self.splits[name].images} images hold no colour"
            for name, number in self.grey.items()
            if number
        ]
        lines += [f"{name}: {line}" for name, found in self.placements.items() for line in found]
        if self.copy_pairs:
            lines.append(
                f"near-copies: {counted(self.copy_pairs, 'pair')} in "
                f"{counted(self.copy_groups, 'group')}"
            )
        lines += [f"compared with {name}: {found}" for name, found in self.compared.items()]
        several = len(self.splits) > 1
        for kind, found in by_severity(self.problems):
            lines.append(f"{kind.severity}: {len(found)} x {kind}")
            lines += [_problem_row(problem, several) for problem in found[:limit]]
            if len(found) > limit:
                lines.append(f"  … {len(found) - limit} more (--json and --html list all)")
        return lines if self.problems else [*lines, "no problems"]


def check_dataset(
    data: Dataset | Mapping[str, Dataset] | Path | str,
    *,
    images: Path | str | None = None,
    categories: Sequence[str] | None = None,
    empty_is_verified: bool = False,
    val: Mapping[str, RawSplit] | None = None,
    against: Mapping[str, Dataset] | None = None,
    model: ModelInput | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Read a dataset, decode every image, look for copies, and report all that is wrong.

    Args:
        data: a path as for `load_splits` (the other arguments go there), or what it returned.
        val: further labelled splits as they were read, by name; looked at like those of ``data``.
        against: sets of images (negatives, a pool) that must not share pictures with the splits.
        model: also name boxes that its input makes too small, and compare resize rules there.
        progress: called with the number of images decoded so far and the number of all.

    Raises:
        DataError: nothing is recognised at the path.
    """
    raws: Mapping[str, RawSplit] = {}
    if isinstance(data, Dataset):
        splits: dict[str, Dataset] = {"all": data}
    elif isinstance(data, Mapping):
        splits = dict(data)
    else:
        raws = read_splits(data, images=images, empty_is_verified=empty_is_verified)
        splits = build_splits(raws, categories)
    shown = data if isinstance(data, Path | str) else next(iter(splits.values())).root
    more = dict(val or {})
    splits |= build_splits(more, next(iter(splits.values())).categories)
    read = {**raws, **more}
    problems: list[Finding] = []
    others = dict(against or {})
    seen = inspect_images(splits | others, progress)
    headers = {i.record.path: (i.size, i.turn) for i in seen if i.hash is not None}
    forms = judge_forms(raws, headers) | judge_forms(more, headers)
    for name, dataset in splits.items():
        problems += _label_findings(name, dataset, read.get(name), forms.get(name), model)
    if raws and isinstance(data, Path | str):
        problems += locate(next(iter(raws)), passed_over(data, raws), None)
    for name, dataset in others.items():
        problems += locate(name, dataset.problems, None)
    problems += [problem for image in seen for problem in image.findings if _matters(image, others)]
    placements = _place(splits, (raws, more), headers, problems)
    groups = group_copies(seen)
    problems += describe_copies(seen, groups, others)
    report = _report(str(shown), splits, problems, seen, groups, frozenset(others), model)
    return replace(report, forms=forms, raws=raws, placements=placements)


def _place(
    splits: Mapping[str, Dataset],
    sets: Iterable[Mapping[str, RawSplit]],
    headers: Headers,
    problems: list[Finding],
) -> dict[str, tuple[str, ...]]:
    """Note the images whose labels say another size, and return what was decided for each split.

    Args:
        sets: the splits of each data set, which decide for one another.
    """
    placed = {
        name: split for raws in sets if raws for name, split in place_splits(raws, headers).items()
    }
    for name, dataset in splits.items():
        if name not in placed:
            placed |= place_splits({name: as_raw(dataset)}, headers)
    for name, split in placed.items():
        for image, record, verdict in zip(
            split.raw.images, splits[name].records, split.verdicts, strict=True
        ):
            if verdict is None:
                continue
            unturned = verdict.relation is Relation.EQUAL
            kind = FindingKind.BOXES_UNTURNED if unturned else FindingKind.SIZE_DIFFERS
            label, picture = (record.width, record.height), headers[image.path][0]
            file = relative_name(image.path, split.raw.root)
            reason = verdict.describe(label, picture)
            problems.append(Finding(kind, file, -1, reason, name, image.path))
    return {
        name: tuple(dict.fromkeys(str(verdict) for verdict in split.verdicts if verdict))
        for name, split in placed.items()
        if any(split.verdicts)
    }


def _report(
    shown: str,
    splits: Mapping[str, Dataset],
    problems: Sequence[Finding],
    seen: Sequence[Inspected],
    groups: Sequence[CopyGroup],
    others: frozenset[str],
    model: ModelInput | None,
) -> CheckReport:
    height, width = (
        (model.resize.height, model.resize.width) if model else (DEFAULT_SIDE, DEFAULT_SIDE)
    )
    mixtures = {name: size_mixture(dataset, height, width) for name, dataset in splits.items()}
    grey = Counter(image.split for image in seen if image.grey)
    reported = [g for g in groups if any(seen[i].split not in others for i in g.members)]
    shared = shared_files(seen, groups, others)
    return CheckReport(
        shown,
        tuple(next(iter(splits.values())).categories),
        {name: _count(dataset) for name, dataset in splits.items()},
        tuple(problems),
        {name: mixture for name, mixture in mixtures.items() if mixture is not None},
        {name: grey[name] for name in splits},
        copy_groups=len(reported),
        copy_pairs=sum(group.pairs for group in reported),
        compared={name: Compared(*number) for name, number in shared.items()},
        seen=tuple(seen),
    )


def _matters(image: Inspected, others: Mapping[str, Dataset]) -> bool:
    """Return whether to report an image: of those that are only compared with, only unreadable ones."""
    return image.split not in others or image.hash is None


def _label_findings(
    split: str,
    dataset: Dataset,
    raw: RawSplit | None,
    form: FormVerdict | None,
    model: ModelInput | None,
) -> list[Finding]:
    found = locate(split, dataset.problems, raw)
    mixed = None if raw is None else judge_units(raw)
    if raw is not None and mixed is not None:
        path, boxes = _example(raw, int(mixed.rows[0]), mixed.other)
        found.append(
            Finding(FindingKind.BOX_UNITS_MIXED, split, -1, str(mixed), split, path, boxes)
        )
    elif raw is not None and form is not None and form.doubtful:
        kind = FindingKind.BOX_FORM if is_wrong_form(form) else FindingKind.BOX_FORM_DOUBTFUL
        first = int(is_sound(object_table(raw).boxes, written_numbers(raw)[1]).argmin())
        path, boxes = _example(raw, first, form.best)
        found.append(Finding(kind, split, -1, str(form), split, path, boxes))
    unreviewed = dataset.count_states().get(ImageState.UNREVIEWED, 0)
    if unreviewed:
        reason = f"{unreviewed} of {len(dataset)} images are unreviewed: not trained on"
        found.append(Finding(FindingKind.IMAGES_UNREVIEWED, split, -1, reason, split))
    nothing = why_nothing_to_learn(dataset)
    if nothing is not None and not all(r.state.is_negative for r in dataset.records):
        found.append(Finding(FindingKind.NO_OBJECTS, split, -1, nothing, split))
    found += find_suspects(split, dataset)
    return found + (find_small(split, dataset, model) if model is not None else [])


def _example(raw: RawSplit, row: int, form: str) -> tuple[Path, tuple[Box, ...]]:
    """Return an image with a box as it was read and as another form would have it."""
    table = object_table(raw)
    numbers, sizes = written_numbers(raw)
    better = to_xyxy(form, numbers[row : row + 1], sizes[row : row + 1])[0]
    x0, y0, x1, y1 = table.boxes[row].tolist()
    a, b, c, d = better.tolist()
    return raw.images[int(table.owner[row])].path, ((x0, y0, x1, y1), (a, b, c, d))


def locate(split: str, problems: Sequence[Problem], raw: RawSplit | None) -> list[Finding]:
    """Return what reading a split found, with the image and the written box where there is one."""
    where = _places(raw, problems) if raw is not None and problems else {}
    found: list[Finding] = []
    for p in problems:
        # In COCO the index counts images in some kinds and annotations in others.
        path, box = where.get((p.file, p.index), (None, None))
        if not p.kind.about_box:
            path, box = (path, None) if p.index < 0 else (None, None)
        boxes = (box,) if box is not None else ()
        found.append(Finding(p.kind, p.file, p.index, p.reason, split, path, boxes))
    return found


def _places(
    raw: RawSplit, problems: Sequence[Problem]
) -> dict[tuple[str, int], tuple[Path, Box | None]]:
    """Return the image and the written box that each problem's file and index stand for."""
    wanted = {(problem.file, problem.index) for problem in problems}
    table = object_table(raw)
    where: dict[tuple[str, int], tuple[Path, Box | None]] = {}
    for image in raw.images:
        if (image.file, -1) in wanted:
            where[image.file, -1] = (image.path, None)
    for owner, place, box in zip(
        table.owner.tolist(), table.places.tolist(), table.boxes.tolist(), strict=True
    ):
        image = raw.images[owner]
        if (image.file, place) in wanted:
            x0, y0, x1, y1 = box
            where[image.file, place] = (image.path, (x0, y0, x1, y1))
    return where


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
    ignored = f", {counts.ignored_boxes} of them to be ignored" if counts.ignored_boxes else ""
    boxes = counted(counts.boxes, "box", "boxes")
    return f"{name}: {counted(counts.images, 'image')} ({states}), {boxes} ({classes}){ignored}"


def _problem_row(problem: Finding, several: bool) -> str:
    where = f"{problem.split}: " if several and problem.file != problem.split else ""
    return f"  {problem.kind}: {where}{problem}"


COMMON_SIZES = 5
DISTORTED = 1.5
"""Change of aspect ratio from which an image counts as distorted."""


@dataclass(frozen=True, slots=True)
class ModelInput:
    """What a model sees: its canvas and the pixels between neighbouring cells of its finest map."""

    name: str
    resize: Resize
    stride: float


@dataclass(frozen=True, slots=True)
class RuleEffect:
    """What one resize rule would do to the images of a dataset."""

    rule: str
    aspect_median: float
    """Factor by which the aspect ratio changes, 1 or more."""
    aspect_p95: float
    distorted: float
    """Share of images whose aspect ratio changes by `DISTORTED` or more."""
    unused: float
    """Mean share of the canvas that no image covers (padding)."""
    input_sizes: int
    """Number of different input sizes."""
    box_p5: float | None
    """Side (square root of the area) in input pixels that 5 % of the boxes stay below."""
    box_median: float | None


@dataclass(frozen=True, slots=True)
class SizeMixture:
    """Image sizes and what resize rules would do to them at ``height`` × ``width``."""

    images: int
    common: tuple[tuple[int, int, int], ...]
    """(width, height, number of images), the most common first."""
    distinct: int
    landscape: float
    portrait: float
    aspect_p5: float
    aspect_p95: float
    height: int
    width: int
    rules: tuple[RuleEffect, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON knows it."""
        return asdict(self)


def size_mixture(dataset: Dataset, height: int, width: int) -> SizeMixture | None:
    """Describe the sizes of a dataset's images; None where there is no image."""
    records = dataset.records
    if not records:
        return None
    sizes = np.array([(r.width, r.height) for r in records], np.float64)
    counts = Counter((r.width, r.height) for r in records)
    aspect = sizes[:, 0] / sizes[:, 1]
    low, high = np.percentile(aspect, [5, 95])
    table = flatten(dataset)
    extent = (table.boxes[:, 2:] - table.boxes[:, :2]).astype(np.float64)
    rules = tuple(
        _effect(rule, sizes, scale, unused, extent, table.owner)
        for rule, scale, unused in _scales(sizes, height, width)
    )
    return SizeMixture(
        len(records),
        tuple((*size, number) for size, number in counts.most_common(COMMON_SIZES)),
        len(counts),
        float((aspect > 1).mean()),
        float((aspect < 1).mean()),
        float(low),
        float(high),
        height,
        width,
        rules,
    )


def find_small(split: str, dataset: Dataset, model: ModelInput) -> list[Finding]:
    """Return the boxes that after resizing cover less than one cell of the model's finest map."""
    notes = Notes(split)
    for record in dataset.records:
        if not len(record.boxes):
            continue
        placed = model.resize.place(record.width, record.height).forward(record.boxes)
        extent = placed[:, 2:] - placed[:, :2]
        small = np.sqrt(extent.prod(axis=1)) < model.stride
        for place in np.flatnonzero(small & ~record.ignore).tolist():
            width, height = extent[place].tolist()
            reason = (
                f"{dataset.categories[int(record.labels[place]) - 1]} of {width:.1f} x {height:.1f}"
                f" px in the input of {model.name}, whose finest map has a stride of "
                f"{model.stride:g}"
            )
            name = relative_name(record.path, dataset.root)
            boxes = [record.boxes[place].tolist()]
            notes.add(
                FindingKind.BOX_BELOW_STRIDE,
                name,
                reason,
                index=place,
                image=record.path,
                boxes=boxes,
            )
    return notes.found


def _scales(sizes: F64, height: int, width: int) -> list[tuple[str, F64, F64]]:
    """Return each rule's name, scale in x and y [N, 2], and unused share of the canvas [N]."""
    canvas = np.array([width, height], np.float64)
    stretch = canvas / sizes
    letterbox = np.repeat(stretch.min(axis=1, keepdims=True), 2, axis=1)
    shortest = np.repeat((canvas.min() / sizes.min(axis=1))[:, None], 2, axis=1)
    square = canvas.min() / sizes  # inscribe: onto a square S <= min(H, W), laid into the canvas
    padding = 1 - (sizes * letterbox).prod(axis=1) / canvas.prod()
    none = np.zeros(len(sizes))
    return [
        ("stretch", stretch, none),
        ("letterbox", letterbox, padding),
        ("shortest side", shortest, none),
        ("inscribe", square, none + 1 - canvas.min() ** 2 / canvas.prod()),
    ]


def _effect(
    rule: str, sizes: F64, scale: F64, unused: F64, extent: F64, owner: NDArray[np.int64]
) -> RuleEffect:
    change = np.exp(np.abs(np.log(scale[:, 0] / scale[:, 1])))
    sides = np.sqrt((extent * scale[owner]).prod(axis=1))
    low, middle = np.percentile(sides, [5, 50]).tolist() if len(sides) else (None, None)
    shapes = len(np.unique((sizes * scale).round(), axis=0)) if rule == "shortest side" else 1
    return RuleEffect(
        rule,
        float(np.median(change)),
        float(np.percentile(change, 95)),
        float((change >= DISTORTED).mean()),
        float(unused.mean()),
        shapes,
        low,
        middle,
    )
