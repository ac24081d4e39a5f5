"""Alarm-paste: patterns on which a detector fired wrongly, laid beside objects.

On its own a hard negative only says that nothing is there; beside an object the network must tell the
two apart in one image. The patterns are cut from images that were confirmed to hold no object.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hardmine.augment.paste import Part, check_paste, limit_size, paste_part, sharper
from hardmine.augment.sample import Sample
from hardmine.data.images import read_picture
from hardmine.data.resize import Resize
from hardmine.errors import ConfigError, DataError
from hardmine.files import write_json


@dataclass(frozen=True, slots=True)
class AlarmPasteConfig:
    """Patches on which the detector fired, from confirmed negatives; nothing without a ``source``."""

    probability: float = 0.0
    """Of each image with objects."""
    source: str | None = None
    """A file of alarms (see :func:`read_alarms`), such as a loop's round writes."""
    max_patches: int = 2
    """One to so many are tried."""
    min_score: float = 0.0
    """Alarms below are left out."""
    min_share: float = 0.5
    """So are those below this share of their image's highest score."""
    scale: tuple[float, float] = (0.6, 1.4)
    """Of the size at which the negative itself would show it."""
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


def read_alarms(path: Path) -> tuple[Alarm, ...]:
    """Read a list of ``{"image": …, "bbox": [x, y, width, height], "score": …}``.

    It is COCO's results form with the file instead of an image id; a relative ``image`` is looked for
    beside the file, further keys do not matter.

    Raises:
        DataError: no such file or not of that form; the entry is named.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable file of alarms ({error})") from None
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
