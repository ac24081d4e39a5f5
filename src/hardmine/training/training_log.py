"""The training log: the figures of each step, which become the rows of ``log.csv``."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hardmine.errors import DataError
from hardmine.losses.multibox_loss import Loss

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
            DataError: a loss that is not finite; the message names the step and its images.
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
                    f"training: loss {total} at step {step - 1}, images {image_ids.tolist()}; "
                    "lower optim.lr"
                )
            values = [round(value, 6) for value in (total, classification, localisation)]
            row = [step, *values, int(positives), int(negatives), lr]
            self.rows.append(row)
            self.tell(dict(zip(FIELDS[1:], row[1:], strict=True)), step)

    def text(self) -> str:
        """Return all rows as CSV."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(FIELDS)
        writer.writerows(self.rows)
        return text.getvalue()
