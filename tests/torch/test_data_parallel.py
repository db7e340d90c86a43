"""Data parallelism in two processes: each rank's half of the batch trains the weights that the whole batch trains in one process."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
import torch.distributed as dist  # noqa: E402
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager  # noqa: E402
from torch.distributed.optim import PostLocalSGDOptimizer, ZeroRedundancyOptimizer  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402
from torch.optim.lr_scheduler import ExponentialLR  # noqa: E402

from gpu_adam.torch import SGD, Adam  # noqa: E402
from tests.support.torch_training import assert_close, network, shard, train  # noqa: E402
from tests.support.two_ranks import on_two_ranks  # noqa: E402


def expected(steps: int, max_norm: float | None = None) -> Any:
    model = network()
    return train(model, torch.optim.Adam(model.parameters(), lr=0.01), steps, max_norm=max_norm)


def assert_equal_on_both_ranks(model: Any) -> None:
    for p in model.parameters():
        both = [torch.empty_like(p) for _ in range(2)]
        dist.all_gather(both, p.detach())
        assert torch.equal(*both)


@pytest.mark.parametrize("max_norm", [None, 0.1])
@pytest.mark.parametrize("options", [{}, {"gradient_as_bucket_view": True}, {"static_graph": True}], ids=str)
@on_two_ranks
def test_distributed_data_parallel(options: dict[str, Any], max_norm: float | None) -> None:
    model = DistributedDataParallel(network(), **options)
    train(model, Adam(model.parameters(), lr=0.01), 5, shard(dist.get_rank()), max_norm)
    assert_equal_on_both_ranks(model)
    assert_close(model, expected(5, max_norm))


@pytest.mark.parametrize("bucket_view", [False, True])
@pytest.mark.parametrize("packed_first", [False, True])
@on_two_ranks
def test_packed_parameters(bucket_view: bool, packed_first: bool) -> None:
    model = network()
    early = Adam(model.parameters(), lr=0.01, pack=True) if packed_first else None
    wrapped = DistributedDataParallel(model, gradient_as_bucket_view=bucket_view)
    optimizer = early or Adam(wrapped.parameters(), lr=0.01, pack=True)
    train(wrapped, optimizer, 5, shard(dist.get_rank()))
    assert_equal_on_both_ranks(model)
    assert_close(model, expected(5))


@pytest.mark.parametrize("bucket_view", [False, True])
@on_two_ranks
def test_an_optimizer_whose_state_is_split_among_the_ranks(bucket_view: bool) -> None:
    model, whole = DistributedDataParallel(network()), network()
    optimizer = ZeroRedundancyOptimizer(
        model.parameters(), optimizer_class=Adam, parameters_as_bucket_view=bucket_view, lr=0.01
    )
    peer = torch.optim.Adam(whole.parameters(), lr=0.01)
    schedulers = [ExponentialLR(one, gamma=0.9) for one in (optimizer, peer)]
    for _ in range(5):
        train(model, optimizer, 1, shard(dist.get_rank()))
        train(whole, peer, 1)
        for scheduler in schedulers:
            scheduler.step()
    assert_equal_on_both_ranks(model)
    assert_close(model, whole)
    optimizer.consolidate_state_dict(to=0)
    if dist.get_rank() == 0:
        saved, expected_state = optimizer.state_dict()["state"], peer.state_dict()["state"]
        for k, state in expected_state.items():
            for name in ("step", "exp_avg", "exp_avg_sq"):
                torch.testing.assert_close(saved[k][name], state[name], rtol=1e-5, atol=1e-7)


@on_two_ranks
def test_an_optimizer_whose_parameters_are_averaged_now_and_then() -> None:
    models = []
    for cls in (Adam, torch.optim.Adam):
        model = network()
        optimizer = PostLocalSGDOptimizer(cls(model.parameters(), lr=0.01), PeriodicModelAverager(period=2))
        train(model, optimizer, 3, shard(dist.get_rank()))
        optimizer.load_state_dict(optimizer.state_dict())
        train(model, optimizer, 3, shard(dist.get_rank()))
        models.append(model)
    assert_close(*models)


@on_two_ranks
def test_averages_of_gradients_by_hand() -> None:
    models = []
    for cls in (SGD, torch.optim.SGD):
        model = network()
        optimizer = cls(model.parameters(), lr=0.01, momentum=0.9)
        optimizer.register_step_pre_hook(
            lambda opt, args, kwargs, model=model: (
                [dist.all_reduce(p.grad, dist.ReduceOp.SUM) for p in model.parameters()] and None
            )
        )
        models.append(train(model, optimizer, 3, shard(dist.get_rank())))
    assert_close(*models)
