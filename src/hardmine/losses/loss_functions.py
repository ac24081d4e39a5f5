"""What one prior costs: classification and localisation losses, each a config and a function.

Every function works on any leading shape, so it serves all priors of a batch as well as a list of
selected ones. Sums belong to ``multibox_loss``, divisors to ``normalizers``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, assert_never

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from hardmine.boxes import box_area
from hardmine.errors import ConfigError
from hardmine.models.priors import decode_boxes, encode_boxes
from hardmine.tensors import ScoreForm


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftmaxConfig:
    """Cross-entropy over background and classes: −log softmax(logits)[label]."""

    kind: Literal["softmax"] = "softmax"

    @property
    def score_form(self) -> ScoreForm:
        """C + 1 logits."""
        return ScoreForm.SOFTMAX


@dataclass(frozen=True, slots=True, kw_only=True)
class SigmoidConfig:
    """Binary cross-entropy summed over the classes; background is "none of them"."""

    kind: Literal["sigmoid"] = "sigmoid"

    @property
    def score_form(self) -> ScoreForm:
        """C logits."""
        return ScoreForm.SIGMOID


@dataclass(frozen=True, slots=True, kw_only=True)
class FocalConfig:
    """Binary cross-entropy × (1 − p_t)^gamma × alpha_t, summed over the classes.

    The weight of the prior's own class is ``alpha``, that of the others is 1 − ``alpha``.
    Source: Lin et al. 2017, "Focal loss for dense object detection", equation 5.
    """

    kind: Literal["focal"] = "focal"
    alpha: float = 0.25
    gamma: float = 2.0

    def __post_init__(self) -> None:
        if not 0.0 < self.alpha < 1.0 or self.gamma < 0:
            raise ConfigError(
                f"loss.classification: got alpha {self.alpha}, gamma {self.gamma}, "
                "wanted 0 < alpha < 1 and gamma >= 0"
            )

    @property
    def score_form(self) -> ScoreForm:
        """C logits."""
        return ScoreForm.SIGMOID


ClassificationConfig = Annotated[
    SoftmaxConfig | SigmoidConfig | FocalConfig, Field(discriminator="kind")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class SmoothL1Config:
    """Over the four coded deltas: ½ d² ÷ ``delta`` below ``delta``, then |d| − ½ ``delta``."""

    kind: Literal["smooth_l1"] = "smooth_l1"
    delta: float = 1.0

    def __post_init__(self) -> None:
        if self.delta <= 0:
            raise ConfigError(f"loss.localisation.delta: got {self.delta}, wanted > 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class GIoUConfig:
    """1 − GIoU of the decoded box, 0 to 2. Source: Rezatofighi et al. 2019."""

    kind: Literal["giou"] = "giou"


LocalisationConfig = Annotated[SmoothL1Config | GIoUConfig, Field(discriminator="kind")]


def exact(values: Tensor) -> Tensor:
    """Return ``values`` in float32; float64 stays (numeric checks of gradients need it)."""
    return values if values.dtype == torch.float64 else values.float()


def class_loss(logits: Tensor, labels: Tensor, config: ClassificationConfig) -> Tensor:
    """Return each prior's classification loss, nats.

    Args:
        logits (Tensor[..., K]): K = C + 1 for softmax, else C. Probabilities are never formed and
            then taken the log of: a certain mistake costs its logits, not infinity.
        labels (Tensor[...]): 0 background; a negative label (ignored) counts as 0 and has to be
            masked by the caller.
        config: which loss.

    Returns:
        Tensor[...]: float32.
    """
    logits, labels = exact(logits), labels.clamp(min=0)
    match config:
        case SoftmaxConfig():
            flat = logits.reshape(-1, logits.shape[-1])
            losses = F.cross_entropy(flat, labels.reshape(-1), reduction="none")
            return losses.view(labels.shape)
        case SigmoidConfig():
            return _binary_losses(logits, labels)[0].sum(-1)
        case FocalConfig():
            losses, target = _binary_losses(logits, labels)
            # 1 − p_t is the probability of the wrong answer: of the logit turned against its target.
            wrong = (logits * (1 - 2 * target)).sigmoid()
            alpha = config.alpha * target + (1 - config.alpha) * (1 - target)
            return (alpha * wrong**config.gamma * losses).sum(-1)
        case _:
            assert_never(config)


def _binary_losses(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the binary cross-entropy of each class and its target, both of the shape of ``logits``."""
    classes = torch.arange(1, logits.shape[-1] + 1, device=logits.device)
    target = (labels[..., None] == classes).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none"), target


def background_loss(logits: Tensor, config: ClassificationConfig) -> Tensor:
    """Return −log p(background) f32[...], nats: how strongly a prior fires, whatever the loss."""
    logits, form = exact(logits), config.score_form
    match form:
        case ScoreForm.SOFTMAX:
            return -logits.log_softmax(-1)[..., 0]
        case ScoreForm.SIGMOID:
            return F.softplus(logits).sum(-1)
        case _:
            assert_never(form)


def box_loss(
    deltas: Tensor, boxes: Tensor, priors_cxcywh: Tensor, config: LocalisationConfig
) -> Tensor:
    """Return each prior's localisation loss.

    Args:
        deltas (Tensor[..., N, 4]): predicted, in the coder's units.
        boxes (Tensor[..., N, 4]): the object of each prior, xyxy pixels, positive width and height.
        priors_cxcywh (Tensor[N, 4]): pixels.
        config: which loss.

    Returns:
        Tensor[..., N]: float32.
    """
    deltas = exact(deltas)
    match config:
        case SmoothL1Config():
            target = encode_boxes(boxes, priors_cxcywh).to(deltas.dtype)
            losses = F.smooth_l1_loss(deltas, target, reduction="none", beta=config.delta)
            return losses.sum(-1)
        case GIoUConfig():
            return 1.0 - generalized_iou(decode_boxes(deltas, priors_cxcywh), boxes)
        case _:
            assert_never(config)


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return GIoU in (−1, 1] of paired boxes (Tensor[..., 4] each, xyxy).

    ``torchvision.ops.generalized_box_iou_loss`` gives the same, but selects with a mask, for which the
    host waits on a GPU.
    """
    low, high = a[..., :2].maximum(b[..., :2]), a[..., 2:].minimum(b[..., 2:])
    size = (high - low).clamp(min=0)
    inter = size[..., 0] * size[..., 1]
    union = (box_area(a) + box_area(b) - inter).clamp(min=1e-9)
    hull = a[..., 2:].maximum(b[..., 2:]) - a[..., :2].minimum(b[..., :2])
    hull_area = (hull[..., 0] * hull[..., 1]).clamp(min=1e-9)
    return inter / union - (hull_area - union) / hull_area
