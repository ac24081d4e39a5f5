"""Our own checkpoints as detectors, on torch."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from hardmine.detections import Detections, OperatingPoint
from hardmine.device import choose_device
from hardmine.errors import ConfigError
from hardmine.inference.class_names import choose_classes
from hardmine.inference.detector import BatchScores, make_model_id
from hardmine.inference.predict import LoadedDetector, PredictMixin
from hardmine.inference.torchvision_detector import TorchvisionDetector
from hardmine.models.postprocess import (
    AnyDecodeConfig,
    DecodeConfig,
    decode_detections,
    foreground_scores,
)
from hardmine.models.ssd import SSD, Network
from hardmine.models.torchvision_network import TorchvisionNetwork
from hardmine.recipes.checkpoint import (
    checkpoint_id,
    find_checkpoint,
    load_checkpoint,
    read_operating_point,
)
from hardmine.recipes.recipe import Recipe, apply_settings
from hardmine.tensors import RawOutput

_log = logging.getLogger("hardmine")


class TorchDetector(PredictMixin):
    """An SSD on one device. Everything after the network runs in float32.

    ``network`` gives raw output for u8[B, 3, H, W], ``decode`` holds its limits, ``model_id`` is the
    digest of the weights file, ``resize`` that of the training run.
    """

    def __init__(self, model: SSD, recipe: Recipe, model_id: str, device: torch.device) -> None:
        self.network: SSD = model.eval().to(device)
        self.decode: AnyDecodeConfig = recipe.decode
        self.device = device
        self.categories = model.categories
        self.model_id = model_id
        self.resize = recipe.resize

    @torch.inference_mode()
    def score(self, images: Tensor) -> BatchScores:
        """Return the highest foreground probability over the priors of each image."""
        return self._scores(self._run(images))

    @torch.inference_mode()
    def detect(self, images: Tensor) -> list[Detections]:
        """Return detections in canvas pixels."""
        height, width = images.shape[-2:]
        output = self._run(images)
        return decode_detections(output, self.network.priors, height, width, self.decode)

    @torch.inference_mode()
    def features(self, images: Tensor) -> Tensor:
        """Return f32[B, D], the backbone's last map averaged over the image."""
        return self.network.pooled_features(images.to(self.device))

    @torch.inference_mode()
    def score_and_detect(
        self, images: Tensor, floor: float
    ) -> tuple[BatchScores, list[Detections]]:
        """Return scores, and the detections of the images that reach ``floor``, from one run."""
        height, width = images.shape[-2:]
        output = self._run(images)
        scores = self._scores(output)
        firing = (scores.scores >= floor).nonzero()[:, 0]
        found = [Detections.none() for _ in range(len(images))]
        if len(firing):
            part = firing.to(output.class_logits.device)
            some = RawOutput(output.class_logits[part], output.box_deltas[part], output.score_form)
            decoded = decode_detections(some, self.network.priors, height, width, self.decode)
            for index, detections in zip(firing.tolist(), decoded, strict=True):
                found[index] = detections
        return scores, found

    def _scores(self, output: RawOutput) -> BatchScores:
        scores, label = foreground_scores(output).max(-1)  # [B, A]
        best, prior = scores.max(1)
        level = self.network.priors.level[prior]
        return BatchScores(best.cpu(), label.gather(1, prior[:, None])[:, 0].cpu() + 1, level.cpu())

    def _run(self, images: Tensor) -> RawOutput:
        output: RawOutput = self.network(images.to(self.device))
        return output


def load_checkpoint_detector(
    path: Path,
    device: str | None = None,
    names: Sequence[str] | None = None,
    settings: Sequence[str] = (),
) -> LoadedDetector:
    """Load a checkpoint for inference.

    Args:
        path: a ``.safetensors`` file or a run directory that holds ``last.safetensors``.
        device: a torch device; ``None`` takes CUDA when there is one.
        names: of the classes, over those in the file, in their order. Names that the file has already
            change nothing: a list of the data may have another order.
        settings: of the decoder, such as ``decode.nms_iou=0.6``, in place of those that the model was
            trained with.

    Raises:
        CheckpointError: missing, truncated or foreign.
        ConfigError: no such device, another number of names, or a setting that is none of a decoder.
    """
    path = find_checkpoint(path)
    chosen = choose_device(device)
    model, recipe = load_checkpoint(path)
    model_id, point = checkpoint_id(path), read_operating_point(path)
    decode = _decoder(recipe, settings, path)
    if decode != recipe.decode:
        recipe = replace(recipe, decode=decode)
        model_id = make_model_id(model_id, decode.kind, decode)
        if point is not None:
            _log.warning(
                "%s: its score threshold was chosen with the decoder of its recipe, and is not used "
                "with another one: 'hardmine threshold' chooses one",
                path,
            )
            point = None
    if names is not None and not set(names) <= set(model.categories):
        before = model.categories
        model.categories = choose_classes(names, before, str(path))
        model_id = make_model_id(model_id, list(model.categories))
        point = _rename(point, dict(zip(before, model.categories, strict=True)))
    detector = detector_of(model, recipe, model_id, chosen)
    detector.operating_point = point
    return detector


def _decoder(recipe: Recipe, settings: Sequence[str], path: Path) -> AnyDecodeConfig:
    """Return the decoder of a recipe with the settings laid over it."""
    for setting in settings:
        if not setting.startswith("decode."):
            raise ConfigError(
                f"{path}: got +{setting}, wanted +decode.KEY=VALUE: without a new training only the "
                "decoder can change"
            )
    return apply_settings(recipe, settings).decode


def _rename(point: OperatingPoint | None, new: Mapping[str, str]) -> OperatingPoint | None:
    if point is None:
        return None
    scores = {new.get(name, name): score for name, score in point.per_class.items()}
    return replace(point, per_class=scores)


def detector_of(
    model: Network, recipe: Recipe, model_id: str, device: torch.device
) -> LoadedDetector:
    """Return a network behind the protocol."""
    if isinstance(model, TorchvisionNetwork):
        assert isinstance(recipe.decode, DecodeConfig)  # the recipe sees to it
        model.set_limits(recipe.decode)
        model.eval().to(device)
        return TorchvisionDetector(model, model.categories, model_id, recipe.resize, device)
    return TorchDetector(model, recipe, model_id, device)
