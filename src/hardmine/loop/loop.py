"""The loop: train, mine, accept negatives, train again and measure, round after round, arm beside arm.

A run directory holds

- ``loop.json``: the data and the options; ``recipe.yaml``: the whole recipe; ``pool.sqlite``: scores,
  decisions, what was handed out
- ``prepare/``: how the data was divided
- ``models/<key>/``, ``evaluations/<key>/``, ``comparisons/``: by a hash of what they came from, so that
  arms and rounds share what is equal
- ``rounds/<arm>-<n>/``: ``candidates.csv`` and ``.json``, ``decisions.csv``, ``train.coco.json``,
  ``second_look.csv``
- ``doubtful_labels.json``: validation images whose labels the last model contradicts
- ``rounds.json``, ``metrics.json``, ``metrics.csv``, ``report.html``

Every piece of work is a step with a ``*.step.json`` stamp: killed anywhere and started again with
``resume``, the run gives the same result as one that was never killed.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardmine.device import describe_machine
from hardmine.errors import ConfigError
from hardmine.files import clear_disk_errors, write_json
from hardmine.loop.acceptance import Acceptance, Waiting
from hardmine.loop.control_arms import Arm
from hardmine.loop.loop_options import Accept, Amount, LoopOptions, amount_for, steps_factor
from hardmine.loop.loop_summary import (
    compare_arms,
    describe_sets,
    round_row,
    stop_point,
    stop_rule_states,
    undecided_rounds,
    write_csv,
)
from hardmine.loop.round_candidates import (
    ArmCandidates,
    ArmState,
    CandidateSearch,
    with_alarms,
    write_arm_alarms,
)
from hardmine.loop.stopping import LONGER_ROUNDS, QUIET_ROUNDS, STOP_RULES
from hardmine.mining.pool_store import PoolStore
from hardmine.mining.sources.local_files import load_pool, load_source
from hardmine.mining.sources.pool_source import LabelledCrops
from hardmine.option_fields import takes_options
from hardmine.plurals import counted
from hardmine.reports.round_columns import ALARMS
from hardmine.review.candidate_list import DOUBTFUL_LABELS, labels_in_doubt
from hardmine.types import Dataset, ImageRecord
from hardmine.workflows.auto_recipe import fit_to_data
from hardmine.workflows.cached_models import (
    RECIPE,
    Backend,
    CachedMeasurement,
    CachedTraining,
    TrainedModel,
    TrainingRole,
    choose_recipe,
    own_backend,
    start_from,
    why_chosen,
    write_recipe,
)
from hardmine.workflows.external_trainer import make_trainer
from hardmine.workflows.image_sets import DataLike, count_labelled, load_negatives, load_train_val
from hardmine.workflows.run_record import (
    free_unless_begun,
    note_changes,
    plain_options,
    read_record,
    resumed_inputs,
    resumed_options,
    write_record,
)
from hardmine.workflows.sets_apart import LoopSets, crop_set, divide_sets
from hardmine.workflows.several_processes import run_together
from hardmine.workflows.step_cache import Notify, Steps, silent
from hardmine.workflows.trained_images import note_trained_on

if TYPE_CHECKING:
    from hardmine.evaluation.paired import AlarmChange
    from hardmine.recipes.recipe import Recipe

RECORD = "loop.json"
"""The file of a run directory that holds what the loop was asked for."""
NEEDED = {"data": "labelled images", "pool": "images to mine from"}
BRANCH_SEED = 7919
"""Added to the seed when training goes on from trained weights, so that the batches of the first
training are not met again in the same order."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class LoopResult:
    """Where a loop stands; a notebook shows its table and the hardest images of its last round.

    ``rows`` as in ``rounds.json``; ``stopped`` is why it ended before its last round, if it did;
    ``waiting`` what it waits for when a person's verdicts are needed; ``verdicts`` what a finished loop
    brought, one line for each comparison that can be made; ``warnings`` what makes the figures of its
    last round doubtful.
    """

    out: Path
    rows: tuple[dict[str, Any], ...]
    stopped: str | None = None
    waiting: Waiting | None = None
    report: Path | None = None
    verdicts: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def checkpoint(self) -> Path | None:
        """The weights of the last round, of the arm that mines; ``None`` for an external trainer's."""
        from hardmine.recipes.checkpoint import last_of_loop

        found = last_of_loop(self.out)
        return found if found is not None and found.is_file() else None

    def __repr__(self) -> str:
        arms = list(dict.fromkeys(row["arm"] for row in self.rows))
        last_round = max((row["round"] for row in self.rows), default=0)
        parts = [f"{self.out.name}: {counted(last_round, 'round')}"]
        for arm in arms:
            rows = [row for row in self.rows if row["arm"] == arm]
            first, last = (_or_undefined(rows[index][ALARMS]) for index in (0, -1))
            parts.append(f"{arm} {first} to {last} alarms per image")
        parts += ["waiting for verdicts"] if self.waiting is not None else []
        parts += [f"stopped: {self.stopped}"] if self.stopped is not None else []
        return f"LoopResult({', '.join(parts)})"

    def _repr_html_(self) -> str:
        from hardmine.loop.loop_summary import show_in_notebook

        return show_in_notebook(self.out, repr(self), self.rows, self.report)


def _or_undefined(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


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
) -> LoopResult:
    """Train, then mine a pool and retrain, measuring every round.

    Args:
        data: labelled images. Not needed with ``resume``.
        pool: images that should be empty; part of it is kept for stopping (and for the final
            figures when ``negatives`` is not given), apart by near-duplicate group. Not needed with
            ``resume``, nor with ``pool_from_labelled``.
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
    given = {"data": data, "pool": pool, "negatives": negatives, "val": val}
    options, root = options or LoopOptions(), Path(out).resolve()
    work = partial(_run_loop, given, root, resume, progress or silent, options)
    return run_together(work, _backend(options, root), options.device)


def _run_loop(
    given: Mapping[str, Any],
    root: Path,
    resume: bool,
    progress: Notify,
    options: LoopOptions,
    backend: Backend,
) -> LoopResult:
    if (root / RECORD).exists() and not resume:
        raise ConfigError(
            f"{root}: holds a run already; go on with --resume or choose another --out"
        )
    record = read_record(root / RECORD, LoopOptions) if resume else None
    needed = {"data": NEEDED["data"]} if options.pool_from_labelled else NEEDED
    inputs = resumed_inputs(given, needed, record, root if resume else None)
    recipe, start = _start(options)
    steps, seed = Steps(root, progress), options.seed
    files = [root / RECORD, root / RECIPE]
    begun = free_unless_begun(files, lambda: root.glob("models/*/*"))
    with clear_disk_errors(root), begun, PoolStore(root / "pool.sqlite") as store:
        sets, leaks = _load_sets(inputs, steps, options)
        why: tuple[str, ...] = ()
        if not options.trainer.is_external:
            words = options.reading.words(inputs["data"])
            recipe, why = fit_to_data(recipe, options.network, start, sets.train, words)
        note_changes(record, inputs, options, recipe, root)
        write_record(root / RECORD, inputs, options)
        if options.trainer.is_external:
            make_trainer(options.trainer, root).prepare(sets.val)
        write_recipe(root, recipe, why)
        counted, device, draws = _negative_sets(sets, steps, seed), options.device, options.draws
        loop = Loop(
            options,
            recipe,
            leaks,
            sets,
            steps,
            CachedTraining(steps, backend, start, device),
            CachedMeasurement(steps, backend, sets.train, sets.val, counted, draws, seed, device),
            CandidateSearch(steps, backend, sets, store, options),
            Acceptance(_accept(options), store, root, sets.mine_from),
        )
        return loop.run()


def _load_sets(
    inputs: Mapping[str, Any], steps: Steps, options: LoopOptions
) -> tuple[LoopSets, tuple[tuple[str, str], ...]]:
    """Return the sets of images of a loop, and the pairs of training and validation images alike."""
    seed = options.seed
    parts = load_train_val(inputs["data"], inputs["val"], steps, seed=seed, options=options.reading)
    names, frames = parts.train.categories, steps.root / "negatives"
    empty = load_negatives(inputs["negatives"], names, "negatives", frames, options.every)
    images = _pool(inputs["pool"], parts.train, steps.root / "pool", options)
    return divide_sets(parts.train, parts.val, images, empty, steps, seed=seed), parts.leaks


def _pool(pool: DataLike | None, train: Dataset, unpack_to: Path, options: LoopOptions) -> Dataset:
    """Return the images to mine from: the pool, or the object-free parts of the training images."""
    if not options.pool_from_labelled:
        assert pool is not None
        return load_pool(pool, unpack_to, options.every)
    if pool is not None:
        raise ConfigError(
            f"pool {pool} and pool_from_labelled exclude each other: give one of them"
        )
    _log.warning(
        "the pool is made of parts of the training images: what of it is kept for stopping (and without "
        "negatives, for the final figures) shows places that the model has trained on"
    )
    return load_source(LabelledCrops(train, options.seed), unpack_to)


def _backend(options: LoopOptions, root: Path) -> Backend:
    own = own_backend()
    if not options.trainer.is_external:
        return own
    return make_trainer(options.trainer, root).backend(own)


def _start(options: LoopOptions) -> tuple[Recipe, Path | None]:
    """Return the recipe and the weights to start from."""
    weights, recipe = options.network.weights, choose_recipe(options.network)
    if not options.trainer.is_external:
        return start_from(weights, recipe)
    # Weights in a form that only the command knows.
    return recipe, None if weights in (None, "none") else Path(str(weights)).resolve()


def _accept(options: LoopOptions) -> Accept:
    return options.accept.resolve() if isinstance(options.accept, Path) else options.accept


def _negative_sets(sets: LoopSets, steps: Steps, seed: int) -> dict[str, Dataset]:
    """Return what alarms are counted on, by name."""
    crops = crop_set(sets.val, steps, seed=seed)
    given = {"held_out": sets.final, "stop": sets.stop}
    return {**given, "crops": crops} if len(crops) else given


@dataclass(frozen=True)
class Loop:
    """All that a loop needs; ``run`` goes through its rounds."""

    options: LoopOptions
    recipe: Recipe
    train_val_leaks: tuple[tuple[str, str], ...]
    sets: LoopSets
    steps: Steps
    training: CachedTraining
    measurement: CachedMeasurement
    search: CandidateSearch
    acceptance: Acceptance

    def run(self) -> LoopResult:
        """Go through the rounds; every call goes through the same steps, done or not."""
        states, rows = self._round_zero()
        stopped = None
        for number in range(1, self.options.rounds + 1):
            candidates = self._find_candidates(states, number)
            stopped = self._why_nothing_is_left(candidates, number)
            if stopped is not None:
                break
            accepted = self.acceptance.accept_candidates(number, candidates)
            if isinstance(accepted, Waiting):
                self._write_rows(rows)
                return LoopResult(self.steps.root, tuple(rows), waiting=accepted)
            factor = self._steps_factor(states, accepted, number)
            for state in states:
                added = accepted.get(state.arm, [])
                rows.append(
                    self._run_round(state, number, candidates.get(state.arm), added, factor)
                )
            self._write_rows(rows)
            stopped = self._why_stop(states, number)
            if stopped is not None:
                break
        return self._finish(states, rows, stopped)

    def _round_zero(self) -> tuple[list[ArmState], list[dict[str, Any]]]:
        """Train and measure the model that all arms start from."""
        train = self.sets.train
        self._write_dataset("rounds/round-0", [])
        base = self.training.train(
            train,
            self.recipe,
            TrainingRole(),
            num_steps=self.recipe.steps(self._num_labelled),
            seed=self.options.seed,
        )
        note_trained_on(self.steps.root, train)
        result = self.measurement.measure(base, "round 0: measure")
        first = self.measurement.recall_at(result, result.figures["score_threshold"])
        point = stop_point(result)
        states = [ArmState(arm, [result], [point]) for arm in self.options.chosen_arms]
        rows = [round_row(s, 0, num_train=len(train), first_recall=first) for s in states]
        self._write_rows(rows)
        return states, rows

    @property
    def _num_labelled(self) -> int:
        return count_labelled(self.sets.train.records)

    def _find_candidates(self, states: Sequence[ArmState], number: int) -> dict[Arm, ArmCandidates]:
        found: dict[Arm, ArmCandidates] = {}
        counts: dict[str, int] = {}
        for state in states:
            if not state.arm.adds_images:
                continue
            amount = amount_for(
                self.options.add,
                self._num_labelled,
                added=len(state.negatives),
                threshold=state.result.figures["score_threshold"],
            )
            as_many = counts.get(state.arm.as_many_as or "")
            if as_many is not None:
                amount = Amount(as_many)
            found[state.arm] = self.search.find(state, number, amount)
            counts[state.name] = len(found[state.arm].images)
            if as_many is not None or self.options.add != "auto":
                self._warn_of_fewer(state, number, amount.count, counts[state.name])
        return found

    def _warn_of_fewer(self, state: ArmState, number: int, wanted: int, given: int) -> None:
        """Say it where the pool does not give as many images as the user or the mined arm asks for."""
        if given >= wanted:
            return
        pool, before = len(self.sets.mine_from), len(state.handed_out)
        why = [f"{before} were handed out before"] if before else []
        if left := pool - before - given:
            mined = state.arm.draw == "hardest"
            rank = self.options.rank
            others = f"score below {rank.min_score}, " if mined else ""
            if mined and (rank.quota_class is not None or rank.quota_group is not None):
                others += "are over a quota, "
            why.append(f"{left} {others}repeat another one{' or are set aside' if mined else ''}")
        _log.warning(
            "round %d, %s: %s handed out, not %d: %s to mine from%s",
            number,
            state.name,
            counted(given, "image is", "images are"),
            wanted,
            counted(pool, "image is", "images are"),
            f", of which {' and '.join(why)}" if why else "",
        )

    def _run_round(
        self,
        state: ArmState,
        number: int,
        candidates: ArmCandidates | None,
        added: Sequence[ImageRecord],
        steps_factor: float,
    ) -> dict[str, Any]:
        """Train and measure one arm's round; return its row."""
        if candidates is not None:
            state.handed_out += candidates.images
        state.negatives += added
        self._write_dataset(f"rounds/{state.name}-{number}", state.negatives)
        model = self._train(state, number, steps_factor)
        result = self.measurement.measure(model, f"round {number}, {state.name}: measure")
        first_threshold = state.results[0].figures["score_threshold"]
        state.results.append(result)
        changes = (self._change(state, rounds) for rounds in (QUIET_ROUNDS, LONGER_ROUNDS))
        state.history.append(stop_point(result, *changes))
        again: Sequence[str] = ()
        known = None
        if state.negatives:
            threshold = result.figures["score_threshold"]
            again = self.search.second_look(state, number, threshold)
            known = self.search.known_alarms(state, number, threshold)
        return round_row(
            state,
            number,
            num_train=len(self.sets.train),
            added=len(added),
            first_recall=self.measurement.recall_at(result, first_threshold),
            candidates=candidates,
            second_look=again,
            known_alarms=known,
        )

    def _change(self, state: ArmState, rounds: int) -> AlarmChange | None:
        """Return how the arm's alarms on the stopping set changed since so many rounds ago."""
        if state.last_round < rounds:
            return None
        before = state.results[-1 - rounds]
        return self.measurement.change(state.result, before, "stop")

    def _steps_factor(
        self, states: Sequence[ArmState], accepted: Mapping[Arm, Sequence[ImageRecord]], number: int
    ) -> float:
        """Return how much longer every arm trains in a round; 1 where the user pins what is added."""
        if self.options.add != "auto":
            return 1.0
        leader = next(state for state in states if state.arm == self.options.leader)
        negatives = len(leader.negatives) + len(accepted.get(leader.arm, []))
        return steps_factor(self._num_labelled, negatives, number)

    def _train(self, state: ArmState, number: int, steps_factor: float) -> TrainedModel:
        train = self.sets.train
        dataset = train.with_records([*train.records, *state.negatives])
        role = TrainingRole(state.name, number)
        seed, labelled = self.options.seed, self._num_labelled
        alarms = write_arm_alarms(self.steps, state.name, number, state.negatives)
        recipe = with_alarms(self.recipe, alarms)
        if self.options.retrain == "fresh":
            steps = round(recipe.steps(labelled) * steps_factor)
            return self.training.train(dataset, recipe, role, num_steps=steps, seed=seed)
        branch = self.options.retrain == "branch"
        return self.training.train(
            dataset,
            recipe.for_branch(),
            role,
            num_steps=round(recipe.branch_steps(labelled) * steps_factor),
            seed=seed + BRANCH_SEED * (1 if branch else number),
            init=state.results[0].model if branch else state.model,
        )

    def _write_dataset(self, folder: str, negatives: Sequence[ImageRecord]) -> None:
        """Write what a round trains on as a COCO file, for any other framework too."""
        from hardmine.data.formats.coco_writing import write_coco

        train = self.sets.train
        dataset = train.with_records([*train.records, *negatives])

        def compute(place: Path) -> int:
            """Write the next dataset version."""
            write_coco(dataset, place / "train.coco.json")
            return len(dataset)

        inputs = {"data": dataset.fingerprint}
        self.steps.run(f"{folder}/dataset", inputs, compute, ("train.coco.json",))

    def _write_doubtful_labels(self, states: Sequence[ArmState]) -> None:
        """List the validation images whose labels the leading arm's last model contradicts."""
        from hardmine.evaluation.doubtful_labels import find_doubtful_labels

        leader = next(state for state in states if state.arm == self.options.leader).result
        scored = self.measurement.scored(leader, "val")
        found = find_doubtful_labels(scored, leader.figures["score_threshold"])
        values = labels_in_doubt(found, self.sets.val, leader.model.key)
        write_json(self.steps.root / DOUBTFUL_LABELS, values)

    def _write_rows(self, rows: Sequence[dict[str, Any]]) -> None:
        write_json(self.steps.root / "rounds.json", list(rows))

    def _why_nothing_is_left(
        self, candidates: Mapping[Arm, ArmCandidates], number: int
    ) -> str | None:
        leader = self.options.leader
        if self.options.stop == "never" or not leader.adds_images or candidates[leader].images:
            return None
        head, found = f"round {number}, {leader.name}", candidates[leader]
        if leader.draw != "hardest":
            return f"{head}: every image of the pool was handed out, or repeats one that was"
        why = f"{head}: nothing is left to mine that scores {self.options.rank.min_score} or more"
        others = []
        if found.duplicates:
            repeats = counted(found.duplicates, "image that repeats", "images that repeat")
            others.append(f"{repeats} images added before")
        if found.quarantined:
            aside = counted(len(found.quarantined), "image that scores", "images that score")
            others.append(f"{aside} {self.options.quarantine} or more and were set aside")
        return why + (f", apart from {' and '.join(others)}" if others else "")

    def _why_stop(self, states: Sequence[ArmState], number: int) -> str | None:
        if self.options.stop == "never" or number == self.options.rounds:
            return None
        leader = next(state for state in states if state.arm == self.options.leader)
        reason = STOP_RULES[self.options.stop](leader.history)
        if reason is None:
            return None
        message = f"round {number}, {leader.name}, {self.options.stop} rule: {reason}"
        _log.info("%s", message)
        return message

    def _metrics(
        self,
        states: Sequence[ArmState],
        rows: Sequence[dict[str, Any]],
        stopped: str | None,
        undecided: Sequence[str],
    ) -> dict[str, Any]:
        """Return what ``metrics.json`` holds."""
        from hardmine.recipes.recipe import recipe_to_dict

        return {
            "options": plain_options(self.options),
            "sets": describe_sets(self.sets),
            "train_val_leaks": [list(pair) for pair in self.train_val_leaks],
            "rounds": list(rows),
            "comparisons": compare_arms(self.measurement, states),
            "stopped": stopped,
            "undecided": list(undecided),
            "stop_rules": stop_rule_states(states),
            "measurements": {
                f"{state.name}-{n}": result.figures
                for state in states
                for n, result in enumerate(state.results)
            },
            "recipe": recipe_to_dict(self.recipe),
            "model_choice": list(why_chosen(self.steps.root)),
            "versions": describe_machine(),
        }

    def _finish(
        self, states: Sequence[ArmState], rows: Sequence[dict[str, Any]], stopped: str | None
    ) -> LoopResult:
        from hardmine.loop.loop_summary import report_content
        from hardmine.reports import loop_report
        from hardmine.reports.advice import warning_lines

        leader = next(state for state in states if state.arm == self.options.leader)
        undecided = undecided_rounds(leader) if self.options.stop == "guarded" else []
        metrics = self._metrics(states, rows, stopped, undecided)
        root = self.steps.root
        write_json(root / "metrics.json", metrics)
        write_csv(root / "metrics.csv", rows)
        self.steps.progress("report", 0, 1)
        decisions = self.acceptance.store.decisions()
        self._write_doubtful_labels(states)
        page = report_content(self.options, self.sets, self.measurement, states, metrics, decisions)
        loop_report.write_report(root / "report.html", page)
        self.steps.progress("report", 1, 1)
        last = loop_report.last_row(page.rows)
        return LoopResult(
            root,
            tuple(rows),
            stopped,
            report=root / "report.html",
            verdicts=tuple(loop_report.verdict_lines(page)),
            warnings=(*undecided, *(() if last is None else warning_lines(last.figures))),
        )
