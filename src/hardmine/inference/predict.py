"""Any image through any detector, at full precision.

:func:`predict` is the call for a person at a prompt: any image in, detections with class names out.
:func:`detect_images` and :func:`score_images` run a detector over files: on its canvas, or by its own
means where it takes files (a predictions file, a command). :func:`score_items` scores images from
anywhere. Of what runs on a canvas, :func:`detect_on_canvas` decodes every image and
:func:`score_items` those that fire; both run batches in threads, in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Protocol, overload, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hardmine.data.images import Picture, as_picture
from hardmine.detections import Detections, OperatingPoint
from hardmine.device import count_workers
from hardmine.errors import ConfigError, DataError
from hardmine.inference.detector import (
    BatchScores,
    Detector,
    OnePassDetector,
    checked_answers,
    require_detector,
    top_scores,
)
from hardmine.inference.image_loading import (
    HalvingBatch,
    ImageItem,
    Loaded,
    batched,
    count_cores,
    load_item,
    one_core_each,
    run_ordered,
    stack,
)
from hardmine.types import U8, Problem

DECODE_FLOOR = 0.01
"""Images whose score is below are not decoded while a pool is scanned: they have no detection."""

SCORE_THRESHOLD = 0.3
"""The lowest score that :func:`predict` returns of a detector that holds no threshold of its own."""
ImageLike = Path | str | Image.Image | U8 | Tensor
"""A file; a picture; u8[H, W, 3] RGB or u8[H, W] grey; or a tensor u8[3, H, W] RGB."""
ImageList = list[Any] | tuple[Any, ...]
"""Several of these."""


@dataclass(frozen=True, slots=True, eq=False)
class ScoredImage:
    """One image as the detector saw it; ``detections`` in pixels of the original image."""

    path: Path
    score: float
    label: int
    level: int
    detections: Detections
    phash: int
    name: str = ""
    """What the pool's store calls it: the path, or where it lies in an archive or on a network."""


@runtime_checkable
class PictureDetector(Protocol):
    """A detector that takes whole pictures and divides them itself."""

    def detect_picture(self, picture: Picture) -> Detections:
        """Return the detections in pixels of the original image, best first."""
        ...


class PredictMixin:
    """Gives a detector the method :func:`predict`.

    ``operating_point`` is the threshold that ``hardmine threshold --write`` wrote into the model.
    """

    operating_point: OperatingPoint | None = None

    @overload
    def predict(
        self, images: ImageLike, *, score_threshold: float | None = ..., batch_size: int = ...
    ) -> Detections: ...

    @overload
    def predict(
        self, images: ImageList, *, score_threshold: float | None = ..., batch_size: int = ...
    ) -> list[Detections]: ...

    def predict(
        self,
        images: ImageLike | ImageList,
        *,
        score_threshold: float | None = None,
        batch_size: int = 16,
    ) -> Detections | list[Detections]:
        """Detect in one image or in a list of them.

        Args:
            images: a file, a picture, u8[H, W, 3] RGB, a tensor u8[3, H, W] RGB, or a list of these.
            score_threshold: the lowest score to return, inclusive; if not given, the detector's
                operating point where it has one, else .3.
            batch_size: images that the network takes at once.

        Returns:
            Detections, best first, in pixels of the original image, with class names; for a list of
            images a list in the same order.

        Raises:
            DataError: a file cannot be read, or an array is no image.
            ConfigError: the detector knows files only and got a picture; or an impossible number.

        Example:
            >>> detector = hardmine.load_detector("shelf/predictions.json")
            >>> detector.predict("shelf/images/00.png", score_threshold=0.1)
            Detections(2: bottle 0.90, can 0.40)
            >>> [len(found) for found in detector.predict([record.path for record in data])]
            [2, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0]
        """
        given: Detector = self  # type: ignore[assignment]
        return predict(given, images, score_threshold=score_threshold, batch_size=batch_size)


class LoadedDetector(Detector, Protocol):
    """A detector that came from :func:`hardmine.load_detector`: it has ``predict`` too.

    ``categories`` are its class names, ``model_id`` changes whenever its weights or its decoding do,
    ``operating_point`` is the threshold that was written into it, if one was.
    """

    operating_point: OperatingPoint | None

    @overload
    def predict(
        self, images: ImageLike, *, score_threshold: float | None = ..., batch_size: int = ...
    ) -> Detections: ...

    @overload
    def predict(
        self, images: ImageList, *, score_threshold: float | None = ..., batch_size: int = ...
    ) -> list[Detections]: ...

    def predict(
        self,
        images: ImageLike | ImageList,
        *,
        score_threshold: float | None = ...,
        batch_size: int = ...,
    ) -> Detections | list[Detections]:
        """Detect in one image or in a list of them; see :meth:`PredictMixin.predict`."""
        ...


def predict(
    detector: Detector,
    images: ImageLike | ImageList,
    *,
    score_threshold: float | None = None,
    batch_size: int = 16,
) -> Detections | list[Detections]:
    """Detect in one image or in a list of them with any object that is a `Detector`.

    Arguments, result and errors are those of :meth:`PredictMixin.predict`.
    """
    if score_threshold is not None and not 0 <= score_threshold <= 1:
        raise ConfigError(f"score_threshold: got {score_threshold}, wanted 0 to 1")
    if batch_size < 1:
        raise ConfigError(f"batch_size: got {batch_size}, wanted 1 or more")
    require_detector(detector)
    many = isinstance(images, list | tuple)
    items = [_as_item(image) for image in (images if many else [images])]  # type: ignore[union-attr]
    point = chosen_point(detector, score_threshold)
    found = [
        replace(
            point.keep(detections, detector.categories),
            categories=tuple(detector.categories),
            path=None if item.picture is not None else Path(item.name),
        )
        for item, detections in zip(items, _detect_any(detector, items, batch_size), strict=True)
    ]
    return found if many else found[0]


def chosen_point(detector: Detector, score_threshold: float | None) -> OperatingPoint:
    """Return from which score detections count: as asked for, else as the model says, else .3."""
    own: OperatingPoint | None = getattr(detector, "operating_point", None)
    if score_threshold is not None:
        return OperatingPoint(score_threshold)
    return own or OperatingPoint(SCORE_THRESHOLD)


def _detect_any(
    detector: Detector, items: Sequence[ImageItem], batch_size: int
) -> list[Detections]:
    pictures = [item.picture for item in items if item.picture is not None]
    if not isinstance(detector, FileDetector):
        return _detect_items(detector, items, batch_size)
    if not pictures:
        return detector.detect_images([Path(item.name) for item in items])
    if not isinstance(detector, PictureDetector):
        raise ConfigError("this detector knows images by their files: give paths, not pictures")
    return [
        detector.detect_images([Path(item.name)])[0]
        if item.picture is None
        else detector.detect_picture(item.picture)
        for item in items
    ]


def _as_item(image: object) -> ImageItem:
    """Return an image from anywhere as something that can be loaded.

    Raises:
        DataError: it is no image.
    """
    if isinstance(image, str | Path):
        return ImageItem(str(image))
    if isinstance(image, Tensor):
        image = (
            image.detach().cpu().numpy().transpose(1, 2, 0) if image.ndim == 3 else image.numpy()
        )
    if isinstance(image, np.ndarray):
        shape = image.shape
        if (
            image.dtype != np.uint8
            or image.ndim not in (2, 3)
            or (*shape, 3)[2] != 3
            or not image.size
        ):
            raise DataError(
                f"image: got an array {image.dtype}{list(shape)}, wanted uint8[height, width, 3] RGB"
            )
        image = Image.fromarray(np.ascontiguousarray(image))
    if isinstance(image, Image.Image):
        return ImageItem("picture", held=True, picture=as_picture(image))
    raise DataError(f"image: got {type(image).__name__}, wanted a file, a picture or an array")


@runtime_checkable
class FileDetector(Protocol):
    """A detector that takes image files, not canvases: a predictions file, tiles, a command."""

    def detect_images(
        self, paths: Sequence[Path], progress: Callable[[int, int], None] | None = None
    ) -> list[Detections]:
        """Return the detections of every image, in order, in pixels of the original image."""
        ...

    def score_items(self, items: Iterable[ImageItem]) -> Iterator[ScoredImage | Problem]:
        """Yield every image's score in order, or why it cannot be read."""
        ...


def detect_images(
    detector: Detector,
    paths: Sequence[Path],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[Detections]:
    """Return the detections of every image, in order, in pixels of the original image.

    Raises:
        DataError: an image cannot be read.
    """
    if isinstance(detector, FileDetector):
        return detector.detect_images(paths, progress)
    return detect_on_canvas(detector, paths, progress=progress)


def score_images(
    detector: Detector, paths: Sequence[Path], *, batch_size: int | None = 16
) -> Iterator[ScoredImage | Problem]:
    """Yield the score of every image file, as :func:`score_items` does."""
    return score_items(detector, (ImageItem(str(path)) for path in paths), batch_size=batch_size)


def detect_on_canvas(
    detector: Detector,
    paths: Sequence[Path],
    *,
    batch_size: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> list[Detections]:
    """Return the detections of every image, in order, in pixels of the original image.

    Args:
        progress: called with (done, total) after each batch.

    Raises:
        DataError: an image cannot be read.
    """
    items = [ImageItem(str(path)) for path in paths]
    return _detect_items(detector, items, batch_size, progress)


def _detect_items(
    detector: Detector,
    items: Sequence[ImageItem],
    batch_size: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[Detections]:
    run = _FullPrecision(detector, floor=None, hashed=False)
    results: list[Detections] = []
    for batch in run.over(items, batch_size):
        for item in batch:
            if isinstance(item, Problem):
                raise DataError(str(item))
            results.append(item.detections)
        if progress is not None:
            progress(len(results), len(items))
    return results


def score_items(
    detector: Detector,
    items: Iterable[ImageItem],
    *,
    batch_size: int | None = None,
    one_run: bool = False,
) -> Iterator[ScoredImage | Problem]:
    """Yield every image's score at full precision, or the problem that kept it from being read.

    Images that reach ``DECODE_FLOOR`` are decoded. The order is that of the items, and memory does not
    grow with them.

    Args:
        batch_size: if not given, 2 on a CPU, where larger ones are no quicker and a handful of images
            would be mostly filling, and 16 elsewhere. A network that takes a set number
            of images in every run gets that.
        one_run: each image passes the network once, also where the detector cannot score and decode in
            one run: then every image is decoded, and its best detection gives its score.
    """
    if isinstance(detector, FileDetector):
        yield from detector.score_items(items)
        return
    size = images_per_run(detector) or batch_size or (2 if _on_cpu(detector) else 16)
    decode_all = one_run and not isinstance(detector, OnePassDetector)
    floor = None if decode_all else DECODE_FLOOR
    for batch in _FullPrecision(detector, floor=floor, hashed=True).over(items, size):
        yield from batch


def images_per_run(detector: Detector) -> int | None:
    """Return how many images the detector gives its network in every run; None: as many as it is given.

    Where it is a number, no score depends on how many images are given, and none need be filled in.
    """
    fixed = getattr(detector, "images_per_run", None)
    return fixed if isinstance(fixed, int) else None


def _on_cpu(detector: Detector) -> bool:
    device = getattr(detector, "device", None)
    return isinstance(device, torch.device) and device.type == "cpu"


class _FullPrecision:
    """Batches of images to scores and detections in float32.

    ``floor``: what is decoded; ``None`` decodes all and takes the best detection for the score.
    A detector that does both in one run is called from all threads; any other from one at a time.
    """

    def __init__(self, detector: Detector, *, floor: float | None, hashed: bool) -> None:
        self._detector = detector
        self._floor = floor
        self._hashed = hashed
        self._turn = nullcontext() if isinstance(detector, OnePassDetector) else Lock()
        self._run = HalvingBatch(self._run_network)

    def over(
        self, items: Iterable[ImageItem], batch_size: int
    ) -> Iterator[list[ScoredImage | Problem]]:
        """Yield the results of one batch after the other, in order."""
        with one_core_each():
            work = partial(self._batch, size=batch_size)
            yield from run_ordered(batched(items, batch_size), work, count_workers(count_cores()))

    def _batch(self, items: Sequence[ImageItem], size: int) -> list[ScoredImage | Problem]:
        resize = self._detector.resize
        read = [load_item(item, resize, hashed=self._hashed) for item in items]
        loaded = [item for item in read if isinstance(item, Loaded)]
        scored = self._score(loaded, size)
        return [item if isinstance(item, Problem) else next(scored) for item in read]

    def _score(self, loaded: Sequence[Loaded], size: int) -> Iterator[ScoredImage]:
        if not loaded:
            return
        images = stack(loaded)
        as_they_are = self._floor is None or images_per_run(self._detector) is not None
        parts = self._run(images if as_they_are else _fill_up(images, size))
        rows = (
            (scores, found, i) for scores, detections in parts for i, found in enumerate(detections)
        )
        for item, (scores, found, i) in zip(loaded, rows, strict=False):  # then those filled in
            yield ScoredImage(
                Path(item.name),
                float(scores.scores[i]),
                int(scores.labels[i]),
                int(scores.levels[i]),
                item.undo(found),
                item.phash,
                item.name,
            )

    def _run_network(self, images: Tensor) -> tuple[BatchScores, list[Detections]]:
        with self._turn:
            if self._floor is None:
                found = checked_answers(self._detector, images)
                return top_scores(found), found
            if isinstance(self._detector, OnePassDetector):
                return self._detector.score_and_detect(images, self._floor)
            scores = self._detector.score(images)
            firing = (scores.scores >= self._floor).nonzero()[:, 0].tolist()
            decoded = checked_answers(self._detector, images[firing]) if firing else []
        found = [Detections.none() for _ in range(len(images))]
        for index, detections in zip(firing, decoded, strict=True):
            found[index] = detections
        return scores, found


def _fill_up(images: Tensor, size: int) -> Tensor:
    """Return a batch of the full size: a library's last bits depend on the size, and so would a
    score on which images happened to be scored again together.
    """
    lacking = size - len(images)
    return torch.cat([images, images[-1:].expand(lacking, -1, -1, -1)]) if lacking > 0 else images
