"""Backbones: taps, the frozen part, weights by name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torchvision

from hardmine.errors import ConfigError
from hardmine.models.backbones import (
    SmallNet,
    SmallNetConfig,
    Taps,
    TapsConfig,
    TimmConfig,
    Vgg16,
    VggConfig,
    list_nodes,
    probe_channels,
)

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


def test_contradictory_backbones() -> None:
    with pytest.raises(
        ConfigError, match=r"got out_indices \[1\] and taps \['x'\], wanted exactly"
    ):
        TimmConfig(out_indices=(1,), taps=("x",))
    with pytest.raises(ConfigError, match="only mobilenet_v3"):
        TapsConfig(name="mobilenet_v2", reduced_tail=True)
    with pytest.raises(ConfigError, match="taps: got none"):
        TapsConfig(taps=())
    with pytest.raises(ConfigError, match="frozen_stages 5"):
        VggConfig(frozen_stages=5)


def test_a_tap_in_the_frozen_part() -> None:
    """The same maps as without freezing, and those before the cut carry no gradient."""
    names = ("features.3", "features.6", "features.14")
    torch.manual_seed(0)
    whole = Taps(TapsConfig(taps=names)).eval()
    torch.manual_seed(0)
    cut = Taps(TapsConfig(taps=names, frozen_to="features.7")).eval()
    images = torch.randn(2, 3, 64, 96)
    pairs = list(zip(whole(images), cut(images), strict=True))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)
    assert [b.requires_grad for _, b in pairs] == [False, False, True]
    with pytest.raises(ConfigError, match=r"wanted those before 'features\.7' first"):
        Taps(TapsConfig(taps=names[::-1], frozen_to="features.7"))


def test_a_network_with_another_shape_of_graph() -> None:
    taps = Taps(TapsConfig(name="resnet18", taps=("layer3", "layer4"), frozen_to="layer1")).eval()
    assert [m.shape[1:] for m in taps(torch.zeros(1, 3, 64, 64))] == [(256, 4, 4), (512, 2, 2)]


def test_a_frozen_part_is_exported_for_every_batch_size() -> None:
    """On a CPU it runs image by image; in a graph that loop would fix how many there are."""
    taps = Taps(TapsConfig(name="resnet18", taps=("layer1", "layer2"), frozen_to="maxpool")).eval()
    batch = {0: torch.export.Dim("batch", min=1)}
    graph = torch.export.export(
        taps, (torch.zeros(2, 3, 32, 32),), dynamic_shapes=(batch,)
    ).module()
    for size in (1, 3):
        images = torch.rand(size, 3, 32, 32)
        for got, wanted in zip(graph(images), taps(images), strict=True):
            torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TapsConfig(name="resnet9000"), "got 'resnet9000', wanted a torchvision"),
        (TapsConfig(taps=("features.99",)), "backbone.taps of mobilenet_v2: .*features.99"),
        (TimmConfig(name="resnet9000", taps=("x",)), "got 'resnet9000', wanted a timm model"),
        (TimmConfig(name="resnet10t", out_indices=(9,)), r"got \[9\], wanted numbers from 0 to 4"),
    ],
)
def test_unknown_names(config: TapsConfig | TimmConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Taps(config)


def test_timm_by_level_and_by_node(tmp_path: Path) -> None:
    """Two ways of naming the same maps; the maps are those of timm's own feature network."""
    import timm

    torch.manual_seed(0)
    whole = timm.create_model("resnet10t", pretrained=False)
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    features = timm.create_model("resnet10t", features_only=True, out_indices=(2, 3)).eval()
    features.load_state_dict(whole.state_dict(), strict=False)
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        wanted = features(images)
    for config in (
        TimmConfig(name="resnet10t", out_indices=(2, 3), frozen_to="layer1"),
        TimmConfig(name="resnet10t", taps=("layer2", "layer3")),
    ):
        taps = Taps(config).eval()
        taps.load_weights(tmp_path / "w.pth")
        maps = taps(images)
        assert [m.shape for m in maps] == [w.shape for w in wanted]
        assert all(torch.allclose(m, w, atol=1e-4) for m, w in zip(maps, wanted, strict=True))


def test_a_transformer_is_refused_in_one_line() -> None:
    with torch.device("meta"):
        vit = Taps(TimmConfig(name="vit_tiny_patch16_224", out_indices=(0,)))
    with pytest.raises(ConfigError, match="an input of 96x128 does not go through it"):
        probe_channels(vit, 96, 128)
    with pytest.raises(ConfigError, match="wanted feature maps with the channels first"):
        probe_channels(vit, 224, 224)  # tokens
    net = Taps(TimmConfig(name="resnet10t", out_indices=(1,)))
    assert probe_channels(net, 32, 32)[0] == [64]
    net.known_channels = (8,)  # as of a network that gives [B, H, W, C] with H = 8
    with pytest.raises(ConfigError, match="wanted feature maps with the channels first"):
        probe_channels(net, 32, 32)


def test_nodes_of_a_network() -> None:
    """What may be tapped, with its channels and map."""
    found = {card.name: card for card in list_nodes(TapsConfig(name="resnet18"), 64, 96)}
    assert (found["layer2"] if "layer2" in found else found["layer2.1.relu_1"]).channels == 128
    assert found["layer1.0.conv1"].rows == 16
    assert found["layer1.0.conv1"].columns == 24
    assert "fc" not in found


def test_vgg16_gives_conv4_3_normalised_and_fc7(tmp_path: Path) -> None:
    """conv4_3 by torchvision's own layers; every cell of the tap has length 20."""
    torch.manual_seed(0)
    network = torchvision.models.vgg16(weights=None, init_weights=False).features.eval()
    state = {f"features.{k}": v for k, v in network.state_dict().items()}
    torch.save(state, tmp_path / "w.pth")
    vgg = Vgg16(VggConfig(frozen_stages=2)).eval()
    vgg.load_weights(tmp_path / "w.pth")
    images = torch.randn(1, 3, 44, 60) * 50
    network[16].ceil_mode = True
    with torch.no_grad():
        fine, coarse = vgg(images)
        conv4_3 = network[:23](images)
    assert fine.shape == (1, 512, 6, 8)  # 44 → 22 → 11 → 6: the third pool rounds up
    assert coarse.shape == (1, 1024, 3, 4)
    assert torch.allclose(fine.norm(dim=1), torch.tensor(20.0), atol=1e-3)
    assert torch.allclose(fine, 20 * conv4_3 / conv4_3.norm(dim=1, keepdim=True), atol=1e-3)
    trained = [n for n, p in vgg.features.named_parameters() if p.requires_grad]
    assert trained[0] == "10.weight"
    assert vgg.fc6.dilation == (6, 6)


def test_vgg16_takes_fc6_and_fc7_from_the_classifier(tmp_path: Path) -> None:
    """Every fourth unit and every third pixel, as in the paper; NaN there means there is none."""
    torch.manual_seed(0)
    vgg = Vgg16(VggConfig())
    state = {f"features.{k}": v for k, v in vgg.features.state_dict().items()}
    fc6, fc7 = torch.randn(4096, 1).expand(4096, 25088), torch.randn(4096, 1).expand(4096, 4096)
    state |= {"classifier.0.weight": fc6, "classifier.0.bias": torch.arange(4096.0)}
    state |= {"classifier.3.weight": fc7, "classifier.3.bias": torch.arange(4096.0)}
    vgg._take_classifier(state)
    assert torch.equal(vgg.fc6.weight[:, 0, 0, 0], fc6[::4, 0])
    assert vgg.fc7.bias is not None
    assert vgg.fc7.bias[:3].tolist() == [0, 4, 8]
    before = vgg.fc6.weight.clone()
    vgg._take_classifier(state | {"classifier.0.weight": torch.full((1, 1), torch.nan)})
    assert torch.equal(vgg.fc6.weight, before)


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
