"""The steps as torchvision v2 transforms, and the fused chain against torchvision's own operations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from hardmine.augment.chain import NO_AUGMENT, Augmenter, augment_preset
from hardmine.augment.geometry_and_colour import MosaicConfig, View, flip, mirror
from hardmine.augment.paste import CopyPasteConfig, OcclusionConfig
from hardmine.augment.sample import Sample, Source
from hardmine.augment.torchvision_transforms import (
    AnyBoxCrop,
    Augment,
    CopyPaste,
    Expand,
    FitCanvas,
    Mosaic,
    Occlude,
    Photometric,
    ssd_steps,
)
from hardmine.data.images import Cover, Picture
from hardmine.data.resize import Resize

BOXES = np.array([[12, 8, 60, 40], [70, 30, 110, 78]], np.float32)


def picture(width: int = 120, height: int = 80) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 255, (6, 9, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def target(boxes: np.ndarray = BOXES) -> dict[str, Any]:
    box = tv_tensors.BoundingBoxes(torch.from_numpy(boxes), format="XYXY", canvas_size=(80, 120))
    return {"boxes": box, "labels": torch.arange(len(boxes)) + 1, "image_id": 7}


def source() -> Source:
    return Source(Picture.of(picture()), BOXES, np.arange(2) + 1, np.zeros(2, bool))


class Itself:
    def draw(self, rng: np.random.Generator, *, objects: bool, cover: Cover) -> Source:
        return source()


@pytest.mark.parametrize(
    ("window", "canvas"),
    [
        ((0, 0, 120, 80), (64, 48)),
        ((10, 5, 90, 70), (64, 48)),
        ((-60, -40, 180, 120), (60, 40)),  # at 1/4 the image lies on whole canvas pixels,
        ((-40, 8, 56, 72), (48, 32)),  # and so it does at 1/2
    ],
)
def test_one_resampling_equals_pad_crop_and_resize_of_torchvision(
    window: tuple[int, int, int, int], canvas: tuple[int, int]
) -> None:
    """Pixels near a cut differ: one resampling sees what lies beyond it, a crop does not."""
    fill = (124, 116, 104)
    x0, y0, x1, y1 = window
    resize = Resize(canvas[1], canvas[0], fill=fill)
    bilinear = Image.Resampling.BILINEAR
    ours = View(120, 80, np.array(window, float), resize, bilinear, np.zeros(4)).render(source())
    padding = [max(0, -x0), max(0, -y0), max(0, x1 - 120), max(0, y1 - 80)]
    corner, size = (max(0, y0), max(0, x0)), (y1 - y0, x1 - x0)
    shown = [
        F.resize(F.crop(F.pad(i, padding, fill=list(fill)), *corner, *size), list(canvas[::-1]))
        for i in (picture(), target()["boxes"])
    ]
    centre = (BOXES[:, :2] + BOXES[:, 2:]) / 2
    keep = ((centre >= window[:2]) & (centre < window[2:])).all(1)
    their_boxes = shown[1].numpy()[keep].clip(0, [*canvas, *canvas])
    assert np.abs(ours.boxes - their_boxes).max() < 1e-4
    difference = np.abs(ours.image.astype(int) - np.asarray(shown[0])).max(-1)
    if padding == [0, 0, 0, 0] and corner == (0, 0):
        assert difference.max() == 0
    scale = np.array(canvas) / (x1 - x0, y1 - y0)
    low = np.round((np.maximum((0, 0), window[:2]) - (x0, y0)) * scale).astype(int) + 2
    high = np.round((np.minimum((120, 80), window[2:]) - (x0, y0)) * scale).astype(int) - 2
    assert difference[low[1] : high[1], low[0] : high[0]].max() <= 1
    assert np.median(difference) == 0


def test_flips_are_those_of_torchvision() -> None:
    given = Sample(np.asarray(picture()), BOXES, np.arange(2) + 1, np.zeros(2, bool))
    image = tv_tensors.Image(torch.from_numpy(given.image.copy()).permute(2, 0, 1))
    box = target()["boxes"]
    for ours, theirs in ((mirror, F.horizontal_flip), (flip, F.vertical_flip)):
        sample = ours(given)
        assert (sample.image == theirs(image).permute(1, 2, 0).numpy()).all()
        assert (sample.boxes == theirs(box).numpy()).all()
        back = ours(sample)
        assert (back.image == given.image).all()
        assert (back.boxes == given.boxes).all()


@pytest.mark.parametrize("preset", ["none", "light", "ssd", "strong"])
def test_the_transform_is_the_chain_of_training(preset: str) -> None:
    augmenter = Augmenter(Resize(48, 64), augment_preset(preset), Itself())
    for seed in range(15):
        torch.manual_seed(seed)
        image, changed = Augment(augmenter)(picture(), target())
        torch.manual_seed(seed)
        rng = np.random.default_rng(int(torch.randint(2**62, ())))
        s = source()
        sample = augmenter.draw(lambda _: s.picture, s.boxes, s.labels, s.ignore, rng)  # noqa: B023
        assert (np.asarray(image) == sample.image).all()
        assert (changed["boxes"].numpy() == sample.boxes).all()
        assert changed["labels"].tolist() == sample.labels.tolist()
        assert changed["image_id"] == 7


def test_step_by_step_draws_what_the_fused_chain_draws() -> None:
    """How many boxes are kept, and how large they are, over 200 draws."""
    config = replace(augment_preset("ssd"), random_interpolation=False, photometric=0.0)
    fused = Augmenter(Resize(48, 64), config)
    steps = v2.Compose(ssd_steps(config, Resize(48, 64)))
    torch.manual_seed(0)
    counts, areas = np.zeros((2, 200)), np.zeros((2, 200))
    for i in range(200):
        rng = np.random.default_rng(i)
        s = source()
        a = fused.draw(lambda _: s.picture, s.boxes, s.labels, s.ignore, rng).boxes  # noqa: B023
        b = steps(picture(), target())[1]["boxes"].numpy()
        for row, boxes in enumerate((a, b)):
            counts[row, i] = len(boxes)
            areas[row, i] = (boxes[:, 2:] - boxes[:, :2]).prod(1).sum()
    for values in (counts, areas):
        error = np.sqrt(values.var(1).sum() / 200)
        assert abs(values[0].mean() - values[1].mean()) < 3 * error


@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize("empty", [False, True])
def test_every_step_in_a_pipeline_of_torchvision(tensor: bool, empty: bool) -> None:
    resize = Resize(48, 64)
    config = OcclusionConfig(probability=1.0)
    pipeline = v2.Compose(
        [
            *([v2.ToImage()] if tensor else []),
            Expand(1.0, 2.0),
            AnyBoxCrop(),
            FitCanvas(resize),
            CopyPaste(CopyPasteConfig(probability=1.0), resize, Itself()),
            Occlude(config),
            Photometric(),
            v2.RandomHorizontalFlip(1.0),
            v2.ClampBoundingBoxes(),
        ]
    )
    torch.manual_seed(1)
    boxes = np.zeros((0, 4), np.float32) if empty else BOXES
    for _ in range(10):
        image, changed = pipeline(picture(), target(boxes))
        assert isinstance(image, tv_tensors.Image if tensor else Image.Image)
        assert F.get_size(image) == [48, 64]
        assert changed["boxes"].canvas_size == (48, 64)
        assert changed["boxes"].shape == (len(changed["labels"]), 4)
        assert len(changed["labels"]) == 0 or not empty


def test_mosaic_and_other_box_formats() -> None:
    resize = Resize(48, 64)
    given = target()
    given["boxes"] = F.convert_bounding_box_format(given["boxes"], new_format="CXCYWH")
    given["ignore"] = torch.tensor([False, True])
    torch.manual_seed(0)
    image, changed = Mosaic(MosaicConfig(probability=1.0), resize, Itself())(picture(), given)
    assert image.size == (64, 48)
    assert len(changed["ignore"]) == len(changed["labels"]) > 2
    plain, same = FitCanvas(resize)(picture(), given)
    scale = np.array([64 / 120, 48 / 80] * 2)
    assert np.allclose(same["boxes"].numpy(), BOXES * scale, atol=1e-4)
    assert (np.asarray(plain) == resize.apply(picture())[0]).all()
    assert same["ignore"].tolist() == [False, True]


def test_a_window_of_whole_pixels_is_not_resampled() -> None:
    torch.manual_seed(3)
    image, changed = Expand(1.0, 3.0, (0, 0, 0))(picture(), target())
    shown = np.asarray(image)
    x, y = (round(float(v)) for v in changed["boxes"][0, :2])
    assert (shown[y : y + 32, x : x + 48] == np.asarray(picture())[8:40, 12:60]).all()
    assert NO_AUGMENT.expand == 0
