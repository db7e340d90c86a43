from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

# The doctests' collector would import these files in a process where Numba is not the simulator.
collect_ignore_glob = ["*.py"] if os.environ.get("NUMBA_ENABLE_CUDASIM", "0") == "0" else []


@pytest.fixture
def engine() -> Any:
    """The numba engine over the host's memory and the simulator."""
    # Not imported above: without the simulator there is no such machine.
    from tests.kernels.numba_simulator.machine import SimulatedEngine

    return SimulatedEngine()


@pytest.fixture
def numbers() -> Iterator[int]:
    """Seeds that no two tensors share."""
    return iter(range(0, 1_000_000, 100))
