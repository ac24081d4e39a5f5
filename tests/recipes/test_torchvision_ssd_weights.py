"""torchvision's SSD300 and SSDlite320 in our network: the same outputs and the same detections."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import detection

from hardmine.boxes import cxcywh_to_xyxy
from hardmine.errors import CheckpointError, ConfigError
from hardmine.models.postprocess import DecodeConfig, decode_detections
from hardmine.models.ssd import SSD, SSDConfig
from hardmine.recipes.named_recipes import named_recipe
from hardmine.recipes.pretrained_weights import (
    MODELS,
    coco_categories,
    load_starting_weights,
    match_recipe,
    translate,
)
from hardmine.tensors import RawOutput, ScoreForm

NAMES = ("a", "b", "c")


class Pair:
    """A torchvision detector with random weights, ours with the same, and both their outputs."""

    def __init__(self, name: str, folder: Path) -> None:
        torch.manual_seed(0)
        self.is_lite = "lite" in name
        self.network: Any = getattr(detection, name)(
            weights=None, weights_backbone=None, num_classes=len(NAMES) + 1
        )
        side = self.network.transform.fixed_size[0]
        self.images = torch.randint(0, 256, (1 + self.is_lite, 3, side, side), dtype=torch.uint8)
        _give_scale(self.network, self.images)
        self.path = folder / "weights.pth"
        torch.save(self.network.state_dict(), self.path)
        seen: dict[str, torch.Tensor] = {}
        self.anchors: list[torch.Tensor] = []
        self.network.head.register_forward_hook(lambda *a: seen.update(a[2]))
        self.network.anchor_generator.register_forward_hook(lambda *a: self.anchors.extend(a[2]))
        self.config = match_recipe(named_recipe(name), self.path).model
        assert isinstance(self.config, SSDConfig)
        self.model = SSD(self.config, NAMES)
        self.model.load_state_dict(translate(self.network.state_dict(), self.model, self.path))
        self.model.eval()
        with torch.no_grad():
            self.network([image / 255 for image in self.images])
            self.output = self.model(self.images)
        self.seen, self.raw = seen, dict(seen)

    def run(self, layout: torch.memory_format) -> tuple[RawOutput, dict[str, torch.Tensor]]:
        """Return our output and torchvision's, both computed in one layout."""
        hooks = [
            self.network.backbone.register_forward_pre_hook(
                lambda _, args: (args[0].contiguous(memory_format=layout),)
            ),
            self.model.normalise.register_forward_hook(
                lambda *args: args[2].contiguous(memory_format=layout)
            ),
        ]
        with torch.no_grad():
            self.network([image / 255 for image in self.images])
            output: RawOutput = self.model(self.images)
        for hook in hooks:
            hook.remove()
        return output, self.seen


def _give_scale(network: nn.Module, images: torch.Tensor) -> None:
    """Let a random network's activations be of size 1, as a trained one's: norms take the images'
    statistics, and predictors without norms before them are scaled down.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        if norms:
            network.train()
            network.head(list(network.backbone((images / 127.5) - 1).values()))
        for norm in norms:
            assert norm.running_var is not None
            # Of two images on a 1 x 1 map it may be next to 0, and would blow up rounding.
            norm.running_var.clamp_(min=float(norm.running_var.mean()) / 4)
        for parameter in network.head.parameters():
            parameter.mul_(0.1 if not norms else 2.0 if parameter.shape[-1] == 1 else 1.0)
    network.eval()


@pytest.fixture(scope="module", params=MODELS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(request.param, tmp_path_factory.mktemp("pair"))


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_raw_outputs_are_equal(pair: Pair, layout: torch.memory_format) -> None:
    """The same images, the same bits, in float32; 1e-5 leaves room for other machines' kernels."""
    output, raw = pair.run(layout)
    logits, deltas = raw["cls_logits"], raw["bbox_regression"]
    assert float(logits.std()) > 0.1  # a comparison of zeros would show nothing
    assert torch.allclose(output.class_logits, logits, rtol=1e-5, atol=1e-5)
    assert torch.allclose(output.box_deltas, deltas, rtol=1e-5, atol=1e-5)


def test_what_the_layout_changes(pair: Pair) -> None:
    """Ours computes channels last and torchvision does not: convolutions sum in another order. Fifty
    norms blow that up to 2e-5 in SSDlite, less than either's distance from float64 (5e-5).
    """
    output, raw = pair.output, pair.raw
    assert torch.allclose(output.class_logits, raw["cls_logits"], rtol=0, atol=5e-5)
    assert torch.allclose(output.box_deltas, raw["bbox_regression"], rtol=0, atol=5e-5)


def test_priors_are_equal(pair: Pair) -> None:
    ours = cxcywh_to_xyxy(pair.model.priors.cxcywh)
    assert torch.allclose(ours, pair.anchors[0], atol=1e-4)


@pytest.mark.parametrize("threshold", [None, 0.5])
def test_detections_are_equal(pair: Pair, threshold: float | None) -> None:
    """With torchvision's own limits on its own outputs; and from image to box above a threshold
    that so few reach that rounding swaps none.
    """
    network, side = pair.network, pair.images.shape[-1]
    config = DecodeConfig(
        score_threshold=network.score_thresh,
        nms_iou=network.nms_thresh,
        candidates=network.topk_candidates * len(NAMES),
        class_candidates=network.topk_candidates,
        max_detections=network.detections_per_img,
    )
    raw = pair.raw
    output = RawOutput(raw["cls_logits"], raw["bbox_regression"], ScoreForm.SOFTMAX)
    if threshold is not None:
        config = replace(config, score_threshold=threshold)
        output = pair.output
    sizes, lowest = [(side, side)] * len(pair.images), network.score_thresh
    anchors = pair.anchors[: len(pair.images)]  # of the first run
    try:
        network.score_thresh = config.score_threshold
        found = network.postprocess_detections(raw, anchors, sizes)
    finally:
        network.score_thresh = lowest
    detections = decode_detections(output, pair.model.priors, side, side, config)
    for mine, theirs in zip(detections, found, strict=True):
        assert len(mine) > 20 if threshold else len(mine) == config.max_detections
        assert np.array_equal(mine.labels, theirs["labels"].numpy())
        assert np.allclose(mine.scores, theirs["scores"].numpy(), atol=1e-5)
        assert np.allclose(mine.boxes, theirs["boxes"].numpy(), atol=1e-2)


def test_a_training_starts_from_the_whole_detector(
    pair: Pair, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With COCO's columns: what our class list shares with it is reused by name, and told."""
    name = pair.model.config.name
    state = dict(torch.load(pair.path, weights_only=True))
    key = "head.classification_head.module_list.0."
    last = "1." if pair.is_lite else ""
    for part, value in state.items():
        if re.match(rf"head\.classification_head\.module_list\.\d\.{last}(weight|bias)", part):
            state[part] = _with_coco_columns(value)
    torch.save(state, tmp_path / "coco.pth")
    recipe = match_recipe(named_recipe(name), tmp_path / "coco.pth")
    assert recipe.model == pair.config
    assert isinstance(recipe.model, SSDConfig)
    model = SSD(recipe.model, ("cat", "sphinx"))
    before = model.class_head.predictors[0].last.weight.detach().clone()
    load_starting_weights(model, tmp_path / "coco.pth")
    filters = model.class_head.predictors[0].last.weight.detach()
    theirs = state[f"{key}{last}weight"]
    cat = coco_categories().index("cat") + 1
    assert torch.equal(filters[0], theirs[0])  # background
    assert torch.equal(filters[1], theirs[cat])
    assert torch.equal(filters[2], before[2])
    assert torch.equal(filters[4], theirs[91 + cat])  # the second prior
    for ours, other in zip(
        model.box_head.state_dict().values(), pair.model.box_head.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, other)
    assert [r.getMessage() for r in caplog.records] == [
        f"{tmp_path / 'coco.pth'}: class weights reused for cat; new at random: sphinx"
    ]


def _with_coco_columns(value: torch.Tensor) -> torch.Tensor:
    """Widen [K · 4, …] to [K · 91, …] with numbers of its own in every filter."""
    priors = len(value) // (len(NAMES) + 1)
    return torch.randn(priors * 91, *value.shape[1:])


def test_weights_that_are_no_such_detector(tmp_path: Path) -> None:
    network = detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=3
    )
    state = network.state_dict()
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match="got model 'ssdlite320_mobilenet_v2'"):
        match_recipe(named_recipe("ssdlite320_mobilenet_v2"), tmp_path / "w.pth")
    torch.save({**state, "head.odd": torch.zeros(1)}, tmp_path / "odd.pth")
    model = SSD(named_recipe(MODELS[1]).model, ("a", "b"))  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=r"'head.odd' is no tensor of torchvision's"):
        load_starting_weights(model, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match="weights of 'torchvision' do not fit"):
        load_starting_weights(model, tmp_path / "w.pth")
