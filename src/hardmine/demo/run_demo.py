"""The demo: draw the world, run the loop on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hardmine.augment.chain import AugmentConfig
from hardmine.demo.world import WorldSizes, draw_world
from hardmine.losses.matcher import AssignerConfig
from hardmine.losses.multibox_loss import LossConfig
from hardmine.losses.negative_mining import RatioConfig
from hardmine.models.backbones import SmallNetConfig
from hardmine.models.layers import XavierInit
from hardmine.models.neck_and_head import ExtraLayersConfig, HeadConfig
from hardmine.models.priors import ExplicitPriors
from hardmine.models.ssd import SSDConfig
from hardmine.recipes.recipe import BatchConfig, BranchConfig, OptimConfig, Recipe

if TYPE_CHECKING:
    from hardmine.loop.loop import LoopResult

SIDE = 160
"""Input height and width, pixels: about the size at which the world is drawn."""

HEIGHTS = ((26.0, 40.0), (60.0, 88.0), (125.0,))
"""Prior heights in pixels on the maps of stride 8, 16 and 32: what the shelves hold is upright."""

ASPECTS = (0.36, 0.55)
"""Prior widths over heights, from bottle to carton; 99 % of drawn objects meet one at IoU >= .4."""


def fridge160() -> Recipe:
    """Seven dense convolutions tapped at strides 8, 16 and 32, with tall priors alone.

    Small batches make the steps that a network from scratch needs. A scene with objects asks for
    some two hundred negatives, so an image without any gives 64 (``floor``), not a handful.
    """
    levels = tuple(tuple((high * a, high) for high in row for a in ASPECTS) for row in HEIGHTS)
    return Recipe(
        model=SSDConfig(
            name="fridge160",
            height=SIDE,
            width=SIDE,
            backbone=SmallNetConfig(
                widths=(16, 32, 64, 96, 128), depths=(1, 1, 2, 2, 1), num_taps=3
            ),
            neck=ExtraLayersConfig(widths=()),
            head=HeadConfig(depthwise=False),
            init=XavierInit(magnitude=1.0),
            priors=ExplicitPriors(levels=levels),
        ),
        augment=AugmentConfig(max_expand=1.5, min_crop=0.5, random_interpolation=False),
        batch=BatchConfig(size=16),
        loss=LossConfig(
            assigner=AssignerConfig(iou_threshold=0.4), selection=RatioConfig(floor=64)
        ),
        optim=OptimConfig(lr=2e-3, backbone_lr_scale=1.0),
        branch=BranchConfig(epochs=32.0, lr_scale=1.0),
        epochs=30.0,
    )


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
        progress: called with (what, done, total).

    Raises:
        ConfigError: ``out`` holds a demo with another seed, which the loop refuses to go on with.
    """
    from hardmine.loop.loop import run_loop

    root = Path(out)
    report = partial(progress, "draw the world") if progress is not None else None
    world = draw_world(root / "world", seed, sizes=sizes, progress=report)
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
