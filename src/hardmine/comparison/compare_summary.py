"""From finished cells to a comparison: each recipe's figures, and what is said of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hardmine.comparison.compare_figures import (
    CellResult,
    Sets,
    VariantSummary,
    contrasts_of,
    figures_of,
    mean_curve,
    means_of,
    row_of,
    scores_of,
    with_row,
)
from hardmine.comparison.compare_options import CompareOptions, Variant
from hardmine.comparison.compare_statements import conclusion, measured, statements_of
from hardmine.option_fields import plain


@dataclass(frozen=True)
class Comparison:
    """All recipes, the first of which is the reference."""

    out: Path
    variants: tuple[VariantSummary, ...]
    options: CompareOptions
    sets: dict[str, Any]
    statements: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for ``compare.json``."""
        return {
            "options": plain(self.options),
            "sets": self.sets,
            "statements": list(self.statements),
            "variants": [
                {
                    "name": item.name,
                    "base": item.base or "default",
                    "settings": list(item.settings),
                    "loop": list(item.loop),
                    "with_negatives": item.with_negatives,
                    "means": item.means,
                    "contrasts": [asdict(contrast) for contrast in item.contrasts],
                    "cells": [{**asdict(cell), "folder": str(cell.folder)} for cell in item.cells],
                    "curve": [list(point) for point in item.curve],
                    "recipe": item.recipe,
                }
                for item in self.variants
            ],
        }


NO_NEGATIVES = (
    "False alarms were not counted: that needs images without objects that nothing trains on "
    "(--negatives)."
)


def summarise(
    variants: Sequence[Variant],
    recipes: Mapping[str, dict[str, Any]],
    results: Sequence[CellResult],
    sets: Sets,
    root: Path,
    options: CompareOptions,
) -> Comparison:
    """Return the comparison of all finished cells; the first variant is the reference."""
    scored = {
        (cell.variant, cell.seed): scores_of(cell, sets) for cell in results if cell.error is None
    }
    figures = {key: figures_of(arm) for key, arm in scored.items()}
    summaries = []
    for variant in variants:
        cells = tuple(
            with_row(cell, figures.get((cell.variant, cell.seed)))
            for cell in results
            if cell.variant == variant.name
        )
        done = [cell for cell in cells if cell.error is None]
        rows = [row_of(cell, figures[cell.variant, cell.seed]) for cell in done]
        pairs = [
            (scored[variant.name, cell.seed], scored[variants[0].name, cell.seed])
            for cell in done
            if (variants[0].name, cell.seed) in scored
        ]
        contrasts = () if variant is variants[0] else contrasts_of(pairs, options.draws)
        summaries.append(
            VariantSummary(
                variant.name,
                recipes[variant.name],
                cells,
                means_of(rows),
                contrasts,
                mean_curve([scored[variant.name, cell.seed] for cell in done]),
                variant.settings,
                variant.with_negatives,
                variant.base,
                tuple(f"loop.{name}={value}" for name, value in variant.loop.items()),
            )
        )
    statements = _all_statements(summaries, preset=options.preset is not None)
    if sets.negatives is None:
        statements.append(NO_NEGATIVES)
    return Comparison(root, tuple(summaries), options, sets.names, tuple(statements))


def _all_statements(summaries: Sequence[VariantSummary], *, preset: bool) -> list[str]:
    """Return what differs, with the conclusion of a preset first, and last that nothing was compared."""
    statements = statements_of(summaries)
    if preset:
        return [conclusion(summaries), *statements]
    return statements if measured(summaries) else [*statements, conclusion(summaries)]
