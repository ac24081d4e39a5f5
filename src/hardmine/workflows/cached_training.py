"""Training as a step: a model lies where the fingerprint of all that made it says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardmine.errors import ConfigError
from hardmine.files import write_text
from hardmine.types import Dataset
from hardmine.workflows.replaceable import Tools
from hardmine.workflows.step_cache import Steps, fingerprint

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


def choose_recipe(
    model: str | None,
    recipe: Recipe | Path | str | None,
    epochs: float | None,
    settings: Sequence[str] = (),
) -> Recipe:
    """Return the recipe that the options name.

    Args:
        model: a named recipe's name; the default one's when neither is given.
        recipe: a recipe, or a YAML file laid over the named one.
        epochs: replaces the recipe's.
        settings: single choices laid over it, such as ``loss.selection.floor=32``.

    Raises:
        ConfigError: unknown name, unreadable file, unknown key, a value of the wrong type; a ready
            recipe and a name; ``epochs`` given twice.
    """
    from hardmine.recipes.named_recipes import named_recipe
    from hardmine.recipes.recipe import Recipe, load_recipe
    from hardmine.recipes.settings import apply_settings

    if isinstance(recipe, Recipe):
        if model is not None:
            raise ConfigError(f"model {model!r} and a ready recipe are both given: give one")
        chosen = recipe
    elif recipe is None:
        chosen = named_recipe(model or DEFAULT_MODEL)
    else:
        chosen = load_recipe(Path(recipe), named_recipe(model or DEFAULT_MODEL))
    if epochs is not None:
        settings = [*settings, f"epochs={epochs}"]
    return apply_settings(chosen, settings)


def start_from(weights: Path | str | None, recipe: Recipe) -> tuple[Recipe, Path | None]:
    """Return the file to start the recipe's network from, and the recipe that fits it; see
    ``recipes.pretrained_weights``.
    """
    from hardmine.recipes.pretrained_weights import find_weights, match_recipe

    path = find_weights(weights, recipe.model)
    return match_recipe(recipe, path), path


def write_recipe(folder: Path, recipe: Recipe) -> None:
    """Write ``recipe.yaml``, which ``--recipe`` reads back."""
    write_text(folder / "recipe.yaml", recipe_text(recipe))


def recipe_text(recipe: Recipe) -> str:
    """Return a recipe as YAML."""
    import yaml

    from hardmine.recipes.recipe import recipe_to_dict

    return yaml.safe_dump(recipe_to_dict(recipe), sort_keys=False)
