"""What a comparison of recipes is asked for; light, so that the command line can import it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from hardmine.errors import ConfigError
from hardmine.option_fields import option, split_settings
from hardmine.workflows.train_options import AUTO, DataOptions, device_option, weights_option


@dataclass(frozen=True, slots=True)
class Variant:
    """One side of a comparison: a recipe with choices laid over it, and options of the loop.

    Attributes:
        name: as the user wrote it; unique in a comparison.
        base: the name of a recipe, a YAML file, "auto" (chosen by the data), or "" for the
            default recipe.
        settings: choices laid over the recipe, each as ``loss.selection.kind=level_quota``.
        loop: options of the loop, by the name of their field (``add``, ``retrain``, ``arms`` …).
        with_negatives: train on the images of ``train_negatives`` too.
    """

    name: str
    base: str = ""
    settings: tuple[str, ...] = ()
    loop: dict[str, Any] = field(default_factory=dict)
    with_negatives: bool = False


STOCK = "ratio 3, floor 0"
MINING: Mapping[str, tuple[str, ...]] = {
    STOCK: ("kind=ratio", "neg_to_pos_ratio=3", "floor=0"),
    "no mining": ("kind=all",),
    "random": ("kind=random", "floor=32"),
    "ratio 3": ("kind=ratio", "neg_to_pos_ratio=3", "floor=32"),
    "ratio 1": ("kind=ratio", "neg_to_pos_ratio=1", "floor=32"),
    "IoU band .2-.7": ("kind=band", "low=0.2", "high=0.7", "floor=32"),
    "quota per level": ("kind=level_quota", "floor=32"),
    "mixed with ramp": ("kind=mixed", "floor=32"),
    "focal loss": ("kind=all",),
}
"""The preset ``mining``: the ways of selecting negatives, each as choices of ``loss.selection``. The
first, which most frameworks have, is the reference. The floor is the same for all others, whatever the
recipe has that they are laid over."""


def mining_variants(base: Variant, *, with_negatives: bool) -> list[Variant]:
    """Return a variant of ``base`` for each way of selecting negatives.

    Args:
        with_negatives: each of them a second time, trained on images without objects too.

    Raises:
        ConfigError: ``base`` has choices of ``loss.selection``.
    """
    if taken := [choice for choice in base.settings if choice.strip().startswith("loss.selection")]:
        raise ConfigError(f"--preset mining: got {taken[0]}, which the preset itself sets")
    made = []
    for name, choices in MINING.items():
        settings = [f"loss.selection.{choice}" for choice in choices]
        if name == "focal loss":
            settings.append("loss.classification.kind=focal")
        made.append(replace(base, name=name, settings=_laid_over(base.settings, settings)))
    if not with_negatives:
        return made
    more = [replace(v, name=f"{v.name}, negatives", with_negatives=True) for v in made]
    return [*made, *more]


def parse_variant(text: str, more: Sequence[str] = ()) -> Variant:
    """Read ``BASE[+KEY=VALUE …]``: a recipe and what is laid over it.

    ``ssdlite320_mobilenet_v2+loss.selection.kind=level_quota+loop.add=0.5``: keys that begin with
    ``loop.`` are options of the loop, all others are choices of the recipe. ``default`` names the
    default recipe. A label may be put in front: ``quota:default+loss.selection.kind=level_quota``. A
    ``+`` that no ``KEY=`` follows, or that the path of a file has, belongs to the name or to the value.

    Args:
        more: changes for every variant of a comparison; the variant's own win.

    Raises:
        ConfigError: a part without ``=``.
    """
    label, colon, rest = text.partition(":")
    if not colon or not label or set("+=/") & set(label) or _is_drive(label, rest):
        label, rest = text, text
    base, own = split_settings(rest)
    if "+" in base and len(Path(base).parts) == 1 and Path(base).suffix not in (".yaml", ".yml"):
        choice = base.partition("+")[2]
        raise ConfigError(f"{text!r}, after a '+': got {choice!r}, wanted KEY=VALUE")
    settings: list[str] = []
    loop: dict[str, Any] = {}
    for choice in _laid_over(more, own):
        key, equals, value = choice.partition("=")
        if not equals:
            raise ConfigError(f"--set: got {choice!r}, wanted KEY=VALUE")
        if key.startswith("loop."):
            loop[key.removeprefix("loop.")] = _plain(value)
        else:
            settings.append(choice)
    return Variant(label, "" if base == "default" else base, tuple(settings), loop)


def _is_drive(label: str, rest: str) -> bool:
    """Return whether a label is the drive of a path, as in ``C:/recipe.yaml`` on Windows."""
    return len(label) == 1 and rest.startswith(("\\", "/") if os.name == "nt" else "\\")


def _laid_over(common: Sequence[str], own: Sequence[str]) -> tuple[str, ...]:
    """Return the choices of both; where both set a key, the own one."""
    keys = {choice.partition("=")[0].strip() for choice in own}
    return (*(c for c in common if c.partition("=")[0].strip() not in keys), *own)


def _plain(text: str) -> Any:
    """Return a number or a truth value where the text is one, else the text."""
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """How recipes are compared: the same data, the same order of images and the same seeds for all."""

    preset: Literal["mining"] | None = option(
        None,
        "Compare a ready set of variants of one recipe: 'mining' is every way of selecting negatives, "
        "and with --train-negatives each of them with and without these images.",
        metavar="NAME",
        panel="Training",
    )
    seeds: int = option(
        3, "Train each recipe with N seeds (0 to N-1).", metavar="N", minimum=1, panel="Training"
    )
    epochs: float | None = option(
        None,
        "Passes over the images with objects, the same for every recipe; each has its own if not given.",
        metavar="N",
        minimum=0.01,
        panel="Training",
    )
    weights: Path | str | None = weights_option()
    device: str | None = device_option("Options")
    compile: bool = option(
        False,
        "Train every recipe through torch.compile.",
        flags=("--compile",),
        panel="Advanced",
    )
    reading: DataOptions = option(DataOptions, "How labelled data is read.")
    jobs: int = option(
        1,
        "Train N models at a time, each in a process of its own.",
        metavar="N",
        minimum=1,
        panel="Training",
    )
    rounds: int = option(
        3, "Mining rounds of every loop; used with --pool.", metavar="N", minimum=1, panel="Loop"
    )
    arm: str = option(
        "mined",
        "The arm whose last round is compared; used with --pool.",
        metavar="ARM",
        panel="Loop",
    )
    draws: int = option(
        1000, "Bootstrap draws of every interval.", metavar="N", minimum=1, panel="Advanced"
    )

    def __post_init__(self) -> None:
        if self.seeds < 1 or self.jobs < 1 or self.rounds < 1:
            raise ConfigError(
                f"compare: got seeds {self.seeds}, jobs {self.jobs}, rounds {self.rounds}, "
                "wanted 1 or more"
            )


def base_shown(base: str, recipe: Mapping[str, Any], settings: Sequence[str] = ()) -> str:
    """Return the recipe that a variant's settings are laid over; of ``auto`` also what it took here.

    That is a model and where its recipe was changed, but for the user's own settings and for the epochs,
    which all recipes of a comparison share.
    """
    if base != AUTO:
        return base or "default"
    from hardmine.recipes.named_recipes import named_recipe
    from hardmine.recipes.recipe import recipe_to_dict
    from hardmine.workflows.run_record import flat

    name = str(recipe["model"]["name"])
    usual = flat(recipe_to_dict(named_recipe(name)))
    own = {text.partition("=")[0] for text in settings} | {"epochs", "compile"}
    changed = [
        f"{key}={value}"
        for key, value in flat(recipe).items()
        if key not in own and usual.get(key) != value and value != []
    ]
    return f"{AUTO}, here {' '.join([name, *changed])}"
