"""Detection on large images in overlapping tiles, for objects that would be too small on one canvas."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hardmine.data.cut_tiles import DEFAULT_OVERLAP, Tiles
from hardmine.data.images import (
    READ_ERRORS,
    Picture,
)
from hardmine.data.picture_windows import Window, WindowedPicture, open_windows
from hardmine.data.splits.near_duplicates import perceptual_hash
from hardmine.detections import Detections, OperatingPoint
from hardmine.errors import ConfigError, DataError
from hardmine.inference.detector import BatchScores, Detector, make_model_id
from hardmine.inference.framework_detectors import FrameworkDetector, placed
from hardmine.inference.image_loading import ImageItem, item_problem, open_item
from hardmine.inference.predict import FileDetector, PredictMixin, ScoredImage
from hardmine.numpy_boxes import box_iou
from hardmine.types import F32, Mask, Problem

SAME_IOU = 0.5
"""IoU from which two detections of a class in different tiles are one, inclusive."""
INSIDE = 0.7
"""Share of the smaller box inside the larger from which it counts as a cut-off part, inclusive."""

_BATCH = 16


class TiledDetector(PredictMixin):
    """A detector that looks at image files tile by tile; detections of all tiles become one list."""

    def __init__(self, detector: Detector, tiles: Tiles) -> None:
        self._detector = detector
        self._tiles = tiles
        self.categories = detector.categories
        self.resize = detector.resize
        self.model_id = make_model_id(detector.model_id, tiles, SAME_IOU, INSIDE)
        self.operating_point = _made_without_tiles(getattr(detector, "operating_point", None))

    def score(self, images: Tensor) -> BatchScores:
        """Score canvases, whole: tiles exist for files only."""
        return self._detector.score(images)

    def detect(self, images: Tensor) -> list[Detections]:
        """Detect on canvases, whole: tiles exist for files only."""
        return self._detector.detect(images)

    def features(self, images: Tensor) -> Tensor:
        """Return the detector's own features of canvases, whole.

        Raises:
            ConfigError: it has none.
        """
        from hardmine.inference.detector import FeatureDetector

        if not isinstance(self._detector, FeatureDetector):
            raise ConfigError("diverse: this detector gives no features; our own checkpoints do")
        return self._detector.features(images)

    def detect_images(
        self, paths: Sequence[Path], progress: Callable[[int, int], None] | None = None
    ) -> list[Detections]:
        """Return the detections of every image, in order, in pixels of the original image.

        Raises:
            DataError: an image cannot be read.
        """
        results = []
        for path in paths:
            try:
                results.append(self._look(_open(ImageItem(str(path)))))
            except READ_ERRORS as error:
                if isinstance(error, DataError):
                    raise
                raise DataError(f"{path}: broken image ({error})") from None
            if progress is not None:
                progress(len(results), len(paths))
        return results

    def score_items(self, items: Iterable[ImageItem]) -> Iterator[ScoredImage | Problem]:
        """Yield every image's score in order, or why it cannot be read."""
        for item in items:
            try:
                image = _open(item)
                found = self._look(image)
                phash = perceptual_hash(
                    image.reduced() if isinstance(image, WindowedPicture) else image
                )
            except DataError as error:
                yield item_problem(item, error)
                continue
            except READ_ERRORS as error:  # a part of a large picture
                yield item_problem(item, DataError(f"{item.name}: broken image ({error})"))
                continue
            score = float(found.scores[0]) if len(found) else 0.0
            label = int(found.labels[0]) if len(found) else 0
            yield ScoredImage(Path(item.name), score, label, -1, found, phash, item.name)

    def detect_picture(self, picture: Picture) -> Detections:
        """Return the detections of one picture, in pixels of the original image."""
        return self._look(picture.pixels)

    def _look(self, image: Image.Image | WindowedPicture) -> Detections:
        windows = self._tiles.windows(*image.size)
        parts: list[Detections] = []
        for start in range(0, len(windows), _BATCH):
            parts += self._detect(image, windows[start : start + _BATCH])
        return merge_tiles(parts)

    def _detect(
        self, image: Image.Image | WindowedPicture, windows: Sequence[Window]
    ) -> list[Detections]:
        if isinstance(self._detector, FrameworkDetector):  # it prepares pictures itself
            crops = [np.asarray(image.crop(window)) for window in windows]
            parts = zip(self._detector.detect_pictures(crops), windows, strict=True)
            return [placed(found, x, y) for found, (x, y, _, _) in parts]
        loaded = [self.resize.apply(image.crop(window)) for window in windows]
        canvases = torch.from_numpy(np.stack([canvas for canvas, _ in loaded])).permute(0, 3, 1, 2)
        results = []
        rows = zip(self._detector.detect(canvases), loaded, windows, strict=True)
        for found, (_, placement), (x, y, _, _) in rows:
            results.append(placed(replace(found, boxes=placement.inverse(found.boxes)), x, y))
        return results


def _made_without_tiles(point: OperatingPoint | None) -> OperatingPoint | None:
    """Return a point that says of its promise, if it has one, that it was made without tiles."""
    if point is None or not point.promise:
        return point
    said = "That was promised without tiles; nothing is promised with them."
    return replace(point, promise=f"{point.promise} {said}")


def _open(item: ImageItem) -> Image.Image | WindowedPicture:
    """Return a picture, in windows where it is large and its format allows that.

    Raises:
        DataError: it cannot be read.
    """
    if item.picture is None:
        found = open_windows(Path(item.name) if item.read is None else item.read(), item.name)
        if found is not None:
            return found
    return open_item(item).pixels


def tiled(detector: Detector, size: int | None, overlap: float | None) -> Detector:
    """Return the detector, looking at tiles where a size is given.

    Raises:
        ConfigError: impossible tiles, or a predictions file, which has no use for them.
    """
    if size is None:
        if overlap is not None:
            raise ConfigError("overlap goes with tile: give the tile's size")
        return detector
    if isinstance(detector, FileDetector) and not isinstance(detector, FrameworkDetector):
        raise ConfigError("tile: a predictions file is not run on pictures")
    return TiledDetector(detector, Tiles(size, DEFAULT_OVERLAP if overlap is None else overlap))


def merge_tiles(parts: Sequence[Detections]) -> Detections:
    """Return the detections of all tiles, best first, each object once.

    Within a class and between tiles a detection gives way to a better one that it overlaps by an IoU
    of .5, or of which it is a part (or which is a part of it) by .7 of the smaller one: an object
    that a tile's edge cuts is seen as a part there. Within a tile the detector's own suppression
    has been.
    """
    boxes = np.concatenate([np.zeros((0, 4), np.float32), *(part.boxes for part in parts)])
    scores = np.concatenate([np.zeros(0, np.float32), *(part.scores for part in parts)])
    labels = np.concatenate([np.zeros(0, np.int64), *(part.labels for part in parts)])
    tile = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    order = np.argsort(-scores, kind="stable")
    alive: Mask = np.asarray((boxes[:, 2:] > boxes[:, :2]).all(axis=1))
    kept: list[int] = []
    for i in order:
        if not alive[i]:
            continue
        kept.append(int(i))
        rivals = alive & (labels == labels[i]) & (tile != tile[i])
        same = (box_iou(boxes[i : i + 1], boxes)[0] >= SAME_IOU) | (
            _inside(boxes[i], boxes) >= INSIDE
        )
        alive &= ~(rivals & same)
    return Detections(boxes[kept], scores[kept], labels[kept])


def _inside(box: F32, boxes: F32) -> F32:
    """Return the intersection as a share of the smaller of the two boxes."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    shared = np.prod(np.maximum(sides, 0), axis=1)
    smaller = np.minimum(np.prod(box[2:] - box[:2]), np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
    share: F32 = np.divide(shared, smaller, out=np.zeros(len(boxes), np.float32), where=smaller > 0)
    return share
