"""The kinds of item in the drawn world, their sizes, and who may stand where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hardmine.demo import items as look_alikes
from hardmine.demo import targets
from hardmine.demo.canvas import Canvas


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of item: ``height`` as a share of the shelf's clear height and ``aspect`` (width over
    height) are ranges; ``paint`` draws one item.
    """

    name: str
    height: tuple[float, float]
    aspect: tuple[float, float]
    paint: Callable[[Canvas, np.random.Generator], None]


TARGETS = (
    Family("water bottle", (0.78, 1.0), (0.29, 0.38), targets.paint_water_bottle),
    Family("carton", (0.70, 0.98), (0.42, 0.58), targets.paint_carton),
    Family("can", (0.46, 0.66), (0.50, 0.60), targets.paint_can),
    Family("milk bottle", (0.70, 0.98), (0.42, 0.54), targets.paint_milk_bottle),
)
"""The classes, in label order (label 1 is the first)."""

CATEGORIES = tuple(family.name for family in TARGETS)

LOOK_ALIKES = (
    Family("jar", (0.45, 0.85), (0.46, 0.80), look_alikes.paint_jar),
    Family("cup", (0.32, 0.48), (0.90, 1.15), look_alikes.paint_cup),
    Family("candle", (0.42, 0.90), (0.36, 0.56), look_alikes.paint_candle),
    Family("cereal box", (0.70, 1.0), (0.52, 0.75), look_alikes.paint_cereal_box),
    Family("tin", (0.40, 0.62), (0.56, 0.85), look_alikes.paint_tin),
    Family("sauce bottle", (0.72, 1.0), (0.27, 0.36), look_alikes.paint_sauce_bottle),
    Family("pot", (0.32, 0.50), (0.75, 0.95), look_alikes.paint_pot),
)
"""Stand in the pool's and the held-out negatives' scenes, never in labelled ones."""

HELD_OUT_ONLY = (
    Family("vase", (0.60, 1.0), (0.42, 0.62), look_alikes.paint_vase),
    Family("spray can", (0.62, 0.96), (0.30, 0.38), look_alikes.paint_spray_can),
)
"""Stand in held-out negatives alone: what is learned from the pool must carry over to them."""

CLUTTER = (
    Family("fruit", (0.20, 0.32), (0.95, 1.1), look_alikes.paint_fruit),
    Family("plates", (0.16, 0.26), (1.8, 2.6), look_alikes.paint_plates),
    Family("box", (0.22, 0.36), (1.2, 1.9), look_alikes.paint_box),
    Family("cheese", (0.16, 0.26), (1.3, 1.9), look_alikes.paint_cheese),
    Family("greens", (0.24, 0.42), (1.2, 1.7), look_alikes.paint_greens),
)
"""Stands anywhere, resembles nothing."""
