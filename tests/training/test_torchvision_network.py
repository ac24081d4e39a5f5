"""torchvision's detectors through our loop: small ones, so that a training takes a second."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from hardmine.errors import CheckpointError, ConfigError
from hardmine.inference.checkpoint_detector import load_checkpoint_detector
from hardmine.inference.predict import detect_on_canvas, score_images
from hardmine.losses.multibox_loss import LossConfig
from hardmine.losses.negative_mining import RatioConfig
from hardmine.models.postprocess import DecodeConfig
from hardmine.models.torchvision_network import TorchvisionConfig, TorchvisionNetwork
from hardmine.recipes.checkpoint import load_weights_into
from hardmine.recipes.named_recipes import fasterrcnn_resnet50_fpn, named_recipe
from hardmine.recipes.recipe import (
    BatchConfig,
    OptimConfig,
    Recipe,
    recipe_from_dict,
    recipe_to_dict,
)
from hardmine.tensors import Batch
from hardmine.training.optimization import TorchvisionObjective, make_targets
from hardmine.training.trainer import Progress, fit
from hardmine.types import Dataset
from tiny_models import TINY_FASTERRCNN, registered_fasterrcnn, tiny_fasterrcnn


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    with registered_fasterrcnn():
        yield


@pytest.fixture
def recipe() -> Recipe:
    return Recipe(
        model=TorchvisionConfig(name=TINY_FASTERRCNN, height=48, width=64),
        batch=BatchConfig(size=4),
        optim=OptimConfig(lr=3e-3, warmup_steps=2, ema_decay=0.9),
        precision="fp32",
    )


def batch_of(labels: list[list[int]], ignore: list[list[bool]] | None = None) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 255, (len(labels), 3, 48, 64), dtype=torch.uint8, generator=generator)
    boxes = torch.tensor([8.0, 8.0, 40.0, 40.0]).expand(*torch.tensor(labels).shape, 4).clone()
    hidden = torch.tensor(ignore) if ignore else torch.zeros(boxes.shape[:2], dtype=torch.bool)
    return Batch(images, boxes, torch.tensor(labels), hidden, torch.arange(len(labels)))


def test_an_image_without_objects_has_boxes_of_shape_0_4() -> None:
    """Trap 6: never a made-up box; padding, boxes to ignore and boxes without area are left out."""
    batch = batch_of([[0, 0], [2, 0], [1, 1], [1, 2]], [[False] * 2] * 2 + [[True, False]] * 2)
    batch.boxes[3, 1] = torch.tensor([5.0, 5.0, 5.0, 9.0])
    targets = make_targets(batch)
    assert [tuple(t["boxes"].shape) for t in targets] == [(0, 4), (1, 4), (1, 4), (0, 4)]
    assert [t["labels"].tolist() for t in targets] == [[], [2], [1], []]
    assert all(t["labels"].dtype == torch.int64 for t in targets)


def gradients(batch: Batch, recipe: Recipe) -> dict[str, float]:
    torch.manual_seed(0)
    assert isinstance(recipe.model, TorchvisionConfig)
    model = TorchvisionNetwork(recipe.model, ("a", "b"))
    loss = TorchvisionObjective(bf16=False)(model, batch)
    loss.total.backward()
    assert loss.total.item() == pytest.approx(float(loss.classification + loss.localisation))
    parts = {"rpn": model.network.rpn.head, "classifier": model.network.roi_heads.box_predictor}
    return {
        name: sum(float(p.grad.abs().sum()) for p in part.parameters() if p.grad is not None)
        for name, part in parts.items()
    }


def test_negatives_train_proposals_and_classifier(recipe: Recipe) -> None:
    found = gradients(batch_of([[0], [0]]), recipe)
    assert found["rpn"] > 0
    assert found["classifier"] > 0


def test_the_images_reach_the_backbone_as_they_are(recipe: Recipe) -> None:
    """No second resize, no padding to a multiple of 32: 48 × 64 in our normalisation."""
    seen: list[Tensor] = []
    config = TorchvisionConfig(name=TINY_FASTERRCNN, height=50, width=70)
    model = TorchvisionNetwork(config, ("a",)).eval()
    model.network.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    images = torch.randint(0, 255, (2, 3, 50, 70), dtype=torch.uint8)
    with torch.inference_mode():
        model(images)
    mean, std = torch.tensor(config.mean), torch.tensor(config.std)
    wanted = (images / 255.0 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    assert torch.allclose(seen[0], wanted, atol=1e-5)


def test_equal_to_torchvision_called_by_hand(recipe: Recipe) -> None:
    """Same weights, same pixels: the detections of ``FasterRCNN.forward`` with its own transform."""
    torch.manual_seed(1)
    model = TorchvisionNetwork(
        TorchvisionConfig(name=TINY_FASTERRCNN, height=64, width=64), ("a", "b")
    ).eval()
    model.set_limits(DecodeConfig(score_threshold=0.2, nms_iou=0.5, max_detections=9))
    plain = tiny_fasterrcnn(weights=None, weights_backbone=None, num_classes=3).eval()
    plain.load_state_dict(model.network.state_dict())
    plain.transform.min_size, plain.transform.max_size = (64,), 64
    plain.roi_heads.score_thresh, plain.roi_heads.detections_per_img = 0.2, 9
    images = torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        ours, theirs = model(images), plain([image / 255.0 for image in images])
    for a, b in zip(ours, theirs, strict=True):
        assert len(a["scores"]) > 0
        assert torch.equal(a["labels"], b["labels"])
        assert torch.allclose(a["scores"], b["scores"], atol=1e-5)
        assert torch.allclose(a["boxes"], b["boxes"], atol=1e-3)


def test_exact_resume_and_a_detector_from_the_checkpoint(
    squares: Dataset, recipe: Recipe, tmp_path: Path
) -> None:
    class Stop(Exception):  # noqa: N818
        pass

    def stop(where: Progress) -> None:
        if where.step == 4:
            raise Stop

    options: dict[str, Any] = {"steps": 6, "save_every": 3, "seed": 3}
    whole = fit(squares, recipe, tmp_path / "whole", **options)
    with pytest.raises(Stop):
        fit(squares, recipe, tmp_path / "cut", progress=stop, **options)
    again = fit(squares, recipe, tmp_path / "cut", resume=True, **options)
    a, b = load_file(whole), load_file(again)
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert (tmp_path / "cut" / "log.csv").read_text().splitlines()[1].split(",")[4:6] == [
        "-1",
        "-1",
    ]

    detector = load_checkpoint_detector(whole, "cpu")
    paths = [record.path for record in squares.records[:3]]
    found = detect_on_canvas(detector, paths)
    scored = list(score_images(detector, paths, batch_size=None))
    for one, other, record in zip(found, scored, squares.records, strict=False):
        assert len(one) <= 100
        assert (np.diff(one.scores) <= 0).all()
        assert (one.boxes[:, 2:] <= [record.width, record.height]).all()
        best = float(one.scores[0]) if len(one) else 0.0
        assert other.score == pytest.approx(best)  # type: ignore[union-attr]


def test_it_learns(squares: Dataset, recipe: Recipe, tmp_path: Path) -> None:
    losses: list[float] = []
    fit(squares, recipe, tmp_path, steps=16, progress=lambda p: losses.append(p.loss))
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])


def test_frozen_parts_keep_their_weights_and_statistics(
    squares: Dataset, recipe: Recipe, tmp_path: Path
) -> None:
    config = TorchvisionConfig(
        name=TINY_FASTERRCNN, height=48, width=64, frozen=("backbone.0",), frozen_norm=True
    )
    first = fit(squares, replace(recipe, model=config), tmp_path / "a", steps=1)
    second = fit(squares, replace(recipe, model=config), tmp_path / "b", steps=3)
    a, b = load_file(first), load_file(second)
    same = {key for key in a if torch.equal(a[key], b[key])}
    assert {k for k in a if k.startswith(("network.backbone.0", "network.backbone.1"))} <= same
    assert "network.rpn.head.cls_logits.weight" not in same


def test_pretrained_weights_of_another_number_of_classes(tmp_path: Path, recipe: Recipe) -> None:
    source = tiny_fasterrcnn(weights=None, weights_backbone=None, num_classes=7).state_dict()
    torch.save(source, tmp_path / "detector.pth")
    body = {k.removeprefix("backbone."): v for k, v in source.items() if "backbone." in k}
    torch.save(body, tmp_path / "body.pth")
    torch.save({"other": torch.zeros(1)}, tmp_path / "foreign.pth")
    assert isinstance(recipe.model, TorchvisionConfig)
    for name, also in (
        ("detector.pth", "rpn.head.conv.0.0.weight"),
        ("body.pth", "backbone.3.bias"),
    ):
        model = TorchvisionNetwork(recipe.model, ("a",))
        model.load_pretrained(tmp_path / name)
        own = model.network.state_dict()
        for key in ("backbone.0.weight", also):
            assert torch.equal(own[key], source[key])
    with pytest.raises(CheckpointError, match="0 of its tensors fit"):
        model.load_pretrained(tmp_path / "foreign.pth")


def test_what_would_have_no_effect_is_refused(recipe: Recipe) -> None:
    with pytest.raises(ConfigError, match=r"computes torchvision's own loss.*wanted the defaults"):
        replace(recipe, loss=LossConfig(selection=RatioConfig(floor=3)))
    with pytest.raises(ConfigError, match="got 'fasterrcnn', no model of torchvision's"):
        TorchvisionNetwork(TorchvisionConfig(name="fasterrcnn"), ("a",))
    with pytest.raises(ConfigError, match="'mobilenet_v2', wanted one of torchvision's detectors"):
        TorchvisionNetwork(TorchvisionConfig(name="mobilenet_v2"), ("a",))
    with pytest.raises(ConfigError, match=r"has no module 'backbone\.nine'"):
        TorchvisionNetwork(
            TorchvisionConfig(name=TINY_FASTERRCNN, frozen=("backbone.nine",)), ("a",)
        )


def test_the_recipe_survives_being_written_down() -> None:
    recipe = fasterrcnn_resnet50_fpn()
    assert recipe_from_dict(recipe_to_dict(recipe)) == recipe
    assert (recipe.resize.height, recipe.resize.fill) == (480, (124, 116, 104))


def test_it_replaces_another_network_in_a_recipe() -> None:
    """Naming one suffices: the loss of the network before it (a floor of 16) goes with that network."""
    base = named_recipe("ssdlite320_mobilenet_v2")
    values: dict[str, Any] = {"model": {"kind": "torchvision", "name": TINY_FASTERRCNN}}
    recipe = recipe_from_dict(values, base)
    assert (recipe.model.name, recipe.loss) == (TINY_FASTERRCNN, LossConfig())
    with pytest.raises(ConfigError, match="computes torchvision's own loss"):
        recipe_from_dict({**values, "loss": {"box_weight": 2.0}}, base)


def test_a_checkpoint_of_another_architecture(
    squares: Dataset, recipe: Recipe, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    path = fit(squares, tiny_recipe, tmp_path, steps=1)
    assert isinstance(recipe.model, TorchvisionConfig)
    with pytest.raises(CheckpointError, match=f"'tiny' do not fit '{TINY_FASTERRCNN}'"):
        load_weights_into(TorchvisionNetwork(recipe.model, ("square",)), path)
