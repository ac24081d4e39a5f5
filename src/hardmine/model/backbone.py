"""Backbones: any torchvision network tapped at named nodes, or a small network of our own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from hardmine.errors import CheckpointError, ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class TapsConfig:
    """A torchvision classification network, cut where its feature maps are taken.

    ``taps`` are node names as ``torchvision.models.feature_extraction.get_graph_node_names`` lists
    them, finest first. Everything up to and including the node or module ``frozen_to`` is not trained
    and keeps its batch statistics. Freezing the high-resolution stages of a pretrained network costs
    little on small sets and takes most of the time out of a training step on a CPU.
    """

    kind: Literal["taps"] = "taps"
    name: str = "mobilenet_v2"
    taps: tuple[str, ...] = ("features.14.conv.0", "features.18")
    frozen_to: str | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


@dataclass(frozen=True, slots=True)
class SmallNetConfig:
    """Plain 3 × 3 convolutions, each stage halving the resolution; trains from scratch in minutes.

    Stage k has ``depths[k]`` convolutions of ``widths[k]`` channels; the last ``num_taps`` stages
    give the feature maps.
    """

    kind: Literal["small"] = "small"
    widths: tuple[int, ...] = (16, 32, 64, 96, 128)
    depths: tuple[int, ...] = (1, 1, 2, 2, 2)
    num_taps: int = 2
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)

    def __post_init__(self) -> None:
        if len(self.widths) != len(self.depths) or not 1 <= self.num_taps <= len(self.widths):
            raise ConfigError(
                f"backbone: got {len(self.widths)} widths, {len(self.depths)} depths and "
                f"num_taps {self.num_taps}, wanted equal lengths and 1 <= num_taps <= stages"
            )


BackboneConfig = Annotated[TapsConfig | SmallNetConfig, Field(discriminator="kind")]


class Taps(nn.Module):
    """A torchvision network that returns the feature maps at its taps, finest first.

    ``trunk`` is the frozen part (none: an identity), ``rest`` what is trained. Both keep the original
    network's names of modules.
    """

    def __init__(self, config: TapsConfig) -> None:
        super().__init__()
        self.trunk, self.rest = _cut_network(config)
        self.trunk.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps of normalised ``images`` (Tensor[B, 3, H, W])."""
        maps: list[Tensor] = self.rest(self._frozen(images))
        return maps

    def train(self, mode: bool = True) -> Taps:
        """Set the mode; the frozen part stays in evaluation mode."""
        super().train(mode)
        self.trunk.eval()
        return self

    def load_weights(self, path: Path) -> None:
        """Load a state dict of the whole classification network; its classifier is left out.

        Raises:
            CheckpointError: unreadable, unsafe, or keys or shapes that do not fit.
        """
        state = read_state_dict(path)
        for part in (self.trunk, self.rest):
            own = part.state_dict()
            missing = [key for key in own if key not in state]
            if missing:
                raise CheckpointError(
                    f"{path}: lacks {len(missing)} of the backbone's tensors, first {missing[0]!r}"
                )
            for key, value in own.items():
                if value.shape != state[key].shape:
                    raise CheckpointError(
                        f"{path}: {key} has shape {tuple(state[key].shape)}, "
                        f"wanted {tuple(value.shape)}"
                    )
            part.load_state_dict({key: state[key] for key in own})

    def _frozen(self, images: Tensor) -> Tensor:
        """Run the frozen part without a graph.

        On a CPU image by image: a batch's high-resolution maps do not fit the cache, one image's do
        (measured 2.5 times quicker for MobileNetV2 at 320 px, batch 16, bf16).
        """
        with torch.no_grad():
            if images.device.type != "cpu" or len(images) < 2:
                return cast(Tensor, self.trunk(images))
            return torch.cat([self.trunk(images[i : i + 1]) for i in range(len(images))])


def _cut_network(config: TapsConfig) -> tuple[nn.Module, nn.Module]:
    """Return the frozen part and the trained part of a freshly made network."""
    import torchvision
    from torchvision.models.feature_extraction import create_feature_extractor

    known = torchvision.models.list_models(module=torchvision.models)
    if config.name not in known:
        raise ConfigError(
            f"backbone.name: got {config.name!r}, wanted a torchvision classification model"
        )
    network = torchvision.models.get_model(config.name, weights=None)
    nodes = {tap: f"tap{i}" for i, tap in enumerate(config.taps)}
    if config.frozen_to is not None:
        nodes[config.frozen_to] = "cut"
    try:
        traced = create_feature_extractor(network, nodes)
    except ValueError as error:
        raise ConfigError(f"backbone.taps of {config.name}: {error}") from None
    # The evaluation graph serves both modes: modules such as dropout follow their own flag.
    return _split_graph(traced, traced.eval_graph, len(config.taps))


def _split_graph(owner: nn.Module, graph: Graph, num_taps: int) -> tuple[nn.Module, nn.Module]:
    """Cut a traced graph, whose output is a dict of nodes, behind the node named ``cut``."""
    outputs = next(node for node in graph.nodes if node.op == "output").args[0]
    taps = [outputs[f"tap{i}"] for i in range(num_taps)]
    cut = outputs.get("cut")
    rest = Graph()
    copied = {cut: rest.placeholder("maps")} if cut is not None else {}
    for node in _needed(taps, stop=cut):
        copied[node] = rest.node_copy(node, lambda n: copied[n])
    rest.output([copied[tap] for tap in taps])
    if cut is None:
        return nn.Identity(), GraphModule(owner, rest)
    trunk = Graph()
    copied = {}
    for node in _needed([cut], stop=None):
        copied[node] = trunk.node_copy(node, lambda n: copied[n])
    trunk.output(copied[cut])
    return GraphModule(owner, trunk), GraphModule(owner, rest)


def _needed(targets: Sequence[Node], stop: Node | None) -> list[Node]:
    """Return the nodes that ``targets`` depend on, in graph order, not looking behind ``stop``."""
    seen: set[Node] = set()
    waiting = [node for node in targets if node is not stop]
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting += [n for n in node.all_input_nodes if n is not stop]
    return [node for node in targets[0].graph.nodes if node in seen]


class SmallNet(nn.Module):
    """A stack of convolution–norm–ReLU stages, each starting with stride 2."""

    def __init__(self, config: SmallNetConfig) -> None:
        super().__init__()
        self._num_taps = config.num_taps
        stages, channels = [], 3
        for width, depth in zip(config.widths, config.depths, strict=True):
            layers: list[nn.Module] = []
            for index in range(depth):
                layers.append(conv_norm_relu(channels, width, 3, stride=2 if index == 0 else 1))
                channels = width
            stages.append(nn.Sequential(*layers))
        self.stages = nn.ModuleList(stages)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps of normalised ``images`` (Tensor[B, 3, H, W])."""
        maps = []
        for stage in self.stages:
            images = stage(images)
            maps.append(images)
        return maps[-self._num_taps :]


def make_backbone(config: BackboneConfig) -> Taps | SmallNet:
    """Build the network that a config describes, with random weights."""
    return Taps(config) if isinstance(config, TapsConfig) else SmallNet(config)


def conv_norm_relu(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Return convolution ("same" padding, no bias), batch norm and ReLU6."""
    return nn.Sequential(
        nn.Conv2d(
            in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
        ),
        nn.BatchNorm2d(out_channels, momentum=0.03, eps=1e-3),
        nn.ReLU6(inplace=True),
    )


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read tensors by name from ``.safetensors`` or a ``torch.save`` file, executing nothing.

    Raises:
        CheckpointError: missing, truncated, not a mapping of tensors, or a pickle with other content.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except Exception as error:  # noqa: BLE001  (safetensors and pickle raise many kinds)
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else "unreadable"
        raise CheckpointError(f"{path}: not a readable weights file ({reason})") from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"{path}: wanted a state dict (names to tensors)")
    return state


def probe_channels(
    backbone: nn.Module, height: int, width: int
) -> tuple[Sequence[int], list[tuple[int, int]]]:
    """Return the channels and (rows, columns) of each feature map for an input size."""
    was_training = backbone.training
    backbone.eval()
    with torch.no_grad():
        maps = backbone(torch.zeros(1, 3, height, width))
    backbone.train(was_training)
    return [m.shape[1] for m in maps], [(m.shape[2], m.shape[3]) for m in maps]
