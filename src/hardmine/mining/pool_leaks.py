"""Images that must not be mined (training, validation, test), and the pool's images that repeat them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from hardmine.data.images import has_picture_name
from hardmine.data.video import is_video
from hardmine.errors import DataError
from hardmine.inference.image_loading import (
    ImageItem,
    batched,
    count_cores,
    read_item,
    run_ordered,
)
from hardmine.mining.sources.archives_and_videos import is_archive
from hardmine.mining.sources.pool_source import open_images, open_source
from hardmine.types import Dataset, PoolScore, Problem

_ROWS = 10_000
"""Rows of the pool that are compared with the excluded images at once."""
_BATCH = 16


def find_leaks(rows: Iterable[PoolScore], excluded: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return pairs (pool image, the excluded image that it repeats), sorted.

    Args:
        rows: the pool's images with their perceptual hashes.
        excluded: names of images, as :func:`list_excluded` gives them.
    """
    from hardmine.data.splits.near_duplicates import find_near

    if not excluded:
        return ()
    hashes = _hash_images(excluded)
    pairs: list[tuple[str, str]] = []
    left = iter(rows)
    while chunk := list(islice(left, _ROWS)):
        near = find_near(hashes, [row.phash for row in chunk])
        pairs += [(chunk[i].image, excluded[j]) for i, j in near.items()]
    return tuple(sorted(pairs))


def list_excluded(exclude: Iterable[Dataset | Path | str], images: Path | None = None) -> list[str]:
    """Return the names of the images that must not be mined.

    Args:
        exclude: each a dataset, or what names one, or a picture, or whatever may be a pool.
        images: the folder of the images that label files among them name, where it is elsewhere.

    Raises:
        DataError: one of them holds no image.
    """
    names: list[str] = []
    for data in exclude:
        before = len(names)
        names += _names(data, images)
        if len(names) == before:
            raise DataError(f"{data}: no image in it, wanted images to exclude")
    return names


def _names(data: Dataset | Path | str, images: Path | None) -> Iterator[str]:
    if not isinstance(data, Dataset) and has_picture_name(data) and Path(data).is_file():
        yield str(Path(data).absolute())
    elif isinstance(data, Dataset) or not _is_label_file(Path(data)):
        for item in open_source(data).items():
            if not isinstance(item, Problem):
                yield item.name
    else:
        from hardmine.data.load_dataset import load_splits

        for part in load_splits(Path(data).resolve(), images=images).values():
            yield from (str(record.path) for record in part.records)


def _is_label_file(path: Path) -> bool:
    of_images = path.suffix.lower() == ".txt" or is_archive(path.name) or is_video(path)
    return path.is_file() and not of_images


def _hash_images(names: Sequence[str]) -> list[int | None]:
    """Return each image's perceptual hash, ``None`` where it cannot be read."""
    found: dict[str, int] = {}
    for batch in run_ordered(batched(open_images(names), _BATCH), _hash_batch, count_cores()):
        found |= batch
    return [found.get(name) for name in names]


def _hash_batch(items: Sequence[ImageItem]) -> dict[str, int]:
    from hardmine.data.splits.near_duplicates import hash_encoded

    found: dict[str, int] = {}
    for item in items:
        try:
            found[item.name] = hash_encoded(read_item(item), item.name)
        except DataError:
            continue  # what cannot be read repeats nothing
    return found
