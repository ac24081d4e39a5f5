"""A recipe that fits the data: which model is chosen before a training, and what to say of a pinned one.

A class whose boxes no prior reaches is hardly learned, and nothing later in a training says so; so the
quickest model is taken whose priors reach every class (:mod:`recipe_fit` measures that). Wide or tall
images get a canvas of their shape, since on a square one every object is squeezed. Few images of several
classes get more epochs, because the usual number would be too few steps. With many boxes or several
classes more of the backbone is trained; where objects of one class overlap, decoding keeps detections
that overlap.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hardmine.errors import NOTICE, ConfigError
from hardmine.plurals import counted
from hardmine.types import Dataset
from hardmine.workflows.image_sets import count_labelled
from hardmine.workflows.recipe_fit import (
    FEW_BOXES,
    OVERLAP,
    ClassFit,
    RecipeFit,
    measure_fit,
    median_shape,
    objects_and_room,
    overlapping_share,
)
from hardmine.workflows.train_options import AUTO, DATA, NetworkOptions

if TYPE_CHECKING:
    from hardmine.recipes.recipe import Recipe

QUOTA = "loss.selection.kind=level_quota"
CANDIDATES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("ssdlite320_mobilenet_v2", ()),
    ("ssd320_mobilenet_v2_fpnlite", (QUOTA,)),
    ("ssd320_mobilenet_v2_fpnlite", (QUOTA, "model.priors.anchor_scale=2.5")),
    ("ssd640_mobilenet_v2_fpnlite", (QUOTA,)),
)
"""Models that are tried in this order, quickest first, with the choices that go with them."""
LONG_RATIOS = {
    "linear": "model.priors.aspect_ratios=[[2, 3, 6]]",
    "multiscale": "model.priors.aspect_ratios=[1, 2, 0.5, 5, 0.2]",
}
"""By the kind of a model's priors: the aspect ratios with which they also reach long objects."""
WIDE, WIDEST, STRIDE = 2.0, 4.0, 32
"""The canvas takes the images' shape from the first ratio on, up to the second, in steps of px."""
FROZEN_TO = "model.backbone.frozen_to="
MANY_BOXES = 300
"""From so many labelled boxes of a single class on, more of the backbone is trained."""
FREER = {"ssdlite320_mobilenet_v2": ("features.7", "features.10")}
"""By model: how far it is frozen with several classes, and with many boxes of one, if not as usual."""
TWO_LEVELS = ("model.priors.octaves=2", "loss.assigner.max_positives=9")
"""Objects are matched on two levels, and each keeps its nine best priors, so that no class takes a level
to itself."""
MATCHED_ON_TWO = "ssd320_mobilenet_v2_fpnlite"
"""The model for which these were measured: fewer alarms at one score for all classes, but a lower AP50
on crowded data."""
CROWDED = 0.05
"""Data are crowded when so large a share of the boxes overlaps another of their class."""
ENOUGH_NMS_IOU = 0.5
"""A pinned recipe that suppresses from this IoU on is not warned of."""
MANY_BEYOND = 0.01
"""Share of the objects beyond the number of detections that are kept from which on this is said."""
COUNTS = ("decode.max_detections=", "decode.candidates=")
"""Choices of the user that leave open how detections suppress each other."""
KEEP_OVERLAPPING = "decode.nms_iou=0.55"
"""Detections of objects that overlap by .3 often overlap by .45, where suppression would remove one."""
CLASSES_NAMED = 5
"""Of classes with too few boxes to choose by so many are named."""
STEPS_PER_CLASS, MOST_EPOCHS = 65, 100
"""A training has at least so many steps for each class, but is not made longer than so many epochs."""
SMALLEST_SIDE = 24
"""Objects of fewer px on the canvas are too small for most of the models."""
SMALL, FINER = 32, 1.5
"""Classes of fewer px on the canvas are easily confused; a larger canvas helps from so many times the
px in the images on."""
LARGE = 640
"""Pixels of the larger square canvas."""
DETAILED: tuple[str, tuple[str, ...]] = (
    "ssdlite320_mobilenet_v2",
    (f"model.height={LARGE}", f"model.width={LARGE}"),
)
"""For classes that are told apart by details which a canvas of 320 px loses."""
DETAILED_PRIORS = ("model.priors.min_scale=0.08", "model.priors.min_scale=0.06")
"""The smallest priors of that model, as shares of its canvas, in the order in which they are tried."""
ONE_SIZE = 2.0
"""Classes have about one size where the median of the largest is less than so many times that of the
smallest."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AutoChoice:
    """The recipe that was chosen, and why in three lines or a few more."""

    recipe: Recipe
    model: str
    settings: tuple[str, ...]
    lines: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    """What no model of the list reaches, and what would help."""


def is_automatic(options: NetworkOptions, start: Path | None) -> bool:
    """True when the data choose the model: ``--model auto``, or nothing that pins one is given.

    A recipe pins it, and so do a choice of the model's own parts (``--set model.…``) and weights of a
    whole detector, which belong to one network.

    Args:
        start: the file that the training starts from, if any.
    """
    if options.recipe is not None:
        return False
    if options.model is not None:
        return options.model == AUTO
    return not any(choice.startswith("model.") for choice in options.set) and not (
        start is not None and _is_detector(start)
    )


def _is_detector(weights: Path) -> bool:
    from hardmine.models.state_dict import read_state_dict
    from hardmine.recipes.checkpoint import is_checkpoint
    from hardmine.recipes.pretrained_weights import is_torchvision_ssd

    return is_checkpoint(weights) or is_torchvision_ssd(read_state_dict(weights))


def fit_to_data(
    recipe: Recipe,
    options: NetworkOptions,
    start: Path | None,
    train: Dataset,
    source: str = DATA,
) -> tuple[Recipe, tuple[str, ...]]:
    """Return the recipe to train with, and the lines that say why it was chosen.

    Where the user leaves the model open, it and the epochs are chosen by the training data and the
    user's other choices are laid over them. Otherwise ``recipe`` is kept, and what its priors miss is a
    warning.

    Args:
        recipe: what the options name, the default where they name none.
        start: the file that the training starts from, if any.
        train: the training images; without a labelled box the recipe is kept.
        source: the labelled data as a command line takes them, for the commands in what is said.

    Raises:
        ConfigError: a choice of the user does not fit the model that the data choose.
    """
    if not any(len(record.boxes[~record.ignore]) for record in train.records):
        return recipe, ()
    if not is_automatic(options, start):
        for line in warnings_of(train, recipe, source):
            _log.warning("%s", line)
        return recipe, ()
    choice = choose_for(train, options.set, source)
    try:
        recipe = options.laid_over(choice.recipe)
    except ConfigError as error:
        raise ConfigError(f"{choice.model}, which these data choose: {error}") from None
    recipe, more = with_enough_epochs(recipe, options, train)
    for line in (lines := (*choice.lines, *more)):
        _log.log(NOTICE, "%s", line)
    for line in (*choice.warnings, *_of_many_objects(train, recipe)):
        _log.warning("%s", line)
    return recipe, lines


def candidates() -> Iterator[Recipe]:
    """Give the recipes that the data may choose, the quickest first."""
    yield from (_recipe(model, settings) for model, settings in CANDIDATES)


def choose_for(data: Dataset, given: Sequence[str] = (), source: str = DATA) -> AutoChoice:
    """Choose the quickest model whose priors reach the boxes of every class.

    The number of objects per image decides nothing: of a crowded set whose boxes the plain model's
    priors reach, it was reported that that model is better than a shared head (docs/log.md).

    Args:
        given: the user's own choices, ``key=value``; how detections are decoded is left to them.

    Raises:
        DataError: no labelled box.
    """
    shape, overlapping = median_shape(data), overlapping_share(data)
    kept = _decoding(data, given, overlapping)
    tried: list[tuple[RecipeFit, str, tuple[str, ...], Recipe]] = []

    def fits(model: str, settings: tuple[str, ...]) -> bool:
        """Measure a model with its settings, note it, and say whether it reaches every class."""
        recipe = _recipe(model, settings)
        fit = measure_fit(data, recipe)
        assert fit is not None
        tried.append((fit, model, settings, recipe))
        return not fit.missed

    for model, settings in CANDIDATES:
        settings = (*settings, *_canvas_of(shape, _recipe(model, settings)))
        if model == MATCHED_ON_TWO and overlapping < CROWDED:
            settings = (*settings, *TWO_LEVELS)
        settings = (*settings, *_freer_backbone(model, data), *kept)
        if fits(model, settings):
            break
        if any(item.long >= 0.5 for item in tried[-1][0].missed):
            kind = getattr(getattr(tried[-1][3].model, "priors", None), "kind", "")
            if fits(model, (*settings, LONG_RATIOS[kind])):
                break
    found = tried[-1]
    if found[0].missed:
        found = max(tried, key=lambda item: item[0].rank)
    elif _differ_in_details(found[0]):
        model, settings = DETAILED
        settings = (*settings, *_freer_backbone(model, data), *kept)
        if any(fits(model, (*settings, priors)) for priors in DETAILED_PRIORS):
            found = tried[-1]
    fit, model, settings, recipe = found
    lines = _lines(fit, model, settings, tried[0][0], overlapping)
    return AutoChoice(
        recipe, model, settings, lines, (_out_of_reach(fit, source),) if fit.missed else ()
    )


def _decoding(data: Dataset, given: Sequence[str], overlapping: float) -> tuple[str, ...]:
    """Return how crowded data are decoded, but for what the user's own choices say of it."""
    from hardmine.recipes.named_recipes import named_recipe

    own = any(text.startswith("decode.") and not text.startswith(COUNTS) for text in given)
    kept = (KEEP_OVERLAPPING,) if overlapping >= CROWDED and not own else ()
    if any(text.startswith(COUNTS) for text in given):
        return kept
    return (*kept, *_room_for_objects(data, named_recipe(CANDIDATES[0][0])))


def _loses_details(fit: RecipeFit) -> bool:
    """True where the smallest of several classes is small on the usual canvas, finer in the images."""
    smallest = fit.smallest
    finer = smallest.side_in_images >= FINER * smallest.median_side
    usual = fit.width == fit.height < LARGE
    return len(fit.known) > 1 and usual and smallest.median_side < SMALL and finer


def _differ_in_details(fit: RecipeFit) -> bool:
    """True where the canvas loses details and nothing else may tell the classes apart: they have about
    one size.
    """
    largest = max(item.median_side for item in fit.known)
    return _loses_details(fit) and largest < ONE_SIZE * fit.smallest.median_side


def _freer_backbone(model: str, data: Dataset) -> tuple[str, ...]:
    """Return the setting that trains more of a model's backbone, with many boxes or several classes."""
    labels = np.concatenate([np.zeros(0, np.int64), *(r.labels[~r.ignore] for r in data.records)])
    several = len(np.unique(labels)) > 1
    if model not in FREER or not (several or len(labels) >= MANY_BOXES):
        return ()
    return (f"{FROZEN_TO}{FREER[model][0 if several else 1]}",)


def _canvas_of(shape: float, recipe: Recipe) -> tuple[str, ...]:
    """Return the settings of a canvas of about the images' shape and the recipe's area; none where
    the images are less than twice as wide as high, or as high as wide.
    """
    if max(shape, 1 / shape) < WIDE:
        return ()
    ratio = min(max(shape, 1 / WIDEST), WIDEST)
    height, width = recipe.model.height / math.sqrt(ratio), recipe.model.width * math.sqrt(ratio)
    rows, columns = (max(1, round(side / STRIDE)) * STRIDE for side in (height, width))
    return f"model.height={rows}", f"model.width={columns}"


def _and_more(classes: int) -> str:
    return f" (and {counted(classes, 'more class', 'more classes')})" if classes else ""


def _out_of_reach(fit: RecipeFit, source: str) -> str:
    """Return what to do about the class that the best model of the list reaches least."""
    worst = fit.missed[0]
    others = _and_more(len(fit.missed) - 1)
    return (
        f"the priors of the best model of the list reach only {worst.reach:.0%} of the "
        f"{counted(worst.boxes, 'box', 'boxes')} of class {worst.name!r}{others}: boxes out of reach "
        f"will hardly be learned. {_way_to_reach(fit, worst, source)}"
    )


def _way_to_reach(fit: RecipeFit, item: ClassFit, source: str) -> str:
    """Return how the priors of a model come to reach a class, in a sentence or two."""
    if item.median_side < SMALLEST_SIDE and item.side_in_images > item.median_side:
        # Tiles are squares, for which the canvas is one of the same area.
        side = math.sqrt(fit.width * fit.height)
        tile = max(1, round(side * item.side_in_images / SMALLEST_SIDE / STRIDE)) * STRIDE
        return (
            f"These boxes have a median side of {item.median_side:.0f} px on the canvas and "
            f"{item.side_in_images:.0f} px in the images. Either cut the images into tiles ("
            f"'hardmine convert {source} TILES --to coco --tile {tile}', then 'mine' and 'predict' with "
            f"--tile {tile}), or take a larger canvas with a model whose priors do not grow with it "
            f"({_finest_model()} --set model.height=H --set model.width=W)"
        )
    return f"'hardmine priors fit {source} {_model_words(fit)}' looks for priors that reach more"


def _finest_model() -> str:
    """Return the options that name the model of the list for the smallest objects."""
    name, settings = CANDIDATES[-1]
    return f"--model {name} --set {settings[0]}"


def _model_words(fit: RecipeFit) -> str:
    """Return the options that name a model with its canvas."""
    from hardmine.recipes.named_recipes import RECIPES

    if fit.model not in RECIPES:
        return "--recipe FILE"
    usual = RECIPES[fit.model]().model
    same = (usual.width, usual.height) == (fit.width, fit.height)
    canvas = "" if same else f" --set model.height={fit.height} --set model.width={fit.width}"
    return f"--model {fit.model}{canvas}"


def with_enough_epochs(
    recipe: Recipe, options: NetworkOptions, train: Dataset
) -> tuple[Recipe, tuple[str, ...]]:
    """Return the recipe with more epochs where few images of several classes give few steps, and why.

    Epochs that the user names are kept.
    """
    pinned = options.epochs is not None or any(text.startswith("epochs=") for text in options.set)
    images = count_labelled(train.records)
    classes = len({label for r in train.records for label in r.labels[~r.ignore].tolist()})
    steps = STEPS_PER_CLASS * classes
    epochs = float(min(MOST_EPOCHS, math.ceil(steps * recipe.batch.size / max(1, images))))
    if pinned or epochs <= recipe.epochs:
        return recipe, ()
    line = (
        f"{epochs:g} epochs (--epochs N sets them): {recipe.epochs:g} epochs of "
        f"{counted(images, 'image')} are "
        f"{recipe.steps(images)} steps, and {steps} are wanted for "
        f"{counted(classes, 'class', 'classes')}"
    )
    return replace(recipe, epochs=epochs), (line,)


def _recipe(model: str, settings: tuple[str, ...]) -> Recipe:
    from hardmine.recipes.named_recipes import named_recipe
    from hardmine.recipes.recipe import apply_settings

    return apply_settings(named_recipe(model), settings)


def _lines(
    fit: RecipeFit, model: str, settings: tuple[str, ...], first: RecipeFit, overlapping: float
) -> tuple[str, ...]:
    side, share, least = fit.smallest.median_side, fit.reach, fit.worst_reach
    changes = f" with {', '.join(settings)}" if settings else ""
    if fit.missed:
        most = "reaches most" if fit.reach > 0 else "comes nearest"
        why = f"no model of the list reaches every class, and this one {most}"
    elif any(text in settings for text in DETAILED_PRIORS):
        why = "details tell the classes apart"
    elif first is fit:
        why = "its priors fit"
    else:
        worst = first.missed[0]
        why = f"the priors of {first.model} reach {worst.reach:.0%} of the boxes of {worst.name!r}"
    if fit.width != fit.height:
        why += ", on a canvas of the images' shape"
    return (
        f"model {model}{changes}, chosen for these data (--model NAME sets another): {why}",
        f"{counted(fit.boxes, 'box', 'boxes')}{_of_images(fit)}, {fit.objects_per_image:.1f} per image; "
        f"on its {fit.width} x {fit.height} px canvas the smallest class{_of_enough_boxes(fit)}, "
        f"{fit.smallest.name!r}, has a median side of {side:.0f} px",
        f"its priors reach {share:.0%} of all boxes and at least {least:.0%} of each class"
        f"{_of_enough_boxes(fit)}",
        *_other_reasons(fit, settings, overlapping),
        *_of_rare_classes(fit),
        *_larger_canvas(fit),
    )


def _of_enough_boxes(fit: RecipeFit) -> str:
    """Return which classes a sentence is about where others have too few boxes to choose by."""
    return f" of {FEW_BOXES} boxes or more" if len(fit.known) < len(fit.classes) else ""


def _of_rare_classes(fit: RecipeFit) -> tuple[str, ...]:
    """Return the classes that have too few boxes to choose by, and how the priors fit them."""
    rare = [item for item in fit.classes if item not in fit.known]
    if not rare:
        return ()
    named = [
        f"{item.name!r} ({counted(item.boxes, 'box', 'boxes')}, median side {item.median_side:.0f} px, "
        f"{item.reach:.0%} reached)"
        for item in rare[:CLASSES_NAMED]
    ]
    if more := rare[CLASSES_NAMED:]:
        named.append(counted(len(more), "more class", "more classes"))
    return (f"too few boxes to choose by: {', '.join(named)}",)


def _other_reasons(
    fit: RecipeFit, settings: tuple[str, ...], overlapping: float
) -> tuple[str, ...]:
    """Return why settings that are not for the priors' reach were chosen."""
    lines = []
    if any(each.startswith(FROZEN_TO) for each in settings):
        why = f"{fit.boxes} boxes are enough"
        if len(fit.classes) > 1:
            why = f"{len(fit.classes)} classes are told apart"
        lines.append(f"{why}: more of the backbone is trained")
    if TWO_LEVELS[0] in settings:
        most = TWO_LEVELS[1].rpartition("=")[2]
        lines.append(
            f"small objects are matched on two levels and keep their {most} best priors each: fewer "
            "alarms at one score for all classes"
        )
    if any(text in settings for text in DETAILED_PRIORS):
        lines.append(
            f"the classes have about one size, and {_in_images(fit.smallest)}: a larger canvas keeps "
            "details, in four times the time (--epochs 20 halves it)"
        )
    if KEEP_OVERLAPPING in settings:
        kept = KEEP_OVERLAPPING.rpartition("=")[2]
        lines.append(
            f"{_much_overlap(overlapping)}: only detections that overlap by more than {kept} are taken "
            "for one object"
        )
    for text in settings:
        if text.startswith(COUNTS[0]):
            count = text.removeprefix(COUNTS[0])
            lines.append(
                f"images hold many objects: the best {count} detections of an image are kept"
            )
    return tuple(lines)


def _of_images(fit: RecipeFit) -> str:
    return f" in {fit.images} of {fit.all_images} images" if fit.images < fit.all_images else ""


def _in_images(item: ClassFit) -> str:
    return f"{item.name!r} has {item.side_in_images:.0f} px in the images"


def _much_overlap(share: float) -> str:
    return f"{share:.0%} of the boxes overlap another of their class by IoU {OVERLAP:g} or more"


def _larger_canvas(fit: RecipeFit) -> tuple[str, ...]:
    """Return what a larger canvas would show of several classes of small objects; nothing otherwise.

    Nothing where the canvas has the images' shape either: the larger model's is a square.
    """
    if not _loses_details(fit):
        return ()
    return (
        f"{_in_images(fit.smallest)}: if classes are confused with each other, a larger canvas may tell "
        f"them apart, in four times the time ({_finest_model()})",
    )


def warnings_of(data: Dataset, recipe: Recipe, source: str = DATA) -> tuple[str, ...]:
    """Return what is likely to go wrong with a recipe that the user pinned, with the way out."""
    said = (*_of_missed_boxes(data, recipe, source), *_of_suppression(data, recipe))
    return (*said, *_of_many_objects(data, recipe))


def _of_missed_boxes(data: Dataset, recipe: Recipe, source: str) -> tuple[str, ...]:
    fit = measure_fit(data, recipe)
    if fit is None or not fit.missed:
        return ()
    worst = fit.missed[0]
    others = _and_more(len(fit.missed) - 1)
    out_of_reach = round((1 - worst.reach) * worst.boxes)
    better = choose_for(data)
    reach = _reach_of(data, better, worst.name)
    way = _way_to_reach(fit, worst, source)
    if reach > worst.reach:
        changes = f" with {', '.join(better.settings)}" if better.settings else ""
        way = f"--model auto would take {better.model}{changes}, which reaches {reach:.0%}. {way}"
    return (
        f"{out_of_reach} of the {counted(worst.boxes, 'box', 'boxes')} of class {worst.name!r}{others} "
        f"({1 - worst.reach:.0%}, median side {worst.median_side:.0f} px on the canvas) overlap no "
        f"prior of {fit.model} enough to be matched: these will hardly be learned. {way}",
    )


def _of_suppression(data: Dataset, recipe: Recipe) -> tuple[str, ...]:
    """Return what to say where suppression would remove detections of real objects."""
    decode = recipe.decode
    if decode.kind != "per_class" or decode.nms_iou >= ENOUGH_NMS_IOU:
        return ()
    if (overlapping := overlapping_share(data)) < CROWDED:
        return ()
    return (
        f"{_much_overlap(overlapping)}: of detections that overlap by more than {decode.nms_iou:g} only "
        f"the best is kept, and objects will be missed. --set {KEEP_OVERLAPPING} keeps more",
    )


def _of_many_objects(data: Dataset, recipe: Recipe) -> tuple[str, ...]:
    """Return what to say where images hold more objects than detections of an image are kept."""
    settings = _room_for_objects(data, recipe)
    if not settings:
        return ()
    kept, most, beyond = objects_and_room(data, recipe)
    more = " ".join(f"--set {text}" for text in settings)
    return (
        f"up to {most} objects lie in one image, and the best {kept} detections of an image are kept: "
        f"{beyond:.0%} of the objects can never be found. {more} keeps more (AP, as COCO defines it, "
        "counts 100 of each class all the same)",
    )


def _room_for_objects(data: Dataset, recipe: Recipe) -> tuple[str, ...]:
    """Return the settings that keep enough detections of an image, where the recipe's are too few."""
    _, most, beyond = objects_and_room(data, recipe)
    if not beyond or beyond < MANY_BEYOND:
        return ()
    return f"{COUNTS[0]}{2 * most}", f"{COUNTS[1]}{8 * most}"


def _reach_of(data: Dataset, choice: AutoChoice, name: str) -> float:
    fit = measure_fit(data, choice.recipe)
    assert fit is not None
    return next(item.reach for item in fit.classes if item.name == name)
