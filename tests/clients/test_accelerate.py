"""Hugging Face Accelerate: `prepare`, gradient accumulation, clipping, saved states, data parallelism and FSDP2 in two processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
accelerate = pytest.importorskip("accelerate", reason="the extra `clients` is not installed")
import torch.distributed as dist  # noqa: E402
from accelerate.optimizer import AcceleratedOptimizer  # noqa: E402
from accelerate.state import AcceleratorState  # noqa: E402
from accelerate.utils import DistributedType  # noqa: E402
from torch.optim.lr_scheduler import LambdaLR  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

from gpu_adam.torch import Adam  # noqa: E402
from tests.support.torch_training import assert_close, assert_same, batch, loss_of, network, shard, train  # noqa: E402
from tests.support.two_ranks import on_two_ranks  # noqa: E402


def an_accelerator(**options: Any) -> Any:
    """An accelerator with settings of its own: Accelerate keeps those of a process's first one for all later ones."""
    AcceleratorState._reset_state(reset_partial_state=True)
    return accelerate.Accelerator(cpu=True, **options)


def prepared(cls: Any, seed: int = 0, **options: Any) -> tuple[Any, ...]:
    """An accelerator, and what it made of a model, an optimizer, a loader of eight batches and a scheduler."""
    accelerator = an_accelerator(**options)
    model = network(seed)
    optimizer = cls(model.parameters(), lr=0.01)
    scheduler = LambdaLR(optimizer, lambda epoch: 0.9**epoch)
    loader = DataLoader(TensorDataset(*batch()), batch_size=4)
    return accelerator, *accelerator.prepare(model, optimizer, loader, scheduler)


def epoch(accelerator: Any, model: Any, optimizer: Any, loader: Any, scheduler: Any) -> Any:
    for data in loader:
        with accelerator.accumulate(model):
            accelerator.backward(loss_of(model, data))
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    return model


@pytest.mark.parametrize("accumulated", [1, 2, 3])
def test_it_follows_torch_optim(accumulated: int) -> None:
    models, rates = [], []
    for cls in (Adam, torch.optim.Adam):
        accelerator, model, optimizer, loader, scheduler = prepared(cls, gradient_accumulation_steps=accumulated)
        assert isinstance(optimizer, AcceleratedOptimizer)
        models.append(epoch(accelerator, model, optimizer, loader, scheduler))
        rates.append(optimizer.param_groups[0]["lr"])
        steps = -(-8 // accumulated)
        assert [int(state["step"]) for state in optimizer.state_dict()["state"].values()] == [steps] * 4
    assert rates[0] == rates[1]
    assert_close(*models)


def test_bfloat16_by_autocast_follows_torch_optim() -> None:
    models = []
    for cls in (Adam, torch.optim.Adam):
        accelerator, model, optimizer, _, _ = prepared(cls, mixed_precision="bf16")
        accelerator.backward(loss_of(model, batch()))
        optimizer.step()
        models.append(model)
    assert_close(*models)


def test_a_run_is_resumed_from_a_saved_state(tmp_path: Path) -> None:
    first = prepared(Adam, gradient_accumulation_steps=2)
    epoch(*first)
    first[0].save_state(str(tmp_path))
    expected = epoch(*first)
    second = prepared(Adam, seed=1, gradient_accumulation_steps=2)
    second[0].load_state(str(tmp_path))
    assert_same(epoch(*second), expected)


def test_going_back_to_a_saved_state(tmp_path: Path) -> None:
    accelerator, model, *rest = prepared(Adam)
    epoch(accelerator, model, *rest)
    accelerator.save_state(str(tmp_path))
    expected = [p.detach().clone() for p in epoch(accelerator, model, *rest).parameters()]
    accelerator.load_state(str(tmp_path))
    assert all(map(torch.equal, epoch(accelerator, model, *rest).parameters(), expected))


def train_by(accelerator: Any, model: Any, optimizer: Any) -> Any:
    """Four steps, each rank with its half of the batch."""
    for _ in range(4):
        optimizer.zero_grad()
        accelerator.backward(loss_of(model, shard(dist.get_rank())))
        optimizer.step()
    return model


def expected() -> Any:
    model = network()
    return train(model, torch.optim.Adam(model.parameters(), lr=0.01), 4)


@on_two_ranks
def test_data_parallelism() -> None:
    accelerator, model = an_accelerator(), network()
    assert accelerator.num_processes == 2
    assert_close(train_by(accelerator, *accelerator.prepare(model, Adam(model.parameters(), lr=0.01))), expected())


def sharded(kind: str = "SHARDED_STATE_DICT", seed: int = 0) -> tuple[Any, Any, Any]:
    """An accelerator, the network sharded by it as by FSDP2, and the optimizer, which was made before."""
    accelerator = an_accelerator()
    # Accelerate offers it on accelerators only. What it does with the optimizer is the same on a CPU.
    for state in (accelerate.PartialState(), accelerator.state):
        state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = accelerate.FullyShardedDataParallelPlugin(
        fsdp_version=2,
        reshard_after_forward=True,
        auto_wrap_policy="size_based_wrap",
        min_num_params=10,
        state_dict_type=kind,
    )
    model = network(seed)
    model, optimizer = accelerator.prepare(model, Adam(model.parameters(), lr=0.01))
    assert model[0].weight.to_local().shape == (8, 8)
    return accelerator, model, optimizer


@on_two_ranks
def test_fsdp2() -> None:
    assert_close(train_by(*sharded()), expected())


@pytest.mark.parametrize("kind", ["SHARDED_STATE_DICT", "FULL_STATE_DICT"])
@on_two_ranks
def test_fsdp2_is_resumed_from_a_saved_state(kind: str, tmp_path: Path) -> None:
    first = sharded(kind)
    train_by(*first)
    first[0].save_state(str(tmp_path))
    whole = train_by(*first)
    second = sharded(kind, seed=1)
    second[0].load_state(str(tmp_path))
    assert_same(train_by(*second), whole)
