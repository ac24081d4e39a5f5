"""What a measurement says to do next, in words with the numbers that say so.

A line is one :class:`Advice`; :data:`RULES` holds one function per line, in the order in which they are
shown. A rule looks at the figures of one measurement (``Measurement.to_dict()``) and says nothing where
they say nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hardmine.evaluation.measurement import LEARNED
from hardmine.plurals import counted, some_of
from hardmine.reports.round_columns import RoundRow
from hardmine.reports.wording import number, rate, score, share

WEAK_SCORE = 0.2
"""Below this a threshold is weak: objects hardly differ from background there."""
HARDLY_FOUND = 0.1
"""A class of whose objects a smaller share is found is as good as never detected."""
WELL_RANKED = 0.5
"""AP50 of a class from which on its own detections find it, if at lower scores than other classes."""
_CLASSES_NAMED = 10
"""Classes that a line names; of more it says how many."""
_MANY_ALARMS = 0.05
_FEW_ALARMS = 10
_FINDS_MOST = 0.95
"""Recall with every detection from which objects are missed by the threshold, not by the detector."""

Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Advice:
    """What is the matter, with its figures, and what to do."""

    finding: str
    action: str
    warns: bool = False
    """Whether the figures of the page must be read with care because of it."""


def is_weak(score_threshold: float | None) -> bool:
    """Whether a threshold is so low that small changes of the scores move many detections across."""
    return score_threshold is not None and score_threshold < WEAK_SCORE


def hardly_found(figures: Figures) -> list[Mapping[str, Any]]:
    """Return the rows of the classes that have objects and almost no detections, as JSON holds them.

    Classes that are found well at lower scores are not among them (:func:`low_scored`).
    """
    return [row for row in _below_threshold(figures) if not _is_well_ranked(figures, row)]


def low_scored(figures: Figures) -> list[Mapping[str, Any]]:
    """Return the rows of the classes that are hardly found at the threshold, and well below it."""
    return [row for row in _below_threshold(figures) if _is_well_ranked(figures, row)]


def _below_threshold(figures: Figures) -> list[Mapping[str, Any]]:
    rows = (figures.get("errors") or {}).get("classes") or []
    return [row for row in rows if row["objects"] and (row["recall"] or 0.0) < HARDLY_FOUND]


def _is_well_ranked(figures: Figures, row: Mapping[str, Any]) -> bool:
    ap50 = {each["name"]: each["ap50"] for each in figures.get("per_class") or []}
    return (ap50.get(row["name"]) or 0.0) >= WELL_RANKED


def next_steps(row: RoundRow | None) -> list[Advice]:
    """Return what to do after the last round, most pressing first."""
    return [] if row is None else _advice(row.figures)


def warning_lines(figures: Figures) -> tuple[str, ...]:
    """Return what a terminal says beside the figures: what makes them doubtful, and what to do."""
    return tuple(f"{item.finding} {item.action}" for item in _advice(figures) if item.warns)


def _advice(figures: Figures) -> list[Advice]:
    found = [rule(figures) for rule in RULES]
    return [advice for advice in found if advice is not None]


def _training_was_too_short(figures: Figures) -> Advice | None:
    fit = figures.get("training") or {}
    ap50 = fit.get("AP50")
    if ap50 is None or ap50 >= LEARNED:
        return None
    return Advice(
        f"On {fit['images']} of the images that it was trained on, AP50 is {number(ap50)}: training "
        "ended before the detector had learned them.",
        "Train twice as long (--epochs; rounds of a loop: --set branch.epochs=…), or more of the "
        "backbone (--recipe with the recipe.yaml of this run, and --set model.backbone.frozen_to=…). "
        f"If AP50 there stays below {LEARNED:g}, look at the labels ('hardmine check'), or "
        "take a larger model.",
        warns=True,
    )


def _train_longer_or_label(figures: Figures) -> str:
    """Return what raises the scores of objects, as far as it is known whether training was too short."""
    ap50 = (figures.get("training") or {}).get("AP50")
    if ap50 is None:
        return "Train longer (--epochs) or give more labelled images"
    if ap50 < LEARNED:
        return "Train longer (--epochs)"
    return (
        "Give more labelled images (the detector has learned those that it has, so that longer training "
        "will hardly help)"
    )


def _recall_is_not_reached(figures: Figures) -> Advice | None:
    most = figures.get("max_recall")
    if figures.get("score_threshold") is not None or most is None:
        return None
    return Advice(
        f"At most {share(most)} of the objects are found at any score, so that alarms cannot be "
        "counted at recall 0.8.",
        f"{_train_longer_or_label(figures)}. For a model of Hardmine, 'hardmine priors coverage' shows "
        "which boxes no prior reaches.",
        warns=True,
    )


def _threshold_is_weak(figures: Figures) -> Advice | None:
    threshold = figures.get("score_threshold")
    if not is_weak(threshold):
        return None
    return Advice(
        f"80 % of the objects are found only from score {score(threshold)} on, which is weak "
        f"(below {WEAK_SCORE:g}): at such scores objects hardly differ from "
        "background, and another training may give quite other alarms.",
        f"{_train_longer_or_label(figures)}; for a model of Hardmine, let the recipe choose itself "
        "(without --model and --recipe). Until then read the alarms at recall 0.5, which lie at a "
        "higher score.",
        warns=True,
    )


def _class_is_hardly_found(figures: Figures) -> Advice | None:
    rows = hardly_found(figures)
    if not rows:
        return None
    names = _named(rows)
    several, it, its = "this class is", "it", "its"
    if len(rows) > 1:
        several, it, its = "these classes are", "them", "their"
    threshold = score(figures["errors"]["score_threshold"])
    return Advice(
        f"From score {threshold} on {several} almost never detected: {names}.",
        f"Give more images with {it}. For a model of Hardmine, 'hardmine priors coverage' shows whether "
        f"priors reach {its} boxes; if they do and the recipe has no level_quota yet, try --set "
        "loss.selection.kind=level_quota, which trains small objects more evenly.",
        warns=True,
    )


def _class_has_low_scores(figures: Figures) -> Advice | None:
    rows = low_scored(figures)
    if not rows:
        return None
    threshold = score(figures["errors"]["score_threshold"])
    these = "this class is" if len(rows) == 1 else "these classes are"
    return Advice(
        f"From score {threshold} on {these} almost never detected: {_named(rows)}. At lower scores the "
        "detector finds most of their objects (AP50 0.5 or more), so one threshold does not suit all "
        "classes.",
        "Give each class its own: hardmine threshold RUN DATA --min-recall 0.8 --per-class --write. "
        "The alarms at recall 0.8 of all classes together hold hardly any alarm of such a class; read "
        "those with each class at its own recall 0.8.",
        warns=True,
    )


def _named(rows: Sequence[Mapping[str, Any]]) -> str:
    names = [f"{row['name']} ({row['found']} of {row['objects']})" for row in rows]
    rest = ", which the page marks in its table" if len(rows) > _CLASSES_NAMED else ""
    return some_of(names, _CLASSES_NAMED) + rest


_BY_KIND = {
    "background": (
        "on background of images that do hold objects",
        "Mine images from the same cameras: another round, or 'hardmine mine' on a pool of them.",
    ),
    "localisation": (
        "badly placed boxes (IoU 0.1 to 0.5 with the object)",
        "Look whether the labels are drawn tightly ('hardmine check'), and train longer.",
    ),
    "classification": (
        "objects with the class of another",
        "Give more labelled images of the classes that are confused; the table of classes names them. "
        "If their objects are small on the model's canvas, a larger one shows more of them.",
    ),
    "both": (
        "boxes that touch an object badly and have another class",
        "Mine further; these often are parts of objects, or things beside them.",
    ),
    "duplicate": (
        "second detections of one object",
        "Lower the IoU at which detections suppress each other, unless objects overlap each other: then "
        "it would remove some of them. For a model of Hardmine, 'hardmine val "
        "RUN+decode.nms_iou=0.4 DATA' measures that without a new training.",
    ),
    "missed": (
        "objects without any detection near them",
        "See the row of sizes: if small ones are missed, a larger input helps (or finer priors of a "
        "model of Hardmine: 'hardmine priors coverage'); otherwise more labelled images of their kind.",
    ),
}


def _most_frequent_mistake(figures: Figures) -> Advice | None:
    counts = dict(((figures.get("errors") or {}).get("total") or {}).get("errors", {}))
    if (figures.get("max_recall") or 0.0) >= _FINDS_MOST:
        counts.pop("missed", None)  # a lower score finds them: at recall .8 a fifth is not found
    total = sum(counts.values())
    if total < _FEW_ALARMS:
        return None
    kind = max(counts, key=lambda name: counts[name])
    what, action = _BY_KIND[kind]
    return Advice(
        f"The most frequent mistake on the validation images: {what}, {counts[kind]} of {total}.",
        action,
    )


def _alarms_remain(figures: Figures) -> Advice | None:
    part = _main_set(figures)
    alarms = part.get("alarms_per_image_at_recall_0.8")
    if alarms is None or alarms < _MANY_ALARMS:
        return None
    return Advice(
        f"{rate(alarms)} false alarms per image remain at recall 0.8, and "
        f"{share(part.get('share_of_images_that_fire') or 0.0)} of the images fire.",
        "Mining is worth it as long as the pool still fires: another round of a loop ('hardmine loop … "
        "--rounds N --resume'), or 'hardmine loop' or 'hardmine mine' where there is none yet. The "
        "worst remaining alarms on this page show what the pool should contain.",
    )


def _alarms_are_few(figures: Figures) -> Advice | None:
    part = _main_set(figures)
    alarms, images = part.get("alarms"), part.get("images")
    if alarms is None or not images or alarms >= _FEW_ALARMS:
        return None
    return Advice(
        f"Only {counted(alarms, 'false alarm is', 'false alarms are')} left on "
        f"{counted(images, 'image')}, too few to see a further fall.",
        "Measure on more images without objects, and let 'hardmine threshold --max-alarms' say what can "
        "be promised of new ones.",
    )


RULES: Sequence[Callable[[Figures], Advice | None]] = (
    _training_was_too_short,
    _recall_is_not_reached,
    _threshold_is_weak,
    _class_is_hardly_found,
    _class_has_low_scores,
    _alarms_remain,
    _alarms_are_few,
    _most_frequent_mistake,
)


def _main_set(figures: Figures) -> Mapping[str, Any]:
    sets: Mapping[str, Any] = figures.get("negatives") or {}
    found: Mapping[str, Any] = sets.get("held_out") or next(iter(sets.values()), {})
    return found
