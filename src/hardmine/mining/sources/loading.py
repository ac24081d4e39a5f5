"""Pools and excluded images as datasets in memory."""

from __future__ import annotations

from pathlib import Path

from hardmine.errors import DataError
from hardmine.types import Dataset, ImageState


def load_pool(pool: Dataset | Path | str) -> Dataset:
    """Return the pool's images by absolute path.

    Raises:
        DataError: there is no such folder, or no image in it.
    """
    from hardmine.data.load_dataset import load_images

    if isinstance(pool, Dataset):
        images = pool
    else:
        root = Path(pool).resolve()
        images = load_images(root, state=ImageState.UNREVIEWED, source="pool")
    if not images.records:
        seen = f" ({len(images.problems)} unreadable files)" if images.problems else ""
        raise DataError(f"{images.root}: no readable image in the pool{seen}")
    return images


def load_excluded(data: Dataset | Path | str) -> Dataset:
    """Return images that must not be mined: a folder's, or those of a labelled dataset's file.

    Raises:
        DataError: there is no image.
    """
    from hardmine.data.load_dataset import load_splits

    if isinstance(data, Dataset) or Path(data).is_dir():
        return load_pool(data)
    parts = list(load_splits(Path(data).resolve()).values())
    return parts[0].with_records([record for part in parts for record in part.records])
