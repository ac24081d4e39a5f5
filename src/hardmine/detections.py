"""What a detector finds in one image: boxes, scores and labels, and what one does with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np

from hardmine.numpy_boxes import box_area, nms
from hardmine.types import F32, F64, I64, U8, Mask, rows_of

if TYPE_CHECKING:
    from PIL import Image


class Detection(NamedTuple):
    """One detection: ``box`` f32[4] xyxy in pixels, ``score`` in [0, 1], ``label`` in 1..C, and the
    name of its class (``""`` when the names are not known).

    Example:
        >>> best = found[0]
        >>> best.category, best.label, best.box.tolist()
        ('bottle', 1, [40.0, 10.0, 52.0, 42.0])
    """

    box: F32
    score: float
    label: int
    category: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Detections:
    """One image's detections, best first, in pixels of the original image.

    It is a sequence of :class:`Detection`: it has a length, can be iterated, and ``found[0]`` is the
    best one. ``found["can"]`` are those of a class, ``found[found.scores > 0.5]`` those of a mask, and
    ``found[:5]`` the five best. Nothing changes in place.

    Attributes:
        boxes: f32[K, 4] xyxy.
        scores: f32[K] in [0, 1].
        labels: i64[K] in 1..C.
        prior: i64[K], which prior gave the detection; empty where that is not known.
        categories: class names, ``categories[label - 1]``; empty where they are not known.
        path: the image file, where it is known; a notebook then shows the picture.

    Example:
        >>> found = detector.predict("shelf/images/00.png", score_threshold=0.1)
        >>> found
        Detections(2: bottle 0.90, can 0.40)
        >>> found["can"].boxes
        array([[ 8., 20., 24., 40.]], dtype=float32)
        >>> for box, score, label, category in found:
        ...     print(category, round(score, 2))
        bottle 0.9
        can 0.4
    """

    boxes: F32
    scores: F32
    labels: I64
    prior: I64 = field(default_factory=lambda: np.zeros(0, np.int64))
    categories: tuple[str, ...] = ()
    path: Path | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        return (self._one(index) for index in range(len(self)))

    @overload
    def __getitem__(self, index: int | np.integer[Any]) -> Detection: ...

    @overload
    def __getitem__(self, index: slice | str | Mask | I64 | Sequence[int]) -> Detections: ...

    def __getitem__(
        self, index: int | np.integer[Any] | slice | str | Mask | I64 | Sequence[int]
    ) -> Detection | Detections:
        if isinstance(index, str):
            return self.of_class(index)
        if isinstance(index, slice):
            return self._take(index)
        if isinstance(index, int | np.integer):
            return self._one(int(index))
        return self._take(rows_of(index, len(self)))

    @staticmethod
    def none() -> Detections:
        """Return an image's empty result."""
        return Detections(
            np.zeros((0, 4), np.float32),
            np.zeros(0, np.float32),
            np.zeros(0, np.int64),
            np.zeros(0, np.int64),
        )

    @staticmethod
    def from_supervision(found: Any, categories: Sequence[str] = ()) -> Detections:
        """Take over the detections of ``supervision.Detections``.

        Args:
            found: ``xyxy``, ``confidence`` (1 where there is none) and ``class_id``, which counts from
                0 as in ``supervision``. Masks and track ids are left out.
            categories: class names in the order of ``class_id``.

        Raises:
            DataError: there is no ``class_id``, or one outside the class names.

        Example:
            >>> Detections.from_supervision(found.to_supervision(), found.categories)
            Detections(2: bottle 0.90, can 0.40)
        """
        from hardmine.conversions import from_supervision

        return from_supervision(found, tuple(categories))

    def to_supervision(self) -> Any:
        """Return ``supervision.Detections``: ``class_id`` counts from 0, ``class_name`` is in ``data``.

        Raises:
            MissingExtraError: supervision is not installed.

        Example:
            >>> found.to_supervision().class_id
            array([0, 1])
        """
        from hardmine.conversions import to_supervision

        return to_supervision(self)

    def to_coco(self, image_id: int | str = 0) -> list[dict[str, Any]]:
        """Return the detections as COCO results: ``category_id`` is the label, boxes are xywh.

        Example:
            >>> found["can"].to_coco(image_id=7)
            [{'image_id': 7, 'category_id': 2, 'bbox': [8.0, 20.0, 16.0, 20.0], 'score': 0.4...}]
        """
        boxes = self.boxes.astype(np.float64)
        boxes_xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        return [
            {"image_id": image_id, "category_id": label, "bbox": box_xywh, "score": score}
            for label, box_xywh, score in zip(
                self.labels.tolist(), boxes_xywh.tolist(), self.scores.tolist(), strict=True
            )
        ]

    @property
    def area(self) -> F64:
        """f64[K], the area of each box in square pixels."""
        return box_area(self.boxes)

    def at_least(self, score: float) -> Detections:
        """Return the detections with a score of ``score`` or more, in the float32 of scores."""
        return self._take(self.scores >= np.float32(score))

    def of_class(self, which: str | int) -> Detections:
        """Return the detections of one class, by its name or its label (1..C).

        Raises:
            KeyError: no class has that name.

        Example:
            >>> len(found.of_class("can")), len(found.of_class(1))
            (1, 1)
        """
        if isinstance(which, str):
            if which not in self.categories:
                known = ", ".join(self.categories) or "not known here; give the label"
                raise KeyError(f"no class {which!r}; the classes are {known}")
            which = self.categories.index(which) + 1
        return self._take(self.labels == which)

    def with_nms(self, iou_threshold: float = 0.5, *, class_agnostic: bool = False) -> Detections:
        """Return what non-maximum suppression leaves, best first.

        Args:
            iou_threshold: a detection is removed when its IoU with a better one exceeds this.
            class_agnostic: let detections of different classes remove each other too.

        Raises:
            ValueError: the threshold is outside [0, 1].

        Example:
            >>> len(found.with_nms(0.5))
            2
        """
        if not 0 <= iou_threshold <= 1:
            raise ValueError(f"iou_threshold: got {iou_threshold}, wanted 0 to 1")
        groups = None if class_agnostic else self.labels
        return self._take(nms(self.boxes, self.scores, iou_threshold, groups))

    def draw(self, image: Path | str | Image.Image | U8 | None = None) -> Image.Image:
        """Return the picture with each detection's box, class and score.

        Args:
            image: a file, an RGB picture, or u8[H, W, 3] RGB; the file of ``path`` if not given.

        Raises:
            ValueError: there is neither ``image`` nor ``path``.
            DataError: the file cannot be read.

        Example:
            >>> found.draw().size
            (64, 48)
        """
        from hardmine.conversions import draw

        return draw(self, image)

    def _take(self, rows: slice | Mask | I64) -> Detections:
        prior = self.prior[rows] if len(self.prior) == len(self.scores) else self.prior
        return Detections(
            self.boxes[rows],
            self.scores[rows],
            self.labels[rows],
            prior,
            self.categories,
            self.path,
        )

    def _one(self, index: int) -> Detection:
        label = int(self.labels[index])
        return Detection(
            self.boxes[index], float(self.scores[index]), label, self._category_of(label)
        )

    def _category_of(self, label: int) -> str:
        return self.categories[label - 1] if 1 <= label <= len(self.categories) else ""

    def __repr__(self) -> str:
        shown = [
            f"{self._category_of(label) or f'label {label}'} {score:.2f}"
            for label, score in zip(self.labels[:5].tolist(), self.scores[:5].tolist(), strict=True)
        ]
        more = ["…"] if len(self) > len(shown) else []
        return f"Detections({len(self)}{': ' if shown else ''}{', '.join([*shown, *more])})"

    def _repr_html_(self) -> str:
        from hardmine.conversions import detections_html

        return detections_html(self)


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """The score from which a detector's detections count, as it was chosen for a promise.

    Attributes:
        score: the threshold, inclusive.
        per_class: thresholds of single classes by name, in place of ``score`` for these.
        promise: what holds at the threshold, as a sentence.
    """

    score: float
    per_class: Mapping[str, float] = field(default_factory=dict)
    promise: str = ""

    def keep(self, found: Detections, categories: Sequence[str]) -> Detections:
        """Return the detections that count; ``categories[label - 1]`` names a label."""
        if not self.per_class:
            return found.at_least(self.score)
        limits = [self.per_class.get(name, self.score) for name in categories]
        wanted = np.array([np.inf, *limits], np.float32)[found.labels]
        return found[found.scores >= wanted]

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> OperatingPoint:
        """Read what ``to_dict`` gave.

        Raises:
            ValueError: a value is missing, or is none of the right kind.
        """
        try:
            each = {str(name): float(score) for name, score in values["per_class"].items()}
            return OperatingPoint(float(values["score"]), each, str(values["promise"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"operating point: got {values!r} ({error})") from None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as JSON holds them."""
        return {"score": self.score, "per_class": dict(self.per_class), "promise": self.promise}
