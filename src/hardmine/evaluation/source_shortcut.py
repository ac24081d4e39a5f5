"""The shortcut test: can positives and negatives be distinguished without the objects?

If they can, a detector may learn where a picture comes from instead of what the object looks like:
its alarms then fall on these negatives and on no others. The test is a logistic regression on features
of the source (size, encoding, colour, spectrum) of object-free crops of the positives against crops of
the negatives, cross-validated with near-duplicates always on one side.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import JpegImagePlugin

from hardmine.data.images import open_picture, read_image
from hardmine.data.splits.near_duplicates import group_duplicates, perceptual_hash
from hardmine.errors import DataError
from hardmine.evaluation.object_free_crops import CropWindow, object_free_crops
from hardmine.types import F64, I64, Dataset, ImageRecord

FAMILIES = ("size", "encoding", "colour", "spectrum")
BANDS = 20
"""Radial bands from 0 to half a cycle per pixel."""
TILE = 64
"""Side in pixels of the squares whose spectra are averaged."""
_TILES = 4
"""Most squares along each side of a crop."""
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
AUC_LIMIT = 0.7
"""The sources count as distinguishable when the lower 95 % limit of the AUC lies above this; 0.5 is
chance."""
MIN_GROUPS = 20
"""Groups of images that each side needs."""
MAX_IMAGES = 400
"""Images of each side that are looked at, chosen by the seed."""
MAX_PIXELS = 1_000_000
"""Pixels of a crop whose colours are measured, spread evenly over it."""
FOLDS = 5
DRAWS = 1000

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class FamilyResult:
    """How well one family of features (or ``all``) distinguishes positives from negatives, per image."""

    family: str
    auc: float
    low: float
    """95 % limits, by bootstrap over groups of near-duplicates."""
    high: float
    accuracy: float
    """Balanced: the mean of the shares recognised on either side."""


@dataclass(frozen=True, slots=True)
class ShortcutReport:
    """What `find_shortcut` measured.

    ``families`` begins with ``all`` and ends with ``pixels``, which is colour and spectrum: a detector
    sees neither the size nor the header of a file, only their effect on the pixels.
    """

    positives: int
    negatives: int
    families: tuple[FamilyResult, ...]

    @property
    def told_apart(self) -> bool:
        """True when a detector could learn the source instead of the object."""
        return any(family.low > AUC_LIMIT for family in self.families)

    def __str__(self) -> str:
        every, *single, pixels = self.families
        best = max(single, key=lambda family: family.auc)
        return (
            f"positives and negatives can be distinguished without the objects: AUC {every.auc:.2f} "
            f"(95 % {every.low:.2f}–{every.high:.2f}), {every.accuracy:.0%} right; {best.family} "
            f"alone {best.auc:.2f}, pixels alone {pixels.auc:.2f}. The detector may learn the "
            "source instead of the object: add negatives from the same source, and read alarms on "
            "object-free crops"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON knows it."""
        families = [asdict(family) for family in self.families]
        counts = {"positives": self.positives, "negatives": self.negatives}
        return {**counts, "told_apart": self.told_apart, "families": families}


@dataclass(frozen=True, slots=True)
class _Crop:
    side: int
    """1: of a positive."""
    image: Path
    hash: int
    features: tuple[F64, ...]
    """The features of each family, in the order of `FAMILIES`."""


def find_shortcut(
    positives: Dataset,
    negatives: Dataset,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> ShortcutReport | None:
    """Measure whether the sources of two datasets can be distinguished without the objects.

    Crops of the negatives are taken at the places of those of the positives, so that the place says
    nothing. Images that cannot be read are left out.

    Args:
        positives: only its labelled images are used, and of these the parts without objects.
        negatives: images without objects.

    Returns:
        None where either side has fewer than `MIN_GROUPS` groups of images to cut crops from.
    """
    crops = [*_positive_crops(positives, seed), *_negative_crops(positives, negatives, seed)]
    images = ({record.path for of, record, _ in crops if of == side} for side in (0, 1))
    if min(map(len, images)) < MIN_GROUPS:  # seen before any of them is read
        return None
    cut: list[_Crop] = []
    for done, (side, record, box) in enumerate(crops, start=1):
        crop = _measure(side, record, box)
        cut += [] if crop is None else [crop]
        if progress is not None:
            progress(done, len(crops))
    sides = np.array([crop.side for crop in cut], np.int64)
    groups = np.array(group_duplicates([crop.hash for crop in cut]), np.int64)
    if min(len(np.unique(groups[sides == side])) for side in (0, 1)) < MIN_GROUPS:
        return None
    names = [str(crop.image) for crop in cut]
    _, image = np.unique(names, return_inverse=True)
    parts = {name: np.stack([c.features[i] for c in cut]) for i, name in enumerate(FAMILIES)}
    pixels = np.concatenate([parts["colour"], parts["spectrum"]], axis=1)
    tables = {"all": np.concatenate(list(parts.values()), axis=1), **parts, "pixels": pixels}
    results = tuple(_judge(n, table, sides, groups, image, seed) for n, table in tables.items())
    count = [len({n for n, s in zip(names, sides, strict=True) if s == side}) for side in (1, 0)]
    return ShortcutReport(count[0], count[1], results)


Crop = tuple[int, ImageRecord, tuple[int, int, int, int]]


def _positive_crops(positives: Dataset, seed: int) -> Iterable[Crop]:
    chosen = positives.with_records(_sample(positives.records, seed))
    for window in object_free_crops(chosen, seed):
        record = chosen.records[window.position]
        yield 1, record, (window.left, window.top, window.right, window.bottom)


def _negative_crops(positives: Dataset, negatives: Dataset, seed: int) -> Iterable[Crop]:
    """Take the windows of the positives, as shares of the image, from the negatives."""
    windows = object_free_crops(positives, seed)
    generator = np.random.default_rng((seed, 1))
    for record in _sample(negatives.records, seed) if windows else ():
        window = windows[int(generator.integers(len(windows)))]
        yield 0, record, _scaled_window(window, positives.records[window.position], record)


def _scaled_window(
    window: CropWindow, source: ImageRecord, target: ImageRecord
) -> tuple[int, int, int, int]:
    x, y = target.width / source.width, target.height / source.height
    left, top = int(window.left * x), int(window.top * y)
    right, bottom = round(window.right * x), round(window.bottom * y)
    return left, top, max(left + 1, right), max(top + 1, bottom)


def _sample(records: Sequence[ImageRecord], seed: int) -> list[ImageRecord]:
    if len(records) <= MAX_IMAGES:
        return list(records)
    chosen = np.random.default_rng((seed, 2)).choice(len(records), MAX_IMAGES, replace=False)
    return [records[index] for index in sorted(chosen.tolist())]


def _measure(side: int, record: ImageRecord, box: tuple[int, int, int, int]) -> _Crop | None:
    try:
        picture = read_image(record.path)
        encoding = encoding_features(record.path)
    except (DataError, OSError):
        return None
    pixels = np.asarray(picture.crop(box))
    found: Mapping[str, F64] = {
        "size": size_features(*picture.size),
        "encoding": encoding,
        "colour": colour_features(pixels),
        "spectrum": spectrum_features(pixels),
    }
    return _Crop(
        side, record.path, perceptual_hash(picture), tuple(found[name] for name in FAMILIES)
    )


def cross_validate(table: F64, sides: I64, groups: I64, seed: int = 0) -> F64:
    """Return each row's log odds of side 1 from a model that was not trained on its group.

    Args:
        table (f64[N, K]): features, scaled inside.
        sides (i64[N]): 0 or 1.
        groups (i64[N]): rows of one group are never on both sides of a fold.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    odds = np.zeros(len(sides))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    for train, test in folds.split(table, sides, groups):
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", max_iter=1000)
        )
        model.fit(table[train], sides[train])
        odds[test] = model.decision_function(table[test])
    return odds


def area_under_curve(odds: F64, sides: I64) -> float:
    """Return the share of (side 1, side 0) pairs in which side 1 has the higher odds; ties half."""
    _, inverse, counts = np.unique(odds, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # mean rank, from 1
    ones = int((sides == 1).sum())
    zeros = len(sides) - ones
    return float((rank[sides == 1].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def _judge(name: str, table: F64, sides: I64, groups: I64, image: I64, seed: int) -> FamilyResult:
    odds = cross_validate(table, sides, groups, seed)
    of_image = np.bincount(image, odds) / np.bincount(image)
    side, group = np.zeros(len(of_image), np.int64), np.zeros(len(of_image), np.int64)
    side[image], group[image] = sides, groups
    right = (of_image > 0) == (side == 1)
    accuracy = float(np.mean([right[side == value].mean() for value in (0, 1)]))
    low, high = _interval(of_image, side, group, seed)
    return FamilyResult(name, area_under_curve(of_image, side), low, high, accuracy)


def _interval(odds: F64, sides: I64, groups: I64, seed: int) -> tuple[float, float]:
    """Return 95 % limits of the AUC: groups drawn with replacement, each side apart."""
    generator = np.random.default_rng(seed)
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    times = np.zeros((DRAWS, len(first)))
    for value in (0, 1):
        members = np.flatnonzero(sides[first] == value)
        share = np.full(len(members), 1 / len(members))
        times[:, members] = generator.multinomial(len(members), share, DRAWS)
    values = _weighted_auc(odds, sides, times[:, group])
    low, high = np.percentile(values, [2.5, 97.5]).tolist()
    return low, high


def _weighted_auc(odds: F64, sides: I64, weights: F64) -> F64:
    """Return `area_under_curve` [D] with each row counted ``weights`` (f64[D, N]) times."""
    order = np.argsort(odds, kind="stable")
    starts = np.flatnonzero(np.diff(odds[order], prepend=-np.inf))
    ones, zeros = (
        np.add.reduceat((weights * (sides == value))[:, order], starts, axis=1) for value in (1, 0)
    )
    below = np.cumsum(zeros, axis=1) - zeros / 2
    area: F64 = (ones * below).sum(axis=1) / (ones.sum(axis=1) * zeros.sum(axis=1))
    return area


def size_features(width: int, height: int) -> F64:
    """Return logs of the sides and the aspect ratio of an image, and which side is longer, [6]."""
    longer, shorter = max(width, height), min(width, height)
    logs = np.log([width, height, longer, shorter])
    return np.array([*logs, logs[2] - logs[3], float(width > height)])


def encoding_features(path: Path) -> F64:
    """Return format, quantisation, subsampling and metadata from the file's header, [20].

    Raises:
        OSError: the file cannot be opened as an image.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with open_picture(path) as image:
            tables = getattr(image, "quantization", None) or {}
            luma, chroma = _table(tables, 0), _table(tables, 1)
            sampling = JpegImagePlugin.get_sampling(image) if image.format == "JPEG" else -1
            marks = (
                *(image.format == name for name in _FORMATS),
                *(sampling == value for value in (0, 1, 2)),
                "progressive" in image.info,
                "exif" in image.info,
                "icc_profile" in image.info,
                "jfif" in image.info,
                image.mode == "L",
            )
    return np.array([*map(float, marks), *luma, *chroma])


def colour_features(pixels: NDArray[np.uint8]) -> F64:
    """Return means and spreads of the colours of a crop (u8[H, W, 3]), [12].

    Of a crop with more than `MAX_PIXELS` every second, third … pixel of each second, third … row counts.
    """
    step = math.ceil(math.sqrt(pixels.shape[0] * pixels.shape[1] / MAX_PIXELS))
    rgb = pixels[::step, ::step].reshape(-1, 3).astype(np.float64) / 255
    luma = rgb @ np.array([0.299, 0.587, 0.114])
    chroma = rgb[:, [2, 0]] - luma[:, None]
    saturation = rgb.max(axis=1) - rgb.min(axis=1)
    columns = np.column_stack([rgb, chroma, saturation])
    return np.concatenate([columns.mean(axis=0), columns.std(axis=0)])


def spectrum_features(pixels: NDArray[np.uint8]) -> F64:
    """Return the log power of a crop's brightness in `BANDS` radial bands, at its own resolution.

    Squares of `TILE` pixels, spread over the crop (u8[H, W, 3]), are weighted by a Hann window and
    their power is averaged; a crop smaller than that is continued by reflection.
    """
    luma = pixels.astype(np.float64) @ np.array([0.299, 0.587, 0.114]) / 255
    short = [(0, max(0, TILE - side)) for side in luma.shape]
    luma = np.pad(luma, short, mode="reflect" if min(luma.shape) > 1 else "edge")
    window = np.hanning(TILE)[:, None] * np.hanning(TILE)[None, :]
    power = np.zeros((TILE, TILE))
    starts = [_spread(side) for side in luma.shape]
    for top in starts[0]:
        for left in starts[1]:
            tile = luma[top : top + TILE, left : left + TILE]
            power += np.abs(np.fft.fft2((tile - tile.mean()) * window)) ** 2
    radius = np.hypot(np.fft.fftfreq(TILE)[:, None], np.fft.fftfreq(TILE)[None, :])
    band = np.minimum((radius / 0.5 * BANDS).astype(np.int64), BANDS).ravel()  # corners: last, cut
    total = np.bincount(band, power.ravel(), BANDS + 1)[:BANDS]
    count = np.bincount(band, minlength=BANDS + 1)[:BANDS]
    return np.log(total / count / (len(starts[0]) * len(starts[1])) + 1e-6)


def _spread(side: int) -> list[int]:
    """Return where the squares begin along a side."""
    number = min(_TILES, side // TILE)
    return np.linspace(0, side - TILE, number).astype(int).tolist() if number > 1 else [0]


def _table(tables: dict[int, Any], index: int) -> list[float]:
    """Return log means of a quantisation table: all, the finest and the coarsest quarter, the first."""
    values = np.array(tables.get(index, ()), np.float64)
    if len(values) != 64:
        return [0.0, 0.0, 0.0, 0.0]
    logs = np.log(np.maximum(values, 1))
    return [float(logs.mean()), float(logs[:16].mean()), float(logs[48:].mean()), float(logs[0])]
