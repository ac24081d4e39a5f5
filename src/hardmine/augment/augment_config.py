"""Which augmentation steps run, and how strongly; and four presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hardmine.augment.alarms import AlarmPasteConfig
from hardmine.augment.mosaic import MosaicConfig
from hardmine.augment.occlusion import OcclusionConfig
from hardmine.augment.paste import CopyPasteConfig
from hardmine.errors import ConfigError


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
        known = ", ".join(AUGMENT_PRESETS)
        raise ConfigError(f"augment: got preset {name!r}, wanted one of {known}")
    return AUGMENT_PRESETS[name]
