"""Random numbers that belong to an image and a step: no generator, so nothing to save or restore."""

from __future__ import annotations

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_ODD = 0x45D9F3B
_GOLDEN = 0x9E3779B1


def prior_noise(image_ids: Tensor, num_priors: int, step: int, seed: int) -> Tensor:
    """Return f32[B, A] in [0, 1), uniform, the same for the same ids, step and seed on any device.

    Args:
        image_ids (Tensor[B]): i64.
        num_priors: A.
        step, seed: any integers >= 0.

    Source: the 32-bit finaliser "lowbias" family (xor-shift and multiply), in i64 without overflow.
    """
    image = _mix(_mix(image_ids + _GOLDEN) ^ (_scramble(step) + seed * _ODD & _MASK))
    prior = torch.arange(num_priors, device=image_ids.device) * _GOLDEN & _MASK
    bits = _mix(image[:, None] ^ prior)
    return (bits >> 8).float() / (1 << 24)


def _scramble(step: int) -> int:
    return (step + 1) * _GOLDEN & _MASK


def _mix(x: Tensor) -> Tensor:
    x = x & _MASK
    x = (((x >> 16) ^ x) * _ODD) & _MASK
    x = (((x >> 16) ^ x) * _ODD) & _MASK
    return (x >> 16) ^ x
