"""The demo: draw the world, run the loop on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hardmine.demo.world import WorldSizes, draw_world

if TYPE_CHECKING:
    from hardmine.loop.loop import LoopResult
    from hardmine.recipes.recipe import Recipe

ROUNDS = 3


def run_demo(
    out: Path | str,
    seed: int = 0,
    *,
    arms: Sequence[str] = ("mined",),
    rounds: int = ROUNDS,
    sizes: WorldSizes | None = None,
    recipe: Recipe | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> LoopResult:
    """Draw the fridge world into ``out/world`` and run the loop on it in ``out/run``.

    Called again with the same arguments, it goes on where it stopped.

    Args:
        out: the folder, made if missing.
        seed: of the world, the network and the batches; 0 or more.
        arms: as :func:`hardmine.loop.loop.run_loop` has them.
        rounds: mining rounds after round 0; all of them run.
        sizes: images per split.
        recipe: network and schedule; the demo's own when not given.
        progress: told (what, done, total).

    Raises:
        ConfigError: ``out`` holds a demo with another seed, which the loop refuses to go on with.
    """
    from hardmine.demo.recipe import fridge160
    from hardmine.loop.loop import run_loop

    root = Path(out)
    told = partial(progress, "draw the world") if progress is not None else None
    world = draw_world(root / "world", seed, sizes=sizes, progress=told)
    return run_loop(
        world.train_json,
        val=world.val_json,
        pool=world.pool_dir,
        negatives=world.negatives_dir,
        rounds=rounds,
        arms=arms,
        stop="never",
        recipe=recipe or fridge160(),
        out=root / "run",
        resume=True,
        seed=seed,
        progress=progress,
    )
