"""``diagnose``: from a run directory to verdicts, a page and a list of places to look at."""

from __future__ import annotations

import csv
import io
import shlex
from pathlib import Path
from typing import Any

from hardmine.diagnosis.diagnosis_page import render_diagnosis
from hardmine.diagnosis.diagnosis_result import Diagnosis, Finding, in_order
from hardmine.diagnosis.evidence import Evidence, gather, read_record
from hardmine.diagnosis.hypotheses import HYPOTHESES, Verdict, missing_labels
from hardmine.files import clear_disk_errors, write_json, write_text
from hardmine.workflows.step_cache import Notify, silent

VALUES, PLACES = "diagnosis.json", "missing_labels.csv"


def diagnose(
    run: Path | str,
    *,
    data: Path | str | None = None,
    negatives: Path | str | None = None,
    out: Path | str | None = None,
    device: str | None = None,
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
        progress: called with (what, done, total).

    Raises:
        DataError: there is no run of an SSD there, or its data has other classes.
        CheckpointError: its weights cannot be read.

    Example:
        >>> trained = hardmine.train("shelf", val=0.25, recipe="tiny.yaml", out="first", draws=20)
        >>> found = hardmine.diagnose("first", out="why")
        >>> len(found.findings), found.page.name
        (8, 'diagnosis.html')
    """
    run = Path(run).resolve()
    root = run if out is None else Path(out).resolve()
    with clear_disk_errors(root):
        evidence = gather(run, data, negatives, device, progress or silent)
        known = [(each, each.test(evidence)) for each in HYPOTHESES]
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
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "xmin", "ymin", "xmax", "ymax", "class", "score", "iou"])
    for each in missing_labels(evidence.train):
        box = [round(float(value), 1) for value in each.box]
        name = evidence.categories[each.label - 1]
        path = objects.records[each.image].path
        writer.writerow([path, *box, name, round(each.score, 4), round(each.iou, 3)])
    return text.getvalue()


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
    recipe = run / "recipe.yaml"
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
    recipe = run / "recipe.yaml"
    base = str(recipe) if recipe.exists() else evidence.recipe.model.name
    words = ["hardmine", "compare", "--preset", "mining", base, source, *rest]
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
