"""Step counts and coefficients that live on the device: the same bits as the host's, whatever changes between steps."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_adam import GpuAdam, LossScaler, schedules
from tests.support.reference import DTYPES, Options, Reference, assert_same_bits
from tests.support.strategies import FEW, formats, options, tame, values


@FEW
@given(formats, options, st.integers(0, 1000))
def test_coefficients_computed_on_the_device_have_the_hosts_bits(name: str, chosen: Options, seed: int) -> None:
    p = values(DTYPES[name], 40, seed)
    reference = Reference(p)
    optimizer = GpuAdam([p.copy()], **vars(chosen), capturable=True)
    for k in range(3):
        g = values(DTYPES[name], 40, seed + 7 * k + 1)
        optimizer.step([g])
        reference.step(g, chosen)
        assert_same_bits(optimizer.params[0], reference.p, f"step {k + 1}")


@pytest.mark.parametrize("t", [1, 255, 2047, (1 << 24) - 1, 1 << 24, (1 << 40) + 12345])
@pytest.mark.parametrize("name", ["float32", "float64"])
def test_step_counts_do_not_stall_there_either(name: str, t: int) -> None:
    p, q = (values(DTYPES[name], 40, 0, 0.0) for _ in range(2))
    one, other = GpuAdam([p], capturable=True), GpuAdam([q])
    for optimizer in (one, other):
        optimizer.step([np.ones(40, DTYPES[name])])
        saved = optimizer.state_dict()
        saved["state"][0]["step"] = t
        optimizer.load_state_dict(saved)
        optimizer.step([np.ones(40, DTYPES[name])])
    assert_same_bits(p, q)
    assert one.state_dict()["state"][0]["step"] == t + 1


def test_what_is_edited_between_steps_takes_effect() -> None:
    p, q = (values(DTYPES["float32"], 40, 0, 0.0) for _ in range(2))
    one, other = GpuAdam([p], capturable=True), GpuAdam([q])
    edits: list[dict[str, Any]] = [
        {"lr": 0.0}, {"lr": 0.5}, {"betas": (0.5, 0.9)}, {"weight_decay": 0.1}, {"decoupled_weight_decay": True},
        {"maximize": True}, {"eps": 1e-3}, {"eps_hat": True}, {"bias_correction": False}, {"amsgrad": True},
        {"lr": lambda t: 1 / t}, {"lr": np.array(0.25)}, {"weight_decay": lambda t: 0.1 * t},
    ]  # fmt: skip
    for k, edit in enumerate(edits):
        g = tame(DTYPES["float32"], 40, k, 2)
        for optimizer in (one, other):
            optimizer.param_groups[0].update(edit)
            optimizer.step([g])
        assert_same_bits(p, q, str(edit))


SCHEDULES: dict[str, dict[str, Any]] = {
    "lr": {"lr": schedules.inverse_sqrt(0.1)},
    "beta1": {"betas": (schedules.exponential_decay(0.9, 0.99), 0.999)},
    "beta2": {"betas": (0.9, lambda t: 1 - 1 / (t + 1))},
    "weight decay": {"weight_decay": schedules.linear(0.1, 5)},
    "all": {
        "lr": schedules.cosine(0.1, 9, warmup_steps=3),
        "betas": (lambda t: 0.5, lambda t: 0.9),
        "weight_decay": lambda t: 0.01 * t,
        "decoupled_weight_decay": True,
    },
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("how", [{}, {"capturable": True}, {"skip_nonfinite": True}])
def test_a_schedule_is_followed_by_the_steps_that_count(name: str, how: dict[str, Any]) -> None:
    chosen = SCHEDULES[name]
    p = values(DTYPES["float32"], 40, 0, 0.0)
    reference = Reference(p)
    optimizer = GpuAdam([p.copy()], **chosen, **how)
    for t in range(1, 14):
        g = tame(DTYPES["float32"], 40, t, 2)
        if how.get("skip_nonfinite") and t % 4 == 0:
            optimizer.step([np.full(40, np.nan, np.float32)])
        optimizer.step([g])
        at = {key: _at(value, t) for key, value in chosen.items()}
        reference.step(g, Options(**at))
        assert_same_bits(optimizer.params[0], reference.p, f"step {t}")


def _at(value: Any, t: int) -> Any:
    if isinstance(value, tuple):
        return tuple(_at(one, t) for one in value)
    return value(t) if callable(value) else value


@pytest.mark.parametrize("how", [{}, {"capturable": True}])
def test_a_schedule_that_returns_nonsense_is_named_and_changes_nothing(how: dict[str, Any]) -> None:
    p = np.ones(3, np.float32)
    optimizer = GpuAdam([p], lr=lambda t: 0.1 if t < 2 else -1.0, **how)
    optimizer.step([np.ones(3, np.float32)])
    before = optimizer.state_dict()
    kept = p.copy()
    with pytest.raises(ValueError, match=r"lr\(2\)=-1.0 of group 0: must be in"):
        optimizer.step([np.ones(3, np.float32)])
    assert_same_bits(p, kept)
    assert optimizer.state_dict()["state"][0]["step"] == before["state"][0]["step"] == 1


def test_an_edit_is_not_lost_with_a_step_that_a_schedule_refuses() -> None:
    p, q = np.ones(3, np.float32), np.ones(3, np.float32)
    broken = [False]

    def beta1(t: int) -> float:
        return 2.0 if broken[0] else 0.9

    one, other = GpuAdam([p], betas=(beta1, 0.999), capturable=True), GpuAdam([q])
    one.step([np.ones(3, np.float32)])
    other.step([np.ones(3, np.float32)])
    for optimizer in (one, other):
        optimizer.param_groups[0]["eps"] = 0.5
    broken[0] = True
    with pytest.raises(ValueError, match=r"betas\[0\]\(2\)=2.0"):
        one.step([np.ones(3, np.float32)])
    broken[0] = False
    one.step([np.ones(3, np.float32)])
    other.step([np.ones(3, np.float32)])
    assert_same_bits(p, q)


def test_a_beta_of_one_from_a_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match=r"betas\[0\]\(1\)=1.0 of group 0: must be in \[0, 1\)"):
        GpuAdam([np.ones(3)], betas=(lambda t: 1.0, 0.9)).step([np.ones(3)])


def test_steps_change_between_the_host_and_the_device_without_losing_a_count() -> None:
    p, q = (values(DTYPES["float32"], 40, 0, 0.0) for _ in range(2))
    one, other = GpuAdam([p]), GpuAdam([q])
    scaler = LossScaler(one, init_scale=4.0)
    for k in range(9):
        g = tame(DTYPES["float32"], 40, k, 2)
        if k % 3 == 1:
            one.step([g * 4], grad_scale=scaler)
        else:
            one.max_grad_norm = math.inf if k % 3 else None
            one.step([g])
        other.step([g])
        assert_same_bits(p, q, f"step {k}")
    assert one.state_dict()["state"][0]["step"] == 9


@pytest.mark.parametrize("how", [{"capturable": True}, {"skip_nonfinite": True}, {"max_grad_norm": 1.0}])
def test_copies_groups_and_gradients_that_come_and_go_keep_the_counts(how: dict[str, Any]) -> None:
    arrays = [tame(DTYPES[name], 30, k, 2) for k, name in enumerate(("float32", "float16", "float64"))]
    one = GpuAdam([a.copy() for a in arrays[:2]], **how)
    other = GpuAdam([a.copy() for a in arrays[:2]], max_grad_norm=how.get("max_grad_norm"))
    for optimizer in (one, other):
        optimizer.step(arrays[:2])
        optimizer.step([None, arrays[1]])
    one = copy.deepcopy(one)
    for optimizer in (one, other):
        optimizer.add_param_group({"params": [arrays[2].copy()]})
        optimizer.step(arrays)
        optimizer.step([arrays[0], None, arrays[2]])
    for p, q in zip(_flat(one.params), _flat(other.params), strict=True):
        assert_same_bits(p, q)
    assert [state["step"] for state in one.state_dict()["state"].values()] == [3, 3, 2]


def _flat(params: Any) -> list[np.ndarray]:
    return [p for group in params for p in group]


def test_a_cpu_has_no_graphs() -> None:
    optimizer = GpuAdam([np.ones(3)], capturable=True)
    with pytest.raises(RuntimeError, match="CPU has no CUDA graphs"):
        optimizer.graph()
    optimizer.step([np.ones(3)])
    assert optimizer.state_dict()["state"][0]["step"] == 1


@pytest.mark.parametrize(
    "name", ["pack", "group_norms", "skip_nonfinite", "capturable", "polyak_average", "master_weights"]
)
@pytest.mark.parametrize("value", ["no", 1, 0.0])
def test_options_are_true_or_false(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"{name}={value!r}: must be True or False"):
        GpuAdam([np.ones(3)], **{name: value})


def test_a_replay_is_prepared_after_a_step() -> None:
    optimizer = GpuAdam([np.ones(3)], capturable=True)
    with pytest.raises(RuntimeError, match="a step before the capture"):
        optimizer.prepare_replay()
    optimizer.step([np.ones(3)])
    optimizer.prepare_replay()
    with pytest.raises(RuntimeError, match="capturable=True"):
        GpuAdam([np.ones(3)]).prepare_replay()
