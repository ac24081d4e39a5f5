"""Gates: limits on measured values that a build pipeline sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hardmine.errors import GateError

if TYPE_CHECKING:
    from hardmine.evaluation.measure import Measurement


def check_gates(
    measurement: Measurement, *, max_alarms: float | None, min_ap50: float | None
) -> None:
    """Hold a measurement to its limits, both inclusive; a value that is undefined meets none.

    Raises:
        GateError: naming every gate that is not met.
    """
    missed: list[str] = []
    if max_alarms is not None:
        part = measurement.primary
        rate = part.at_recall.alarms_per_image if part and part.at_recall else None
        if rate is None or rate > max_alarms:
            got = "recall .8 is not reached" if rate is None else f"{rate:.4g}"
            missed.append(f"alarms per image at recall .8: {got}, wanted at most {max_alarms:g}")
    if min_ap50 is not None:
        ap50 = measurement.ap.ap50
        if ap50 is None or not ap50 >= min_ap50:
            got = "undefined" if ap50 is None else f"{ap50:.4f}"
            missed.append(f"AP50: {got}, wanted at least {min_ap50:g}")
    if missed:
        raise GateError("gate not met: " + "; ".join(missed))
