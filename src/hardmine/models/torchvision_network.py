"""torchvision's own detectors as networks to train: their code, loss and decoding, our images.

Images come onto our canvas, in our normalisation, before torchvision sees them; its own transform is
replaced by one that changes nothing, so there is no second resize, no padding, and boxes mean the same
pixels on both sides.
"""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from hardmine.errors import CheckpointError, ConfigError
from hardmine.models.backbones import IMAGENET_MEAN, IMAGENET_STD
from hardmine.models.layers import Normalise
from hardmine.models.postprocess import DecodeConfig
from hardmine.models.state_dict import read_state_dict

Losses = dict[str, Tensor]
Found = list[dict[str, Tensor]]


@dataclass(frozen=True, slots=True)
class TorchvisionConfig:
    """One of torchvision's detection models by name: Faster R-CNN, RetinaNet, FCOS, SSD.

    ``frozen`` are modules that are not trained, such as ``backbone.body.layer1``; ``frozen_norm`` makes
    the backbone's batch norms constant, which is right with pretrained weights and small batches and
    wrong with random ones.
    """

    kind: Literal["torchvision"] = "torchvision"
    name: str = "fasterrcnn_resnet50_fpn"
    height: int = 480
    width: int = 480
    frozen: tuple[str, ...] = ()
    frozen_norm: bool = False
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 32:
            raise ConfigError(f"model: got input {self.height}x{self.width}, wanted >= 32x32")


class TorchvisionNetwork(nn.Module):
    """A torchvision detector behind one call: losses in training mode, detections in evaluation mode."""

    backbone_prefix = "network.backbone."
    """The prefix of the parameters that pretrained weights fill."""

    def __init__(self, config: TorchvisionConfig, categories: tuple[str, ...]) -> None:
        super().__init__()
        self.config = config
        self.categories: tuple[str, ...] = categories
        self.network: Any = _build(config.name, len(categories) + 1)
        if config.frozen_norm:
            _freeze_norms(self.network.backbone)
        _freeze(self.network, config)
        self.network.transform = _Untouched()
        self.normalise = Normalise(config.mean, config.std)

    def forward(self, images: Tensor, targets: Found | None = None) -> Losses | Found:
        """Run the network.

        Args:
            images (Tensor[B, 3, H, W]): uint8 RGB.
            targets: in training mode, for each image ``boxes`` f32[N, 4] in canvas pixels (N may be 0)
                and ``labels`` i64[N] in 1..C.

        Returns:
            The losses by name, or ``boxes``, ``scores`` and ``labels`` of each image.
        """
        output: Losses | Found = self.network(self.normalise(images), targets)
        return output

    def set_limits(self, config: DecodeConfig) -> None:
        """Give torchvision's decoder the thresholds and limits of a recipe."""
        owner = getattr(self.network, "roi_heads", self.network)
        owner.score_thresh = config.score_threshold
        owner.nms_thresh = config.nms_iou
        owner.detections_per_img = config.max_detections
        if hasattr(owner, "topk_candidates"):
            owner.topk_candidates = config.class_candidates or config.candidates

    def load_pretrained(self, path: Path) -> None:
        """Load weights of the whole detector (predictors of other classes are left out) or of the
        classification network that its backbone was cut from.

        Raises:
            CheckpointError: unreadable, unsafe, or nothing in it fits.
        """
        state = read_state_dict(path)
        target = self.network
        if not any(key.startswith("backbone.") for key in state):
            target = getattr(self.network.backbone, "body", self.network.backbone)
        own = target.state_dict()
        fitting = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape}
        if 2 * len(fitting) < len(own):
            raise CheckpointError(
                f"{path}: {len(fitting)} of its tensors fit the {len(own)} of {self.config.name}, "
                "wanted at least half"
            )
        target.load_state_dict(fitting, strict=False)


class _Untouched(nn.Module):
    """Stands where torchvision normalises and resizes; hands everything through."""

    def forward(self, images: Tensor, targets: Found | None) -> tuple[Any, Found | None]:
        """Return images and targets as they are."""
        from torchvision.models.detection.image_list import ImageList

        height, width = images.shape[-2:]
        return ImageList(images, [(height, width)] * len(images)), targets

    def postprocess(self, found: Found, sizes: Any, original_sizes: Any) -> Found:
        """Return the result as it is."""
        del sizes, original_sizes
        return found


def _build(name: str, num_classes: int) -> Any:
    from torchvision.models import get_model_builder

    try:
        builder = get_model_builder(name)
    except ValueError:
        raise ConfigError(f"model.name: got {name!r}, no model of torchvision's") from None
    takes_backbone = "weights_backbone" in signature(builder).parameters
    if takes_backbone:
        network = builder(weights=None, weights_backbone=None, num_classes=num_classes)
        if hasattr(network, "transform"):
            return network
    raise ConfigError(f"model.name: got {name!r}, wanted one of torchvision's detectors")


def _freeze(network: nn.Module, config: TorchvisionConfig) -> None:
    for name in config.frozen:
        try:
            network.get_submodule(name).requires_grad_(False)
        except AttributeError:
            raise ConfigError(f"model.frozen: {config.name} has no module {name!r}") from None


def _freeze_norms(module: nn.Module) -> None:
    """Replace the batch norms below ``module`` by constant ones of the same names."""
    from torchvision.ops import FrozenBatchNorm2d

    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, FrozenBatchNorm2d(child.num_features, child.eps))
        else:
            _freeze_norms(child)
