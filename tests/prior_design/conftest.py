"""A COCO set of long boxes on small pictures, and a network that is quick to build."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hardmine.augment.chain import AugmentConfig
from hardmine.models.backbones import SmallNetConfig
from hardmine.models.neck_and_head import ExtraLayersConfig, HeadConfig
from hardmine.models.ssd import SSDConfig
from hardmine.recipes.recipe import BatchConfig, Recipe


@pytest.fixture
def tiny_recipe() -> Recipe:
    """48 px, levels of 6 × 6 and 3 × 3 cells with the default rule's priors."""
    model = SSDConfig(
        name="tiny",
        height=48,
        width=48,
        backbone=SmallNetConfig(widths=(8, 8, 8), depths=(1, 1, 1), num_taps=1),
        neck=ExtraLayersConfig(widths=(8,), depthwise=False),
        head=HeadConfig(depthwise=False),
    )
    none = AugmentConfig(photometric=0, expand=0, crop=False, mirror=0, random_interpolation=False)
    return replace(Recipe(), model=model, augment=none, batch=BatchConfig(size=4), precision="fp32")


@pytest.fixture
def long_boxes(tmp_path: Path) -> Path:
    """A COCO folder: 24 pictures of 96 × 96, each with one box about 48 wide and 21 high."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "long"
    folder.mkdir()
    images, annotations = [], []
    for index in range(24):
        coarse = rng.integers(0, 256, (7, 7, 3), np.uint8)
        picture = Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC)
        w, h = rng.uniform(42, 54), rng.uniform(18, 24)
        x, y = rng.uniform(0, 96 - w), rng.uniform(0, 96 - h)
        picture.paste("white", (round(x), round(y), round(x + w), round(y + h)))
        picture.save(folder / f"{index:02}.jpg")
        images.append({"id": index, "file_name": f"{index:02}.jpg", "width": 96, "height": 96})
        box = [x, y, w, h]
        annotations.append({"id": index, "image_id": index, "category_id": 1, "bbox": box})
    categories = [{"id": 1, "name": "plank"}]
    value = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "labels.json").write_text(json.dumps(value), encoding="utf-8")
    return folder
