"""What fired on an arm's confirmed negatives, for the alarm-paste augmentation of its later rounds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hardmine.augment.paste import Alarm, write_alarms
from hardmine.types import ImageRecord
from hardmine.workflows.step_cache import Steps, fingerprint

if TYPE_CHECKING:
    from hardmine.recipes.recipe import Recipe

ALARMS = "alarms.json"


def write_arm_alarms(
    steps: Steps, arm: str, number: int, negatives: Sequence[ImageRecord]
) -> Path | None:
    """Write what fired on an arm's negatives, in all rounds so far, into ``alarms.json``.

    Args:
        negatives: the images that were confirmed to hold no object.

    Returns:
        Path: the file; None when nothing fired (images drawn at random were shown to no model).
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
