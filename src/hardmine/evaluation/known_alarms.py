"""The regression set of false alarms: those that a person confirmed, and how many fire again.

An alarm fires again when the detector, at its threshold, has a detection of any class at the same place
of the same image. Every image of the set was confirmed to hold no object, so that whatever it says there
is wrong again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hardmine.detections import Detections
from hardmine.numpy_boxes import box_iou
from hardmine.types import NamedBox

SAME_PLACE = 0.5
"""IoU from which a detection lies where a known alarm lay, inclusive."""


@dataclass(frozen=True, slots=True)
class KnownAlarms:
    """Confirmed alarms: the boxes that were seen on each image, by the image's name in its pool."""

    boxes: Mapping[str, tuple[NamedBox, ...]]

    def __len__(self) -> int:
        return sum(len(boxes) for boxes in self.boxes.values())


@dataclass(frozen=True, slots=True)
class RepeatedAlarms:
    """How many known alarms fire again.

    Attributes:
        score_threshold: where detections count; None when the detector has no threshold.
        alarms, images: of the set, as far as its images can be read.
        again: alarms that fire again; None without a threshold.
        again_images: the images on which one does, hardest first.
        unreadable: images that are gone or have changed, each with the reason.
    """

    score_threshold: float | None
    alarms: int
    images: int
    again: int | None
    again_images: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        if self.again is None:
            return (
                f"{self.alarms} known alarms cannot be counted: recall is not reached at any score"
            )
        return (
            f"{self.again} of {self.alarms} known alarms fire again, on {len(self.again_images)} of "
            f"{self.images} images, from score {self.score_threshold:.3f} on"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as JSON holds them."""
        return {
            "score_threshold": self.score_threshold,
            "alarms": self.alarms,
            "images": self.images,
            "again": self.again,
            "again_images": list(self.again_images),
            "unreadable": list(self.unreadable),
        }


def count_repeated(
    known: KnownAlarms,
    found: Mapping[str, Detections],
    score_threshold: float | None,
    unreadable: Sequence[str] = (),
) -> RepeatedAlarms:
    """Count the known alarms that fire again.

    Args:
        found: the detections on each image of the set that can be read.
    """
    boxes = {image: known.boxes[image] for image in found}
    alarms = sum(map(len, boxes.values()))
    if score_threshold is None:
        return RepeatedAlarms(None, alarms, len(boxes), None, (), tuple(unreadable))
    again = 0
    firing: list[tuple[float, str]] = []
    for image, seen in boxes.items():
        now = found[image].at_least(score_threshold)
        places = np.array([box.box for box in seen], np.float32).reshape(-1, 4)
        overlap = box_iou(places, now.boxes) >= SAME_PLACE  # [N, K]
        count = int(overlap.any(axis=1).sum())
        again += count
        if count:
            firing.append((-float(now.scores[overlap.any(axis=0)].max()), image))
    images = tuple(image for _, image in sorted(firing))
    return RepeatedAlarms(score_threshold, alarms, len(boxes), again, images, tuple(unreadable))
