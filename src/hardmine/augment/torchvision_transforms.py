"""The augmentation steps as torchvision v2 transforms, for pipelines of one's own.

Each takes ``(image, target)`` as torchvision's detection references do: a PIL image or a uint8
``tv_tensors.Image``, and a dict with ``boxes`` (``tv_tensors.BoundingBoxes``), ``labels`` (i64[N])
and optionally ``ignore`` (bool[N]); other keys pass through. They mix freely with torchvision's own.
Randomness comes from torch's generator, as in torchvision.

Training does not go this way: :class:`~hardmine.augment.chain.Augmenter` runs the same functions, with
expanding, cropping and resizing fused into one resampling (docs/decisions/0005-augmentation.md).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from hardmine.augment.chain import NO_AUGMENT, AugmentConfig, Augmenter
from hardmine.augment.geometry_and_colour import MosaicConfig, distort, draw_view, mosaic
from hardmine.augment.paste import (
    Alarm,
    AlarmPasteConfig,
    CopyPasteConfig,
    OcclusionConfig,
    alarm_paste,
    copy_paste,
    occlude,
)
from hardmine.augment.sample import Donors, Sample, Source
from hardmine.data.images import Picture
from hardmine.data.resize import Colour, Resize

_MEAN: Colour = (124, 116, 104)


class Step(v2.Transform):  # type: ignore[misc]
    """One step on ``(image, target)``."""

    @abstractmethod
    def step(self, source: Source, rng: np.random.Generator) -> Sample:
        """Return the sample that the step draws."""

    def forward(self, image: Any, target: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return the new image, of the kind that was given, and the new target."""
        rng = np.random.default_rng(int(torch.randint(2**62, ())))
        return _give_back(image, target, self.step(_take(image, target), rng))


class Augment(Step):
    """The whole fused chain, resize included: what training sees."""

    def __init__(self, augmenter: Augmenter) -> None:
        super().__init__()
        self.augmenter = augmenter

    def step(self, source: Source, rng: np.random.Generator) -> Sample:
        """See :meth:`Augmenter.draw`."""
        return self.augmenter.draw(
            lambda _: source.picture, source.boxes, source.labels, source.ignore, rng
        )


class Expand(Step):
    """Lay the image on a larger canvas of one colour."""

    def __init__(self, p: float = 0.5, max_expand: float = 4.0, fill: Colour = _MEAN) -> None:
        super().__init__()
        self.config, self.fill = replace(NO_AUGMENT, expand=p, max_expand=max_expand), fill

    def step(self, source: Source, rng: np.random.Generator) -> Sample:
        """Boxes keep their size."""
        return _draw_window(source, self.config, self.fill, rng)


class AnyBoxCrop(Step):
    """The SSD's crop: *any* box may reach the IoU; images without boxes are cropped, too."""

    def __init__(
        self,
        min_overlaps: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9),
        min_crop: float = 0.3,
        trials: int = 50,
    ) -> None:
        super().__init__()
        self.config = replace(
            NO_AUGMENT, crop=True, min_overlaps=min_overlaps, min_crop=min_crop, crop_trials=trials
        )

    def step(self, source: Source, rng: np.random.Generator) -> Sample:
        """Boxes whose centre is cut off are gone; regions to be ignored when all of them is."""
        return _draw_window(source, self.config, _MEAN, rng)


class FitCanvas(Step):
    """Bring the image onto a canvas; the same resize as in evaluation and mining."""

    def __init__(self, resize: Resize) -> None:
        super().__init__()
        self.chain = Augmenter(resize, NO_AUGMENT)

    def step(self, source: Source, rng: np.random.Generator) -> Sample:
        """Nothing is drawn."""
        return self.chain.draw(
            lambda _: source.picture, source.boxes, source.labels, source.ignore, rng
        )


class Photometric(Step):
    """Brightness, contrast, saturation and hue, each with probability ``p``, as one matrix."""

    def __init__(self, p: float = 0.5, strength: float = 1.0) -> None:
        super().__init__()
        self.p, self.strength = p, strength

    def step(self, source: Source, rng: np.random.Generator) -> Sample:
        """Boxes stay."""
        return distort(_plain(source), self.p, self.strength, rng)


class Occlude(Step):
    """Patches over part of each object."""

    def __init__(self, config: OcclusionConfig, fill: Colour = _MEAN) -> None:
        super().__init__()
        self.config, self.fill = config, fill

    def step(self, source: Source, rng: np.random.Generator) -> Sample:
        """Boxes stay."""
        return occlude(_plain(source), self.config, self.fill, rng)


class CopyPaste(Step):
    """Objects of other images and of the same one; at the size at which ``resize`` shows them."""

    def __init__(self, config: CopyPasteConfig, resize: Resize, donors: Donors | None) -> None:
        super().__init__()
        self.config, self.resize, self.donors = config, resize, donors

    def step(self, source: Source, rng: np.random.Generator) -> Sample:
        """Boxes of what was pasted come last."""
        return copy_paste(_plain(source), self.config, self.resize, rng, self.donors)


class AlarmPaste(Step):
    """Patterns on which a detector fired wrongly, beside the objects."""

    def __init__(self, config: AlarmPasteConfig, resize: Resize, alarms: Sequence[Alarm]) -> None:
        super().__init__()
        self.config, self.resize, self.alarms = config, resize, alarms

    def step(self, source: Source, rng: np.random.Generator) -> Sample:
        """Boxes stay."""
        return alarm_paste(_plain(source), self.config, self.resize, rng, self.alarms)


class Mosaic(Step):
    """Four images on a canvas of ``resize``; the image must be whole, not on a canvas yet."""

    def __init__(self, config: MosaicConfig, resize: Resize, donors: Donors) -> None:
        super().__init__()
        self.config, self.resize, self.donors = config, resize, donors

    def step(self, source: Source, rng: np.random.Generator) -> Sample:
        """With probability ``config.probability``."""
        if rng.random() >= self.config.probability:
            return _plain(source)
        return mosaic(source, self.config, self.resize, rng, self.donors)


def ssd_steps(config: AugmentConfig, resize: Resize) -> list[Any]:
    """Return the SSD's own steps one by one: expand, crop, resize, flips, photometric.

    They draw from the same distribution as the fused chain but for what needs one resampling:
    windows are whole pixels of the image, and the interpolation is bilinear.
    """
    crop = AnyBoxCrop(config.min_overlaps, config.min_crop, config.crop_trials)
    return [
        Expand(config.expand, config.max_expand, resize.fill),
        *([crop] if config.crop else []),
        FitCanvas(resize),
        v2.RandomHorizontalFlip(config.mirror),
        v2.RandomVerticalFlip(config.vertical_flip),
        Photometric(config.photometric, config.photometric_strength),
    ]


def _draw_window(
    source: Source, config: AugmentConfig, fill: Colour, rng: np.random.Generator
) -> Sample:
    """Draw a window and show it at the image's own size: whole pixels, nothing is resampled."""
    width, height = source.picture.width, source.picture.height
    view = draw_view(width, height, source.boxes, Resize(1, 1, fill=fill), config, rng)
    window = view.window.round()
    wide, high = (window[2:] - window[:2]).clip(1).astype(int).tolist()
    window[2:] = window[:2] + np.array([wide, high])
    resize = Resize(high, wide, fill=fill)
    return replace(view, window=window, expanded=window, resize=resize).render(source)


def _take(image: Any, target: dict[str, Any]) -> Source:
    if isinstance(image, Image.Image):
        picture = Picture.of(image.convert("RGB"))
    else:
        array = image.permute(1, 2, 0).contiguous().numpy()
        picture = Picture.of(Image.fromarray(array))
    boxes = v2.functional.convert_bounding_box_format(
        target["boxes"], new_format=tv_tensors.BoundingBoxFormat.XYXY
    )
    labels = target["labels"].numpy()
    ignore = target["ignore"].numpy() if "ignore" in target else np.zeros(len(labels), np.bool_)
    flat = boxes.as_subclass(torch.Tensor).to(torch.float32).reshape(-1, 4).numpy()
    return Source(picture, flat, labels, ignore)


def _plain(source: Source) -> Sample:
    image = np.asarray(source.picture.pixels)
    return Sample(image, source.boxes, source.labels, source.ignore)


def _give_back(image: Any, target: dict[str, Any], sample: Sample) -> tuple[Any, dict[str, Any]]:
    pixels = np.ascontiguousarray(sample.image)
    if isinstance(image, Image.Image):
        shown: Any = Image.fromarray(pixels)
    else:
        shown = tv_tensors.Image(torch.from_numpy(pixels.copy()).permute(2, 0, 1))
    changed = {
        **target,
        "boxes": tv_tensors.BoundingBoxes(
            torch.from_numpy(sample.boxes.copy()),
            format=tv_tensors.BoundingBoxFormat.XYXY,
            canvas_size=pixels.shape[:2],
        ),
        "labels": torch.from_numpy(sample.labels.copy()),
    }
    if "ignore" in target:
        changed["ignore"] = torch.from_numpy(sample.ignore.copy())
    return shown, changed
