"""What a user names as data, turned into datasets to train on and to measure on."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

from hardmine.errors import ConfigError, DataError
from hardmine.finding_kinds import FindingKind
from hardmine.plurals import counted
from hardmine.types import Dataset, ImageState
from hardmine.workflows.sets_apart import find_train_val_leaks
from hardmine.workflows.step_cache import Steps
from hardmine.workflows.train_options import DataOptions
from hardmine.workflows.trained_images import not_trained_on

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
            the part called "val" that the data comes with, otherwise a share of .3.

    Raises:
        ConfigError: the share is not between 0 and 1, or ``data`` is neither a dataset nor a path.
        DataError: unreadable data, too few images to split, or no labelled image in one of the two.
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
    _name_classes_of_one_side(train, held)
    return TrainVal(train, held, find_train_val_leaks(train, held, steps))


def load_labelled(
    data: DataLike, options: DataOptions | None = None
) -> tuple[Dataset, Dataset | None]:
    """Return the training images and the part "val" that the data comes with; nothing is split off.

    Raises:
        DataError: unreadable data, or no labelled image among those to train on.
    """
    parts = _parts(data, options or DataOptions())
    train = parts.get("train") or parts.get("all") or next(iter(parts.values()))
    held = parts.get("val")
    return _trainable(train, "training"), None if not held else _trainable(held, "validation")


def load_val(
    data: DataLike,
    categories: tuple[str, ...],
    options: DataOptions,
    checkpoint: object = None,
) -> Dataset:
    """Return the images to measure on: the data's part "val", or "test", or all of it.

    Args:
        checkpoint: what is measured. Of data that its training divided, only the images that it split
            off are measured.

    Raises:
        DataError: unreadable data, other classes, or no labelled image.
    """
    categories = tuple(categories)  # those of an object that somebody wrote may be a list
    parts = _parts(data, options, categories)
    names = [name for name in ("val", "test", "all", *parts) if name in parts]
    chosen = parts[names[0]]
    if any(problem.kind == FindingKind.CLASS_UNKNOWN for problem in chosen.problems):
        _require_known(_parts(data, options)[names[0]], categories)
    if chosen.categories != categories:
        raise DataError(
            f"{chosen.root}: classes {list(chosen.categories)}, wanted {list(categories)}"
        )
    return _trainable(not_trained_on(chosen, checkpoint), "validation")


def _require_known(data: Dataset, categories: tuple[str, ...]) -> None:
    """Refuse data with objects of classes that the detector lacks; ids of no class are left out."""
    met = {data.categories[label - 1] for r in data.records for label in r.labels.tolist()}
    unknown = sorted(met - set(categories))
    if unknown:
        raise DataError(
            f"{data.root}: the detector does not know a class of the data: {', '.join(unknown[:6])}; "
            f"it knows {', '.join(categories[:6])}; where only the names differ, give the detector's "
            "classes the names of the data with --classes FILE"
        )


def load_negatives(
    data: DataLike | None,
    categories: tuple[str, ...],
    source: str,
    frames: Path | None = None,
    every: str | None = None,
) -> Dataset:
    """Return images that the user vouches to hold no object; an empty set for ``None``.

    Args:
        data: a dataset, or whatever may be a pool: a folder, a glob, a list, an archive, a URL, a video.
        frames: the folder below which frames and images of archives and URLs are written. Where it is
            not given, the videos of a folder are passed over.
        every: which frames are taken, as ``Sampling.parse`` reads it.

    Raises:
        DataError: no such images, none that is readable, or a dataset with labelled objects.
    """
    from hardmine.data.formats.image_files import load_images
    from hardmine.data.video import holds_videos
    from hardmine.mining.sources.local_files import load_pool

    if data is None:
        return Dataset(categories, (), Path())
    if isinstance(data, Dataset):
        images = data
    else:
        root = Path(data)
        if root.is_dir() and not (frames is not None and holds_videos(root)):
            images = load_images(root.resolve(), state=ImageState.ASSUMED_EMPTY, source=source)
        else:
            images = load_pool(data, frames, every)
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
    """Return the splits by the rule that says what may be trained and measured on.

    Raises:
        ConfigError: neither a dataset nor a path, such as a list of them.
        DataError: unreadable data.
    """
    from hardmine.data.quality.usable_data import load_usable, usable

    if isinstance(data, Dataset):
        return {"all": usable(data)}
    if not isinstance(data, (str, PathLike)):
        raise ConfigError(
            f"data: got {type(data).__name__} {data!r:.80}, wanted one dataset, or the path of one"
        )
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
        try:
            parts = split_dataset(train, {"train": 1 - fraction, "val": fraction}, seed)
        except DataError as error:
            raise DataError(
                f"{error}; give other labelled images to validate on (--val)"
            ) from error
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
        what = "learn" if role == "training" else "measure"
        said = f"{data.root}: nothing to {what} in the {role} images: {reason}"
        if data.problems:
            said += f"; {counted(len(data.problems), 'problem')}, the first: {data.problems[0]}"
        raise DataError(said)
    return data.with_records(kept)


def _name_classes_of_one_side(train: Dataset, val: Dataset) -> None:
    """Warn of each class that is trained and not measured, or measured and not trained."""
    measured = val.count_objects()
    for name, trained in train.count_objects().items():
        if trained and not measured[name]:
            _log.warning(
                "class %r has %s in the training images and none in the validation images: "
                "nothing is measured of it, and AP is the mean of the other classes",
                name,
                counted(trained, "object"),
            )
        if measured[name] and not trained:
            _log.warning(
                "class %r has %s in the validation images and none in the training images: "
                "it cannot be learned",
                name,
                counted(measured[name], "object"),
            )


def count_labelled(records: Any) -> int:
    """Return how many records are labelled."""
    return sum(record.state is ImageState.LABELLED for record in records)
