"""Comparing recipes on one's own data: is this change better, or is the difference noise?

Every recipe is trained with the same images in the same order, the same seeds and the same budget, and
is measured on the same images, so that differences are paired. A *cell* is one recipe with one seed; it
lies in ``cells/<key>/``, named by the hash of its recipe, data, seed and starting weights. A comparison
that was killed goes on where it stopped, a cell that two comparisons share is trained once, and a cell
that fails is named while the others stand.

With a pool, a cell is a whole loop, and what is compared is the last round of one of its arms. A
finished loop is gone through again, since its pool may have changed.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardmine.comparison.compare_figures import CellResult, Sets
from hardmine.comparison.compare_options import CompareOptions, Variant
from hardmine.comparison.compare_page import write_compare_report
from hardmine.comparison.compare_summary import Comparison, summarise
from hardmine.errors import ConfigError, DataError, HardmineError
from hardmine.files import write_json
from hardmine.loop.control_arms import MINED
from hardmine.mining.sources.remote import is_url
from hardmine.option_fields import build, info_of, option_fields, option_names, takes_options
from hardmine.types import Dataset
from hardmine.workflows.image_sets import DataLike
from hardmine.workflows.step_cache import Notify, Steps, fingerprint, silent
from hardmine.workflows.train_options import AUTO, DATA, DataOptions, NetworkOptions

if TYPE_CHECKING:
    from hardmine.recipes.recipe import Recipe

FEW_DRAWS = 10
"""Bootstrap draws of a cell by itself; the intervals of a comparison are its own."""

KEEP_SECONDS = 2.0
"""How often the time that a cell has taken is written down."""


@dataclass(frozen=True)
class _Cell:
    """What a process needs in order to train one cell; all of it can be pickled."""

    variant: Variant
    recipe: Recipe
    seed: int
    folder: Path
    sets: Sets
    options: CompareOptions


@dataclass(frozen=True, slots=True)
class ComparedData:
    """What all recipes of a comparison train on and are measured on.

    Attributes:
        data: labelled images.
        val: as of ``train``; the split is drawn once, for all seeds.
        negatives: images without objects; alarms are counted on them.
        pool: images to mine from; each cell is then a whole loop.
        train_negatives: images without objects, which the variants that say so train on too.
    """

    data: DataLike
    val: DataLike | float | None = None
    negatives: DataLike | None = None
    pool: Path | str | None = None
    train_negatives: DataLike | None = None


@takes_options(CompareOptions)
def compare_recipes(
    variants: Sequence[Variant],
    data: ComparedData,
    *,
    options: CompareOptions | None = None,
    out: Path | str = Path("runs/compare"),
    progress: Notify | None = None,
) -> Comparison:
    """Train every variant with every seed and say which differences are real.

    Args:
        variants: two or more; the first is the reference that the others are compared with.
        data: what they train on and are measured on, the same for all.
        options: how; each of its fields is also a keyword.
        out: gets ``cells/``, ``compare.json`` and ``compare.html``; called again, it goes on.

    Raises:
        ConfigError: fewer than two variants, a name twice, or an unknown recipe or option.
        DataError: unusable data, or no cell could be trained.
    """
    from hardmine.recipes.recipe import recipe_to_dict

    given = options or CompareOptions()
    how = _with_absolute_weights(given)
    names = [variant.name for variant in variants]
    if len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError(f"compare: got {names}, wanted two or more recipes, each once")
    root, notify = Path(out).resolve(), progress or silent
    for variant in variants:  # a wrong name, choice or file ends it before anything is read
        _check_variant(variant, how, with_pool=data.pool is not None)
    sets = _prepare(data, root, how.reading, notify)
    source = how.reading.words(data.data)
    chosen = {v.name: recipe_of(v, how, sets.train, source) for v in variants}
    recipes = {name: recipe_to_dict(recipe) for name, recipe in chosen.items()}
    cells = [
        _Cell(
            variant,
            chosen[variant.name],
            seed,
            root / "cells" / _key(recipes[variant.name], variant, sets, seed, given),
            sets,
            how,
        )
        for seed in range(how.seeds)
        for variant in variants
    ]
    results = list(_run_all(cells, how.jobs, notify))
    if all(result.error for result in results):
        raise DataError(f"compare: every cell failed; the first: {results[0].error}")
    comparison = summarise(variants, recipes, results, sets, root, how)
    write_json(root / "compare.json", comparison.to_dict())
    write_compare_report(root / "compare.html", comparison)
    return comparison


def _with_absolute_weights(options: CompareOptions) -> CompareOptions:
    """Return options whose weights are found from any folder."""
    path = None if options.weights is None else Path(str(options.weights))
    if path is None or not path.exists():
        return options
    return replace(options, weights=str(path.resolve()))


def recipe_of(
    variant: Variant, options: CompareOptions, train: Dataset | None = None, source: str = DATA
) -> Recipe:
    """Return a variant's recipe; ``auto`` is chosen by the training images once they are there.

    Its epochs are those of the other variants. ``source`` is the labelled data as a command line takes
    them, for the commands in warnings.
    """
    from hardmine.workflows.auto_recipe import fit_to_data
    from hardmine.workflows.cached_models import choose_recipe

    is_file = Path(variant.base).suffix in (".yaml", ".yml")
    network = NetworkOptions(
        model=None if is_file else variant.base or None,
        recipe=Path(variant.base) if is_file else None,
        epochs=options.epochs,
        compile=options.compile,
        set=tuple(variant.settings),
    )
    recipe = choose_recipe(network)
    if network.model != AUTO or train is None:
        return recipe
    chosen = fit_to_data(recipe, network, None, train, source)[0]
    return replace(chosen, epochs=recipe.epochs)  # all variants have one budget


def _check_variant(variant: Variant, options: CompareOptions, *, with_pool: bool) -> None:
    """Refuse an unknown recipe, weights that it cannot start from, and wrong options of a loop.

    The latter are those without effect, unknown ones, and those that are the same for all.
    """
    from hardmine.loop.loop_options import LoopOptions
    from hardmine.workflows.cached_models import start_from

    start_from(options.weights, recipe_of(variant, options))
    given = ", ".join(f"loop.{name}" for name in variant.loop)
    if given and not with_pool:
        raise ConfigError(f"{variant.name}: got {given} without a pool to mine from (--pool)")
    if not with_pool:
        return
    own = {"seed", "draws", "device", "network", "reading"}
    own.update(option_names(NetworkOptions), option_names(DataOptions))
    if taken := sorted(own & variant.loop.keys()):
        raise ConfigError(f"{variant.name}: got loop.{taken[0]}, which compare itself sets")
    try:
        chosen = build(LoopOptions, loop_options(variant, options))
    except ConfigError as error:
        raise ConfigError(f"{variant.name}: {error}") from None
    if options.arm not in chosen.arms:
        raise ConfigError(f"{variant.name}: no arm {options.arm!r} among its arms")


def loop_options(variant: Variant, options: CompareOptions) -> dict[str, Any]:
    """Return the options of a variant's loop; texts are read as the command line reads them."""
    from hardmine.loop.loop_options import LoopOptions

    found = {"rounds": options.rounds, "arms": (options.arm,), "stop": "never", **variant.loop}
    for item in option_fields(LoopOptions):
        info, value = info_of(item), found.get(item.name)
        if info is not None and info.parse is not None and isinstance(value, str):
            found[item.name] = info.parse(value)
    return found


def _key(
    recipe: dict[str, Any],
    variant: Variant,
    sets: Sets,
    seed: int,
    options: CompareOptions,
) -> str:
    from hardmine.recipes.checkpoint import file_digest

    start = None
    if options.weights is not None:
        path = Path(str(options.weights))
        start = file_digest(path) if path.is_file() else str(options.weights)
    values: dict[str, Any] = {
        "recipe": recipe,
        "sets": sets.fingerprint,
        "seed": seed,
        "weights": start,
    }
    if variant.with_negatives and sets.train_negatives is not None:
        values["train_negatives"] = sets.fingerprint_of_train_negatives
    if sets.pool is not None:
        values["loop"] = {"rounds": options.rounds, **variant.loop}
        if options.arm != MINED.name:
            values["arm"] = options.arm
    return fingerprint(values)


def _prepare(data: ComparedData, root: Path, reading: DataOptions, notify: Notify) -> Sets:
    """Split once and leave out what cannot be read or lies in two sets."""
    from hardmine.data.quality.findings import lost_images
    from hardmine.workflows.image_sets import load_negatives, load_train_val
    from hardmine.workflows.sets_apart import separate_sets

    steps = Steps(root / "prepare", notify)
    parts = load_train_val(data.data, data.val, steps, seed=0, options=reading)
    classes, files = parts.train.categories, root / "negatives"
    empty = load_negatives(data.negatives, classes, "negatives", files)
    more = load_negatives(data.train_negatives, classes, "train_negatives", files)
    good = separate_sets(
        {"train": parts.train, "train_negatives": more, "val": parts.val, "held_out": empty},
        steps,
        parts.leaks,
    )
    train, mined = good.train, good.train_negatives
    pool = None if data.pool is None else str(data.pool)
    names = {
        "train_images": len(train),
        "train_negatives": len(mined),
        "val_images": len(good.val),
        "negative_images": len(good.held_out),
        "pool": pool,
        "categories": list(parts.train.categories),
        "left_out": [*good.leak_lines(), *map(str, lost_images(good.problems))],
    }
    measured = (train, good.val, good.held_out)
    return Sets(
        train,
        good.val,
        good.held_out if len(good.held_out) else None,
        pool,
        names,
        fingerprint([*map(steps.identity, measured), _whole_path(pool)]),
        mined if len(mined) else None,
        steps.identity(mined),
    )


def _whole_path(pool: str | None) -> str:
    """Return the pool's path, the same from whichever folder it was given."""
    if pool is None or is_url(pool):
        return str(pool)
    return os.path.abspath(pool)  # noqa: PTH100  (links stay as the user wrote them)


def _run_all(cells: Sequence[_Cell], jobs: int, notify: Notify) -> Iterator[CellResult]:
    """Yield the results in the order of the cells; one that several share is run once."""
    if jobs == 1:
        for index, cell in enumerate(cells):
            notify(f"{cell.variant.name}, seed {cell.seed}", index, len(cells))
            yield _run_cell(cell, notify)
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)
    apart: dict[Path, _Cell] = {}
    for cell in cells:
        apart.setdefault(cell.folder, cell)
    with ThreadPoolExecutor(jobs) as keepers:
        waiting: dict[Future[CellResult], _Cell] = {
            keepers.submit(_run_apart, cell, threads): cell for cell in apart.values()
        }
        done: dict[Path, CellResult] = {}
        pending = set(waiting)
        try:
            while pending:
                finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in finished:
                    cell = waiting[future]
                    done[cell.folder] = _result_of(future, cell)
                notify("train the cells", len(done), len(apart))
        except BaseException:  # the user stops it: begin no other cell
            keepers.shutdown(wait=False, cancel_futures=True)
            raise
    yield from (replace(done[cell.folder], variant=cell.variant.name) for cell in cells)


def _run_apart(cell: _Cell, threads: int) -> CellResult:
    """Run a cell in a process of its own: one that is killed takes no other with it."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as worker:
        return worker.submit(_run_alone, cell, threads).result()


def _result_of(future: Future[CellResult], cell: _Cell) -> CellResult:
    try:
        return future.result()
    except Exception as error:  # noqa: BLE001 - a process that died is a failed cell, not the end
        return CellResult(
            cell.variant.name, cell.seed, cell.folder, error=f"the process died: {error}"
        )


def _run_alone(cell: _Cell, threads: int) -> CellResult:
    import torch

    torch.set_num_threads(threads)
    return _run_cell(cell, silent)


def _run_cell(cell: _Cell, notify: Notify) -> CellResult:
    """Train and measure a cell, or find its result; a failure becomes part of the result.

    A finished loop is gone through again: it does anew what depends on pool images that changed.
    """
    place, is_loop = cell.folder / "cell.json", cell.sets.pool is not None
    known = _read_cell(place)
    name, seed = cell.variant.name, cell.seed
    if known is None or is_loop:
        clock = _Clock(cell.folder, notify, 0.0 if known is None else 60.0 * known["minutes"])
        try:
            found = (_run_loop if is_loop else _run_training)(cell, clock)
        except HardmineError as error:
            return CellResult(name, seed, cell.folder, error=str(error))
        except Exception as error:  # noqa: BLE001 - the other cells must stand
            trace = traceback.format_exc()
            cell.folder.mkdir(parents=True, exist_ok=True)
            (cell.folder / "error.txt").write_text(trace, encoding="utf-8")
            return CellResult(name, seed, cell.folder, error=f"{type(error).__name__}: {error}")
        if known is None or {**found, "minutes": known["minutes"]} != known:
            known = {**found, "minutes": round(clock.keep() / 60, 3)}
            write_json(place, known)
    return CellResult(name, seed, cell.folder, known["minutes"], known)


class _Clock:
    """The time that a cell takes, with that of runs which were stopped: ``seconds.json`` holds it.

    It is called as the ``Notify`` of the work, and passes on what it is told.

    Args:
        before: seconds that are known where there is no such file.
    """

    def __init__(self, folder: Path, notify: Notify, before: float) -> None:
        self.file, self.notify = folder / "seconds.json", notify
        try:
            self.before = float(json.loads(self.file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            self.before = before
        self.start = self.kept = time.perf_counter()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Pass on where the work stands, and write the time where that is some seconds ago."""
        if time.perf_counter() - self.kept > KEEP_SECONDS:
            self.keep()
        self.notify(what, done, total)

    def keep(self) -> float:
        """Write the seconds since the work first began, and return them."""
        self.kept = time.perf_counter()
        seconds = self.before + self.kept - self.start
        if self.file.parent.is_dir():
            write_json(self.file, round(seconds, 1))
        return seconds


def _read_cell(path: Path) -> dict[str, Any] | None:
    """Return what a finished cell wrote; None where it is not finished, or its detections are gone."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict):
        return None
    return found if (path.parent / found["detections"] / "val.json").is_file() else None


def _run_training(cell: _Cell, notify: Notify) -> dict[str, Any]:
    from hardmine.workflows.train_and_evaluate import train

    train(
        cell.sets.train,
        val=cell.sets.val,
        negatives=cell.sets.negatives,
        train_negatives=cell.sets.train_negatives if cell.variant.with_negatives else None,
        recipe=cell.recipe,
        weights=cell.options.weights,
        out=cell.folder,
        resume=True,
        seed=cell.seed,
        draws=FEW_DRAWS,
        validate=0,
        device=cell.options.device,
        progress=notify,
    )
    metrics = json.loads((cell.folder / "metrics.json").read_text(encoding="utf-8"))
    return {"measurement": metrics["measurement"], "detections": "detections"}


def _run_loop(cell: _Cell, notify: Notify) -> dict[str, Any]:
    from hardmine.loop.loop import run_loop

    arm = cell.options.arm
    assert cell.sets.pool is not None
    result = run_loop(
        cell.sets.train,
        val=cell.sets.val,
        negatives=cell.sets.negatives,
        pool=cell.sets.pool,
        recipe=cell.recipe,
        weights=cell.options.weights,
        out=cell.folder,
        resume=True,
        seed=cell.seed,
        draws=FEW_DRAWS,
        device=cell.options.device,
        progress=notify,
        **loop_options(cell.variant, cell.options),
    )
    if result.waiting is not None:
        raise ConfigError(f"the loop is not done: {result.waiting}")
    rows = json.loads((cell.folder / "rounds.json").read_text(encoding="utf-8"))
    mine = [row for row in rows if row["arm"] == arm]
    last = max(mine, key=lambda row: int(row["round"]))
    added = [row["negatives_added"] for row in mine if row["round"] > 0]
    first = next(row for row in mine if row["round"] == 0)
    metrics = json.loads((cell.folder / "metrics.json").read_text(encoding="utf-8"))
    whole = metrics["measurements"][f"{arm}-{last['round']}"]
    return {
        "measurement": {**last, "training": whole.get("training")},
        "round_0": first,
        "added": added,
        "detections": f"evaluations/{last['model']}",
    }
