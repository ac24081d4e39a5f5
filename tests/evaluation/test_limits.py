from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardmine.evaluation.intervals import poisson_limits, poisson_ratio_limits


@pytest.mark.parametrize(
    ("count", "low", "high"),
    # Garwood's table, half the chi-square quantiles: .025 at 2n, .975 at 2n + 2 degrees of freedom
    [
        (0, 0.0, 3.6889),  # −ln .025
        (1, 0.0253, 5.5716),  # −ln .975
        (2, 0.2422, 7.2247),
        (5, 1.6235, 11.6683),
        (10, 4.7954, 18.3904),
        (100, 81.3640, 121.6268),
    ],
)
def test_garwoods_table(count: int, low: float, high: float) -> None:
    assert poisson_limits(count) == pytest.approx((low, high), abs=1e-4)


def test_negative_count() -> None:
    with pytest.raises(ValueError, match="cannot be -1"):
        poisson_limits(-1)


def test_ratio_by_hand() -> None:
    # 0 of 5: share at most 1 − .025^(1/5) = .52182, ratio .52182 / .47818
    low, high = poisson_ratio_limits(0, 5)
    assert low == 0.0
    assert high == pytest.approx(1.09127, abs=1e-4)
    low, high = poisson_ratio_limits(5, 0)
    assert low == pytest.approx(1 / 1.09127, abs=1e-4)
    assert math.isinf(high)
    assert poisson_ratio_limits(0, 0) == (0.0, math.inf)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 60), st.integers(1, 60))
def test_ratio_turned_round(a: int, b: int) -> None:
    low, high = poisson_ratio_limits(a, b)
    assert low < a / b < high
    turned_low, turned_high = poisson_ratio_limits(b, a)
    assert (low, high) == pytest.approx((1 / turned_high, 1 / turned_low), rel=1e-6)
