"""Networks, priors and post-processing of the TensorFlow Object Detection API, as parts of a recipe.

Each function takes messages of a ``pipeline.config`` and notes with `FieldNotes` what became of each
field; a network or a choice that Hardmine does not have is refused by its name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from hardmine.errors import ConfigError
from hardmine.losses.loss_functions import (
    ClassificationConfig,
    SoftmaxConfig,
)
from hardmine.models.backbones import TapsConfig
from hardmine.models.layers import InitConfig, NormalInit, UniformInit
from hardmine.models.neck_and_head import ExtraLayersConfig, FpnConfig, HeadConfig, SharedHeadConfig
from hardmine.models.postprocess import AnyDecodeConfig, DecodeConfig, SoftNmsDecode
from hardmine.models.priors import ExplicitPriors, MultiscalePriors
from hardmine.models.ssd import SSDConfig
from hardmine.recipes.protobuf_text import FieldNotes, Message, required


@dataclass(frozen=True, slots=True)
class ApiNetwork:
    """A network of the API: torchvision's name and taps; ``pyramid`` has an FPN."""

    name: str
    taps: tuple[str, ...]
    pyramid: bool = False


_MOBILENET_FPN = ("features.6", "features.13", "features.18")
_RESNET = ("layer2", "layer3", "layer4")
NETWORKS: dict[str, ApiNetwork] = {
    "ssd_mobilenet_v2": ApiNetwork("mobilenet_v2", ("features.14.conv.0", "features.18")),
    "ssd_mobilenet_v2_fpn": ApiNetwork("mobilenet_v2", _MOBILENET_FPN, True),
    "ssd_mobilenet_v3_large": ApiNetwork(
        "mobilenet_v3_large", ("features.13.block.0", "features.16")
    ),
    "ssd_mobilenet_v3_small": ApiNetwork(
        "mobilenet_v3_small", ("features.9.block.0", "features.12")
    ),
    "ssd_resnet50_v1_fpn": ApiNetwork("resnet50", _RESNET, True),
    "ssd_resnet101_v1_fpn": ApiNetwork("resnet101", _RESNET, True),
    "ssd_resnet152_v1_fpn": ApiNetwork("resnet152", _RESNET, True),
}
"""Feature extractors that Hardmine has, by the name of TF 1; TF 2 writes ``_keras`` behind it."""


def read_resizer(ssd: Message, notes: FieldNotes) -> tuple[tuple[int, int], Any, int | None]:
    """Return (height, width), the mode and its side."""
    kind, found = required(ssd, "image_resizer").only("image_resizer")
    if kind == "fixed_shape_resizer":
        height, width = found.count("height", 300), found.count("width", 300)
        notes.carry(
            found, "height, width", f"{height}, {width}", "model.height, model.width; stretch"
        )
        return (height, width), "stretch", None
    if kind == "keep_aspect_ratio_resizer":
        low, high = found.count("min_dimension", 600), found.count("max_dimension", 1024)
        padded = found.flag("pad_to_max_dimension", False)
        mode, side = ("letterbox", None) if low >= high else ("shortest", low)
        notes.carry(
            found,
            "min_dimension, max_dimension",
            f"{low}, {high}",
            f"a canvas of {high} px, {mode}",
        )
        if padded:
            notes.leave(
                found,
                "pad_to_max_dimension",
                True,
                "the image lies in the middle, not at the upper left",
            )
        else:
            notes.leave(found, "pad_to_max_dimension", False, "all images have one canvas here")
        return (high, high), mode, side
    raise ConfigError(
        f"image_resizer: {kind} is not translated, wanted fixed_shape_resizer or "
        "keep_aspect_ratio_resizer"
    )


def read_model(
    ssd: Message,
    extractor: Message,
    network: ApiNetwork,
    size: tuple[int, int],
    classification: ClassificationConfig,
    notes: FieldNotes,
) -> SSDConfig:
    """Translate backbone, neck, head, initialiser and priors for an input of ``size`` (h, w), px.

    Raises:
        ConfigError: a width or a part that Hardmine does not have.
    """
    depth = extractor.number("depth_multiplier", 1.0)
    if depth != 1.0:
        raise ConfigError(
            f"feature_extractor.depth_multiplier: Hardmine has no {network.name} of {depth:g} times "
            "the width"
        )
    notes.keep(extractor, "depth_multiplier", "1", "the only width here")
    separable = extractor.flag("use_depthwise", False)
    notes.carry(extractor, "use_depthwise", separable, "model.neck.depthwise")
    neck, levels = _neck(extractor, network, separable, notes)
    kind, predictor = required(ssd, "box_predictor").only("box_predictor")
    head, init = _head(kind, predictor, neck, notes)
    own = _initialiser(extractor, notes)
    if own is not None and init is not None and own != init:
        notes.leave(
            extractor,
            "conv_hyperparams.initializer",
            own,
            "one initialiser serves all added layers",
        )
    priors = _priors(ssd, size, levels, notes)
    return SSDConfig(
        name=f"{network.name}_from_tf",
        height=size[0],
        width=size[1],
        backbone=TapsConfig(name=network.name, taps=network.taps),
        neck=neck,
        head=head,
        init=init or own or NormalInit(),
        priors=priors,
        score_form=classification.score_form.value,
    )


def _neck(
    extractor: Message, network: ApiNetwork, separable: bool, notes: FieldNotes
) -> tuple[ExtraLayersConfig | FpnConfig, int]:
    if not network.pyramid:
        layers = extractor.count("num_layers", 6)
        widths = (512, 256, 256, 128)[: max(0, layers - len(network.taps))]
        notes.carry(extractor, "num_layers", layers, f"model.neck.widths {widths}")
        return ExtraLayersConfig(widths=widths, depthwise=separable), len(network.taps) + len(
            widths
        )
    pyramid = extractor.message("fpn") or Message(extractor.source, f"{extractor.path}.fpn")
    low, high = pyramid.count("min_level", 3), pyramid.count("max_level", 7)
    if low != 3 or high < 5:
        raise ConfigError(f"{pyramid.path}: got levels {low} to {high}, wanted 3 to 5 or more")
    width = pyramid.count("additional_layer_depth", 256)
    notes.carry(
        pyramid, "min_level, max_level", f"{low}, {high}", f"model.neck.extra_levels {high - 5}"
    )
    notes.carry(pyramid, "additional_layer_depth", width, "model.neck.width")
    return FpnConfig(width=width, depthwise=separable, extra_levels=high - 5), high - low + 1


def _head(
    kind: str,
    predictor: Message,
    neck: ExtraLayersConfig | FpnConfig,
    notes: FieldNotes,
) -> tuple[HeadConfig | SharedHeadConfig, InitConfig | None]:
    bias = predictor.number("class_prediction_bias_init", 0.0)
    probability = 1.0 / (1.0 + math.exp(-bias)) if bias else None
    if bias:
        notes.carry(predictor, "class_prediction_bias_init", bias, "model.head.prior_probability")
    _plain_head_fields(kind, predictor, notes)
    separable = predictor.flag("use_depthwise", False)
    layers = predictor.count("num_layers_before_predictor", 0)
    if predictor.count("box_code_size", 4) != 4:
        raise ConfigError(f"{predictor.path}.box_code_size: wanted 4")
    notes.pass_over(predictor, "a box has four numbers", "box_code_size")
    init = _initialiser(predictor, notes)
    notes.carry(predictor, "conv_hyperparams.initializer", init or "not given", "model.init")
    notes.carry(predictor, "use_depthwise", separable, "model.head.depthwise")
    if kind == "convolutional_box_predictor":
        notes.pass_over(predictor, "the head is one layer", "min_depth", "max_depth")
        if layers:
            notes.leave(
                predictor, "num_layers_before_predictor", layers, "the head is one layer here"
            )
        if predictor.flag("apply_sigmoid_to_scores", False):
            notes.leave(predictor, "apply_sigmoid_to_scores", True, "scores follow the loss")
        return HeadConfig(depthwise=separable, prior_probability=probability), init
    if kind != "weight_shared_convolutional_box_predictor":
        raise ConfigError(f"box_predictor: {kind} is not translated")
    depth = predictor.count("depth", 0)
    width = neck.width if isinstance(neck, FpnConfig) else depth
    if depth == width:
        notes.keep(predictor, "depth", depth, "the head has the neck's width")
    else:
        notes.leave(predictor, "depth", depth, f"the head has the neck's width, {width}")
    tower = predictor.flag("share_prediction_tower", False)
    say = notes.keep if tower else notes.leave
    say(predictor, "share_prediction_tower", tower, "one tower serves classes and boxes")
    notes.carry(predictor, "num_layers_before_predictor", layers, "model.head.depth")
    return SharedHeadConfig(depth=layers, depthwise=separable, prior_probability=probability), init


def _plain_head_fields(kind: str, predictor: Message, notes: FieldNotes) -> None:
    kernel = predictor.count("kernel_size", 1 if kind == "convolutional_box_predictor" else 3)
    if kernel != 3:
        notes.leave(predictor, "kernel_size", kernel, "heads are 3 x 3 here")
    else:
        notes.keep(predictor, "kernel_size", kernel, "heads are 3 x 3")
    if predictor.flag("use_dropout", kind == "convolutional_box_predictor"):
        notes.leave(predictor, "use_dropout", True, "heads have no dropout")
    else:
        notes.keep(predictor, "use_dropout", False, "heads have no dropout")
    notes.pass_over(predictor, "heads have no dropout", "dropout_keep_probability")


def _initialiser(message: Message, notes: FieldNotes) -> InitConfig | None:
    """Return the initialiser in ``conv_hyperparams``; what else is there is left for the end."""
    hyper = message.message("conv_hyperparams")
    chosen = None if hyper is None else hyper.message("initializer")
    if chosen is None or not chosen.fields:
        return None
    kind, found = chosen.only("initializer")
    if kind in ("truncated_normal_initializer", "random_normal_initializer"):
        notes.pass_over(found, "0", "mean")
        return NormalInit(std=found.number("stddev", 1.0))
    if kind == "variance_scaling_initializer" and found.flag("uniform", False):
        notes.pass_over(found, "Xavier's uniform", "factor", "mode", "uniform")
        return UniformInit()
    return None


def _priors(
    ssd: Message, size: tuple[int, int], levels: int, notes: FieldNotes
) -> ExplicitPriors | MultiscalePriors:
    kind, found = required(ssd, "anchor_generator").only("anchor_generator")
    if kind == "multiscale_anchor_generator":
        low, high = found.count("min_level", 3), found.count("max_level", 7)
        if high - low + 1 != levels:
            raise ConfigError(
                f"{found.path}: levels {low} to {high} for a network of {levels} levels"
            )
        notes.pass_over(found, "boxes are in pixels", "normalize_coordinates")
        priors = MultiscalePriors(
            min_level=low,
            anchor_scale=found.number("anchor_scale", 4.0),
            per_octave=found.count("scales_per_octave", 2),
            aspect_ratios=tuple(_aspect_ratios(found)) or (1.0,),
        )
        asked = "min_level, max_level, anchor_scale, aspect_ratios, scales_per_octave"
        notes.carry(found, asked, "", "model.priors, kind multiscale")
        return priors
    if kind != "ssd_anchor_generator":
        raise ConfigError(f"anchor_generator: {kind} is not translated")
    count = found.count("num_layers", 6)
    if count != levels:
        raise ConfigError(f"{found.path}.num_layers: got {count} for a network of {levels} levels")
    for name in ("height_stride", "width_stride", "height_offset", "width_offset"):
        if values := found.numbers(name):
            notes.leave(found, name, values, "the cells of a map divide the input evenly")
    asked = (
        "num_layers, min_scale, max_scale, scales, aspect_ratios, interpolated_scale_aspect_ratio, "
        "base_anchor_height, base_anchor_width, reduce_boxes_in_lowest_layer"
    )
    notes.carry(found, asked, "", "model.priors, kind explicit, in pixels")
    return ExplicitPriors(levels=_ssd_shapes(found, count, min(size)))


def _aspect_ratios(found: Message) -> list[float]:
    ratios = found.numbers("aspect_ratios")
    if ratios and min(ratios) <= 0:
        raise ConfigError(f"{found.path}.aspect_ratios: got {min(ratios):g}, wanted > 0")
    return ratios


def _ssd_shapes(
    found: Message, count: int, side: int
) -> tuple[tuple[tuple[float, float], ...], ...]:
    """Return each level's (width, height), px, as ``create_ssd_anchors`` has them."""
    low, high = found.number("min_scale", 0.2), found.number("max_scale", 0.95)
    scales = found.numbers("scales") or [
        low + (high - low) * i / max(1, count - 1) for i in range(count)
    ]
    if len(scales) != count:
        raise ConfigError(f"{found.path}.scales: got {len(scales)}, wanted {count}")
    scales = [*scales, 1.0]
    if min(scales) <= 0:
        raise ConfigError(f"{found.path}: got a smallest scale of {min(scales):g}, wanted > 0")
    ratios = _aspect_ratios(found) or [1.0, 2.0, 0.5, 3.0, 1.0 / 3.0]
    between = found.number("interpolated_scale_aspect_ratio", 1.0)
    base = found.number("base_anchor_width", 1.0), found.number("base_anchor_height", 1.0)
    reduced = found.flag("reduce_boxes_in_lowest_layer", True)
    levels = []
    for index in range(count):
        if index == 0 and reduced:
            pairs = [(0.1, 1.0), (scales[0], 2.0), (scales[0], 0.5)]
        else:
            pairs = [(scales[index], ratio) for ratio in ratios]
            if between > 0:
                pairs.append((math.sqrt(scales[index] * scales[index + 1]), between))
        levels.append(
            tuple(
                (
                    round(scale * math.sqrt(ratio) * base[0] * side, 3),
                    round(scale / math.sqrt(ratio) * base[1] * side, 3),
                )
                for scale, ratio in pairs
            )
        )
    return tuple(levels)


def read_decoding(
    ssd: Message, classification: ClassificationConfig, notes: FieldNotes
) -> AnyDecodeConfig:
    """Translate the score converter and the NMS; what is not given has the defaults of a recipe."""
    found = ssd.message("post_processing")
    if found is None:
        return DecodeConfig()
    converter = found.choice("score_converter", ("IDENTITY", "SIGMOID", "SOFTMAX"))
    wanted = "SOFTMAX" if isinstance(classification, SoftmaxConfig) else "SIGMOID"
    if converter == wanted:
        notes.keep(found, "score_converter", converter, "it follows the loss")
    else:
        notes.leave(
            found, "score_converter", converter, f"{wanted.lower()}, which follows the loss"
        )
    nms = found.message("batch_non_max_suppression")
    if nms is None:
        return DecodeConfig()
    score, iou = nms.number("score_threshold", 0.0), nms.number("iou_threshold", 0.6)
    per_class, most = (
        nms.count("max_detections_per_class", 100),
        nms.count("max_total_detections", 100),
    )
    for name, value in (("score_threshold", score), ("iou_threshold", iou)):
        notes.carry(
            nms, name, value, "decode.score_threshold" if name[0] == "s" else "decode.nms_iou"
        )
    notes.carry(nms, "max_total_detections", most, "decode.max_detections")
    notes.leave(nms, "max_detections_per_class", per_class, "the limit is on all classes together")
    how = ("use_static_shapes", "use_partitioned_nms", "use_combined_nms", "use_cpu_nms")
    notes.pass_over(nms, "a matter of how the API computes", *how)
    sigma = nms.number("soft_nms_sigma", 0.0)
    if sigma > 0:
        notes.carry(nms, "soft_nms_sigma", sigma, "decode, kind soft_nms")
        return SoftNmsDecode(sigma=2 * sigma, score_threshold=score, max_detections=most)
    agnostic = nms.flag("use_class_agnostic_nms", False)
    if agnostic:
        notes.carry(nms, "use_class_agnostic_nms", True, "decode, kind agnostic")
    return DecodeConfig(
        kind="agnostic" if agnostic else "per_class",
        score_threshold=score,
        nms_iou=iou,
        max_detections=most,
    )


def note_plain_fields(ssd: Message, notes: FieldNotes) -> None:
    """Deal with what is the same here, or is left out with a reason."""
    coder = ssd.message("box_coder")
    if coder is not None:
        kind, found = coder.only("box_coder")
        scales = [
            found.number(f"{n}_scale", d)
            for n, d in (("y", 10.0), ("x", 10.0), ("height", 5.0), ("width", 5.0))
        ]
        if kind != "faster_rcnn_box_coder" or scales != [10.0, 10.0, 5.0, 5.0]:
            notes.leave(coder, kind, scales, "boxes are coded with 10, 10, 5, 5 here")
        else:
            notes.keep(coder, kind, scales, "the same box coder")
    if ssd.flag("freeze_batchnorm", False):
        notes.leave(
            ssd, "freeze_batchnorm", True, "batch statistics are learnt where a layer is trained"
        )
    if ssd.number("negative_class_weight", 1.0) != 1.0:
        notes.leave(
            ssd, "negative_class_weight", ssd.number("negative_class_weight", 1.0), "no counterpart"
        )
    for name in ("encode_background_as_zeros", "inplace_batchnorm_update", "add_background_class"):
        if any(each.name == name for each in ssd.fields):
            notes.keep(ssd, name, ssd.flag(name, True), "a matter of how the API computes")
