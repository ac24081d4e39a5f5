"""The augmentation chain: which steps run and how strongly, and running them on one image.

The SSD's own steps are fused into one resampling and one colour map; others mix images.
What is drawn for an image follows from the generator alone. Steps that are switched off draw
nothing, and the mixing steps draw from a generator of their own: switching one on leaves the others'
draws as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
from PIL import Image

from hardmine.augment.geometry_and_colour import (
    MosaicConfig,
    View,
    distort,
    draw_view,
    flip,
    mirror,
    mosaic,
)
from hardmine.augment.paste import (
    Alarm,
    AlarmPasteConfig,
    CopyPasteConfig,
    OcclusionConfig,
    alarm_paste,
    copy_paste,
    occlude,
)
from hardmine.augment.sample import Donors, Note, Sample, Source
from hardmine.data.images import Cover, Picture
from hardmine.data.resize import Resize
from hardmine.errors import ConfigError, not_one_of
from hardmine.types import F32, I64, U8, Mask


@dataclass(frozen=True, slots=True)
class AugmentConfig:
    """The steps in the order in which they run; probabilities in [0, 1].

    An image becomes a quarter of a mosaic, or is expanded and cropped; it comes onto the canvas;
    objects and alarms are pasted; objects are occluded; the whole is mirrored, flipped, recoloured.
    """

    photometric: float = 0.5
    """Probability of each of brightness ±32, contrast .5–1.5, saturation .5–1.5, hue ±18°."""
    expand: float = 0.5
    max_expand: float = 4.0
    """Largest side of the canvas relative to the image."""
    crop: bool = True
    min_overlaps: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    min_crop: float = 0.3
    """Smallest side of a crop relative to the image."""
    crop_trials: int = 50
    mirror: float = 0.5
    random_interpolation: bool = True
    photometric_strength: float = 1.0
    """Multiplies the photometric ranges."""
    vertical_flip: float = 0.0
    mosaic: MosaicConfig = field(default_factory=MosaicConfig)
    copy_paste: CopyPasteConfig = field(default_factory=CopyPasteConfig)
    alarm_paste: AlarmPasteConfig = field(default_factory=AlarmPasteConfig)
    occlusion: OcclusionConfig = field(default_factory=OcclusionConfig)

    def __post_init__(self) -> None:
        for name in ("photometric", "expand", "mirror", "vertical_flip"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"augment.{name}: got {getattr(self, name)}, wanted 0..1")
        if self.max_expand < 1.0 or not 0.0 < self.min_crop <= 1.0:
            raise ConfigError(
                f"augment: got max_expand {self.max_expand}, min_crop {self.min_crop}, "
                "wanted max_expand >= 1 and 0 < min_crop <= 1"
            )
        if any(overlap < 0.0 or overlap > 1.0 for overlap in self.min_overlaps):
            raise ConfigError(
                f"augment.min_overlaps: got {list(self.min_overlaps)}, wanted an IoU of 0..1 each"
            )
        if not 0.0 <= self.photometric_strength <= 2.0 or self.crop_trials < 1:
            raise ConfigError(
                f"augment: got photometric_strength {self.photometric_strength}, crop_trials "
                f"{self.crop_trials}, wanted photometric_strength 0..2 and crop_trials >= 1"
            )


NO_AUGMENT = AugmentConfig(
    photometric=0, expand=0, crop=False, mirror=0, random_interpolation=False
)

AUGMENT_PRESETS: Mapping[str, AugmentConfig] = {
    "none": NO_AUGMENT,
    "light": AugmentConfig(
        photometric_strength=0.5,
        expand=0.0,
        min_overlaps=(0.5, 0.7, 0.9),
        min_crop=0.6,
        random_interpolation=False,
    ),
    "ssd": AugmentConfig(),
    "strong": AugmentConfig(
        mosaic=MosaicConfig(probability=0.3),
        copy_paste=CopyPasteConfig(probability=0.3),
        alarm_paste=AlarmPasteConfig(probability=0.5),
        occlusion=OcclusionConfig(probability=0.2),
    ),
}
"""By name: ``augment: strong`` in a recipe, or ``augment: {preset: strong, mirror: 0}``."""


def augment_preset(name: str) -> AugmentConfig:
    """Return a preset by name.

    Raises:
        ConfigError: unknown name; the message lists the known ones.
    """
    if name not in AUGMENT_PRESETS:
        raise ConfigError(not_one_of("augment.preset", name, AUGMENT_PRESETS))
    return AUGMENT_PRESETS[name]


@dataclass(frozen=True, slots=True, eq=False)
class TraceStep:
    """What one step left: ``image`` u8[h, w, 3] and the boxes on it."""

    name: str
    image: U8
    boxes: F32
    labels: I64
    ignore: Mask


@dataclass(frozen=True, slots=True)
class Augmenter:
    """The chain for one canvas.

    ``donors``: other images, for mosaic and copy-paste, which do nothing (but copies within the
    image) without them; ``alarms``: for alarm-paste.
    """

    resize: Resize
    config: AugmentConfig
    donors: Donors | None = None
    alarms: Sequence[Alarm] = ()

    def draw(
        self,
        read: Callable[[Cover], Picture],
        boxes: F32,
        labels: I64,
        ignore: Mask,
        rng: np.random.Generator,
        note: Note | None = None,
    ) -> Sample:
        """Draw one augmented sample.

        Args:
            read: returns the image, given how large it must be at least (see ``read_picture``).
            boxes: f32[N, 4] xyxy pixels of the image; N may be 0, it is then cropped all the same.
            labels: i64[N].
            ignore: bool[N].
            rng: source of all randomness.
            note: called with each step's name and what it left.
        """
        mixing = rng.spawn(4) if self._mixes else None
        notify = note or _silent
        sample = self._onto_canvas(read, boxes, labels, ignore, rng, mixing, notify)
        for name, step in self._steps(rng, mixing):
            before, sample = sample, step(sample)
            if sample is not before:
                notify(name, sample)
        return replace(sample, image=np.ascontiguousarray(sample.image))

    @property
    def _mixes(self) -> bool:
        c = self.config
        parts = (c.mosaic, c.copy_paste, c.alarm_paste, c.occlusion)
        return any(part.probability > 0 for part in parts)

    def _onto_canvas(
        self,
        read: Callable[[Cover], Picture],
        boxes: F32,
        labels: I64,
        ignore: Mask,
        rng: np.random.Generator,
        mixing: Sequence[np.random.Generator] | None,
        notify: Note,
    ) -> Sample:
        resize, config = self.resize, self.config.mosaic
        if (
            mixing is not None
            and self.donors is not None
            and mixing[0].random() < config.probability
        ):
            source = Source(read(resize.cover), boxes, labels, ignore)
            sample = mosaic(source, config, resize, mixing[0], self.donors)
            notify("mosaic", sample)
            return sample

        @cache
        def view(width: int, height: int) -> View:
            """Draw the window for a picture of this size, pixels."""
            return draw_view(width, height, boxes, resize, self.config, rng)

        picture = read(lambda width, height: view(width, height).cover)
        chosen = view(picture.width, picture.height)
        source = Source(picture, boxes, labels, ignore)
        if notify is not _silent:
            for name, shown in chosen.steps(source):
                notify(name, shown)
        sample = chosen.render(source)
        notify("resize", sample)
        return sample

    def _steps(
        self, rng: np.random.Generator, mixing: Sequence[np.random.Generator] | None
    ) -> list[tuple[str, Callable[[Sample], Sample]]]:
        """Return the steps on the canvas; each returns the same object when it does nothing."""
        c, resize, donors, alarms = self.config, self.resize, self.donors, self.alarms
        steps: list[tuple[str, Callable[[Sample], Sample]]] = []
        if mixing is not None:
            _, a, b, d = mixing
            steps += [
                ("copy_paste", lambda s: copy_paste(s, c.copy_paste, resize, a, donors)),
                ("alarm_paste", lambda s: alarm_paste(s, c.alarm_paste, resize, b, alarms)),
                ("occlusion", lambda s: occlude(s, c.occlusion, resize.fill, d)),
            ]
        return [
            *steps,
            ("mirror", lambda s: mirror(s) if c.mirror and rng.random() < c.mirror else s),
            (
                "vertical_flip",
                lambda s: flip(s) if c.vertical_flip and rng.random() < c.vertical_flip else s,
            ),
            (
                "photometric",
                lambda s: (
                    distort(s, c.photometric, c.photometric_strength, rng) if c.photometric else s
                ),
            ),
        ]


def augment(
    image: Image.Image | Picture,
    boxes: F32,
    labels: I64,
    ignore: Mask,
    resize: Resize,
    config: AugmentConfig,
    rng: np.random.Generator,
) -> Sample:
    """Draw one augmented sample of an RGB image in memory; see :meth:`Augmenter.draw`.

    Returns:
        Sample: boxes whose centre left the window are gone, regions to be ignored when nothing of them
        is shown; the others are cut at its border.
    """
    picture = image if isinstance(image, Picture) else Picture.of(image)
    return Augmenter(resize, config).draw(lambda _: picture, boxes, labels, ignore, rng)


def trace_augment(
    image: Image.Image | Picture,
    boxes: F32,
    labels: I64,
    ignore: Mask,
    augmenter: Augmenter,
    rng: np.random.Generator,
) -> list[TraceStep]:
    """Return what each step did to an image, from "read" to the last step that did something.

    The draws are those of :meth:`Augmenter.draw` with an equal generator: the last image and boxes
    are what training sees. "expand" and "crop" show the window's content at about the image's own
    size; training resamples it once, at "resize".
    """
    picture = image if isinstance(image, Picture) else Picture.of(image)
    whole = np.asarray(picture.pixels)
    shown = boxes / np.float32(picture.factor)
    steps = [TraceStep("read", whole, shown, labels, ignore)]

    def note(name: str, sample: Sample) -> None:
        """Keep what a step left."""
        pixels = np.ascontiguousarray(sample.image)
        steps.append(TraceStep(name, pixels, sample.boxes, sample.labels, sample.ignore))

    augmenter.draw(lambda _: picture, boxes, labels, ignore, rng, note)
    return steps


def _silent(name: str, sample: Sample) -> None:
    """Ignore what a step left."""
