"""Detection models of Hugging Face ``transformers``: a folder with ``config.json``, or a hub name.

Every model of ``AutoModelForObjectDetection`` (RT-DETR, D-FINE, DETR, YOLOS …) with its own image
processor, in float32. No code that lies in the folder is run.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
_WEIGHTS = ("*.safetensors", "*.bin")
_log = logging.getLogger("hardmine")


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
            self._classes.detections(*(one[key].cpu().numpy() for key in _PARTS)) for one in found
        ]


_PARTS = ("boxes", "scores", "labels")


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
            processor, model = _load(package, str(name), here)
    except Exception as error:  # noqa: BLE001  (its errors have no common root)
        raise unreadable(name, "transformers", error) from None
    names = {int(number): str(label) for number, label in model.config.id2label.items()}
    table = ClassTable.of(names, classes, str(name))
    digest = _digest(folder) if here else str(getattr(model.config, "_commit_hash", name))
    model_id = make_model_id("huggingface", digest, list(table.names), SCORE_FLOOR)
    _log.log(NOTICE, "%s: Hugging Face, %s", name, type(model).__name__)
    return HuggingFaceDetector(model, processor, table, model_id, device)


def _load(package: Any, name: str, here: bool) -> tuple[Any, Any]:
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


def _digest(folder: Path) -> str:
    """Return the identity of a folder's weights and of how it prepares images."""
    files = sorted(
        {file for pattern in (*_WEIGHTS, "*config.json") for file in folder.glob(pattern)}
    )
    parts = "".join(f"{file.name}:{file_digest(file)};" for file in files)
    return hashlib.sha256(parts.encode()).hexdigest()[:16]
