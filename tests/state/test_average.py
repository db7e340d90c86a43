"""The average of the parameters: its value, its bits, its use for evaluation, its place in a saved state."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

from gpu_adam import GpuAdam
from tests.support.reference import DTYPES, assert_same_bits
from tests.support.strategies import tame, values

AVERAGES: list[dict[str, Any]] = [
    {"ema_decay": 0.9},
    {"ema_decay": 0.999},
    {"ema_decay": 0.0},
    {"polyak_average": True},
]


def steps(optimizer: GpuAdam, count: int, seed: int = 1) -> list[list[np.ndarray]]:
    """The parameters after each step."""
    history = []
    for k in range(count):
        optimizer.step([tame(p.dtype, p.size, 10 * seed + k, 2).reshape(p.shape) for p in optimizer.params])
        history.append([p.astype(np.float64) for p in optimizer.params])
    return history


def test_the_exponential_average_is_the_papers() -> None:
    p = values(DTYPES["float64"], 50, 0, 0.0)
    optimizer = GpuAdam([p], lr=0.1, ema_decay=0.9)
    biased = np.zeros(50)
    for t, (theta,) in enumerate(steps(optimizer, 30), start=1):
        biased = 0.9 * biased + 0.1 * theta
        expected = biased / (1 - 0.9**t)
    np.testing.assert_allclose(optimizer.averaged_params[0], expected, rtol=1e-12)


def test_polyaks_average_is_the_mean() -> None:
    p = values(DTYPES["float64"], 50, 0, 0.0)
    optimizer = GpuAdam([p], lr=0.1, polyak_average=True)
    history = [theta for (theta,) in steps(optimizer, 30)]
    np.testing.assert_allclose(optimizer.averaged_params[0], np.mean(history, axis=0), rtol=1e-12)


@pytest.mark.parametrize("average", AVERAGES)
def test_after_one_step_the_average_is_the_parameter(average: dict[str, Any]) -> None:
    p = values(DTYPES["float32"], 50, 0, 0.0)
    optimizer = GpuAdam([p], **average)
    assert_same_bits(optimizer.averaged_params[0], p, "before the first step")
    steps(optimizer, 1)
    assert_same_bits(optimizer.averaged_params[0], p)


@pytest.mark.parametrize("average", AVERAGES)
def test_parameters_that_stand_still_are_their_average(average: dict[str, Any]) -> None:
    p = values(DTYPES["float32"], 50, 0, 0.0)
    optimizer = GpuAdam([p], lr=0.0, **average)
    steps(optimizer, 20)
    assert_same_bits(optimizer.averaged_params[0], p)


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("name", sorted(DTYPES))
def test_averaging_leaves_the_steps_alone(name: str, average: dict[str, Any]) -> None:
    p, q = (values(DTYPES[name], 300, 0, 0.0) for _ in range(2))
    one, other = GpuAdam([p], **average), GpuAdam([q])
    steps(one, 3)
    steps(other, 3)
    assert_same_bits(p, q)


def test_16_bit_parameters_are_averaged_in_float32() -> None:
    p = np.ones(3, np.float16)
    optimizer = GpuAdam([p], lr=1e-5, ema_decay=0.5)
    steps(optimizer, 20)
    (average,) = optimizer.averaged_params
    assert average.dtype == np.float32
    assert (p == 1).all(), "the parameter itself cannot show such small steps"
    assert (average != 1).all()


def test_the_average_has_the_structure_shape_and_library_of_the_parameters() -> None:
    torch = pytest.importorskip("torch")
    params = {"w": torch.ones(3, 4), "b": torch.ones((), dtype=torch.bfloat16)}
    average = GpuAdam(params, ema_decay=0.9).averaged_params
    assert list(average) == ["w", "b"]
    assert average["w"].shape == (3, 4)
    assert average["b"].dtype == torch.float32


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("family", ["numpy", "torch"])
@pytest.mark.parametrize("average", AVERAGES)
def test_swapped_in_for_evaluation_and_out_again(family: str, average: dict[str, Any], pack: bool) -> None:
    params: list[Any] = [values(DTYPES[name], 30, 0, 0.0).reshape(5, 6) for name in ("float32", "float16", "float64")]
    if family == "torch":
        torch = pytest.importorskip("torch")
        params = [torch.from_numpy(p) for p in params]
    optimizer = GpuAdam(params, pack=pack, **average)
    for k in range(3):
        optimizer.step([p * 0.1 + k for p in optimizer.params])
    before = [np.asarray(p).copy() for p in optimizer.params]
    saved = optimizer.state_dict()
    with optimizer.averaged():
        for p, mean in zip(optimizer.params, optimizer.averaged_params, strict=True):
            assert_same_bits(np.asarray(p), np.asarray(mean).astype(np.asarray(p).dtype))
        refused: list[Any] = [
            lambda: optimizer.step([p * 0 for p in optimizer.params]),
            lambda: optimizer.averaged().__enter__(),
            lambda: optimizer.load_state_dict(saved),
            lambda: optimizer.add_param_group({"params": [params[0] * 1]}),
            optimizer.reread_params,
            lambda: copy.deepcopy(optimizer),
            lambda: pickle.dumps(optimizer),
        ]
        for ask in refused:
            with pytest.raises(RuntimeError, match="leave the block"):
                ask()
        inside = optimizer.state_dict()
    for p, q in zip(optimizer.params, before, strict=True):
        assert_same_bits(np.asarray(p), q)
    optimizer.step([p * 0.1 for p in optimizer.params])
    for k, state in saved["state"].items():
        for name, value in state.items():
            assert_same_bits(
                np.asarray(inside["state"][k][name], float), np.asarray(value, float), f"{name} in the block"
            )
    twin = GpuAdam([p if family == "numpy" else torch.from_numpy(p) for p in before], **average)
    twin.load_state_dict(saved)
    twin.step([p * 0.1 for p in twin.params])
    for p, q in zip(optimizer.params, twin.params, strict=True):
        assert_same_bits(np.asarray(p), np.asarray(q), "the master weights know nothing of the swap")


def test_an_error_in_the_block_puts_the_parameters_back() -> None:
    p = np.ones(3, np.float32)
    optimizer = GpuAdam([p], lr=0.5, ema_decay=0.9)
    steps(optimizer, 2)
    before = p.copy()
    with pytest.raises(KeyError), optimizer.averaged():
        raise KeyError
    assert_same_bits(p, before)
    steps(optimizer, 1)


def test_strided_parameters_are_swapped_where_they_are() -> None:
    block = np.ones((6, 8), np.float32)
    optimizer = GpuAdam([block[::2, ::3].T], lr=0.5, ema_decay=0.9)
    steps(optimizer, 2)
    before = block.copy()
    with optimizer.averaged():
        assert (optimizer.averaged_params[0] == block[::2, ::3].T).all()
        assert (block[1::2] == 1).all()
    assert_same_bits(block, before)


@pytest.mark.parametrize("duplicate", ["load", "deepcopy", "pickle"])
@pytest.mark.parametrize("average", AVERAGES)
def test_the_average_is_saved(average: dict[str, Any], duplicate: str) -> None:
    p = values(DTYPES["float16"], 30, 0, 0.0)
    optimizer = GpuAdam([p], **average)
    steps(optimizer, 3)
    if duplicate == "load":
        other = GpuAdam([p.copy()], **average)
        other.load_state_dict(optimizer.state_dict())
    else:
        other = copy.deepcopy(optimizer) if duplicate == "deepcopy" else pickle.loads(pickle.dumps(optimizer))
    steps(optimizer, 2, seed=5)
    steps(other, 2, seed=5)
    assert_same_bits(other.averaged_params[0], optimizer.averaged_params[0])
    assert_same_bits(other.params[0], optimizer.params[0])


def test_a_state_without_an_average_begins_it_with_the_parameters() -> None:
    p = values(DTYPES["float32"], 30, 0, 0.0)
    plain = GpuAdam([p])
    steps(plain, 3)
    optimizer = GpuAdam([p.copy()], ema_decay=0.9)
    optimizer.load_state_dict(plain.state_dict())
    assert_same_bits(optimizer.averaged_params[0], p)


def test_a_state_with_an_average_loads_into_pytorch() -> None:
    torch = pytest.importorskip("torch")
    p = torch.ones(3)
    optimizer = GpuAdam([p], ema_decay=0.9)
    optimizer.step([torch.ones(3)])
    theirs = torch.optim.Adam([torch.ones(3, requires_grad=True)])
    theirs.load_state_dict(optimizer.state_dict())
    assert "average" in theirs.state_dict()["state"][0]


@pytest.mark.parametrize("beta", [1.0, -0.1, float("nan")])
def test_a_decay_out_of_range_is_refused(beta: float) -> None:
    with pytest.raises(ValueError, match=r"ema_decay=.* of the optimizer: must be in \[0, 1\)"):
        GpuAdam([np.ones(3)], ema_decay=beta)


def test_two_averages_at_once_are_refused() -> None:
    with pytest.raises(ValueError, match="choose one of the two"):
        GpuAdam([np.ones(3)], ema_decay=0.9, polyak_average=True)


@pytest.mark.parametrize("ask", [lambda o: o.averaged_params, lambda o: o.averaged().__enter__()])
def test_without_an_average_asking_for_it_says_how_to_have_one(ask: Any) -> None:
    with pytest.raises(RuntimeError, match="ema_decay or polyak_average"):
        ask(GpuAdam([np.ones(3)]))


def test_the_plan_counts_the_averages_bytes() -> None:
    p = np.ones(1000, np.float32)
    assert GpuAdam([p], ema_decay=0.9).plan.bytes_moved == 36 * 1000
    assert GpuAdam([p], ema_decay=0.9, max_grad_norm=1.0).plan.bytes_moved == 40 * 1000


@pytest.mark.parametrize("how", [{}, {"skip_nonfinite": True}])
def test_the_average_of_a_parameter_never_stepped_is_the_parameter(how: dict[str, Any]) -> None:
    p, q = np.ones(3, np.float32), np.ones(3, np.float32)
    optimizer = GpuAdam([p, q], ema_decay=0.9, **how)
    optimizer.step([np.ones(3, np.float32), None])
    q[:] = 7  # as a checkpoint that is loaded
    kept = optimizer.averaged_params[0].copy()
    assert_same_bits(optimizer.averaged_params[1], q)
    with optimizer.averaged():
        assert (q == 7).all()
        assert_same_bits(p, kept)


def test_a_state_dict_in_the_block_leaves_master_weights_alone() -> None:
    torch = pytest.importorskip("torch")
    p = torch.ones(8, dtype=torch.float16)
    optimizer = GpuAdam([p], lr=1e-3, ema_decay=0.9)
    for _ in range(3):
        optimizer.step([torch.ones(8, dtype=torch.float16)])
    before = optimizer.state_dict()["state"][0]["master"]
    with optimizer.averaged():
        p.add_(1.0)
        assert torch.equal(optimizer.state_dict()["state"][0]["master"], before)


@pytest.mark.parametrize("place", range(3))
def test_a_parameter_that_is_reshaped_in_the_block_does_not_cost_the_others_their_values(place: int) -> None:
    params = [np.ones((2, 3), np.float32) * k for k in (1, 2, 3)]
    opt = GpuAdam(params, polyak_average=True)
    for _ in range(3):
        opt.step([p.copy() for p in params])
    before = [p.copy() for p in params]
    with pytest.raises(ValueError, match=r"shape|broadcast"), opt.averaged():
        params[place].shape = (6,)
    for k, (p, kept) in enumerate(zip(params, before, strict=True)):
        assert k == place or np.array_equal(p, kept)
