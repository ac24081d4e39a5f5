"""Detectors that run inside another framework: Ultralytics, ``transformers``, LibreYOLO, RF-DETR.

Whole pictures go in, detections in their pixels come out. The framework prepares the pictures and
decodes the network's answers by its own code, so that what is mined is what its users see. Files are
read in threads while the network runs, and the network sees each image once.

No framework is a dependency: each is imported only when a file or a name of its own is given.
``ultralytics`` is under AGPL-3.0, and its ``.pt`` is a pickle: loading it runs the code that it names,
as ``yolo predict`` does. No code that lies in a folder of ``transformers`` is run.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hardmine.data.images import Picture
from hardmine.data.resize import Resize
from hardmine.data.splits.near_duplicates import perceptual_hash
from hardmine.detections import Detections
from hardmine.device import count_workers
from hardmine.errors import NOTICE, CheckpointError, DataError, MissingExtraError
from hardmine.inference.detector import (
    SCORE_FLOOR,
    BatchScores,
    ClassTable,
    make_model_id,
    top_scores,
)
from hardmine.inference.image_loading import (
    ImageItem,
    batched,
    count_cores,
    item_problem,
    open_item,
    run_ordered,
)
from hardmine.inference.predict import PredictMixin, ScoredImage
from hardmine.recipes.checkpoint import file_digest
from hardmine.types import U8, Problem

_NO_CANVAS = Resize(1, 1)
_READ_TOGETHER = 4
"""Pictures that a thread reads before it hands them over: one by one, handing over costs more."""


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """A picture, prepared for the framework, with its perceptual hash (0 when it was not asked for)."""

    name: str
    pixels: U8
    phash: int


class FrameworkDetector(PredictMixin, ABC):
    """A detector that takes whole pictures of any size.

    Args:
        categories: names of the labels 1, 2, …
        model_id: changes whenever the weights or what is asked of the framework do.
        device: where the network runs. On a CPU it gets one picture at a time: larger batches are no
            quicker there, and an image's score then never depends on its neighbours.
    """

    def __init__(self, categories: tuple[str, ...], model_id: str, device: torch.device) -> None:
        self.categories = categories
        self.model_id = model_id
        self.device = device
        self.resize = _NO_CANVAS
        self._at_once = 1 if device.type == "cpu" else 16

    @abstractmethod
    def run(self, pictures: Sequence[U8]) -> list[Detections]:
        """Return the detections from score ``SCORE_FLOOR`` on, in pixels of each picture, best first.

        Args:
            pictures: u8[H, W, 3] as :meth:`prepare` gives them, all of one size.
        """

    def prepare(self, picture: Image.Image) -> U8:
        """Return an RGB picture as :meth:`run` wants it; called where pictures are read."""
        return np.asarray(picture)

    def detect_pictures(self, pictures: Sequence[U8]) -> list[Detections]:
        """Return the detections of u8[H, W, 3] RGB pictures of any sizes, in order."""
        return self._detect_prepared([self.prepare(Image.fromarray(p)) for p in pictures])

    def _detect_prepared(self, pictures: Sequence[U8]) -> list[Detections]:
        order = sorted(range(len(pictures)), key=lambda i: pictures[i].shape)
        found = [Detections.none()] * len(pictures)
        for _, same in groupby(order, key=lambda i: pictures[i].shape):
            for part in batched(same, self._at_once):
                results = self._halving([pictures[i] for i in part])
                for index, detections in zip(part, results, strict=True):
                    found[index] = detections
        return found

    def _halving(self, pictures: Sequence[U8]) -> list[Detections]:
        """Run pictures of one size, in smaller parts where they do not fit the device's memory."""
        try:
            return self.run(pictures)
        except torch.OutOfMemoryError:
            if len(pictures) < 2:
                raise
        self._at_once = max(1, len(pictures) // 2)
        return [found for part in batched(pictures, self._at_once) for found in self._halving(part)]

    def score(self, images: Tensor) -> BatchScores:
        """Return the best detection of each of u8[B, 3, H, W]."""
        return top_scores(self.detect(images))

    def detect(self, images: Tensor) -> list[Detections]:
        """Return the detections of u8[B, 3, H, W], each taken as a picture of its own."""
        return self.detect_pictures(list(images.permute(0, 2, 3, 1).contiguous().cpu().numpy()))

    def detect_picture(self, picture: Picture) -> Detections:
        """Return the detections of one picture, in its pixels."""
        return self._detect_prepared([self.prepare(picture.pixels)])[0]

    def detect_images(
        self, paths: Sequence[Path], progress: Callable[[int, int], None] | None = None
    ) -> list[Detections]:
        """Return the detections of every image, in order, in pixels of the original image.

        Raises:
            DataError: an image cannot be read.
        """
        results: list[Detections] = []
        for item in self._scored((ImageItem(str(path)) for path in paths), hashed=False):
            if isinstance(item, Problem):
                raise DataError(str(item))
            results.append(item.detections)
            if progress is not None:
                progress(len(results), len(paths))
        return results

    def score_items(self, items: Iterable[ImageItem]) -> Iterator[ScoredImage | Problem]:
        """Yield every image's score in order, or why it cannot be read."""
        return self._scored(items, hashed=True)

    def _scored(
        self, items: Iterable[ImageItem], *, hashed: bool
    ) -> Iterator[ScoredImage | Problem]:
        def read(batch: Sequence[ImageItem]) -> list[_Read | Problem]:
            """Read the pictures of a batch and make them ready."""
            return [_read(item, self.prepare, hashed=hashed) for item in batch]

        together = batched(items, max(_READ_TOGETHER, self._at_once))
        for batch in run_ordered(together, read, count_workers(count_cores())):
            good = [item for item in batch if isinstance(item, _Read)]
            found = iter(self._detect_prepared([item.pixels for item in good]))
            for item in batch:
                yield item if isinstance(item, Problem) else _scored_image(item, next(found))


def _read(
    item: ImageItem, prepare: Callable[[Image.Image], U8], *, hashed: bool
) -> _Read | Problem:
    try:
        image = open_item(item).pixels
    except DataError as error:
        return item_problem(item, error)
    return _Read(item.name, prepare(image), perceptual_hash(image) if hashed else 0)


def _scored_image(read: _Read, found: Detections) -> ScoredImage:
    score = float(found.scores[0]) if len(found) else 0.0
    label = int(found.labels[0]) if len(found) else 0
    return ScoredImage(Path(read.name), score, label, -1, found, read.phash, read.name)


def placed(found: Detections, x: float, y: float) -> Detections:
    """Return detections of a window of a picture in pixels of the picture."""
    return replace(found, boxes=found.boxes + np.array([x, y, x, y], np.float32))


def import_framework(package: str, where: str, install: str | None = None) -> Any:
    """Import the framework that runs somebody's weights; numbers are printed as before it.

    Raises:
        MissingExtraError: it is not installed, or its import fails.
    """
    printed = np.get_printoptions()
    try:
        found = importlib.import_module(package)
    except ImportError as error:
        missing = getattr(error, "name", None)
        reason = "" if missing == package else f" (its import failed: {error})"
        raise MissingExtraError(
            f"{where}: is run by the package {package}{reason}; pip install {install or package}"
        ) from None
    np.set_printoptions(**printed)  # ultralytics changes them for the whole process
    return found


def unreadable(path: Path | str, framework: str, error: Exception) -> CheckpointError:
    """Return the error for weights that their own framework cannot load, in one line."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return CheckpointError(f"{path}: {framework} cannot load it ({reason})")


_WITH_BOXES = ("detect", "segment", "pose")
_log = logging.getLogger("hardmine")


class UltralyticsDetector(FrameworkDetector):
    """A model of ``ultralytics``, asked as its own ``predict`` is, one image at a time on a CPU."""

    def __init__(
        self, model: Any, classes: ClassTable, model_id: str, side: int, device: torch.device
    ) -> None:
        super().__init__(classes.names, model_id, device)
        self._model = model
        self._classes = classes
        self._predictor: Any = None
        self.side = side

    def run(self, pictures: Sequence[U8]) -> list[Detections]:
        """Return what ``model.predict`` finds in BGR pictures of one size."""
        bgr = list(pictures)
        if self._predictor is not None:
            results = self._predict_again(bgr)
        else:
            results = self._model.predict(
                bgr,
                conf=SCORE_FLOOR,
                imgsz=self.side,
                device=str(self.device),
                batch=len(pictures),
                verbose=False,
                save=False,
            )
            self._predictor = getattr(self._model, "predictor", None)
        return [_ultralytics_detections(result.boxes, self._classes) for result in results]

    def prepare(self, picture: Image.Image) -> U8:
        """Return u8[H, W, 3] BGR, in one copy of the picture's bytes."""
        width, height = picture.size
        pixels = np.frombuffer(picture.tobytes("raw", "BGR"), np.uint8)
        return pixels.reshape(height, width, 3)

    @torch.inference_mode()
    def _predict_again(self, bgr: list[U8]) -> Sequence[Any]:
        """Take the three steps of ``predict`` alone: it keeps what the first call was asked.

        Each call checks every setting and looks for the kind of its source, which costs as much as
        reading an image.
        """
        predictor, names = self._predictor, [f"{i}.jpg" for i in range(len(bgr))]
        predictor.batch = (names, bgr, names)
        images = predictor.preprocess(bgr)
        results: Sequence[Any] = predictor.postprocess(predictor.inference(images), images, bgr)
        return results


def _ultralytics_detections(boxes: Any, classes: ClassTable) -> Detections:
    if boxes is None:
        return Detections.none()
    return classes.detections(
        boxes.xyxy.float().cpu().numpy(),
        boxes.conf.float().cpu().numpy(),
        boxes.cls.cpu().numpy(),
    )


def import_ultralytics(where: str) -> Any:
    """Import the package without its usage reports and without installing anything.

    Raises:
        MissingExtraError: it is not installed.
    """
    os.environ.setdefault("YOLO_OFFLINE", "true")
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")
    return import_framework("ultralytics", where, "ultralytics (AGPL-3.0)")


def load_ultralytics(
    path: Path,
    device: torch.device,
    *,
    classes: Sequence[str] | None = None,
    side: int | None = None,
) -> UltralyticsDetector:
    """Load a checkpoint, or what Ultralytics exported, by ``ultralytics.YOLO``.

    Args:
        classes: names over those of the model.
        side: image size in pixels; that of its training when not given.

    Raises:
        MissingExtraError: ``ultralytics`` is not installed.
        CheckpointError: missing, unreadable, or a model without boxes.
        ConfigError: another number of class names than the model has.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: no such file")
    package = import_ultralytics(str(path))
    try:
        model = package.YOLO(str(path))
        names = {int(number): str(name) for number, name in dict(model.names).items()}
    except Exception as error:  # noqa: BLE001  (unpickling raises many kinds)
        raise unreadable(path, "ultralytics", error) from None
    if model.task not in _WITH_BOXES:
        raise CheckpointError(
            f"{path}: a model for the task {model.task!r}, wanted one of {', '.join(_WITH_BOXES)}"
        )
    table = ClassTable.of(names, classes, str(path))
    chosen = side or _trained_side(model)
    digest = file_digest(path) if path.is_file() else str(path.resolve())
    model_id = make_model_id("ultralytics", digest, list(table.names), chosen, SCORE_FLOOR)
    _log.log(NOTICE, "%s: Ultralytics, task %s, image size %d", path, model.task, chosen)
    return UltralyticsDetector(model, table, model_id, chosen, device)


def _trained_side(model: Any) -> int:
    """Return the image size of the training, which is what ``yolo predict`` takes too."""
    value = model.overrides.get("imgsz") or 640
    return int(max(value) if isinstance(value, list | tuple) else value)


CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
_HF_WEIGHTS = ("*.safetensors", "*.bin")


class HuggingFaceDetector(FrameworkDetector):
    """A model of ``transformers`` with its own image processor before and its decoding after it."""

    def __init__(
        self, model: Any, processor: Any, classes: ClassTable, model_id: str, device: torch.device
    ) -> None:
        super().__init__(classes.names, model_id, device)
        self._model = model.eval().to(device)
        self._processor = processor
        self._classes = classes

    @torch.inference_mode()
    def run(self, pictures: Sequence[U8]) -> list[Detections]:
        """Return what the model and its ``post_process_object_detection`` find."""
        inputs = self._processor(
            images=[Image.fromarray(picture) for picture in pictures], return_tensors="pt"
        ).to(self.device)
        outputs = self._model(**inputs)
        sizes = torch.tensor([picture.shape[:2] for picture in pictures], device=self.device)
        found = self._processor.post_process_object_detection(
            outputs, threshold=SCORE_FLOOR, target_sizes=sizes
        )
        return [
            self._classes.detections(*(one[key].cpu().numpy() for key in _HF_PARTS))
            for one in found
        ]


_HF_PARTS = ("boxes", "scores", "labels")


def is_huggingface(path: Path) -> bool:
    """True for a folder that ``save_pretrained`` wrote: its ``config.json`` names a ``model_type``."""
    try:
        values = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and "model_type" in values


def load_huggingface(
    name: Path | str, device: torch.device, *, classes: Sequence[str] | None = None
) -> HuggingFaceDetector:
    """Load a folder that ``save_pretrained`` wrote, or a model of the hub by its name.

    Args:
        name: a folder, or the weights in it, of which nothing is downloaded; else a name such as
            ``PekingU/rtdetr_v2_r18vd``, which ``transformers`` downloads and keeps.
        classes: names over those of the model.

    Raises:
        MissingExtraError: ``transformers`` is not installed.
        CheckpointError: no such folder or name, no detection model, or no image processor.
        ConfigError: another number of class names than the model has.
    """
    folder = Path(name)
    if folder.suffix == ".safetensors" and folder.is_file():
        name = folder = folder.parent
    here = folder.is_dir()
    if here and not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder}: has no {CONFIG}; wanted what save_pretrained writes")
    if not here and (folder.exists() or str(name).count("/") != 1):
        raise CheckpointError(f"{name}: no such folder, wanted one that save_pretrained wrote")
    package = import_framework("transformers", str(name), "'hardmine[huggingface]'")
    if (
        here
        and not (folder / PROCESSOR).is_file()
        and not (folder / "processor_config.json").is_file()
    ):
        raise CheckpointError(
            f"{folder}: has no {PROCESSOR}, which says how images are prepared; save it there: "
            "AutoImageProcessor.from_pretrained(BASE).save_pretrained(FOLDER)"
        )
    try:
        with _no_progress_bar(package):
            processor, model = _load_transformers(package, str(name), here)
    except Exception as error:  # noqa: BLE001  (its errors have no common root)
        raise unreadable(name, "transformers", error) from None
    names = {int(number): str(label) for number, label in model.config.id2label.items()}
    table = ClassTable.of(names, classes, str(name))
    digest = _folder_digest(folder) if here else str(getattr(model.config, "_commit_hash", name))
    model_id = make_model_id("huggingface", digest, list(table.names), SCORE_FLOOR)
    _log.log(NOTICE, "%s: Hugging Face, %s", name, type(model).__name__)
    return HuggingFaceDetector(model, processor, table, model_id, device)


def _load_transformers(package: Any, name: str, here: bool) -> tuple[Any, Any]:
    """Return the image processor and the model, in float32 whatever the file holds."""
    processor = package.AutoImageProcessor.from_pretrained(name, local_files_only=here)
    model = package.AutoModelForObjectDetection.from_pretrained(
        name, local_files_only=here, dtype=torch.float32
    )
    return processor, model


@contextmanager
def _no_progress_bar(package: Any) -> Iterator[None]:
    """Keep the package from drawing a bar for every file that it reads."""
    bars = package.utils.logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


def _folder_digest(folder: Path) -> str:
    """Return the identity of a folder's weights and of how it prepares images."""
    files = sorted(
        {file for pattern in (*_HF_WEIGHTS, "*config.json") for file in folder.glob(pattern)}
    )
    parts = "".join(f"{file.name}:{file_digest(file)};" for file in files)
    return hashlib.sha256(parts.encode()).hexdigest()[:16]


class LibreYoloDetector(FrameworkDetector):
    """A model of ``libreyolo``, asked as its own ``predict`` is."""

    def __init__(
        self,
        model: Any,
        classes: ClassTable,
        model_id: str,
        side: int | None,
        device: torch.device,
    ) -> None:
        super().__init__(classes.names, model_id, device)
        self._model = model
        self._classes = classes
        self._side = side

    def run(self, pictures: Sequence[U8]) -> list[Detections]:
        """Return what the model finds in pictures of one size."""
        results = self._model(
            [Image.fromarray(picture) for picture in pictures],
            conf=SCORE_FLOOR,
            imgsz=self._side,
            batch=len(pictures),
        )
        return [
            self._classes.detections(
                *map(_plain_values, (one.boxes.xyxy, one.boxes.conf, one.boxes.cls))
            )
            for one in results
        ]


def _plain_values(values: Any) -> Any:
    return values.detach().float().cpu().numpy() if isinstance(values, torch.Tensor) else values


def load_libreyolo(
    path: Path,
    device: torch.device,
    *,
    classes: Sequence[str] | None = None,
    side: int | None = None,
) -> LibreYoloDetector:
    """Load a checkpoint, or what LibreYOLO exported, by ``libreyolo.LibreYOLO``.

    Args:
        classes: names over those of the model.
        side: image size in pixels; the model's own when not given.

    Raises:
        MissingExtraError: ``libreyolo`` is not installed.
        CheckpointError: missing, unreadable, or no detection model.
        ConfigError: another number of class names than the model has.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: no such file")
    package = import_framework("libreyolo", str(path), "'hardmine[libreyolo]'")
    try:
        model = package.LibreYOLO(str(path), device=str(device))
        names = {int(number): str(name) for number, name in dict(model.names).items()}
    except Exception as error:  # noqa: BLE001  (its errors have no common root)
        raise unreadable(path, "libreyolo", error) from None
    task = getattr(model, "task", "detect")
    if task != "detect":
        raise CheckpointError(f"{path}: a model for the task {task!r}, wanted 'detect'")
    table = ClassTable.of(names, classes, str(path))
    digest = file_digest(path) if path.is_file() else str(path.resolve())
    model_id = make_model_id("libreyolo", digest, list(table.names), side, SCORE_FLOOR)
    _log.log(NOTICE, "%s: LibreYOLO, %s", path, type(model).__name__)
    return LibreYoloDetector(model, table, model_id, side, device)


class RfDetrDetector(FrameworkDetector):
    """A model of ``rfdetr``, asked as its own ``predict`` is."""

    def __init__(
        self, model: Any, classes: ClassTable, model_id: str, device: torch.device
    ) -> None:
        super().__init__(classes.names, model_id, device)
        self._model = model
        self._classes = classes
        self._number_of = {name: number for number, name in _rfdetr_names(model).items()}

    @torch.inference_mode()
    def run(self, pictures: Sequence[U8]) -> list[Detections]:
        """Return what ``model.predict`` finds in pictures of one size."""
        found = self._model.predict(
            list(pictures), threshold=SCORE_FLOOR, include_source_image=False
        )
        return [
            self._classes.detections(one.xyxy, one.confidence, self._numbers(one)) for one in found
        ]

    def _numbers(self, found: Any) -> list[int]:
        """Return the classes of detections by their names: ``class_id`` counts by the model.

        Background has a name of its own, which is no class.
        """
        return [self._number_of.get(str(name), -1) for name in found.data["class_name"]]


def load_rfdetr(
    path: Path, device: torch.device, *, classes: Sequence[str] | None = None
) -> RfDetrDetector:
    """Load a checkpoint that RF-DETR's training wrote; no code in it is run.

    Args:
        classes: names over those of the model.

    Raises:
        MissingExtraError: ``rfdetr`` is not installed.
        CheckpointError: missing, unreadable, or a file that does not say which model it is.
        ConfigError: another number of class names than the model has.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    package = import_framework("rfdetr", str(path), "'hardmine[rfdetr]'")
    try:
        model = package.RFDETR.from_checkpoint(str(path.resolve()), device=str(device))
        names = _rfdetr_names(model)
    except Exception as error:  # noqa: BLE001  (its errors have no common root)
        raise unreadable(path, "rfdetr", error) from None
    if getattr(model.model_config, "use_grouppose_keypoints", False):
        raise CheckpointError(f"{path}: a model for key points, wanted one for boxes")
    table = ClassTable.of(names, classes, str(path))
    model_id = make_model_id("rfdetr", file_digest(path), list(table.names), SCORE_FLOOR)
    _log.log(NOTICE, "%s: RF-DETR, %s", path, type(model).__name__)
    return RfDetrDetector(model, table, model_id, device)


def _rfdetr_names(model: Any) -> dict[int, str]:
    return {number: str(name) for number, name in enumerate(model.class_names)}
