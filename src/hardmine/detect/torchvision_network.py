"""Our checkpoints of torchvision's networks as detectors."""

from __future__ import annotations

import torch
from torch import Tensor

from hardmine.data.resize import Resize
from hardmine.detect.detector import BatchScores
from hardmine.model.decode import DecodeConfig
from hardmine.model.torchvision_network import TorchvisionNetwork
from hardmine.training.recipe import Recipe
from hardmine.types import Detections


class TorchvisionNetworkDetector:
    """A trained torchvision network on one device, decoded by torchvision within the recipe's limits."""

    def __init__(
        self, model: TorchvisionNetwork, recipe: Recipe, model_id: str, device: torch.device
    ) -> None:
        self._model: TorchvisionNetwork = model.eval().to(device)
        assert isinstance(recipe.decode, DecodeConfig)  # the recipe sees to it
        self._model.set_limits(recipe.decode)
        self._resize = recipe.resize
        self._model_id = model_id
        self._device = device

    @property
    def categories(self) -> tuple[str, ...]:
        """Class names."""
        return self._model.categories

    @property
    def model_id(self) -> str:
        """Digest of the weights file."""
        return self._model_id

    @property
    def resize(self) -> Resize:
        """The resize of the training run."""
        return self._resize

    def score(self, images: Tensor) -> BatchScores:
        """Return each image's best detection: there is no cheaper score. Nothing found scores 0."""
        return _best(self.detect(images))

    @torch.inference_mode()
    def detect(self, images: Tensor) -> list[Detections]:
        """Return detections in canvas pixels, best first."""
        return [_to_detections(found) for found in self._model(images.to(self._device))]

    def score_and_detect(
        self, images: Tensor, floor: float
    ) -> tuple[BatchScores, list[Detections]]:
        """Return scores, and the detections of the images that reach ``floor``, from one run."""
        found = self.detect(images)
        scores = _best(found)
        reached = (scores.scores >= floor).tolist()
        pairs = zip(found, reached, strict=True)
        return scores, [item if fires else Detections.none() for item, fires in pairs]


def _to_detections(found: dict[str, Tensor]) -> Detections:
    scores, order = found["scores"].float().sort(descending=True, stable=True)
    boxes, labels = found["boxes"].float()[order], found["labels"][order]
    return Detections(boxes.cpu().numpy(), scores.cpu().numpy(), labels.cpu().numpy())


def _best(found: list[Detections]) -> BatchScores:
    scores = torch.tensor([float(item.scores[0]) if len(item) else 0.0 for item in found])
    labels = torch.tensor([int(item.labels[0]) if len(item) else 1 for item in found])
    return BatchScores(scores, labels, torch.full((len(found),), -1))
