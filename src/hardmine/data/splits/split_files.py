"""A split as files that other programs read: COCO labels and a list of names for each part."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from hardmine.data.convert import convert
from hardmine.data.formats.coco_write import write_coco
from hardmine.data.formats.image_paths import plain_path, relative_name
from hardmine.data.load_dataset import load_splits
from hardmine.data.splits.split import SplitResult, split_by_group, split_by_time
from hardmine.errors import ConfigError, DataError
from hardmine.files import write_text
from hardmine.types import Dataset

Pictures = Literal["none", "copy", "link"]


def parse_fractions(text: str) -> dict[str, float]:
    """Read ``train=0.8,val=0.2``.

    Raises:
        ConfigError: not names with positive shares that sum to 1, each name once.
    """
    wanted = "wanted NAME=SHARE with commas between, the shares positive with the sum 1"
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, share = part.partition("=")
        name = name.strip()
        try:
            value = float(share)
        except ValueError:
            raise ConfigError(f"fractions {text!r}: {wanted}") from None
        if not name.replace("-", "").replace("_", "").isalnum() or name in found or value <= 0:
            raise ConfigError(f"fractions {text!r}: {wanted}")
        found[name] = value
    if abs(sum(found.values()) - 1) > 1e-6:
        raise ConfigError(f"fractions {text!r}: sum {sum(found.values()):g}, {wanted}")
    return found


def split_files(
    data: Path | str,
    out: Path | str,
    fractions: dict[str, float],
    *,
    group: str | None = None,
    by_time: bool = False,
    gap: float | None = None,
    seed: int = 0,
    pictures: Pictures = "none",
    images: Path | str | None = None,
    empty_is_verified: bool = False,
) -> SplitResult:
    """Split labelled data and write the parts.

    Splits that the data have are put together first. Without pictures, ``OUT/NAME.json`` (COCO) and
    ``OUT/NAME.txt`` name images by their path below the data's root; with them, ``OUT`` is a whole
    COCO dataset. ``left_out.txt`` lists the images between neighbours in time.

    Raises:
        ConfigError: contradictory options, or a pattern without a group.
        DataError: nothing recognised, ``out`` holds something, or too few groups.
    """
    if by_time and group is not None:
        raise ConfigError("by time and by group pattern at once: wanted one of them")
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(f"{target}: exists and is not empty, wanted a new folder")
    splits = load_splits(data, images=images, empty_is_verified=empty_is_verified)
    merged = _merged(splits, plain_path(data), None if images is None else plain_path(images))
    if by_time:
        result = split_by_time(merged, fractions, seed, gap=gap)
    else:
        result = split_by_group(merged, fractions, seed, group=group)
    if pictures != "none":
        convert(result.splits, target, "coco", link=pictures == "link")
    for name, dataset in result.splits.items():
        if pictures == "none":
            write_coco(dataset, target / f"{name}.json", images_root=merged.root)
        _list(target / f"{name}.txt", dataset)
    if result.left_out:
        _list(target / "left_out.txt", merged.with_records(result.left_out))
    return result


def _merged(splits: dict[str, Dataset], path: Path, images: Path | None) -> Dataset:
    """Return all images of all splits as one dataset, each file once, with the common root."""
    first = next(iter(splits.values()))
    seen = {record.path: record for ds in splits.values() for record in ds.records}
    roots = {dataset.root for dataset in splits.values()}
    root = first.root if len(roots) == 1 else images or path
    problems = tuple(problem for dataset in splits.values() for problem in dataset.problems)
    return Dataset(first.categories, tuple(seen.values()), root, problems)


def _list(path: Path, dataset: Dataset) -> None:
    names = [relative_name(record.path, dataset.root) for record in dataset.records]
    write_text(path, "".join(f"{name}\n" for name in names))
