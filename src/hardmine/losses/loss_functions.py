"""What one prior costs: classification and localisation losses, each a config and a function.

Every function works on any leading shape, so it serves all priors of a batch as well as a list of
selected ones. Sums belong to ``multibox_loss``, divisors too.

For the CPU, softmax and smooth L1 over selected priors are also single nodes of a compiled graph. A
graph has fixed shapes, so a compiled step would compute the loss and the gradient of all priors and
mask them. These operators gather what was selected inside, as the step does that is not compiled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, assert_never

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
            # Never quite 0: below a gamma of 1 the slope of its power is infinite there.
            wrong = (logits * (1 - 2 * target)).sigmoid().clamp(min=torch.finfo(logits.dtype).tiny)
            alpha = config.alpha * target + (1 - config.alpha) * (1 - target)
            return (alpha * wrong**config.gamma * losses).sum(-1)
        case _:
            assert_never(config)


def _binary_losses(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the binary cross-entropy of each class and its target, both of the shape of ``logits``."""
    classes = torch.arange(1, logits.shape[-1] + 1, device=logits.device)
    target = (labels[..., None] == classes).to(logits.dtype)
    # Exact for certain answers too: ``binary_cross_entropy_with_logits`` takes −17 from −17 there,
    # and the priors that cost 1e-7 and 1e-8 would be equally hard.
    return F.softplus(logits * (1 - 2 * target)), target


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


PIECE = 1 << 18
"""Logits handled at once without a graph on the CPU: 1 MiB, which a core's cache holds."""


@torch.library.custom_op("hardmine::softmax_background", mutates_args=())
def background_op(logits: Tensor) -> Tensor:
    """Return −log softmax(logits)[..., 0], f32[B, A], of ``logits`` (Tensor[B, A, C + 1])."""
    rows = logits.flatten(0, 1)
    size = max(1, PIECE // rows.shape[1])
    pieces = [rows[start : start + size] for start in range(0, len(rows), size)]
    return torch.cat([-piece.log_softmax(-1)[:, 0] for piece in pieces]).view(logits.shape[:2])


@background_op.register_fake
def _(logits: Tensor) -> Tensor:
    return logits.new_empty(logits.shape[:2])


@torch.library.custom_op("hardmine::softmax_sums", mutates_args=())
def sums_op(logits: Tensor, labels: Tensor, chosen: Tensor) -> Tensor:
    """Return each image's sum f32[B] of cross-entropy over its ``chosen`` priors (bool[B, A])."""
    rows = chosen.flatten().nonzero()[:, 0]
    picked = logits.flatten(0, 1).index_select(0, rows)
    targets = labels.flatten()[rows]
    losses = F.cross_entropy(picked, targets, reduction="none")
    return losses.new_zeros(len(labels)).index_add(0, rows // labels.shape[1], losses)


@sums_op.register_fake
def _(logits: Tensor, labels: Tensor, chosen: Tensor) -> Tensor:
    return logits.new_empty(logits.shape[0])


@torch.library.custom_op("hardmine::softmax_sums_backward", mutates_args=())
def _sums_backward_op(gradient: Tensor, logits: Tensor, labels: Tensor, chosen: Tensor) -> Tensor:
    """Return softmax − one-hot at the chosen priors × the image's gradient, 0 elsewhere."""
    rows = chosen.flatten().nonzero()[:, 0]
    slopes = logits.flatten(0, 1).index_select(0, rows).softmax(-1)
    slopes[torch.arange(len(rows)), labels.flatten()[rows]] -= 1.0
    slopes *= gradient[rows // labels.shape[1], None]
    result = torch.zeros_like(logits, memory_format=torch.contiguous_format)
    result.view(-1, logits.shape[-1]).index_copy_(0, rows, slopes)
    return result


@_sums_backward_op.register_fake
def _(gradient: Tensor, logits: Tensor, labels: Tensor, chosen: Tensor) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
    return _sums_backward_op(gradient, *ctx.saved_tensors), None, None


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


sums_op.register_autograd(_backward, setup_context=_save)


@torch.library.custom_op("hardmine::smooth_l1_sums", mutates_args=())
def box_sums_op(
    deltas: Tensor,
    boxes: Tensor,
    box_index: Tensor,
    positives: Tensor,
    priors_cxcywh: Tensor,
    beta: float,
) -> tuple[Tensor, Tensor]:
    """Return each image's sum f32[B] of smooth L1 over its ``positives`` (bool[B, A]) and its slopes.

    ``deltas`` (Tensor[B, A, 4]) against ``boxes`` (Tensor[B, G, 4], xyxy) by ``box_index`` (i64[B, A]).
    Slopes, f32[B, A, 4], are the difference ÷ ``beta``, ±1 at most, and 0 where nothing is positive.
    """
    num_priors = deltas.shape[1]
    rows = positives.flatten().nonzero()[:, 0]
    image, prior = rows // num_priors, rows % num_priors
    wanted = encode_boxes(boxes[image, box_index.flatten()[rows]], priors_cxcywh[prior])
    picked, wanted = deltas.flatten(0, 1).index_select(0, rows), wanted.to(deltas.dtype)
    losses = F.smooth_l1_loss(picked, wanted, reduction="none", beta=beta).sum(-1)
    slopes = torch.zeros_like(deltas, memory_format=torch.contiguous_format)
    slopes.view(-1, 4).index_copy_(0, rows, ((picked - wanted) / beta).clamp_(-1.0, 1.0))
    return losses.new_zeros(len(boxes)).index_add(0, image, losses), slopes


@box_sums_op.register_fake
def _(deltas: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    slopes = torch.empty_like(deltas, memory_format=torch.contiguous_format)
    return deltas.new_empty(deltas.shape[0]), slopes


def _box_backward(
    ctx: Any, gradient: Tensor, _: Tensor
) -> tuple[Tensor, None, None, None, None, None]:
    (slopes,) = ctx.saved_tensors
    return gradient[:, None, None] * slopes, None, None, None, None, None


def _box_save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])


box_sums_op.register_autograd(_box_backward, setup_context=_box_save)
