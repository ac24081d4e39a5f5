"""``diagnose``: from a run directory or a configuration to verdicts, a page and a list of places to
look at.

Of a configuration of the TensorFlow Object Detection API only what the file itself says is judged,
before any training: a floor that images without objects do not get, a miner over a head that all
levels share, a miner together with the focal loss, and, with data, anchors that fit nothing.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np

from hardmine.diagnosis.diagnosis_page import render_diagnosis
from hardmine.diagnosis.diagnosis_result import Answer, Diagnosis, Finding, Verdict, in_order
from hardmine.diagnosis.evidence import Evidence, gather, read_record, recipe_file
from hardmine.diagnosis.hypotheses import HYPOTHESES, LEAST_REACH, judge, missing_labels
from hardmine.diagnosis.probe import MOST_TRAINING_IMAGES
from hardmine.errors import ConfigError
from hardmine.files import clear_disk_errors, csv_text, write_json, write_text
from hardmine.losses.negative_mining import RandomConfig
from hardmine.plurals import counted
from hardmine.prior_design.coverage import boxes_on_canvas, measure_coverage
from hardmine.prior_design.prior_layout import layout_of_recipe
from hardmine.recipes.tf_pipeline import TfPipeline, read_tf_pipeline
from hardmine.workflows.image_sets import load_train_val
from hardmine.workflows.step_cache import Notify, Steps, silent

VALUES, PLACES = "diagnosis.json", "missing_labels.csv"


def diagnose(
    run: Path | str,
    *,
    data: Path | str | None = None,
    negatives: Path | str | None = None,
    out: Path | str | None = None,
    device: str | None = None,
    images: int = MOST_TRAINING_IMAGES,
    progress: Notify | None = None,
) -> Diagnosis:
    """Say which of the known causes makes hard mining hurt in a run, and what tries the remedy.

    Args:
        run: a run directory of ``train``, or one training of a loop.
        data: its labelled training images; those that the run names if not given.
        negatives: the images without objects that were trained on; likewise.
        out: gets ``diagnosis.html``, ``diagnosis.json`` and ``missing_labels.csv``; the run directory
            if not given.
        device: where the finished network runs.
        images: training images that are looked at, at most, evenly spread.
        progress: called with (what, done, total).

    Raises:
        ConfigError: ``images`` is below 1.
        DataError: there is no run of an SSD there, or its data has other classes.
        CheckpointError: its weights cannot be read.

    Example:
        >>> trained = hardmine.train("shelf", val=0.25, recipe="tiny.yaml", out="first", draws=20)
        >>> found = hardmine.diagnose("first", out="why")
        >>> len(found.findings), found.page.name
        (8, 'diagnosis.html')
    """
    if images < 1:
        raise ConfigError(f"diagnose: got images {images}, wanted 1 or more")
    run = Path(run).resolve()
    root = run if out is None else Path(out).resolve()
    with clear_disk_errors(root):
        evidence = gather(run, data, negatives, device, progress or silent, images)
        known = [(each, judge(each, evidence)) for each in HYPOTHESES]
        findings = [
            Finding(each, verdict, _command(evidence, each.key, verdict, data))
            for each, verdict in known
        ]
        found = Diagnosis(
            str(run),
            in_order(findings),
            evidence.limits,
            root,
            evidence,
            _compare_all(evidence, data),
        )
        write_diagnosis(found)
    return found


def write_diagnosis(found: Diagnosis) -> None:
    """Write the page, the values and the list of places."""
    write_json(found.out / VALUES, found.to_dict())
    if found.evidence is not None and found.evidence.train is not None:
        write_text(found.out / PLACES, _places(found.evidence))
    write_text(found.page, render_diagnosis(found))


def _places(evidence: Evidence) -> str:
    assert evidence.data is not None
    assert evidence.train is not None
    objects = evidence.data.subset(lambda record: len(record.labels) > 0)
    rows: list[list[Any]] = [["image", "xmin", "ymin", "xmax", "ymax", "class", "score", "iou"]]
    for each in missing_labels(evidence.train):
        box = [round(float(value), 1) for value in each.box]
        name = evidence.categories[each.label - 1]
        path = objects.records[each.image].path
        rows.append([path, *box, name, round(each.score, 4), round(each.iou, 3)])
    return csv_text(rows)


def _command(evidence: Evidence, key: str, verdict: Verdict, data: Path | str | None) -> str:
    """Return the command that tries a remedy: the same training with one choice changed.

    Fitted priors are laid over the run's own recipe, and only if they are better on held-out boxes.
    """
    if not (verdict.fits_priors or verdict.settings):
        return ""
    run = evidence.run
    beside = run.parent / f"{run.name}-{key}"
    source, rest = _inputs(run, data)
    images, reading = _reading(run, data)
    recipe = recipe_file(run)
    if verdict.fits_priors:
        recipe = beside.with_name(f"{beside.name}.yaml")
    words = ["hardmine", "train", source, *images, *reading, *rest]
    if verdict.fits_priors or recipe.exists():
        words += ["--recipe", str(recipe)]
    for setting in verdict.settings:
        words += ["--set", setting]
    if seed := read_record(run).get("seed"):
        words += ["--seed", str(seed)]
    words += ["--out", str(beside)]
    if not verdict.fits_priors:
        return shlex.join(words)
    part = beside.with_name(f"{beside.name}.part.yaml")
    fit = ["hardmine", "priors", "fit", source, *images, "--model", str(run), "--out", str(part)]
    lay = ["hardmine", "recipe", str(run), "--recipe", str(part)]
    lines = (shlex.join(fit), f"{shlex.join(lay)} > {shlex.quote(str(recipe))}", shlex.join(words))
    return " && \\\n".join(lines)


def _compare_all(evidence: Evidence, data: Path | str | None) -> str:
    """Return the command that compares every way of selecting negatives on the run's data."""
    run = evidence.run
    source, rest = _inputs(run, data)
    images, reading = _reading(run, data)
    recipe = recipe_file(run)
    base = str(recipe) if recipe.exists() else evidence.recipe.model.name
    words = ["hardmine", "compare", "--preset", "mining", base, source, *images, *reading, *rest]
    return shlex.join([*words, "--out", str(run.parent / f"{run.name}-compare")])


def _inputs(run: Path, data: Path | str | None) -> tuple[str, list[str]]:
    """Return the run's labelled images, and its other inputs as words of a command."""
    inputs, weights = _asked_for(run)
    given = data if data is not None else inputs.get("data")
    words = []
    for name in ("val", "negatives", "train_negatives"):
        value = inputs.get(name)
        if isinstance(value, str | float):
            words += [f"--{name.replace('_', '-')}", str(value)]
    if weights:
        words += ["--weights", weights]
    return str(given) if isinstance(given, str | Path) else "DATA", words


def _reading(run: Path, data: Path | str | None) -> tuple[list[str], list[str]]:
    """Return the options with which the run's own data is read: where its images are, and the rest."""
    reading = read_record(run).get("reading", {}) if data is None else {}
    images = ["--images", str(reading["images"])] if reading.get("images") else []
    return images, ["--empty-is-verified"] if reading.get("empty_is_verified") else []


def _asked_for(run: Path) -> tuple[dict[str, Any], str | None]:
    values = read_record(run)
    return dict(values.get("inputs", {})), values.get("network", {}).get("weights")


SMALL_FLOOR = 8


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
    root, pipeline = Path(out).resolve(), _read_configuration(Path(config))
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
                _config_command(verdicts.get(each.key, said), config, data),
            )
            for each in HYPOTHESES
        ]
        limits = []
        if pipeline.left_out:
            left = counted(
                len(pipeline.left_out), "field of the file has", "fields of the file have"
            )
            limits.append(f"{left} no counterpart; see 'hardmine recipe --from'.")
        if data is None:
            limits.append("No data was given, so the anchors were not measured. Give --data.")
        found = Diagnosis(str(config), in_order(findings), tuple(limits), root)
        write_diagnosis(found)
    return found


def _read_configuration(path: Path) -> TfPipeline:
    """Read a configuration; of another file say what was wanted."""
    if (path.parent / "last.safetensors").exists():
        raise ConfigError(f"{path}: is a file of a run, wanted its folder {path.parent}")
    try:
        return read_tf_pipeline(path)
    except ConfigError as error:
        if path.suffix in (".config", ".pbtxt", ".txt", ""):
            raise
        raise ConfigError(
            f"{path}: got neither the folder of a training nor a pipeline.config of the TensorFlow "
            f"Object Detection API ({str(error).removeprefix(str(path)).lstrip(': ')})"
        ) from None


def _config_command(verdict: Verdict, config: Path | str, data: Path | str | None) -> str:
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
    facts, rule = pipeline.mining, pipeline.recipe.loss.selection
    if isinstance(rule, RandomConfig):
        return Verdict(
            Answer.SUPPORTED,
            f"0 negatives per image without objects (limit: {SMALL_FLOOR})",
            (
                "random_example_sampler draws negatives for each positive, so an image without objects "
                "gives none.",
            ),
            "random_example_sampler; here loss.selection.floor",
            ("loss.selection.floor=32",),
        )
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
    negatives = counted(facts.floor, "negative")
    reasons = (
        f"An image without objects gives {negatives} (min_negatives_per_image), "
        "however strongly it fires; an "
        f"image with ten positives gives {10 * facts.ratio}.",
    )
    return Verdict(
        Answer.SUPPORTED if facts.floor < SMALL_FLOOR else Answer.NOT_SUPPORTED,
        f"{negatives} per image without objects (limit: {SMALL_FLOOR})",
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
                "well leaves the hardest few alone, which label noise dominates.",
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
                "dropped and the hardest negatives are not balanced by any ratio.",
            ),
            "hard_example_miner.max_negatives_per_positive; here loss.selection.neg_to_pos_ratio",
            ("loss.selection.neg_to_pos_ratio=3", "loss.selection.floor=32"),
        )
    rule = pipeline.recipe.loss.selection
    if isinstance(rule, RandomConfig):
        return Verdict(
            Answer.NOT_SUPPORTED, f"{rule.neg_to_pos_ratio:.3g} random negatives per positive"
        )
    if not facts.miner and not facts.focal:
        return Verdict(
            Answer.SUPPORTED,
            "all negatives count, and easy ones count as much as hard ones",
            (
                "Without a miner and without the focal loss there are some thousand easy negatives "
                "per positive.",
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
    boxes, layout = boxes_on_canvas(train, recipe.resize), layout_of_recipe(recipe)
    coverage = measure_coverage(boxes, layout, recipe.loss.assigner.iou_threshold)
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
