"""The values that flow between the layers.

Boxes are xyxy float pixels everywhere inside the package; every other form carries its form in its
name. Label 0 is background, so ``categories[label - 1]`` names a label. Records and detections are
numpy (they cross process, file and report borders), batches and raw outputs are torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hardmine.finding_kinds import FindingKind

if TYPE_CHECKING:
    from torch import Tensor

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]
Mask = NDArray[np.bool_]


class ImageState(StrEnum):
    """What is known about an image; "not looked at" and "verified empty" are different things."""

    LABELLED = "labelled"
    VERIFIED_EMPTY = "verified_empty"
    """A person looked and found no object."""
    ASSUMED_EMPTY = "assumed_empty"
    """Taken as empty on the user's word for a whole pool (``--accept auto``)."""
    UNREVIEWED = "unreviewed"
    CONTAINS_OBJECT = "contains_object"
    """Holds an object that is not labelled yet: neither a negative nor a training image."""
    IGNORED = "ignored"

    @property
    def is_negative(self) -> bool:
        """True when the image may be trained on and counted as one without objects."""
        return self in (ImageState.VERIFIED_EMPTY, ImageState.ASSUMED_EMPTY)

    @property
    def is_trainable(self) -> bool:
        """True when the image's labels (or their absence) can be relied on."""
        return self is ImageState.LABELLED or self.is_negative


@dataclass(frozen=True, slots=True, eq=False)
class ImageRecord:
    """One image and what is known about it.

    ``boxes`` f32[N, 4] xyxy pixels of the image *as displayed* (EXIF orientation applied), ``labels``
    i64[N] in 1..C, ``ignore`` bool[N] (difficult, crowd). ``source`` names where it came from.
    """

    path: Path
    width: int
    height: int
    boxes: F32
    labels: I64
    ignore: Mask
    state: ImageState
    source: str = ""

    @staticmethod
    def empty(
        path: Path, width: int, height: int, state: ImageState, source: str = ""
    ) -> ImageRecord:
        """Return a record without boxes."""
        return ImageRecord(
            path,
            width,
            height,
            np.zeros((0, 4), np.float32),
            np.zeros(0, np.int64),
            np.zeros(0, np.bool_),
            state,
            source,
        )

    def with_state(self, state: ImageState) -> ImageRecord:
        """Return the same image in another state."""
        return replace(self, state=state)


@dataclass(frozen=True, slots=True)
class Problem:
    """A fault in the data that was met and not silently dropped.

    ``kind`` is a row of `FindingKind` (``box_inverted``, ``image_truncated`` …), ``file`` the file
    that holds the fault, ``index`` the object's position in it (−1: the file itself).

    Raises:
        ValueError: there is no such kind.
    """

    kind: FindingKind
    file: str
    index: int
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", FindingKind.named(self.kind))

    def __str__(self) -> str:
        where = self.file if self.index < 0 else f"{self.file}[{self.index}]"
        return f"{where}: {self.reason}"


@dataclass(frozen=True)
class Dataset:
    """Images with one class list. ``problems`` tells what reading it rejected and why."""

    categories: tuple[str, ...]
    records: tuple[ImageRecord, ...]
    root: Path
    problems: tuple[Problem, ...] = ()

    def __len__(self) -> int:
        return len(self.records)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over classes, names, sizes, boxes, labels and states (not over pixels)."""
        digest = hashlib.sha256(repr(self.categories).encode())
        for record in self.records:
            head = (str(record.path), record.width, record.height, record.state.value)
            digest.update(repr(head).encode())
            for array in (record.boxes, record.labels, record.ignore):
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def subset(self, indices: Sequence[int]) -> Dataset:
        """Return the dataset of the given records, in the given order."""
        return replace(self, records=tuple(self.records[i] for i in indices))

    def with_records(self, records: Sequence[ImageRecord]) -> Dataset:
        """Return the same class list with other records."""
        return replace(self, records=tuple(records))

    def count_states(self) -> dict[ImageState, int]:
        """Return how many images are in each state that occurs."""
        counts: dict[ImageState, int] = {}
        for record in self.records:
            counts[record.state] = counts.get(record.state, 0) + 1
        return counts


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What a model sees: ``images`` u8[B, 3, H, W] RGB, ``boxes`` f32[B, G, 4] in input pixels,
    ``labels`` i64[B, G] (0 pads), ``ignore`` bool[B, G], ``image_ids`` i64[B].
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor
    ignore: Tensor
    image_ids: Tensor

    def to(self, device: Any) -> Batch:
        """Return the batch on a device."""
        return Batch(
            self.images.to(device, non_blocking=True),
            self.boxes.to(device, non_blocking=True),
            self.labels.to(device, non_blocking=True),
            self.ignore.to(device, non_blocking=True),
            self.image_ids.to(device, non_blocking=True),
        )


class ScoreForm(StrEnum):
    """How class logits become probabilities."""

    SOFTMAX = "softmax"
    """C + 1 logits, column 0 is background."""
    SIGMOID = "sigmoid"
    """C independent logits."""


@dataclass(frozen=True, slots=True, eq=False)
class RawOutput:
    """``class_logits`` f32[B, A, C + 1] (softmax) or f32[B, A, C] (sigmoid); ``box_deltas``
    f32[B, A, 4] in the coder's units.
    """

    class_logits: Tensor
    box_deltas: Tensor
    score_form: ScoreForm


@dataclass(frozen=True, slots=True, eq=False)
class Priors:
    """``cxcywh`` f32[A, 4] in input pixels, ``level`` i64[A], ``level_shapes`` (rows, columns)."""

    cxcywh: Tensor
    level: Tensor
    level_shapes: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Assignment:
    """``labels`` i64[B, A] (0 background, −1 ignored), ``box_index`` i64[B, A] into the padded boxes
    (meaningful where labels > 0), ``iou`` f32[B, A] with the best box.
    """

    labels: Tensor
    box_index: Tensor
    iou: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """The priors that enter the loss: ``positives`` bool[B, A], ``negatives`` bool[B, A]; disjoint."""

    positives: Tensor
    negatives: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """One image's detections, best first, in pixels of the original image.

    ``boxes`` f32[K, 4] xyxy, ``scores`` f32[K], ``labels`` i64[K] in 1..C, ``prior`` i64[K].
    """

    boxes: F32
    scores: F32
    labels: I64
    prior: I64 = field(default_factory=lambda: np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.scores)

    @staticmethod
    def none() -> Detections:
        """Return an image's empty result."""
        return Detections(
            np.zeros((0, 4), np.float32),
            np.zeros(0, np.float32),
            np.zeros(0, np.int64),
            np.zeros(0, np.int64),
        )

    def at_least(self, score: float) -> Detections:
        """Return the detections with a score of ``score`` or more."""
        keep = self.scores >= score
        prior = self.prior[keep] if len(self.prior) == len(self.scores) else self.prior
        return Detections(self.boxes[keep], self.scores[keep], self.labels[keep], prior)


@dataclass(frozen=True, slots=True)
class PoolScore:
    """One image of a pool as a detector saw it."""

    image: str
    score: float
    """Highest foreground probability over the priors (or detections), in [0, 1]."""
    label: int
    """Class of that score, 1..C; 0 when nothing fired."""
    num_alarms: int
    """Detections after NMS at or above the scan's score floor; −1 when not decoded."""
    level: int
    """Pyramid level of the top prior; −1 when the detector has none."""
    phash: int
    """64-bit perceptual hash as a signed integer."""
    model_id: str
    exact: bool = True
    """False: ``score`` is a first cut in low precision and nothing was decoded yet."""


class Verdict(StrEnum):
    """What a person says of a candidate."""

    EMPTY = "empty"
    CONTAINS_OBJECT = "contains_object"
    IGNORE = "ignore"
    UNSURE = "unsure"

    @property
    def state(self) -> ImageState:
        """The image state that the verdict leads to."""
        return {
            Verdict.EMPTY: ImageState.VERIFIED_EMPTY,
            Verdict.CONTAINS_OBJECT: ImageState.CONTAINS_OBJECT,
            Verdict.IGNORE: ImageState.IGNORED,
            Verdict.UNSURE: ImageState.UNREVIEWED,
        }[self]


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict on one pool image; decisions are only ever appended."""

    image: str
    verdict: Verdict
    who: str
    when: str
    """UTC, ISO 8601."""
    model_id: str
