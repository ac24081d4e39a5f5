"""The SSD loss: assign, select, and weigh what was selected."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from hardmine.errors import ConfigError
from hardmine.losses.assign import AssignerConfig, assign_priors
from hardmine.losses.loss_functions import (
    ClassificationConfig,
    LocalisationConfig,
    SmoothL1Config,
    SoftmaxConfig,
    class_loss,
)
from hardmine.losses.multibox_loss import gathers_rows, look_at, sum_masked, sum_rows
from hardmine.losses.negative_mining import RatioConfig, SelectionConfig
from hardmine.losses.normalizers import BySelected, Normaliser, NormaliserConfig
from hardmine.losses.rules import select_priors
from hardmine.models.decode import foreground_scores
from hardmine.types import Assignment, Batch, Priors, RawOutput, ScoreForm


@dataclass(frozen=True, slots=True)
class LossConfig:
    """The parts of the loss and their weights.

    ``quarantine``: a background prior with a foreground probability of at least this is left out, as
    a suspected missing label; off by default, since the best hard negatives score as high.
    """

    assigner: AssignerConfig = field(default_factory=AssignerConfig)
    selection: SelectionConfig = field(default_factory=RatioConfig)
    classification: ClassificationConfig = field(default_factory=SoftmaxConfig)
    localisation: LocalisationConfig = field(default_factory=SmoothL1Config)
    normaliser: NormaliserConfig = field(default_factory=BySelected)
    box_weight: float = 1.0
    quarantine: float | None = None

    def __post_init__(self) -> None:
        if self.box_weight < 0:
            raise ConfigError(f"loss.box_weight: got {self.box_weight}, wanted >= 0")
        if self.quarantine is not None and not 0.0 < self.quarantine <= 1.0:
            raise ConfigError(
                f"loss.quarantine: got {self.quarantine}, wanted 0 < score <= 1, or null (off)"
            )

    @property
    def score_form(self) -> ScoreForm:
        """What the model has to give: it follows from the classification loss."""
        return self.classification.score_form


@dataclass(frozen=True, slots=True, eq=False)
class Loss:
    """A step's loss (scalars; ``total`` carries the gradient) and the counts behind it."""

    total: Tensor
    classification: Tensor
    localisation: Tensor
    num_positives: Tensor
    num_negatives: Tensor


class MultiBoxLoss:
    """Assign, select, and weigh; every part is a function of its own that can be called alone."""

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
        view = look_at(output, batch, assignment, self.priors, config, costs)
        view = replace(view, step=step, steps=steps, seed=self._seed)
        selection = select_priors(view, config.selection)
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
        )

    def _assign(self, output: RawOutput, batch: Batch) -> Assignment:
        assignment = assign_priors(batch, self.priors, self.config.assigner)
        if self.config.quarantine is None:
            return assignment
        with torch.no_grad():
            suspected = foreground_scores(output).amax(-1) >= self.config.quarantine
            hidden = suspected & (assignment.labels == 0)
            return replace(assignment, labels=assignment.labels.masked_fill(hidden, -1))
