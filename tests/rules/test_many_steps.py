"""The coefficients of many steps at once are, to the bit, those of each step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpu_adam.casting import store_row
from gpu_adam.dtypes import FLOAT32, FLOAT64, Format
from gpu_adam.kernels.abi import ROW_WORDS
from gpu_adam.rules.algorithm import coefficients
from gpu_adam.rules.hyperparameters import Averaging
from gpu_adam.rules.many import write_coefficients
from tests.support.shipped import OPTIMIZERS

AVERAGES = [{}, {"ema_decay": 0.9}, {"polyak_average": True}]
STEPS = np.unique(np.concatenate((np.arange(1, 70), 2 ** np.arange(7, 34) - 1, 3 ** np.arange(5, 30))))
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "GpuAdam": [
        {},
        {"bias_correction": False},
        {"eps_hat": True},
        {"betas": (0.0, 0.5)},
        {"amsgrad": True, "maximize": True},
    ],
    "GpuSgd": [{"momentum": 0.9, "dampening": 0.1}],
    "GpuAdaGrad": [{"lr_decay": 0.1}],
}
BY_ITSELF = {"GpuNAdam", "GpuSgd"}
"""Rules whose text takes another way for some steps than for others: they are computed one by one."""


@pytest.mark.parametrize("working", [FLOAT32, FLOAT64], ids=str)
@pytest.mark.parametrize("factor", [1.0, 1 / 3, 2.0**-20])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_rule(name: str, factor: float, working: Format) -> None:
    for options in OPTIONS.get(name, [{}]):
        for decay in ({}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "decoupled_weight_decay": True}):
            for average in AVERAGES:
                opt: Any = OPTIMIZERS[name]([np.ones(1)], lr=0.01, **{**options, **decay, **average})
                opt._read_hyperparameters()
                (hyper,) = opt._hyper
                record = hyper.record(opt._averaging, working)
                rows, expected = (np.zeros((len(STEPS), ROW_WORDS), working.dtype) for _ in range(2))
                assert write_coefficients(hyper, record, STEPS, factor, rows) == (name not in BY_ITSELF)
                for place, t in enumerate(STEPS.tolist()):
                    store_row(expected, place, coefficients(hyper, record, t, factor, "group 0"))
                if name not in BY_ITSELF:
                    assert rows.tobytes() == expected.tobytes()


def test_what_is_beyond_the_format_is_left_to_who_computes_one_by_one() -> None:
    opt = OPTIMIZERS["GpuAdam"]([np.ones(1)], lr=1e38, betas=(0.9, 0.999))
    opt._read_hyperparameters()
    (hyper,) = opt._hyper
    record = hyper.record(Averaging(), FLOAT32)
    with np.errstate(all="raise"):
        assert not write_coefficients(hyper, record, np.arange(1, 5), 1.0, np.zeros((4, ROW_WORDS), np.float32))


def test_a_schedule_is_asked_step_by_step() -> None:
    opt = OPTIMIZERS["GpuAdam"]([np.ones(1)], lr=lambda t: 1 / t)
    opt._read_hyperparameters()
    (hyper,) = opt._hyper
    record = hyper.record(Averaging(), FLOAT32)
    assert not write_coefficients(hyper, record, np.arange(1, 5), 1.0, np.zeros((4, ROW_WORDS), np.float32))
