"""Training of networks that compute their own loss: those of ``transformers`` and of torchvision.

One plain loop for both: AdamW with a warm-up and a cosine to zero, batches drawn without replacement
epoch by epoch, every second picture mirrored. Order, mirroring and weights derive from the seed. An
image without objects is a target without boxes; how much it teaches is the network's own loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hardmine.data.images import read_picture
from hardmine.device import count_workers
from hardmine.errors import CheckpointError, ConfigError, HardmineError
from hardmine.files import write_atomic
from hardmine.inference.image_loading import count_cores, run_ordered
from hardmine.types import F32, I64, U8
from hardmine.workflows.trainer_data import LabelledImage, LabelledImages, TrainingTask, coco_rows

_WARM_UP = 0.05
_WEIGHT_DECAY = 1e-4
_CLIP = 1.0
_SAYS = 20
"""Steps between two lines of the log."""
_HF_RATE, _TORCHVISION_RATE = 1e-4, 2e-4
"""Highest learning rates: DETR's own, and twice that for torchvision's networks."""


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A picture u8[H, W, 3] RGB with boxes f32[N, 4] xyxy in its pixels and class numbers from 0."""

    image_id: int
    pixels: U8
    boxes: F32
    numbers: I64

    def mirrored(self) -> Example:
        """Return it with left and right exchanged."""
        boxes = self.boxes.copy()
        boxes[:, [0, 2]] = self.pixels.shape[1] - self.boxes[:, [2, 0]]
        pixels = np.ascontiguousarray(self.pixels[:, ::-1])
        return Example(self.image_id, pixels, boxes, self.numbers)


LossOf = Callable[[Sequence[Example]], Tensor]
"""The loss of a network in training mode on a batch, one number."""
Load = Callable[[LabelledImage], tuple[U8, F32]]
"""A picture as the network takes it, and its boxes in the pixels of that."""


def train_by_loss(
    network: nn.Module,
    loss_of: LossOf,
    data: LabelledImages,
    load: Load,
    task: TrainingTask,
    rate: float,
) -> None:
    """Train a network in place.

    Args:
        rate: highest learning rate.

    Raises:
        DataError: there is no image, or one cannot be read.
        HardmineError: the loss is no number.
    """
    data.require(task.train_json)
    steps = task.count_steps(len(data.images))
    weights = [value for value in network.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate_at(step, steps))
    network.train()
    for step, batch in enumerate(_batches(data, load, task, steps), start=1):
        loss = loss_of(batch)
        if not math.isfinite(float(loss.detach())):
            raise HardmineError(f"step {step} of {steps}: the loss is {float(loss.detach())}")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(weights, _CLIP)
        optimizer.step()
        schedule.step()
        if step % _SAYS == 0 or step == steps:
            print(f"step {step} of {steps}: loss {float(loss.detach()):.4f}", flush=True)  # noqa: T201


def _rate_at(step: int, steps: int) -> float:
    warm_up = max(1, round(_WARM_UP * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def _batches(
    data: LabelledImages, load: Load, task: TrainingTask, steps: int
) -> Iterator[list[Example]]:
    """Yield the batches of a training, read in threads ahead of it."""

    def read(drawn: Sequence[tuple[int, bool]]) -> list[Example]:
        """Read the images of a batch."""
        examples = []
        for index, mirror in drawn:
            image = data.images[index]
            pixels, boxes = load(image)
            example = Example(index, pixels, boxes, image.numbers)
            examples.append(example.mirrored() if mirror else example)
        return examples

    drawn = draw_batches(len(data.images), min(task.batch, len(data.images)), steps, task.seed)
    yield from run_ordered(drawn, read, count_workers(count_cores()))


def draw_batches(
    images: int, batch: int, steps: int, seed: int
) -> Iterator[list[tuple[int, bool]]]:
    """Yield for each step the images drawn, by number, and whether each is mirrored.

    Each epoch is a permutation of all images; a batch may end one and begin the next.
    """
    waiting: list[int] = []
    generator = np.random.default_rng(seed)
    for _ in range(steps):
        while len(waiting) < batch:
            waiting += generator.permutation(images).tolist()
        drawn, waiting = waiting[:batch], waiting[batch:]
        yield list(zip(drawn, (generator.random(batch) < 0.5).tolist(), strict=True))


def train_huggingface(task: TrainingTask) -> None:
    """Train a model of ``AutoModelForObjectDetection`` and save it as ``save_pretrained`` does.

    Raises:
        CheckpointError: the folder holds no detection model or no image processor.
    """
    from hardmine.inference.framework_detectors import import_framework, unreadable

    package = import_framework("transformers", f"trainer hf:{task.model}")
    data = LabelledImages.read(task.train_json)
    torch.manual_seed(task.seed)
    start = task.start
    name = str(start.parent if start is not None and start.is_file() else start or task.model)
    try:
        model, processor = _huggingface_model(package, name, data.names)
    except Exception as error:  # noqa: BLE001  (its errors have no common root)
        raise unreadable(name, "transformers", error) from None
    if task.side is not None:
        processor.size = _sized(processor.size, task.side)
    model.to(task.device)

    def loss_of(batch: Sequence[Example]) -> Tensor:
        """Return the network's own loss of a batch, a scalar."""
        annotations = [
            {"image_id": one.image_id, "annotations": coco_rows(_as_image(one), one.image_id)}
            for one in batch
        ]
        pictures = [torch.from_numpy(one.pixels).permute(2, 0, 1) for one in batch]
        inputs = processor(images=pictures, annotations=annotations, return_tensors="pt")
        labels = [
            {key: value.to(task.device) for key, value in label.items()}
            for label in inputs.pop("labels")
        ]
        loss: Tensor = model(**inputs.to(task.device), labels=labels).loss
        return loss

    train_by_loss(model, loss_of, data, _whole_picture, task, _HF_RATE)
    folder = task.weights_out.parent
    processor.save_pretrained(folder)
    model.save_pretrained(folder, max_shard_size="100GB")  # one file, for the loop to find


def _huggingface_model(package: Any, name: str, names: Sequence[str]) -> tuple[Any, Any]:
    """Return the model with these classes, and its image processor; without weights: random ones."""
    folder = Path(name)
    here = folder.is_dir()
    config = package.AutoConfig.from_pretrained(name, local_files_only=here)
    config.id2label = dict(enumerate(names))
    config.label2id = {label: number for number, label in enumerate(names)}
    processor = package.AutoImageProcessor.from_pretrained(name, local_files_only=here)
    kind = package.AutoModelForObjectDetection
    if here and not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        if getattr(config, "use_pretrained_backbone", False):
            config.use_pretrained_backbone = False  # it would be downloaded
        return kind.from_config(config, dtype=torch.float32), processor
    model = kind.from_pretrained(
        name,
        config=config,
        local_files_only=here,
        dtype=torch.float32,
        ignore_mismatched_sizes=True,  # of the layer for the classes
    )
    return model, processor


def _sized(size: Any, side: int) -> dict[str, int]:
    """Return what an image processor resizes to, in its own words, for another side in pixels."""
    values = {key: value for key, value in dict(size).items() if value is not None}
    if "height" in values:
        return {"height": side, "width": side}
    if "shortest_edge" in values and "longest_edge" in values:
        longest = round(side * values["longest_edge"] / values["shortest_edge"])
        return {"shortest_edge": side, "longest_edge": longest}
    raise ConfigError(f"trainer: an image processor with the size {values} takes no @{side}")


def _as_image(example: Example) -> LabelledImage:
    height, width = example.pixels.shape[:2]
    return LabelledImage(Path(), width, height, example.boxes, example.numbers)


def _whole_picture(image: LabelledImage) -> tuple[U8, F32]:
    return np.array(read_picture(image.path).pixels), image.boxes


def train_torchvision(task: TrainingTask) -> None:
    """Train one of torchvision's detection networks on the canvas on which it will detect.

    Raises:
        ConfigError: no such network or weights.
        CheckpointError: weights that cannot be read, or fit nothing of the network.
    """
    from torchvision.models import get_model

    from hardmine.inference.torchvision_detector import own_weights, take_over_resize

    name, _, weights = task.model.partition(":")
    own = own_weights(name)
    data = LabelledImages.read(task.train_json)
    torch.manual_seed(task.seed)
    network = get_model(name, weights=None, weights_backbone=None, num_classes=len(data.names) + 1)
    if task.start is not None:
        _fill(network, task.start, name)
    elif weights not in ("", "none"):
        _fill_with(network, weights, own, name)
    resize = take_over_resize(network, task.side, name)
    network.to(task.device)

    def load(image: LabelledImage) -> tuple[U8, F32]:
        pixels, placement = resize.apply(read_picture(image.path, resize.decoded_cover))
        return np.array(pixels), placement.forward(image.boxes)  # torch wants it writable

    def loss_of(batch: Sequence[Example]) -> Tensor:
        images = [
            torch.from_numpy(one.pixels).to(task.device).permute(2, 0, 1) / 255 for one in batch
        ]
        return torch.stack(list(network(images, _targets(batch, task.device)).values())).sum()

    train_by_loss(network, loss_of, data, load, task, _TORCHVISION_RATE)
    state = {key: value.cpu() for key, value in network.state_dict().items()}
    write_atomic(task.weights_out, lambda place: torch.save(state, place))


def _targets(batch: Sequence[Example], device: torch.device) -> list[dict[str, Tensor]]:
    """Return torchvision's targets: boxes f32[N, 4], for no object [0, 4], and labels from 1."""
    targets = []
    for one in batch:
        real = (one.boxes[:, 2:] > one.boxes[:, :2]).all(axis=1)  # others are an error there
        boxes, labels = one.boxes[real].reshape(-1, 4), one.numbers[real] + 1
        pair = {"boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(labels)}
        targets.append({key: value.to(device) for key, value in pair.items()})
    return targets


def _fill_with(network: nn.Module, weights: str, own: Any, name: str) -> None:
    """Start from a file, or from weights that torchvision downloads by their name."""
    if Path(weights).exists():
        _fill(network, Path(weights), name)
        return
    from hardmine.inference.torchvision_detector import choose_weights

    _take_fitting(network, choose_weights(own, weights, name).get_state_dict(), weights)


def _fill(network: nn.Module, path: Path, name: str) -> None:
    from hardmine.models.state_dict import load_plain, plain_state, read_state_dict

    safe = path.suffix == ".safetensors"
    state = read_state_dict(path) if safe else plain_state(load_plain(path, "state dict"))
    _take_fitting(network, state, f"{path}: {name}")


def _take_fitting(network: nn.Module, state: Any, where: str) -> None:
    """Take the tensors that fit: the predictors are other ones where the classes are."""
    own = network.state_dict()
    fitting = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape}
    if 2 * len(fitting) < len(own):
        raise CheckpointError(
            f"{where}: {len(fitting)} of its tensors fit {len(own)}, wanted at least half"
        )
    network.load_state_dict(fitting, strict=False)
