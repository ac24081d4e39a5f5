"""Training, measuring and mining see identical pixels of a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from hardmine.augment.chain import NO_AUGMENT, Augmenter
from hardmine.data.resize import Mode, Resize
from hardmine.detections import Detections
from hardmine.inference.detector import BatchScores
from hardmine.inference.predict import detect_on_canvas, score_images
from hardmine.training.batches import load_sample
from hardmine.types import ImageRecord, ImageState


class Looking:
    """A detector that keeps what it was shown."""

    categories = ("thing",)
    model_id = "looking"

    def __init__(self, resize: Resize) -> None:
        self.resize = resize
        self.seen: list[Tensor] = []

    def score(self, images: Tensor) -> BatchScores:
        self.seen.append(images.clone())
        nothing = torch.zeros(len(images))
        return BatchScores(nothing, nothing.long() + 1, nothing.long())

    def detect(self, images: Tensor) -> list[Detections]:
        self.seen.append(images.clone())
        return [Detections.none() for _ in images]


@pytest.mark.parametrize("mode", ["stretch", "letterbox", "shortest", "inscribe"])
def test_identical_pixels(tmp_path: Path, mode: Mode) -> None:
    """A small file and a large one (decoded at a fraction), upright, turned, grey and PNG."""
    noise = np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    paths = []
    for number, size in enumerate([(90, 61), (517, 389)]):
        image = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
        image.save(tmp_path / f"{number}.jpg", quality=90)
        image.save(tmp_path / f"{number}t.jpg", quality=90, exif=exif)
        image.convert("L").save(tmp_path / f"{number}g.jpg")
        image.save(tmp_path / f"{number}.png")
        paths += [tmp_path / f"{number}{end}" for end in (".jpg", "t.jpg", "g.jpg", ".png")]
    resize = Resize(64, 80, mode)
    augmenter = Augmenter(resize, NO_AUGMENT)
    records = [ImageRecord.empty(path, 1, 1, ImageState.VERIFIED_EMPTY) for path in paths]
    rng = np.random.default_rng(0)
    trained = np.stack([load_sample(record, augmenter, rng).image for record in records])
    measuring, mining = Looking(resize), Looking(resize)
    detect_on_canvas(measuring, paths)
    list(score_images(mining, paths, batch_size=None))
    for detector in (measuring, mining):
        shown = torch.cat(detector.seen).permute(0, 2, 3, 1).numpy()
        # What is scored in full is filled up to a whole batch.
        assert (shown[: len(trained)] == trained).all()
