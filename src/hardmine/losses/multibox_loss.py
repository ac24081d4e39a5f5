"""The SSD multibox loss: match priors with boxes, select those that count, sum and normalise.

Each part is a config and a function of its own: ``matcher``, ``negative_mining``,
``loss_functions``, and here what the sums are divided by. They are put together in two ways that
give the same. On the CPU what enters the loss is gathered first: gradients are computed for the few
selected priors alone, and the hardness of all the others without a graph, in pieces that fit the
cache. On an accelerator and inside a compiled graph everything has the shape of all priors and is
masked, so that no value is read by the host.

What the sums are divided by decides how much a negative image teaches. Divided by the number of
positives, as in the paper, a batch without objects has no scale: with N = max(1, 0) its loss is
hundreds of times too large, and with N = 0 it is nothing. Divided by the number selected, a mixed
batch shrinks as negatives join it. Hence *equivalent positives*, selected ÷ (1 + ratio): in a batch
in which every image holds objects and the floor does not bind these *are* the positives; without
objects it is the number that would have asked for as many negatives. The ratio is what the
selection rule says of itself; where a rule has no quota (``all``), an image without objects counts
as one positive. Every count is taken over all processes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, assert_never

import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor

from hardmine.boxes import cxcywh_to_xyxy
from hardmine.errors import ConfigError
from hardmine.losses.loss_functions import (
    PIECE,
    ClassificationConfig,
    FocalConfig,
    LocalisationConfig,
    SmoothL1Config,
    SoftmaxConfig,
    background_loss,
    background_op,
    box_loss,
    box_sums_op,
    class_loss,
    exact,
    sums_op,
)
from hardmine.losses.matcher import AssignerConfig, assign_priors
from hardmine.losses.negative_mining import (
    RankedPriors,
    RatioConfig,
    SelectionConfig,
    SelectionRule,
    select_priors,
)
from hardmine.models.postprocess import foreground_scores
from hardmine.models.priors import decode_boxes
from hardmine.tensors import Assignment, Batch, Priors, RawOutput, ScoreForm, Selection


@dataclass(frozen=True, slots=True, kw_only=True)
class BySelected:
    """Classification ÷ equivalent positives, localisation ÷ positives of the batch; the default."""

    kind: Literal["selected"] = "selected"


@dataclass(frozen=True, slots=True, kw_only=True)
class ByBatch:
    """Both ÷ positives of the batch (the paper, Caffe, torchvision).

    A batch without objects takes the equivalent positives instead of 1.
    """

    kind: Literal["batch"] = "batch"


@dataclass(frozen=True, slots=True, kw_only=True)
class ByImage:
    """Each image's sums ÷ its own positives (equivalent ones without objects), then the mean: of
    classification over all images, of localisation over those with objects.
    """

    kind: Literal["image"] = "image"


@dataclass(frozen=True, slots=True, kw_only=True)
class ByMovingAverage:
    """Both ÷ (images × a moving average of positives per image); a batch without objects leaves it.

    The average starts at the first batch's value. It is part of a run's saved state.
    """

    kind: Literal["moving_average"] = "moving_average"
    momentum: float = 0.9

    def __post_init__(self) -> None:
        if not 0.0 <= self.momentum < 1.0:
            raise ConfigError(f"loss.normaliser.momentum: got {self.momentum}, wanted 0 <= m < 1")


NormaliserConfig = Annotated[
    BySelected | ByBatch | ByImage | ByMovingAverage, Field(discriminator="kind")
]


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """Sums of losses and counts of selected priors, one value per image (f32[B], with gradients in
    the first two; i64[B]).
    """

    classification: Tensor
    localisation: Tensor
    positives: Tensor
    negatives: Tensor


class Normaliser:
    """Divides the sums; holds the moving average when there is one."""

    def __init__(self, config: NormaliserConfig, selection: SelectionRule) -> None:
        self.config = config
        self._ratio = selection.negatives_per_positive
        self.average: Tensor | None = None
        """Positives per image, f32 scalar; ``None`` before the first step."""

    def __call__(self, sums: Sums) -> tuple[Tensor, Tensor]:
        """Return classification and localisation loss (scalars) of the joint batch."""
        (positives, negatives, images, with_objects), world = _joint_counts(sums)
        classification, localisation = sums.classification, sums.localisation
        config, equivalent = self.config, self._equivalent(positives, negatives, images)
        match config:
            case BySelected():
                divisors = equivalent, positives
            case ByBatch():
                divisors = (torch.where(positives > 0, positives, equivalent),) * 2
            case ByImage():
                own = sums.positives
                instead = self._equivalent(own, sums.negatives, torch.ones_like(own))
                classification = classification / torch.where(own > 0, own, instead)
                localisation = localisation / own.clamp(min=1)
                divisors = images, with_objects
            case ByMovingAverage():
                divisors = (self._expected(positives, images, equivalent, config.momentum),) * 2
            case _:
                assert_never(config)
        # Gradients are averaged over processes: times their number, the joint batch's gradient.
        return (
            classification.sum() / divisors[0].clamp(min=1) * world,
            localisation.sum() / divisors[1].clamp(min=1) * world,
        )

    def _equivalent(self, positives: Tensor, negatives: Tensor, images: Tensor) -> Tensor:
        if self._ratio is None:
            return torch.where(positives > 0, positives, images)
        return ((positives + negatives) / (1.0 + self._ratio)).clamp(min=1)

    def _expected(
        self, positives: Tensor, images: Tensor, equivalent: Tensor, momentum: float
    ) -> Tensor:
        """Move the average on and return the positives that it expects of so many images."""
        now = positives / images
        old = torch.zeros_like(now) if self.average is None else self.average
        moved = torch.where(old > 0, momentum * old + (1.0 - momentum) * now, now)
        self.average = torch.where(positives > 0, moved, old)
        return torch.where(self.average > 0, self.average * images, equivalent)


def _joint_counts(sums: Sums) -> tuple[tuple[Tensor, ...], int]:
    """Return positives, negatives, images and images with objects over all processes, as floats,
    and the number of processes.
    """
    counts = torch.stack(
        [
            sums.positives.sum(),
            sums.negatives.sum(),
            torch.ones_like(sums.positives).sum(),
            (sums.positives > 0).sum(),
        ]
    )
    if not (dist.is_available() and dist.is_initialized()):
        return counts.float().unbind(), 1
    dist.all_reduce(counts)
    return counts.float().unbind(), dist.get_world_size()


@dataclass(frozen=True, slots=True)
class LossConfig:
    """The parts of the loss and their weights.

    ``suspect_score``: a background prior with a foreground probability of at least this is ignored,
    because a label may be missing there. It is off by default, since the best hard negatives score as
    high.
    """

    assigner: AssignerConfig = field(default_factory=AssignerConfig)
    selection: SelectionConfig = field(default_factory=RatioConfig)
    classification: ClassificationConfig = field(default_factory=SoftmaxConfig)
    localisation: LocalisationConfig = field(default_factory=SmoothL1Config)
    normaliser: NormaliserConfig = field(default_factory=BySelected)
    box_weight: float = 1.0
    suspect_score: float | None = None

    def __post_init__(self) -> None:
        if self.box_weight < 0:
            raise ConfigError(f"loss.box_weight: got {self.box_weight}, wanted >= 0")
        if self.suspect_score is not None and not 0.0 < self.suspect_score <= 1.0:
            raise ConfigError(
                f"loss.suspect_score: got {self.suspect_score}, wanted 0 < score <= 1, or null (off)"
            )

    @property
    def score_form(self) -> ScoreForm:
        """What the model has to give: it follows from the classification loss."""
        return self.classification.score_form


@dataclass(frozen=True, slots=True, eq=False)
class Loss:
    """A step's loss (scalars; ``total`` carries the gradient) and the counts behind it.

    ``assignment`` and ``selection`` are what it was summed over, where the network has priors of ours.
    """

    total: Tensor
    classification: Tensor
    localisation: Tensor
    num_positives: Tensor
    num_negatives: Tensor
    assignment: Assignment | None = None
    selection: Selection | None = None


class MultiBoxLoss:
    """Assign, select, sum and normalise; each is a function of its own that can be called alone."""

    def __init__(self, config: LossConfig, priors: Priors, seed: int = 0) -> None:
        self.config = config
        self.priors = priors
        self.normaliser = Normaliser(config.normaliser, config.selection)
        self._seed = seed

    def __call__(self, output: RawOutput, batch: Batch, step: int = 0, steps: int = 1) -> Loss:
        """Return the loss of a batch.

        Args:
            output: in the score form of the configured loss.
            batch: ``boxes`` in the priors' pixels.
            step, steps: how far the training is; only rules with a ramp or at random read them.

        Raises:
            ConfigError: the model gives another score form.
        """
        config = self.config
        if output.score_form is not config.score_form:
            raise ConfigError(
                f"loss: got a model with {output.score_form.value} scores, wanted "
                f"{config.score_form.value} for classification {config.classification.kind!r}"
            )
        assignment = self._assign(output, batch)
        logits = output.class_logits
        costs = None
        if not gathers_rows(logits, config.classification):
            costs = class_loss(logits, assignment.labels, config.classification)
        ranked = rank_priors(output, batch, assignment, self.priors, config, costs)
        if config.selection.reads_step:
            # Not for the others: a compiled graph that read the step would be made twice.
            ranked = replace(ranked, step=step, steps=steps, seed=self._seed)
        selection = select_priors(ranked, config.selection)
        if costs is None:
            sums = sum_rows(output, batch, assignment, selection, self.priors, config)
        else:
            sums = sum_masked(costs, output, batch, assignment, selection, self.priors, config)
        classification, localisation = self.normaliser(sums)
        return Loss(
            classification + config.box_weight * localisation,
            classification.detach(),
            localisation.detach(),
            sums.positives.sum(),
            sums.negatives.sum(),
            assignment,
            selection,
        )

    def _assign(self, output: RawOutput, batch: Batch) -> Assignment:
        assignment = assign_priors(batch, self.priors, self.config.assigner)
        if self.config.suspect_score is None:
            return assignment
        with torch.no_grad():
            suspected = foreground_scores(output).amax(-1) >= self.config.suspect_score
            hidden = suspected & (assignment.labels == 0)
            return replace(assignment, labels=assignment.labels.masked_fill(hidden, -1))


def gathers_rows(logits: Tensor, config: ClassificationConfig) -> bool:
    """Return whether the selected rows are gathered (CPU) or all rows are masked.

    In a compiled graph only softmax has operators that gather.
    """
    if logits.device.type != "cpu":
        return False
    return not torch.compiler.is_compiling() or isinstance(config, SoftmaxConfig)


@torch.no_grad()
def rank_priors(
    output: RawOutput,
    batch: Batch,
    assignment: Assignment,
    priors: Priors,
    config: LossConfig,
    costs: Tensor | None,
) -> RankedPriors:
    """Compute what the configured rule selects by.

    Args:
        costs (Tensor[B, A]): the classification losses of all priors, where they are known.
    """
    rule, logits, labels = config.selection, output.class_logits, assignment.labels
    if costs is None or isinstance(config.classification, FocalConfig):
        background = _background(logits, config.classification)
    else:
        background = costs.detach()  # equal on every background prior, and no other is asked for
    rank, boxes = background, None
    if rule.rank in ("class", "both"):
        rank = _class_losses(logits, labels, config.classification, costs)
    if rule.rank in ("localisation", "both"):
        matched = labels > 0
        near = matched if rule.ranks_matched_boxes_only else matched | (assignment.iou > 0)
        away = _box_losses(output, batch, assignment, near, priors, config)
        rank = away if rule.rank == "localisation" else rank + config.box_weight * away
    if rule.nms_iou is not None:
        boxes = decode_boxes(output.box_deltas.detach().float(), priors.cxcywh)
    return RankedPriors(
        assignment,
        background,
        rank,
        priors.level,
        len(priors.level_shapes),
        batch.image_ids,
        boxes,
    )


def sum_rows(
    output: RawOutput,
    batch: Batch,
    assignment: Assignment,
    selection: Selection,
    priors: Priors,
    config: LossConfig,
) -> Sums:
    """Return each image's sums from the selected priors alone (reads values: for the CPU)."""
    if torch.compiler.is_compiling():
        chosen = selection.positives | selection.negatives
        classes = sums_op(exact(output.class_logits), assignment.labels, chosen)
        if not isinstance(config.localisation, SmoothL1Config):
            return _with_boxes(classes, output, batch, assignment, selection, priors, config)
        away, _ = box_sums_op(
            exact(output.box_deltas),
            batch.boxes,
            assignment.box_index,
            selection.positives,
            priors.cxcywh,
            config.localisation.delta,
        )
        positives, negatives = selection.positives.sum(1), selection.negatives.sum(1)
        return Sums(classes, away, positives, negatives)
    num_images, num_priors = assignment.labels.shape
    rows = (selection.positives | selection.negatives).flatten().nonzero()[:, 0]
    logits = output.class_logits.flatten(0, 1).index_select(0, rows)
    losses = class_loss(logits, assignment.labels.flatten()[rows], config.classification)
    zeros = losses.new_zeros(num_images)
    classification = zeros.index_add(0, rows // num_priors, losses)
    rows = selection.positives.flatten().nonzero()[:, 0]
    image, prior = rows // num_priors, rows % num_priors
    deltas = output.box_deltas.flatten(0, 1).index_select(0, rows)
    boxes = batch.boxes[image, assignment.box_index.flatten()[rows]]
    losses = box_loss(deltas, boxes, priors.cxcywh[prior], config.localisation)
    localisation = zeros.to(losses.dtype).index_add(0, image, losses)
    positives = selection.positives.sum(1)
    return Sums(classification, localisation, positives, selection.negatives.sum(1))


def sum_masked(
    costs: Tensor,
    output: RawOutput,
    batch: Batch,
    assignment: Assignment,
    selection: Selection,
    priors: Priors,
    config: LossConfig,
) -> Sums:
    """Return each image's sums by masking the losses of all priors (fixed shapes)."""
    chosen = selection.positives | selection.negatives
    classes = costs.masked_fill(~chosen, 0.0).sum(1)
    return _with_boxes(classes, output, batch, assignment, selection, priors, config)


def _with_boxes(
    classification: Tensor,
    output: RawOutput,
    batch: Batch,
    assignment: Assignment,
    selection: Selection,
    priors: Priors,
    config: LossConfig,
) -> Sums:
    positives, negatives = selection.positives, selection.negatives
    losses = _box_losses(output, batch, assignment, positives, priors, config)
    return Sums(classification, losses.sum(1), positives.sum(1), negatives.sum(1))


def _box_losses(
    output: RawOutput,
    batch: Batch,
    assignment: Assignment,
    where: Tensor,
    priors: Priors,
    config: LossConfig,
) -> Tensor:
    """Return f32[B, A]: the localisation loss against each prior's box, 0 outside ``where``.

    Outside, the prior itself stands in for the box: a padded slot would code to ln 0.
    """
    boxes = batch.boxes.gather(1, assignment.box_index[..., None].expand(-1, -1, 4))
    safe = torch.where(where[..., None], boxes, cxcywh_to_xyxy(priors.cxcywh))
    losses = box_loss(output.box_deltas, safe, priors.cxcywh, config.localisation)
    return losses.masked_fill(~where, 0.0)


def _background(logits: Tensor, config: ClassificationConfig) -> Tensor:
    on_cpu = logits.device.type == "cpu"
    if on_cpu and torch.compiler.is_compiling() and isinstance(config, SoftmaxConfig):
        background: Tensor = background_op(exact(logits))
        return background
    return _in_pieces(lambda x, _: background_loss(x, config), logits)


def _class_losses(
    logits: Tensor, labels: Tensor, config: ClassificationConfig, costs: Tensor | None
) -> Tensor:
    if costs is not None:
        return costs.detach()
    return _in_pieces(lambda x, y: class_loss(x, y, config), logits, labels)


def _in_pieces(
    function: Callable[[Tensor, Tensor], Tensor], logits: Tensor, labels: Tensor | None = None
) -> Tensor:
    """Return ``function`` of each prior's logits and label, f32[B, A]; on the CPU piece by piece."""
    shape = logits.shape[:-1]
    rows = logits.detach().reshape(-1, logits.shape[-1])
    codes = rows[:, 0] if labels is None else labels.reshape(-1)
    if logits.device.type != "cpu" or torch.compiler.is_compiling():
        return function(rows, codes).view(shape)
    size = max(1, PIECE // logits.shape[-1])
    pieces = [slice(start, start + size) for start in range(0, len(rows), size)]
    return torch.cat([function(rows[piece], codes[piece]) for piece in pieces]).view(shape)
