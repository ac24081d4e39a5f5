"""What a training run tells of each step: the rows of ``log.csv``."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hardmine.errors import DataError
from hardmine.losses.multibox_loss import Loss

FIELDS = ("step", "loss", "classification", "localisation", "positives", "negatives", "lr")


@dataclass
class Journal:
    """Collects the figures of steps and reads them from the device ``every`` so many steps.

    Reading a figure waits for all work given to an accelerator before it; done in every step, that
    would leave the accelerator idle while the next step is prepared.
    """

    every: int
    tell: Callable[[Mapping[str, Any], int], None]
    """Told (figures, step), for trackers."""
    rows: list[list[Any]] = field(default_factory=list)
    _pending: list[tuple[int, Tensor, float, Tensor]] = field(default_factory=list)

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
        self._pending.append((step, figures, lr, image_ids))
        if len(self._pending) >= self.every:
            self.read()

    def read(self) -> None:
        """Turn what is pending into rows.

        Raises:
            DataError: a loss that is not finite; the message names the step and its images.
        """
        for step, figures, lr, image_ids in self._pending:
            total, classification, localisation, positives, negatives = figures.tolist()
            if not torch.isfinite(torch.tensor(total)):
                raise DataError(
                    f"training: loss {total} at step {step - 1}, images {image_ids.tolist()}; "
                    "lower optim.lr"
                )
            values = [round(value, 6) for value in (total, classification, localisation)]
            row = [step, *values, int(positives), int(negatives), lr]
            self.rows.append(row)
            self.tell(dict(zip(FIELDS[1:], row[1:], strict=True)), step)
        self._pending.clear()

    def text(self) -> str:
        """Return all rows as CSV."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(FIELDS)
        writer.writerows(self.rows)
        return text.getvalue()
