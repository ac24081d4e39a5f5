"""What a user names as data, turned into a training and a validation set."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hardmine.errors import ConfigError, DataError
from hardmine.finding_kinds import FindingKind
from hardmine.types import Dataset, ImageState
from hardmine.workflows.step_cache import Steps
from hardmine.workflows.train_options import DataOptions

DataLike = Dataset | Path | str
DEFAULT_VAL_FRACTION = 0.3

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainVal:
    """The labelled images to train on and those to measure on."""

    train: Dataset
    val: Dataset
    leaks: tuple[tuple[str, str], ...] = field(default=())
    """Pairs (training image, validation image) that are near-duplicates."""


def load_train_val(
    data: DataLike,
    val: DataLike | float | None,
    steps: Steps,
    *,
    seed: int,
    options: DataOptions | None = None,
) -> TrainVal:
    """Load the data and its validation part.

    Args:
        val: a dataset; or the share of ``data`` to split off, duplicate groups whole; or ``None``:
            the part called "val" that the data comes with, otherwise a share of .2.

    Raises:
        ConfigError: the share is not between 0 and 1.
        DataError: unreadable data, or no labelled image in one of the two.
    """
    how = options or DataOptions()
    parts = _parts(data, how)
    train = parts.get("train") or parts.get("all") or next(iter(parts.values()))
    if isinstance(val, (Dataset, Path, str)):
        held = _align(val, train, how)
    elif val is None and len(parts.get("val", ())) > 0:
        held = parts["val"]
    else:
        fraction = DEFAULT_VAL_FRACTION if val is None else float(val)
        train, held = _split(train, fraction, steps, seed)
    train, held = _trainable(train, "training"), _trainable(held, "validation")
    return TrainVal(train, held, _leaks(train, held, steps))


def load_val(data: DataLike, categories: tuple[str, ...], options: DataOptions) -> Dataset:
    """Return the images to measure on: the data's part "val", or "test", or all of it.

    Raises:
        DataError: unreadable data, other classes, or no labelled image.
    """
    parts = _parts(data, options, categories)
    names = [name for name in ("val", "test", "all", *parts) if name in parts]
    chosen = parts[names[0]]
    for problem in chosen.problems:
        if problem.kind == FindingKind.CLASS_UNKNOWN:
            raise DataError(f"the detector does not know a class of the data: {problem}")
    if chosen.categories != categories:
        raise DataError(
            f"{chosen.root}: classes {list(chosen.categories)}, wanted {list(categories)}"
        )
    return _trainable(chosen, "validation")


def load_negatives(data: DataLike | None, categories: tuple[str, ...], source: str) -> Dataset:
    """Return images that the user vouches to hold no object; an empty set for ``None``.

    Raises:
        DataError: a folder without a readable image, or a dataset with labelled objects.
    """
    from hardmine.data.formats.image_files import load_images

    if data is None:
        return Dataset(categories, (), Path())
    if isinstance(data, Dataset):
        images = data
    else:
        root = Path(data).resolve()
        images = load_images(root, state=ImageState.ASSUMED_EMPTY, source=source)
    if not images.records:
        raise DataError(f"{images.root}: no readable image for {source}")
    records = []
    for record in images.records:
        if len(record.boxes):
            raise DataError(f"{record.path}: holds {len(record.boxes)} boxes, wanted no objects")
        empty = record.state.is_negative
        records.append(record if empty else record.with_state(ImageState.ASSUMED_EMPTY))
    return replace(images, categories=categories, records=tuple(records))


def _parts(
    data: DataLike, how: DataOptions, categories: tuple[str, ...] | None = None
) -> dict[str, Dataset]:
    """Return the splits by the rule that says what may be trained and measured on."""
    from hardmine.data.quality.usable_data import load_usable, usable

    if isinstance(data, Dataset):
        return {"all": usable(data)}
    return load_usable(Path(data).resolve(), categories=categories, **how.keywords())


def _align(val: DataLike, train: Dataset, how: DataOptions) -> Dataset:
    from hardmine.data.load_dataset import choose_split

    if isinstance(val, Dataset):
        val = _parts(val, how)["all"]
    else:
        val = choose_split(_parts(val, how, train.categories), val)
    if val.categories != train.categories:
        raise DataError(
            f"{val.root}: classes {list(val.categories)}, wanted those of the training data "
            f"{list(train.categories)}"
        )
    return val


def _split(train: Dataset, fraction: float, steps: Steps, seed: int) -> tuple[Dataset, Dataset]:
    from hardmine.data.splits.split import split_dataset

    if not 0 < fraction < 1:
        raise ConfigError(f"val is {fraction}: give a share between 0 and 1, or a dataset")
    index = {str(record.path): i for i, record in enumerate(train.records)}

    def compute(_: Path) -> dict[str, list[int]]:
        """Return the rows of each part."""
        parts = split_dataset(train, {"train": 1 - fraction, "val": fraction}, seed)
        return {
            name: sorted(index[str(record.path)] for record in part.records)
            for name, part in parts.items()
        }

    inputs = {"data": train.fingerprint, "fraction": fraction, "seed": seed}
    chosen = steps.run("prepare/split", inputs, compute)
    return train.subset(chosen["train"]), train.subset(chosen["val"])


def _trainable(data: Dataset, role: str) -> Dataset:
    """Leave out unreviewed images with a warning; an object to learn from must remain."""
    from hardmine.data.quality.usable_data import why_nothing_to_learn

    kept = [record for record in data.records if record.state.is_trainable]
    if len(kept) < len(data):
        _log.warning(
            "%s: %d of %d %s images are unreviewed or set aside and are not used",
            data.root,
            len(data) - len(kept),
            len(data),
            role,
        )
    reason = why_nothing_to_learn(data)
    if reason is not None:
        raise DataError(f"{data.root}: nothing to learn in the {role} images: {reason}")
    return data.with_records(kept)


def count_labelled(records: Any) -> int:
    """Return how many records are labelled."""
    return sum(record.state is ImageState.LABELLED for record in records)


def describe_leaks(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Return a line for each pair of near-duplicates; files that are in both sets are counted once."""
    lines = [
        f"{a} (trained on) and {b} (validation) are near-duplicates; both stay in use"
        for a, b in pairs
        if a != b
    ]
    same = len(pairs) - len(lines)
    if same:
        lines.append(f"{same} validation images are trained on as well; they stay in use")
    return lines


def _leaks(train: Dataset, val: Dataset, steps: Steps) -> tuple[tuple[str, str], ...]:
    from hardmine.data.splits.split import find_leaks

    def compute(_: Path) -> list[list[str]]:
        """Return the pairs (training image, validation image) that repeat each other."""
        return [
            [str(train.records[i].path), str(val.records[j].path)]
            for i, j in find_leaks(train, val)
        ]

    inputs = {"train": train.fingerprint, "val": val.fingerprint}
    pairs = steps.run("prepare/leaks", inputs, compute)
    same = sum(a == b for a, b in pairs)
    if same:
        _log.warning("%d of %d validation images are trained on as well", same, len(val))
    alike = [pair for pair in pairs if pair[0] != pair[1]]
    if alike:
        first = " and ".join(alike[0])
        _log.warning(
            "%d near-duplicates of validation images are trained on: %s", len(alike), first
        )
    return tuple((a, b) for a, b in pairs)
