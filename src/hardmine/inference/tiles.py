"""Large images in overlapping tiles, for objects that would be too small on one canvas.

A picture of 20,000 × 20,000 pixels takes 1.6 GB when Pillow decodes it whole. Where its format
allows it, it is looked at in windows, row by row, without holding all of its pixels at once
(`open_windows`):

- a TIFF in tiles or strips is decoded tile by tile: each is handed to Pillow as a small TIFF of its
own, so that every compression that Pillow reads works. Only the tiles of the present row are held;
- a JPEG must be decoded whole (its rows depend on each other), but into three bytes per pixel,
without the second copy that a whole picture needs.

All others, pictures that EXIF turns, planes stored one after the other and grey of more than 8 bits
are read whole.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin
from torch import Tensor

from hardmine.data.cut_tiles import DEFAULT_OVERLAP, Tiles, Window
from hardmine.data.images import (
    READ_ERRORS,
    Picture,
    as_picture,
    is_deep_grey,
    open_picture,
    orientation,
    pillow_open,
)
from hardmine.data.splits.near_duplicates import perceptual_hash
from hardmine.detections import Detections
from hardmine.errors import ConfigError, DataError
from hardmine.inference.detector import BatchScores, Detector, make_model_id
from hardmine.inference.framework_detectors import FrameworkDetector, placed
from hardmine.inference.image_loading import ImageItem, item_problem, open_item
from hardmine.inference.predict import FileDetector, PredictMixin, ScoredImage
from hardmine.numpy_boxes import box_iou
from hardmine.types import F32, Mask, Problem

try:
    import simplejpeg
except ImportError:  # then JPEGs are read whole, by Pillow
    simplejpeg = None

LARGE = 30_000_000
"""Pixels from which a picture is read in windows where it can be; smaller ones are read whole."""
_REDUCED = 1024
"""Side of the small picture that stands for the whole, at most."""

_WIDTH, _HEIGHT, _PLANAR = 256, 257, 284
_STRIPS = (273, 279)
"""Tags of the places and the lengths of strips."""
_ROWS_PER_STRIP = 278
_TILES = (324, 325)
_TILE_SIDES = (322, 323)
_KEPT = (258, 259, 262, 266, 277, 284, 317, 320, 332, 338, 339, 347, 529, 530, 531, 532)
"""Tags that say how the pixels of a strip or tile are coded."""


@dataclass(slots=True)
class WindowedPicture:
    """A picture of ``size`` (width, height) whose parts are decoded when they are asked for.

    ``part`` decodes the part of an index (column, row), RGB; parts are ``sides`` (width, height) large.
    """

    size: tuple[int, int]
    sides: tuple[int, int]
    part: Callable[[int, int], Image.Image]
    _held: dict[tuple[int, int], Image.Image] = field(default_factory=dict)

    def crop(self, window: Window) -> Image.Image:
        """Return the pixels of a window, RGB. Parts above it are forgotten: ask row by row.

        Raises:
            OSError, SyntaxError …: the part of the file is damaged (`READ_ERRORS`).
        """
        x0, y0, x1, y1 = window
        wide, high = self.sides
        for key in [key for key in self._held if (key[1] + 1) * high <= y0]:
            del self._held[key]
        out = Image.new("RGB", (x1 - x0, y1 - y0))
        for row in range(y0 // high, -(-y1 // high)):
            for column in range(x0 // wide, -(-x1 // wide)):
                key = (column, row)
                if key not in self._held:
                    self._held[key] = self.part(column, row)
                out.paste(self._held[key], (column * wide - x0, row * high - y0))
        return out

    def reduced(self) -> Image.Image:
        """Return the whole picture made small, by the mean of the pixels that each new one covers."""
        width, height = self.size
        factor = max(1, -(-max(width, height) // _REDUCED))
        rows = max(1, self.sides[1] // factor) * factor
        out = Image.new("RGB", (-(-width // factor), -(-height // factor)))
        for y in range(0, height, rows):
            band = self.crop((0, y, width, min(y + rows, height)))
            out.paste(band.reduce(factor), (0, y // factor))
        self._held.clear()
        return out


def open_windows(file: Path | bytes, name: str, least: int = LARGE) -> WindowedPicture | None:
    """Return a large picture that can be read in windows; None where it is to be read whole.

    Args:
        file: a path, or the content of a file.
        name: what the content is called.
        least: pixels from which a picture is large.
    """
    opened = io.BytesIO(file) if isinstance(file, bytes) else file
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_picture(opened, name) as image:
                if image.width * image.height < least or orientation(image) != 1:
                    return None
                if isinstance(image, TiffImagePlugin.TiffImageFile):
                    return _tiff(image, file)
                plain = image.format == "JPEG" and image.mode in {"RGB", "L"}
        return _jpeg(file) if plain else None
    except READ_ERRORS:
        return None  # reading it whole says what is wrong


def _jpeg(file: Path | bytes) -> WindowedPicture | None:
    if simplejpeg is None:
        return None
    data = file if isinstance(file, bytes) else file.read_bytes()
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "RGB")
    height, width = pixels.shape[:2]
    side = 256

    def part(column: int, row: int) -> Image.Image:
        x, y = column * side, row * side
        return Image.fromarray(pixels[y : y + side, x : x + side])

    return WindowedPicture((width, height), (side, side), part)


def _tiff(image: TiffImagePlugin.TiffImageFile, file: Path | bytes) -> WindowedPicture | None:
    tags = image.tag_v2
    width, height = image.size
    tiled = _TILES[0] in tags
    places, lengths = (tags.get(tag, ()) for tag in (_TILES if tiled else _STRIPS))
    sides = tuple(int(tags[tag]) for tag in _TILE_SIDES) if tiled else ()
    wide, high = sides or (width, min(height, int(tags.get(_ROWS_PER_STRIP, height))))
    columns, rows = -(-width // wide), -(-height // high)
    whole = tags.get(_PLANAR, 1) != 1 or is_deep_grey(image) or rows == columns == 1
    if whole or not len(places) == len(lengths) == columns * rows:
        return None
    kept = {tag: (tags[tag], tags.tagtype.get(tag)) for tag in _KEPT if tag in tags}
    order = tags.prefix

    def part(column: int, row: int) -> Image.Image:
        """Return the pixels of one tile or strip, cut at the picture's edge."""
        index = row * columns + column
        coded = _read(file, int(places[index]), int(lengths[index]))
        tall = high if tiled else min(high, height - row * high)
        with pillow_open(_small_tiff(coded, (wide, tall), kept, order, tiled)) as small:
            pixels = as_picture(small).pixels
        edge = (min(wide, width - column * wide), min(high, height - row * high))
        return pixels if pixels.size == edge else pixels.crop((0, 0, *edge))

    return WindowedPicture((width, height), (wide, high), part)


def _read(file: Path | bytes, place: int, length: int) -> bytes:
    if isinstance(file, bytes):
        return file[place : place + length]
    with file.open("rb") as opened:
        opened.seek(place)
        return opened.read(length)


def _small_tiff(
    coded: bytes,
    sides: tuple[int, int],
    kept: dict[int, tuple[object, int | None]],
    order: bytes,
    tiled: bool,
) -> io.BytesIO:
    """Return a TIFF that holds one tile or strip of another one."""
    head = order + (b"*\0" if order == b"II" else b"\0*") + b"\0" * 4
    directory = TiffImagePlugin.ImageFileDirectory_v2(head)
    for tag, (value, kind) in kept.items():
        if kind is not None:
            directory.tagtype[tag] = kind
        directory[tag] = value
    directory[_WIDTH], directory[_HEIGHT] = sides
    if tiled:
        directory[_TILE_SIDES[0]], directory[_TILE_SIDES[1]] = sides
    else:
        directory[_ROWS_PER_STRIP] = sides[1]
    place_tag, length_tag = _TILES if tiled else _STRIPS
    directory.tagtype[place_tag] = directory.tagtype[length_tag] = 4  # LONG
    directory[place_tag], directory[length_tag] = 0, len(coded)
    if tiled:  # Pillow itself adds the length of the directory to the places of strips
        directory[place_tag] = len(head) + len(directory.tobytes(len(head)))
    first = len(head).to_bytes(4, "little" if order == b"II" else "big")
    return io.BytesIO(head[:4] + first + directory.tobytes(len(head)) + coded)


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
        self.operating_point = getattr(detector, "operating_point", None)

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
