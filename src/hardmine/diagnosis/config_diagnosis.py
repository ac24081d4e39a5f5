"""What a configuration of the TensorFlow Object Detection API is likely to do, before any training.

Only what the file itself says is judged: a floor that images without objects do not get, a miner over a
head that all levels share, a miner together with the focal loss, and, with data, anchors that fit
nothing.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np

from hardmine.diagnosis.diagnose import write_diagnosis
from hardmine.diagnosis.diagnosis_result import Diagnosis, Finding, in_order
from hardmine.diagnosis.hypotheses import (
    HYPOTHESES,
    LEAST_REACH,
    Answer,
    Verdict,
)
from hardmine.files import clear_disk_errors
from hardmine.prior_design.canvas_boxes import boxes_on_canvas
from hardmine.prior_design.coverage import measure_coverage
from hardmine.prior_design.prior_layout import layout_of_recipe
from hardmine.recipes.tf_pipeline import TfPipeline, read_tf_pipeline
from hardmine.workflows.step_cache import Steps, silent
from hardmine.workflows.training_data import load_train_val

SMALL_FLOOR = 8
_BY_KEY = {each.key: each for each in HYPOTHESES}
_NEEDS_RUN = ("localisation", "ambiguity", "labels", "capacity")


def diagnose_configuration(
    config: Path | str, *, data: Path | str | None = None, out: Path | str = Path("runs/diagnosis")
) -> Diagnosis:
    """Say what of a ``pipeline.config`` is likely to hurt.

    Args:
        data: labelled images that the anchors are measured against.
        out: gets ``diagnosis.html`` and ``diagnosis.json``.

    Raises:
        ConfigError: the file is no configuration of a network that Hardmine has.
    """
    root, pipeline = Path(out).resolve(), read_tf_pipeline(Path(config))
    with clear_disk_errors(root):
        verdicts = {
            "floor": _floor(pipeline),
            "priors": _priors(pipeline, data, root),
            "levels": _levels(pipeline),
            "gradient": _gradient(pipeline),
        }
        said = Verdict(Answer.UNKNOWN, "not measured", ("Only a training can show this.",))
        findings = [
            Finding(
                each,
                verdicts.get(each.key, said),
                _command(verdicts.get(each.key, said), config, data),
            )
            for each in HYPOTHESES
        ]
        limits = [
            f"{len(pipeline.left_out)} fields of the file have no counterpart; 'hardmine recipe "
            "--from' names them."
        ]
        if data is None:
            limits.append("No data was given, so the anchors were not measured. Give --data.")
        found = Diagnosis(str(config), in_order(findings), tuple(limits), root)
        write_diagnosis(found)
    return found


def _command(verdict: Verdict, config: Path | str, data: Path | str | None) -> str:
    if verdict.answer is not Answer.SUPPORTED:
        return ""
    source = "DATA" if data is None else shlex.quote(str(data))
    from_config = f"hardmine recipe --from {shlex.quote(str(config))}"
    if verdict.fits_priors:
        lines = [
            f"{from_config} > recipe.yaml",
            f"hardmine priors fit {source} --recipe recipe.yaml --out priors.yaml",
            f"{from_config} --recipe priors.yaml > fitted.yaml",
            f"hardmine train {source} --recipe fitted.yaml",
        ]
        return " && \\\n".join(lines)
    settings = " ".join(f"--set {setting}" for setting in verdict.settings)
    return f"{from_config} {settings} > recipe.yaml && \\\nhardmine train {source} --recipe recipe.yaml"


def _floor(pipeline: TfPipeline) -> Verdict:
    facts = pipeline.mining
    if not facts.miner:
        return Verdict(
            Answer.NOT_SUPPORTED,
            "no miner: every prior of an image without objects is trained",
            (
                "There is no hard_example_miner, so nothing keeps images without objects from training.",
            ),
        )
    if not facts.ratio:
        text = f"the {facts.count} hardest priors of each image"
        said = [
            "Without max_negatives_per_positive the miner keeps the hardest priors of any image."
        ]
        if facts.floor:
            said.append(
                f"min_negatives_per_image {facts.floor} has no effect: the API reads it only "
                "together with a ratio."
            )
        return Verdict(Answer.NOT_SUPPORTED, text, tuple(said))
    reasons = (
        f"An image without objects gives {facts.floor} negatives (min_negatives_per_image), "
        "whatever fires in it; an "
        f"image with ten positives gives {10 * facts.ratio}.",
    )
    return Verdict(
        Answer.SUPPORTED if facts.floor < SMALL_FLOOR else Answer.NOT_SUPPORTED,
        f"{facts.floor} negatives per image without objects (limit: {SMALL_FLOOR})",
        reasons,
        "hard_example_miner.min_negatives_per_image; here loss.selection.floor",
        ("loss.selection.floor=32",),
    )


def _levels(pipeline: TfPipeline) -> Verdict:
    facts = pipeline.mining
    if not (facts.miner and facts.shared_head):
        return Verdict(
            Answer.UNKNOWN,
            "not measured",
            ("Only a training can show how the levels share the work.",),
        )
    counts = [grid.count for grid in layout_of_recipe(pipeline.recipe).levels]
    share = counts[0] / sum(counts)
    return Verdict(
        Answer.SUPPORTED,
        f"the finest level has {share:.0%} of the priors, and one head serves all levels",
        (
            "The miner ranks the priors of all levels together. The finest level has most of "
            "them and will give most "
            "of the negatives, which push the weights that all levels share.",
        ),
        "loss.selection: a quota for each level",
        ("loss.selection.kind=level_quota",),
        ticks=tuple(f"level {level}" for level in range(len(counts))),
        bars={"share of priors": tuple(count / sum(counts) for count in counts)},
    )


def _gradient(pipeline: TfPipeline) -> Verdict:
    facts = pipeline.mining
    if facts.miner and facts.focal:
        return Verdict(
            Answer.SUPPORTED,
            "focal loss and a miner together",
            (
                "The focal loss weighs easy priors down already; a miner that drops them as "
                "well leaves the hardest "
                "few alone, which label noise dominates.",
            ),
            "one of the two: all priors with the focal loss, or a miner with the sigmoid loss",
            ("loss.selection.kind=all",),
        )
    if facts.miner and not facts.ratio:
        return Verdict(
            Answer.SUPPORTED,
            f"the {facts.count} hardest priors and no ratio",
            (
                "Positives and negatives compete for the same places, so easy positives are "
                "dropped and the hardest "
                "negatives are not balanced by any ratio.",
            ),
            "hard_example_miner.max_negatives_per_positive; here loss.selection.neg_to_pos_ratio",
            ("loss.selection.neg_to_pos_ratio=3", "loss.selection.floor=32"),
        )
    if not facts.miner and not facts.focal:
        return Verdict(
            Answer.SUPPORTED,
            "all negatives count, and nothing weighs the easy ones down",
            (
                "Without a miner and without the focal loss some thousand easy negatives stand "
                "against each positive.",
            ),
            "loss.classification: the focal loss; or loss.selection: a ratio",
            ("loss.selection.kind=ratio",),
        )
    return Verdict(
        Answer.NOT_SUPPORTED,
        f"{facts.ratio} negatives per positive" if facts.miner else "focal loss",
    )


def _priors(pipeline: TfPipeline, data: Path | str | None, root: Path) -> Verdict:
    if data is None:
        return Verdict(Answer.UNKNOWN, "not measured", ("Give --data to measure the anchors.",))
    train = load_train_val(data, None, Steps(root, silent), seed=0).train
    recipe = pipeline.recipe
    threshold = recipe.loss.assigner.iou_threshold
    coverage = measure_coverage(
        boxes_on_canvas(train, recipe.resize), layout_of_recipe(recipe), threshold
    )
    total = coverage.total()
    counts, _ = np.histogram(coverage.best.iou, np.linspace(0.0, 1.0, 11))
    return Verdict(
        Answer.SUPPORTED if total.reach < LEAST_REACH else Answer.NOT_SUPPORTED,
        f"{total.reach:.0%} of the objects are reached by an anchor (limit: {LEAST_REACH:.0%})",
        (f"The median object overlaps its best anchor by {total.median:.2f}.",),
        "anchor_generator; here model.priors",
        fits_priors=True,
        ticks=tuple(f"{edge / 10:.1f}" for edge in range(10)),
        bars={"objects by IoU with their best anchor": tuple(float(count) for count in counts)},
    )
