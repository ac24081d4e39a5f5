"""What every test starts from."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# How quickly a busy machine draws examples says nothing about the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

PRINTED = np.get_printoptions()
"""How numbers are printed before any test imports a package that changes it, as ultralytics does."""


@pytest.fixture(autouse=True)
def usual_numbers() -> None:
    """The examples in docstrings show numbers as numpy prints them."""
    np.set_printoptions(**PRINTED)


@pytest.fixture(autouse=True)
def audible_logs() -> Iterator[None]:
    """The command line takes the package's log for itself; ``caplog`` must hear it in every test.

    Given back before the test as well as after it: a fixture of a whole module that runs a command
    comes before this one and is not undone by it.
    """
    _give_back_the_log()
    yield
    _give_back_the_log()


def _give_back_the_log() -> None:
    logger = logging.getLogger("hardmine")
    logger.setLevel(logging.NOTSET)
    logger.propagate, logger.handlers = True, []
