"""A recipe: every choice of a training run in one frozen value, written whole into checkpoints.

Beside the value stand its plain form (``recipe_to_dict``, ``recipe_from_dict``, a YAML file), what
identifies it (``recipe_identity``), and single choices laid over it as ``key.of.the.recipe=value``
(``apply_settings``).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from hardmine.augment.chain import AugmentConfig, augment_preset
from hardmine.data.resize import Mode, Resize
from hardmine.errors import ConfigError, did_you_mean
from hardmine.files import TextError, read_text
from hardmine.losses.loss_functions import ClassificationConfig
from hardmine.losses.multibox_loss import LossConfig
from hardmine.models.postprocess import AnyDecodeConfig, DecodeConfig
from hardmine.models.ssd import ModelConfig, SSDConfig
from hardmine.models.torchvision_network import TorchvisionConfig
from hardmine.option_fields import changed_options

logger = logging.getLogger(__name__)

Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True, slots=True)
class OptimConfig:
    """AdamW with linear warm-up and cosine decay to zero, gradient clipping and weight averaging."""

    lr: float = 1e-3
    backbone_lr_scale: float = 0.3
    weight_decay: float = 0.05
    """Weight decay; it is not applied to norms and biases."""
    clip_norm: float = 10.0
    warmup_steps: int = 30
    ema_decay: float = 0.99
    """Of the averaged weights, which are what is saved; 0 saves the raw weights. The first hundreds
    of steps average over fewer: see ``training.optimization.AveragedWeights``."""

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.clip_norm <= 0 or not 0.0 <= self.ema_decay < 1.0:
            raise ConfigError(
                f"optim: got lr {self.lr}, clip_norm {self.clip_norm}, ema_decay "
                f"{self.ema_decay}, wanted lr > 0, clip_norm > 0, 0 <= ema_decay < 1"
            )
        if min(self.backbone_lr_scale, self.weight_decay, self.warmup_steps) < 0:
            raise ConfigError(
                f"optim: got backbone_lr_scale {self.backbone_lr_scale}, weight_decay "
                f"{self.weight_decay}, warmup_steps {self.warmup_steps}, wanted each >= 0"
            )


@dataclass(frozen=True, slots=True)
class BatchConfig:
    """How batches are composed."""

    size: int = 16
    min_object_share: float = 0.5
    """At least this share of every batch holds objects, however many negatives there are."""
    negative_share: float | None = None
    """Share of negatives when there are any; ``None``: their share of the images."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(f"batch.size: got {self.size}, wanted >= 1")
        if not 0.0 <= self.min_object_share <= 1.0:
            raise ConfigError(f"batch.min_object_share: got {self.min_object_share}, wanted 0..1")
        if self.negative_share is not None and not 0.0 <= self.negative_share <= 1.0:
            raise ConfigError(f"batch.negative_share: got {self.negative_share}, wanted 0..1")
        left = 1.0 - self.min_object_share
        if self.negative_share is not None and self.negative_share > left + 1e-9:
            raise ConfigError(
                f"batch.negative_share: got {self.negative_share}, but batch.min_object_share "
                f"{self.min_object_share} leaves {left:g} at most; lower that too"
            )


@dataclass(frozen=True, slots=True)
class BranchConfig:
    """How a mining round continues from earlier weights."""

    epochs: float = 15.0
    """Length in passes over round 0's labelled images: the same number of steps in every arm."""
    lr_scale: float = 0.5

    def __post_init__(self) -> None:
        if self.lr_scale <= 0:
            raise ConfigError(f"branch.lr_scale: got {self.lr_scale}, wanted > 0")


@dataclass(frozen=True, slots=True)
class Recipe:
    """Model, data, loss and schedule."""

    model: ModelConfig = field(default_factory=SSDConfig)
    resize_mode: Mode = "stretch"
    resize_side: int | None = None
    """The side of the modes ``shortest`` and ``inscribe``, px; see ``Resize``."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    decode: AnyDecodeConfig = field(default_factory=DecodeConfig)
    branch: BranchConfig = field(default_factory=BranchConfig)
    epochs: float = 40.0
    """Passes over the images with objects."""
    precision: Precision = "auto"
    compile: bool = False
    """Train through ``torch.compile``: quicker steps after a minute of compiling. It needs a C++
    compiler (on a GPU, Triton), and weights differ from those of an ordinary run by rounding."""
    tensorboard: bool = False
    """Also write event files for TensorBoard into the run's folder."""
    telemetry: bool = True
    """Write ``telemetry.csv``: what the selected negatives are and do, for ``hardmine diagnose``. It
    changes nothing of a training and takes under 3 % of its time."""

    def __post_init__(self) -> None:
        if self.epochs <= 0 or self.branch.epochs <= 0:
            raise ConfigError(
                f"epochs: got {self.epochs} (branch {self.branch.epochs}), wanted > 0"
            )
        assert self.resize  # a side that does not fit is refused here
        if isinstance(self.model, TorchvisionConfig):
            self._check_torchvision(self.model.name)
        elif self.model.score_form != self.loss.score_form:
            raise ConfigError(
                f"model.score_form: got {self.model.score_form!r}, wanted "
                f"{self.loss.score_form.value!r} for loss.classification "
                f"{self.loss.classification.kind!r}"
            )

    def _check_torchvision(self, name: str) -> None:
        if self.loss != LossConfig():
            raise ConfigError(
                f"loss: {name} computes torchvision's own loss, so no choice in it would have an "
                "effect; wanted the defaults"
            )
        if self.compile:
            raise ConfigError(
                f"compile: the shapes inside {name} change with every batch, so that it would be "
                "compiled again and again; wanted false"
            )
        if self.decode.kind != "per_class":
            raise ConfigError(
                f"decode.kind: {name} decodes as torchvision does, per class; "
                f"got {self.decode.kind!r}"
            )

    @property
    def resize(self) -> Resize:
        """The resize used in training, evaluation and mining."""
        red, green, blue = (round(255 * mean) for mean in self.model.mean)
        fill, side = (red, green, blue), self.resize_side
        return Resize(self.model.height, self.model.width, self.resize_mode, fill, side)

    def steps(self, num_labelled: int) -> int:
        """Return the optimiser steps of a full training on so many images with objects."""
        return max(1, round(self.epochs * num_labelled / self.batch.size))

    def branch_steps(self, num_labelled: int) -> int:
        """Return the optimiser steps of a mining round."""
        return max(1, round(self.branch.epochs * num_labelled / self.batch.size))

    def for_branch(self) -> Recipe:
        """Return the recipe with which a mining round continues."""
        return replace(self, optim=replace(self.optim, lr=self.optim.lr * self.branch.lr_scale))


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Return plain values (tuples as lists) that YAML and JSON can hold."""
    plain = _plain(asdict(recipe))
    assert isinstance(plain, dict)
    return plain


def recipe_identity(recipe: Recipe) -> dict[str, Any]:
    """Return, as plain values, what of a recipe differs from the defaults.

    Identities of runs and of their steps are made from it: a field that a later version adds changes
    none of them as long as its default is kept.
    """
    changed = changed_options(recipe)
    changed.pop("telemetry", None)  # it changes nothing
    return changed


def recipe_from_dict(values: Mapping[str, Any], base: Recipe | None = None) -> Recipe:
    """Build a recipe from ``values`` laid over ``base``.

    Raises:
        ConfigError: an unknown key, a wrong type, or values that contradict each other.
    """
    from pydantic import TypeAdapter, ValidationError

    values = _with_present_names(values)
    under = _without_our_loss(base or Recipe(), values)
    merged = _merge(recipe_to_dict(under), _with_preset(values))
    merged = _with_score_form(merged, values)
    try:
        recipe = TypeAdapter(Recipe).validate_python(merged)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(_keys(first["loc"], merged))
        raise ConfigError(f"recipe: {where}: {first['msg']}, got {first['input']!r}") from None
    _refuse_unknown(merged, recipe, "")
    _refuse_not_finite(recipe_to_dict(recipe), "")
    return recipe


def load_recipe(path: Path, base: Recipe | None = None) -> Recipe:
    """Read a YAML recipe: any part of the tree, laid over ``base`` (or over ``model: {name}``'s).

    Raises:
        ConfigError: missing, no YAML mapping, or see :func:`recipe_from_dict`.
    """
    import yaml

    try:
        values = yaml.safe_load(read_text(path))
    except (OSError, TextError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: not a readable recipe ({reason})") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: wanted a mapping of recipe keys, got {type(values).__name__}")
    try:
        return recipe_from_dict(values, base)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def apply_settings(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """Return ``recipe`` with the settings laid over it, all at once: their order does not matter.

    Args:
        settings: such as ``loss.selection.floor=32`` or ``decode.kind=argmax``; what follows the first
            ``=`` is read as YAML. A part of another ``kind`` starts from that kind's defaults.

    Raises:
        ConfigError: no ``key=value``, an unknown key, a value of the wrong type, a key that is given
            twice, or values that contradict each other.
    """
    if not settings:
        return recipe
    return recipe_from_dict(_as_tree(settings), recipe)


def current_form(values: dict[str, Any]) -> dict[str, Any]:
    """Return the recipe in a checkpoint as it would be written today.

    Until November 2026 the initialiser was a number of the head: ``init_std``, 0 for Xavier's; and the
    localisation loss a number of the loss: ``smooth_l1_delta``; ``loss.suspect_score`` was called
    ``loss.quarantine``.
    """
    loss = dict(values.get("loss", {}))
    if "quarantine" in loss:
        loss["suspect_score"] = loss.pop("quarantine")
        values = {**values, "loss": loss}
    if "smooth_l1_delta" in loss:
        loss["localisation"] = {"kind": "smooth_l1", "delta": loss.pop("smooth_l1_delta")}
        values = {**values, "loss": loss}
    model = values.get("model", {})
    head = model.get("head", {})
    if "init_std" not in head:
        return values
    std = head["init_std"]
    init = {"kind": "normal", "std": std} if std else {"kind": "xavier", "magnitude": 1.0}
    head = {key: value for key, value in head.items() if key != "init_std"}
    return {**values, "model": {**model, "head": head, "init": init}}


_RENAMED = {("loss", "quarantine"): "suspect_score"}
"""Keys that had another name, with the part of the recipe that holds them."""


def _with_present_names(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the values under their present names; a former name is accepted with a warning."""
    for (part, former), name in _RENAMED.items():
        inside = values.get(part)
        if isinstance(inside, Mapping) and former in inside:
            logger.warning("recipe: %s.%s is now called %s.%s", part, former, part, name)
            kept = {key: value for key, value in inside.items() if key != former}
            values = {**values, part: {**kept, name: inside[former]}}
    return values


def _keys(location: Sequence[str | int], values: Any) -> list[str]:
    """Return the keys of a place in ``values``, without the kinds that pydantic names on the way."""
    keys = []
    for part in location:
        known = dict(enumerate(values)) if isinstance(values, list) else values
        if isinstance(known, Mapping) and part in known:
            keys.append(str(part))
            values = known[part]
    return keys


def _with_preset(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Write a named augmentation preset out: it replaces the base's, keys beside it are laid over."""
    given = values.get("augment")
    if isinstance(given, str):
        given = {"preset": given}
    if not isinstance(given, Mapping) or "preset" not in given:
        return values
    preset = _plain(asdict(augment_preset(str(given["preset"]))))
    others = {key: value for key, value in given.items() if key != "preset"}
    return {**values, "augment": _merge(preset, others)}


def _without_our_loss(base: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Do not lay the loss of the base's network under a torchvision network, which has its own."""
    model = values.get("model")
    its_own = isinstance(model, Mapping) and model.get("kind") == "torchvision"
    return replace(base, loss=LossConfig()) if its_own else base


def _with_score_form(merged: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Let the model's score form follow the classification loss where ``values`` do not say it."""
    given, model, loss = values.get("model", {}), merged.get("model"), merged.get("loss")
    if not isinstance(model, Mapping) or not isinstance(given, Mapping):
        return merged  # refused later
    if model.get("kind") != "ssd" or "score_form" in given:
        return merged
    chosen = loss.get("classification", {}) if isinstance(loss, Mapping) else {}
    kind = chosen.get("kind") if isinstance(chosen, Mapping) else None
    for config in (cls() for cls in get_args(get_args(ClassificationConfig)[0])):
        if config.kind == kind:
            return {**merged, "model": {**model, "score_form": config.score_form.value}}
    return merged  # refused later


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay ``over`` on ``base``; a part of another ``kind`` replaces the old one whole."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, Mapping):
            other = "kind" in value and value["kind"] != old.get("kind")
            merged[key] = dict(value) if other else _merge(old, value)
        else:
            merged[key] = value
    return merged


class UnknownKeyError(ConfigError):
    """A key that a recipe does not have.

    Args:
        key: the whole key, such as ``model.foo``.
        known: the keys that its part of the recipe has.
        of: whose keys these are, where more than one recipe is meant.
    """

    def __init__(self, key: str, known: Iterable[str], of: str = "") -> None:
        self.key, self.known = key, frozenset(known)
        names = ", ".join(sorted(self.known))
        near = did_you_mean(key.rpartition(".")[2], self.known)
        super().__init__(f"recipe: unknown key {key!r}, wanted one of {names}{of}{near}")


def _refuse_unknown(values: Mapping[str, Any], config: Any, where: str) -> None:
    known = {f.name for f in fields(config)}
    for key, value in values.items():
        name = f"{where}{key}"
        if key not in known:
            raise UnknownKeyError(name, known)
        part = getattr(config, key)
        if is_dataclass(part) and isinstance(value, Mapping):
            _refuse_unknown(value, part, f"{name}.")


_MAY_BE_INFINITE = "optim.clip_norm"
"""The key whose infinity has a meaning: gradients are not clipped."""


def _refuse_not_finite(values: Any, where: str) -> None:
    """Refuse a number that is none or infinite: it passes comparisons, and trains something else."""
    if isinstance(values, dict):
        for key, value in values.items():
            _refuse_not_finite(value, f"{where}.{key}" if where else str(key))
    elif isinstance(values, list):
        for value in values:
            _refuse_not_finite(value, where)
    elif isinstance(values, float) and not math.isfinite(values):
        if values > 0 and where == _MAY_BE_INFINITE:
            return
        raise ConfigError(f"recipe: {where}: got {values}, wanted a finite number")


def _as_tree(settings: Sequence[str]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for setting in settings:
        *parents, last = _split_key(setting)
        place = tree
        for part in parents:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ConfigError(f"setting {setting!r}: {part!r} is set as a whole already")
        if last in place:
            raise ConfigError(f"setting {setting!r}: {last!r} is set already; give it once")
        place[last] = _read_value(setting)
    return tree


def _split_key(setting: str) -> list[str]:
    key, equals, _ = setting.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"setting {setting!r}: wanted KEY=VALUE such as loss.selection.floor=32")
    return parts


def _read_value(setting: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(setting.partition("=")[2])
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"setting {setting!r}: the value is no YAML ({reason})") from None
