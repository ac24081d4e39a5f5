"""Hash every image once; what does not decode is set aside before anything is trained."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from hardmine.types import Dataset, Problem
from hardmine.workflows.step_cache import Steps

Hashes = Mapping[str, int | None]
"""Perceptual hash by path; ``None`` where the image does not decode."""


def hash_once(parts: Iterable[Dataset], steps: Steps) -> Hashes:
    """Hash all images of the datasets; done again only when a file's size or date changes."""
    from hardmine.data.splits.near_duplicates import hash_images

    paths = list(dict.fromkeys(record.path for part in parts for record in part.records))
    stats = [_stat(path) for path in paths]
    digest = hashlib.sha256(repr([str(path) for path in paths] + stats).encode()).hexdigest()
    values = steps.run(
        "prepare/hashes", {"files": digest}, lambda _: list(hash_images(paths)), label="hash images"
    )
    return dict(zip([str(path) for path in paths], values, strict=True))


def _stat(path: Path) -> str:
    found = path.stat() if path.exists() else None
    return "" if found is None else f"{found.st_size} {found.st_mtime_ns}"


def drop_unreadable(part: Dataset, hashes: Hashes) -> tuple[Dataset, tuple[Problem, ...]]:
    """Return the dataset without images that do not decode, and all of its problems."""
    good = [record for record in part.records if hashes[str(record.path)] is not None]
    bad = tuple(
        Problem("image_unreadable", str(record.path), -1, "the image does not decode")
        for record in part.records
        if hashes[str(record.path)] is None
    )
    return part.with_records(good), (*part.problems, *bad)
