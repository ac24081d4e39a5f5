"""The hypothesis that levels of the network are trained unequally: one has all, or some starve.

A level starves where its classes, or one of them, are known badly, stand against many negatives, and the
training images show the harm.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from hardmine.diagnosis.diagnosis_result import (
    NO_POSITIVE,
    NO_TELEMETRY,
    Answer,
    Verdict,
    answer_of,
    unknown,
)
from hardmine.diagnosis.evidence import Evidence
from hardmine.diagnosis.probe import FOUND, SetProbe
from hardmine.evaluation.operating_promise import share_limits
from hardmine.losses.negative_mining import LevelQuotaConfig
from hardmine.plurals import counted

ONE_LEVEL = 0.95
"""Share of the positives on one level."""
LESS_FOUND = 0.1
"""By how much recall on a starved level lies below that of the other objects, with 95 % confidence."""
_FEW_ON_A_LEVEL = 8
_CONFIDENCE = 0.95
SIZES = (
    ("below 32 px in the network's input", 0.0, 32.0**2),
    ("of 32 to 96 px in the network's input", 32.0**2, 96.0**2),
    ("of 96 px and more in the network's input", 96.0**2, np.inf),
)
"""Sizes of objects: name, lowest area and the area from which the next size begins, px²."""


def test_levels(evidence: Evidence) -> Verdict:
    """Positives, negatives and priors of each level, and how well each level knows its classes."""
    if not evidence.telemetry:
        return unknown(NO_TELEMETRY)
    if evidence.num_levels < 2:
        return Verdict(Answer.NOT_SUPPORTED, "one level", ("The network has one level.",))
    columns = {name: evidence.by_level(name) for name in ("priors", "positives", "negatives")}
    shares = {
        name: [value / max(1e-9, sum(values)) for value in values]
        for name, values in columns.items()
    }
    if not sum(columns["positives"]):
        return unknown(NO_POSITIVE)
    top = int(np.argmax(shares["positives"]))
    alone = shares["positives"][top] >= ONE_LEVEL
    reasons = [
        f"Level {top} has {shares['positives'][top]:.0%} of the positives, "
        f"{shares['negatives'][top]:.0%} of the "
        f"selected negatives and {shares['priors'][top]:.0%} of the priors (level 0 is the finest)."
    ]
    reasons += [
        f"Level {level} has priors but no positive, so it learns only background."
        for level, priors in enumerate(columns["priors"])
        if priors and not any(count for _, count in evidence.series(f"level{level}.positives"))
    ]
    starved, spared = _starved(evidence)
    reasons += [*starved.values(), *spared, *_by_size(evidence)]
    option, settings = _share_the_work(evidence, alone)
    if not alone and evidence.train is None:
        reasons.append("Whether a level starves is seen on the training images; give --data.")
    return Verdict(
        answer_of(alone or bool(starved))
        if alone or evidence.train is not None
        else Answer.UNKNOWN,
        f"{shares['positives'][top]:.0%} of the positives on one level (limit: {ONE_LEVEL:.0%}), "
        + _counted(starved, evidence.categories),
        tuple(reasons),
        option,
        settings,
        alone,
        reads_weights=not alone,
        ticks=tuple(f"level {level}" for level in range(evidence.num_levels)),
        bars={f"share of {name}": tuple(values) for name, values in shares.items()},
    )


def _share_the_work(evidence: Evidence, alone: bool) -> tuple[str, tuple[str, ...]]:
    """Return the option and the settings that spread the work over the levels."""
    if alone:
        return "model.priors: spread the sizes over the levels", ()
    if isinstance(evidence.recipe.loss.selection, LevelQuotaConfig):
        return (
            "epochs, and more images with these classes: each level has a quota of its own already",
            (f"epochs={2 * evidence.recipe.epochs:g}",),
        )
    return (
        "loss.selection: a quota of negatives for each level; or a model whose levels share one head "
        "(ssd320_mobilenet_v2_fpnlite)",
        ("loss.selection.kind=level_quota",),
    )


@dataclass(frozen=True, slots=True)
class _Part:
    """What a level is trained with for all classes, or for one of them (``label``; 0 for all).

    ``against`` counts the negatives, and for one class the positives of the others, per positive.
    """

    level: int
    label: int
    positives: float
    own: float
    against: float


def _parts_of_levels(evidence: Evidence) -> list[_Part]:
    """Return what telemetry knows of each level, and of each class on it where there are several.

    Negatives that fill an image up to the floor are left out: they come from images with few objects,
    stand against no positive of these, and most lie on the level with the most priors.
    """
    counted = [evidence.by_level(name) for name in ("negatives", "floor_negatives")]
    negatives = [max(0.0, value - filled) for value, filled in zip(*counted, strict=True)]
    parts = []
    for level, against in enumerate(negatives):
        pairs = {}
        for label, name in enumerate(evidence.categories, 1):
            count = evidence.last(f"level{level}.own.{name}.positives")
            own = evidence.last(f"level{level}.own.{name}")
            if count and own is not None:
                pairs[label] = (count, own)
        total = sum(count for count, _ in pairs.values())
        if total:
            own = sum(count * own for count, own in pairs.values()) / total
            parts.append(_Part(level, 0, total, own, against / total))
        if len(pairs) > 1:
            parts += [
                _Part(level, label, count, own, (against + total - count) / count)
                for label, (count, own) in pairs.items()
            ]
    return parts


def _counted(starved: Iterable[_Part], categories: Sequence[str]) -> str:
    """Return how many levels starve, and which classes on a level do."""
    levels = {part.level for part in starved}
    names = [
        repr(categories[label - 1]) for label in sorted({part.label for part in starved} - {0})
    ]
    which = f" (above all {', '.join(names)})" if names else ""
    return f"{counted(len(levels), 'level')} with poorly known classes{which}"


def _starved(evidence: Evidence) -> tuple[dict[_Part, str], list[str]]:
    """Return a sentence for each level, or class on a level, that starves, and for each that seems to.

    It seems to where its classes are known half as well as on all levels together while it has more than
    twice as much against each positive. It does starve when the training images show the harm: those of
    its objects that no other level's priors reach better are found less often than the others.
    """
    probe, parts = evidence.train, _parts_of_levels(evidence)
    whole = [part for part in parts if not part.label]
    total = sum(part.positives for part in whole)
    if probe is None or not total:
        return {}, []
    mean = sum(part.own * part.positives for part in whole) / total
    against = sum(part.against * part.positives for part in whole) / total
    classes = len({part.label for part in parts if part.label})
    starved, spared = {}, []
    for part in parts:
        usual = classes * (against + 1.0) if part.label else against
        if mean < 0.2 or part.own >= 0.5 * mean or part.against <= 2.0 * usual:
            continue
        what = f"Level {part.level}"
        if part.label:
            what = f"Class {evidence.categories[part.label - 1]!r} on level {part.level}"
        said = (
            f"{what}, with {part.positives / total:.0%} of the positives, has a probability of "
            f"{part.own:.2f} at these ({mean:.2f} over all levels), and has {part.against:.1f} "
            f"negatives {'and positives of other classes ' if part.label else ''}per positive "
            f"({usual:.1f})"
        )
        harm, is_harmed = _less_found(probe, part)
        if is_harmed:
            starved[part] = f"{said}. {harm}"
        elif not part.label:
            spared.append(f"{said}. {harm}")
    return starved, spared


def _less_found(probe: SetProbe, part: _Part) -> tuple[str, bool]:
    """Return how often the objects of a level are found, and whether that is less often than others."""
    mine = probe.object_level == part.level
    if part.label:
        mine &= probe.object_label == part.label
    found, count = probe.object_iou >= FOUND, int(mine.sum())
    if count < _FEW_ON_A_LEVEL or mine.all():
        objects = "object is" if count == 1 else "objects are"
        return (
            f"{count or 'No'} {objects} best met by a prior there, too few to say that this does harm.",
            False,
        )
    most = share_limits(int(found[mine].sum()), count, _CONFIDENCE)[1]
    others = float(found[~mine].mean())
    said = (
        f"Of the {count} training objects that its priors meet best {found[mine].mean():.0%} are found, "
        f"of the others {others:.0%}"
    )
    if most < others - LESS_FOUND:
        return f"{said}.", True
    return f"{said}: no harm is shown.", False


def _by_size(evidence: Evidence) -> list[str]:
    """Return a sentence on recall and alarms for each size of objects, in the network's input."""
    probe = evidence.train if evidence.val is None else evidence.val
    if probe is None:
        return []
    where = "training" if evidence.val is None else "validation"
    alarm_area = np.array([each.area for each in probe.suspects])
    said = []
    for name, low, high in SIZES:
        mine = (probe.object_area >= low) & (probe.object_area < high)
        alarms = int(((alarm_area >= low) & (alarm_area < high)).sum())
        if mine.any():
            said.append(
                f"Of the {counted(int(mine.sum()), f'{where} object')} {name} it finds "
                f"{(probe.object_iou[mine] >= FOUND).mean():.0%}; {_detections(alarms)} of this size "
                "and explained by no label."
            )
        elif alarms:
            said.append(
                f"No {where} object is {name.removeprefix('of ')}, and {_detections(alarms)}, all "
                "explained by no label."
            )
    return said


def _detections(count: int) -> str:
    return counted(count, "detection is", "detections are")
