"""Tensor parallelism in two processes: each rank has some columns or rows of a weight, and steps them where they lie."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.tensor import Replicate, Shard, distribute_tensor  # noqa: E402
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module  # noqa: E402

from gpu_adam.torch import Adam  # noqa: E402
from tests.support.torch_training import assert_close, network, train  # noqa: E402
from tests.support.two_ranks import on_two_ranks  # noqa: E402


def parallel() -> Any:
    mesh = init_device_mesh("cpu", (2,))
    return parallelize_module(network(), mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})


@pytest.mark.parametrize("max_norm", [None, 0.1], ids=["", "clipped"])
@on_two_ranks
def test_columns_and_rows(max_norm: float | None) -> None:
    model, whole = parallel(), network()
    assert model[0].weight.placements == (Shard(0),)
    assert model[2].weight.placements == (Shard(1),)
    assert model[2].bias.placements == (Replicate(),)
    train(model, Adam(model.parameters(), lr=0.01), 5, max_norm=max_norm)
    train(whole, torch.optim.Adam(whole.parameters(), lr=0.01), 5, max_norm=max_norm)
    assert_close(model, whole)


@on_two_ranks
def test_the_state_has_the_placements_of_the_parameter() -> None:
    model = parallel()
    optimizer = Adam(model.parameters(), lr=0.01)
    train(model, optimizer, 2)
    for p in model.parameters():
        assert optimizer.state[p]["exp_avg"].placements == p.placements
        assert optimizer.state[p]["exp_avg"].to_local().shape == p.to_local().shape


@on_two_ranks
def test_a_gradient_of_other_placements_than_its_parameter() -> None:
    mesh = init_device_mesh("cpu", (2,))
    numbers = torch.arange(10.0).reshape(5, 2)
    weights = []
    for cls in (Adam, torch.optim.Adam):
        p = torch.nn.Parameter(distribute_tensor(torch.ones(5, 2), mesh, [Shard(0)]))
        p.grad = distribute_tensor(numbers, mesh, [Replicate()])
        cls([p], lr=0.01).step()
        weights.append(p.full_tensor().detach())
    torch.testing.assert_close(*weights)
