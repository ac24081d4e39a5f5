"""Options of ``mine`` that say how a pool is scanned."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from hardmine.inference.detector import Detector

_FIND = "find"
_ADDRESS = re.compile(r"auto|local|find|(ray://)?[^/]+:\d+")

Runtime = Annotated[
    Literal["auto", "torch", "openvino", "onnxruntime"],
    typer.Option(
        "--runtime",
        help="What runs the first cut; auto takes OpenVINO on a CPU where it is installed.",
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="[ADDRESS]",
        help="Scan on a Ray cluster: HOST:PORT of its head, 'auto', or 'local' for this machine; "
        "without an address on the cluster that answers, else on this machine.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Say how many images are left and how long they would take."),
]


def fill_in_ray(arguments: Sequence[str]) -> list[str]:
    """Give a ``--ray`` that no address follows its value, so that it does not take the next word."""
    return [
        f"--ray={_FIND}" if word == "--ray" and not _ADDRESS.fullmatch(after) else word
        for word, after in pairwise([*arguments, ""])
    ]


def estimate(detector: Detector, pool: str, out: Path, runtime: str, ray: str | None) -> str:
    """Return what a dry run says."""
    from hardmine.mining.estimate_scan import estimate_scan

    where = "" if ray is None else ", on this machine alone"
    return f"{estimate_scan(detector, pool, out=out, runtime=runtime)}{where}"
