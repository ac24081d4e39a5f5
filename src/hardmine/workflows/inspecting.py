"""Measuring one detector once: detections, ``metrics.json`` and the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hardmine.files import write_json
from hardmine.machine import describe_machine
from hardmine.types import Dataset, Problem
from hardmine.workflows.cached_measurement import RECALL, detect_sets
from hardmine.workflows.crops import crop_set
from hardmine.workflows.image_sets import Leak, read_all, set_apart
from hardmine.workflows.replaceable import Tools
from hardmine.workflows.step_cache import Steps

if TYPE_CHECKING:
    from hardmine.evaluation.measurement import Measurement
    from hardmine.evaluation.scored_images import Scored
    from hardmine.inference.detector import Detector
    from hardmine.recipes.recipe import Recipe
    from hardmine.reports.content import ReportData


@dataclass(frozen=True)
class SortedOut:
    """Readable images; negatives that repeat a training or validation image are left out."""

    train: Dataset
    val: Dataset
    held_out: Dataset
    problems: tuple[Problem, ...]
    leaks: tuple[Leak, ...]
    train_val_leaks: tuple[tuple[str, str], ...]

    def leak_lines(self) -> tuple[str, ...]:
        """Return a line for each near-duplicate that lay in two sets."""
        kept = (
            f"{a} (trained on) and {b} (validation) are near-duplicates; both stay in use"
            for a, b in self.train_val_leaks
        )
        return (*(str(leak) for leak in self.leaks), *kept)


def sort_out(
    parts: Mapping[str, Dataset], steps: Steps, train_val_leaks: tuple[tuple[str, str], ...] = ()
) -> SortedOut:
    """Read every image of ``train``, ``val`` and ``held_out`` once and set the bad ones aside."""
    good, group_of, problems = read_all(parts, steps)
    records, leaks = set_apart(good, "held_out", ("train", "val"), group_of)
    held_out = good["held_out"].with_records(records)
    return SortedOut(good["train"], good["val"], held_out, problems, tuple(leaks), train_val_leaks)


@dataclass(frozen=True)
class Inspector:
    """Measures a detector and writes down what it finds into the run directory."""

    steps: Steps
    tools: Tools
    draws: int
    seed: int

    def examine(self, detector: Detector, data: SortedOut, recipe: Recipe | None) -> Measurement:
        """Detect, measure, and write detections, ``metrics.json`` and ``report.html``."""
        from hardmine.evaluation.measurement import measure
        from hardmine.evaluation.scored_images import save_detections
        from hardmine.reports.loop_report import write_report

        crops = crop_set(data.val, self.steps, seed=self.seed)
        parts = {"val": data.val, "held_out": data.held_out, "crops": crops}
        known = {name: part for name, part in parts.items() if len(part)}
        scored = detect_sets(detector, known, self.tools, self.steps.notify, "measure")
        root = self.steps.root
        for name, part in scored.items():
            save_detections(root / "detections" / f"{name}.json", part)
        negatives = {name: part for name, part in scored.items() if name != "val"}
        measurement = measure(
            scored["val"], negatives, recall=RECALL, draws=self.draws, seed=self.seed
        )
        metrics = self._metrics(measurement, data, detector, recipe)
        write_json(root / "metrics.json", metrics)
        write_report(root / "report.html", _page(metrics, scored, data))
        return measurement

    def _metrics(
        self,
        measurement: Measurement,
        data: SortedOut,
        detector: Detector,
        recipe: Recipe | None,
    ) -> dict[str, Any]:
        from hardmine.recipes.recipe import recipe_to_dict

        return {
            "measurement": measurement.to_dict(),
            "model_id": detector.model_id,
            "seed": self.seed,
            "train_images": len(data.train),
            "train_negatives": sum(r.state.is_negative for r in data.train.records),
            "problems": [str(problem) for problem in data.problems],
            "leaks": list(data.leak_lines()),
            "recipe": {} if recipe is None else recipe_to_dict(recipe),
            "versions": describe_machine(),
        }


def _page(metrics: Mapping[str, Any], scored: Mapping[str, Scored], data: SortedOut) -> ReportData:
    from hardmine.reports.content import ReportData, ReportRow, curve_line, worst_alarms

    row = ReportRow(
        "run", 0, metrics["train_images"], metrics["train_negatives"], metrics["measurement"]
    )
    negatives = scored.get("held_out") or scored.get("crops")
    line = None if negatives is None else curve_line("run", scored["val"], negatives)
    return ReportData(
        title="Measurement",
        categories=data.val.categories,
        rows=(row,),
        recipe=metrics["recipe"],
        versions=metrics["versions"],
        worst=None if negatives is None else worst_alarms(negatives),
        curves=() if line is None else (line,),
        problems=data.problems,
        leaks=data.leak_lines(),
    )
