"""Options of ``mine`` that say how a pool is scanned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from hardmine.detect.detector import Detector

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
        metavar="ADDRESS",
        help="Scan on a Ray cluster: its address, 'auto', or 'local' for this machine.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Say how many images there are and how long it would take."),
]


def estimate(detector: Detector, pool: str, runtime: str, ray: str | None) -> str:
    """Return what a dry run says."""
    from hardmine.pool.estimate import estimate_scan

    where = "" if ray is None else ", on this machine alone"
    return f"{estimate_scan(detector, pool, runtime=runtime)}{where}"
