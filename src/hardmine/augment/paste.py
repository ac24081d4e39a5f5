"""Pasting onto an image: objects of other images, patterns that gave alarms, and patches that occlude.

A part is cut out with some of its surroundings, over which it fades into the image it is laid on: an
edge that a detector could learn is thus avoided, and what the box holds stays whole.

Copy-paste lays boxed objects of other images, with their boxes. Alarm-paste lays patterns on which a
detector fired, cut from images that were confirmed to hold no object, beside objects: on its own a
hard negative only says that nothing is there; beside an object the network must separate the two in
one image. Occlusion lays patches over a part of an object, never over all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from hardmine.augment.sample import Donors, Rect, Sample, Source
from hardmine.data.images import Cover, Picture, read_picture
from hardmine.data.resize import Resize
from hardmine.errors import ConfigError, DataError
from hardmine.files import read_json, write_json
from hardmine.numpy_boxes import box_intersection
from hardmine.types import F32, F64, U8

_TRIALS = 10
_SMALLEST = 6.0
"""Canvas pixels: a smaller part shows nothing."""
_FOREIGN = 0.2
"""A part that shows more of another object than this would paste it without its box."""


@dataclass(frozen=True, slots=True)
class CopyPasteConfig:
    """Objects with their boxes, from other images or the same one."""

    probability: float = 0.0
    max_objects: int = 3
    """One to so many are tried."""
    same_image: float = 0.25
    """Probability that an object comes from the image itself (when it holds any)."""
    scale: tuple[float, float] = (0.6, 1.4)
    """The smallest and largest size, as a factor of the size in the object's own image."""
    max_side: float = 0.6
    """Largest side of a pasted object relative to the canvas."""
    feather: float = 0.12
    """Width of the faded edge around the box, relative to the box."""
    max_cover: float = 0.3
    """Largest share of another object that a pasted one may hide."""
    onto_empty: bool = False
    """Also onto images without objects, which then are none any more."""

    def __post_init__(self) -> None:
        check_paste("copy_paste", self.probability, self.scale, self.max_side, self.max_cover)
        if self.max_objects < 1 or not 0.0 <= self.feather <= 1.0:
            raise ConfigError(
                f"augment.copy_paste: got max_objects {self.max_objects}, feather {self.feather}, "
                "wanted max_objects >= 1, feather 0..1"
            )
        if not 0.0 <= self.same_image <= 1.0:
            raise ConfigError(f"augment.copy_paste.same_image: got {self.same_image}, wanted 0..1")


@dataclass(frozen=True, slots=True)
class AlarmPasteConfig:
    """Patches on which the detector fired, from confirmed negatives; nothing without a ``source``."""

    probability: float = 0.0
    """The probability for each image with objects."""
    source: str | None = None
    """A file of alarms (see :func:`read_alarms`), such as a loop's round writes."""
    max_patches: int = 2
    """One to so many are tried."""
    min_score: float = 0.0
    """Alarms below are left out."""
    min_share: float = 0.5
    """So are those below this share of their image's highest score."""
    scale: tuple[float, float] = (0.6, 1.4)
    """The smallest and largest size, as a factor of the size in the negative itself."""
    max_side: float = 0.5
    """Largest side of a patch relative to the canvas."""
    feather: float = 0.15
    """Width of the faded surroundings, relative to the box."""
    max_cover: float = 0.1
    """Largest share of any object that a patch, surroundings included, may hide."""

    def __post_init__(self) -> None:
        check_paste("alarm_paste", self.probability, self.scale, self.max_side, self.max_cover)
        if self.max_patches < 1 or not 0.0 <= self.feather <= 1.0:
            raise ConfigError(
                f"augment.alarm_paste: got max_patches {self.max_patches}, feather {self.feather}, "
                "wanted max_patches >= 1, feather 0..1"
            )
        if not 0.0 <= self.min_share <= 1.0:
            raise ConfigError(f"augment.alarm_paste.min_share: got {self.min_share}, wanted 0..1")


@dataclass(frozen=True, slots=True)
class Alarm:
    """A box on an image without objects: ``box`` xyxy in pixels of the image as displayed."""

    image: Path
    box: tuple[float, float, float, float]
    score: float


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A box of an image, to be pasted at ``width`` × ``height`` canvas pixels."""

    picture: Picture
    box: F64
    """xyxy, pixels of the picture."""
    width: float
    height: float
    feather: float

    def render(self) -> tuple[U8, F64, tuple[float, float, float, float]]:
        """Return the pixels u8[h, w, 3] with their surroundings, their opacity f64[h, w, 1], and how
        far those reach beyond the box: left, top, right, bottom, canvas pixels.
        """
        scale = np.array([self.width, self.height]) / (self.box[2:] - self.box[:2])
        margin = self.feather * (self.box[2:] - self.box[:2])
        low = np.maximum(self.box[:2] - margin, 0)
        high = np.minimum(self.box[2:] + margin, (self.picture.width, self.picture.height))
        wide, high_px = ((high - low) * scale).round().clip(1).astype(int).tolist()
        x0, y0, x1, y1 = np.concatenate([low, high]).tolist()
        pixels = np.asarray(self.picture.resize((wide, high_px), window=(x0, y0, x1, y1)))
        left, top = ((self.box[:2] - low) * scale).tolist()
        right, bottom = ((high - self.box[2:]) * scale).tolist()
        opacity = _ramp(high_px, top, bottom)[:, None, None] * _ramp(wide, left, right)[:, None]
        return pixels, opacity, (left, top, right, bottom)


def copy_paste(
    sample: Sample,
    config: CopyPasteConfig,
    resize: Resize,
    rng: np.random.Generator,
    donors: Donors | None,
) -> Sample:
    """Paste objects with their boxes onto the canvas; boxes that were there stay as they are."""
    if rng.random() >= config.probability or not (len(sample.boxes) or config.onto_empty):
        return sample
    original = sample
    for _ in range(int(rng.integers(1, config.max_objects + 1))):
        own = len(original.boxes) > 0 and rng.random() < config.same_image
        if own:
            source, scale = _as_source(original), np.ones(2)
        elif donors is not None:
            source = donors.draw(rng, objects=True, cover=sharper(resize.cover))
            placement = resize.place(source.picture.width, source.picture.height)
            scale = np.array([placement.scale_x, placement.scale_y])
        else:
            continue
        chosen = _choose_object(source, scale, config.feather, rng)
        if chosen is None:
            continue
        size = (source.boxes[chosen, 2:] - source.boxes[chosen, :2]) * scale
        size = limit_size(size * rng.uniform(*config.scale), sample, config.max_side)
        box = source.boxes[chosen].astype(np.float64)
        part = Part(source.picture, box, float(size[0]), float(size[1]), config.feather)
        pasted = paste_part(sample, part, config.max_cover, rng)
        if pasted is None:
            continue
        sample, place = pasted
        label, not_ignored = source.labels[chosen : chosen + 1], np.zeros(1, np.bool_)
        sample = sample.with_boxes(place[None], label, not_ignored)
    return sample


def alarm_paste(
    sample: Sample,
    config: AlarmPasteConfig,
    resize: Resize,
    rng: np.random.Generator,
    alarms: Sequence[Alarm],
) -> Sample:
    """Lay patches beside the objects of an image; its boxes stay as they are.

    Raises:
        DataError: an alarm's image cannot be read.
    """
    if rng.random() >= config.probability or not alarms or not len(sample.boxes):
        return sample
    for _ in range(int(rng.integers(1, config.max_patches + 1))):
        alarm = alarms[int(rng.integers(len(alarms)))]
        picture = read_picture(alarm.image, sharper(resize.cover))
        limit = (picture.width, picture.height) * 2
        box = np.array(alarm.box, np.float64).clip(0, limit)
        placement = resize.place(picture.width, picture.height)
        size = (box[2:] - box[:2]) * (placement.scale_x, placement.scale_y)
        if size.min() < 1:
            continue
        size = limit_size(size * rng.uniform(*config.scale), sample, config.max_side)
        part = Part(picture, box, float(size[0]), float(size[1]), config.feather)
        pasted = paste_part(sample, part, config.max_cover, rng, whole=True)
        if pasted is not None:
            sample = pasted[0]
    return sample


def paste_part(
    sample: Sample, part: Part, max_cover: float, rng: np.random.Generator, *, whole: bool = False
) -> tuple[Sample, F32] | None:
    """Lay a part where no box is hidden by more than ``max_cover``, earlier parts included.

    Args:
        whole: its faded surroundings count as hiding, too.

    Returns:
        The sample with it and the part's box f32[4]; None when no place was found.
    """
    x0, y0, x1, y1 = sample.area
    room = np.array([x1 - x0 - part.width, y1 - y0 - part.height])
    if room.min() < 0:
        return None
    for _ in range(_TRIALS):
        # Whole pixels, so that the box lies on what is pasted exactly.
        corner = np.floor(np.array([x0, y0]) + rng.random(2) * (room + 1)).clip(
            (x0, y0), (x1 - part.width, y1 - part.height)
        )
        box = np.concatenate([corner, corner + np.array([part.width, part.height])])
        reach = part.feather * np.array([-part.width, -part.height, part.width, part.height])
        loss = covered_share(sample.boxes, box + reach * whole)
        if ((loss == 0) | (sample.hidden_share + loss <= max_cover)).all():
            return sample.with_image(_blend(sample, part, box), loss), box.astype(np.float32)
    return None


def _blend(sample: Sample, part: Part, box: F64) -> U8:
    pixels, opacity, (left, top, _, _) = part.render()
    x, y = round(box[0] - left), round(box[1] - top)
    x0, y0, x1, y1 = sample.area
    low_x, low_y = max(x, x0), max(y, y0)
    high_x, high_y = min(x + pixels.shape[1], x1), min(y + pixels.shape[0], y1)
    inside = slice(low_y - y, high_y - y), slice(low_x - x, high_x - x)
    image = sample.image.copy()
    target = image[low_y:high_y, low_x:high_x]
    mixed = target + (pixels[inside].astype(np.float64) - target) * opacity[inside]
    image[low_y:high_y, low_x:high_x] = (mixed + 0.5).astype(np.uint8)
    return image


def _ramp(length: int, before: float, after: float) -> F64:
    """Return f64[length]: 1 in the middle, falling to 0 over the margins at both ends."""
    place = np.arange(length) + 0.5
    rise = place / max(before, 1e-9)
    fall = (length - place) / max(after, 1e-9)
    return np.asarray(np.minimum(np.minimum(rise, fall), 1.0))


def _choose_object(
    source: Source, scale: F64, feather: float, rng: np.random.Generator
) -> int | None:
    """Return a box that is large enough and whose part shows no other object, or None."""
    boxes = source.boxes.astype(np.float64)
    size = boxes[:, 2:] - boxes[:, :2]
    fit = ~source.ignore & ((size * scale).min(1) >= _SMALLEST)
    for index in np.flatnonzero(fit)[rng.permutation(int(fit.sum()))].tolist():
        margin = feather * size[index]
        part = boxes[index] + np.concatenate([-margin, margin])
        others = np.delete(source.boxes, index, axis=0)
        if (covered_share(others, part) <= _FOREIGN).all():
            return int(index)
    return None


def _as_source(sample: Sample) -> Source:
    picture = Picture.of(Image.fromarray(sample.image))
    return Source(picture, sample.boxes, sample.labels, sample.ignore)


def limit_size(size: F64, sample: Sample, max_side: float) -> F64:
    """Return a part's size, made smaller (aspect kept) when it would be too large for the image."""
    x0, y0, x1, y1 = sample.area
    limit = max_side * np.array([x1 - x0, y1 - y0])
    return np.asarray(size * min(1.0, float((limit / size).min())))


def sharper(cover: Cover) -> Cover:
    """Return twice as much: parts may be enlarged."""

    def twice(width: int, height: int) -> tuple[float, float]:
        """Return twice the size that ``cover`` wants."""
        wide, high = cover(width, height)
        return 2 * wide, 2 * high

    return twice


def read_alarms(path: Path) -> tuple[Alarm, ...]:
    """Read a list of ``{"image": …, "bbox": [x, y, width, height], "score": …}``.

    It is COCO's results form with the file instead of an image id; a relative ``image`` is looked for
    beside the file, further keys do not matter.

    Raises:
        DataError: no such file or not of that form; the entry is named.
    """
    try:
        rows = read_json(path)
    except DataError as error:
        raise DataError(f"{error}; not a readable file of alarms") from None
    if not isinstance(rows, list):
        raise DataError(f"{path}: got {type(rows).__name__}, wanted a list of alarms")
    return tuple(_alarm(row, path, index) for index, row in enumerate(rows))


def write_alarms(path: Path, alarms: Sequence[Alarm]) -> None:
    """Write what :func:`read_alarms` reads."""
    rows = []
    for alarm in alarms:
        x0, y0, x1, y1 = alarm.box
        bbox = [round(value, 2) for value in (x0, y0, x1 - x0, y1 - y0)]
        rows.append({"image": str(alarm.image), "bbox": bbox, "score": round(alarm.score, 6)})
    write_json(path, rows)


def load_alarms(config: AlarmPasteConfig) -> tuple[Alarm, ...]:
    """Return the alarms that a configuration asks for; none when it is switched off.

    Raises:
        DataError: see :func:`read_alarms`.
    """
    if config.source is None or config.probability == 0:
        return ()
    alarms = read_alarms(Path(config.source))
    best: dict[Path, float] = {}
    for alarm in alarms:
        best[alarm.image] = max(alarm.score, best.get(alarm.image, 0.0))
    return tuple(
        a for a in alarms if a.score >= max(config.min_score, config.min_share * best[a.image])
    )


def _alarm(row: Any, path: Path, index: int) -> Alarm:
    try:
        x, y, width, height = (float(value) for value in row["bbox"])
        image, score = Path(str(row["image"])), float(row.get("score", 1.0))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DataError(
            f"{path}[{index}]: got {row!r}, wanted image, bbox [x, y, width, height] and score"
        ) from None
    if not (width > 0 and height > 0 and np.isfinite([x, y, width, height]).all()):
        raise DataError(f"{path}[{index}]: bbox {row['bbox']}, wanted a width and height above 0")
    return Alarm(path.parent / image, (x, y, x + width, y + height), score)


def check_paste(
    name: str,
    probability: float,
    scale: tuple[float, float],
    max_side: float,
    max_cover: float,
) -> None:
    """Raise ConfigError when the settings that both kinds of pasting share are out of range."""
    if not 0.0 <= probability <= 1.0:
        raise ConfigError(f"augment.{name}.probability: got {probability}, wanted 0..1")
    if not 0.0 < scale[0] <= scale[1]:
        raise ConfigError(f"augment.{name}.scale: got {list(scale)}, wanted 0 < low <= high")
    if not 0.0 < max_side <= 1.0 or not 0.0 <= max_cover < 1.0:
        raise ConfigError(
            f"augment.{name}: got max_side {max_side}, max_cover {max_cover}, wanted "
            "0 < max_side <= 1, 0 <= max_cover < 1"
        )


Fill = Literal["noise", "mean", "image"]
_FILLS: tuple[Fill, ...] = ("noise", "mean", "image")
_PLACES_TRIED = 10


@dataclass(frozen=True, slots=True)
class OcclusionConfig:
    """Patches on boxes.

    What they show: noise, the canvas's fill colour, or another part of the same image.
    """

    probability: float = 0.0
    """The probability for each box."""
    min_cover: float = 0.1
    """Smallest and largest share of a box's area that a patch hides."""
    max_cover: float = 0.4
    """No box loses more than this in all, other patches and what was pasted before included."""
    fills: tuple[Fill, ...] = _FILLS

    def __post_init__(self) -> None:
        if not 0.0 <= self.probability <= 1.0:
            raise ConfigError(f"augment.occlusion.probability: got {self.probability}, wanted 0..1")
        if not 0.0 < self.min_cover <= self.max_cover < 1.0:
            raise ConfigError(
                f"augment.occlusion: got min_cover {self.min_cover}, max_cover {self.max_cover}, "
                "wanted 0 < min_cover <= max_cover < 1"
            )
        if not self.fills or not set(self.fills) <= set(_FILLS):
            raise ConfigError(
                f"augment.occlusion.fills: got {list(self.fills)}, wanted some of {list(_FILLS)}"
            )


def occlude(
    sample: Sample, config: OcclusionConfig, mean: tuple[int, int, int], rng: np.random.Generator
) -> Sample:
    """Lay at most one patch on each box; boxes, labels and their order stay.

    Args:
        mean: the colour of the fill "mean".
    """
    image, hidden = sample.image, np.zeros(len(sample.boxes))
    allowed = config.max_cover - sample.hidden_share + 1e-6
    for box in sample.boxes[rng.permutation(len(sample.boxes))]:
        if rng.random() >= config.probability:
            continue
        for _ in range(_PLACES_TRIED):
            patch = _draw_patch(box, config, rng)
            x0, y0, x1, y1 = patch
            loss = covered_share(sample.boxes, np.array(patch, np.float64))
            if min(x1 - x0, y1 - y0) < 1 or ((loss > 0) & (hidden + loss > allowed)).any():
                continue
            if image is sample.image:
                image = image.copy()
            fill = config.fills[int(rng.integers(len(config.fills)))]
            image[y0:y1, x0:x1] = _content(sample.image, patch, fill, mean, rng)
            hidden += loss
            break
    return sample if image is sample.image else sample.with_image(image, hidden)


def covered_share(boxes: F32, patch: F64) -> F64:
    """Return f64[N]: the share of each box's area (xyxy) that a patch f64[4] hides."""
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    hidden = box_intersection(boxes, patch[None])[:, 0]
    return np.asarray(hidden / np.maximum(area, 1e-9), np.float64)


def _draw_patch(box: F32, config: OcclusionConfig, rng: np.random.Generator) -> Rect:
    """Return a rectangle inside the box that hides the wanted share, in whole pixels."""
    share = rng.uniform(config.min_cover, config.max_cover)
    wide = rng.uniform(share, 1.0)  # of the box's width; the height follows
    width, height = (box[2] - box[0]) * wide, (box[3] - box[1]) * share / wide
    x = box[0] + rng.random() * (box[2] - box[0] - width)
    y = box[1] + rng.random() * (box[3] - box[1] - height)
    # Rounded inwards, so that no more is hidden than was drawn.
    return int(np.ceil(x)), int(np.ceil(y)), int(x + width), int(y + height)


def _content(
    image: U8, patch: Rect, fill: Fill, mean: tuple[int, int, int], rng: np.random.Generator
) -> U8:
    width, height = patch[2] - patch[0], patch[3] - patch[1]
    if fill == "noise":
        return rng.integers(0, 256, (height, width, 3), np.uint8)
    if fill == "mean":
        return np.broadcast_to(np.array(mean, np.uint8), (height, width, 3))
    x = int(rng.integers(image.shape[1] - width + 1))
    y = int(rng.integers(image.shape[0] - height + 1))
    return image[y : y + height, x : x + width]
