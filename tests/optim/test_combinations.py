"""All options with each other: a random campaign against the written-out arithmetic, and the one table of what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from gpu_adam import GpuAdam, LossScaler
from tests.optim.campaign import Campaign, campaigns, run
from tests.support.strategies import PROVE

REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    # What it is: arguments of the optimizer, of step, and the error.
    "two averages": ({"ema_decay": 0.9, "polyak_average": True}, {}, "choose one of the two"),
    "rows and an average": ({"ema_decay": 0.9}, {"grads": "rows"}, "does not go with an average"),
    "rows and Polyak's average": ({"polyak_average": True}, {"grads": "rows"}, "does not go with an average"),
    "rows and capturable": ({"capturable": True}, {"grads": "rows"}, "does not go with capturable=True"),
    "rows and a stream": ({}, {"grads": "rows", "stream": 7}, "make stream= the current one"),
    "a graph on a CPU": ({"capturable": True}, {"graph": True}, "CPU has no CUDA graphs"),
    "a graph on a CPU without capturable": ({}, {"graph": True}, "CPU has no CUDA graphs"),
    "the groups' norms without measuring": ({}, {"ask": "group_grad_norms"}, "group_norms=True"),
    "the norm without measuring": ({}, {"ask": "grad_norm"}, "no norm was measured"),
    "the average without one": ({}, {"ask": "averaged_params"}, "ema_decay or polyak_average"),
    "a scaler's device": ({}, {"grad_scale": "elsewhere"}, "must be where the parameters are"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_go_together_is_refused_by_name(name: str) -> None:
    options, call, message = REFUSED[name]
    p = np.ones((4, 8), np.float32)
    with pytest.raises((ValueError, RuntimeError), match=message):
        ask(p, options, **call)
    assert (p == 1).all()


def ask(p: np.ndarray, options: dict[str, Any], **call: Any) -> None:
    optimizer = GpuAdam([p], **options)
    optimizer.grads = [np.ones_like(p)]
    if "ask" in call:
        getattr(optimizer, call["ask"])
    elif "graph" in call:
        optimizer.graph()
    else:
        grads = [(np.array([1]), np.ones((1, 8), np.float32))] if call.get("grads") == "rows" else None
        scale = LossScaler(optimizer) if "grad_scale" in call else None
        if scale is not None:
            scale.device = replace(scale.device, kind="cuda")
        optimizer.step(grads, grad_scale=scale, stream=call.get("stream"))


@PROVE
@given(campaigns)
def test_any_combination_gives_the_written_bits(c: Campaign) -> None:
    run(c)
