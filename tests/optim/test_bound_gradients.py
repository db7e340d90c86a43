"""Gradients that are bound once, by assignment or in buckets, and read again in every step."""

from __future__ import annotations

import numpy as np
import pytest

from gpu_adam import GpuAdam
from tests.optim.unchanged import ones, refused


def test_bound_gradients_are_read_again_every_step() -> None:
    p, g = ones(3), ones(3)
    optimizer = GpuAdam([p])
    optimizer.grads = [g]
    optimizer.step()
    first = p.copy()
    g *= -100
    optimizer.step()
    assert (p > first).all()
    optimizer.zero_grad()
    assert not g.any()
    optimizer.step([-g])  # others in between
    optimizer.step()
    assert optimizer.grads[0] is g
    assert optimizer.state_dict()["state"][0]["step"] == 4


def test_binding_a_wrong_gradient_is_refused() -> None:
    optimizer = GpuAdam({"p": ones(3)})

    def bind() -> None:
        optimizer.grads = {"p": ones(4)}

    refused(optimizer, bind, ValueError, r"the gradient of parameter 'p' has shape \(4,\): must be \(3,\)")


def test_a_step_that_no_gradient_can_come_to_is_refused() -> None:
    p = ones(3)
    optimizer = GpuAdam([p])
    assert optimizer.grads == [None]
    for _ in range(2):
        with pytest.raises(ValueError, match=r"there are no gradients: call step\(grads\), or assign opt.grads"):
            optimizer.step()
    optimizer.step([None])
    assert (p == 1).all()


def test_the_state_of_another_kind_of_optimizer_is_refused() -> None:
    torch = pytest.importorskip("torch")
    optimizer = GpuAdam([ones(3)])
    with pytest.raises(
        ValueError, match=r"group 0 of state_dict lacks .*betas.*: it is that of another kind of optimizer"
    ):
        optimizer.load_state_dict(torch.optim.SGD([torch.zeros(3)], lr=0.5).state_dict())
    assert optimizer.param_groups[0]["lr"] == 1e-3


def test_packing_hands_out_views_that_are_what_is_updated() -> None:
    a, b = ones(2, 3), np.ones(5, np.float16)
    optimizer = GpuAdam({"a": a, "b": b}, pack=True, lr=0.25, eps=0.0)
    assert {name: (p.shape, p.dtype) for name, p in optimizer.params.items()} == {
        "a": ((2, 3), a.dtype),
        "b": ((5,), b.dtype),
    }
    optimizer.grads["a"][...] = 1
    optimizer.grads["b"][...] = -1
    optimizer.step()
    assert (optimizer.params["a"] == 0.75).all()
    assert (optimizer.params["b"] == 1.25).all()
    assert (a == 1).all()
    optimizer.zero_grad()
    assert not optimizer.grads["a"].any()
    optimizer.step({"a": None, "b": np.ones(5)})  # others than the bound ones
    assert [s["step"] for s in optimizer.state_dict()["state"].values()] == [1, 2]


def test_packed_gradients_cannot_be_replaced() -> None:
    optimizer = GpuAdam([ones(3)], pack=True)
    with pytest.raises(ValueError, match="pack=True binds its own gradients"):
        optimizer.grads = [ones(3)]


class Exported:
    """An array of a library that nobody knows, which speaks DLPack and takes assignments, and no more."""

    def __init__(self, memory: np.ndarray) -> None:
        self.memory = memory
        self.__dlpack__, self.__dlpack_device__ = memory.__dlpack__, memory.__dlpack_device__

    def __setitem__(self, key: object, value: object) -> None:
        self.memory[key] = value


class Filled(Exported):
    def fill(self, value: float) -> None:
        self.memory.fill(value)


@pytest.mark.parametrize("kind", [Exported, Filled])
def test_bound_gradients_of_an_unknown_library_are_cleared(kind: type[Exported]) -> None:
    gradient = kind(ones(3))
    optimizer = GpuAdam([ones(3)])
    optimizer.grads = [gradient]
    optimizer.step()
    optimizer.zero_grad()
    assert not gradient.memory.any()
