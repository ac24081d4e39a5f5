"""Checkpoints of RF-DETR, run by its own package ``rfdetr``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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

_log = logging.getLogger("hardmine")


class RfDetrDetector(FrameworkDetector):
    """A model of ``rfdetr``, asked as its own ``predict`` is."""

    def __init__(
        self, model: Any, classes: ClassTable, model_id: str, device: torch.device
    ) -> None:
        super().__init__(classes.names, model_id, device)
        self._model = model
        self._classes = classes
        self._number_of = {name: number for number, name in _names(model).items()}

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
        names = _names(model)
    except Exception as error:  # noqa: BLE001  (its errors have no common root)
        raise unreadable(path, "rfdetr", error) from None
    if getattr(model.model_config, "use_grouppose_keypoints", False):
        raise CheckpointError(f"{path}: a model for key points, wanted one for boxes")
    table = ClassTable.of(names, classes, str(path))
    model_id = make_model_id("rfdetr", file_digest(path), list(table.names), SCORE_FLOOR)
    _log.log(NOTICE, "%s: RF-DETR, %s", path, type(model).__name__)
    return RfDetrDetector(model, table, model_id, device)


def _names(model: Any) -> dict[int, str]:
    return {number: str(name) for number, name in enumerate(model.class_names)}
