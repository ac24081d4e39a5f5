"""What may be trained and measured on: the one rule that `check`, `train`, `val` and `loop` share.

What `check` calls an error is mended here where the whole set says how (boxes of another size than
their picture's), or the data are refused with the reason and what to do. What reading a label file
rejects (boxes without an extent, unknown classes …) has been left out and counted before.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

import numpy as np

from hardmine.data.formats.image_files import relative_name
from hardmine.data.formats.label_validation import (
    ObjectTable,
    RawImage,
    RawSplit,
    build_dataset,
    object_table,
)
from hardmine.data.images import read_header
from hardmine.data.load_dataset import build_splits, passed_over, read_splits, report_loaded
from hardmine.data.quality.label_coordinates import (
    FormVerdict,
    LabelledSizes,
    Placed,
    Reading,
    SizeVerdict,
    judge_form,
    judge_units,
    place_boxes,
)
from hardmine.errors import DataError
from hardmine.plurals import counted
from hardmine.types import Dataset, ImageState

logger = logging.getLogger(__name__)

Headers = Mapping[Path, tuple[tuple[int, int], int]]
"""The (width, height) as displayed and the EXIF orientation of images, by their path."""
SOUND = 0.9
"""With a smaller share of sound boxes the declared form is an error, if another explains them."""
_THREADS = 8
_NAMED = 3
"""Images that a refusal names."""


@dataclass(frozen=True, slots=True, eq=False)
class PlacedSplit:
    """A split with its boxes on its pictures, and what was decided for each image (None: nothing)."""

    raw: RawSplit
    verdicts: tuple[SizeVerdict | None, ...]

    def unplaced(self) -> list[int]:
        """Return the images, by index, that have boxes which cannot be placed."""
        if not any(self.verdicts):
            return []
        with_boxes = np.unique(object_table(self.raw).owner).tolist()
        verdicts = ((index, self.verdicts[index]) for index in with_boxes)
        return [i for i, v in verdicts if v is not None and v.reading is Reading.UNKNOWN]


def load_usable(
    path: Path | str,
    *,
    images: Path | str | None = None,
    categories: Sequence[str] | None = None,
    empty_is_verified: bool = False,
) -> dict[str, Dataset]:
    """Read every split as `load_splits` does, mend what can be mended, and refuse the rest.

    Raises:
        DataError: as `load_splits`; boxes in another form than their format's, or in two units;
            images of another shape than their labels say.
    """
    raws = read_splits(path, images=images, empty_is_verified=empty_is_verified)
    headers = read_headers(raws)
    forms = judge_forms(raws, headers)
    for name, raw in raws.items():
        mixed = judge_units(raw)
        if mixed is not None:
            raise DataError(f"{path} ({name}): {mixed}; {_way_on(path)}")
        if name in forms and is_wrong_form(forms[name]):
            raise DataError(
                f"{path} ({name}): boxes in another form: {forms[name]}; {_way_on(path)}"
            )
    placed = place_splits(raws, headers)
    _refuse_unknown(str(path), placed)
    for line in dict.fromkeys(str(v) for split in placed.values() for v in split.verdicts if v):
        logger.warning("%s: labels and pictures differ in size: %s", path, line)
    datasets = build_splits({name: split.raw for name, split in placed.items()}, categories)
    for name, dataset in datasets.items():
        report_loaded(f"{path} ({name})", dataset, placed[name].raw)
    for problem in passed_over(path, raws):
        logger.warning("%s: %s", path, problem)
    return datasets


def usable(dataset: Dataset) -> Dataset:
    """Mend or refuse a dataset in memory by the same rule.

    Raises:
        DataError: images of another shape than their records say.
    """
    raw = as_raw(dataset)
    placed = place_splits({"all": raw}, read_headers({"all": raw}))
    _refuse_unknown(str(dataset.root), placed)
    if not any(placed["all"].verdicts):
        return dataset
    built = build_dataset(placed["all"].raw, dataset.categories)
    return replace(dataset, records=built.records, problems=(*dataset.problems, *built.problems))


def judge_forms(raws: Mapping[str, RawSplit], headers: Headers) -> dict[str, FormVerdict]:
    """Return the verdict on the form of each split's boxes, where something can be said.

    Boxes on pictures as they are stored look like boxes with x and y swapped where EXIF turns all
    pictures of a set; turned, they are in the form that they should have.
    """
    found = {name: verdict for name, raw in raws.items() if (verdict := judge_form(raw))}
    if not any(verdict.doubtful for verdict in found.values()):
        return found
    for name, split in place_splits(raws, headers).items():
        turned = any(verdict and verdict.reading is Reading.TURNED for verdict in split.verdicts)
        after = judge_form(split.raw) if turned and found[name].doubtful else None
        if after is not None and not after.doubtful:
            found[name] = after
    return found


def is_wrong_form(verdict: FormVerdict) -> bool:
    """Return whether boxes are so surely in another form that they must not be used as they are."""
    return verdict.doubtful and verdict.sound[verdict.declared] < SOUND


def why_nothing_to_learn(dataset: Dataset) -> str | None:
    """Return why no object of a dataset can be learnt from or measured on; None where one can."""
    labelled = [r for r in dataset.records if r.state is ImageState.LABELLED]
    if not labelled:
        return f"no labelled image among {len(dataset)}"
    boxes = sum(len(record.labels) for record in labelled)
    ignored = sum(int(record.ignore.sum()) for record in labelled)
    if boxes == 0:
        return f"no box in {counted(len(labelled), 'labelled image')}"
    if boxes == ignored:
        return f"all {boxes} boxes are to be ignored (iscrowd, difficult): no object to learn from"
    return None


def read_headers(raws: Mapping[str, RawSplit]) -> Headers:
    """Read the header of every image; those that cannot be read are left out."""
    paths = list(dict.fromkeys(image.path for raw in raws.values() for image in raw.images))

    def header(path: Path) -> tuple[tuple[int, int], int] | None:
        """Return what a picture's header says, None where it cannot be read."""
        try:
            return read_header(path)
        except DataError:
            return None

    with ThreadPoolExecutor(_THREADS) as pool:
        found = zip(paths, pool.map(header, paths), strict=True)
        return {path: value for path, value in found if value is not None}


def place_splits(raws: Mapping[str, RawSplit], headers: Headers) -> dict[str, PlacedSplit]:
    """Put the boxes of all splits on their pictures; what all of them show decides for each."""
    tables = {name: object_table(raw) for name, raw in raws.items()}
    images = [image for raw in raws.values() for image in raw.images]
    starts = [0, *accumulate(len(raw.images) for raw in raws.values())]
    nothing = ((0, 0), 1)
    seen = [headers.get(image.path, nothing) for image in images]
    placed = place_boxes(
        LabelledSizes(
            np.array([(i.width, i.height) for i in images], np.int64).reshape(-1, 2),
            np.array([size for size, _ in seen], np.int64).reshape(-1, 2),
            np.array([turn for _, turn in seen], np.int64),
            np.concatenate(
                [np.zeros(0, np.int64)]
                + [t.owner + start for t, start in zip(tables.values(), starts, strict=False)]
            ),
            np.concatenate([np.zeros((0, 4)), *(table.boxes for table in tables.values())]),
        )
    )
    result: dict[str, PlacedSplit] = {}
    row = 0
    for (name, raw), start in zip(raws.items(), starts, strict=False):
        table = tables[name]
        boxes = placed.boxes[row : row + len(table.boxes)]
        result[name] = _place_split(raw, replace(table, boxes=boxes), placed, start)
        row += len(table.boxes)
    return result


def _place_split(raw: RawSplit, table: ObjectTable, placed: Placed, start: int) -> PlacedSplit:
    verdicts = tuple(placed.of(start + index) for index in range(len(raw.images)))
    if not any(verdicts):
        return PlacedSplit(raw, verdicts)
    images: list[RawImage] = []
    for index, image in enumerate(raw.images):
        width, height = placed.sizes[start + index].tolist()
        images.append(replace(image, width=width, height=height, objects=[]))
    return PlacedSplit(replace(raw, images=images, table=table), verdicts)


def _refuse_unknown(name: str, placed: Mapping[str, PlacedSplit]) -> None:
    lost = [
        relative_name(split.raw.images[index].path, split.raw.root)
        for split in placed.values()
        for index in split.unplaced()
    ]
    if lost:
        shown = ", ".join(lost[:_NAMED]) + (" …" if len(lost) > _NAMED else "")
        raise DataError(
            f"{name}: {counted(len(lost), 'image has', 'images have')} another shape than the "
            f"labels say, so that boxes cannot be placed: {shown}; {_way_on(name)}"
        )


def _way_on(path: Path | str) -> str:
    return f"'hardmine check {path}' shows them, with '--fix OUT' it writes a mended copy"


def as_raw(dataset: Dataset) -> RawSplit:
    """Return a dataset as if it had just been read."""
    images = [
        RawImage(
            record.path,
            relative_name(record.path, dataset.root),
            record.width,
            record.height,
            [
                (*box, label - 1, ignore, place)
                for place, (box, label, ignore) in enumerate(
                    zip(
                        record.boxes.tolist(),
                        record.labels.tolist(),
                        record.ignore.tolist(),
                        strict=True,
                    )
                )
            ],
            state=record.state,
            source=record.source,
        )
        for record in dataset.records
    ]
    return RawSplit(dataset.root, list(dataset.categories), images, [])
