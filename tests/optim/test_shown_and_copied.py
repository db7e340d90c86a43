"""What `repr` and the plan show of an optimizer, and copies of it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpu_adam import GpuAdam
from tests.optim.unchanged import everything, ones


def test_repr_tells_engine_packing_and_hyperparameters() -> None:
    text = repr(GpuAdam([{"params": [ones(2)], "lr": 0.5}, {"params": []}], betas=(0.5, 0.9)))
    assert text.startswith("GpuAdam(engine=cpu, pack=False)\n  group 0: 1 parameters, lr=0.5, betas=(0.5, 0.9)")
    assert "group 1: 0 parameters, lr=0.001" in text


def test_the_plan_prints_buckets_and_launches() -> None:
    text = str(GpuAdam([ones(300), np.ones(5, np.float16)]).plan)
    assert text.splitlines()[0] == "step: 2 launches, 305 elements, 8,540 bytes (28.0 a parameter)"
    assert "bucket cpu float16 with float32 master weights: 1 segments, 5 elements" in text
    assert "adam_multi_tensor_float32_float32 on cpu: 1 tensors, 300 elements" in text


def test_looking_at_the_plan_changes_nothing() -> None:
    optimizer = GpuAdam([ones(3)])
    before = everything(optimizer)
    assert str(optimizer.plan) == str(optimizer.plan)
    assert everything(optimizer) == before


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"]
)
def test_copies_go_their_own_way_on_the_same_bits(duplicate: Callable[[Any], Any], pack: bool) -> None:
    rng = np.random.default_rng(0)
    params = {"a": ones(4), "b": np.ones((2, 3), np.float16).T, "c": ones(0)}
    optimizer = GpuAdam(params, pack=pack, amsgrad=True, lr=0.01)
    gradients = [{k: rng.standard_normal(p.shape) for k, p in params.items()} for _ in range(4)]
    optimizer.step(gradients[0])
    twin = duplicate(optimizer)
    assert repr(twin) == repr(optimizer)
    for gradient in gradients[1:]:
        optimizer.step(gradient)
    assert (np.array(twin.params["a"]) != np.array(optimizer.params["a"])).all()
    for gradient in gradients[1:]:
        twin.step(gradient)
    assert everything(twin) == everything(optimizer)


def test_a_copy_keeps_bound_gradients_and_added_groups() -> None:
    p, q, g = ones(3), ones(2), ones(3)
    optimizer = GpuAdam([p])
    optimizer.add_param_group({"params": {"q": q}, "lr": 0.5})
    optimizer.grads = [[g], {"q": None}]
    other, (twin_g,) = copy.deepcopy((optimizer, (g,)))
    twin_g[...] = -1
    other.step()
    assert other.params[0][0][0] > 1
    assert (p == 1).all()
    assert other.param_groups[1]["lr"] == 0.5


def test_a_plan_is_shown_as_it_is_printed() -> None:
    plan = GpuAdam([np.ones(3, np.float32)]).plan
    assert repr(plan) == str(plan)
