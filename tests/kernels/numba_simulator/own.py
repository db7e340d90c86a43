"""A rule of the user's own, from the optimizer's arguments to the kernels."""

from __future__ import annotations

import numpy as np
import pytest

from gpu_adam.state import placement
from tests.kernels.numba_simulator.machine import SimulatedEngine
from tests.support.own_rule import train


class InHostMemory(SimulatedEngine):
    """The engine as it is, for parameters that are NumPy's."""

    kind = "cpu"


@pytest.mark.parametrize("pack", [False, True])
def simulated_own_rule(monkeypatch: pytest.MonkeyPatch, pack: bool) -> None:
    engine = InHostMemory()
    monkeypatch.setattr(placement, "engine_named", lambda name: engine)
    train(engine.binding.wait, lambda array: engine.machine.bounds.add_array(array.view(np.uint8)), pack=pack)
