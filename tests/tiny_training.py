"""A dataset of squares and a network small enough to train in a second."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hardmine.augment.chain import AugmentConfig
from hardmine.models.backbones import SmallNetConfig
from hardmine.models.layers import XavierInit
from hardmine.models.neck_and_head import ExtraLayersConfig, HeadConfig
from hardmine.models.ssd import SSDConfig
from hardmine.recipes.recipe import BatchConfig, OptimConfig, Recipe
from hardmine.types import Dataset, ImageRecord, ImageState


@pytest.fixture
def tiny_recipe() -> Recipe:
    model = SSDConfig(
        name="tiny",
        height=48,
        width=48,
        backbone=SmallNetConfig(widths=(8, 12, 16), depths=(1, 1, 1), num_taps=1),
        neck=ExtraLayersConfig(widths=(16,), depthwise=False),
        head=HeadConfig(depthwise=False),
        init=XavierInit(magnitude=1.0),
    )
    return replace(
        Recipe(),
        model=model,
        augment=AugmentConfig(max_expand=1.5),
        batch=BatchConfig(size=4),
        optim=OptimConfig(lr=3e-3, warmup_steps=2, ema_decay=0.9),
        precision="fp32",
    )


@pytest.fixture
def squares(tmp_path: Path) -> Dataset:
    """Eight images with a white square, four empty ones."""
    folder = tmp_path / "squares"
    folder.mkdir()
    records = []
    for index in range(12):
        rng = np.random.default_rng(index)
        image = Image.fromarray(rng.integers(0, 90, (48, 48, 3), np.uint8))
        path = folder / f"{index}.png"
        if index < 8:
            x, y = (int(v) for v in rng.integers(0, 24, 2))
            image.paste("white", (x, y, x + 20, y + 20))
            box = np.array([[x, y, x + 20, y + 20]], np.float32)
            one, none = np.ones(1, np.int64), np.zeros(1, bool)
            records.append(ImageRecord(path, 48, 48, box, one, none, ImageState.LABELLED))
        else:
            records.append(ImageRecord.empty(path, 48, 48, ImageState.VERIFIED_EMPTY))
        image.save(path)
    return Dataset(("square",), tuple(records), folder)
