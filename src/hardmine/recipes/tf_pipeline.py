"""A recipe from a ``pipeline.config`` of the TensorFlow Object Detection API, without TensorFlow.

Every field of the file ends in one of three lists: *carried* into the recipe, *same* (Hardmine always
does that, or the field has no meaning here), or *left out* with the reason. What the code does not know
by name is left out as well, so that no field is dropped without a word. A network that Hardmine does not
have is refused by its name.

Fields and defaults are those of the API's ``protos`` folder; how its miner, its anchors and its losses
compute is in docs/tensorflow.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hardmine.augment.chain import NO_AUGMENT, AugmentConfig
from hardmine.errors import ConfigError
from hardmine.losses.loss_functions import (
    ClassificationConfig,
    FocalConfig,
    GIoUConfig,
    LocalisationConfig,
    SigmoidConfig,
    SmoothL1Config,
    SoftmaxConfig,
)
from hardmine.losses.matcher import AssignerConfig
from hardmine.losses.multibox_loss import LossConfig
from hardmine.losses.negative_mining import (
    AllConfig,
    HardExamplesConfig,
    RandomConfig,
    SelectionConfig,
)
from hardmine.losses.normalizers import ByBatch
from hardmine.models.backbones.feature_taps import TapsConfig
from hardmine.models.head import HeadConfig, SharedHeadConfig
from hardmine.models.layers import InitConfig, NormalInit, UniformInit
from hardmine.models.neck import ExtraLayersConfig, FpnConfig
from hardmine.models.postprocess import AnyDecodeConfig, DecodeConfig, SoftNmsDecode
from hardmine.models.priors import ExplicitPriors, MultiscalePriors
from hardmine.models.ssd import SSDConfig
from hardmine.recipes.protobuf_text import Message, parse_protobuf_text
from hardmine.recipes.recipe import BatchConfig, OptimConfig, Recipe

_MOST_HARD_EXAMPLES = 1024
_NEARLY_ALL = 0.99
"""An IoU from which the miner's NMS removes copies alone."""


@dataclass(frozen=True, slots=True)
class _Network:
    """A network of the API: torchvision's name and taps; ``pyramid`` has an FPN."""

    name: str
    taps: tuple[str, ...]
    pyramid: bool = False


_MOBILENET_FPN = ("features.6", "features.13", "features.18")
_RESNET = ("layer2", "layer3", "layer4")
NETWORKS: dict[str, _Network] = {
    "ssd_mobilenet_v2": _Network("mobilenet_v2", ("features.14.conv.0", "features.18")),
    "ssd_mobilenet_v2_fpn": _Network("mobilenet_v2", _MOBILENET_FPN, True),
    "ssd_mobilenet_v3_large": _Network(
        "mobilenet_v3_large", ("features.13.block.0", "features.16")
    ),
    "ssd_mobilenet_v3_small": _Network("mobilenet_v3_small", ("features.9.block.0", "features.12")),
    "ssd_resnet50_v1_fpn": _Network("resnet50", _RESNET, True),
    "ssd_resnet101_v1_fpn": _Network("resnet101", _RESNET, True),
    "ssd_resnet152_v1_fpn": _Network("resnet152", _RESNET, True),
}
"""Feature extractors that Hardmine has, by the name of TF 1; TF 2 writes ``_keras`` behind it."""


@dataclass(frozen=True, slots=True)
class FieldNote:
    """A field of the file: its path and value, and where it went or why it did not."""

    path: str
    value: str
    note: str

    def __str__(self) -> str:
        path = self.path.rstrip(".")
        return f"{path}: {self.value} -> {self.note}" if self.value else f"{path} -> {self.note}"


@dataclass(frozen=True, slots=True)
class MinerFacts:
    """What the file says of mining, as the API computes it, for the diagnosis of a configuration."""

    miner: bool = False
    ratio: int = 0
    floor: int = 0
    count: int = 64
    focal: bool = False
    shared_head: bool = False
    steps: int = 0


@dataclass(frozen=True, slots=True)
class TfPipeline:
    """The recipe and what became of each field."""

    source: str
    extractor: str
    recipe: Recipe
    carried: tuple[FieldNote, ...]
    same: tuple[FieldNote, ...]
    left_out: tuple[FieldNote, ...]
    mining: MinerFacts


@dataclass(eq=False)
class _Notes:
    carried: list[FieldNote] = field(default_factory=list)
    same: list[FieldNote] = field(default_factory=list)
    left_out: list[FieldNote] = field(default_factory=list)

    def carry(self, message: Message, name: str, value: Any, note: str) -> None:
        self.carried.append(FieldNote(f"{message.path}.{name}", str(value), note))

    def keep(self, message: Message, name: str, value: Any, note: str) -> None:
        self.same.append(FieldNote(f"{message.path}.{name}", str(value), note))

    def leave(self, message: Message, name: str, value: Any, note: str) -> None:
        self.left_out.append(FieldNote(f"{message.path}.{name}", str(value), note))

    def pass_over(self, message: Message, note: str, *names: str) -> None:
        """Keep what is given of these fields; none of them means anything here."""
        for each in message.fields:
            if each.name in names:
                each.taken = True
                self.keep(message, each.name, each.value, note)


def read_tf_pipeline(path: Path) -> TfPipeline:
    """Read and translate a file.

    Raises:
        ConfigError: it cannot be read, is not in protobuf's text format, or its network is none that
            Hardmine has; the message names it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a readable pipeline.config ({error})") from None
    return translate_tf_pipeline(text, str(path))


def translate_tf_pipeline(text: str, source: str = "pipeline.config") -> TfPipeline:
    """Translate the text of a file; see :func:`read_tf_pipeline`."""
    root = parse_protobuf_text(text, source)
    model = root.message("model")
    if model is None:
        raise ConfigError(f"{source}: has no 'model', so it is no pipeline.config")
    kind, ssd = model.only("model")
    if kind != "ssd":
        raise ConfigError(f"{source}: the model is {kind}; Hardmine translates 'ssd' alone")
    notes = _Notes()
    try:
        recipe, mining, extractor = _translate(root, ssd, notes)
    except ConfigError as error:
        text = str(error)
        raise ConfigError(text if text.startswith(source) else f"{source}: {text}") from None
    left = [FieldNote(path, value, _reason(path)) for path, value, _ in root.left()]
    said = {name for part in (notes.carried, notes.same, notes.left_out) for name in _names(part)}
    notes.same += [
        FieldNote(path, value, "as here")
        for path, value in root.asked_for()
        if path not in said and not any(path.startswith(f"{name}.") for name in said)
    ]
    return TfPipeline(
        source,
        extractor,
        recipe,
        tuple(notes.carried),
        tuple(notes.same),
        (*notes.left_out, *left),
        mining,
    )


_REASONS = (
    ("train_input_reader", "data is named on the command line"),
    ("train_input_config", "data is named on the command line"),
    ("eval_input", "data is named on the command line"),
    ("eval_config", "'hardmine val' measures"),
    ("graph_rewriter", "quantisation while training; 'hardmine export' quantises afterwards"),
    ("conv_hyperparams.regularizer", "AdamW decays weights by optim.weight_decay"),
    ("conv_hyperparams.activation", "added layers have ReLU6"),
    ("conv_hyperparams.batch_norm", "batch norms have torch's constants"),
    ("train_config.optimizer", "AdamW has a rate of its own, optim.lr"),
    ("fine_tune_checkpoint", "TensorFlow's checkpoints are not read; give --weights"),
    ("from_detection_checkpoint", "TensorFlow's checkpoints are not read; give --weights"),
)
"""Parts of paths, and why no field below them is carried over."""


def _names(notes: list[FieldNote]) -> Iterator[str]:
    """Yield the path of each field that the notes speak of; one note may name several of a message."""
    for note in notes:
        parent, _, names = note.path.rpartition(".")
        if "…" in names or not names:
            yield parent
        else:
            yield from (f"{parent}.{name}" if parent else name for name in names.split(", "))


def _reason(path: str) -> str:
    return next((reason for part, reason in _REASONS if part in path), "no counterpart")


def _translate(root: Message, ssd: Message, notes: _Notes) -> tuple[Recipe, MinerFacts, str]:
    train = root.message("train_config") or Message(root.source, "train_config")
    extractor = _required(ssd, "feature_extractor")
    name = extractor.text("type", "")
    network = NETWORKS.get(name.removesuffix("_keras"))
    if network is None:
        known = ", ".join(sorted(NETWORKS))
        raise ConfigError(
            f"feature_extractor.type: {name!r} is no network of Hardmine's; it has {known}"
        )
    notes.carry(extractor, "type", name, f"model.backbone {network.name}")
    classes = ssd.count("num_classes", 0)
    notes.keep(ssd, "num_classes", classes, "the classes come from the data")
    classification = _classification(ssd, notes)
    base, mode, side = _resizer(ssd, notes)
    model = _model(ssd, extractor, network, base, classification, notes)
    loss = _loss(ssd, classification, notes)
    mining = _facts(ssd, classification, train)
    optim, batch = _schedule(train, notes)
    augment = _augmentation(train, notes)
    decode = _decoding(ssd, classification, notes)
    _plain_fields(ssd, notes)
    return (
        Recipe(
            model=model,
            resize_mode=mode,
            resize_side=side,
            augment=augment,
            batch=batch,
            loss=loss,
            optim=optim,
            decode=decode,
        ),
        mining,
        name,
    )


def _required(message: Message, name: str) -> Message:
    found = message.message(name)
    if found is None:
        raise ConfigError(f"{message.path} has no {name}")
    return found


def _resizer(ssd: Message, notes: _Notes) -> tuple[tuple[int, int], Any, int | None]:
    """Return (height, width), the mode and its side."""
    kind, found = _required(ssd, "image_resizer").only("image_resizer")
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


def _model(
    ssd: Message,
    extractor: Message,
    network: _Network,
    size: tuple[int, int],
    classification: ClassificationConfig,
    notes: _Notes,
) -> SSDConfig:
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
    kind, predictor = _required(ssd, "box_predictor").only("box_predictor")
    head, init = _head(kind, predictor, classification, neck, notes)
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
    extractor: Message, network: _Network, separable: bool, notes: _Notes
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
    classification: ClassificationConfig,
    neck: ExtraLayersConfig | FpnConfig,
    notes: _Notes,
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


def _plain_head_fields(kind: str, predictor: Message, notes: _Notes) -> None:
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


def _initialiser(message: Message, notes: _Notes) -> InitConfig | None:
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
    ssd: Message, size: tuple[int, int], levels: int, notes: _Notes
) -> ExplicitPriors | MultiscalePriors:
    kind, found = _required(ssd, "anchor_generator").only("anchor_generator")
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
            aspect_ratios=tuple(found.numbers("aspect_ratios")) or (1.0,),
        )
        notes.carry(found, "min_level … scales_per_octave", "", "model.priors, kind multiscale")
        return priors
    if kind != "ssd_anchor_generator":
        raise ConfigError(f"anchor_generator: {kind} is not translated")
    count = found.count("num_layers", 6)
    if count != levels:
        raise ConfigError(f"{found.path}.num_layers: got {count} for a network of {levels} levels")
    for name in ("height_stride", "width_stride", "height_offset", "width_offset"):
        if values := found.numbers(name):
            notes.leave(found, name, values, "the cells of a map divide the input evenly")
    notes.carry(found, "min_scale … aspect_ratios", "", "model.priors, kind explicit, in pixels")
    return ExplicitPriors(levels=_ssd_shapes(found, count, min(size)))


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
    ratios = found.numbers("aspect_ratios") or [1.0, 2.0, 0.5, 3.0, 1.0 / 3.0]
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


def _classification(ssd: Message, notes: _Notes) -> ClassificationConfig:
    kind, found = _required(_required(ssd, "loss"), "classification_loss").only(
        "classification_loss"
    )
    notes.pass_over(found, "a matter of how the API computes", "anchorwise_output")
    if kind == "weighted_sigmoid":
        notes.carry(found, "", "", "loss.classification, kind sigmoid")
        return SigmoidConfig()
    if kind == "weighted_softmax":
        scale = found.number("logit_scale", 1.0)
        if scale != 1.0:
            notes.leave(found, "logit_scale", scale, "logits are not scaled here")
        notes.carry(found, "", "", "loss.classification, kind softmax")
        return SoftmaxConfig()
    if kind == "weighted_sigmoid_focal":
        alpha, gamma = found.number("alpha", -1.0), found.number("gamma", 2.0)
        if alpha < 0:
            notes.leave(found, "alpha", "not given", "0.5, which weighs both sides the same")
            alpha = 0.5
        notes.carry(
            found, "alpha, gamma", f"{alpha:g}, {gamma:g}", "loss.classification, kind focal"
        )
        return FocalConfig(alpha=alpha, gamma=gamma)
    raise ConfigError(f"classification_loss: {kind} is not translated")


def _loss(ssd: Message, classification: ClassificationConfig, notes: _Notes) -> LossConfig:
    loss = _required(ssd, "loss")
    localisation, factor = _localisation(loss, notes)
    if ssd.flag("normalize_loc_loss_by_codesize", False):
        factor /= 4.0
        notes.carry(ssd, "normalize_loc_loss_by_codesize", True, "loss.box_weight, divided by 4")
    classes, boxes = (
        loss.number("classification_weight", 1.0),
        loss.number("localization_weight", 1.0),
    )
    if classes <= 0:
        raise ConfigError(f"{loss.path}.classification_weight: got {classes}, wanted > 0")
    weight = boxes / classes * factor
    notes.carry(loss, "localization_weight", boxes, f"loss.box_weight {weight:g}")
    if classes != 1.0:
        notes.carry(loss, "classification_weight", classes, "in loss.box_weight, which is relative")
    if not ssd.flag("normalize_loss_by_num_matches", True):
        notes.leave(
            ssd, "normalize_loss_by_num_matches", False, "the loss is always normalised here"
        )
    else:
        notes.carry(ssd, "normalize_loss_by_num_matches", True, "loss.normaliser, kind batch")
    return LossConfig(
        assigner=_assigner(ssd, notes),
        selection=_selection(loss, notes),
        classification=classification,
        localisation=localisation,
        normaliser=ByBatch(),
        box_weight=weight,
    )


def _localisation(loss: Message, notes: _Notes) -> tuple[LocalisationConfig, float]:
    """Return the loss and what it has to be multiplied with: TF's Huber loss is delta times ours."""
    kind, found = _required(loss, "localization_loss").only("localization_loss")
    notes.pass_over(found, "a matter of how the API computes", "anchorwise_output")
    if kind == "weighted_smooth_l1":
        delta = found.number("delta", 1.0)
        notes.carry(found, "delta", delta, "loss.localisation, kind smooth_l1")
        return SmoothL1Config(delta=delta), delta
    if kind == "weighted_giou":
        notes.carry(found, "", "", "loss.localisation, kind giou")
        return GIoUConfig(), 1.0
    raise ConfigError(f"localization_loss: {kind} is not translated")


def _assigner(ssd: Message, notes: _Notes) -> AssignerConfig:
    kind, found = _required(ssd, "matcher").only("matcher")
    if kind != "argmax_matcher":
        raise ConfigError(f"matcher: {kind} is not translated, wanted argmax_matcher")
    matched, unmatched = (found.number(f"{n}_threshold", 0.5) for n in ("matched", "unmatched"))
    if found.flag("ignore_thresholds", False):
        raise ConfigError(
            f"{found.path}.ignore_thresholds: matching without thresholds is not translated"
        )
    between = matched if unmatched >= matched else unmatched
    notes.carry(found, "matched_threshold", matched, "loss.assigner.iou_threshold")
    if between < matched:
        notes.carry(found, "unmatched_threshold", unmatched, "loss.assigner.ignore_above")
    else:
        notes.keep(found, "unmatched_threshold", unmatched, "no prior is ignored")
    if not found.flag("force_match_for_each_row", False):
        notes.leave(found, "force_match_for_each_row", False, "each object gets a prior here")
    else:
        notes.keep(found, "force_match_for_each_row", True, "each object gets a prior")
    if not found.flag("negatives_lower_than_unmatched", True):
        notes.leave(
            found, "negatives_lower_than_unmatched", False, "negatives lie below the band here"
        )
    how = "a matter of how the API computes"
    notes.pass_over(found, how, "use_matmul_gather", "ignore_thresholds")
    notes.pass_over(found, "as here", "negatives_lower_than_unmatched")
    similarity = _required(ssd, "similarity_calculator").only("similarity_calculator")[0]
    if similarity != "iou_similarity":
        raise ConfigError(
            f"similarity_calculator: {similarity} is not translated, wanted iou_similarity"
        )
    return AssignerConfig(matched, between if between < matched else None)


_RANK: dict[str, Any] = {"BOTH": "both", "CLASSIFICATION": "class", "LOCALIZATION": "localisation"}


def _selection(loss: Message, notes: _Notes) -> SelectionConfig:
    miner, sampler = loss.message("hard_example_miner"), loss.message("random_example_sampler")
    if sampler is not None:
        share = sampler.number("positive_sample_fraction", 0.01)
        notes.carry(sampler, "positive_sample_fraction", share, "loss.selection, kind random")
        return RandomConfig(neg_to_pos_ratio=(1.0 - share) / share, floor=0)
    if miner is None:
        notes.carry(loss, "hard_example_miner", "not given", "loss.selection, kind all")
        return AllConfig()
    count, iou = miner.count("num_hard_examples", 64), miner.number("iou_threshold", 0.7)
    ratio, floor = (
        miner.count("max_negatives_per_positive", 0),
        miner.count("min_negatives_per_image", 0),
    )
    rank = miner.word("loss_type", "BOTH")
    if rank not in _RANK:
        raise ConfigError(f"{miner.path}.loss_type: got {rank}, wanted one of {', '.join(_RANK)}")
    notes.carry(miner, "loss_type", rank, f"loss.selection.rank {_RANK[rank]}")
    if floor and not ratio:
        notes.leave(
            miner, "min_negatives_per_image", floor, "without a ratio the API ignores it; floor 0"
        )
        floor = 0
    elif ratio:
        notes.carry(miner, "max_negatives_per_positive", ratio, "loss.selection.neg_to_pos_ratio")
        notes.carry(miner, "min_negatives_per_image", floor, "loss.selection.floor")
    suppress: float | None = iou
    if iou >= _NEARLY_ALL:
        suppress = None
        notes.leave(miner, "iou_threshold", iou, "removes copies alone; no NMS inside the miner")
    else:
        notes.carry(miner, "iou_threshold", iou, "loss.selection.nms_iou")
    if count > _MOST_HARD_EXAMPLES:
        notes.leave(
            miner,
            "num_hard_examples",
            count,
            f"the most here is {_MOST_HARD_EXAMPLES}; 0, all that the ratio allows",
        )
        count = 0
    else:
        notes.carry(miner, "num_hard_examples", count, "loss.selection.count")
    if count == 0 and suppress is None and not ratio:
        return AllConfig()
    return HardExamplesConfig(
        count=count,
        rank=_RANK[rank],
        nms_iou=suppress,
        nms_candidates=_MOST_HARD_EXAMPLES,
        neg_to_pos_ratio=float(ratio) if ratio else None,
        floor=floor,
    )


def _facts(ssd: Message, classification: ClassificationConfig, train: Message) -> MinerFacts:
    loss = _required(ssd, "loss")
    shared = _required(ssd, "box_predictor").message("weight_shared_convolutional_box_predictor")
    miner = loss.message("hard_example_miner")
    facts = MinerFacts(
        focal=isinstance(classification, FocalConfig),
        shared_head=shared is not None,
        steps=train.count("num_steps", 0),
    )
    if miner is None:
        return facts
    return replace(
        facts,
        miner=True,
        ratio=miner.count("max_negatives_per_positive", 0),
        floor=miner.count("min_negatives_per_image", 0),
        count=miner.count("num_hard_examples", 64),
    )


def _schedule(train: Message, notes: _Notes) -> tuple[OptimConfig, BatchConfig]:
    optim = OptimConfig()
    size = train.count("batch_size", 32)
    notes.carry(train, "batch_size", size, "batch.size")
    clip = train.number("gradient_clipping_by_norm", 0.0)
    if clip > 0:
        optim = replace(optim, clip_norm=clip)
        notes.carry(train, "gradient_clipping_by_norm", clip, "optim.clip_norm")
    steps = train.count("num_steps", 0)
    if steps:
        notes.leave(
            train, "num_steps", steps, "set epochs: steps × batch.size ÷ images with objects"
        )
    optimizer = train.message("optimizer")
    if optimizer is None:
        return optim, BatchConfig(size)
    if optimizer.flag("use_moving_average", True):
        decay = optimizer.number("moving_average_decay", 0.9999)
        optim = replace(optim, ema_decay=decay)
        notes.carry(optimizer, "moving_average_decay", decay, "optim.ema_decay")
    else:
        optim = replace(optim, ema_decay=0.0)
        notes.carry(optimizer, "use_moving_average", False, "optim.ema_decay 0")
    for each in optimizer.fields:
        if isinstance(each.value, Message):
            optim = _warm_up(each.value, optim, notes)
    return optim, BatchConfig(size)


def _warm_up(chosen: Message, optim: OptimConfig, notes: _Notes) -> OptimConfig:
    notes.leave(
        chosen,
        "",
        "",
        "AdamW with a cosine schedule here; another optimiser's rate is not its rate",
    )
    rate = chosen.message("learning_rate")
    for each in [] if rate is None else rate.fields:
        if isinstance(each.value, Message) and (steps := each.value.count("warmup_steps", 0)):
            notes.carry(each.value, "warmup_steps", steps, "optim.warmup_steps")
            optim = replace(optim, warmup_steps=steps)
    return optim


def _augmentation(train: Message, notes: _Notes) -> AugmentConfig:
    config = NO_AUGMENT
    for option in train.messages("data_augmentation_options"):
        kind, found = option.only("data_augmentation_options")
        step = _AUGMENTATION.get(kind)
        if step is None:
            notes.leave(found, "", "", "no such step here")
            continue
        config = step(config, found, notes)
    return config


def _mirror(config: AugmentConfig, found: Message, notes: _Notes) -> AugmentConfig:
    notes.pass_over(found, "there are no keypoints", "keypoint_flip_permutation")
    probability = found.number("probability", 0.5)
    notes.carry(found, "probability", probability, "augment.mirror")
    return replace(config, mirror=probability)


def _flip(config: AugmentConfig, found: Message, notes: _Notes) -> AugmentConfig:
    notes.pass_over(found, "there are no keypoints", "keypoint_flip_permutation")
    probability = found.number("probability", 0.5)
    notes.carry(found, "probability", probability, "augment.vertical_flip")
    return replace(config, vertical_flip=probability)


def _ssd_crop(config: AugmentConfig, found: Message, notes: _Notes) -> AugmentConfig:
    notes.carry(found, "", "", "augment.crop, with the overlaps of SSD")
    return replace(config, crop=True)


def _crop_image(config: AugmentConfig, found: Message, notes: _Notes) -> AugmentConfig:
    area, covered = found.number("min_area", 0.1), found.number("min_object_covered", 1.0)
    side = max(0.01, math.sqrt(area))
    notes.carry(found, "min_area", area, f"augment.min_crop {side:.3g}")
    overlaps = (covered,) if covered > 0 else config.min_overlaps
    notes.carry(found, "min_object_covered", covered, f"augment.min_overlaps {overlaps}")
    return replace(config, crop=True, min_crop=side, min_overlaps=overlaps)


def _colour(config: AugmentConfig, found: Message, notes: _Notes) -> AugmentConfig:
    notes.leave(found, "", "", "augment.photometric is switched on instead, with the ranges of SSD")
    return replace(config, photometric=0.5)


_AUGMENTATION: dict[str, Callable[[AugmentConfig, Message, _Notes], AugmentConfig]] = {
    "random_horizontal_flip": _mirror,
    "random_vertical_flip": _flip,
    "ssd_random_crop": _ssd_crop,
    "random_crop_image": _crop_image,
    "random_adjust_brightness": _colour,
    "random_adjust_contrast": _colour,
    "random_adjust_hue": _colour,
    "random_adjust_saturation": _colour,
    "random_distort_color": _colour,
}


def _decoding(ssd: Message, classification: ClassificationConfig, notes: _Notes) -> AnyDecodeConfig:
    found = ssd.message("post_processing")
    if found is None:
        return DecodeConfig()
    converter = found.word("score_converter", "IDENTITY")
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


def _plain_fields(ssd: Message, notes: _Notes) -> None:
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


def describe_translation(pipeline: TfPipeline) -> list[str]:
    """Return lines of text that name every field: what was left out first."""
    lines = [f"from {pipeline.source} ({pipeline.extractor})"]
    for title, notes in (
        ("not carried over", pipeline.left_out),
        ("carried over", pipeline.carried),
        ("the same here", pipeline.same),
    ):
        lines += [f"{title}:", *(f"  {note}" for note in notes)]
    return lines
