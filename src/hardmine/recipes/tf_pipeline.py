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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hardmine.augment.chain import NO_AUGMENT, AugmentConfig
from hardmine.errors import ConfigError
from hardmine.files import TextError, read_text
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
from hardmine.losses.multibox_loss import ByBatch, LossConfig
from hardmine.losses.negative_mining import (
    AllConfig,
    HardExamplesConfig,
    RandomConfig,
    SelectionConfig,
)
from hardmine.recipes.protobuf_text import (
    FieldNote,
    FieldNotes,
    Message,
    parse_protobuf_text,
    required,
)
from hardmine.recipes.recipe import BatchConfig, OptimConfig, Recipe
from hardmine.recipes.tf_pipeline_model import (
    NETWORKS,
    note_plain_fields,
    read_decoding,
    read_model,
    read_resizer,
)

_MOST_HARD_EXAMPLES = 1024
_NEARLY_ALL = 0.99
"""An IoU from which the miner's NMS removes copies alone."""


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


def read_tf_pipeline(path: Path) -> TfPipeline:
    """Read and translate a file.

    Raises:
        ConfigError: it cannot be read, is not in protobuf's text format, or its network is none that
            Hardmine has; the message names it.
    """
    try:
        text = read_text(path)
    except (OSError, TextError) as error:
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
    notes = FieldNotes()
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
    ("learning_rate.", "AdamW uses another rate, optim.lr"),
    ("train_config.optimizer", "AdamW has its own constants"),
    ("fine_tune_checkpoint", "TensorFlow's checkpoints are not read; give --weights"),
    ("from_detection_checkpoint", "TensorFlow's checkpoints are not read; give --weights"),
)
"""Parts of paths, and why no field below them is carried over."""


def _names(notes: list[FieldNote]) -> Iterator[str]:
    """Yield the path of each field that the notes name; one note may name several of a message."""
    for note in notes:
        parent, _, names = note.path.rpartition(".")
        if "…" in names or not names:
            yield parent
        else:
            yield from (f"{parent}.{name}" if parent else name for name in names.split(", "))


def _reason(path: str) -> str:
    return next((reason for part, reason in _REASONS if part in path), "no counterpart")


def _translate(root: Message, ssd: Message, notes: FieldNotes) -> tuple[Recipe, MinerFacts, str]:
    train = root.message("train_config") or Message(root.source, "train_config")
    extractor = required(ssd, "feature_extractor")
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
    base, mode, side = read_resizer(ssd, notes)
    model = read_model(ssd, extractor, network, base, classification, notes)
    loss = _loss(ssd, classification, notes)
    mining = _facts(ssd, classification, train)
    optim, batch = _schedule(train, notes)
    augment = _augmentation(train, notes)
    decode = read_decoding(ssd, classification, notes)
    note_plain_fields(ssd, notes)
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


def _classification(ssd: Message, notes: FieldNotes) -> ClassificationConfig:
    kind, found = required(required(ssd, "loss"), "classification_loss").only("classification_loss")
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
            said = "0.5, which weighs both sides the same; loss.box_weight is halved with them"
            notes.leave(found, "alpha", "not given", said)
            alpha = 0.5
        notes.carry(
            found, "alpha, gamma", f"{alpha:g}, {gamma:g}", "loss.classification, kind focal"
        )
        return FocalConfig(alpha=alpha, gamma=gamma)
    raise ConfigError(f"classification_loss: {kind} is not translated")


def _loss(ssd: Message, classification: ClassificationConfig, notes: FieldNotes) -> LossConfig:
    loss = required(ssd, "loss")
    localisation, factor = _localisation(loss, notes)
    if ssd.flag("normalize_loc_loss_by_codesize", False):
        factor /= 4.0
        said = "loss.box_weight, divided by 4"
        miner = loss.message("hard_example_miner")
        if miner is not None and miner.choice("loss_type", tuple(_RANK)) != "CLASSIFICATION":
            said += "; the miner ranks with it as well, which the API's does not"
        notes.carry(ssd, "normalize_loc_loss_by_codesize", True, said)
    classes, boxes = (
        loss.number("classification_weight", 1.0),
        loss.number("localization_weight", 1.0),
    )
    if classes <= 0:
        raise ConfigError(f"{loss.path}.classification_weight: got {classes}, wanted > 0")
    if isinstance(classification, FocalConfig) and not _has_alpha(loss):
        factor /= 2.0
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


def _has_alpha(loss: Message) -> bool:
    _, focal = required(loss, "classification_loss").only("classification_loss")
    return focal.number("alpha", -1.0) >= 0


def _localisation(loss: Message, notes: FieldNotes) -> tuple[LocalisationConfig, float]:
    """Return the loss and what it has to be multiplied with: TF's Huber loss is delta times ours."""
    kind, found = required(loss, "localization_loss").only("localization_loss")
    notes.pass_over(found, "a matter of how the API computes", "anchorwise_output")
    if kind == "weighted_smooth_l1":
        delta = found.number("delta", 1.0)
        notes.carry(found, "delta", delta, "loss.localisation, kind smooth_l1")
        return SmoothL1Config(delta=delta), delta
    if kind == "weighted_giou":
        notes.carry(found, "", "", "loss.localisation, kind giou")
        return GIoUConfig(), 1.0
    raise ConfigError(f"localization_loss: {kind} is not translated")


def _assigner(ssd: Message, notes: FieldNotes) -> AssignerConfig:
    kind, found = required(ssd, "matcher").only("matcher")
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
    similarity = required(ssd, "similarity_calculator").only("similarity_calculator")[0]
    if similarity != "iou_similarity":
        raise ConfigError(
            f"similarity_calculator: {similarity} is not translated, wanted iou_similarity"
        )
    notes.keep(ssd, "similarity_calculator", similarity, "priors are matched by IoU")
    return AssignerConfig(matched, between if between < matched else None)


_RANK: dict[str, Any] = {"BOTH": "both", "CLASSIFICATION": "class", "LOCALIZATION": "localisation"}
"""Ranks of the miner by the API's names, in the order of their numbers."""


def _selection(loss: Message, notes: FieldNotes) -> SelectionConfig:
    miner, sampler = loss.message("hard_example_miner"), loss.message("random_example_sampler")
    if sampler is not None:
        share = sampler.number("positive_sample_fraction", 0.01)
        if not 0 < share <= 1:
            raise ConfigError(
                f"{sampler.path}.positive_sample_fraction: got {share:g}, wanted above 0, up to 1"
            )
        notes.carry(sampler, "positive_sample_fraction", share, "loss.selection, kind random")
        return RandomConfig(neg_to_pos_ratio=(1.0 - share) / share, floor=0)
    if miner is None:
        notes.carry(loss, "hard_example_miner", "not given", "loss.selection, kind all")
        return AllConfig()
    return _hard_examples(miner, notes)


def _hard_examples(miner: Message, notes: FieldNotes) -> SelectionConfig:
    ratio, floor = (
        miner.count("max_negatives_per_positive", 0),
        miner.count("min_negatives_per_image", 0),
    )
    rank = miner.choice("loss_type", tuple(_RANK))
    notes.carry(miner, "loss_type", rank, f"loss.selection.rank {_RANK[rank]}")
    if floor and not ratio:
        notes.leave(
            miner, "min_negatives_per_image", floor, "without a ratio the API ignores it; floor 0"
        )
        floor = 0
    elif ratio:
        notes.carry(miner, "max_negatives_per_positive", ratio, "loss.selection.neg_to_pos_ratio")
        notes.carry(miner, "min_negatives_per_image", floor, "loss.selection.floor")
    count, suppress = _hardest(miner, notes)
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


def _hardest(miner: Message, notes: FieldNotes) -> tuple[int, float | None]:
    """Return how many examples the miner keeps (0: no limit), and the IoU of the NMS inside it."""
    count, iou = miner.count("num_hard_examples", 64), miner.number("iou_threshold", 0.7)
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
    return count, suppress


def _facts(ssd: Message, classification: ClassificationConfig, train: Message) -> MinerFacts:
    loss = required(ssd, "loss")
    shared = required(ssd, "box_predictor").message("weight_shared_convolutional_box_predictor")
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


def _schedule(train: Message, notes: FieldNotes) -> tuple[OptimConfig, BatchConfig]:
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


def _warm_up(chosen: Message, optim: OptimConfig, notes: FieldNotes) -> OptimConfig:
    notes.leave(
        chosen,
        "",
        "",
        "AdamW with a cosine schedule here; another optimiser's rate is not its rate",
    )
    rate = chosen.message("learning_rate")
    for each in [] if rate is None else rate.fields:
        if not isinstance(each.value, Message):
            continue
        steps = each.value.count("warmup_steps", -1)
        if steps >= 0:
            notes.carry(each.value, "warmup_steps", steps, "optim.warmup_steps")
            optim = replace(optim, warmup_steps=steps)
        elif each.name == "cosine_decay_learning_rate":
            said = f"10,000 in the API; optim.warmup_steps {optim.warmup_steps} here"
            notes.leave(each.value, "warmup_steps", "not given", said)
    return optim


def _augmentation(train: Message, notes: FieldNotes) -> AugmentConfig:
    config = NO_AUGMENT
    for option in train.messages("data_augmentation_options"):
        kind, found = option.only("data_augmentation_options")
        step = _AUGMENTATION.get(kind)
        if step is None:
            notes.leave(found, "", "", "no such step here")
            continue
        config = step(config, found, notes)
    return config


def _mirror(config: AugmentConfig, found: Message, notes: FieldNotes) -> AugmentConfig:
    notes.pass_over(found, "there are no keypoints", "keypoint_flip_permutation")
    probability = found.number("probability", 0.5)
    notes.carry(found, "probability", probability, "augment.mirror")
    return replace(config, mirror=probability)


def _flip(config: AugmentConfig, found: Message, notes: FieldNotes) -> AugmentConfig:
    notes.pass_over(found, "there are no keypoints", "keypoint_flip_permutation")
    probability = found.number("probability", 0.5)
    notes.carry(found, "probability", probability, "augment.vertical_flip")
    return replace(config, vertical_flip=probability)


def _ssd_crop(config: AugmentConfig, found: Message, notes: FieldNotes) -> AugmentConfig:
    notes.carry(found, "", "", "augment.crop, with the overlaps of SSD")
    return replace(config, crop=True)


def _crop_image(config: AugmentConfig, found: Message, notes: FieldNotes) -> AugmentConfig:
    area, covered = found.number("min_area", 0.1), found.number("min_object_covered", 1.0)
    side = max(0.01, math.sqrt(area))
    notes.carry(found, "min_area", area, f"augment.min_crop {side:.3g}")
    if covered <= 0:
        notes.carry(found, "min_object_covered", covered, "augment.min_overlaps (), any crop")
        return replace(config, crop=True, min_crop=side, min_overlaps=())
    said = "a share of an object there, an IoU here; crops are drawn with the overlaps of SSD"
    notes.leave(found, "min_object_covered", covered, said)
    return replace(config, crop=True, min_crop=side)


def _colour(config: AugmentConfig, found: Message, notes: FieldNotes) -> AugmentConfig:
    notes.leave(found, "", "", "augment.photometric is switched on instead, with the ranges of SSD")
    return replace(config, photometric=0.5)


_AUGMENTATION: dict[str, Callable[[AugmentConfig, Message, FieldNotes], AugmentConfig]] = {
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
