"""Single choices written as ``key.of.the.recipe=value`` and laid over a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hardmine.errors import ConfigError
from hardmine.recipes.recipe import Recipe, recipe_from_dict


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
