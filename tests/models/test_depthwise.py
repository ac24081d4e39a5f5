"""Depthwise convolutions with a float32 backward: the same forward, gradients nearer to the truth."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from hardmine.models.layers import use_float32_backward


def run(network: nn.Module, images: Tensor, *, bf16: bool) -> tuple[Tensor, list[Tensor]]:
    images = images.clone().requires_grad_()
    network.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        out = network(images)
    (out.float() * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
    assert images.grad is not None
    return out, [images.grad, *(p.grad for p in network.parameters() if p.grad is not None)]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
def test_same_forward_and_truer_gradients(stride: int, bias: bool) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 5, stride, 2, groups=8, bias=bias), nn.Conv2d(8, 4, 1)
    ).to(memory_format=torch.channels_last)
    swapped = copy.deepcopy(plain)
    assert use_float32_backward(swapped) == 1
    assert use_float32_backward(swapped) == 0
    assert list(swapped.state_dict()) == list(plain.state_dict())
    images = torch.randn(2, 3, 12, 12)
    exact, truth = run(plain, images, bf16=False)
    assert torch.equal(run(swapped, images, bf16=False)[0], exact)
    out, ours = run(swapped, images, bf16=True)
    wanted, theirs = run(plain, images, bf16=True)
    assert torch.equal(out, wanted) or bias
    assert torch.allclose(out.float(), wanted.float(), atol=0.05)
    assert len(ours) == len(truth)

    def error(gradients: list[Tensor]) -> float:
        return sum(float((g - t).norm() / t.norm()) for g, t in zip(gradients, truth, strict=True))

    assert error(ours) < 0.05 * len(truth)
    assert error(ours) <= 1.1 * error(theirs)


def test_others_are_left_alone() -> None:
    network = nn.Sequential(
        nn.Conv2d(8, 8, 3),
        nn.Conv2d(8, 8, 3, groups=4),
        nn.Conv2d(1, 1, 3),
        nn.Conv2d(8, 16, 3, groups=8),
        nn.Conv2d(8, 8, 3, groups=8, padding="same"),
    )
    assert use_float32_backward(network) == 0


def test_frozen_weights_and_evaluation() -> None:
    conv = nn.Conv2d(4, 4, 3, groups=4, bias=False).requires_grad_(False)
    use_float32_backward(conv)
    images = torch.randn(1, 4, 6, 6, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        conv(images).float().sum().backward()
    assert images.grad is not None
    assert conv.weight.grad is None
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert conv(images).dtype == torch.bfloat16
