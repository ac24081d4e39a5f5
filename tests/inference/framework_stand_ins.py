"""Stand-ins for other frameworks: packages of their names whose models answer with what they see.

Each finds one object per picture, as large as the picture, with the mean of its red channel as the
score; class number 1 of ``CLASSES`` where that is above one half. Each holds the adapter to what the
real package wants: Ultralytics BGR arrays, Hugging Face and LibreYOLO pictures, RF-DETR RGB arrays, and
all pictures of a call of one size.
"""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

CLASSES = ("cat", "dog")
CALLS: list[int] = []
"""Pictures in each call of a stand-in's network."""
ASKED: list[dict[str, Any]] = []


def answer(pixels: np.ndarray) -> tuple[list[float], float, int]:
    height, width = pixels.shape[:2]
    score = float(pixels[..., 0].mean()) / 255
    return [0.0, 0.0, float(width), float(height)], score, int(score > 0.5)


def answers(pictures: list[np.ndarray]) -> list[tuple[list[float], float, int]]:
    assert len({picture.shape for picture in pictures}) == 1
    CALLS.append(len(pictures))
    return [answer(picture) for picture in pictures]


def ultralytics(task: str = "detect") -> types.ModuleType:
    class YOLO:
        def __init__(self, path: str) -> None:
            self.names = dict(enumerate(CLASSES))
            self.overrides = {"imgsz": 320}
            self.task = task

        def predict(self, source: list[np.ndarray], **asked: Any) -> list[Any]:
            ASKED.append(asked)
            found = answers([picture[..., ::-1] for picture in source])
            return [types.SimpleNamespace(boxes=_boxes([one])) for one in found]

    module = types.ModuleType("ultralytics")
    module.YOLO = YOLO  # type: ignore[attr-defined]
    return module


def _boxes(rows: list[tuple[list[float], float, int]]) -> Any:
    boxes, scores, numbers = zip(*rows, strict=True)
    return types.SimpleNamespace(
        xyxy=torch.tensor(boxes), conf=torch.tensor(scores), cls=torch.tensor(numbers).float()
    )


def libreyolo() -> types.ModuleType:
    class Model:
        task = "detect"

        @property
        def names(self) -> dict[int, str]:
            return dict(enumerate(CLASSES))

        def __call__(self, source: list[Image.Image], **asked: Any) -> list[Any]:
            ASKED.append(asked)
            found = answers([np.asarray(picture) for picture in source])
            return [types.SimpleNamespace(boxes=_boxes([one])) for one in found]

    module = types.ModuleType("libreyolo")
    module.LibreYOLO = lambda path, device: Model()  # type: ignore[attr-defined]
    return module


def rfdetr() -> types.ModuleType:
    """``class_id`` counts in another way than the names, and background is among the answers."""

    class RFDETR:
        class_names = CLASSES
        model_config = types.SimpleNamespace()

        @classmethod
        def from_checkpoint(cls, path: str, device: str) -> RFDETR:
            assert Path(path).is_absolute()
            return cls()

        def predict(self, source: list[np.ndarray], **asked: Any) -> list[Any]:
            ASKED.append(asked)
            return [
                types.SimpleNamespace(
                    xyxy=np.array([box, box], np.float32),
                    confidence=np.array([score, 0.9], np.float32),
                    class_id=np.array([17 + number, 2]),
                    data={"class_name": np.array([CLASSES[number], "__background__"], object)},
                )
                for box, score, number in answers(source)
            ]

    module = types.ModuleType("rfdetr")
    module.RFDETR = RFDETR  # type: ignore[attr-defined]
    return module


class _Inputs(dict):  # type: ignore[type-arg]
    def to(self, device: torch.device) -> _Inputs:
        return self


def transformers() -> types.ModuleType:
    """Class numbers have a gap, named N/A as in COCO."""

    class Processor:
        @classmethod
        def from_pretrained(cls, name: str, local_files_only: bool) -> Processor:
            assert local_files_only == Path(name).is_dir()
            return cls()

        def __call__(self, images: list[Image.Image], return_tensors: str) -> _Inputs:
            return _Inputs(pictures=[np.asarray(image) for image in images])

        def post_process_object_detection(
            self, outputs: Any, threshold: float, target_sizes: torch.Tensor
        ) -> list[dict[str, torch.Tensor]]:
            ASKED.append({"threshold": threshold})
            return [
                {
                    "boxes": torch.tensor([[0.0, 0.0, float(width), float(height)]]),
                    "scores": torch.tensor([score]),
                    "labels": torch.tensor([2 if number else 0]),
                }
                for (_, score, number), (height, width) in zip(
                    outputs, target_sizes.tolist(), strict=True
                )
            ]

    class Model(torch.nn.Module):
        config = types.SimpleNamespace(
            id2label={0: CLASSES[0], 1: "N/A", 2: CLASSES[1]}, _commit_hash="abc"
        )

        @classmethod
        def from_pretrained(cls, name: str, local_files_only: bool, dtype: torch.dtype) -> Model:
            assert dtype == torch.float32
            return cls()

        def forward(self, pictures: list[np.ndarray]) -> Any:
            return answers(pictures)

    module = types.ModuleType("transformers")
    module.AutoImageProcessor = Processor  # type: ignore[attr-defined]
    module.AutoModelForObjectDetection = Model  # type: ignore[attr-defined]
    bars = types.SimpleNamespace(
        is_progress_bar_enabled=lambda: False, disable_progress_bar=lambda: None
    )
    module.utils = types.SimpleNamespace(logging=bars)  # type: ignore[attr-defined]
    return module


def foreign_pickle(path: Path, module: str, patch: pytest.MonkeyPatch) -> Path:
    """Write a checkpoint that names a class of that module, which is not there afterwards."""
    made = types.ModuleType(module)
    thing = type("DetectionModel", (), {"__module__": module})
    made.DetectionModel = thing  # type: ignore[attr-defined]
    parts = module.split(".")
    with patch.context() as inside:
        for i in range(1, len(parts)):
            package = types.ModuleType(".".join(parts[:i]))
            package.__path__ = []  # type: ignore[attr-defined]
            inside.setitem(sys.modules, package.__name__, package)
        inside.setitem(sys.modules, module, made)
        torch.save({"model": thing(), "epoch": 3}, path)
    return path


def install(kind: str, folder: Path, patch: pytest.MonkeyPatch) -> str:
    """Put a stand-in in place of a framework and return the text that names a model of it."""
    CALLS.clear()
    ASKED.clear()
    module = {
        "ultralytics": ultralytics,
        "libreyolo": libreyolo,
        "rfdetr": rfdetr,
        "transformers": transformers,
    }[kind]()
    path = folder / "best.pt"
    match kind:
        case "ultralytics":
            foreign_pickle(path, "ultralytics.nn.tasks", patch)
        case "libreyolo":
            state = {"w": torch.zeros(1)}
            torch.save({"libreyolo_version": "1", "model_family": "x", "model": state}, path)
        case "rfdetr":
            state = {"w": torch.zeros(1)}
            torch.save({"model": state, "args": {}, "model_name": "RFDETRNano"}, path)
        case _:
            path = folder / "saved"
            path.mkdir()
            (path / "config.json").write_text(json.dumps({"model_type": "detr"}))
            (path / "preprocessor_config.json").write_text("{}")
            (path / "model.safetensors").write_bytes(b"weights")
    patch.setitem(sys.modules, kind, module)
    return str(path)
