"""Backbones: what a recipe may name, and the network it stands for.

Any torchvision or timm network is cut where its feature maps are taken (`Taps`). Two networks are
our own:

VGG16: fc6 and fc7 as convolutions, fc6 dilated, conv4_3 L2-normalised. Source: Liu et al. 2016,
"SSD", section 3, and Caffe's ``VGG_VOC0712_SSD``; names of modules as in torchvision's ``vgg16`` so
that its ImageNet weights load. The small network trains from scratch in minutes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, assert_never, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from hardmine.errors import ConfigError
from hardmine.models.layers import conv_norm_relu
from hardmine.models.state_dict import copy_state, read_state_dict

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class TapsConfig:
    """A torchvision classification network, cut where its feature maps are taken.

    ``taps`` are node names as ``hardmine models NAME`` and torchvision's ``get_graph_node_names`` list
    them, finest first. Everything up to and including the node or module ``frozen_to`` is not trained
    and keeps its batch statistics. Freezing the high-resolution stages of a pretrained network costs
    little on small sets and takes most of the time out of a training step on a CPU.
    """

    kind: Literal["taps"] = "taps"
    name: str = "mobilenet_v2"
    taps: tuple[str, ...] = ("features.14.conv.0", "features.18")
    frozen_to: str | None = None
    reduced_tail: bool = False
    """MobileNetV3's last stage at half its width, as torchvision's COCO weights of SSDLite have it."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        if self.reduced_tail and not self.name.startswith("mobilenet_v3"):
            raise ConfigError(
                f"backbone.reduced_tail: {self.name} has none, only mobilenet_v3_* networks do"
            )
        _require_taps(self.taps)


@dataclass(frozen=True, slots=True)
class TimmConfig:
    """A timm network: ``out_indices`` pick its feature levels, or ``taps`` name nodes of its graph.

    ``out_indices`` count timm's ``feature_info`` from the finest level, 0 (mostly stride 2).
    ``frozen_to`` as in :class:`TapsConfig`. ``mean`` and ``std`` must be those the weights were
    trained with.
    """

    kind: Literal["timm"] = "timm"
    name: str = "resnet18"
    out_indices: tuple[int, ...] = ()
    taps: tuple[str, ...] = ()
    frozen_to: str | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        if bool(self.out_indices) == bool(self.taps):
            raise ConfigError(
                f"backbone of timm {self.name}: got out_indices {list(self.out_indices)} and taps "
                f"{list(self.taps)}, wanted exactly one of them"
            )


class Taps(nn.Module):
    """A network that returns the feature maps at its taps, finest first.

    ``names`` are the taps' nodes, ``trunk`` is the frozen part (none: an identity), ``rest`` what is
    trained. Both keep the original network's names of modules. The trunk gives the taps that lie in
    it and, last, where it is cut.
    """

    def __init__(self, config: TapsConfig | TimmConfig) -> None:
        super().__init__()
        network = make_tapped(config)
        self._name = config.name
        self.names: tuple[str, ...] = node_names(config, network)
        self.known_channels: tuple[int, ...] = _known_channels(config, network)
        self.trunk, self.rest = _cut_network(config, network, self.names)
        self.trunk.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps of normalised ``images`` (Tensor[B, 3, H, W])."""
        *frozen, cut = self._frozen(images)
        return [*frozen, *self.rest(cut)]

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
            copy_state(part, state, path, self._name)

    def own_name(self, name: str) -> str:
        """Return where a tensor of the original network lies in this one (of a frozen part: trunk)."""
        return f"trunk.{name}" if name in self.trunk.state_dict() else f"rest.{name}"

    def _frozen(self, images: Tensor) -> list[Tensor]:
        """Run the frozen part without a graph.

        On a CPU image by image: a batch's high-resolution maps do not fit the cache, one image's do
        (measured 2.5 times quicker for MobileNetV2 at 320 px, batch 16, bf16).
        """
        if isinstance(self.trunk, nn.Identity):
            return [images]
        with torch.no_grad():
            # A graph for export must hold for every batch size: there the loop would fix it.
            whole = images.device.type != "cpu" or torch.compiler.is_exporting()
            if whole or len(images) < 2:
                return cast(list[Tensor], self.trunk(images))
            single = [self.trunk(images[i : i + 1]) for i in range(len(images))]
            return [torch.cat(parts) for parts in zip(*single, strict=True)]


def make_tapped(config: TapsConfig | TimmConfig) -> nn.Module:
    """Build the whole classification network that a config names, with random weights.

    Raises:
        ConfigError: the library has no network of that name.
    """
    if isinstance(config, TimmConfig):
        return _make_timm(config.name)
    import torchvision

    if config.name not in torchvision.models.list_models(module=torchvision.models):
        raise ConfigError(
            f"backbone.name: got {config.name!r}, wanted a torchvision classification model"
        )
    options = {"reduced_tail": True} if config.reduced_tail else {}
    return cast(nn.Module, torchvision.models.get_model(config.name, weights=None, **options))


def node_names(config: TapsConfig | TimmConfig, network: nn.Module) -> tuple[str, ...]:
    """Return the names of the nodes that a config taps in its network."""
    if config.taps or isinstance(config, TapsConfig):
        return config.taps
    levels: Sequence[Any] = cast(Any, network).feature_info
    if not all(0 <= index < len(levels) for index in config.out_indices):
        raise ConfigError(
            f"backbone.out_indices of timm {config.name}: got {list(config.out_indices)}, "
            f"wanted numbers from 0 to {len(levels) - 1}"
        )
    return tuple(str(levels[index]["module"]) for index in config.out_indices)


def _known_channels(config: TapsConfig | TimmConfig, network: nn.Module) -> tuple[int, ...]:
    """Return what timm says of the levels that ``out_indices`` pick; nothing of named nodes."""
    if isinstance(config, TapsConfig):
        return ()
    levels: Sequence[Any] = cast(Any, network).feature_info
    return tuple(int(levels[index]["num_chs"]) for index in config.out_indices)


@dataclass(frozen=True, slots=True)
class NodeCard:
    """A node of a network's graph that gives a feature map, and so may be tapped."""

    name: str
    channels: int
    rows: int
    columns: int


def list_nodes(config: TapsConfig | TimmConfig, height: int, width: int) -> list[NodeCard]:
    """Return every node of a network that gives a feature map, in order of computation.

    Raises:
        ConfigError: no such network, or one that cannot be traced.
    """
    from torchvision.models.feature_extraction import get_graph_node_names

    with torch.device("meta"):
        network = make_tapped(config)
        how = _tracer_options(config)
        names = get_graph_node_names(network, tracer_kwargs=how, suppress_diff_warning=True)[1]
        traced = _trace(config, network, {name: name for name in names[1:]})
        with torch.no_grad():
            maps = traced.eval()(torch.empty(1, 3, height, width))
    return [
        NodeCard(name, m.shape[1], m.shape[2], m.shape[3])
        for name, m in maps.items()
        if isinstance(m, Tensor) and m.ndim == 4 and min(m.shape[2:]) > 1
    ]


def _make_timm(name: str) -> nn.Module:
    import timm

    if not timm.is_model(name):
        raise ConfigError(f"backbone.name: got {name!r}, wanted a timm model (timm.list_models())")
    network: nn.Module = timm.create_model(name, pretrained=False)
    if not hasattr(network, "feature_info"):
        raise ConfigError(f"backbone.name: timm's {name} gives no feature levels")
    return network


def _cut_network(
    config: TapsConfig | TimmConfig, network: nn.Module, taps: Sequence[str]
) -> tuple[nn.Module, nn.Module]:
    """Return the frozen part and the trained part of a freshly made network."""
    nodes = {tap: f"tap{i}" for i, tap in enumerate(taps)}
    if config.frozen_to is not None and config.frozen_to not in nodes:
        nodes[config.frozen_to] = "cut"
    traced = _trace(config, network, nodes)
    # The evaluation graph serves both modes: modules such as dropout follow their own flag.
    graph = cast(Graph, traced.eval_graph)
    outputs = next(node for node in graph.nodes if node.op == "output").args[0]
    cut = outputs[nodes[config.frozen_to]] if config.frozen_to is not None else None
    tapped = [outputs[f"tap{i}"] for i in range(len(taps))]
    frozen = (
        [] if cut is None else [t for t in tapped if t is not cut and t in _needed([cut], None)]
    )
    if tapped[: len(frozen)] != frozen:
        raise ConfigError(
            f"backbone.taps of {config.name}: got {list(taps)}, wanted those before "
            f"{config.frozen_to!r} first"
        )
    return _split_graph(traced, tapped, cut, frozen)


def _trace(config: TapsConfig | TimmConfig, network: nn.Module, nodes: dict[str, str]) -> Any:
    from torchvision.models.feature_extraction import create_feature_extractor

    how = _tracer_options(config)
    try:
        return create_feature_extractor(
            network, nodes, tracer_kwargs=how, suppress_diff_warning=True
        )
    except ValueError as error:
        raise ConfigError(f"backbone.taps of {config.name}: {error}") from None
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0][:120]
        raise ConfigError(
            f"backbone.name: {config.name} cannot be cut at its nodes ({reason})"
        ) from None


def _tracer_options(config: TapsConfig | TimmConfig) -> dict[str, Any]:
    """Return which of timm's modules and functions must stay whole in the graph."""
    if isinstance(config, TapsConfig):
        return {}
    from timm import layers

    named = cast(Any, layers)
    return {
        "leaf_modules": named.get_notrace_modules(),
        "autowrap_functions": named.get_notrace_functions(),
    }


def _split_graph(
    owner: nn.Module, taps: Sequence[Node], cut: Node | None, frozen: Sequence[Node]
) -> tuple[nn.Module, nn.Module]:
    """Cut a traced graph behind the node ``cut``: ``frozen`` taps and it, and the taps after it."""
    rest = Graph()
    copied = {cut: rest.placeholder("maps")} if cut is not None else {}
    later = [tap for tap in taps if tap not in frozen]
    for node in _needed(later, stop=cut):
        copied[node] = rest.node_copy(node, lambda n: copied[n])
    rest.output([copied[tap] for tap in later])
    if cut is None:
        return nn.Identity(), GraphModule(owner, rest)
    trunk = Graph()
    copied = {}
    for node in _needed([cut], stop=None):
        copied[node] = trunk.node_copy(node, lambda n: copied[n])
    trunk.output([copied[node] for node in (*frozen, cut)])
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
    return [node for node in targets[0].graph.nodes if node in seen] if seen else []


def _require_taps(taps: Sequence[str]) -> None:
    if not taps:
        raise ConfigError("backbone.taps: got none, wanted at least one node name")


_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_CONV4_3 = 22
"""Index in ``features`` of the ReLU behind conv4_3."""
_STAGE_STARTS = (0, 5, 10, 17, 24)


@dataclass(frozen=True, slots=True)
class VggConfig:
    """VGG16 with the first ``frozen_stages`` of its five stages not trained.

    ``mean`` and ``std`` are Caffe's (pixels minus the mean, not divided), which torchvision's
    ``IMAGENET1K_FEATURES`` weights were trained with.
    """

    kind: Literal["vgg16"] = "vgg16"
    frozen_stages: int = 0
    l2norm_scale: float = 20.0
    mean: tuple[float, float, float] = (0.48235, 0.45882, 0.40784)
    std: tuple[float, float, float] = (1 / 255, 1 / 255, 1 / 255)

    def __post_init__(self) -> None:
        if not 0 <= self.frozen_stages <= 4 or self.l2norm_scale <= 0:
            raise ConfigError(
                f"backbone: got frozen_stages {self.frozen_stages}, l2norm_scale "
                f"{self.l2norm_scale}, wanted 0..4 and > 0"
            )


class Vgg16(nn.Module):
    """Gives conv4_3 (stride 8, normalised over its channels) and fc7 (stride 16)."""

    def __init__(self, config: VggConfig) -> None:
        super().__init__()
        self.features = _features()
        self.fc6 = nn.Conv2d(512, 1024, 3, padding=6, dilation=6)
        self.fc7 = nn.Conv2d(1024, 1024, 1)
        self.scale = nn.Parameter(torch.full((512,), config.l2norm_scale))
        for layer in (self.fc6, self.fc7):
            nn.init.xavier_uniform_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        self.features[: _STAGE_STARTS[config.frozen_stages]].requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps of normalised ``images`` (Tensor[B, 3, H, W])."""
        conv4_3 = self.features[: _CONV4_3 + 1](images)
        fine = F.normalize(conv4_3, dim=1) * self.scale.view(1, -1, 1, 1)
        coarse = F.max_pool2d(self.features[_CONV4_3 + 1 :](conv4_3), 3, 1, 1)
        return [fine, F.relu(self.fc7(F.relu(self.fc6(coarse))))]

    def load_weights(self, path: Path) -> None:
        """Load a state dict of torchvision's ``vgg16``.

        Where its classifier is there, every fourth unit of fc6 and fc7 and every third pixel of fc6
        become their convolutions, as in the paper; else they keep their random weights.

        Raises:
            CheckpointError: unreadable, unsafe, or keys or shapes that do not fit.
        """
        state = read_state_dict(path)
        features = {
            k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")
        }
        copy_state(self.features, features, path, "vgg16")
        self._take_classifier(state)

    def _take_classifier(self, state: Mapping[str, Tensor]) -> None:
        fc6, fc7 = state.get("classifier.0.weight"), state.get("classifier.3.weight")
        if fc6 is None or fc7 is None or not bool(fc6[0].isfinite().all()):
            return  # torchvision's IMAGENET1K_FEATURES holds NaN there
        with torch.no_grad():
            self.fc6.weight.copy_(fc6.reshape(4096, 512, 7, 7)[::4, :, ::3, ::3])
            self.fc7.weight.copy_(fc7.reshape(4096, 4096, 1, 1)[::4, ::4])
            for layer, index in ((self.fc6, 0), (self.fc7, 3)):
                assert layer.bias is not None
                layer.bias.copy_(state[f"classifier.{index}.bias"][::4])


def _features() -> nn.Sequential:
    """Return conv1_1 … conv5_3 with the pools between; the third rounds up, so 300 px gives 38."""
    layers: list[nn.Module] = []
    channels = 3
    for index, stage in enumerate(_STAGES):
        if index:
            layers.append(nn.MaxPool2d(2, 2, ceil_mode=index == 3))
        for width in stage:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
    return nn.Sequential(*layers)


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
        if min(self.widths) < 1 or min(self.depths) < 0:
            raise ConfigError(
                f"backbone: got widths {list(self.widths)}, depths {list(self.depths)}, wanted widths "
                "of 1 or more and depths of 0 or more"
            )


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


BackboneConfig = Annotated[
    TapsConfig | TimmConfig | VggConfig | SmallNetConfig, Field(discriminator="kind")
]


def make_backbone(config: BackboneConfig) -> Taps | Vgg16 | SmallNet:
    """Build the network that a config describes, with random weights."""
    match config:
        case TapsConfig() | TimmConfig():
            return Taps(config)
        case VggConfig():
            return Vgg16(config)
        case SmallNetConfig():
            return SmallNet(config)
        case _:
            assert_never(config)


def probe_channels(
    network: nn.Module, height: int, width: int
) -> tuple[Sequence[int], list[tuple[int, int]]]:
    """Return the channels and (rows, columns) of each feature map for an input size.

    Nothing is computed: the network runs with tensors that have shapes alone.

    Raises:
        ConfigError: it does not take such an input, or gives no maps of the form [B, C, H, W].
    """
    state = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    shapes_only = {name: torch.empty_like(value, device="meta") for name, value in state.items()}
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            images = torch.empty(1, 3, height, width, device="meta")
            maps = torch.func.functional_call(network, shapes_only, (images,))
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise ConfigError(
            f"backbone: an input of {height}x{width} does not go through it ({reason})"
        ) from None
    finally:
        network.train(was_training)
    wanted = network.known_channels if isinstance(network, Taps) else ()
    if any(m.ndim != 4 for m in maps) or (wanted and [m.shape[1] for m in maps] != list(wanted)):
        raise ConfigError(
            f"backbone: gives {[tuple(m.shape[1:]) for m in maps]}, wanted feature maps with the "
            "channels first; a transformer's tokens are none"
        )
    return [m.shape[1] for m in maps], [(m.shape[2], m.shape[3]) for m in maps]
