"""Backbones: taps, the frozen part, weights by name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torchvision

from hardmine.errors import ConfigError
from hardmine.model.backbone import SmallNet, SmallNetConfig, Taps, TapsConfig

CUT = TapsConfig(frozen_to="features.6")


def weights_of(network: torch.nn.Module, path: Path) -> Path:
    torch.save(network.state_dict(), path)
    return path


@pytest.mark.parametrize("config", [TapsConfig(), CUT])
def test_maps_equal_the_whole_networks(config: TapsConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = torchvision.models.mobilenet_v2(weights=None).eval()
    taps = Taps(config).eval()
    taps.load_weights(weights_of(network, tmp_path / "w.pth"))
    images = torch.randn(3, 3, 64, 96)
    with torch.no_grad():
        fine, coarse = taps(images)
        wanted_fine = network.features[14].conv[0](network.features[:14](images))
        wanted_coarse = network.features(images)
    assert fine.shape == (3, 576, 4, 6)
    assert torch.allclose(fine, wanted_fine, atol=1e-5)
    assert torch.allclose(coarse, wanted_coarse, atol=1e-5)


def test_frozen_part_neither_trains_nor_counts_statistics() -> None:
    torch.manual_seed(0)
    taps = Taps(CUT).train()
    before = {k: v.clone() for k, v in taps.trunk.state_dict().items()}
    sum(m.mean() for m in taps(torch.randn(2, 3, 64, 64))).backward()
    assert all(torch.equal(v, before[k]) for k, v in taps.trunk.state_dict().items())
    assert all(p.grad is None for p in taps.trunk.parameters())
    assert any(p.grad is not None for p in taps.rest.parameters())
    assert "features.6.conv.0.0.weight" in taps.trunk.state_dict()
    assert "features.7.conv.0.0.weight" in taps.rest.state_dict()


def test_a_network_with_another_shape_of_graph() -> None:
    taps = Taps(TapsConfig(name="resnet18", taps=("layer3", "layer4"), frozen_to="layer1")).eval()
    assert [m.shape[1:] for m in taps(torch.zeros(1, 3, 64, 64))] == [(256, 4, 4), (512, 2, 2)]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TapsConfig(name="resnet9000"), "got 'resnet9000', wanted a torchvision"),
        (TapsConfig(taps=("features.99",)), "backbone.taps of mobilenet_v2: .*features.99"),
    ],
)
def test_unknown_names(config: TapsConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Taps(config)


def test_small_net_shapes() -> None:
    net = SmallNet(SmallNetConfig(widths=(4, 8, 12), depths=(1, 2, 1), num_taps=2))
    assert [m.shape[1:] for m in net(torch.zeros(1, 3, 32, 48))] == [(8, 8, 12), (12, 4, 6)]


@pytest.mark.data
def test_real_imagenet_weights_fit() -> None:
    """All keys match, and the cut network computes what the whole one does."""
    root = Path(os.environ.get("HARDMINE_DATA") or Path(__file__).parents[2] / "../shared/data")
    path = root / "backbones/mobilenet_v2_imagenet.pth"
    if not path.exists():
        pytest.skip(f"no {path} (set HARDMINE_DATA)")
    taps = Taps(CUT).eval()
    taps.load_weights(path)
    state = torch.load(path, map_location="cpu", weights_only=True)
    network = torchvision.models.mobilenet_v2(weights=None).eval()
    network.load_state_dict(state)
    images = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(taps(images)[1], network.features(images), atol=1e-4)
