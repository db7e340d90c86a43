"""torch tensors that are swapped, freed or given otherwise between steps are followed, or refused before anything has changed."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from gpu_adam import GpuAdam

torch = pytest.importorskip("torch", reason="torch is not installed")
from tests.optim.torch_models import parameters, set_gradients  # noqa: E402


@pytest.mark.parametrize("pack", [False, True], ids=["in place", "packed"])
def test_a_gradient_whose_data_is_swapped_is_followed(pack: bool) -> None:
    p, q = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(3))
    optimizer, expected = GpuAdam([p], lr=0.1, pack=pack), GpuAdam([q], lr=0.1)
    for k in range(3):
        if p.grad is None:
            p.grad = torch.zeros(3)
        p.grad.data = torch.full((3,), 1.0 - k)  # as some distributed wrappers do
        q.grad = torch.full((3,), 1.0 - k)
        optimizer.step()
        expected.step()
        assert torch.equal(p, q)


def test_memory_swapped_under_a_parameter_is_followed() -> None:
    p, q = torch.nn.Parameter(torch.ones(300)), torch.nn.Parameter(torch.ones(300))
    moving, staying = GpuAdam([p], lr=0.1), GpuAdam([q], lr=0.1)
    left_behind = []
    for seed in range(4):
        set_gradients([p], seed)
        set_gradients([q], seed)
        moving.step()
        staying.step()
        assert torch.equal(p, q)
        left_behind.append((p.data, p.data.clone()))
        p.data = torch.cat((torch.zeros(1 + seed), p.data))[1 + seed :]  # another alignment each time
    assert all(torch.equal(now, then) for now, then in left_behind)


def test_many_parameters_swapped_at_once_are_followed() -> None:
    params, twins = parameters(), parameters()
    optimizer, other = GpuAdam(params), GpuAdam(twins)
    for seed in range(3):
        for p in params:
            p.data = p.data.clone()
        set_gradients(params, seed)
        set_gradients(twins, seed)
        optimizer.step()
        other.step()
    assert all(torch.equal(p, q) for p, q in zip(params, twins, strict=True))


@pytest.mark.parametrize(
    ("swap", "message"),
    [
        (lambda p: torch.ones(4), r"parameter 'p' was float32 \(2, 3\) on cpu and is now float32 \(4,\)"),
        (lambda p: torch.ones(2, 3).double(), r"parameter 'p' was float32 .* and is now float64"),
        (lambda p: torch.ones(3, 2).t(), "parameter 'p' now lies in memory in another order"),
        (lambda p: p.as_strided((2, 3), (1, 2)), "parameter 'p' now lies in memory in another order"),
        (lambda p: torch.ones(1).expand(2, 3), "parameter 'p' has shape"),
    ],
    ids=["shape", "dtype", "order", "order at the same address", "broadcast"],
)
def test_a_swap_that_cannot_be_followed_is_refused_and_changes_nothing(swap: Any, message: str) -> None:
    p, q = torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.ones(2))
    optimizer = GpuAdam({"q": q, "p": p})
    set_gradients([p, q], 0)
    optimizer.step()
    own, steps, q_before = p.data, optimizer.state_dict()["state"], q.detach().clone()
    p.data = swap(own)
    with pytest.raises(ValueError, match=message):
        optimizer.step()
    p.data = own
    assert torch.equal(q, q_before)
    assert optimizer.state_dict()["state"][1]["step"] == steps[1]["step"]
    optimizer.step()
    assert not torch.equal(q, q_before)


def test_tying_two_parameters_between_steps_is_refused() -> None:
    p, q = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = GpuAdam({"p": p, "q": q})
    set_gradients([p, q], 0)
    optimizer.step()
    q.data = p.data
    with pytest.raises(ValueError, match="parameter 'p' and parameter 'q' are the same array"):
        optimizer.step()


FREED = """
import torch
from gpu_adam import GpuAdam
p = torch.nn.Parameter(torch.ones(8))
optimizer = GpuAdam({{"p": p}})
p.grad = torch.ones(8)
optimizer.step()
{what}.untyped_storage().resize_(0)
try:
    optimizer.step()
except ValueError as error:
    print(error)
"""


@pytest.mark.parametrize("what", ["p.data", "p.grad"])
def test_memory_that_was_freed_is_refused(what: str) -> None:
    # In a process of its own: where this fails, it ends the process.
    done = subprocess.run([sys.executable, "-c", FREED.format(what=what)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "parameter 'p' has no memory" in done.stdout


def test_a_gradient_of_other_strides_updates_the_parameter_itself() -> None:
    p, q = torch.nn.Parameter(torch.zeros(4, 6)), torch.nn.Parameter(torch.zeros(4, 6))
    values = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    strided, plain = GpuAdam([p]), GpuAdam([q])
    for gradient in (values.t().contiguous().t(), values, values.expand(4, 6), values[:, :1].expand(4, 6)):
        strided.step([gradient])
        plain.step([gradient.contiguous()])
        assert torch.equal(p, q)


def test_a_sparse_gradient_of_another_shape_is_refused_also_after_a_dense_one() -> None:
    p = torch.nn.Parameter(torch.ones(3, 3))
    optimizer = GpuAdam({"p": p})
    for _ in range(2):
        with pytest.raises(ValueError, match=r"the gradient of parameter 'p' has shape \(3, 4\): must be \(3, 3\)"):
            optimizer.step([torch.eye(3, 4).to_sparse()])
        optimizer.step([torch.eye(3)])


def test_a_lazily_negated_gradient_is_refused_and_not_read_with_the_wrong_sign() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    lazy = torch.ones(3, dtype=torch.complex64).mul(1j).conj().imag
    optimizer = GpuAdam({"p": p})
    with pytest.raises(ValueError, match=r"the gradient of parameter 'p' is a lazy negation .* resolve_neg"):
        optimizer.step([lazy])
    optimizer.step([torch.ones(3)])
    with pytest.raises(ValueError, match="lazy negation"):
        optimizer.step([lazy])
    optimizer.step([lazy.resolve_neg()])


@pytest.mark.parametrize(
    "tensor",
    [torch.ones(3, dtype=torch.int32), torch.ones(3, dtype=torch.complex64), torch.ones(3, dtype=torch.float8_e4m3fn)],
    ids=lambda tensor: str(tensor.dtype),
)
def test_other_dtypes_are_refused(tensor: Any) -> None:
    with pytest.raises(
        TypeError, match=rf"parameter 'p' has dtype {str(tensor.dtype)[6:]}, which is not supported: use one of float64"
    ):
        GpuAdam({"p": tensor})


def test_tensors_that_share_memory_are_refused() -> None:
    weight = torch.ones(4, 4)
    with pytest.raises(ValueError, match="parameter 'a' and parameter 'b' overlap in memory"):
        GpuAdam({"a": weight[:2], "b": weight[1:]})
    GpuAdam({"a": weight[:, :2], "b": weight[:, 2:]})  # interleaved, and no element shared
