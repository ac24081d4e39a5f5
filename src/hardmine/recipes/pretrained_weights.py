"""Where a training's starting weights come from, and how they are taken over.

A file may hold an ImageNet network (the backbone starts from it), a whole torchvision SSD, or a
Hardmine checkpoint; the latter two bring neck and heads too. Class weights are reused by class name
(:func:`transfer_classes`). Nothing is fetched unless a name is given.

torchvision's trained SSD300 and SSDlite320 become Hardmine models that are the same network, number
for number. Their state dicts are translated name by name; what makes their network another one than
our recipe's is set in the recipe: sizes of priors cut at the input, and for SSDlite the halved last
stage and pixels scaled to −1 … 1. Source: torchvision/models/detection/ssd.py and ssdlite.py.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlparse

from torch import Tensor

from hardmine.errors import CheckpointError, ConfigError, DataError
from hardmine.models.backbones import SmallNetConfig, Taps, TapsConfig, TimmConfig, VggConfig
from hardmine.models.priors import CaffePriors, LinearPriors
from hardmine.models.ssd import SSD, Network, SSDConfig
from hardmine.models.state_dict import read_state_dict
from hardmine.models.torchvision_network import TorchvisionConfig
from hardmine.recipes.checkpoint import find_checkpoint, is_checkpoint, read_metadata
from hardmine.recipes.recipe import Recipe

DEFAULT_NAME = "imagenet"
"""The name that stands for the library's best ImageNet weights of the backbone."""

DETECTOR_NAME = "torchvision"
"""The name that stands for torchvision's COCO weights of the whole detector."""

_log = logging.getLogger(__name__)


def find_weights(weights: Path | str | None, model: SSDConfig | TorchvisionConfig) -> Path | None:
    """Return the weights file to start a model from; ``None`` for random weights.

    Args:
        weights: a file, or a run folder; "none" (or ``None``); "imagenet"; the name of a set of
            torchvision weights such as "IMAGENET1K_V1"; or "torchvision" for a whole detector trained
            on COCO. A name is downloaded once into the library's own folder.
        model: what the weights are for; one of torchvision's detectors has names of its own, such as
            "COCO_V1", the best of which "imagenet" and "torchvision" give.

    Raises:
        ConfigError: neither a file nor a known name.
        DataError: the download failed.
    """
    if weights is None or str(weights) == "none":
        return None
    path = find_checkpoint(Path(weights))
    if path.is_file():
        return path.resolve()
    if path.suffix or len(path.parts) > 1:
        raise ConfigError(f"weights: no file {weights}; give a path, a name, or none")
    name = str(weights)
    if isinstance(model, TorchvisionConfig):
        return _download(_url(DEFAULT_NAME if name == DETECTOR_NAME else name, model.name))
    if name == DETECTOR_NAME:
        return _download(_detector_url(model.name))
    backbone = model.backbone
    if isinstance(backbone, SmallNetConfig):
        raise ConfigError(
            f"weights: got {weights}, but a {backbone.kind!r} backbone has no named ones"
        )
    if isinstance(backbone, TimmConfig):
        return _download_timm(backbone.name, name)
    network = "vgg16" if isinstance(backbone, VggConfig) else backbone.name
    if name == DEFAULT_NAME and isinstance(backbone, VggConfig):
        name = "IMAGENET1K_FEATURES"  # the set that was trained on Caffe's pixels, as SSD's was
    return _download(_url(name, network))


@cache
def warn_of_none() -> None:
    """Say that a network starts from random numbers; once in a process, which may train many."""
    _log.warning(
        "no weights are given: the network starts from random numbers, and layers that its recipe "
        "freezes stay so; with a few hundred images it will find next to nothing. Give those of an "
        "ImageNet network: --weights FILE, or --weights imagenet, which downloads them once (--weights "
        "none says that random numbers are wanted)"
    )


def match_recipe(recipe: Recipe, weights: Path | None) -> Recipe:
    """Return ``recipe`` with the network that its starting weights belong to.

    Only a torchvision detector changes anything.

    Raises:
        CheckpointError: unreadable weights.
        ConfigError: a torchvision detector for a model that torchvision does not have.
    """
    if weights is None or isinstance(recipe.model, TorchvisionConfig) or is_checkpoint(weights):
        return recipe
    state = read_state_dict(weights)
    return as_torchvision(recipe, state) if is_torchvision_ssd(state) else recipe


def load_starting_weights(model: Network, path: Path) -> None:
    """Fill a new model from a file of any of the three kinds.

    One line of the log says which classes of a detector were taken over.

    Raises:
        CheckpointError: unreadable, unsafe, or weights of another architecture.
    """
    if not isinstance(model, SSD):
        model.load_pretrained(path)
    elif is_checkpoint(path):
        recipe, categories = read_metadata(path)
        _take_over(model, read_state_dict(path), categories, path, recipe.model.name)
    else:
        state = read_state_dict(path)
        if is_torchvision_ssd(state):
            _take_over(model, translate(state, model, path), coco_categories(), path, "torchvision")
        else:
            model.load_pretrained(path)


def _take_over(
    model: SSD, state: Mapping[str, Tensor], categories: tuple[str, ...], path: Path, what: str
) -> None:
    try:
        filled = transfer_classes(state, categories, model)
        model.load_state_dict(filled)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise CheckpointError(
            f"{path}: weights of {what!r} do not fit {model.config.name!r} ({reason})"
        ) from None
    if categories != model.categories:
        known = [name for name in model.categories if name in categories]
        new = [name for name in model.categories if name not in categories]
        _log.warning(
            "%s: class weights reused for %s; new at random: %s",
            path,
            ", ".join(known) or "none",
            ", ".join(new) or "none",
        )


def _detector_url(name: str) -> str:
    from torchvision.models import get_model_weights

    if name not in MODELS:
        raise ConfigError(
            f"weights: torchvision has no detector {name!r}, only {' and '.join(MODELS)}"
        )
    return str(get_model_weights(name).DEFAULT.url)


def _url(name: str, network: str) -> str:
    from torchvision.models import get_model_weights

    known = get_model_weights(network)
    if name == DEFAULT_NAME:
        return str(known.DEFAULT.url)
    names = [member.name for member in known]
    if name not in names:
        wanted = ", ".join([DEFAULT_NAME, *names, "none"])
        raise ConfigError(
            f"weights of {network}: got {name!r}, no such file; wanted one of {wanted}"
        )
    return str(known[name].url)


def _download(url: str) -> Path:
    from torch import hub

    target = Path(hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    expected = hub.HASH_REGEX.search(target.name)
    prefix = expected.group(1) if expected else None
    try:
        hub.download_url_to_file(url, str(target), prefix, progress=False)
    except (URLError, OSError, RuntimeError) as error:
        raise DataError(
            f"{url}: download failed ({error}); without a network give --weights PATH or none"
        ) from None
    return target


def _download_timm(network: str, name: str) -> Path:
    """Fetch a timm network's weights from the Hugging Face hub into its cache."""
    import timm

    if name != DEFAULT_NAME:
        raise ConfigError(
            f"weights of timm {network}: got {name!r}, wanted a file, {DEFAULT_NAME} or none"
        )
    config = timm.get_pretrained_cfg(network)
    if config is None or not config.hf_hub_id:
        raise ConfigError(f"weights of timm {network}: none are published; give a file or none")
    try:
        return _fetch_from_hub(str(config.hf_hub_id))
    except Exception as error:  # noqa: BLE001  (the hub's client raises many kinds)
        reason = str(error).strip().splitlines()[0][:120] or type(error).__name__
        raise DataError(
            f"{config.hf_hub_id}: download failed ({reason}); without a network give "
            "--weights PATH or none"
        ) from None


def _fetch_from_hub(repository: str) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(repository, "model.safetensors"))


def transfer_classes(
    state: Mapping[str, Tensor], categories: Sequence[str], model: SSD
) -> dict[str, Tensor]:
    """Return a full state dict for ``model`` out of a detector's with other ``categories``.

    The last convolution of the class head has one filter per prior and class. Those of classes that
    both lists name are copied, and the background's; a new class keeps the model's own initial
    values. Everything else is copied as it is.

    Args:
        state: of the same architecture, under this package's names.
        categories: its classes, in the order of its filters, without background.

    Raises:
        ValueError: the filters are not a whole number of priors times classes.
    """
    own = model.state_dict()
    last = {f"class_head.{name}" for name in _last_layers(model)}
    background = int(model.config.score_form == "softmax")
    filled = dict(state)
    for name in last & filled.keys():
        filled[name] = _transfer(filled[name], categories, own[name], model.categories, background)
    return filled


def _last_layers(model: SSD) -> list[str]:
    """Return the names of the tensors with one row per prior and class."""
    names = [name for name, _ in model.class_head.named_parameters()]
    return [name for name in names if ".last." in f".{name}"]


def _transfer(
    old: Tensor,
    old_names: Sequence[str],
    initial: Tensor,
    new_names: Sequence[str],
    background: int,
) -> Tensor:
    """Return rows [K · new classes, …] from rows [K · old classes, …]."""
    old_width, new_width = len(old_names) + background, len(new_names) + background
    priors = len(initial) // new_width
    if len(old) != priors * old_width:
        raise ValueError(
            f"{len(old)} filters of the class head are not {priors} priors a cell times "
            f"{old_width} columns"
        )
    source = old.reshape(priors, old_width, *old.shape[1:])
    target = initial.detach().clone().reshape(priors, new_width, *initial.shape[1:])
    target[:, :background] = source[:, :background]
    place = {name: index for index, name in reversed(list(enumerate(old_names)))}
    for index, name in enumerate(new_names):
        if name in place:
            target[:, background + index] = source[:, background + place[name]]
    return target.reshape(initial.shape)


MODELS = ("ssd300_vgg16", "ssdlite320_mobilenet_v3_large")

_MARK = "head.classification_head.module_list.0."
_TAIL = "backbone.features.1.3.0.weight"
"""SSDlite's last convolution, 480 (reduced) or 960 channels."""
_REDUCED_WIDTH = 480


def is_torchvision_ssd(state: Mapping[str, Tensor]) -> bool:
    """True for the state dict of a torchvision SSD or SSDlite."""
    return any(name.startswith(_MARK) for name in state)


def coco_categories() -> tuple[str, ...]:
    """Return the 90 class names of torchvision's COCO weights; ten of them are "N/A"."""
    from torchvision.models import get_model_weights

    return tuple(get_model_weights(MODELS[0]).DEFAULT.meta["categories"][1:])


def as_torchvision(recipe: Recipe, state: Mapping[str, Tensor]) -> Recipe:
    """Return ``recipe`` with the network that a torchvision state dict belongs to.

    Raises:
        ConfigError: the recipe's model is none of :data:`MODELS`.
    """
    model = recipe.model
    if not (
        isinstance(model, SSDConfig)
        and model.name in MODELS
        and isinstance(model.priors, CaffePriors | LinearPriors)
    ):
        raise ConfigError(
            f"weights of a torchvision SSD fit {' and '.join(MODELS)}, got model {model.name!r}"
        )
    priors = replace(model.priors, limit_size=True)
    backbone = model.backbone
    if isinstance(backbone, TapsConfig):
        half = (0.5, 0.5, 0.5)
        reduced = _TAIL in state and len(state[_TAIL]) == _REDUCED_WIDTH
        backbone = replace(backbone, reduced_tail=reduced, mean=half, std=half)
    return replace(recipe, model=replace(model, priors=priors, backbone=backbone))


def translate(state: Mapping[str, Tensor], model: SSD, path: Path) -> dict[str, Tensor]:
    """Return the tensors of a torchvision state dict under the names of ``model``.

    Raises:
        CheckpointError: a name that torchvision's network does not have.
    """
    taps = model.backbone if isinstance(model.backbone, Taps) else None
    rules = _VGG_RULES if taps is None else _LITE_RULES
    translated = {}
    for name, value in state.items():
        new = _rename(name, rules)
        if new is None:
            raise CheckpointError(
                f"{path}: {name!r} is no tensor of torchvision's {model.config.name}"
            )
        if taps is not None and new.startswith("backbone."):
            new = f"backbone.{taps.own_name(new.removeprefix('backbone.'))}"
        translated[new] = value
    return translated


_Rule = tuple[re.Pattern[str], str, int]
"""Pattern, replacement, and what is added to the number in its first group."""

_HEADS: tuple[_Rule, ...] = tuple(
    (re.compile(rf"head\.{theirs}\.module_list\.(\d+)\.{old}"), rf"{ours}.levels.{{}}.{new}", 0)
    for theirs, ours in (("classification_head", "class_head"), ("regression_head", "box_head"))
    for old, new in (
        (r"0\.([01]\..*)", r"body.\2"),
        (r"1\.(weight|bias)$", r"last.\2"),
        (r"(weight|bias)$", r"last.\2"),
    )
)
_VGG_RULES: tuple[_Rule, ...] = (
    (re.compile(r"backbone\.scale_weight()$"), "backbone.scale", 0),
    (re.compile(r"backbone\.features\.(\d+)\.(.*)"), r"backbone.features.{}.\2", 0),
    (re.compile(r"backbone\.extra\.0\.7\.1()\.(.*)"), r"backbone.fc6.\2", 0),
    (re.compile(r"backbone\.extra\.0\.7\.3()\.(.*)"), r"backbone.fc7.\2", 0),
    (re.compile(r"backbone\.extra\.0\.(\d)\.(.*)"), r"backbone.features.{}.\2", 23),
    (re.compile(r"backbone\.extra\.(\d)\.0\.(.*)"), r"neck.blocks.{}.0.0.\2", -1),
    (re.compile(r"backbone\.extra\.(\d)\.2\.(.*)"), r"neck.blocks.{}.1.0.\2", -1),
    *_HEADS,
)
_LITE_RULES: tuple[_Rule, ...] = (
    (re.compile(r"backbone\.features\.0\.13()\.(.*)"), r"backbone.features.13.block.0.\2", 0),
    (re.compile(r"backbone\.features\.0\.(\d+)\.(.*)"), r"backbone.features.{}.\2", 0),
    (re.compile(r"backbone\.features\.1\.0\.(\d)\.(.*)"), r"backbone.features.13.block.{}.\2", 0),
    (re.compile(r"backbone\.features\.1\.(\d)\.(.*)"), r"backbone.features.{}.\2", 13),
    (re.compile(r"backbone\.extra\.(\d)\.(.*)"), r"neck.blocks.{}.\2", 0),
    *_HEADS,
)


def _rename(name: str, rules: tuple[_Rule, ...]) -> str | None:
    for pattern, replacement, offset in rules:
        match = pattern.fullmatch(name)
        if match:
            number = str(int(match[1]) + offset) if match[1] else ""
            return match.expand(replacement.replace("{}", number))
    return None
