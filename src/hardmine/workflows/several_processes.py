"""A run that several processes share: the first prepares, writes and reports, the others train with it.

``torchrun`` and ``accelerate launch`` start the same command once for each process. Process 0 goes
through the whole run. Whenever it trains, it sends the training to the others, which take part in it and
then wait for the next one. Messages go through gloo on the CPU, also where gradients go through NCCL.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from hardmine.device import process_count, process_index
from hardmine.errors import ConfigError, HardmineError

if TYPE_CHECKING:
    from hardmine.workflows.cached_models import Backend, TrainingRequest

R = TypeVar("R")
_PATIENCE = timedelta(days=30)
"""How long a process waits for the first one, which may mine for days. When a process ends, the
connection breaks and the others end at once, so this limit is for machines that vanish."""


class ReportedError(HardmineError):
    """An error of process 0, which reports it; the other processes only end with it."""


def run_together(work: Callable[[Backend], R], backend: Backend, device: str | None = None) -> R:
    """Do ``work`` in process 0, with trainings that all processes share; return its result in each.

    Args:
        work: called with the backend to train and detect with.
        backend: an external trainer's commands are started by process 0 alone.
        device: "cpu" or "cuda", for all processes; the best there is when not given.

    Raises:
        ConfigError: one numbered device for several processes.
        ReportedError: in the other processes, when process 0 failed.
        HardmineError: another process of the run ended.
    """
    if process_count() == 1:
        return work(backend)
    if device not in (None, "cpu", "cuda"):
        raise ConfigError(
            f"device: got {device} for {process_count()} processes, wanted cpu, cuda or none"
        )
    with _process_group(device):
        if process_index() > 0:
            return cast(R, _take_part(backend))
        return _lead(work, backend)


@dataclass(frozen=True)
class _Done:
    """What process 0 sends at the end: its result, or why it failed."""

    result: Any = None
    reason: str | None = None


def _lead(work: Callable[[Backend], R], backend: Backend) -> R:
    """Go through the run; send each training to the other processes, and the result at the end."""
    in_training = False

    def fit(request: TrainingRequest) -> Path:
        """Train with all processes of the run."""
        nonlocal in_training
        _send(replace(request, progress=None, validate=None))
        in_training = True
        with _lost_process_in_words():
            path = backend.fit(request)
        in_training = False
        return path

    shared = backend if backend.identity is not None else replace(backend, fit=fit)
    try:
        result = work(shared)
    except BaseException as error:
        if not in_training:  # otherwise the others wait inside the training; the launcher ends them
            with suppress(HardmineError):
                _send(_Done(reason=str(error) or type(error).__name__))
        raise
    _send(_Done(result))
    return result


def _take_part(backend: Backend) -> Any:
    """Take part in the trainings of process 0 until it has finished; return its result."""
    while True:
        with _lost_process_in_words():
            message = _receive()
            if not isinstance(message, _Done):
                backend.fit(message)
                continue
        if message.reason is not None:
            raise ReportedError(message.reason)
        return message.result


@contextmanager
def _lost_process_in_words() -> Iterator[None]:
    """Turn torch's errors about a broken connection into one line that says what to do."""
    try:
        yield
    except RuntimeError as error:
        words = str(error).lower()
        if not any(part in words for part in ("connection", "peer", "broken pipe", "nccl error")):
            raise
        raise HardmineError(
            "another process of this run ended; its own message says why. What was saved before is "
            "kept: start the same command again with --resume"
        ) from error


@contextmanager
def _process_group(device: str | None) -> Iterator[None]:
    """Join the processes; leave them again unless they were joined before."""
    import torch
    import torch.distributed as dist

    if dist.is_initialized():
        yield
        return
    on_gpu = torch.cuda.is_available() and device != "cpu"
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=_PATIENCE)
    try:
        yield
    finally:
        from accelerate.state import AcceleratorState, PartialState

        AcceleratorState._reset_state(reset_partial_state=True)
        PartialState._reset_state()
        dist.destroy_process_group()


def _send(message: TrainingRequest | _Done) -> None:
    import torch.distributed as dist

    with _lost_process_in_words():
        dist.broadcast_object_list([_picklable(message)], src=0, device=_cpu())


def _picklable(message: TrainingRequest | _Done) -> TrainingRequest | _Done:
    """Leave out a result that cannot be sent: only process 0 needs it."""
    try:
        pickle.dumps(message)
    except (pickle.PicklingError, TypeError, AttributeError):
        if isinstance(message, _Done):
            return replace(message, result=None)
        raise
    return message


def _receive() -> Any:
    import torch.distributed as dist

    received: list[Any] = [None]
    dist.broadcast_object_list(received, src=0, device=_cpu())
    return received[0]


def _cpu() -> Any:
    import torch

    return torch.device("cpu")
