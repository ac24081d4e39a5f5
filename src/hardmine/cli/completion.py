"""Words that shell completion offers: names of recipes, presets and arms.

A shell asks at every press of the tab key, so nothing here imports torch.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path


def starting_with(words: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Return what typer asks for the completions of a half-written word."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words() if word.startswith(incomplete)]

    return complete


def recipe_names() -> list[str]:
    """Return the names of the named recipes: the public functions of their module without parameters.

    They are read from its source, since importing it would load torch, which takes seconds.
    """
    spec = find_spec("hardmine.recipes.named_recipes")
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    return [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and not node.name.startswith("_")
        and not node.args.args
    ]


def detector_words(incomplete: str) -> list[str]:
    """Return ``model.onnx:PRESET`` for each preset, once the colon has been written."""
    file, colon, begun = incomplete.partition(":")
    if not colon or Path(file).suffix not in (".onnx", ".xml"):
        return []
    from hardmine.inference.graph.graph_config import PRESETS

    return [f"{file}:{name}" for name in PRESETS if name.startswith(begun)]


def setting_words(incomplete: str) -> list[str]:
    """Return ``augment.preset=NAME`` for each preset of the augmentation."""
    key, equals, begun = incomplete.partition("=")
    if not equals:
        return [word for word in ("augment.preset=",) if word.startswith(incomplete)]
    if key != "augment.preset":
        return []
    from hardmine.augment.chain import AUGMENT_PRESETS

    return [f"{key}={name}" for name in AUGMENT_PRESETS if name.startswith(begun)]


def listed(words: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Complete the last name of a list with commas: ``mined,ra`` to ``mined,random``."""

    def complete(incomplete: str) -> list[str]:
        *before, begun = incomplete.split(",")
        return [
            ",".join([*before, word])
            for word in words()
            if word.startswith(begun) and word not in before
        ]

    return complete
