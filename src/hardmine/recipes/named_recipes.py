"""The named recipes: one function a model, every part of it on one screen.

Schedules are for small sets (100–500 images) on a CPU or one GPU, from ImageNet weights with the
high-resolution stages frozen. Only the MobileNetV2 ones were tuned on real sets (docs/log.md); the
others keep their sources' architecture and a schedule of the same kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hardmine.augment.chain import AugmentConfig, augment_preset
from hardmine.errors import ConfigError, not_one_of
from hardmine.losses.multibox_loss import LossConfig
from hardmine.losses.negative_mining import RatioConfig
from hardmine.models.backbones import SmallNetConfig, TapsConfig, VggConfig
from hardmine.models.layers import UniformInit, XavierInit
from hardmine.models.neck_and_head import (
    ExtraLayersConfig,
    FpnConfig,
    HeadConfig,
    NoNeckConfig,
    SharedHeadConfig,
)
from hardmine.models.postprocess import DecodeConfig
from hardmine.models.priors import CaffePriors, LinearPriors, MultiscalePriors, caffe_priors
from hardmine.models.ssd import SSDConfig
from hardmine.models.torchvision_network import TorchvisionConfig
from hardmine.recipes.recipe import BatchConfig, OptimConfig, Recipe

_HALF, _VALID = (3, 2, 1), (3, 1, 0)
"""(kernel, stride, padding) of an added level: half the map, or two cells less."""


def ssdlite320_mobilenet_v2() -> Recipe:
    """SSDLite on MobileNetV2, 320 px: the default for photographs, tuned on sets of 150–300 images.

    Frozen up to stride 16: quicker, and right for few boxes of one class. Many boxes, or classes that
    differ in fine detail, want more of the backbone trained (``frozen_to: features.7``, which
    ``--model auto`` takes for them), see docs/log.md.
    """
    backbone = TapsConfig(
        name="mobilenet_v2",
        taps=("features.14.conv.0", "features.18"),
        frozen_to="features.13",
    )
    return _finetune(SSDConfig(backbone=backbone))


def ssdlite320_mobilenet_v2_taps() -> Recipe:
    """The same network without added layers: three levels tapped at strides 8, 16 and 32.

    The finest one has 32 channels that know edges and little of classes, so its priors are for small
    objects only: 32 and 60 px.
    """
    backbone = TapsConfig(
        name="mobilenet_v2",
        taps=("features.6", "features.14.conv.0", "features.18"),
        frozen_to="features.7",
    )
    return _finetune(
        SSDConfig(
            name="ssdlite320_mobilenet_v2_taps",
            backbone=backbone,
            neck=NoNeckConfig(),
            priors=LinearPriors(min_scale=0.1, max_scale=0.6),
        )
    )


def ssdlite320_mobilenet_v3_large() -> Recipe:
    """SSDLite on MobileNetV3 large, 320 px; torchvision's network (Howard et al. 2019, section 6.3)."""
    backbone = TapsConfig(
        name="mobilenet_v3_large",
        taps=("features.13.block.0", "features.16"),
        frozen_to="features.7",
    )
    return _finetune(SSDConfig(name="ssdlite320_mobilenet_v3_large", backbone=backbone))


def ssd320_mobilenet_v2_fpnlite() -> Recipe:
    """TF's SSD FPNLite 320: MobileNetV2, separable FPN of 128 channels, a head shared by all levels."""
    return _fpnlite("ssd320_mobilenet_v2_fpnlite", 320)


def ssd640_mobilenet_v2_fpnlite() -> Recipe:
    """TF's SSD FPNLite 640: as the one of 320 px."""
    return _fpnlite("ssd640_mobilenet_v2_fpnlite", 640)


def ssd300_vgg16() -> Recipe:
    """The paper's SSD300 (8,732 priors), with Caffe's sizes for COCO."""
    kernels = (_HALF, _HALF, _VALID, _VALID)
    return _vgg("ssd300_vgg16", 300, (512, 256, 256, 256), kernels, caffe_priors("coco", 300))


def ssd512_vgg16() -> Recipe:
    """The paper's SSD512 (24,564 priors), with Caffe's sizes for COCO."""
    kernels = (*(_HALF,) * 4, (4, 1, 1))
    return _vgg("ssd512_vgg16", 512, (512, *(256,) * 4), kernels, caffe_priors("coco", 512))


def ssd300_resnet34() -> Recipe:
    """SSD300 on ResNet-34 tapped at strides 8, 16 and 32, three levels added (8,732 priors)."""
    neck = ExtraLayersConfig(
        widths=(512, 256, 256), depthwise=False, kernels=(_HALF, _HALF, _VALID)
    )
    return _resnet(
        "ssd300_resnet34", 300, ("layer2", "layer3", "layer4"), neck, caffe_priors("coco", 300)
    )


def ssd512_resnet50() -> Recipe:
    """SSD512 on ResNet-50 tapped at strides 16 and 32, four levels added; GluonCV's priors."""
    neck = ExtraLayersConfig(widths=(512, 512, 256, 256), depthwise=False)
    priors = CaffePriors(first=10, lowest=26)  # 10, 26, 42, 58, 74, 90 % of 512 px
    return _resnet("ssd512_resnet50", 512, ("layer3", "layer4"), neck, priors)


def small160() -> Recipe:
    """A small plain network, 160 px, trained from scratch in minutes on a CPU."""
    return Recipe(
        model=SSDConfig(
            name="small160",
            height=160,
            width=160,
            backbone=SmallNetConfig(),
            neck=ExtraLayersConfig(widths=(96, 96), depthwise=False),
            head=HeadConfig(depthwise=False),
            init=XavierInit(magnitude=1.0),
        ),
        augment=AugmentConfig(max_expand=1.5),
        batch=BatchConfig(size=32),
        loss=LossConfig(selection=RatioConfig(floor=16)),
        optim=OptimConfig(lr=2e-3, backbone_lr_scale=1.0),
    )


def fasterrcnn_resnet50_fpn() -> Recipe:
    """Faster R-CNN on ResNet-50 with FPN, 480 px.

    Negatives train its region proposals and its classifier. With pretrained weights set
    ``model.frozen_norm=true`` and freeze the first stages, as torchvision does.
    """
    return _torchvision("fasterrcnn_resnet50_fpn", 480)


def fasterrcnn_mobilenet_v3_large_320_fpn() -> Recipe:
    """Faster R-CNN on MobileNetV3 with FPN, 320 px: the one to try on a CPU."""
    return _torchvision("fasterrcnn_mobilenet_v3_large_320_fpn", 320)


RECIPES: Mapping[str, Callable[[], Recipe]] = {
    "ssdlite320_mobilenet_v2": ssdlite320_mobilenet_v2,
    "ssdlite320_mobilenet_v2_taps": ssdlite320_mobilenet_v2_taps,
    "ssdlite320_mobilenet_v3_large": ssdlite320_mobilenet_v3_large,
    "ssd320_mobilenet_v2_fpnlite": ssd320_mobilenet_v2_fpnlite,
    "ssd640_mobilenet_v2_fpnlite": ssd640_mobilenet_v2_fpnlite,
    "ssd300_vgg16": ssd300_vgg16,
    "ssd512_vgg16": ssd512_vgg16,
    "ssd300_resnet34": ssd300_resnet34,
    "ssd512_resnet50": ssd512_resnet50,
    "small160": small160,
    "fasterrcnn_resnet50_fpn": fasterrcnn_resnet50_fpn,
    "fasterrcnn_mobilenet_v3_large_320_fpn": fasterrcnn_mobilenet_v3_large_320_fpn,
}


RECIPE_ENDINGS = (".yaml", ".yml")
"""Names that end so are those of recipes in files."""


def named_recipe(name: str) -> Recipe:
    """Return the recipe of a model name.

    Raises:
        ConfigError: unknown name; the message lists the known ones, or says where a recipe's file goes.
    """
    if name.endswith(RECIPE_ENDINGS):
        raise ConfigError(
            f"model: got {name!r}, wanted a name; the file of a recipe goes to --recipe, where a "
            "command has that option"
        )
    if name not in RECIPES:
        raise ConfigError(not_one_of("model", name, sorted(RECIPES)))
    return RECIPES[name]()


def _finetune(
    model: SSDConfig,
    lr: float = 2e-3,
    backbone_lr_scale: float = 0.5,
    augment: AugmentConfig | None = None,
) -> Recipe:
    """Return the schedule for a pretrained backbone on a small set."""
    return Recipe(
        model=model,
        augment=augment or AugmentConfig(max_expand=2.0),
        batch=BatchConfig(size=8, min_object_share=0.75),
        loss=LossConfig(selection=RatioConfig(floor=16)),
        optim=OptimConfig(lr=lr, backbone_lr_scale=backbone_lr_scale),
    )


def _fpnlite(name: str, side: int) -> Recipe:
    """FPNLite on a small set: eight new layers lie between the backbone and the classes, so what is
    learnt comes late. Light augmentation (TF's own is) and a backbone at the full rate hasten it.
    """
    backbone = TapsConfig(
        name="mobilenet_v2",
        taps=("features.6", "features.13", "features.18"),
        frozen_to="features.7",
    )
    return _finetune(
        SSDConfig(
            name=name,
            height=side,
            width=side,
            backbone=backbone,
            neck=FpnConfig(width=128, depthwise=True, extra_levels=2),
            head=SharedHeadConfig(depth=4, depthwise=True),
            # A norm follows every one of them, so a small start only means large turns a step.
            init=XavierInit(),
            priors=MultiscalePriors(min_level=3),
        ),
        backbone_lr_scale=1.0,
        augment=augment_preset("light"),
    )


def _vgg(
    name: str,
    side: int,
    widths: tuple[int, ...],
    kernels: tuple[tuple[int, int, int], ...],
    priors: CaffePriors,
) -> Recipe:
    return _finetune(
        SSDConfig(
            name=name,
            height=side,
            width=side,
            backbone=VggConfig(frozen_stages=3),
            neck=ExtraLayersConfig(widths=widths, depthwise=False, norm=False, kernels=kernels),
            head=HeadConfig(depthwise=False),
            init=UniformInit(),
            priors=priors,
        ),
        # No batch norms: a rate that suits the others is too large.
        lr=5e-4,
        backbone_lr_scale=0.2,
    )


def _resnet(
    name: str, side: int, taps: tuple[str, ...], neck: ExtraLayersConfig, priors: CaffePriors
) -> Recipe:
    network = name.rpartition("_")[2]
    return _finetune(
        SSDConfig(
            name=name,
            height=side,
            width=side,
            backbone=TapsConfig(name=network, taps=taps, frozen_to="layer1"),
            neck=neck,
            head=HeadConfig(depthwise=False),
            init=XavierInit(),
            priors=priors,
        )
    )


def _torchvision(name: str, side: int) -> Recipe:
    return Recipe(
        model=TorchvisionConfig(name=name, height=side, width=side),
        resize_mode="letterbox",
        augment=AugmentConfig(max_expand=2.0),
        batch=BatchConfig(size=4),
        optim=OptimConfig(lr=2e-4, backbone_lr_scale=1.0, ema_decay=0.99),
        decode=DecodeConfig(nms_iou=0.5),
    )
