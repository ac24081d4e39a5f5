"""Data sets on which defaults are judged: made by seed from the real data and from the drawn world.

    python -m benchmarks.trial_sets OUT [--seed N] [--only NAME …]

A default that was tuned on one set often fails on the next, so there are thirteen of different kinds:

- ``raccoon``, ``cards``: the real sets, all labelled images;
- ``raccoon40``: 40 labelled raccoon images;
- ``cards8``: cards with 8 images per class;
- ``sheets``: 3 x 3 photographs of cards on one canvas (dense, small objects), and negatives alike;
- ``fridge60``: the drawn world, 60 labelled images and a pool of the nearest look-alikes;
- ``fridge_small``: the drawn world with items a third as large;
- ``fridge_rare``: the drawn world with one class ten times rarer, and smaller, than the others;
- ``smear``: drawn blood smears of 640 x 480: many overlapping red cells, one large white cell and about
  one platelet per image, which is small and rare; pool and negatives show bubbles, stain and folds;
- ``crowd``: two to five half-hidden raccoons per image, cut from photographs, between other cut-outs on
  other photographs; pool and negatives are such images without raccoons;
- ``crowd_regions``: the same images, of whose training part only the largest raccoon is labelled and the
  others lie in one region to be ignored (``iscrowd``);
- ``tiles``: four photographs side by side, most with raccoons, cut off by the edges of their tiles;
- ``signs``: small signs with one of six letters on photographs; pool and negatives show other letters.

Each is a folder with ``train.coco.json``, ``val.coco.json``, ``pool/`` and ``negatives/``. The real ones
need the data named by HARDMINE_DATA; their images are copied, ``--longest`` pixels on the longer side.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.drawn.crowd import CROWD_CLASSES, CutOuts, draw_crowd, raccoons_of
from benchmarks.drawn.signs import SIGN_CLASSES, draw_signs
from benchmarks.drawn.smear import SMEAR_CLASSES, draw_smear
from benchmarks.drawn.tiles import draw_tiles
from hardmine import load_dataset
from hardmine.data.formats.coco_writing import write_coco
from hardmine.data.splits.split import split_dataset
from hardmine.demo.items import CATEGORIES, CLUTTER, HELD_OUT_ONLY, LOOK_ALIKES, TARGETS, Family
from hardmine.demo.world import Scene, SceneKind, draw_scene
from hardmine.types import Dataset, ImageRecord, ImageState

DATA = Path(os.environ.get("HARDMINE_DATA", "../shared/data"))
POOL, HELD_OUT = 600, 300
"""Images of a set's pool and of its held-out negatives."""
SHEET = 3
"""Photographs per row and column of a sheet."""
DRAWN_VAL = 200


@dataclass(frozen=True)
class TrialSet:
    """Where a set lies, and how many held-out images are drawn for it."""

    name: str
    folder: Path
    held_out: int = HELD_OUT

    @property
    def train(self) -> Path:
        return self.folder / "train.coco.json"

    @property
    def val(self) -> Path:
        return self.folder / "val.coco.json"

    @property
    def pool(self) -> Path:
        return self.folder / "pool"

    @property
    def negatives(self) -> Path:
        return self.folder / "negatives"


Shot = tuple[Image.Image, list[list[float]], list[int]]
"""A picture with its boxes (xyxy, pixels) and labels (1..C)."""


def make_set(
    name: str, out: Path, seed: int = 0, longest: int = 500, held_out: int = HELD_OUT
) -> TrialSet:
    """Make a set in ``out/name``, or find it there, with so many held-out images.

    Drawn sets have as many as one likes, sheets half as many, sets of photographs up to 900.
    """
    made = TrialSet(name, out / name, held_out)
    if not (made.folder / "done").exists():
        MAKERS[name](made, seed, longest)
        (made.folder / "done").touch()
    return made


def _raccoon(made: TrialSet, seed: int, longest: int, labelled: int | None = None) -> None:
    whole = load_dataset(DATA / "raccoon")
    parts = split_dataset(whole, {"train": 0.7, "val": 0.3}, seed=seed)
    train, val = parts["train"], parts["val"]
    if labelled is not None:
        order = np.random.default_rng(seed).permutation(len(train))[:labelled]
        train = train.subset(sorted(order.tolist()))
    _write_real(made, {"train": train, "val": val}, seed, longest)


def _cards(made: TrialSet, seed: int, longest: int, per_class: int | None = None) -> None:
    train = load_dataset(DATA / "cards/train")
    val = load_dataset(DATA / "cards/test", categories=train.categories)
    if per_class is not None:
        train = train.subset(_some_of_each(train, per_class, seed))
    _write_real(made, {"train": train, "val": val}, seed, longest)


def _some_of_each(data: Dataset, per_class: int, seed: int) -> list[int]:
    """Return images such that each class is in at least so many (fewer where there are fewer)."""
    order = np.random.default_rng(seed).permutation(len(data)).tolist()
    count = np.zeros(len(data.categories) + 1, np.int64)
    chosen = []
    for index in order:
        labels = set(data.records[index].labels.tolist())
        if any(count[label] < per_class for label in labels):
            chosen.append(index)
            for label in labels:
                count[label] += 1
    return sorted(chosen)


def _write_real(made: TrialSet, parts: dict[str, Dataset], seed: int, longest: int) -> None:
    for name, part in parts.items():
        _write(made, name, part.categories, (_shot(r, longest) for r in part.records))
    held_out = _pick("negatives/held_out", made.held_out, seed)
    # There are 500; whoever wants more gets photographs that the set's pool does not have.
    held_out += _pick("negatives/pool", made.held_out - len(held_out), seed, first=POOL)
    for folder, paths in (
        (made.pool, _pick("negatives/pool", POOL, seed)),
        (made.negatives, held_out),
    ):
        _save_all(folder, (_shrunk(path, longest) for path in paths))


def _pick(source: str, count: int, seed: int, first: int = 0) -> list[Path]:
    paths = sorted((DATA / source).rglob("*.jpg"))
    order = np.random.default_rng(seed).permutation(len(paths))[first : first + count]
    return [paths[index] for index in sorted(order.tolist())]


def _shot(record: ImageRecord, longest: int) -> Shot:
    image = _shrunk(record.path, longest)
    kept = ~record.ignore
    boxes = record.boxes[kept] * (image.width / record.width)
    return image, boxes.tolist(), record.labels[kept].tolist()


def _shrunk(path: Path, longest: int) -> Image.Image:
    with Image.open(path) as image:
        image = image.convert("RGB")
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
        return image


def _sheets(made: TrialSet, seed: int, longest: int) -> None:
    """Sheets of photographs: as many objects as nine images hold, each a third as large."""
    del longest
    train = load_dataset(DATA / "cards/train")
    val = load_dataset(DATA / "cards/test", categories=train.categories)
    for name, data, count in (("train", train, 120), ("val", val, 40)):
        rng = np.random.default_rng((seed, len(data)))
        _write(made, name, data.categories, (_sheet(data.records, rng) for _ in range(count)))
    for folder, source, number, count in (
        (made.pool, "negatives/pool", 300, POOL // 2),
        (made.negatives, "negatives/held_out", 150, made.held_out // 2),
    ):
        paths = sorted((DATA / source).rglob("*.jpg"))
        rng = np.random.default_rng((seed, number))
        empty = [ImageRecord.empty(p, 1, 1, ImageState.ASSUMED_EMPTY) for p in paths]
        _save_all(folder, (_sheet(empty, rng)[0] for _ in range(count)))


def _sheet(records: Sequence[ImageRecord], rng: np.random.Generator) -> Shot:
    cell_w, cell_h = 213, 160  # 640 x 480 in all, as a common camera gives
    canvas = Image.new("RGB", (SHEET * cell_w, SHEET * cell_h), (96, 96, 96))
    boxes: list[list[float]] = []
    labels: list[int] = []
    for place, index in enumerate(rng.integers(0, len(records), SHEET * SHEET).tolist()):
        record = records[index]
        with Image.open(record.path) as image:
            image = image.convert("RGB")
            scale = min(cell_w / image.width, cell_h / image.height)
            small = image.resize(
                (max(1, round(image.width * scale)), max(1, round(image.height * scale))),
                Image.Resampling.LANCZOS,
            )
        left = (place % SHEET) * cell_w + (cell_w - small.width) // 2
        top = (place // SHEET) * cell_h + (cell_h - small.height) // 2
        canvas.paste(small, (left, top))
        moved = record.boxes[~record.ignore] * scale + np.array([left, top, left, top])
        boxes += moved.tolist()
        labels += record.labels[~record.ignore].tolist()
    return canvas, boxes, labels


def _scaled(families: Sequence[Family], factor: float) -> tuple[Family, ...]:
    return tuple(
        replace(family, height=(family.height[0] * factor, family.height[1] * factor))
        for family in families
    )


def _fridge60(made: TrialSet, seed: int, longest: int) -> None:
    del longest
    labelled = SceneKind(((TARGETS, 0.45), (CLUTTER, 0.25)), objects=True)
    pool = SceneKind(((LOOK_ALIKES, 0.6), (CLUTTER, 0.1)), objects=False)
    held = SceneKind(((LOOK_ALIKES, 0.45), (HELD_OUT_ONLY, 0.15), (CLUTTER, 0.1)), objects=False)
    _write_drawn(made, seed, labelled, pool, held, 60)


def _fridge_small(made: TrialSet, seed: int, longest: int) -> None:
    del longest
    third = 1 / 3
    small, alike = _scaled(TARGETS, third), _scaled(LOOK_ALIKES, third)
    labelled = SceneKind(((small, 0.45), (_scaled(CLUTTER, 0.5), 0.25)), objects=True)
    pool = SceneKind(((alike, 0.5), (_scaled(CLUTTER, 0.5), 0.2)), objects=False)
    held = SceneKind(
        ((alike, 0.39), (_scaled(HELD_OUT_ONLY, third), 0.11), (_scaled(CLUTTER, 0.5), 0.2)),
        objects=False,
    )
    _write_drawn(made, seed, labelled, pool, held, 150)


def _fridge_rare(made: TrialSet, seed: int, longest: int) -> None:
    del longest
    rare = _scaled(TARGETS[2:3], 0.5)
    others = (*TARGETS[:2], TARGETS[3])
    labelled = SceneKind(((others, 0.435), (rare, 0.0145), (CLUTTER, 0.25)), objects=True)
    pool = SceneKind(((LOOK_ALIKES, 0.5), (CLUTTER, 0.2)), objects=False)
    held = SceneKind(((LOOK_ALIKES, 0.39), (HELD_OUT_ONLY, 0.11), (CLUTTER, 0.2)), objects=False)
    _write_drawn(made, seed, labelled, pool, held, 200)


def _smear(made: TrialSet, seed: int, longest: int) -> None:
    del longest
    for number, (name, size) in enumerate((("train", 205), ("val", 87))):
        shots = (
            draw_smear(np.random.default_rng((seed, number, i)), cells=True) for i in range(size)
        )
        _write(made, name, SMEAR_CLASSES, shots)
    for number, (folder, size) in enumerate(
        ((made.pool, POOL), (made.negatives, made.held_out)), 2
    ):
        rng = (np.random.default_rng((seed, number, index)) for index in range(size))
        _save_all(folder, (draw_smear(r, cells=False)[0] for r in rng))


def _crowd(made: TrialSet, seed: int, longest: int) -> None:
    """Crowds of cut-outs."""
    del longest

    def draw(rng: np.random.Generator, records: Sequence[ImageRecord], empty: list[Path]) -> Shot:
        return draw_crowd(rng, CutOuts(raccoons_of(records), empty))

    _composed(made, seed, [300, 400, 700], CROWD_CLASSES, draw)


def _crowd_regions(made: TrialSet, seed: int, longest: int) -> None:
    """Crowds in which most raccoons are not labelled one by one."""
    _crowd(made, seed, longest)
    train = load_dataset(made.train)
    write_coco(train.with_records([_with_region(record) for record in train.records]), made.train)


def _with_region(record: ImageRecord) -> ImageRecord:
    """Keep the label of the largest object and put all others into one region to be ignored."""
    largest = int((record.boxes[:, 2:] - record.boxes[:, :2]).prod(axis=1).argmax())
    others = np.delete(record.boxes, largest, axis=0)
    if not len(others):
        return record
    region = np.concatenate([others[:, :2].min(axis=0), others[:, 2:].max(axis=0)])
    boxes = np.stack([record.boxes[largest], region])
    return replace(
        record,
        boxes=boxes,
        labels=record.labels[[largest, largest]],
        ignore=np.array([False, True]),
    )


def _tiles(made: TrialSet, seed: int, longest: int) -> None:
    """Photographs of raccoons and others side by side."""
    del longest
    _composed(made, seed, [150, 250, 650], CROWD_CLASSES, draw_tiles)


def _signs(made: TrialSet, seed: int, longest: int) -> None:
    """Letters on small signs."""
    del longest

    def draw(rng: np.random.Generator, records: Sequence[ImageRecord], empty: list[Path]) -> Shot:
        return draw_signs(rng, empty, labelled=bool(records))

    _composed(made, seed, [200, 300, 700], SIGN_CLASSES, draw)


def _composed(
    made: TrialSet,
    seed: int,
    places: list[int],
    names: Sequence[str],
    draw: Callable[[np.random.Generator, Sequence[ImageRecord], list[Path]], Shot],
) -> None:
    """Write images made of photographs; each part of the set has raccoons and photographs of its own.

    Args:
        places: where the photographs without raccoons are divided among the parts.
        draw: makes an image of labelled photographs (none for an empty image) and empty ones.
    """
    parts = split_dataset(load_dataset(DATA / "raccoon"), {"train": 0.7, "val": 0.3}, seed=seed)
    photographs = _pick("negatives/pool", 1000, seed)
    order = np.random.default_rng((seed, len(photographs))).permutation(len(photographs)).tolist()
    shares = np.array_split([photographs[index] for index in order], places)

    def shots(number: int, size: int, records: Sequence[ImageRecord]) -> Iterator[Shot]:
        for index in range(size):
            rng = np.random.default_rng((seed, number, index))
            yield draw(rng, records, shares[number].tolist())

    for number, (name, size) in enumerate((("train", 115), ("val", 80))):
        _write(made, name, names, shots(number, size, parts[name].records))
    for number, (folder, size) in enumerate(
        ((made.pool, POOL), (made.negatives, made.held_out)), 2
    ):
        _save_all(folder, (shot[0] for shot in shots(number, size, ())))


def _write_drawn(
    made: TrialSet, seed: int, labelled: SceneKind, pool: SceneKind, held: SceneKind, count: int
) -> None:
    for number, (name, size) in enumerate((("train", count), ("val", DRAWN_VAL))):
        scenes = (_drawn(labelled, (seed, number, index)) for index in range(size))
        shots = (
            (Image.fromarray(scene.image), scene.boxes.tolist(), scene.labels.tolist())
            for scene in scenes
        )
        _write(made, name, CATEGORIES, shots)
    for number, (folder, kind, size) in enumerate(
        ((made.pool, pool, POOL), (made.negatives, held, made.held_out)), 2
    ):
        _save_all(
            folder,
            (Image.fromarray(_drawn(kind, (seed, number, i)).image) for i in range(size)),
        )


def _drawn(kind: SceneKind, key: tuple[int, int, int]) -> Scene:
    return draw_scene(np.random.default_rng(key), kind)


def _write(made: TrialSet, split: str, names: Sequence[str], shots: Iterator[Shot]) -> None:
    folder = made.folder / split
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for index, (image, boxes, labels) in enumerate(shots):
        path = folder / f"{split}-{index:04d}.jpg"
        image.save(path, quality=88)
        records.append(
            ImageRecord(
                path,
                image.width,
                image.height,
                np.array(boxes, np.float32).reshape(-1, 4),
                np.array(labels, np.int64),
                np.zeros(len(labels), np.bool_),
                ImageState.LABELLED if labels else ImageState.VERIFIED_EMPTY,
            )
        )
    write_coco(
        Dataset(tuple(names), tuple(records), made.folder), made.folder / f"{split}.coco.json"
    )


def _save_all(folder: Path, images: Iterator[Image.Image]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images):
        image.save(folder / f"{index:04d}.jpg", quality=88)


MAKERS: dict[str, Callable[[TrialSet, int, int], None]] = {
    "raccoon": _raccoon,
    "cards": _cards,
    "raccoon40": lambda made, seed, longest: _raccoon(made, seed, longest, labelled=40),
    "cards8": lambda made, seed, longest: _cards(made, seed, longest, per_class=8),
    "sheets": _sheets,
    "fridge60": _fridge60,
    "fridge_small": _fridge_small,
    "fridge_rare": _fridge_rare,
    "smear": _smear,
    "crowd": _crowd,
    "crowd_regions": _crowd_regions,
    "tiles": _tiles,
    "signs": _signs,
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=int, default=500)
    parser.add_argument("--only", nargs="*", choices=list(MAKERS), default=list(MAKERS))
    given = parser.parse_args(argv)
    for name in given.only:
        made = make_set(name, given.out, given.seed, given.longest)
        train = load_dataset(made.train)
        print(
            f"{name}: {len(train)} training images, {sum(len(r.boxes) for r in train.records)} objects"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
