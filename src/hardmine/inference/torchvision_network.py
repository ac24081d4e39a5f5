"""torchvision's networks as detectors: anybody's by name, and our checkpoints of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hardmine.data.resize import Resize
from hardmine.inference.detector import BatchScores, top_scores
from hardmine.types import Detections

Found = list[dict[str, Tensor]]


class TorchvisionDetector:
    """A network that answers with torchvision's ``boxes``, ``scores`` and ``labels`` of each image."""

    def __init__(
        self,
        network: Callable[[Tensor], Found],
        categories: tuple[str, ...],
        model_id: str,
        resize: Resize,
        device: torch.device,
    ) -> None:
        """Take a network for u8[B, 3, H, W] on ``device``, in evaluation mode."""
        self._network = network
        self._device = device
        self.categories = categories
        self.model_id = model_id
        self.resize = resize

    def score(self, images: Tensor) -> BatchScores:
        """Return the best detection of each image: these networks have no cheaper score."""
        return top_scores(self.detect(images))

    @torch.inference_mode()
    def detect(self, images: Tensor) -> list[Detections]:
        """Return detections in canvas pixels, best first."""
        return [_to_detections(found) for found in self._network(images.to(self._device))]

    def score_and_detect(
        self, images: Tensor, floor: float
    ) -> tuple[BatchScores, list[Detections]]:
        """Return scores, and the detections of the images that reach ``floor``, from one run."""
        found = self.detect(images)
        top = top_scores(found)
        reached = (top.scores >= floor).tolist()
        return top, [d if r else Detections.none() for d, r in zip(found, reached, strict=True)]


def _to_detections(found: dict[str, Tensor]) -> Detections:
    scores, order = found["scores"].float().sort(descending=True, stable=True)
    boxes, labels = found["boxes"].float()[order], found["labels"][order]
    return Detections(boxes.cpu().numpy(), scores.cpu().numpy(), labels.cpu().numpy())
