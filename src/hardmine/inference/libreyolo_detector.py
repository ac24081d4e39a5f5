"""Models of LibreYOLO (YOLOX, YOLOv9, D-FINE, RT-DETR … under MIT), run by its own package."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

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

_log = logging.getLogger("hardmine")


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
            self._classes.detections(*map(_plain, (one.boxes.xyxy, one.boxes.conf, one.boxes.cls)))
            for one in results
        ]


def _plain(values: Any) -> Any:
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
