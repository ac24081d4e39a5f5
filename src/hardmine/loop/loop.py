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

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hardmine.disk import clear_disk_errors
from hardmine.errors import ConfigError
from hardmine.files import write_json
from hardmine.loop.arm import Arm, Handed, Miner
from hardmine.loop.decide import Decider, Waiting
from hardmine.loop.loop_options import MINED, NONE, RANDOM, LoopOptions
from hardmine.loop.round_summary import (
    ALARMS,
    compare_arms,
    describe_sets,
    loop_report,
    point_of,
    row_of,
    rule_states,
    write_rows_csv,
)
from hardmine.loop.stopping import STOP_RULES
from hardmine.machine import describe_machine
from hardmine.mining.pool_store import PoolStore
from hardmine.mining.sources.local_files import load_pool
from hardmine.option_fields import takes_options
from hardmine.types import Dataset, ImageRecord
from hardmine.workflows.cached_measurement import Examiner
from hardmine.workflows.cached_training import (
    Learner,
    Model,
    choose_recipe,
    start_from,
    with_alarms,
    write_arm_alarms,
    write_recipe,
)
from hardmine.workflows.external_trainer import make_trainer
from hardmine.workflows.image_sets import LoopSets, crop_set, divide_sets
from hardmine.workflows.replaceable import Tools, default_tools
from hardmine.workflows.run_record import (
    note_changes,
    plain_options,
    read_record,
    resumed_inputs,
    resumed_options,
    write_record,
)
from hardmine.workflows.step_cache import Notify, Steps, silent
from hardmine.workflows.training_data import (
    DataLike,
    count_labelled,
    load_negatives,
    load_train_val,
)

if TYPE_CHECKING:
    from hardmine.recipes.recipe import Recipe

# The course of a loop: round 0, then rounds of mining, deciding, training and measuring.

_BRANCH_SEED = 7919
"""Added to the seed when training goes on from trained weights, so that the batches of the first
training are not met again in the same order."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class LoopResult:
    """Where a loop stands; a notebook shows its table and the hardest images of its last round.

    ``rows`` as in ``rounds.json``; ``stopped`` is why it ended before its last round, if it did;
    ``waiting`` what it waits for when a person's verdicts are needed.
    """

    out: Path
    rows: tuple[dict[str, Any], ...]
    stopped: str | None = None
    waiting: Waiting | None = None
    report: Path | None = None

    def __repr__(self) -> str:
        arms = list(dict.fromkeys(row["arm"] for row in self.rows))
        parts = [f"{self.out.name}: {max((row['round'] for row in self.rows), default=0)} rounds"]
        for arm in arms:
            rows = [row for row in self.rows if row["arm"] == arm]
            first, last = (_or_undefined(rows[index][ALARMS]) for index in (0, -1))
            parts.append(f"{arm} {first} to {last} alarms per image")
        parts += ["waiting for verdicts"] if self.waiting is not None else []
        parts += [f"stopped: {self.stopped}"] if self.stopped is not None else []
        return f"LoopResult({', '.join(parts)})"

    def _repr_html_(self) -> str:
        from hardmine.reports.notebook import show_loop

        return show_loop(repr(self), self.rows, self.out, self.report)


def _or_undefined(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


@dataclass(frozen=True)
class Course:
    """All that a loop needs; ``run`` goes through it."""

    options: LoopOptions
    recipe: Recipe
    train_val_leaks: tuple[tuple[str, str], ...]
    sets: LoopSets
    steps: Steps
    learner: Learner
    examiner: Examiner
    miner: Miner
    decider: Decider

    def run(self) -> LoopResult:
        """Go through the rounds; every call goes through the same steps, done or not."""
        arms, rows = self._round_zero()
        stopped = None
        for number in range(1, self.options.rounds + 1):
            handed = self._hand_out(arms, number)
            stopped = self._why_idle(handed, number)
            if stopped is not None:
                break
            accepted = self.decider.decide(number, handed)
            if isinstance(accepted, Waiting):
                self._write_rows(rows)
                return LoopResult(self.steps.root, tuple(rows), waiting=accepted)
            for arm in arms:
                rows.append(self._learn(arm, number, handed.get(arm.name), accepted))
            self._write_rows(rows)
            stopped = self._why_stop(arms, number)
            if stopped is not None:
                break
        return self._finish(arms, rows, stopped)

    def _round_zero(self) -> tuple[list[Arm], list[dict[str, Any]]]:
        train = self.sets.train
        self._write_dataset("rounds/round-0", [])
        base = self.learner.train(
            train,
            self.recipe,
            num_steps=self.recipe.steps(self._num_labelled),
            seed=self.options.seed,
            label="round 0: train",
        )
        result = self.examiner.measure(base, "round 0: measure")
        first = self.examiner.recall_at(result, result.figures["score_threshold"])
        arms, rows = [], []
        for name in self.options.ordered_arms:
            arms.append(Arm(name, result, history=[point_of(result)], results=[result]))
            rows.append(
                row_of(
                    name,
                    0,
                    result,
                    train_images=len(train),
                    added=0,
                    total=0,
                    first_recall=first,
                )
            )
        self._write_rows(rows)
        return arms, rows

    @property
    def _num_labelled(self) -> int:
        return count_labelled(self.sets.train.records)

    def _hand_out(self, arms: Sequence[Arm], number: int) -> dict[str, Handed]:
        count = max(1, round(self.options.add * self._num_labelled))
        handed: dict[str, Handed] = {}
        for arm in arms:
            if arm.name == NONE:
                continue
            if arm.name == RANDOM and MINED in handed:
                count = len(handed[MINED].images)
            handed[arm.name] = self.miner.hand_out(arm, number, count)
        return handed

    def _learn(
        self,
        arm: Arm,
        number: int,
        handed: Handed | None,
        accepted: dict[str, list[ImageRecord]],
    ) -> dict[str, Any]:
        """Train and measure one arm's round; return its row."""
        added = accepted.get(arm.name, [])
        if handed is not None:
            arm.handed_out += handed.images
        arm.negatives += added
        self._write_dataset(f"rounds/{arm.name}-{number}", arm.negatives)
        model = self._train(arm, number)
        result = self.examiner.measure(model, f"round {number}, {arm.name}: measure")
        first = self.examiner.recall_at(result, arm.results[0].figures["score_threshold"])
        arm.result = result
        arm.results.append(result)
        arm.history.append(point_of(result))
        again: Sequence[str] = ()
        if arm.negatives:
            again = self.miner.second_look(arm, number, result.figures["score_threshold"])
        return row_of(
            arm.name,
            number,
            result,
            train_images=len(self.sets.train) + len(arm.negatives),
            added=len(added),
            total=len(arm.negatives),
            first_recall=first,
            handed=handed,
            second_look=again,
        )

    def _train(self, arm: Arm, number: int) -> Model:
        train = self.sets.train
        dataset = train.with_records([*train.records, *arm.negatives])
        label = f"round {number}, {arm.name}: train"
        seed, labelled = self.options.seed, self._num_labelled
        alarms = write_arm_alarms(self.steps, arm.name, number, arm.negatives)
        recipe = with_alarms(self.recipe, alarms)
        if self.options.retrain == "fresh":
            return self.learner.train(
                dataset, recipe, num_steps=recipe.steps(labelled), seed=seed, label=label
            )
        branch = self.options.retrain == "branch"
        return self.learner.train(
            dataset,
            recipe.for_branch(),
            num_steps=recipe.branch_steps(labelled),
            seed=seed + _BRANCH_SEED * (1 if branch else number),
            init=arm.results[0].model if branch else arm.model,
            label=label,
        )

    def _write_dataset(self, folder: str, negatives: Sequence[ImageRecord]) -> None:
        """Write what a round trains on as a COCO file, for any other framework too."""
        from hardmine.data.formats.coco import write_coco

        train = self.sets.train
        dataset = train.with_records([*train.records, *negatives])

        def compute(place: Path) -> int:
            write_coco(dataset, place / "train.coco.json")
            return len(dataset)

        inputs = {"data": dataset.fingerprint}
        self.steps.run(f"{folder}/dataset", inputs, compute, ("train.coco.json",))

    def _write_rows(self, rows: Sequence[dict[str, Any]]) -> None:
        write_json(self.steps.root / "rounds.json", list(rows))

    def _why_idle(self, handed: dict[str, Handed], number: int) -> str | None:
        if self.options.stop == "never" or self.options.leader == NONE:
            return None
        if handed[self.options.leader].images:
            return None
        return (
            f"round {number}, {self.options.leader}: nothing is left to mine that scores "
            f"{self.options.rank.min_score} or more"
        )

    def _why_stop(self, arms: Sequence[Arm], number: int) -> str | None:
        if self.options.stop == "never" or number == self.options.rounds:
            return None
        leader = next(arm for arm in arms if arm.name == self.options.leader)
        reason = STOP_RULES[self.options.stop](leader.history)
        if reason is None:
            return None
        message = f"round {number}, {leader.name}, {self.options.stop} rule: {reason}"
        _log.info("%s", message)
        return message

    def _finish(
        self, arms: Sequence[Arm], rows: Sequence[dict[str, Any]], stopped: str | None
    ) -> LoopResult:
        from hardmine.recipes.recipe import recipe_to_dict
        from hardmine.reports.loop_report import write_report

        metrics = {
            "options": plain_options(self.options),
            "sets": describe_sets(self.sets),
            "train_val_leaks": [list(pair) for pair in self.train_val_leaks],
            "rounds": list(rows),
            "comparisons": compare_arms(self.examiner, arms),
            "stopped": stopped,
            "stop_rules": rule_states(arms),
            "measurements": {
                f"{arm.name}-{n}": result.figures
                for arm in arms
                for n, result in enumerate(arm.results)
            },
            "recipe": recipe_to_dict(self.recipe),
            "versions": describe_machine(),
        }
        root = self.steps.root
        write_json(root / "metrics.json", metrics)
        write_rows_csv(root / "metrics.csv", rows)
        self.steps.notify("report", 0, 1)
        page = loop_report(self.options, self.sets, self.examiner, arms, metrics)
        write_report(root / "report.html", page)
        self.steps.notify("report", 1, 1)
        return LoopResult(root, tuple(rows), stopped, report=root / "report.html")


RECORD = "loop.json"
NEEDED = {"data": "labelled images", "pool": "images to mine from"}


def _resumed(given: Mapping[str, Any], named: Collection[str]) -> LoopOptions | None:
    path = Path(given["out"]).resolve() / RECORD
    return resumed_options(path, LoopOptions, named) if given["resume"] else None


@takes_options(LoopOptions, _resumed)
def run_loop(
    data: DataLike | None = None,
    *,
    pool: DataLike | None = None,
    negatives: DataLike | None = None,
    val: DataLike | float | None = None,
    out: Path | str = Path("runs/loop"),
    resume: bool = False,
    progress: Notify | None = None,
    options: LoopOptions | None = None,
    tools: Tools | None = None,
) -> LoopResult:
    """Train, then mine a pool and retrain, measuring every round.

    Args:
        data: labelled images. Not needed with ``resume``.
        pool: images that should be empty; part of it is kept for stopping (and for the final
            figures when ``negatives`` is not given), apart by near-duplicate group. Not needed with
            ``resume``.
        negatives: images without objects for the final figures; never trained on.
        val: labelled images to measure on, or the share of ``data`` to split off (.3).
        out: the run directory (see the module's description).
        resume: go on in a directory that holds a run, with the data and the options that it began
            with; what is given beside is named and used instead.
        progress: called with (what, done, total).
        options: how the loop goes; each of its fields is also a keyword.

    Returns:
        LoopResult: with ``waiting`` set when verdicts are needed before it can go on.

    Raises:
        ConfigError: contradictory options, or ``out`` holds a run and ``resume`` is not given.
        DataError: unusable data, an empty pool, a faulty CSV, a full disk, another run in ``out``.

    Example:
        >>> result = hardmine.run_loop(
        ...     "shelf", pool="pool", val=0.25, recipe="tiny.yaml", rounds=1, draws=20, out="loop"
        ... )
        >>> [(row["arm"], row["round"]) for row in result.rows]
        [('mined', 0), ('mined', 1)]
    """
    options = options or LoopOptions()
    root = Path(out).resolve()
    if (root / RECORD).exists() and not resume:
        raise ConfigError(
            f"{out}: holds a run already; go on with --resume or choose another --out"
        )
    record = read_record(root / RECORD, LoopOptions) if resume else None
    given = {"data": data, "pool": pool, "negatives": negatives, "val": val}
    inputs = resumed_inputs(given, NEEDED, record)
    chosen, start = _start(options)
    note_changes(record, inputs, options, chosen, root)
    steps, kit = Steps(root, progress or silent), tools or default_tools()
    seed = options.seed
    if options.trainer.train_command is not None:
        trainer = make_trainer(options.trainer, root)
        kit = replace(kit, external=trainer, load_detector=trainer.load)
    with clear_disk_errors(root), PoolStore(root / "pool.sqlite") as store:
        parts = load_train_val(
            inputs["data"], inputs["val"], steps, seed=seed, options=options.reading
        )
        empty = load_negatives(inputs["negatives"], parts.train.categories, "negatives")
        images = load_pool(inputs["pool"], root / "pool")
        sets = divide_sets(parts.train, parts.val, images, empty, steps, seed=seed)
        write_record(root / RECORD, inputs, options)
        if kit.external is not None:
            kit.external.prepare(sets.val)
        write_recipe(root, chosen)
        device, draws = options.device, options.draws
        course = Course(
            options,
            chosen,
            parts.leaks,
            sets,
            steps,
            Learner(steps, kit, start, device),
            Examiner(steps, kit, sets.val, _negative_sets(sets, steps, seed), draws, seed, device),
            Miner(steps, kit, sets, store, options, device),
            Decider(_accept(options), store, root, sets.mine_from),
        )
        return course.run()


def _start(options: LoopOptions) -> tuple[Recipe, Path | None]:
    """Return the recipe and the weights to start from."""
    weights, recipe = options.network.weights, choose_recipe(options.network)
    if options.trainer.train_command is None:
        return start_from(weights, recipe)
    # Weights in a form that only the command knows.
    return recipe, None if weights in (None, "none") else Path(str(weights)).resolve()


def _accept(options: LoopOptions) -> Path | Literal["auto"]:
    return options.accept if options.accept == "auto" else Path(options.accept).resolve()


def _negative_sets(sets: LoopSets, steps: Steps, seed: int) -> dict[str, Dataset]:
    """Return what alarms are counted on, by name."""
    crops = crop_set(sets.val, steps, seed=seed)
    given = {"held_out": sets.final, "stop": sets.stop}
    return {**given, "crops": crops} if len(crops) else given
