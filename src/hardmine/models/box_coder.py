"""Coding boxes against priors.

    t_x = (cx − p_cx) / p_w / v_c        t_w = ln(w / p_w) / v_s

with variances v_c = .1 for centres and v_s = .2 for sizes. Source: Caffe SSD, ``bbox_util``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hardmine.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh

CENTRE_VARIANCE = 0.1
SIZE_VARIANCE = 0.2

_MAX_LOG = math.log(1000.0 / 16)
"""Limit of a decoded ln(w / p_w): keeps exp finite for an untrained network."""


def encode_boxes(boxes: Tensor, priors_cxcywh: Tensor) -> Tensor:
    """Return the deltas that turn each prior into its box.

    Args:
        boxes (Tensor[..., A, 4]): xyxy pixels, positive width and height.
        priors_cxcywh (Tensor[A, 4]): pixels.

    Returns:
        Tensor[..., A, 4]: (t_x, t_y, t_w, t_h).
    """
    coded = xyxy_to_cxcywh(boxes)
    centre = (coded[..., :2] - priors_cxcywh[:, :2]) / priors_cxcywh[:, 2:] / CENTRE_VARIANCE
    size = (coded[..., 2:] / priors_cxcywh[:, 2:]).clamp(min=1e-6).log() / SIZE_VARIANCE
    return torch.cat([centre, size], -1)


def decode_boxes(deltas: Tensor, priors_cxcywh: Tensor) -> Tensor:
    """Return xyxy pixels (Tensor[..., A, 4]) of ``deltas`` (Tensor[..., A, 4]); inverse of encoding."""
    centre = deltas[..., :2] * CENTRE_VARIANCE * priors_cxcywh[:, 2:] + priors_cxcywh[:, :2]
    size = (deltas[..., 2:] * SIZE_VARIANCE).clamp(max=_MAX_LOG).exp() * priors_cxcywh[:, 2:]
    return cxcywh_to_xyxy(torch.cat([centre, size], -1))
