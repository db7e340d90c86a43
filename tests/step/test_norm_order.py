"""The norm is summed in the order in which a parameter lies in memory: arrays of one order agree in every bit, copies and pickles too."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpu_adam import GpuAdam
from tests.support.reference import DTYPES
from tests.support.strategies import laid_out
from tests.support.torch_tensors import as_torch

torch = pytest.importorskip("torch")

Array = NDArray[Any]


def drawn(seed: int) -> tuple[Array, tuple[int, ...], tuple[Any, ...]]:
    """Values, the order of their dimensions in memory, and a layout of that order with gaps and reversed dimensions."""
    rng = np.random.default_rng(seed)
    ndim = int(rng.integers(1, 5))
    shape = tuple(rng.integers(1, 9, ndim).tolist())
    order = tuple(rng.permutation(ndim).tolist())
    gaps, flips = tuple(rng.integers(1, 3, ndim).tolist()), tuple((rng.random(ndim) < 0.3).tolist())
    format = str(rng.choice(["float64", "float32", "bfloat16"]))
    numbers = (rng.standard_normal(shape) * 10.0 ** rng.uniform(-3, 3, shape)).astype(DTYPES[format])
    return numbers, order, (order, gaps, flips, int(rng.integers(5)))


def dense(numbers: Array, order: tuple[int, ...]) -> Array:
    return np.ascontiguousarray(numbers.transpose(order)).transpose(np.argsort(order))


def trained(opts: list[Any], seed: int, shape: tuple[int, ...], steps: int = 3) -> list[Any]:
    """Bits of each optimizer's parameter, states and norm after some clipped steps on the same gradients."""
    left = []
    for opt in opts:
        rng = np.random.default_rng(seed)
        for _ in range(steps):
            (param,) = opt.params
            grad = (rng.standard_normal(shape) * 10.0 ** rng.uniform(-3, 3, shape)).astype(np.float32)
            opt.step([torch.from_numpy(grad) if isinstance(param, torch.Tensor) else grad])
        (param,) = opt.params
        entry = opt.state_dict()["state"][0]
        arrays = [param, *(entry[key] for key in sorted(entry) if key != "step"), opt.grad_norm]
        left.append([np.ascontiguousarray(as_numpy(one)).tobytes() for one in arrays])
    return left


def as_numpy(array: Any) -> Array:
    if isinstance(array, torch.Tensor):
        array = array.detach()
        return array.view(torch.int16).numpy() if array.dtype == torch.bfloat16 else array.numpy()
    return np.asarray(array)


def as_tensor(array: Array) -> Any:
    return torch.nn.Parameter(as_torch(array))


COPIES: dict[str, Callable[[Any], Any]] = {
    "pickled": lambda opt: pickle.loads(pickle.dumps(opt)),
    "pickled, protocol 2": lambda opt: pickle.loads(pickle.dumps(opt, 2)),
    "copied": copy.deepcopy,
    "pickled twice": lambda opt: pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(opt)))),
}


@pytest.mark.parametrize("pack", [False, True], ids=["in place", "packed"])
@pytest.mark.parametrize("seed", range(10))
def test_arrays_in_the_same_order_agree_whatever_their_gaps(seed: int, pack: bool) -> None:
    numbers, order, layout = drawn(seed)
    views = [
        dense(numbers, order),
        laid_out(numbers, layout),
        laid_out(numbers, (order, layout[1], (False,) * numbers.ndim, 0)),
    ]
    opts = [GpuAdam([view], lr=0.1, max_grad_norm=0.5, pack=pack) for view in views]
    opts.append(GpuAdam([dense(numbers, order)], lr=0.1, max_grad_norm=0.5, pack=not pack))
    first, *others = trained(opts, seed, numbers.shape)
    for other in others:
        assert other == first


@pytest.mark.parametrize("pack", [False, True], ids=["in place", "packed"])
@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("how", COPIES)
def test_a_copy_goes_on_as_if_it_had_not_been_made(how: str, library: str, pack: bool) -> None:
    for seed in range(5):
        numbers, order, layout = drawn(seed)
        # PyTorch has no negative strides.
        param = dense(numbers, order) if library == "torch" or seed % 2 else laid_out(numbers, layout)
        opt = GpuAdam([as_tensor(param) if library == "torch" else param], lr=0.1, max_grad_norm=0.5, pack=pack)
        trained([opt], seed, numbers.shape)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            twin = COPIES[how](opt)
        one, other = trained([opt, twin], seed + 100, numbers.shape)
        assert one == other


@pytest.mark.parametrize("how", COPIES)
def test_an_array_that_is_pickled_beside_the_optimizer_stays_its_parameter(how: str) -> None:
    for seed in range(10):
        numbers, order, _ = drawn(seed)
        param = dense(numbers, order)
        opt = GpuAdam({"w": param}, lr=0.1, max_grad_norm=0.5)
        opt.step({"w": np.ones_like(param)})
        array, twin, again = COPIES[how]((param, opt, [param]))
        assert array is again[0]
        assert array is twin.params["w"]
        twin.step({"w": np.ones_like(param)})
        opt.step({"w": np.ones_like(param)})
        assert np.array_equal(array, param)
