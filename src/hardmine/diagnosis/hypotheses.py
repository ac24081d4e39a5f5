"""The eight hypotheses of why hard mining does not help: each a test of the evidence.

A test returns a :class:`Verdict`: supported, not supported or not enough data, with an effect size, the
reasons in whole sentences, the option to change and the command that tries it. :data:`HYPOTHESES` has
them in the order in which they are reported where several are supported: first what is read off exactly
(a floor, priors that fit nothing), then what is inferred from the finished network; capacity is last,
because each of the others makes a network look too small.

Limits were set on drawn worlds in which each cause was planted (docs/diagnosis.md).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hardmine.diagnosis.diagnosis_result import (
    NO_POSITIVE,
    NO_TELEMETRY,
    Answer,
    Hypothesis,
    Verdict,
    answer_of,
    unknown,
)
from hardmine.diagnosis.evidence import Evidence, distortions
from hardmine.diagnosis.level_hypothesis import test_levels
from hardmine.diagnosis.probe import FOUND, LEAST_LEARNED, TOUCHED, SetProbe, Suspect
from hardmine.evaluation.intervals import poisson_limits
from hardmine.plurals import counted
from hardmine.prior_design.coverage import Coverage

LEAST_GRADIENT = 0.05
"""Gradient of an image without objects over that of one with objects: below it, such images teach
nothing."""
LEAST_REACH = 0.5
"""Share of objects that a prior reaches by the matcher's threshold."""
MOST_DISTORTION = 1.6
BOX_SHARE = (0.125, 4.0)
"""Gradient of boxes over that of classes, at the weights that both share."""
MOST_NEGATIVES = 10.0
"""Selected negatives per positive."""
MOST_SPIKE = 5.0
"""Largest gradient of a step over the usual one, after the first quarter."""
MOST_HALF_MET = 0.4
MOST_UNEXPLAINED = 0.05
"""Places that look like objects without a label, per label. The lower limit of what was counted must
reach it, so that few labels do not decide by chance. It is .03 at most in runs whose labels are whole,
and .11 in one with a tenth of the labels hidden (docs/diagnosis.md)."""
LEAST_NEAR = 0.3
"""As LEAST_LEARNED, where a detection may overlap its label in part: .47 and more with boxes moved by
half their width, .19 and less after a twelfth of the steps."""
LEAST_RECALL = 0.6
MOST_GAP = 0.25
"""Recall on the training images less that on the validation images."""
_FEW_OBJECTS = 20


def judge(hypothesis: Hypothesis, evidence: Evidence) -> Verdict:
    """Test a hypothesis; what only the weights of an unfinished training support is not known yet."""
    found = hypothesis.test(evidence)
    if found.answer is Answer.SUPPORTED and found.reads_weights and not evidence.is_finished:
        return replace(found, answer=Answer.UNKNOWN, reasons=(UNFINISHED, *found.reasons))
    return found


DIVERGED = "The gradients are no numbers: the training has diverged."
UNFINISHED = (
    "The training has not come to its end, and more steps alone may change this. Let it go on with "
    "--resume, then ask again."
)
NO_IMAGES = "The training images were not looked at; give --data."
NOTHING_SHARED = (
    "The classes move no weight that they share with the boxes, so there is nothing to compare."
)


def test_floor(evidence: Evidence) -> Verdict:
    """Images without objects: how much gradient does one give, against an image with objects?"""
    floor = getattr(evidence.recipe.loss.selection, "floor", None)
    images, empty = evidence.last("images"), evidence.last("images_without_objects")
    share = evidence.last("gradient_share_without_objects")
    if images is None or empty is None or share is None:
        return unknown(NO_TELEMETRY)
    if not empty:
        said = "No image without objects was trained on, so the run cannot show it."
        if floor == 0:
            said += " The floor is 0: such images will not train when they are added."
        return Verdict(Answer.UNKNOWN, "no image without objects", (said,))
    part = empty / images
    ratio = (share / max(1e-9, 1.0 - share)) / (part / max(1e-9, 1.0 - part))
    reasons = [
        f"{part:.0%} of the images that were trained on hold no object; together they give "
        f"{share:.1%} of the "
        f"gradient, so one of them gives {ratio:.2f} times what an image with objects gives.",
    ]
    if floor is None:
        reasons.append(
            "Every background prior of such an image is trained on, so a floor would add nothing."
        )
    else:
        filled = evidence.last("floor_share") or 0.0
        reasons.append(f"The floor is {floor}; {filled:.0%} of all images got their quota from it.")
    series = {
        "share of the gradient": tuple(evidence.series("gradient_share_without_objects")),
        "share of the images": _share_without_objects(evidence),
    }
    return Verdict(
        answer_of(floor is not None and ratio < LEAST_GRADIENT),
        f"{ratio:.2f} times the gradient of an image with objects (limit: below {LEAST_GRADIENT:g})",
        tuple(reasons),
        "loss.selection.floor: how many negatives an image gives that has no object",
        () if floor is None else (f"loss.selection.floor={max(32, 2 * floor)}",),
        lines=series,
    )


def _share_without_objects(evidence: Evidence) -> tuple[tuple[float, float], ...]:
    """Return the share of the images without objects in each row; rows sum unlike numbers of steps."""
    images = dict(evidence.series("images"))
    counts = evidence.series("images_without_objects")
    return tuple((step, value / images[step]) for step, value in counts if images.get(step))


def test_priors(evidence: Evidence) -> Verdict:
    """Priors against the labels, the resize, and a loss that depends on how a batch is composed."""
    coverage = evidence.coverage
    if coverage is None or evidence.data is None or not len(coverage.boxes):
        return unknown(NO_IMAGES)
    total = coverage.total()
    bent = float(np.median(distortions(evidence.data, evidence.recipe.resize)))
    reasons = [
        f"A prior reaches {total.reach:.0%} of the objects by the matcher's threshold of "
        f"{coverage.threshold:g}; "
        f"the median object overlaps its best prior by {total.median:.2f}.",
        *_classes_out_of_reach(coverage),
        f"The resize changes the aspect ratio of the median image by a factor of {bent:.2f}.",
        _swing(evidence),
    ]
    unfit, bends = total.reach < LEAST_REACH, bent > MOST_DISTORTION
    edges = np.linspace(0.0, 1.0, 11)
    counts, _ = np.histogram(coverage.best.iou, edges)
    settings: tuple[str, ...] = ()
    if unfit or not bends:
        option = "model.priors: sizes and aspect ratios of the priors"
    else:
        settings, option = (
            ("resize_mode=letterbox",),
            "resize_mode: keep the aspect ratio of images",
        )
    return Verdict(
        answer_of(unfit or bends),
        f"{total.reach:.0%} of the objects are reached by a prior (limit: {LEAST_REACH:.0%}), "
        "distortion "
        f"{bent:.2f} (limit: {MOST_DISTORTION:g})",
        tuple(reason for reason in reasons if reason),
        option,
        settings,
        unfit or not bends,
        axis="IoU with the best prior",
        ticks=tuple(f"{edge:.1f}" for edge in edges[:-1]),
        bars={"objects by IoU with their best prior": tuple(float(count) for count in counts)},
    )


def _classes_out_of_reach(coverage: Coverage) -> list[str]:
    """Return a sentence for each class of which the priors reach less than half, where others differ."""
    classes = [row for row in coverage.rows() if row.size == "all" and row.category != "all"]
    return [
        f"Of the {row.boxes} objects of class {row.category!r} a prior reaches {row.reach:.0%}; "
        "each of the others is trained through one forced match."
        for row in classes
        if len(classes) > 1 and row.boxes >= _FEW_OBJECTS and row.reach < LEAST_REACH
    ]


def _swing(evidence: Evidence) -> str:
    """Return a sentence on how the loss depends on the number of positives in a batch."""
    steps = np.array(evidence.steps[len(evidence.steps) // 4 :], np.float64).reshape(-1, 2)
    if len(steps) < 40 or not steps[:, 1].std():
        return ""
    few = steps[:, 1] <= np.quantile(steps[:, 1], 0.2)
    many = steps[:, 1] >= np.quantile(steps[:, 1], 0.8)
    ratio = steps[few, 0].mean() / max(1e-9, steps[many, 0].mean())
    return (
        "The classification loss of the fifth of the batches with the fewest positives is "
        f"{ratio:.2f} times that "
        f"of the fifth with the most (normaliser: {evidence.recipe.loss.normaliser.kind})."
    )


def test_localisation(evidence: Evidence) -> Verdict:
    """The gradients of boxes and of classes at the weights that both share."""
    weight = evidence.recipe.loss.box_weight
    lines = {
        "classes": tuple(evidence.series("class_gradient")),
        "boxes": tuple(evidence.series("box_gradient")),
    }
    found = evidence.gradients
    if evidence.train is None:
        return unknown(NO_IMAGES)
    if found is None or not found.classification:
        return unknown(NOTHING_SHARED)
    ratio = found.boxes / found.classification
    if not np.isfinite(ratio):
        return unknown(DIVERGED)
    if weight and not ratio:
        return unknown("None of the images that were looked at gives a positive.")
    low, high = BOX_SHARE
    # Boxes of weight 0 are not trained at all; 1 is the usual weight.
    wanted = weight / ratio if ratio else 1.0
    better = min(20.0, max(0.05, wanted))
    reasons = (
        f"At the weights that classes and boxes share, the gradient of the boxes is {ratio:.2f} "
        "times that of the "
        f"classes, with loss.box_weight {weight:g}.",
    )
    return Verdict(
        answer_of(not low <= ratio <= high),
        f"the gradient of boxes is {ratio:.2f} times that of classes (limits: {low:g} to {high:g})",
        reasons,
        "loss.box_weight: the weight of the localisation loss",
        (f"loss.box_weight={better:.2g}",),
        lines=lines,
    )


def test_gradient(evidence: Evidence) -> Verdict:
    """How many negatives are selected per positive, spikes, and the directions of gradients."""
    if not evidence.telemetry:
        return unknown(NO_TELEMETRY)
    positives, negatives = sum(evidence.by_level("positives")), sum(evidence.by_level("negatives"))
    if not positives:
        return unknown(NO_POSITIVE)
    ratio = max(0.0, negatives - _from_the_floor(evidence)) / positives
    spike = _spike(evidence)
    reasons = [
        f"For each positive, {ratio:.1f} negatives were selected; those that fill an image up to the "
        "floor are not counted.",
        f"The largest gradient of a step is {spike:.1f} times the usual one, the first quarter "
        "left out.",
    ]
    again = [value for value in evidence.by_level("repeated") if value]
    if again:
        reasons.append(
            "On the level where this is highest, a selected negative had been selected in "
            f"{max(again):.0%} of the earlier visits of its image."
        )
    if evidence.gradients is not None:
        found = evidence.gradients
        reasons.append(
            "At the shared weights the gradient of the hard negatives is "
            f"{found.hard / max(1e-9, found.random):.1f} times that of random ones (cosine between the "
            f"two: {found.hard_and_random:.2f}; between hard negatives and positives: "
            f"{found.hard_and_positives:.2f})."
        )
    lines = {
        "from positives": _summed(evidence, "positive_gradient"),
        "from selected negatives": _summed(evidence, "negative_gradient"),
    }
    option, settings = _calmer_steps(evidence, ratio)
    return Verdict(
        answer_of(ratio >= MOST_NEGATIVES or spike >= MOST_SPIKE),
        f"{ratio:.1f} negatives per positive (limit: {MOST_NEGATIVES:g}), spikes of {spike:.1f} "
        f"(limit: {MOST_SPIKE:g})",
        tuple(reasons),
        option,
        settings,
        lines=lines,
    )


def _from_the_floor(evidence: Evidence) -> float:
    """Return how many of the selected negatives a row has because of the floor."""
    floor = getattr(evidence.recipe.loss.selection, "floor", 0)
    return (evidence.last("floor_share") or 0.0) * (evidence.last("images") or 0.0) * floor


def _calmer_steps(evidence: Evidence, negatives: float) -> tuple[str, tuple[str, ...]]:
    """Return the option and the settings against many negatives per positive, or else against spikes."""
    if negatives < MOST_NEGATIVES:
        norm = min(1.0, evidence.recipe.optim.clip_norm / 2)
        return (
            "optim.clip_norm: the largest norm of the gradient that a step follows",
            (f"optim.clip_norm={norm:g}",),
        )
    option = "loss.selection.neg_to_pos_ratio: how many negatives are selected per positive"
    rule = evidence.recipe.loss.selection
    ratio = getattr(rule, "neg_to_pos_ratio", None)
    if ratio is None or any(getattr(rule, name, 0) for name in ("count", "least")):
        return option, ("loss.selection.kind=ratio",)
    return option, (f"loss.selection.neg_to_pos_ratio={3 if ratio > 3 else 1}",)


def _summed(evidence: Evidence, name: str) -> tuple[tuple[float, float], ...]:
    """Return the norm over all levels of a gradient that is recorded for each."""
    levels = [evidence.series(f"level{level}.{name}") for level in range(evidence.num_levels)]
    return tuple(
        (points[0][0], float(np.sqrt(sum(value**2 for _, value in points))))
        for points in zip(*levels, strict=False)
    )


def _spike(evidence: Evidence) -> float:
    rows = evidence.telemetry[len(evidence.telemetry) // 4 :]
    usual = [v for row in rows if isinstance(v := row.get("class_gradient"), float)]
    highest = [v for row in rows if isinstance(v := row.get("class_gradient_max"), float)]
    return max(highest) / max(1e-9, float(np.median(usual))) if highest and usual else 1.0


def test_ambiguity(evidence: Evidence) -> Verdict:
    """Labels that detections overlap only in part, and negatives that overlap an object in part."""
    train, val = evidence.train, evidence.val
    if train is None:
        return unknown(NO_IMAGES)
    touched = int((train.object_iou > 0).sum())
    if touched < _FEW_OBJECTS:
        said = counted(touched, "label is", "labels are")
        return unknown(f"Only {said} touched by a detection of the class.")
    if (near := train.precision_at(TOUCHED)) < LEAST_NEAR:
        return unknown(_not_learned(near, LEAST_NEAR, "how boxes are drawn"))
    values = {"training": train.half_met, "validation": None if val is None else val.half_met}
    known = {name: value for name, value in values.items() if value is not None}
    where = max(known, key=lambda name: known[name])
    worst = known[where]
    reasons = [
        f"Of the labels of the {name} images that a detection touches, {value:.0%} overlap it only in "
        "part (IoU .2 to .5): the detection and the label do not agree where the object is."
        for name, value in known.items()
    ]
    names = ("iou_0", "iou_0+", "iou_0.1+", "iou_0.2+", "iou_0.3+", "iou_0.4+", "iou_0.5+")
    counts = [evidence.last(name) or 0.0 for name in names]
    norms = [evidence.last(f"{name}.gradient") or 0.0 for name in names]
    bars = {}
    if evidence.telemetry:
        reasons.append(
            f"{sum(counts[3:6]):.0%} of the selected negatives overlap an object by .2 to .5; they give "
            f"{sum(norms[3:6]):.0%} of the gradient of all negatives."
        )
        bars = {"negatives": tuple(counts), "their gradient": tuple(norms)}
    return Verdict(
        answer_of(worst >= MOST_HALF_MET),
        f"{worst:.0%} of the {where} labels overlap only in part (limit: {MOST_HALF_MET:.0%})",
        tuple(reasons),
        "the labels first (look at the pictures); then loss.assigner.ignore_above: priors that "
        "overlap an object "
        "in part are left out",
        ("loss.assigner.ignore_above=0.3",),
        reads_weights=True,
        axis="IoU with the nearest object",
        ticks=("0", "to .1", "to .2", "to .3", "to .4", "to .5", "above"),
        bars=bars,
    )


def _not_learned(precision: float, limit: float, what: str) -> str:
    return (
        f"On its own training images the network has an average precision of {precision:.2f} (wanted: "
        f"{limit:g}): it has not learned them yet, so its detections say nothing about {what}. Train "
        "longer (--epochs), then ask again."
    )


def missing_labels(probe: SetProbe) -> tuple[Suspect, ...]:
    """Return what looks like objects without a label, the surest first.

    A detection that no label explains counts when its score reaches half of what detections of
    labelled objects usually have.
    """
    usual = probe.usual_score
    if usual is None:
        return ()
    return tuple(each for each in probe.suspects if each.score >= max(0.5 * usual, 0.3))


def test_labels(evidence: Evidence) -> Verdict:
    """Confident detections on training images that no label explains."""
    train = evidence.train
    if train is None:
        return unknown(NO_IMAGES)
    usual = train.usual_score
    objects = len(train.object_iou)
    if usual is None or objects < _FEW_OBJECTS:
        return unknown("Too few labels are found to say what a confident detection is.")
    if (learned := train.precision_at(FOUND)) < LEAST_LEARNED:
        return unknown(_not_learned(learned, LEAST_LEARNED, "missing labels"))
    listed = missing_labels(train)
    share, least = len(listed) / objects, poisson_limits(len(listed))[0] / objects
    sure = sum(each.score >= usual for each in listed)
    edges = np.linspace(0.3, 1.0, 8)
    counts, _ = np.histogram([each.score for each in train.suspects], edges)
    reasons = (
        f"On {counted(train.images, 'training image')} with {objects} labels, "
        f"{counted(len(listed), 'place looks', 'places look')} like an object without a label: the "
        f"score there reaches half of what labelled objects usually have ({usual:.2f}). "
        f"{counted(sure, 'of them reaches', 'of them reach')} that score itself.",
        "missing_labels.csv lists the places, the surest first; look at them whatever the answer is.",
    )
    return Verdict(
        answer_of(least >= MOST_UNEXPLAINED),
        f"{100 * share:.1f} places without a label for 100 labels, {100 * least:.1f} or more with 95 % "
        f"confidence (limit: {100 * MOST_UNEXPLAINED:g})",
        reasons,
        "the labels: add what is missing; until then loss.suspect_score, which leaves such priors out",
        (f"loss.suspect_score={max(0.5, min(0.95, usual)):.2f}",),
        reads_weights=True,
        axis="score of the detection",
        ticks=tuple(f"{edge:.1f}" for edge in edges[:-1]),
        bars={"unexplained detections by score": tuple(float(count) for count in counts)},
    )


def test_capacity(evidence: Evidence) -> Verdict:
    """What the network knows of its own training images, and of those that it never saw."""
    train, val = evidence.train, evidence.val
    if train is None or train.recall is None:
        return unknown(NO_IMAGES)
    reasons = [f"It finds {train.recall:.0%} of the labels of its own training images."]
    gap = 0.0
    if val is not None and val.recall is not None:
        gap = train.recall - val.recall
        reasons.append(f"It finds {val.recall:.0%} of the labels of the validation images.")
        reasons += _loss_gap(train, val)
    else:
        reasons.append("Without a validation set, overfitting cannot be measured.")
    lost = _forgotten(evidence)
    reasons += lost
    settings: tuple[str, ...]
    small, by_heart = train.recall < LEAST_RECALL, gap > MOST_GAP
    if by_heart and not small:
        option, settings = (
            "loss.selection: fewer of the hardest, more random ones",
            (
                "loss.selection.kind=mixed",
                "loss.selection.hard_end=0.5",
            ),
        )
    else:
        option, settings = (
            "model: a wider network or fewer frozen layers; epochs",
            (f"epochs={2 * evidence.recipe.epochs:g}",),
        )
    bars = {"training": (train.recall, train.own_probability or 0.0)}
    if val is not None and val.recall is not None:
        bars["validation"] = (val.recall, val.own_probability or 0.0)
    return Verdict(
        answer_of(small or by_heart or bool(lost)),
        f"recall {train.recall:.2f} on the training images (limit: {LEAST_RECALL:g}), "
        f"{round(gap, 2) + 0.0:+.2f} against validation "
        f"(limit: {MOST_GAP:+g})",
        tuple(reasons),
        option,
        settings,
        reads_weights=True,
        ticks=("recall at IoU .5", "own probability at positives"),
        bars=bars,
    )


def _loss_gap(train: SetProbe, val: SetProbe) -> list[str]:
    pairs = (train.hard_loss, val.hard_loss), (train.random_loss, val.random_loss)
    if not all(value and value > 0 for pair in pairs for value in pair):  # None, 0 or no number
        return []
    hard, random = ((b or 0.0) / (a or 1.0) for a, b in pairs)
    return [
        "Against the training images, the loss of the hardest negatives of a validation image "
        f"is {hard:.2f} times, "
        f"that of random negatives {random:.2f} times as high."
    ]


def _forgotten(evidence: Evidence) -> list[str]:
    """Return a sentence where positives were known better earlier while the negatives' loss fell."""
    negatives = dict(evidence.series("level0.negative_loss"))
    positives = evidence.series("level0.positive_loss")
    both = [(value, negatives[step]) for step, value in positives if step in negatives]
    if len(both) < 12:
        return []
    positive, negative = np.array(both).T
    third = len(positive) // 3
    middle, end = positive[third : 2 * third].mean(), positive[-third // 2 :].mean()
    fell = negative[-third // 2 :].mean() < negative[third : 2 * third].mean()
    if end < 1.25 * middle or not fell:
        return []
    return [
        f"The loss of the positives of the finest level rose from {middle:.2f} to {end:.2f} in "
        "the last two thirds, "
        "while that of the selected negatives fell: easy objects are forgotten for hard negatives."
    ]


HYPOTHESES: tuple[Hypothesis, ...] = (
    Hypothesis(
        "floor",
        "Images without objects do not train",
        "The quota of negatives is a multiple of an image's positives, so an image without "
        "objects gives none "
        "unless there is a floor.",
        test_floor,
    ),
    Hypothesis(
        "priors",
        "The priors do not fit the objects",
        "Where no prior overlaps an object enough, the object is trained through one forced "
        "match, and the places "
        "around it are trained as background.",
        test_priors,
    ),
    Hypothesis(
        "levels",
        "The levels do not share the work",
        "Negatives are chosen over all levels together: the level with the most priors takes most "
        "of them, and the other levels get too few.",
        test_levels,
    ),
    Hypothesis(
        "localisation",
        "Boxes and classes do not train equally strongly",
        "The weights that both share follow whichever gradient is larger.",
        test_localisation,
    ),
    Hypothesis(
        "gradient",
        "There are too many hard negatives for the positives",
        "Many negatives per positive, or single steps with a very large gradient, undo what was learnt.",
        test_gradient,
    ),
    Hypothesis(
        "ambiguity",
        "Labels and objects overlap only in part",
        "A box that lies beside its object makes a negative of the object and a positive of its "
        "surroundings.",
        test_ambiguity,
    ),
    Hypothesis(
        "labels",
        "Labels are missing",
        "An object without a label is the hardest negative there is, and is selected again and again.",
        test_labels,
    ),
    Hypothesis(
        "capacity",
        "The network is too small, forgets, or overfits",
        "A network that is too small for both learns the hard examples and loses the easy ones.",
        test_capacity,
    ),
)
"""In the order in which they are reported; see the module's text."""
