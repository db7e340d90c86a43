"""A state that no steps can have made is refused by name."""

from __future__ import annotations

import numpy as np
import pytest
from reference import DTYPES, assert_same_bits
from shipped import OPTIMIZERS

SQUARES = {
    "GpuAdam": ("exp_avg_sq", "max_exp_avg_sq"),
    "GpuAdaMax": ("exp_inf",),
    "GpuNAdam": ("exp_avg_sq",),
    "GpuAdaGrad": ("sum",),
    "GpuRmsProp": ("square_avg",),
    "GpuAdaDelta": ("square_avg", "acc_delta"),
}


@pytest.mark.parametrize("format", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize(("name", "state"), [(name, state) for name, states in SQUARES.items() for state in states])
def test_a_negative_square_is_refused(name: str, state: str, format: str) -> None:
    rng = np.random.default_rng(len(name))
    p, other = (np.ones((3, 2), DTYPES[format]) for _ in range(2))
    options = {"amsgrad": True} if state == "max_exp_avg_sq" else {}
    opt = OPTIMIZERS[name]({"w": p, "v": other}, **options)  # type: ignore[call-arg]
    opt.step({"w": p, "v": other})
    before = opt.state_dict()
    for value in (-5e-324 if format == "float64" else -1e-45, -1.0, -3e38, -np.inf):
        saved = opt.state_dict()
        saved["state"][1][state][rng.integers(3), rng.integers(2)] = value
        with pytest.raises(ValueError, match=rf"state_dict's {state} of parameter 'v' has -.*: must be at least 0"):
            opt.load_state_dict(saved)
        after = opt.state_dict()
        for k in (0, 1):
            assert_same_bits(after["state"][k][state], before["state"][k][state], state)
    saved = opt.state_dict()
    saved["state"][1][state][:2] = [-0.0, np.nan], [np.inf, 0.0]
    opt.load_state_dict(saved)
