"""torchvision's detection networks behind the protocol: anybody's by name, and our checkpoints.

`whose_weights` finds whose weights a PyTorch file holds, torchvision's or another framework's, without
running anything in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hardmine.data.resize import Resize
from hardmine.detections import Detections
from hardmine.errors import CheckpointError, ConfigError
from hardmine.inference.class_names import choose_classes
from hardmine.inference.detector import BatchScores, make_model_id, top_scores
from hardmine.inference.predict import PredictMixin
from hardmine.models.state_dict import code_in, load_plain, plain_state, read_state_dict
from hardmine.recipes.checkpoint import file_digest

Found = list[dict[str, Tensor]]

SCORE_FLOOR = 0.01
"""Detections below are not returned; torchvision's own floor of .05 would hide what ranking needs."""

_DEFAULT_SIDE = 800
_SEED = 0


class TorchvisionDetector(PredictMixin):
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


def load_torchvision(
    name: str,
    weights: str,
    device: torch.device,
    *,
    classes: Sequence[str] | None = None,
    side: int | None = None,
) -> TorchvisionDetector:
    """Build one of torchvision's detection models, on a canvas that its own transform leaves alone.

    Args:
        name: such as ``fasterrcnn_resnet50_fpn``.
        weights: a file with a state dict, ``none`` for random ones (fixed seed), or the name of
            torchvision's own (``COCO_V1``, ``DEFAULT``), which are downloaded.
        classes: names of the labels 1, 2, …; those of the model's COCO weights when not given.
        side: canvas side in pixels; SSD models have their own, the others 800 unless given.

    Raises:
        ConfigError: no such model or weights, or a number of classes that does not fit them.
        CheckpointError: unreadable weights, or those of another model.
    """
    from torchvision.models import get_model

    own = own_weights(name)
    published = (
        None if weights == "none" or Path(weights).exists() else choose_weights(own, weights, name)
    )
    known = _categories(own)
    fixed = tuple(known) if published is not None else None
    names = choose_classes(classes, fixed or (None if classes else known), f"torchvision:{name}")
    torch.manual_seed(_SEED)
    model = get_model(name, weights=published, weights_backbone=None, num_classes=len(names) + 1)
    identity = f"torchvision:{name}:{weights}"
    if published is None and weights != "none":
        _load_state(model, Path(weights), name)
        identity = f"{identity}:{file_digest(Path(weights))}"
    resize = take_over_resize(model, side, name)
    _lower_threshold(model)
    model_id = make_model_id(identity, names, resize, SCORE_FLOOR)
    model.eval().to(device)
    return TorchvisionDetector(
        lambda images: model(list(images / 255.0)), names, model_id, resize, device
    )


def own_weights(name: str) -> Any:
    """Return torchvision's own weights of a detection network, as an enumeration.

    Raises:
        ConfigError: no such network; the known ones.
    """
    from torchvision.models import detection as models
    from torchvision.models import get_model_weights, list_models

    known = list_models(module=models)
    if name not in known:
        raise ConfigError(f"torchvision:{name}: no such detection model; has {', '.join(known)}")
    return get_model_weights(name)


def choose_weights(own: Any, weights: str, name: str) -> Any:
    """Return those of torchvision's own weights that a name means.

    Raises:
        ConfigError: no such weights; the known ones.
    """
    names = [entry.name for entry in own]
    if weights == "DEFAULT":
        return own.DEFAULT
    if weights not in names:
        raise ConfigError(
            f"torchvision:{name}:{weights}: no such file, and not 'none', 'DEFAULT' or one of "
            f"{', '.join(names)}"
        )
    return own[weights]


def _categories(own: Any) -> tuple[str, ...]:
    return tuple(own.DEFAULT.meta["categories"][1:])  # label 0 is background


def _load_state(model: nn.Module, path: Path, name: str) -> None:
    state: Any = (
        read_state_dict(path) if path.suffix == ".safetensors" else load_plain(path, "state dict")
    )
    try:
        model.load_state_dict(plain_state(state))
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise CheckpointError(
            f"{path}: weights do not fit torchvision's {name} ({reason}); if it was trained for other "
            "classes than COCO's, name them with --classes FILE"
        ) from None


def take_over_resize(model: Any, side: int | None, name: str) -> Resize:
    """Return the canvas, and make the model's own transform keep images of that size as they are."""
    transform = model.transform
    mean = tuple(round(255 * value) for value in transform.image_mean)
    fixed = transform.fixed_size
    if fixed is not None:
        if side is not None and (side, side) != tuple(fixed):
            raise ConfigError(f"torchvision:{name}: takes {fixed[0]} px only, got @{side}")
        return Resize(fixed[1], fixed[0], "stretch")
    chosen = side or _DEFAULT_SIDE
    transform.min_size, transform.max_size = (chosen,), chosen
    return Resize(chosen, chosen, "letterbox", (mean[0], mean[1], mean[2]))


def _lower_threshold(model: Any) -> None:
    target = model.roi_heads if hasattr(model, "roi_heads") else model
    target.score_thresh = SCORE_FLOOR


Maker = Literal["ultralytics", "libreyolo", "rfdetr"]

_LIBREYOLO = frozenset({"libreyolo_version", "model_family"})
_RFDETR = (frozenset({"model", "args", "model_name"}), frozenset({"model", "rfdetr_version"}))


@dataclass(frozen=True, slots=True)
class TorchvisionWeights:
    """A plain state dict of torchvision's network ``name``, trained for ``num_classes`` classes."""

    name: str
    num_classes: int


def whose_weights(path: Path) -> Maker | TorchvisionWeights | None:
    """Return who wrote a PyTorch file, or ``None`` where nothing shows it.

    Raises:
        CheckpointError: damaged.
        ConfigError: the weights fit several of torchvision's networks; they are named.
    """
    names = code_in(path)
    if any(name.startswith("ultralytics.") for name in names):
        return "ultralytics"
    if names and not all(name.startswith("argparse.") for name in names):
        return None
    try:
        tree = load_plain(path, "weights file")
    except CheckpointError:
        if names:  # older RF-DETR checkpoints hold their arguments as argparse's own type
            return "rfdetr"
        raise
    if not isinstance(tree, Mapping):
        return None
    keys = frozenset(map(str, tree))
    if keys >= _LIBREYOLO:
        return "libreyolo"
    if any(keys >= wanted for wanted in _RFDETR):
        return "rfdetr"
    found = _torchvision(plain_state(tree), path)
    if found is None:
        _refuse_framework(tree, path)
    return found


_FRAMEWORKS = (
    ("roi_heads.", "detectron2"),
    ("proposal_generator.", "detectron2"),
    ("backbone.bottom_up.", "detectron2"),
    ("bbox_head.", "mmdetection"),
    ("rpn_head.", "mmdetection"),
    ("roi_head.", "mmdetection"),
)
"""How a tensor's name begins in the weights of frameworks that cannot be run here, and whose it is."""


def _refuse_framework(tree: Mapping[Any, Any], path: Path) -> None:
    """Refuse weights whose names show a framework that is not run here, and say what to do.

    Raises:
        CheckpointError: they are those of detectron2, mmdetection or Lightning.
    """
    names = list(map(str, plain_state(tree)))
    found = next((f for start, f in _FRAMEWORKS if any(n.startswith(start) for n in names)), "")
    if not found and "pytorch-lightning_version" in tree:
        found = "Lightning"
    if found:
        raise CheckpointError(
            f"{path}: looks like weights of {found}, which do not hold the network itself; predict "
            f"with {found} and name the file of detections (COCO results) here, or export the model to "
            "ONNX and name the .onnx file"
        )


def _torchvision(state: Mapping[str, Tensor], path: Path) -> TorchvisionWeights | None:
    """Find the networks that have these tensors, whatever their number of classes."""
    from torchvision.models import detection as models
    from torchvision.models import get_model, list_models

    family = next(
        (names for part, names in _FAMILIES.items() if any(part in k for k in state)), None
    )
    if family is None:
        return None
    fitting: dict[str, int] = {}
    for name in list_models(module=models):
        if not name.startswith(family):
            continue
        with torch.device("meta"):
            network = get_model(name, weights=None, weights_backbone=None)
        count = _num_classes(network.state_dict(), state)
        if count is not None:
            fitting[name] = count
    if len(fitting) > 1:
        forms = ", ".join(f"torchvision:{name}:{path}" for name in fitting)
        raise ConfigError(f"{path}: these weights fit several networks; name one of {forms}")
    return next((TorchvisionWeights(name, count) for name, count in fitting.items()), None)


def _num_classes(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> int | None:
    """Return how many classes weights are for, or ``None`` where they are another network's.

    ``own`` is the network for COCO: its tensors that depend on the classes have 91 × n rows.
    """
    if own.keys() != state.keys():
        return None
    counts = set()
    for key, value in own.items():
        rows, found = value.shape, state[key].shape
        if rows == found:
            continue
        each = rows[0] // _COCO_ROWS if rows and rows[0] % _COCO_ROWS == 0 else 0
        if rows[1:] != found[1:] or not each or found[0] % each:
            return None
        counts.add(found[0] // each - 1)
    if len(counts) > 1:
        return None
    return counts.pop() if counts else _COCO_ROWS - 1


_FAMILIES: Mapping[str, tuple[str, ...]] = {
    "roi_heads.mask_": ("maskrcnn",),
    "roi_heads.box_": ("fasterrcnn",),
    "head.classification_head.module_list.": ("ssd",),
    "head.classification_head.cls_logits.": ("fcos", "retinanet"),
}
"""What the names of torchvision's detection networks begin with, by a part of a tensor's name."""

_COCO_ROWS = 91
"""Classes of torchvision's published weights, with the background."""
