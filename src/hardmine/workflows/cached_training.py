"""Training as a step: a model lies where the fingerprint of all that made it says."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardmine.augment.paste import Alarm, write_alarms
from hardmine.errors import ConfigError
from hardmine.files import write_text
from hardmine.types import Dataset, ImageRecord
from hardmine.workflows.replaceable import Tools
from hardmine.workflows.run_record import RECIPE
from hardmine.workflows.step_cache import Steps, fingerprint
from hardmine.workflows.train_options import NetworkOptions

if TYPE_CHECKING:
    from hardmine.recipes.recipe import Recipe

DEFAULT_MODEL = "ssdlite320_mobilenet_v2"
_CHECKPOINT = "last.safetensors"


@dataclass(frozen=True, slots=True)
class Model:
    """A trained detector; ``key`` is the fingerprint of what it was trained with."""

    key: str
    checkpoint: Path


@dataclass(frozen=True, slots=True)
class Learner:
    """Trains models into ``models/<key>/`` of a run directory; equal trainings happen once."""

    steps: Steps
    tools: Tools
    weights: Path | None
    device: str | None = None

    def train(
        self,
        dataset: Dataset,
        recipe: Recipe,
        *,
        num_steps: int,
        seed: int,
        init: Model | None = None,
        label: str = "train",
    ) -> Model:
        """Return the model that these inputs give, trained now or found.

        Args:
            num_steps: optimiser steps.
            init: continue from this model's weights instead of the backbone's.
            label: what people are told while it runs.
        """
        from hardmine.recipes.checkpoint import file_digest

        weights = None if init is not None else self.weights
        inputs = {
            "data": dataset.fingerprint,
            "recipe": _training_part(recipe),
            "steps": num_steps,
            "seed": seed,
            "init": None if init is None else init.key,
            "weights": None if weights is None else file_digest(weights),
        }
        external = self.tools.external
        if external is not None:
            inputs["trainer"] = external.identity
        key = fingerprint(inputs)
        fit = self.tools.fit if external is None else partial(external.fit, label=label)
        weights_name = _CHECKPOINT if external is None else external.weights_name

        def compute(folder: Path) -> str:
            path = fit(
                dataset,
                recipe,
                folder,
                seed=seed,
                init=None if init is None else init.checkpoint,
                weights=weights,
                steps=num_steps,
                resume=True,
                device=self.device,
                progress=self._progress(label),
            )
            return path.name

        name = self.steps.run(f"models/{key}/train", inputs, compute, (weights_name,), label)
        return Model(key, self.steps.root / "models" / key / name)

    def _progress(self, label: str) -> Callable[[Any], None]:
        notify = self.steps.notify
        return lambda state: notify(label, state.step, state.steps)


def _training_part(recipe: Recipe) -> dict[str, Any]:
    """Return what of a recipe decides a training of a given length: not how later rounds go on, so
    that a change there finds round 0 trained. A file of alarms counts by its content.
    """
    from hardmine.recipes.checkpoint import file_digest
    from hardmine.recipes.recipe import recipe_to_dict

    values = recipe_to_dict(recipe)
    if source := recipe.augment.alarm_paste.source:
        values["augment"]["alarm_paste"]["source"] = file_digest(Path(source))
    return {key: value for key, value in values.items() if key not in ("branch", "epochs")}


def choose_recipe(options: NetworkOptions) -> Recipe:
    """Return the recipe that the options name.

    Raises:
        ConfigError: unknown name, unreadable file, unknown key, a value of the wrong type; a ready
            recipe and a name; ``epochs`` or ``batch`` given twice.
    """
    from hardmine.recipes.named_recipes import named_recipe
    from hardmine.recipes.recipe import Recipe, apply_settings, load_recipe

    model, recipe = options.model, options.recipe
    if isinstance(recipe, Recipe):
        if model is not None:
            raise ConfigError(f"model {model!r} and a ready recipe are both given: give one")
        chosen = recipe
    elif recipe is None:
        chosen = named_recipe(model or DEFAULT_MODEL)
    else:
        chosen = load_recipe(Path(recipe), named_recipe(model or DEFAULT_MODEL))
    short = {"epochs": options.epochs, "batch.size": options.batch}
    given = [f"{key}={value:g}" for key, value in short.items() if value is not None]
    return apply_settings(chosen, [*options.set, *given])


def start_from(weights: Path | str | None, recipe: Recipe) -> tuple[Recipe, Path | None]:
    """Return the file to start the recipe's network from, and the recipe that fits it; see
    ``recipes.pretrained_weights``.
    """
    from hardmine.recipes.pretrained_weights import find_weights, match_recipe

    path = find_weights(weights, recipe.model)
    return match_recipe(recipe, path), path


def write_recipe(folder: Path, recipe: Recipe) -> None:
    """Write ``recipe.yaml``, which ``--recipe`` reads back."""
    write_text(folder / RECIPE, recipe_text(recipe))


def recipe_text(recipe: Recipe) -> str:
    """Return a recipe as YAML."""
    import yaml

    from hardmine.recipes.recipe import recipe_to_dict

    return yaml.safe_dump(recipe_to_dict(recipe), sort_keys=False)


# The alarms of an arm's confirmed negatives, for alarm-paste in its own rounds and in any training.

ALARMS = "alarms.json"


def write_arm_alarms(
    steps: Steps, arm: str, number: int, negatives: Sequence[ImageRecord]
) -> Path | None:
    """Write what fired on an arm's negatives, in all rounds so far, into ``alarms.json``.

    Args:
        negatives: the images that were confirmed to hold no object.

    Returns:
        Path: the file; None when nothing fired (the random arm asks no model).
    """
    confirmed = {str(record.path) for record in negatives}
    folders = [steps.root / "rounds" / f"{arm}-{n}" for n in range(1, number + 1)]
    alarms = [a for folder in folders for a in _alarms_of(folder) if str(a.image) in confirmed]
    if not alarms:
        return None

    def compute(place: Path) -> int:
        write_alarms(place / ALARMS, alarms)
        return len(alarms)

    key = f"rounds/{arm}-{number}/alarms"
    inputs = {"alarms": fingerprint([[str(a.image), *a.box, a.score] for a in alarms])}
    steps.run(key, inputs, compute, (ALARMS,))
    return folders[-1] / ALARMS


def with_alarms(recipe: Recipe, alarms: Path | None) -> Recipe:
    """Return the recipe with an arm's own alarms to paste, unless it names others or pastes none."""
    config = recipe.augment.alarm_paste
    if alarms is None or config.source is not None or config.probability == 0:
        return recipe
    augment = replace(recipe.augment, alarm_paste=replace(config, source=str(alarms)))
    return replace(recipe, augment=augment)


def _alarms_of(folder: Path) -> list[Alarm]:
    """Return what ``candidates.json`` says fired; its boxes are [x1, y1, x2, y2, score, class]."""
    try:
        found = json.loads((folder / "candidates.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    return [
        Alarm(Path(row["path"]), (box[0], box[1], box[2], box[3]), box[4])
        for row in found["candidates"]
        for box in row["boxes"]
        if box[2] > box[0] and box[3] > box[1]
    ]
