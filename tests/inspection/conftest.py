"""Pictures of a white block on grey with their labels, right and mixed up."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hardmine.models.backbones import SmallNetConfig
from hardmine.models.neck_and_head import ExtraLayersConfig, HeadConfig
from hardmine.models.ssd import SSDConfig
from hardmine.recipes.recipe import Recipe

Write = Callable[[list[float]], Sequence[float]]


@pytest.fixture
def tiny_recipe() -> Recipe:
    """48 px, two levels."""
    model = SSDConfig(
        name="tiny",
        height=48,
        width=48,
        backbone=SmallNetConfig(widths=(8, 8, 8), depths=(1, 1, 1), num_taps=1),
        neck=ExtraLayersConfig(widths=(8,), depthwise=False),
        head=HeadConfig(depthwise=False),
    )
    return replace(Recipe(), model=model, precision="fp32")


@pytest.fixture
def blocks(tmp_path: Path) -> Callable[[str, Write], Path]:
    """Write twelve pictures of 120 × 90 with one block each; ``write`` turns its xyxy into ``bbox``."""

    def make(name: str, write: Write) -> Path:
        rng, folder = np.random.default_rng(3), tmp_path / name
        folder.mkdir()
        images, annotations = [], []
        for index in range(12):
            picture = Image.new("RGB", (120, 90), (90, 90, 90))
            x, y = (int(v) for v in rng.integers(30, 70, 2))
            x1, y1 = x + int(rng.integers(20, 45)), min(88, y + int(rng.integers(15, 30)))
            picture.paste("white", (x, y, x1, y1))
            picture.save(folder / f"b{index:02}.png")
            size = {"width": 120, "height": 90}
            images.append({"id": index, "file_name": f"b{index:02}.png", **size})
            box = list(write([float(v) for v in (x, y, x1, y1)]))
            annotations.append({"id": index, "image_id": index, "category_id": 1, "bbox": box})
        value = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": 1, "name": "block"}],
        }
        (folder / "labels.json").write_text(json.dumps(value))
        return folder

    return make
