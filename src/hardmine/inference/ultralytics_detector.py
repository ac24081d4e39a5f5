"""Checkpoints of Ultralytics (YOLO of any version, RT-DETR), run by the user's own ``ultralytics``.

That package is under AGPL-3.0. It is no dependency, and it is imported only when such a file is named.
A ``.pt`` is a pickle: loading it runs the code that it names, as ``yolo predict`` does.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hardmine.detections import Detections
from hardmine.errors import NOTICE, CheckpointError
from hardmine.inference.detector import make_model_id
from hardmine.inference.framework_detector import (
    SCORE_FLOOR,
    ClassTable,
    FrameworkDetector,
    import_framework,
    unreadable,
)
from hardmine.recipes.checkpoint import file_digest
from hardmine.types import U8

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
        """Return what ``model.predict`` finds in pictures of one size (it takes BGR)."""
        bgr = [np.ascontiguousarray(picture[..., ::-1]) for picture in pictures]
        if self._predictor is not None:
            results = self._predictor(source=bgr, stream=False)
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
            # it keeps what was asked; later calls need not check all settings again
            self._predictor = getattr(self._model, "predictor", None)
        return [_detections(result.boxes, self._classes) for result in results]


def _detections(boxes: Any, classes: ClassTable) -> Detections:
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
