"""FSDP2 (`fully_shard`) in two processes: the shards, put together, are what one process trains on the whole batch."""

from __future__ import annotations

import re
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
import torch.distributed as dist  # noqa: E402
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.fsdp import MixedPrecisionPolicy  # noqa: E402
from torch.optim.lr_scheduler import ExponentialLR  # noqa: E402

from gpu_adam.torch import Adam  # noqa: E402
from tests.support.torch_training import assert_close, assert_same, batch, loss_of, network, shard, train  # noqa: E402
from tests.support.two_ranks import on_two_ranks  # noqa: E402
from tests.torch.sharding import fully_sharded  # noqa: E402


def expected(steps: int, model: Any = None, max_norm: float | None = None) -> Any:
    model = model or network()
    return train(model, torch.optim.Adam(model.parameters(), lr=0.01), steps, max_norm=max_norm)


def trained(model: Any, steps: int, max_norm: float | None = None, **options: Any) -> Any:
    return train(model, Adam(model.parameters(), lr=0.01, **options), steps, shard(dist.get_rank()), max_norm)


@pytest.mark.parametrize("max_norm", [None, 0.1], ids=["", "clipped"])
@on_two_ranks
def test_every_rank_steps_its_shards(max_norm: float | None) -> None:
    model = fully_sharded(network())
    assert model[0].weight.to_local().shape == (8, 8)
    assert_close(trained(model, 5, max_norm), expected(5, max_norm=max_norm))


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"pack": True}, "use pack=False"),
        ({"max_grad_norm": 1.0}, "use torch.nn.utils.clip_grad_norm_"),
        ({"skip_nonfinite": True}, "use torch.nn.utils.clip_grad_norm_"),
        ({"group_norms": True}, "use torch.nn.utils.clip_grad_norm_"),
    ],
    ids=str,
)
@on_two_ranks
def test_what_needs_whole_parameters_is_refused(options: dict[str, Any], advice: str) -> None:
    model = fully_sharded(network())
    with pytest.raises(ValueError, match=re.escape(advice)):
        trained(model, 1, **options)
    assert_same(model, network())


@on_two_ranks
def test_the_state_is_sharded_as_the_parameters_are() -> None:
    model = fully_sharded(network())
    optimizer = Adam(model.parameters(), lr=0.01)
    train(model, optimizer, 2, shard(dist.get_rank()))
    for p in model.parameters():
        for name in ("exp_avg", "exp_avg_sq"):
            state = optimizer.state[p][name]
            assert state.placements == p.placements
            assert state.device_mesh == p.device_mesh
            assert state.to_local().shape == p.to_local().shape


@pytest.mark.parametrize("shape", [(2, 1), (1, 2)], ids=["replicated", "sharded"])
@on_two_ranks
def test_a_mesh_of_two_dimensions(shape: tuple[int, int]) -> None:
    # Replicated over the first, sharded over the second.
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("replicas", "shards"))
    assert_close(trained(fully_sharded(network(), mesh), 5), expected(5))


@on_two_ranks
def test_clipping_in_the_step_of_what_each_rank_has_whole() -> None:
    mesh = init_device_mesh("cpu", (2, 1), mesh_dim_names=("replicas", "shards"))
    model = trained(fully_sharded(network(), mesh), 5, max_grad_norm=0.1)
    assert_close(model, expected(5, max_norm=0.1))


def uneven() -> Any:
    """Of five rows the ranks have three and two; of a single row the second rank has none."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(8, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1), torch.nn.Linear(1, 4))


@on_two_ranks
def test_shards_that_are_uneven_and_empty() -> None:
    model = fully_sharded(uneven())
    assert any(p.to_local().numel() == 0 for p in model.parameters()) is (dist.get_rank() == 1)
    assert_close(trained(model, 4), expected(4, uneven()))


@on_two_ranks
def test_a_scheduler_and_a_tensor_of_a_learning_rate() -> None:
    model, whole = fully_sharded(network()), network()
    optimizer = Adam(model.parameters(), lr=torch.tensor(0.01))
    peer = torch.optim.Adam(whole.parameters(), lr=0.01)
    schedulers = [ExponentialLR(one, gamma=0.9) for one in (optimizer, peer)]
    for _ in range(4):
        train(model, optimizer, 1, shard(dist.get_rank()))
        train(whole, peer, 1)
        for scheduler in schedulers:
            scheduler.step()
    assert_close(model, whole)


@pytest.mark.parametrize("fused", [None, True], ids=["unscaled by the scaler", "unscaled in the step"])
@on_two_ranks
def test_a_grad_scaler_that_one_rank_makes_skip(fused: bool | None) -> None:
    models, scales = [], []
    for cls in (Adam, torch.optim.Adam):
        model, scaler = fully_sharded(network()), torch.amp.GradScaler("cpu", 2.0**10)
        optimizer = cls(model.parameters(), lr=0.01, fused=fused)
        for k in range(4):
            optimizer.zero_grad()
            loss = scaler.scale(loss_of(model, shard(dist.get_rank())))
            (loss * float("inf") if k == 1 == dist.get_rank() else loss).backward()
            scaler.step(optimizer)
            scaler.update()
        models.append(model)
        scales.append(scaler.get_scale())
    assert scales == [2.0**9, 2.0**9]
    assert_close(*models)


@on_two_ranks
def test_an_optimizer_made_before_the_model_is_sharded() -> None:
    # As Accelerate does it: the groups get the shards in place of the parameters.
    model = network()
    optimizer = Adam(model.parameters(), lr=0.01)
    fully_sharded(model)
    optimizer.param_groups[0]["params"] = list(model.parameters())
    assert_close(train(model, optimizer, 4, shard(dist.get_rank())), expected(4))


@on_two_ranks
def test_a_step_as_soon_as_a_gradient_is_there() -> None:
    model = fully_sharded(network())
    optimizers = {p: Adam([p], lr=0.01) for p in model.parameters()}

    def step(p: Any) -> None:
        optimizers[p].step()
        optimizers[p].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(step)
    for _ in range(4):
        loss_of(model, shard(dist.get_rank())).backward()
    assert_close(model, expected(4))


@on_two_ranks
def test_the_model_is_moved_between_steps() -> None:
    model = fully_sharded(network())
    optimizer = Adam(model.parameters(), lr=0.01)
    for _ in range(3):
        train(model, optimizer, 1, shard(dist.get_rank()))
        model.to("cpu")
    assert_close(model, expected(3))


@on_two_ranks
def test_mixed_precision_as_with_torch_optim() -> None:
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    models = []
    for cls in (Adam, torch.optim.Adam):
        model = fully_sharded(network(), mp_policy=policy)
        models.append(train(model, cls(model.parameters(), lr=0.01), 1, shard(dist.get_rank())))
        assert model[0].weight.dtype == torch.float32
    assert_close(*models)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@on_two_ranks
def test_the_bits_do_not_depend_on_the_shards(dtype: Any) -> None:
    # Both ranks have the whole batch, so that the average of their gradients has no rounding of its own.
    model, whole = fully_sharded(network(dtype=dtype)), network(dtype=dtype)
    train(model, Adam(model.parameters(), lr=1e-3), 20, batch(dtype))
    train(whole, Adam(whole.parameters(), lr=1e-3), 20)
    assert_same(model, whole)
