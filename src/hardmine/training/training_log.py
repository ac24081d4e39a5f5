"""What a training writes of its steps: ``log.csv`` (their figures) and ``telemetry.csv`` (their
negatives).

Telemetry says what the negatives are, level by level, and what they do to the gradient. For each
interval of steps it has one row: how many priors are positive or selected as negatives on each
level, what they cost, how large the gradient is that comes from them, how much the negatives
overlap an object, which class they are taken for, and how much of the gradient images without
objects give. ``hardmine diagnose`` reads it; TensorBoard shows it.

Nothing here changes a training: gradients are looked at by a hook on the network's outputs, no
random number is drawn, and sums stay on the device until an interval ends. On the CPU only the
selected priors are looked at; on an accelerator all are, under weights of 0 and 1, so that no value
is read by the host.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hardmine.errors import DataError
from hardmine.losses.loss_functions import class_loss
from hardmine.losses.multibox_loss import Loss, LossConfig
from hardmine.plurals import some_of
from hardmine.tensors import Batch, Priors, RawOutput, ScoreForm

NUM_LOSSES = 3
"""The first figures of a step are losses; the others are counts."""
FIELDS = ("step", "loss", "classification", "localisation", "positives", "negatives", "lr")


_Step = tuple[int, Tensor, float, Tensor]
_Copy = tuple[list[_Step], Tensor, torch.cuda.Event | None]


@dataclass
class Journal:
    """Collects the figures of steps and reads them from the device ``every`` so many steps.

    Reading a figure waits for all work given to an accelerator before it; done in every step, that
    would leave the accelerator idle while the next step is prepared. So the figures of ``every`` steps
    are copied in one piece while later steps run, and become rows when the next copy starts.
    """

    every: int
    tell: Callable[[Mapping[str, Any], int], None]
    """Called with (figures, step), for trackers."""
    joint: Callable[[Tensor], Tensor] = lambda figures: figures
    """Turns the figures of this process, f32[5], into those of all processes."""
    name_of: Callable[[int], str] = str
    """Turns the place of an image in the data into what a message calls it."""
    rows: list[list[Any]] = field(default_factory=list)
    _pending: list[_Step] = field(default_factory=list)
    _copied: _Copy | None = None

    @property
    def last_loss(self) -> float:
        """The loss of the last step that was read."""
        return float(self.rows[-1][1]) if self.rows else float("nan")

    def note(self, step: int, loss: Loss, lr: float, image_ids: Tensor) -> None:
        """Keep the figures of step ``step`` (from 1).

        Raises:
            DataError: see :meth:`read`.
        """
        figures = torch.stack(
            [
                loss.total.detach().float(),
                loss.classification.float(),
                loss.localisation.float(),
                loss.num_positives.float().to(loss.total.device),
                loss.num_negatives.float().to(loss.total.device),
            ]
        )
        self._pending.append((step, self.joint(figures), lr, image_ids))
        if len(self._pending) < self.every:
            return
        if figures.device.type == "cpu":
            self.read()
        else:
            self._finish_copy()
            self._start_copy()

    def read(self) -> None:
        """Turn what is pending into rows.

        Raises:
            DataError: a loss that is not finite; the message names the step and the first of its images.
        """
        self._finish_copy()
        if self._pending:
            self._start_copy()
            self._finish_copy()

    def _start_copy(self) -> None:
        steps, self._pending = self._pending, []
        figures = torch.stack([figures for _, figures, _, _ in steps])
        if figures.device.type != "cuda":
            self._copied = steps, figures.cpu(), None
            return
        target = torch.empty(figures.shape, dtype=figures.dtype, pin_memory=True)
        target.copy_(figures, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record()
        self._copied = steps, target, done

    def _finish_copy(self) -> None:
        if self._copied is None:
            return
        (steps, table, done), self._copied = self._copied, None
        if done is not None:
            done.synchronize()
        for (step, _, lr, image_ids), figures in zip(steps, table.tolist(), strict=True):
            total, classification, localisation, positives, negatives = figures
            if not math.isfinite(total):
                raise DataError(
                    f"training: loss {total} at step {step}, {self._named(image_ids)}; lower optim.lr"
                )
            values = [round(value, 6) for value in (total, classification, localisation)]
            row = [step, *values, int(positives), int(negatives), lr]
            self.rows.append(row)
            self.tell(dict(zip(FIELDS[1:], row[1:], strict=True)), step)

    def _named(self, image_ids: Tensor) -> str:
        names = [self.name_of(place) for place in image_ids.tolist()]
        return f"with the images {some_of(names, _IMAGES_NAMED)}"

    def text(self) -> str:
        """Return all rows as CSV."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(FIELDS)
        writer.writerows(self.rows)
        return text.getvalue()


IOU_EDGES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
"""Negatives are counted by their IoU with the nearest object: exactly 0, then above each edge."""

_IMAGES_NAMED = 3
_ROWS = 60
_SHORTEST, _LONGEST = 5, 50
_TRACKED_BYTES = 8 << 20
"""Memory for how often each prior of an image was selected; images beyond it are not tracked."""
_NOTED_VISITS = 255
"""Visits of an image that are noted, which is what a byte counts to."""

_LEVEL = (
    "positives",
    "negatives",
    "positive_loss",
    "negative_loss",
    "iou",
    "positive_gradient",
    "negative_gradient",
    "box_gradient",
    "tracked",
    "repeated",
    "floor_negatives",
)
_STEP = (
    "steps",
    "images",
    "images_without_objects",
    "floor_images",
    "gradient",
    "gradient_without_objects",
    "class_gradient",
    "box_gradient",
)
_PEAK = ("class_gradient_max", "box_gradient_max")


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """The priors of a batch that are looked at: ``at`` i64[N] into the flattened priors of all images,
    ``image`` and ``prior`` i64[N], and f32[N] weights, 1 where the prior is a positive or a negative.
    """

    at: Tensor
    image: Tensor
    prior: Tensor
    positive: Tensor
    negative: Tensor
    iou_bin: Tensor


def read_telemetry(path: Path) -> tuple[dict[str, float | str | None], ...]:
    """Return the rows of a ``telemetry.csv``; none where there is no such file.

    Numbers are floats; what is not defined is None. A row that is cut short is left out.
    """
    if not path.exists():
        return ()
    with path.open(encoding="utf-8", newline="") as stream:
        return tuple(
            {name: _value(text) for name, text in row.items()}
            for row in csv.DictReader(stream)
            if None not in row.values()
        )


def _value(text: str | None) -> float | str | None:
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        return text


def interval(total: int) -> int:
    """Return after how many steps of ``total`` a row is written."""
    return min(_LONGEST, max(_SHORTEST, math.ceil(total / _ROWS)))


class Telemetry:
    """Watches the losses of a run and keeps the rows of ``telemetry.csv``.

    Under several processes each sums its own part of the batches; the parts are added when a row is
    made. The norm of a step's gradient is that of the joint batch.

    Args:
        num_images: of the training set, whose ids the batches carry.
        total: steps of the run.
    """

    def __init__(
        self,
        loss: LossConfig,
        priors: Priors,
        categories: Sequence[str],
        *,
        num_images: int,
        total: int,
    ) -> None:
        self._loss, self._level, self.categories = loss, priors.level, tuple(categories)
        levels, num_priors = len(priors.level_shapes), len(priors.level)
        self._priors = torch.bincount(priors.level.cpu(), minlength=levels).tolist()
        self._every, self._total = interval(total), total
        device = priors.level.device
        counts = {
            "level": (levels, len(_LEVEL)),
            "own": (levels, len(categories), 2),
            "confused": (len(categories),),
            "iou": (len(IOU_EDGES) + 1, 2),
            "step": (len(_STEP),),
        }
        self._sums = {name: torch.zeros(size, device=device) for name, size in counts.items()}
        self._peaks = torch.zeros(len(_PEAK), device=device)
        self._squares = torch.zeros(len(_PEAK), device=device)
        """Of the step at work: squared norms of its gradients, as far as this process has them."""
        tracked = min(num_images, _TRACKED_BYTES // max(1, num_priors))
        self._chosen = torch.zeros(tracked, num_priors, dtype=torch.uint8, device=device)
        self._visits = torch.zeros(tracked, device=device)
        self._edges = torch.tensor(IOU_EDGES, device=device)
        self.rows: list[dict[str, Any]] = []

    @torch.no_grad()
    def watch(self, output: RawOutput, batch: Batch, loss: Loss) -> None:
        """Look at a loss before its backward pass; its gradients are looked at when they come."""
        assert loss.assignment is not None
        assert loss.selection is not None
        rows = self._rows(loss)
        filled = self._count_images(batch, loss)
        self._add_levels(rows, output, loss, filled)
        self._add_repeats(rows, batch)
        empty = ~((batch.labels > 0) & ~batch.ignore).any(1)
        if output.class_logits.requires_grad:
            see = partial(self._see_class_gradient, rows, empty)
            output.class_logits.register_hook(see)  # type: ignore[no-untyped-call]
        if output.box_deltas.requires_grad:
            see = partial(self._see_box_gradient, rows)
            output.box_deltas.register_hook(see)  # type: ignore[no-untyped-call]

    def finish_step(self, step: int) -> Mapping[str, float] | None:
        """Return the figures of an interval that ends with ``step`` (from 1), for trackers.

        Every process has to call it after every step.
        """
        norms = _joint(self._squares)[0].sqrt()
        self._sums["step"][-len(norms) :] += norms
        torch.maximum(self._peaks, norms, out=self._peaks)
        self._squares.zero_()
        if step % self._every and step != self._total:
            return None
        row = self._row(step)
        self.rows.append(row)
        return {
            name: value
            for name, value in row.items()
            if isinstance(value, int | float) and name != "step" and ".own." not in name
        }

    def text(self) -> str:
        """Return all rows as CSV; what is not defined is left empty."""
        text = io.StringIO()
        names = list(self.rows[-1]) if self.rows else ["step"]  # earlier versions wrote fewer
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run goes on with."""
        return {
            "rows": self.rows,
            "sums": self._sums,
            "peaks": self._peaks,
            "chosen": self._chosen,
            "visits": self._visits,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state_dict``'s values."""
        self.rows = list(state["rows"])
        for name, value in state["sums"].items():
            if self._sums[name].shape == value.shape:  # an earlier version counted fewer things
                self._sums[name].copy_(value)
        self._peaks.copy_(state["peaks"])
        self._chosen.copy_(state["chosen"])
        self._visits.copy_(state["visits"])

    def _rows(self, loss: Loss) -> _Rows:
        assert loss.assignment is not None
        assert loss.selection is not None
        positive, negative = loss.selection.positives, loss.selection.negatives
        num_priors = positive.shape[1]
        if _gathers(positive):
            at = (positive | negative).flatten().nonzero()[:, 0]
        else:
            at = torch.arange(positive.numel(), device=positive.device)
        iou = loss.assignment.iou.flatten()[at]
        # Exactly 0 is bin 0; (0, .1] is bin 1, and so on.
        bins = torch.bucketize(iou, self._edges)
        return _Rows(
            at,
            at // num_priors,
            at % num_priors,
            positive.flatten()[at].float(),
            negative.flatten()[at].float(),
            bins,
        )

    def _count_images(self, batch: Batch, loss: Loss) -> Tensor:
        """Count the images; return which have their negatives from the floor, bool[B]."""
        assert loss.selection is not None
        rule = self._loss.selection
        positives, negatives = loss.selection.positives.sum(1), loss.selection.negatives.sum(1)
        ratio, floor = rule.negatives_per_positive, getattr(rule, "floor", 0)
        filled = torch.zeros_like(positives, dtype=torch.bool)
        if ratio is not None and floor:
            filled = (negatives <= floor) & (negatives > (positives * ratio).floor())
        empty = ~((batch.labels > 0) & ~batch.ignore).any(1)
        counts = self._sums["step"]
        counts[0] += 1
        counts[1] += len(batch.labels)
        counts[2] += empty.sum()
        counts[3] += filled.sum()
        return filled

    def _add_levels(self, rows: _Rows, output: RawOutput, loss: Loss, filled: Tensor) -> None:
        assert loss.assignment is not None
        logits = output.class_logits.detach().flatten(0, 1).index_select(0, rows.at).float()
        labels = loss.assignment.labels.flatten()[rows.at]
        costs = class_loss(logits, labels, self._loss.classification)
        if output.score_form is ScoreForm.SOFTMAX:
            scores = logits.softmax(-1)[:, 1:]
        else:
            scores = logits.sigmoid()
        iou = loss.assignment.iou.flatten()[rows.at]
        level = self._level[rows.prior]
        found = torch.stack(
            [
                rows.positive,
                rows.negative,
                costs * rows.positive,
                costs * rows.negative,
                iou * rows.negative,
            ],
            1,
        )
        table = self._sums["level"]
        table[:, :5] += _by(level, found, len(table))
        from_floor = (rows.negative * filled[rows.image])[:, None]
        table[:, 10:11] += _by(level, from_floor, len(table))
        classes = len(self.categories)
        own = (labels - 1).clamp(min=0)
        score = scores.gather(1, own[:, None])[:, 0]
        flat = self._sums["own"].view(-1, 2)
        pairs = torch.stack([rows.positive, score * rows.positive], 1)
        flat += _by(level * classes + own, pairs, len(flat))
        negative = rows.negative[:, None]
        self._sums["confused"] += _by(scores.argmax(1), negative, classes)[:, 0]
        self._sums["iou"][:, :1] += _by(rows.iou_bin, negative, len(self._sums["iou"]))

    def _add_repeats(self, rows: _Rows, batch: Batch) -> None:
        """Note of each selected negative in how many of its image's earlier visits it was selected."""
        tracked = len(self._chosen)
        if not tracked:
            return
        inside = batch.image_ids < tracked
        ids = batch.image_ids.clamp(max=tracked - 1)
        at, known = ids[rows.image], (inside & (self._visits[ids] > 0))[rows.image]
        weight = rows.negative * known
        before = self._chosen[at, rows.prior].float() / self._visits[at].clamp(min=1)
        found = torch.stack([weight, weight * before], 1)
        level = self._level[rows.prior]
        self._sums["level"][:, 8:10] += _by(level, found, len(self._sums["level"]))
        after = self._visits.index_add(0, ids, inside.float())
        noted = inside & (after[ids] <= _NOTED_VISITS)
        mine = (rows.negative * noted[rows.image]).to(torch.uint8)
        self._chosen.index_put_((at, rows.prior), mine, accumulate=True)
        self._visits.index_add_(0, ids, noted.float())

    def _see_class_gradient(self, rows: _Rows, empty: Tensor, gradient: Tensor) -> None:
        squares = _squares(gradient, rows)
        level = self._level[rows.prior]
        found = torch.stack([squares * rows.positive, squares * rows.negative], 1)
        table, norms = self._sums["level"], squares.sqrt()
        table[:, 5:7] += _by(level, found, len(table))
        known = (norms * rows.negative)[:, None]
        self._sums["iou"][:, 1:] += _by(rows.iou_bin, known, len(self._sums["iou"]))
        images = squares.new_zeros(len(empty)).index_add(0, rows.image, squares).sqrt()
        step = self._sums["step"]
        step[4] += images.sum()
        step[5] += (images * empty).sum()
        self._squares[0] += squares.sum()

    def _see_box_gradient(self, rows: _Rows, gradient: Tensor) -> None:
        squares = _squares(gradient, rows)
        table = self._sums["level"]
        found = (squares * rows.positive)[:, None]
        table[:, 7:8] += _by(self._level[rows.prior], found, len(table))
        self._squares[1] += squares.sum()

    def _row(self, step: int) -> dict[str, Any]:
        """Return an interval's figures and begin the next one."""
        flat, world = _joint(torch.cat([part.flatten() for part in self._sums.values()]))
        values = flat.tolist()
        peaks = self._peaks.tolist()
        sums: dict[str, Tensor] = {}
        for name, part in self._sums.items():
            head, values = values[: part.numel()], values[part.numel() :]
            sums[name] = torch.tensor(head, dtype=torch.float64).view(part.shape)
            part.zero_()
        self._peaks.zero_()
        found = dict(zip(_STEP, sums["step"].tolist(), strict=True))
        steps = max(1.0, found["steps"])
        row: dict[str, Any] = {
            "step": step,
            "images": int(found["images"]),
            "images_without_objects": int(found["images_without_objects"]),
            "floor_share": _ratio(found["floor_images"], found["images"]),
            "gradient_share_without_objects": _ratio(
                found["gradient_without_objects"], found["gradient"]
            ),
            "class_gradient": _plain(found["class_gradient"] / steps),
            "class_gradient_max": _plain(peaks[0]),
            "box_gradient": _plain(found["box_gradient"] / steps),
            "box_gradient_max": _plain(peaks[1]),
        }
        row |= self._overlaps(sums["iou"])
        total = float(sums["confused"].sum())
        for name, count in zip(self.categories, sums["confused"].tolist(), strict=True):
            row[f"confused.{name}"] = _ratio(count, total)
        for index, level in enumerate(sums["level"].tolist()):
            figures = dict(zip(_LEVEL, level, strict=True))
            row |= self._level_columns(index, figures, sums["own"][index].tolist(), steps / world)
        return row

    @staticmethod
    def _overlaps(table: Tensor) -> dict[str, Any]:
        counts, norms = table.T.tolist()
        names = ["0", *(f"{edge:g}+" for edge in IOU_EDGES)]
        row: dict[str, Any] = {}
        for name, count in zip(names, counts, strict=True):
            row[f"iou_{name}"] = _ratio(count, sum(counts))
        for name, norm in zip(names, norms, strict=True):
            row[f"iou_{name}.gradient"] = _ratio(norm, sum(norms))
        return row

    def _level_columns(
        self, index: int, found: Mapping[str, float], own: list[list[float]], steps: float
    ) -> dict[str, Any]:
        head = f"level{index}"
        positives, negatives = found["positives"], found["negatives"]
        row: dict[str, Any] = {
            f"{head}.priors": self._priors[index],
            f"{head}.positives": int(positives),
            f"{head}.negatives": int(negatives),
            f"{head}.floor_negatives": int(found["floor_negatives"]),
            f"{head}.positive_loss": _ratio(found["positive_loss"], positives),
            f"{head}.negative_loss": _ratio(found["negative_loss"], negatives),
        }
        for name in ("positive_gradient", "negative_gradient", "box_gradient"):
            row[f"{head}.{name}"] = _plain(math.sqrt(found[name] / steps))
        row[f"{head}.iou"] = _ratio(found["iou"], negatives)
        row[f"{head}.repeated"] = _ratio(found["repeated"], found["tracked"])
        for name, (count, score) in zip(self.categories, own, strict=True):
            row[f"{head}.own.{name}.positives"] = int(count)
            row[f"{head}.own.{name}"] = _ratio(score, count)
        return row


def _gathers(values: Tensor) -> bool:
    """Return whether only selected priors are looked at, for which the host has to read values."""
    return values.device.type == "cpu"


def _by(place: Tensor, values: Tensor, places: int) -> Tensor:
    """Return the sums f32[P, F] of ``values`` f32[N, F] over the rows of each place, such as a level.

    Each step is summed for itself: float32 counts by ones to 16.8 million only, which the priors of an
    interval of steps exceed.
    """
    return values.new_zeros(places, values.shape[1]).index_add_(0, place, values)


def _squares(gradient: Tensor, rows: _Rows) -> Tensor:
    """Return the squared norm f32[N] of the joint batch's gradient at each of the rows.

    Gradients of a process are made its number of processes too large, because they are averaged later.
    """
    world = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    found = gradient.flatten(0, 1).index_select(0, rows.at).float()
    return (found / world).square().sum(1)


def _joint(sums: Tensor) -> tuple[Tensor, int]:
    """Return the sums over all processes and the number of processes."""
    if not (dist.is_available() and dist.is_initialized()):
        return sums, 1
    joint = sums.clone()
    dist.all_reduce(joint)
    return joint, dist.get_world_size()


def _ratio(value: float, count: float) -> float | None:
    return _plain(value / count) if count else None


def _plain(value: float) -> float:
    return float(f"{value:.6g}")
