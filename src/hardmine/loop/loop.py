"""The loop: train, mine, decide, retrain, measure, round after round and arm beside arm.

A run directory holds

- ``loop.json``, ``recipe.yaml``: the options; ``pool.sqlite``: scores, decisions, what was handed out
- ``prepare/``: how the data was divided
- ``models/<key>/``, ``evaluations/<key>/``, ``comparisons/``: by fingerprint of what they came
  from, so arms and rounds share what is equal
- ``rounds/<arm>-<n>/``: ``candidates.csv`` and ``.json``, ``decisions.csv``, ``train.coco.json``,
  ``second_look.csv``
- ``rounds.json``, ``metrics.json``, ``metrics.csv``, ``report.html``

Every piece of work is a step with a ``*.step.json`` stamp: killed anywhere and started again with
``resume``, the run gives the same result as one that was never killed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hardmine.disk import clear_disk_errors
from hardmine.errors import ConfigError
from hardmine.files import write_json
from hardmine.loop.arm import Miner
from hardmine.loop.course import Course, LoopResult
from hardmine.loop.decide import Decider
from hardmine.loop.options import MINED, LoopOptions, Retrain, StopChoice
from hardmine.mining.mine import DEFAULT_MIN_SCORE
from hardmine.mining.pool_store import PoolStore
from hardmine.mining.rank_options import RankOptions
from hardmine.mining.sources.loading import load_pool
from hardmine.types import Dataset
from hardmine.workflows.cached_measurement import Examiner
from hardmine.workflows.cached_training import Learner, choose_recipe, start_from, write_recipe
from hardmine.workflows.crops import crop_set
from hardmine.workflows.external_trainer import make_trainer
from hardmine.workflows.image_sets import LoopSets, divide_sets
from hardmine.workflows.replaceable import Tools, default_tools
from hardmine.workflows.step_cache import Notify, Steps, silent
from hardmine.workflows.training_data import DataLike, LoadOptions, load_negatives, load_train_val

if TYPE_CHECKING:
    from hardmine.recipes.recipe import Recipe

__all__ = ["LoopResult", "run_loop"]


def run_loop(
    data: DataLike,
    *,
    pool: DataLike,
    negatives: DataLike | None = None,
    val: DataLike | float | None = None,
    rounds: int = 3,
    add: float = 0.15,
    accept: Path | str = "auto",
    retrain: Retrain = "branch",
    arms: Sequence[str] = (MINED,),
    stop: StopChoice = "guarded",
    min_score: float | None = None,
    rank: RankOptions | None = None,
    quarantine: float | None = None,
    model: str | None = None,
    recipe: Recipe | Path | str | None = None,
    epochs: float | None = None,
    settings: Sequence[str] = (),
    weights: Path | str | None = None,
    out: Path | str = Path("runs/loop"),
    resume: bool = False,
    images: Path | str | None = None,
    empty_is_verified: bool = False,
    seed: int = 0,
    draws: int = 1000,
    device: str | None = None,
    progress: Notify | None = None,
    train_command: str | None = None,
    predict_command: str | None = None,
    detector: str | None = None,
    weights_name: str | None = None,
    tools: Tools | None = None,
) -> LoopResult:
    """Train, then mine a pool and retrain, measuring every round.

    Args:
        data: labelled images.
        pool: images that should be empty; part of it is kept for stopping (and for the final
            figures when ``negatives`` is not given), apart by near-duplicate group.
        negatives: images without objects for the final figures; never trained on.
        val: labelled images to measure on, or the share of ``data`` to split off (.2).
        rounds: at most so many rounds after round 0.
        add: images a round adds, as a share of round 0's labelled images.
        accept: "auto" takes the pool as empty; a CSV path waits for a person's verdicts.
        retrain: "branch" trains every arm and round from round 0's weights for the same number of
            steps on all that the arm has gathered; "fresh" from the start; "continue" from the
            arm's last round.
        arms: "mined", "random" (as many images as mined added) and "none".
        stop: the rule that may end the loop early, looking at the first of those arms; "never"
            runs all rounds and only reports what the rules would have said.
        min_score: lowest score of a mined image, inclusive; .05 when not given, and 0 means 0.
        rank: the rule, groups, quotas and variety of the mined arm; the highest score when not given.
        quarantine: set candidates aside that score this or more; off when not given.
        settings: choices laid over the recipe, each as ``loss.selection.floor=32``.
        out: the run directory (see the module's description).
        resume: go on in a directory that holds a run.
        progress: told (what, done, total).
        train_command: trains in place of Hardmine; ``{train_json}``, ``{weights_out}`` and others
            are filled in (``workflows.external_trainer``).
        predict_command: runs the trained weights over images; not needed where ``detector`` can.
        detector: what names the detector of trained weights, ``{weights_out}`` unless given.
        weights_name: file name of the weights that ``train_command`` writes.

    Returns:
        LoopResult: with ``waiting`` set when verdicts are needed before it can go on.

    Raises:
        ConfigError: contradictory options, or ``out`` holds a run and ``resume`` is not given.
        DataError: unusable data, an empty pool, a faulty CSV, a full disk, another run in ``out``.
    """
    options = LoopOptions(
        rounds=rounds,
        add=add,
        accept="auto" if str(accept) == "auto" else Path(accept).resolve(),
        retrain=retrain,
        arms=tuple(arms),
        stop=stop,
        min_score=DEFAULT_MIN_SCORE if min_score is None else min_score,
        quarantine=quarantine,
        seed=seed,
        draws=draws,
        rank=rank or RankOptions(),
    )
    chosen = choose_recipe(model, recipe, epochs, settings)
    if train_command is None:
        chosen, start = start_from(weights, chosen)
    else:  # weights in a form that only the command knows
        start = None if weights in (None, "none") else Path(str(weights)).resolve()
    root = Path(out).resolve()
    how = LoadOptions(None if images is None else Path(images).resolve(), empty_is_verified)
    if (root / "loop.json").exists() and not resume:
        raise ConfigError(
            f"{out}: holds a run already; go on with --resume or choose another --out"
        )
    steps, kit = Steps(root, progress or silent), tools or default_tools()
    if options.rank.diverse and predict_command is not None:
        raise ConfigError("diverse: predict_command gives boxes but no features; leave it out")
    if train_command is not None:
        trainer = make_trainer(train_command, predict_command, detector, weights_name, root)
        kit = replace(kit, external=trainer, load_detector=trainer.load)
    elif predict_command or detector or weights_name:
        raise ConfigError("predict_command, detector and weights_name go with train_command")
    with clear_disk_errors(root), PoolStore(root / "pool.sqlite") as store:
        parts = load_train_val(data, val, steps, seed=seed, options=how)
        empty = load_negatives(negatives, parts.train.categories, "negatives")
        sets = divide_sets(parts.train, parts.val, load_pool(pool), empty, steps, seed=seed)
        write_json(root / "loop.json", options.to_dict())
        if kit.external is not None:
            kit.external.prepare(sets.val)
        write_recipe(root, chosen)
        course = Course(
            options,
            chosen,
            parts.leaks,
            sets,
            steps,
            Learner(steps, kit, start, device),
            Examiner(steps, kit, sets.val, _negative_sets(sets, steps, seed), draws, seed, device),
            Miner(steps, kit, sets, store, options, device),
            Decider(options.accept, store, root, sets.mine_from),
        )
        return course.run()


def _negative_sets(sets: LoopSets, steps: Steps, seed: int) -> dict[str, Dataset]:
    """Return what alarms are counted on, by name."""
    crops = crop_set(sets.val, steps, seed=seed)
    given = {"held_out": sets.final, "stop": sets.stop}
    return {**given, "crops": crops} if len(crops) else given
